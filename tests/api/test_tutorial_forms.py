"""The forms in which the tutorials write things: fixed precision, shares in the workers' stores, reprs, whole flows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim

import sharetorch as sy
from tests.tensor.tools import ALICE, BOB, CAROL, PROVIDER, UNIT, assert_same, objects

hook = sy.TorchHook(torch)
BOTH: dict[str, Any] = {"crypto_provider": PROVIDER}


def test_round_trip_in_one_line():
    x = torch.tensor([0.1, 0.2, -0.3])
    back = x.fix_precision().share(ALICE, BOB, crypto_provider=PROVIDER).get().float_precision()
    assert_same(back, x, 1e-7)
    assert back.dtype == torch.float32


def test_hook():
    assert hook.local_worker is sy.local_worker
    assert sy.local_worker.id == "me"
    assert sy.TorchHook(torch).torch is torch


def test_no_method_of_torch_is_replaced():
    for name in ("get", "share", "copy", "fix_precision"):
        assert getattr(torch.Tensor, name).__module__.startswith("sharetorch.")
    for name in ("add", "view", "sum", "clone", "backward", "__add__"):
        assert "sharetorch" not in str(getattr(getattr(torch.Tensor, name), "__module__", ""))


# ------------------------------------------------------------------------------------------------- fixed precision

FIXED: list[tuple[Any, float]] = [
    (lambda: torch.tensor([2.113]).fix_prec(precision_fractional=2) ** 2, 4.45),
    (lambda: torch.tensor([2.113]).fix_prec() * torch.tensor([-0.113]).fix_prec(), -0.238),
    (lambda: torch.tensor([2.1]).fix_prec() + torch.tensor([1.05]).fix_prec(), 3.15),
    (lambda: torch.tensor([2.1]).fix_prec() - 3, -0.9),
    (lambda: 1 - torch.tensor([0.25]).fix_prec(), 0.75),
    (lambda: 0.5 + torch.tensor([0.25]).fix_prec(), 0.75),
    (lambda: torch.tensor([3.0]).fix_prec() * 2, 6.0),
    (lambda: 0.5 * torch.tensor([3.0]).fix_prec(), 1.5),
    (lambda: torch.tensor([9.0]).fix_prec() / 2, 4.5),
    (lambda: torch.tensor([9.0]).fix_prec() / torch.tensor([2.0]).fix_prec(), 4.5),
    (lambda: 10 / torch.tensor([4.0]).fix_prec(), 2.5),
    (lambda: torch.tensor([3.0]).fix_prec() ** 3, 27.0),
    (lambda: torch.tensor([[1.0, 2.0]]).fix_prec() @ torch.tensor([[0.5], [0.25]]).fix_prec(), 1.0),
    (lambda: torch.tensor([3.0, 4.0]).fix_prec().sum(), 7.0),
    (lambda: torch.tensor([3.0, 4.0]).fix_prec().mean(), 3.5),
    (lambda: torch.tensor([-3.0]).fix_prec().relu(), 0.0),
    (lambda: torch.tensor([1.0, 5.0, 2.0]).fix_prec().argmax(), 1.0),
    (lambda: torch.tensor([1.0]).fix_prec() > torch.tensor([0.5]).fix_prec(), 1.0),
    (lambda: torch.tensor([0.5]).fix_prec(precision_fractional=16, base=2) * 0.5, 0.25),
]


@pytest.mark.parametrize("case", range(len(FIXED)))
def test_fixed_precision_arithmetic(case):
    make, expected = FIXED[case]
    result = make()
    assert isinstance(result, sy.FixedPrecisionTensor)
    assert abs(float(result.float_precision()) - expected) < 1e-6


@pytest.mark.parametrize("case", range(len(FIXED)))
def test_fixed_precision_arithmetic_in_shares(case, monkeypatch):
    """The same lines on shares: truncation is unbiased there, so the last digit may differ by one or two."""
    make, expected = FIXED[case]
    plain = torch.Tensor.fix_prec
    monkeypatch.setattr(torch.Tensor, "fix_prec", lambda x, *a, **k: plain(x, *a, **k).share(ALICE, BOB, **BOTH))
    result = make()
    assert type(result) is sy.SharedTensor
    assert abs(float(result.get().float_precision()) - expected) <= (0.021 if case == 0 else 0.003)


def test_what_fixed_precision_holds():
    x = torch.tensor([0.1, 2.113, -0.0005]).fix_precision()
    assert x.child.tolist() == [100, 2113, 0]
    assert repr(x) == "FixedPrecisionTensor>tensor([ 100, 2113,    0])"
    assert x.float_prec().dtype == torch.float32
    assert torch.tensor([1.5]).fix_precision(precision_fractional=2).child.tolist() == [150]
    assert torch.tensor([3]).fix_precision().float_precision().item() == 3.0
    assert torch.tensor([1.5]).fix_precision().item() == 1.5


def test_in_place_forms():
    x = torch.tensor([1.0, 2.0])
    kept = x
    x.fix_precision_()
    assert isinstance(kept, sy.FixedPrecisionTensor)
    x.float_precision_()
    assert kept.tolist() == [1.0, 2.0]
    x.share_(ALICE, BOB, **BOTH)
    assert isinstance(kept, sy.SharedTensor)
    assert kept.get().tolist() == [1.0, 2.0]


def test_fixed_precision_operands_beside_shared_ones():
    x, y = torch.tensor([2.0]).fix_prec(), torch.tensor([3.0]).fix_prec().share(ALICE, BOB, **BOTH)
    assert_same(torch.cat([x, y]).get().float_precision(), torch.tensor([2.0, 3.0]), 1e-6)
    for result, expected in ((x * y, 6.0), (y * x, 6.0), (x + y, 5.0), (y - x, 1.0), (x - y, -1.0), (x > y, 0.0)):
        assert abs(result.get().float_precision().item() - expected) <= 0.002


# ---------------------------------------------------------------------------------------------- tutorial 9: shares


def test_integers_shared_directly():
    x = torch.tensor([25, -3])
    assert x.share(BOB, ALICE, CAROL, **BOTH).get().tolist() == [25, -3]


def test_default_provider_is_the_driver_with_a_warning():
    with pytest.warns(sy.DriverIsProviderWarning, match="name a worker of a third party") as caught:
        x = torch.tensor([25]).share(BOB, ALICE, CAROL)
    assert caught[0].filename == __file__
    assert x.crypto_provider is sy.local_worker
    with pytest.warns(sy.DriverIsProviderWarning):
        nn.Linear(1, 1).share(BOB, ALICE)


def test_raw_shares_in_the_stores():
    for worker in (ALICE, BOB, CAROL):
        worker.clear_objects()
    x = torch.tensor([25]).share(BOB, ALICE, CAROL, **BOTH)
    shares = [list(worker._objects.values())[0] for worker in (BOB, ALICE, CAROL)]
    assert shares[0].dtype == torch.int64
    assert sum(shares).tolist() == [25]
    modulus = x.child.field
    assert modulus == 2**64
    assert (sum(shares) % modulus).tolist() == [25]
    assert torch.remainder(sum(shares), modulus).tolist() == [25]
    assert BOB._tensors.keys() == BOB._objects.keys()


def test_shares_in_a_prime_field():
    for worker in (ALICE, BOB, CAROL):
        worker.clear_objects()
    q = 2**31 - 1
    x = torch.tensor([25, -4]).share(BOB, ALICE, CAROL, field=q, **BOTH)
    shares = [list(worker._objects.values())[0] for worker in (BOB, ALICE, CAROL)]
    assert all(bool(((share >= 0) & (share < q)).all()) for share in shares)
    assert x.child.field == q
    assert (sum(shares) % x.child.field).tolist() == [25, q - 4]
    assert (x + x).get().tolist() == [50, -8]
    assert (x * x).get().tolist() == [625, 16]
    assert (x - 5).get().tolist() == [20, -9]
    assert (3 * x).get().tolist() == [75, -12]


@pytest.mark.parametrize("parties", [(BOB, ALICE), (BOB, ALICE, CAROL)], ids=["two", "three"])
def test_arithmetic_of_integers(parties):
    x, y = (torch.tensor(v).share(*parties, **BOTH) for v in ([25, 1], [5, -7]))
    for result, expected in (
        (x + y, [30, -6]),
        (x - y, [20, 8]),
        (x * y, [125, -7]),
        (y + 20, [25, 13]),
        (3 * x, [75, 3]),
        (-x, [-25, -1]),
        (x.sum(), 26),
        ((x.view(2, 1) @ y.view(1, 2)), [[125, -175], [5, -7]]),
    ):
        assert result.get().tolist() == expected


def test_comparisons_with_two_holders():
    x, y = (torch.tensor(v).share(BOB, ALICE, **BOTH) for v in ([25, 5], [5, 5]))
    assert (x > y).get().tolist() == [1, 0]
    assert (x <= y).get().tolist() == [0, 1]
    assert (x == y).get().tolist() == [0, 1]
    assert (x == y + 20).get().tolist() == [1, 0]


def test_maxima():
    x = torch.tensor([[2, 3], [4, 1]]).share(BOB, ALICE, **BOTH)
    assert x.max().get().tolist() == 4
    values, ids = x.max(dim=0)
    assert values.get().tolist() == [4, 3]
    assert ids.get().tolist() == [1, 0]
    assert x.max(dim=0).get().tolist() == [4, 3]
    fixed = torch.tensor([[2.0, 3.0], [4.0, 1.0]]).fix_prec().share(BOB, ALICE, **BOTH)
    assert fixed.max(dim=0).get().float_prec().tolist() == [4.0, 3.0]
    assert fixed.max(dim=0).indices.get().float_prec().tolist() == [1.0, 0.0]
    assert fixed.argmax(dim=1).get().float_prec().tolist() == [1.0, 0.0]


# --------------------------------------------------------------------------------------------------- what prints


def test_reprs():
    x = torch.tensor([1.0]).fix_precision().share(ALICE, BOB, **BOTH)
    lines = repr(x).split("\n")
    number = x.handle.number
    assert lines[0] == "FixedPrecisionTensor>[AdditiveSharingTensor]"
    assert lines[1] == f"\t-> [PointerTensor | me:{number} -> alice:{number}]"
    assert lines[2] == f"\t-> [PointerTensor | me:{number} -> bob:{number}]"
    assert lines[3] == "\t*crypto provider: crypto_provider*"
    x.requires_grad_(True)
    assert repr(x).startswith("AutogradTensor>FixedPrecisionTensor>[AdditiveSharingTensor]")
    model = nn.Linear(1, 1).fix_precision().share(ALICE, BOB, **BOTH)
    assert repr(model.bias).startswith("Parameter>AutogradTensor>FixedPrecisionTensor>[AdditiveSharingTensor]")
    assert repr(torch.tensor([1]).share(ALICE, BOB, **BOTH)).startswith("[AdditiveSharingTensor]")
    assert repr(sy.VirtualWorker(hook, id="somebody")) == "<VirtualWorker id:somebody #objects:0>"


# ------------------------------------------------------------------------------------- tutorials 11, 12, 12bis: flows


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(16, 8)
        self.fc2 = nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        x = x.view(-1, 16)
        return self.fc2(F.relu(self.fc1(x)))


def private(x: torch.Tensor, **options: Any) -> Any:
    return x.fix_precision(**options).share(ALICE, BOB, crypto_provider=PROVIDER, requires_grad=True)


def test_inference_with_counting():
    torch.manual_seed(1)
    model, data = Net(), torch.randn(12, 4, 4)
    target = model(data).argmax(dim=1)
    target[0] = (target[0] + 1) % 3
    model.fix_precision().share(ALICE, BOB, crypto_provider=PROVIDER)
    correct = 0
    for rows in (slice(0, 6), slice(6, 12)):
        x = data[rows].fix_precision().share(ALICE, BOB, crypto_provider=PROVIDER)
        y = target[rows].fix_precision().share(ALICE, BOB, crypto_provider=PROVIDER)
        output = model(x)
        pred = output.argmax(dim=1)
        correct = correct + pred.eq(y.view_as(pred)).sum()
    assert correct.copy().get().float_precision().long().item() == 11
    assert correct.get().float_precision().item() == 11.0


def test_training_with_secret_data_and_model():
    data = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1.0]])
    target = torch.tensor([[0], [0], [1], [1.0]])
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    plain = copy.deepcopy(model)
    data_s, target_s = private(data), private(target)
    model = model.fix_precision().share(ALICE, BOB, crypto_provider=PROVIDER, requires_grad=True)
    opt = optim.SGD(params=model.parameters(), lr=0.1).fix_precision()
    plain_opt = optim.SGD(params=plain.parameters(), lr=0.1)
    losses = []
    for _ in range(8):
        for m, o, x, y in ((model, opt, data_s, target_s), (plain, plain_opt, data, target)):
            o.zero_grad()
            loss = ((m(x) - y) ** 2).sum()
            loss.backward()
            o.step()
            losses.append(loss)
    shared_losses = [loss.get().float_precision().item() for loss in losses[::2]]
    plain_losses = [loss.item() for loss in losses[1::2]]
    assert shared_losses[-1] < shared_losses[0] / 4
    for one, other in zip(shared_losses, plain_losses, strict=True):
        assert abs(one - other) < 0.05
    model.get().float_precision()
    assert_same(model.weight, plain.weight, 0.02)


def test_training_with_refresh_and_division():
    torch.manual_seed(2)
    model = Net().fix_precision(precision_fractional=3).share(ALICE, BOB, crypto_provider=PROVIDER, requires_grad=True)
    optimizer = optim.SGD(model.parameters(), lr=0.1).fix_precision()
    data, target = torch.randn(8, 16), F.one_hot(torch.arange(8) % 3).float()
    batch, losses = 8, []
    x, y = private(data), private(target)
    before = None
    for _ in range(6):
        optimizer.zero_grad()
        output = model(x)
        loss = ((output - y) ** 2).sum().refresh() / batch
        loss.backward()
        optimizer.step()
        losses.append(loss.get().float_precision().item())
        del output, loss
        optimizer.zero_grad()
        before = before or objects()
    assert losses[-1] < losses[0] * 0.8
    assert objects() == before
    assert "FixedPrecisionTensor" in repr(model.fc2.bias)


def test_zero_plus_shared_and_python_sum():
    x = torch.tensor([1.0, 2.0]).share(ALICE, BOB, **BOTH)
    assert_same(0 + x, torch.tensor([1.0, 2.0]))
    assert_same(sum([x, x, x]), torch.tensor([3.0, 6.0]))


def test_encrypt_and_decrypt():
    x = torch.tensor([0.1, -2.0])
    secret = x.encrypt(workers=[ALICE, BOB], crypto_provider=PROVIDER, precision_fractional=4)
    assert isinstance(secret, sy.SharedTensor)
    assert_same(secret.decrypt(), x, 1e-4)
    model = nn.Linear(2, 1)
    plain = copy.deepcopy(model)
    model.encrypt(workers=[ALICE, BOB], crypto_provider=PROVIDER, precision_fractional=4)
    assert_same(model(secret).decrypt(), plain(x), 1e-3)
    model.decrypt()
    assert_same(model.weight, plain.weight, 1e-4)


def test_float_precision_of_data_shared_without_it():
    x = torch.tensor([0.5]).share(ALICE, BOB, **BOTH)
    assert_same(x.float_precision(), torch.tensor([0.5]))
    assert torch.tensor([1, 2]).float_precision().dtype == torch.float32


# ------------------------------------------------------------------------------------------------------ workers


def test_workers_by_name():
    one = sy.VirtualWorker(hook, id="one")
    assert sy.VirtualWorker(id="one") is one
    assert sy.VirtualWorker().id != sy.VirtualWorker().id
    with pytest.raises(TypeError, match="colour"):
        sy.VirtualWorker(id="one", colour="red")

    class Other(sy.VirtualWorker):
        pass

    with pytest.raises(RuntimeError, match="choose another id"):
        Other(id="one")


def test_clearing_a_worker():
    x = torch.tensor([1.0]).share(ALICE, BOB, **BOTH)
    assert ALICE.clear_objects() is ALICE
    with pytest.raises(sy.exceptions.ObjectGoneError, match="alice"):
        x.get()
    with pytest.raises(sy.exceptions.ObjectGoneError, match="Share the data again"):
        x + 1


def test_shared_tensors_know_their_holders():
    x = torch.tensor([1.0]).share(ALICE, BOB, **BOTH)
    assert x.locations == [ALICE, BOB]
    assert x.crypto_provider is PROVIDER


def test_precision_of_results():
    x = torch.tensor([1 / 3]).share(ALICE, BOB, **BOTH)
    assert_same(x, torch.tensor([1 / 3]), UNIT / 2 + 1e-8)
    y = torch.tensor([1 / 3]).share(ALICE, BOB, precision=20, **BOTH)
    assert_same(y * y, torch.tensor([1 / 9]), 2.0**-19)
