"""Data that stays where it is: found by tags, shared by its owner, and released by policy alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sharetorch as st
from sharetorch.mpc.errors import (
    GetNotPermittedError,
    MalformedRequestError,
    ObjectNotFoundError,
    ReleaseRefusedError,
)
from sharetorch.mpc.tensor.shared import SharedTensor
from sharetorch.remote.audit import Audit, Call
from sharetorch.remote.network.audit_file import AuditFile, verify
from sharetorch.remote.network.control import Control
from tests.network.tools import WorkerProcess, names_free, start_group

ROWS, COLUMNS = 400, 6
UNIT = 2.0**-16
X = (torch.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) * 37 % 251 - 125) / 64
WEIGHTS = torch.tensor([[0.5, -0.25, 1.0, 0.125, 0.0, -0.75]])
Y = X @ WEIGHTS.t()
MEMBERS = ("alice", "bob", "carol", "crypto_provider")
OTHERS = torch.full((ROWS, COLUMNS), 0.5)


class Net(NamedTuple):
    """Workers with data of their own, and connections of the driver "me" to them."""

    processes: dict[str, WorkerProcess]
    folder: Path
    alice: Any
    bob: Any
    carol: Any
    provider: Any

    def share(self, handle: Any, *parties: Any, **options: Any) -> Any:
        """What its owner shares between two parties."""
        return handle.share(*(parties or (self.alice, self.bob)), crypto_provider=self.provider, **options).get()

    def refusals(self, worker: str) -> list[tuple[str, str, str]]:
        """Sender, request and outcome of what a worker refused."""
        path = self.folder / f"{worker}.audit"
        assert verify(path).problem is None
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [
            (line["sender"], line["request"], line["outcome"])
            for line in lines
            if line.get("outcome", "done") != "done"
        ]


def _saved(folder: Path, name: str, data: Tensor, target: Tensor | None = None) -> str:
    arrays = {"x": data.numpy()} | ({} if target is None else {"y": target.numpy()})
    np.savez(folder / f"{name}.npz", **arrays)
    return str(folder / f"{name}.npz")


def _layers() -> list[Tensor]:
    torch.manual_seed(8)
    model = nn.Sequential(nn.Linear(COLUMNS, 5), nn.ReLU(), nn.Linear(5, 3))
    return [parameter.detach() for parameter in model.parameters()]


def _sources(folder: Path) -> dict[str, dict[str, Any]]:
    numbers = _saved(folder, "numbers", X, Y)
    mine = {"release_to": ["me"]}

    def entry(name: str, policy: dict[str, Any] | None, path: str = numbers, **more: Any) -> dict[str, Any]:
        return {"path": path, "name": name, "tags": [f"#{name}"], "policy": policy, "columns": ["x"], **more}

    layers = [
        entry(f"layer{place}", mine | {"outputs": ["argmax"]}, _saved(folder, f"layer{place}", layer))
        for place, layer in enumerate(_layers())
    ]
    return {
        "alice": {
            "sources": [
                entry("numbers", mine | {"min_rows": 100}, target="y", tags=["#numbers", "#train"]),
                entry("scored", mine | {"outputs": ["argmax", "mean"]}),
                entry("small", mine | {"max_elements": 10}),
                entry("private", None),
                entry("bobs", {"release_to": ["*"], "compute": ["bob"]}),
                entry("carols", {"release_to": ["carol"]}),
            ]
        },
        "bob": {"sources": [entry("others", mine | {"min_rows": 300}, _saved(folder, "others", OTHERS)), *layers]},
        "carol": {
            "sources": [
                entry("trusting", mine | {"min_rows": 100, "parties": ["alice", "bob"]}),
                entry("wary", mine),
            ]
        },
    }


@pytest.fixture(scope="module")
def net(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    folder = tmp_path_factory.mktemp("owners")
    each = _sources(folder)
    for name in MEMBERS:
        each.setdefault(name, {})["audit"] = folder / f"{name}.audit"
    group = start_group(MEMBERS, keys, each, sessions=True)
    with names_free(*MEMBERS):
        made = Net(group, folder, *(group[name].connect() for name in MEMBERS))
        yield made
        for worker in made[2:]:
            worker.close()
    for process in group.values():
        process.stop()


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Everything this process receives meanwhile."""
    found: list[bytes] = []
    take = Control._take

    def listen(self: Control, message: bytes) -> None:
        found.append(bytes(message))
        take(self, message)

    monkeypatch.setattr(Control, "_take", listen)
    return found


def find(worker: Any, *tags: str) -> Any:
    (found,) = worker.search(*tags)
    return found


def refused(act: Callable[[], Any], text: str = "may not have a result") -> None:
    with pytest.raises(ReleaseRefusedError, match=text):
        act()


# --------------------------------------------------------------------------------------------------- finding, sharing


def test_a_search_gives_handles(net: Net) -> None:
    (x,), (y,) = net.alice.search("#train", "#data"), net.alice.search("#train", "#target")
    assert {x.id, y.id} == {found.id for found in net.alice.search("#numbers", "#train")}
    assert (x.location, x.shape, y.shape) == (net.alice, (ROWS, COLUMNS), (ROWS, 1))
    assert net.alice.search(["#numbers"], "#target")[0].id == y.id
    assert net.alice.search("#numbers", "#wary") == []


