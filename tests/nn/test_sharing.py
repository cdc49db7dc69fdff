"""``model.share()`` and its relatives: identity, ties, what is refused, and nothing half done."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import sharetorch as st
from tests.tensor.tools import ALICE, BOB, HOLDERS, PROVIDER, UNIT, assert_same, objects, share


def holders() -> dict[str, Any]:
    return {"crypto_provider": PROVIDER}


def test_share_and_get_in_place():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    plain = copy.deepcopy(model)
    parameters, buffer = list(model.parameters()), model[1].running_mean
    assert model.share(*HOLDERS, **holders()) is model
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert model[1].running_mean is buffer
    assert all(isinstance(p, st.SharedTensor) and isinstance(p, nn.Parameter) for p in parameters)
    assert isinstance(buffer, st.SharedTensor)
    assert model[1].num_batches_tracked.dtype == torch.int64
    assert not isinstance(model[1].num_batches_tracked, st.SharedTensor)
    assert model.get() is model
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    for one, other in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert not isinstance(one, st.SharedTensor)
        assert_same(one, other, UNIT)
    assert all(p.requires_grad for p in model.parameters())
    assert_same(model(torch.ones(4, 3)), plain(torch.ones(4, 3)), 2**-10)


def test_sharing_again_after_get():
    model = nn.Linear(3, 2)
    for _ in range(2):
        model.share(*HOLDERS, **holders())
        model.get()
    assert not isinstance(model.weight, st.SharedTensor)


def test_sharing_twice_is_refused_and_changes_nothing():
    model = nn.Linear(3, 2).share(*HOLDERS, **holders())
    weight = model.weight.get()
    with pytest.raises(st.exceptions.UnsupportedOperationError, match="shared already"):
        model.share(*HOLDERS, **holders())
    assert_same(model.weight, weight)


def test_tied_parameters_stay_tied():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Linear(4, 4, bias=False)
            self.decode = nn.Linear(4, 4, bias=False)
            self.decode.weight = self.encode.weight

        def forward(self, x: Any) -> Any:
            return self.decode(self.encode(x).relu())

    plain = Tied()
    model = copy.deepcopy(plain).share(*HOLDERS, **holders())
    assert model.encode.weight is model.decode.weight
    x = torch.randn(5, 4)
    plain(x).sum().backward()
    model(share(x)).sum().backward()
    assert_same(model.encode.weight.grad, plain.encode.weight.grad, 30 * UNIT)
    copied = model.copy()
    assert copied.encode.weight is copied.decode.weight
    model.get()
    assert model.encode.weight is model.decode.weight


def test_copies_are_independent():
    model = nn.Linear(3, 2).share(*HOLDERS, **holders())
    weight = model.weight.get()
    copied = model.copy()
    with torch.no_grad():
        copied.weight += 1
    assert isinstance(copied.weight, nn.Parameter)
    assert_same(model.weight, weight)
    assert_same(copied.weight, weight + 1)
    assert copied.weight.requires_grad


def test_all_unsupported_layers_at_once_before_anything_is_shared():
    model = nn.Sequential(
        nn.Linear(3, 3),
        nn.Sigmoid(),
        nn.LSTM(3, 3),
        nn.Sequential(nn.Softmax(1)),
        nn.Conv2d(1, 1, 1, padding_mode="reflect"),
        nn.MaxPool2d(2, ceil_mode=True),
    )
    before = objects()
    with pytest.raises(st.exceptions.UnsupportedLayersError) as caught:
        model.share(*HOLDERS, **holders())
    message = str(caught.value)
    for part in (
        "1: Sigmoid",
        "2: LSTM",
        "3.0: Softmax",
        "4: Conv2d",
        "padding_mode",
        "5: MaxPool2d",
        "nn.ReLU",
        "5 layer",
    ):
        assert part in message
    assert not any(isinstance(p, st.SharedTensor) for p in model.parameters())
    assert objects() == before


def test_the_users_own_modules_are_compositions():
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Any) -> Any:
            return x * self.scale

    model = nn.ModuleDict({"mine": Mine(), "list": nn.ModuleList([nn.Linear(2, 2)])}).share(*HOLDERS, **holders())
    assert_same(model["mine"](share(torch.ones(2))), torch.full((2,), 2.0))


def test_subclasses_of_layers_are_accepted_as_compositions():
    class MyLinear(nn.Linear):
        pass

    assert isinstance(MyLinear(2, 2).share(*HOLDERS, **holders()).weight, st.SharedTensor)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e15])
def test_weights_that_cannot_be_encoded_leave_the_model_alone(value):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].bias[0] = value
    before = objects()
    with pytest.raises(st.exceptions.EncodingError):
        model.share(*HOLDERS, **holders())
    assert not any(isinstance(p, st.SharedTensor) for p in model.parameters())
    assert objects() == before


def test_wrong_members_leave_the_model_alone():
    model = nn.Linear(2, 2)
    for parties, provider in (
        ((ALICE,), PROVIDER),
        ((ALICE, ALICE), PROVIDER),
        ((ALICE, BOB), BOB),
        ((ALICE, "bob"), PROVIDER),
    ):
        with pytest.raises(st.exceptions.MembersError):
            model.share(*parties, crypto_provider=provider)
    assert not isinstance(model.weight, st.SharedTensor)


def test_a_model_without_parameters():
    model = nn.ReLU().share(*HOLDERS, **holders())
    assert_same(model(share(torch.tensor([-1.0, 1.0]))), torch.tensor([0.0, 1.0]))


def test_a_parameter_in_use_by_a_graph():
    model = nn.Linear(2, 2)
    loss = model(torch.ones(1, 2)).sum()
    model.share(*HOLDERS, **holders())  # the graph keeps what it needs
    assert isinstance(model.weight, st.SharedTensor)
    del loss


def test_state_dict_of_a_shared_model():
    """It holds the shared tensors; saving them is refused, loading from a shared or a plain one works."""
    model, other = (nn.Linear(3, 2).share(*HOLDERS, **holders()) for _ in range(2))
    state = model.state_dict()
    assert all(isinstance(value, st.SharedTensor) for value in state.values())
    other.load_state_dict(state)
    assert_same(other.weight, model.weight.get())
    plain = nn.Linear(3, 2)
    other.load_state_dict(plain.state_dict())
    assert_same(other.weight, plain.weight, UNIT)
    with pytest.raises(st.exceptions.RevealError, match="get"):
        torch.save(state, "/dev/null")
    with pytest.raises(RuntimeError, match="plain tensor"):
        plain.load_state_dict(state)


def test_gradients_of_the_former_kind_are_dropped():
    model = nn.Linear(2, 2)
    model(torch.ones(1, 2)).sum().backward()
    model.share(*HOLDERS, **holders())
    assert model.weight.grad is None


def test_fix_precision_and_back():
    model = nn.Linear(2, 2)
    plain = copy.deepcopy(model)
    assert model.fix_precision() is model
    assert isinstance(model.weight, st.FixedPrecisionTensor)
    assert model.weight.requires_grad
    model.share(*HOLDERS, **holders())
    assert isinstance(model.weight, st.SharedTensor)
    assert not isinstance(model.weight, st.FixedPrecisionTensor)
    model.get()
    assert isinstance(model.weight, st.FixedPrecisionTensor)
    assert model.float_precision() is model
    assert type(model.weight) is nn.Parameter
    assert_same(model.weight, plain.weight, 1e-3)


def test_moving_and_converting():
    model = nn.Linear(2, 2).share(*HOLDERS, **holders())
    model.to("cpu")
    model.double()
    assert isinstance(model.weight, st.SharedTensor)
    model.float()
    assert_same(model(share(torch.zeros(1, 2))), model.bias.get().reshape(1, 2))
    model.eval().train().requires_grad_(False)
    assert not model.weight.requires_grad
    assert "Linear" in repr(model)
    assert sum(p.numel() for p in model.parameters()) == 6