def test_the_driver_sees_neither_value_nor_share(net: Net, heard: list[bytes]) -> None:
    handle = find(net.alice, "#numbers", "#data")
    shared = net.share(handle)
    assert isinstance(shared, SharedTensor) and shared.shape == X.shape
    total = (shared * shared).sum()
    shared.session.sync()
    received = b"".join(heard)
    assert len(received) < X.numel() * 8 / 4  # a share of it has eight bytes for each element
    rows = [row for row in X if row.count_nonzero() > 3]
    for form in (X.numpy(), (X * 2**16).long().numpy()):
        assert not any(form[place].tobytes() in received for place in range(len(rows)))
    assert abs(total.get() - (X * X).sum()) < ROWS * COLUMNS * UNIT * 4


def test_two_owners_and_the_driver_compute_together(net: Net) -> None:
    x, other = net.share(find(net.alice, "#numbers", "#data")), net.share(find(net.bob, "#others"))
    mine = torch.ones(ROWS, COLUMNS).share(net.alice, net.bob, crypto_provider=net.provider)
    total = (x + other + mine).sum(0)
    refused(total.get, "surely aggregate 1 row")  # rows of two owners belong together by nobody's word
    total = x.sum(0) + other.sum(0) + mine.sum(0)
    assert torch.allclose(total.get(), X.sum(0) + 1.5 * ROWS, atol=ROWS * UNIT)
    part = x.sum(0) + other[:200].sum(0)
    refused(part.get, "surely aggregate 200 row")  # the stricter policy counts


def test_an_owner_that_is_no_party_shares_with_parties_it_trusts(net: Net) -> None:
    shared = net.share(find(net.carol, "#trusting"))
    assert torch.allclose(shared.mean(0).get(), X.mean(0), atol=8 * UNIT)
    refused(shared[0].get)


def test_parties_that_are_not_trusted_get_nothing(net: Net) -> None:
    kept = torch.tensor([2.5]).share(net.alice, net.bob, crypto_provider=net.provider)
    with pytest.raises(GetNotPermittedError, match=r"carol does not share .* among alice, bob: together they could"):
        net.share(find(net.carol, "#wary"))
    with pytest.raises(GetNotPermittedError, match="together they could open it"):
        find(net.carol, "#trusting").share(net.alice, net.provider, crypto_provider=net.bob)
    assert ("me", "invoke contribute", "GetNotPermittedError") in net.refusals("carol")
    assert (kept * 2).get().item() == 5  # the session goes on
    shared = net.share(find(net.carol, "#wary"), net.carol, net.bob)  # the owner is a party: nothing opens without it
    assert torch.allclose(shared.get(), X, atol=UNIT)


def test_options_of_the_encoding(net: Net) -> None:
    handle = find(net.alice, "#carols")
    shared = net.share(handle, precision=20, requires_grad=True)
    assert shared.encoding.precision == 20 and shared.requires_grad
    with pytest.raises(MalformedRequestError, match="options"):
        net.share(handle, colour=1)
    small = torch.tensor([1.0]).share(net.alice, net.bob, crypto_provider=net.provider)
    assert small.get().item() == 1


# ------------------------------------------------------------------------------------------------------------- release


def test_nothing_is_released_by_default(net: Net) -> None:
    shared = net.share(find(net.alice, "#private"))
    for result in (shared, shared.mean(), (shared * 0).sum(), shared.argmax()):
        refused(result.get, "allow results to nobody")
    with pytest.raises(GetNotPermittedError):
        find(net.alice, "#private").get()
    with pytest.raises(GetNotPermittedError):
        find(net.alice, "#numbers", "#data").mean().get()  # what leaves without shares is nobody's either
    assert ("me", "session output", "ReleaseRefusedError") in net.refusals("alice")
    assert ("me", "fetch", "GetNotPermittedError") in net.refusals("alice")


def test_results_go_to_those_the_policy_names(net: Net, keys: Path) -> None:
    refused(net.share(find(net.alice, "#carols")).mean().get, "allow results to carol")
    driver = [net.processes[name].connect("carol") for name in ("alice", "bob", "crypto_provider")]
    try:
        shared = find(driver[0], "#carols").share(*driver[:2], crypto_provider=driver[2]).get()
        assert abs(shared.mean().get() - X.mean()) < 8 * UNIT
    finally:
        for worker in driver:
            worker.close()
        for worker in net[2:]:
            worker.enter_local_worker_registry()


def test_a_policy_says_which_outputs(net: Net) -> None:
    shared = net.share(find(net.alice, "#scored"))
    scores = shared @ torch.eye(COLUMNS)
    assert torch.equal(scores.argmax(1).get(), X.argmax(1))
    refused(scores.get, "made by matmul, and outputs allowed are argmax, mean")
    refused(shared.get, "made by source")
    refused(scores.max(1).values.get, "made by max")
    assert torch.allclose(shared.mean(0).get(), X.mean(0), atol=8 * UNIT)


def test_a_policy_says_how_many_rows(net: Net) -> None:
    shared = net.share(find(net.alice, "#numbers", "#data"))
    assert torch.allclose(shared.mean(0).get(), X.mean(0), atol=8 * UNIT)
    assert torch.allclose(shared[:100].sum(0).get(), X[:100].sum(0), atol=ROWS * UNIT)
    selector = torch.zeros(1, ROWS)
    selector[0, 7] = 1
    for few in (shared, shared[0], shared[:99].mean(0), shared[::5].sum(0), selector @ shared, shared.cumsum(0)[-1]):
        refused(few.get, "surely aggregate")
    assert torch.allclose(shared.mean(0).get(), X.mean(0), atol=8 * UNIT)


def test_what_was_computed_before_it_was_shared_falls_under_all_policies_of_its_owner(net: Net) -> None:
    handle = find(net.carol, "#wary")
    for derived in (handle[7:8], handle.mean(0), handle * 1):
        shared = net.share(derived, net.carol, net.bob)
        refused(shared.get, "surely aggregate 1 row")  # rows are counted from when it is shared on
        with pytest.raises(GetNotPermittedError, match="together they could open it"):
            net.share(derived)
    refused(net.share(find(net.alice, "#numbers", "#data") * 1).sum(0).get, "allow results to nobody")


def test_a_policy_says_how_many_elements(net: Net) -> None:
    shared = net.share(find(net.alice, "#small"))
    assert torch.allclose(shared.sum(0).get(), X.sum(0), atol=ROWS * UNIT)
    refused(shared.sum(1).get, "400 elements, and 10 are allowed")


def test_who_may_compute(net: Net) -> None:
    assert net.alice.search("#bobs") == []
    worker = net.processes["alice"].connect("bob")
    try:
        number = find(worker, "#bobs").id
    finally:
        worker.close()
        net.alice.enter_local_worker_registry()
    assert net.alice.search(number) == []
    with pytest.raises(ObjectNotFoundError):
        st.local_worker.request_obj(number, net.alice)
    known = find(net.alice, "#small")
    known.handle.number = number
    with pytest.raises(ObjectNotFoundError):
        net.share(known)
    assert net.share(find(net.alice, "#small"))[0].get().shape == (COLUMNS,)  # the session goes on


# ---------------------------------------------------------------------------------------------- training and inference


def test_training_on_the_owners_data_and_releasing_the_weights(net: Net) -> None:
    def train(model: nn.Module, x: Any, y: Any) -> list[Any]:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.5)
        losses = []
        for _ in range(8):
            optimizer.zero_grad()
            loss = ((model(x) - y) ** 2).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return losses

    torch.manual_seed(3)
    model, plain = nn.Linear(COLUMNS, 1), nn.Linear(COLUMNS, 1)
    plain.load_state_dict(model.state_dict())
    expected = [loss.item() for loss in train(plain, X, Y)]
    x, y = (net.share(find(net.alice, "#train", part)) for part in ("#data", "#target"))
    model.share(net.alice, net.bob, crypto_provider=net.provider)
    losses = train(model, x, y)
    refused(model(x).get, "surely aggregate 1 row")
    refused(((model(x) - y) ** 2)[3].get, "surely aggregate 1 row")
    assert [loss.get().item() for loss in losses] == pytest.approx(expected, abs=2e-3)
    model.get()
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-3)


def test_private_inference_with_the_model_of_another_owner(net: Net, heard: list[bytes]) -> None:
    """The model is bob's, the images are the driver's; the driver learns classes, and no score and no weight."""
    weights = [net.share(find(net.bob, f"#layer{place}")) for place in range(4)]
    images = torch.randn(32, COLUMNS)
    x = images.share(net.alice, net.bob, crypto_provider=net.provider)

    def logits(x: Any, w1: Any, b1: Any, w2: Any, b2: Any) -> Any:
        return F.linear(F.relu(F.linear(x, w1, b1)), w2, b2)

    scores = logits(x, *weights)
    expected = logits(images, *_layers())
    sure = expected.topk(2).values.diff().abs().flatten() > 0.01
    assert torch.equal(scores.argmax(1).get()[sure], expected.argmax(1)[sure])
    refused(scores.get, "outputs allowed are argmax")
    for weight in weights:
        refused(weight.get, "outputs allowed are argmax")
    received = b"".join(heard)
    assert not any(layer.numpy().tobytes() in received for layer in _layers())


# --------------------------------------------------------------------------------------------------------------- audit


def test_requests_that_are_served_at_the_same_time_are_audited_one_after_the_other(tmp_path: Path) -> None:
    """Requests to the node and every session have threads of their own."""
    audit, file = Audit(), AuditFile(tmp_path / "audit", "alice", sync_seconds=None)
    audit.sinks.append(file)

    def note() -> None:
        for _ in range(300):
            audit.note(Call("me"), "done")

    threads = [threading.Thread(target=note) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file.close()
    assert verify(tmp_path / "audit").problem is None and file.head().lines == 6 * 300 + 1
