"""Encrypted training is saved by every member and resumed by a group that was started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sharetorch as st
from sharetorch.mpc.errors import (
    CheckpointError,
    MalformedRequestError,
    NetworkError,
    ReleaseRefusedError,
    SessionEndedError,
)
from sharetorch.mpc.labels import Label, source
from sharetorch.mpc.network.identity import Identity
from sharetorch.mpc.policy import Policy
from sharetorch.mpc.session import new_id
from sharetorch.mpc.share import reconstruct
from sharetorch.mpc.tensor.sharing import sessions
from sharetorch.remote.network.client import NetworkedWorker
from sharetorch.remote.network.server import WorkerServer
from sharetorch.remote.network.settings import Address, NetworkSettings
from sharetorch.remote.node import Limits, Node
from sharetorch.remote.sessions import checkpoint_state, checkpointing, checkpoints
from sharetorch.remote.sessions.checkpointing import load_checkpoint, save_checkpoint
from sharetorch.remote.sessions.driver import NetworkedSession
from sharetorch.remote.sessions.hosting import SessionHost
from sharetorch.remote.sessions.messages import Checkpoints, ListCheckpoints, Load, Loaded, Save, Saved

BOUND = 2.0**-10
"""Difference of losses that fixed-point rounding may make."""

IDS = ("alice", "bob", "crypto_provider")


class Worker(NetworkedWorker):
    """A worker outside the registry of names, which other tests use, too."""

    session_type = NetworkedSession


class Group:
    """Workers on the network, served by this process, each with a state folder of its own.

    Attributes:
        workers: connections to them by the driver.
        hosts: their sessions.
    """

    def __init__(self, keys: Path, state: Path | None, driver: str = "me", ids: tuple[str, ...] = IDS) -> None:
        self.keys, self.state = keys, state
        self.hosts: list[Any] = []
        self.servers = [self._serve(id) for id in ids]
        self.workers = [self.connect(n, driver) for n in range(len(ids))]

    def _serve(self, id: str) -> WorkerServer:
        identity, node = Identity.load(self.keys, id), Node(id)
        host: Any = SessionHost(node, identity, NetworkSettings())
        host.state = None if self.state is None else self.state / id
        self.hosts.append(host)
        return WorkerServer(node, identity, "127.0.0.1", 0, NetworkSettings(), host).start()

    def connect(self, rank: int, driver: str) -> Any:
        """Another connection to a worker."""
        server = self.servers[rank]
        return Worker(Address(*server.address[:2]), server.identity.id, Identity.load(self.keys, driver)).connect()

    def files(self, name: str, rank: int) -> list[Path]:
        """What a member has written, the oldest first."""
        assert self.state is not None
        id = self.servers[rank].identity.id
        return sorted((self.state / id / "checkpoints" / id / name).iterdir())

    def member(self, session: Any, rank: int) -> Any:
        """What a member holds of a session."""
        return self.hosts[rank]._sessions[session.id]._member

    def stop(self) -> None:
        """End all, and let no other test meet these sessions."""
        for key, session in list(sessions._open.items()):
            if isinstance(session, NetworkedSession):
                del sessions._open[key]
        for worker in self.workers:
            worker.close()
        for server in self.servers:
            server.stop()


@pytest.fixture
def start(keys: Path, tmp_path: Path) -> Iterator[Callable[..., Group]]:
    """Starts groups that find what earlier ones of the same test have written."""
    started: list[Group] = []

    def run(**options: Any) -> Group:
        started.append(Group(keys, **{"state": tmp_path, **options}))
        return started[-1]

    yield run
    for group in started:
        group.stop()


@pytest.fixture
def group(start: Callable[..., Group]) -> Group:
    return start()


def shared(x: Any, group: Group, **options: Any) -> Any:
    *parties, provider = group.workers
    return x.share(*parties, crypto_provider=provider, **options)


def load(name: str, group: Group, model: Any = None, optimizer: Any = None, **options: Any) -> dict[str, Any]:
    *parties, provider = group.workers
    return load_checkpoint(name, model, optimizer, *parties, crypto_provider=provider, **options)


def small_model() -> nn.Sequential:
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
    return model


def momentum(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(16, 6, generator=generator), torch.rand(16, 2, generator=generator)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Any, y: Any, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.get().item())
    return losses


def sizes(x: Any, group: Group) -> list[int]:
    """How many objects each member holds, after what was forgotten has been forgotten there, too."""
    for _ in range(3):
        (x + 1).get()
    x.session.sync()
    return [len(group.member(x.session, rank).store) for rank in range(3)]


def close(one: list[float], other: list[float]) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) <= BOUND


# --------------------------------------------------------------------------------------------------------- resuming


def test_a_restarted_group_resumes_with_the_same_result(group: Group, start: Callable[..., Group]) -> None:
    x, y = (shared(part, group) for part in batch())
    model = shared(small_model(), group)
    optimizer = momentum(model)
    first = train(model, optimizer, x, y, 3)
    save_checkpoint("mlp", model, optimizer, step=3, batch=[x, y])
    weights = [parameter.get() for parameter in model.parameters()]
    then = train(model, optimizer, x, y, 4)
    group.stop()

    again = start()
    optimizer = momentum(model := small_model())
    extra = load("mlp", again, model, optimizer)
    assert extra["step"] == 3
    assert all(torch.equal(old, new.get()) for old, new in zip(weights, model.parameters(), strict=True))
    resumed = train(model, optimizer, *extra["batch"], 4)
    assert close(resumed, then)
    assert not close(resumed[:3], first)
    fresh = momentum(small := small_model())
    load("mlp", again, small, None)
    assert not close(train(small, fresh, *extra["batch"], 4), then)  # momentum was part of the state


def test_the_objects_of_a_driver_that_lost_its_group_go_on(group: Group, start: Callable[..., Group]) -> None:
    x, y = batch()
    model = shared(small_model(), group)
    optimizer = momentum(model)
    shares = shared(x, group), shared(y, group)
    train(model, optimizer, *shares, 2)
    save_checkpoint("mlp", model, optimizer)
    then = train(model, optimizer, *shares, 3)
    group.stop()
    with pytest.raises(NetworkError):
        train(model, optimizer, *shares, 3)
    del shares

    again = start()
    before = list(model.parameters())
    load("mlp", again, model, optimizer)
    assert all(old is new for old, new in zip(before, model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in before)
    assert close(train(model, optimizer, shared(x, again), shared(y, again), 3), then)


def test_a_session_that_goes_on_can_go_back(group: Group) -> None:
    model = shared(small_model(), group)
    optimizer = momentum(model)
    x, y = (shared(part, group) for part in batch())
    save_checkpoint("mlp", model, optimizer)
    one = train(model, optimizer, x, y, 2)
    load("mlp", group, model, optimizer)
    assert close(train(model, optimizer, x, y, 2), one)


def test_every_share_is_the_same_bit_for_bit(group: Group, start: Callable[..., Group]) -> None:
    x = shared(torch.randn(3, 5), group)
    view = x.t()[1:]
    _ = (x * x).get()
    save_checkpoint("x", x=x, view=view)
    old = [group.member(x.session, rank).get(x.handle.number).data.clone() for rank in range(2)]
    raw = [group.member(x.session, rank).get(view.handle.number).data.clone() for rank in range(2)]
    expected = x.get(), view.get()
    session_id, numbers = x.session.id, {x.handle.number, view.handle.number}
    group.stop()

    again = start()
    found = load("x", again)
    x, view = found["x"], found["view"]
    assert x.session.id != session_id and numbers.isdisjoint({x.handle.number, view.handle.number})
    for tensor, due, shares in ((x, expected[0], old), (view, expected[1], raw)):
        assert torch.equal(tensor.get(), due)
        held = [again.member(x.session, rank).get(tensor.handle.number) for rank in range(2)]
        assert all(torch.equal(new.data, share) for new, share in zip(held, shares, strict=True))
        assert torch.equal(reconstruct(shares, x.session.ring), reconstruct([h.data for h in held], x.session.ring))
        assert all(new.masked is None and new.root.masked is None for new in held)
    assert again.member(x.session, 2).get(x.handle.number).data.is_meta
    assert torch.allclose((x * x).get(), expected[0] ** 2, atol=2**-10)


KINDS: dict[str, Callable[[Any], Any]] = {
    "reals": lambda share: share(torch.tensor([1.5, -2.25])),
    "double": lambda share: share(torch.tensor([[0.125]], dtype=torch.float64), precision=20),
    "integers": lambda share: share(torch.tensor([[1, -2], [3, 1 << 61]])),
    "bits": lambda share: share(torch.tensor([True, False])),
    "empty": lambda share: share(torch.zeros(0, 3)),
    "scalar": lambda share: share(torch.tensor(-3.5)),
    "decimal": lambda share: share(torch.tensor([1.5]).fix_precision()),
    "exact": lambda share: share(torch.tensor([1.5]), truncation="exact"),
    "comparison": lambda share: share(torch.tensor([1.5, -1])) > 0,
    "gradient": lambda share: share(torch.tensor([1.5]), requires_grad=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_encoding_survives(group: Group, kind: str) -> None:
    old = KINDS[kind](lambda x, **options: shared(x, group, **options))
    save_checkpoint("x", x=old)
    new = load("x", group)["x"]
    assert (new.encoding, new.dtype, new.shape, new.bits) == (old.encoding, old.dtype, old.shape, old.bits)
    assert new.requires_grad == old.requires_grad
    assert torch.equal(new.decrypt(), old.decrypt())


@pytest.mark.parametrize("field", [1 << 16, 67, (1 << 61) - 1, (1 << 89) - 1])
def test_every_ring(group: Group, field: int) -> None:
    values = torch.tensor([[1, 2, 3], [-4, 5, 6]])
    save_checkpoint("x", x=shared(values, group, field=field))
    assert torch.equal(load("x", group, field=field)["x"].get(), values)
    with pytest.raises(CheckpointError, match="in this order and this ring"):
        load("x", group)


def test_layers_with_public_counts_and_tied_weights(group: Group) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 8), nn.Linear(8, 8))
    model[4].weight = model[3].weight
    shared(model, group)
    with torch.no_grad():
        model(shared(torch.rand(4, 1, 4, 4), group))
    save_checkpoint("conv", model)
    due = {name: value.get() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    other = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 8), nn.Linear(8, 8))
    other[4].weight = other[3].weight
    load("conv", group, other)
    assert other[4].weight is other[3].weight and other[1].num_batches_tracked.item() == 1
    for name, value in other.state_dict().items():
        assert torch.equal(value.get() if value.is_floating_point() else value, due[name])


def test_extras_come_back_as_they_were(group: Group) -> None:
    x = shared(torch.tensor([1.0]), group)
    extra = {
        "best": {"losses": [0.5, float("inf")], 3: None, "name": "é", "pair": (True, -(1 << 63))},
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "one": torch.tensor([[7]]),
        "none": torch.zeros(0),
    }
    save_checkpoint("x", **extra, x=x, twice=[x, x])
    found = load("x", group)
    assert found["best"] == extra["best"] and type(found["best"]["pair"]) is tuple
    for name in ("scalar", "one", "none"):
        assert torch.equal(found[name], extra[name]) and found[name].dtype == extra[name].dtype
    assert found["twice"][0].handle is found["x"].handle


def test_restored_objects_are_forgotten_with_their_tensors(group: Group) -> None:
    x = shared(torch.ones(3), group)
    save_checkpoint("x", x=x, y=x + 1)
    found = load("x", group)
    session = x.session
    numbers = [found["x"].handle.number, found["y"].handle.number]
    held = group.member(session, 0).store
    assert all(number in held for number in numbers)
    del found
    _ = (x + 1).get()
    assert not any(number in held for number in numbers)


# ------------------------------------------------------------------------------------------------- which state


def test_the_last_two_states_are_kept(group: Group) -> None:
    x = shared(torch.zeros(1), group)
    states = [save_checkpoint("x", x=x, step=step) for step in range(4)]
    assert [len(group.files("x", rank)) for rank in range(3)] == [2, 2, 2]
    assert load("x", group)["step"] == 3
    assert load("x", group, state=states[2])["step"] == 2
    with pytest.raises(CheckpointError, match=f"no checkpoint 'x' in the state '{states[1]}'"):
        load("x", group, state=states[1])
    save_checkpoint("x", x=x, step=4, keep=4)
    assert len(group.files("x", 0)) == 3
    save_checkpoint("x", x=x, step=5, keep=1)
    assert len(group.files("x", 0)) == 1
    save_checkpoint("other", x=x)
    assert load("x", group)["step"] == 5
    with pytest.raises(CheckpointError, match="keep=0"):
        save_checkpoint("x", x=x, keep=0)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_state_that_one_member_lacks_is_not_taken(group: Group, start: Callable[..., Group], rank: int) -> None:
    x = shared(torch.zeros(1), group)
    save_checkpoint("x", x=x, step=1)
    save_checkpoint("x", x=x, step=2)
    lost = group.files("x", rank)[-1]
    lost.rename(lost.with_name(f".{lost.name}.part"))  # as after a crash while it was being written
    group.stop()
    again = start()
    x = load("x", again)["x"]
    assert load("x", again)["step"] == 1
    save_checkpoint("x", x=x, step=3)
    names = [[path.name for path in again.files("x", rank)] for rank in range(3)]
    assert names[0] == names[1] == names[2] and len(names[0]) == 2
    assert load("x", again)["step"] == 3


def test_no_state_that_all_have(group: Group) -> None:
    x = shared(torch.zeros(1), group)
    save_checkpoint("x", x=x)
    group.files("x", 1)[0].unlink()
    with pytest.raises(CheckpointError, match="Only alice, crypto_provider have parts of one"):
        load("x", group)
    with pytest.raises(CheckpointError, match="There is no checkpoint 'y' that you saved and that all of alice, bob"):
        load("y", group)


# --------------------------------------------------------------------------------------------- files that were changed


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 4
    path.write_bytes(data)


def _flip_header(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _foreign(path: Path) -> None:
    path.write_bytes(b"something else")


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped bit": (_flip, "is damaged"),
    "flipped bit in the header": (_flip_header, "is damaged"),
    "truncated": (_truncate, "is damaged"),
    "foreign": (_foreign, "is no checkpoint of ShareTorch"),
}


@pytest.mark.parametrize("rank", [0, 1, 2])
@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_refused_and_the_session_goes_on(group: Group, change: str, rank: int) -> None:
    spoil, text = CHANGES[change]
    x = shared(torch.arange(3.0), group)
    save_checkpoint("x", x=x, step=1)
    save_checkpoint("x", x=x, step=2)
    path = group.files("x", rank)[-1]
    spoil(path)
    model, held = small_model(), sizes(x, group)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=text) as caught:
        load("x", group, model, momentum(model))
    assert str(path) in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert (x + 1).get().tolist() == [1, 2, 3]
    assert sizes(x, group) == held  # nothing of what other members restored is left
    path.unlink()
    assert load("x", group)["step"] == 1
    spoil(group.files("x", rank)[0])
    save_checkpoint("x", x=x, step=3)  # a damaged file does not stop training


def test_the_file_of_another_member_is_refused(group: Group) -> None:
    save_checkpoint("x", x=shared(torch.arange(3.0), group))
    shutil.copyfile(group.files("x", 0)[0], group.files("x", 1)[0])
    with pytest.raises(CheckpointError, match="At bob: .* another member's file, or bob has new keys"):
        load("x", group)


def test_a_file_under_another_name_is_refused(group: Group) -> None:
    x = shared(torch.arange(3.0), group)
    for name in ("x", "y"):
        save_checkpoint(name, x=x)
    for rank in range(3):
        shutil.copyfile(group.files("x", rank)[0], group.files("y", rank)[0])
    with pytest.raises(CheckpointError, match="is the checkpoint 'x' .* under another name"):
        load("y", group)


def test_an_older_file_under_a_newer_name_is_refused(group: Group) -> None:
    x = shared(torch.arange(3.0), group)
    for _ in range(2):
        save_checkpoint("x", x=x)
    older, newer = group.files("x", 0)
    shutil.copyfile(older, newer)
    with pytest.raises(CheckpointError, match="under another name"):
        load("x", group)


def test_no_share_shows_in_a_file(group: Group) -> None:
    x = shared(torch.arange(100.0), group)
    save_checkpoint("x", x=x, text="a text that nobody else may read")
    for rank in range(2):
        data = group.files("x", rank)[0].read_bytes()
        share = group.member(x.session, rank).get(x.handle.number).data.numpy().tobytes()
        assert not any(share[n : n + 8] in data for n in range(0, len(share), 8))
        assert b"nobody" not in data and b"alice" not in data
    assert len(group.files("x", 2)[0].read_bytes()) < 800  # the provider has no contents


# ------------------------------------------------------------------------------------------------------ who may load


def test_another_principal_finds_nothing(group: Group, start: Callable[..., Group]) -> None:
    x = shared(torch.arange(3.0), group)
    save_checkpoint("x", x=x)
    id = bytes.fromhex(group.files("x", 0)[0].name.split("-")[1])
    other = SimpleNamespace(workers=[group.connect(rank, "mallory") for rank in range(3)])
    with pytest.raises(CheckpointError, match="no checkpoint 'x' that you saved"):
        load("x", other)  # type: ignore[arg-type]
    session = shared(torch.zeros(1), other).session  # type: ignore[arg-type]
    (found, *_) = session.ask_all(ListCheckpoints(session.id, "x"), Checkpoints)
    assert found == Checkpoints([], [])
    with pytest.raises(CheckpointError, match="alice has no checkpoint 'x' .* that mallory saved"):
        session.ask_all(Load(session.id, "x", id, [new_id()]), Loaded)
    mine = shared(torch.ones(1), other)  # type: ignore[arg-type]
    save_checkpoint("x", x=mine, keep=1)
    assert load("x", group)["x"].get().tolist() == [0, 1, 2]  # others' states under the same name are not touched
    assert load("x", other)["x"].get().tolist() == [1]  # type: ignore[arg-type]


OTHERS = ["bob alice {}", "alice bob carol", "alice carol {}", "alice bob carol {}", "alice {} bob"]


@pytest.mark.parametrize("ids", OTHERS)
def test_other_members_find_nothing(group: Group, start: Callable[..., Group], ids: str) -> None:
    save_checkpoint("x", x=shared(torch.arange(3.0), group))
    others = start(ids=tuple(ids.format("crypto_provider").split()))
    with pytest.raises(CheckpointError, match="Name the same members as when saving"):
        load("x", others)


def test_members_with_new_keys_find_nothing(group: Group, start: Callable[..., Group], tmp_path: Path) -> None:
    from tests.network.tools import make_keys

    save_checkpoint("x", x=shared(torch.arange(3.0), group))
    other = Group(make_keys(tmp_path / "other", *IDS, "me"), tmp_path)
    with pytest.raises(CheckpointError, match="or alice has new keys"):
        load("x", other)
    other.stop()


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", ["", "..", ".x", "-x", "a/b", "../x", "a\0", "x" * 65, "é", "a b", 7])
def test_a_name_is_no_path(group: Group, tmp_path: Path, name: Any) -> None:
    x = shared(torch.zeros(1), group)
    for act in (lambda: save_checkpoint(name, x=x), lambda: load(name, group)):
        with pytest.raises(CheckpointError, match="is no name for a checkpoint"):
            act()
    if isinstance(name, str):
        asked = Save(x.session.id, name, 1, bytes(16), [x.handle.number], b"")  # a driver that does not check
        with pytest.raises(CheckpointError, match="is no name for a checkpoint"):
            x.session.ask_all(asked, Saved)
    assert list(tmp_path.rglob("*")) == []
    assert x.get().tolist() == [0]


def test_a_worker_without_a_state_folder_says_so(start: Callable[..., Group]) -> None:
    group = start(state=None)
    x = shared(torch.zeros(1), group)
    with pytest.raises(CheckpointError, match="alice keeps no checkpoints: it has no state folder. Start it with"):
        save_checkpoint("x", x=x)
    assert x.get().tolist() == [0]


UNFIT: dict[str, tuple[Any, str]] = {
    "plain tensor": (
        {"a": [torch.ones(2)]},
        r"\['thing'\]\['a'\]\[0\] is a plain tensor of shape \(2,\).*Share it with",
    ),
    "complex": (torch.tensor(1j), "which no checkpoint holds"),
    "set": ({1}, "is a set, which no checkpoint holds"),
    "function": ({"f": len}, r"extra\[.*\['f'\] is a builtin"),
    "bytes": (b"", "is a bytes"),
    "large integer": (1 << 63, "is a int, which"),
    "key": ({1.5: 2}, "has a key of type float"),
    "local": (torch.ones(2).fix_precision(), "is a FixedPrecisionTensor"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_what_members_may_not_see_or_keep_is_refused(group: Group, kind: str) -> None:
    value, text = UNFIT[kind]
    with pytest.raises(CheckpointError, match=text):
        save_checkpoint("x", x=shared(torch.zeros(1), group), thing=value)


def test_a_deep_or_endless_structure(group: Group) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(CheckpointError, match="lies deeper than 32 levels"):
        save_checkpoint("x", x=shared(torch.zeros(1), group), endless=endless)


def test_nothing_shared_or_several_sessions_or_none_on_the_network(group: Group) -> None:
    with pytest.raises(CheckpointError, match="nothing shared in what is to be saved"):
        save_checkpoint("x", step=3)
    one, other = shared(torch.zeros(1), group), shared(torch.zeros(1, dtype=torch.int64), group, field=67)
    with pytest.raises(CheckpointError, match="shared in 2 sessions"):
        save_checkpoint("x", x=[one, other])
    with pytest.raises(CheckpointError, match="plain tensor"):
        save_checkpoint("x", small_model(), x=one)
    virtual = [st.VirtualWorker(id=f"virtual{n}") for n in range(3)]
    here = torch.zeros(1).share(*virtual[:2], crypto_provider=virtual[2])
    with pytest.raises(CheckpointError, match="all its members in this process"):
        save_checkpoint("x", x=here)
    with pytest.raises(CheckpointError, match="all its members in this process"):
        load_checkpoint("x", None, None, *virtual[:2], crypto_provider=virtual[2])


def test_a_model_that_does_not_fit_stays_as_it_is(group: Group) -> None:
    model = shared(small_model(), group)
    save_checkpoint("mlp", model, momentum(model))
    wider = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2))
    deeper = nn.Sequential(*small_model(), nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"0.weight has shape \(9, 6\) in the model and \(8, 6\)"):
        load("mlp", group, wider)
    with pytest.raises(CheckpointError, match="It has 3.bias, 3.weight that the checkpoint lacks, and lacks nothing"):
        load("mlp", group, deeper)
    plain = small_model()
    with pytest.raises(CheckpointError, match=r"groups of \[2\] parameters, and \[4\] were saved"):
        load("mlp", group, plain, torch.optim.SGD(plain[0].parameters(), lr=1))
    for other in (wider, deeper, plain):
        assert not any(isinstance(parameter, st.SharedTensor) for parameter in other.parameters())
    save_checkpoint("x", x=next(model.parameters()))
    with pytest.raises(CheckpointError, match="holds no model"):
        load("x", group, plain)
    with pytest.raises(CheckpointError, match="holds no optimizer"):
        load("x", group, None, momentum(plain))


def test_a_file_beyond_the_limits_of_a_worker(group: Group) -> None:
    x = shared(torch.zeros(100), group)
    save_checkpoint("x", x=x)
    group.hosts[1].node.limits = Limits(object_bytes=799)
    with pytest.raises(CheckpointError, match="holds 800 bytes, 800 in one object; bob takes .* and 799"):
        load("x", group)


def test_a_driver_cannot_fill_a_folder_without_end(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    x = shared(torch.zeros(1), group)
    save_checkpoint("x", x=x)
    monkeypatch.setattr(checkpoints, "MAX_FILES", 1)
    with pytest.raises(CheckpointError, match="holds 1 checkpoints, the most it takes"):
        save_checkpoint("x", x=x)
    monkeypatch.setattr(checkpoints, "MAX_NAMES", 1)
    with pytest.raises(CheckpointError, match="holds 1 names of checkpoints, the most it takes"):
        save_checkpoint("y", x=x)


@pytest.mark.parametrize("numbers", [[], [1, 2], ["own"]])
def test_a_wrong_request_of_a_driver_ends_its_session_only(group: Group, numbers: list[Any]) -> None:
    x = shared(torch.zeros(1), group)
    save_checkpoint("x", x=x)
    id = bytes.fromhex(group.files("x", 0)[0].name.split("-")[1])
    asked = [x.handle.number if number == "own" else number for number in numbers]
    with pytest.raises((MalformedRequestError, SessionEndedError)):
        x.session.ask_all(Load(x.session.id, "x", id, asked), Loaded)
    with pytest.raises((MalformedRequestError, SessionEndedError)):
        x.session.sync()
        x.get()
    assert load("x", group)["x"].get().tolist() == [0]


@pytest.mark.parametrize("bad", [b"", b"\xc1", b"\x91\xa1q", b"\x90", b"\xc7\x01\x05a", b"\x92\xa1d\x91\x91\x01"])
def test_a_structure_of_another_form(bad: bytes) -> None:
    def make(entry: checkpoint_state.Entry) -> Any:
        raise AssertionError

    with pytest.raises(CheckpointError, match="another form than this version"):
        checkpoint_state.unpack(bad, make)


def test_members_that_give_back_different_things(group: Group) -> None:
    x = shared(torch.zeros(1), group)
    with pytest.raises(CheckpointError, match="hold different things"):
        checkpointing._restored(x.session, [], [Loaded(b"a", []), Loaded(b"b", [])])
    for structure in (b"\xc0", b"\x92\xa1d\x90"):
        with pytest.raises(CheckpointError, match="another form"):
            checkpointing._restored(x.session, [], [Loaded(structure, [])])


# --------------------------------------------------------------------------------------------------------- labels


def test_policies_outlast_a_restart(group: Group, start: Callable[..., Group]) -> None:
    x = shared(torch.arange(16.0).reshape(8, 2), group)
    policy = Policy(recipients=frozenset({"me"}), min_rows=5)
    for host in group.hosts:
        host._sessions[x.session.id].book.enter(x.handle.number, source(policy, (8, 2), ("alice", "rows")))
    save_checkpoint("x", x=x, total=x.sum(0))
    group.stop()
    again = start()
    found = load("x", again)
    assert found["total"].get().tolist() == [56, 64]
    with pytest.raises(ReleaseRefusedError, match="surely aggregate 1 row"):
        found["x"].get()
    with pytest.raises(ReleaseRefusedError):
        found["x"].sum(0).get()  # which rows lie where is not known any more, so they are not counted
    book = again.hosts[0]._sessions[found["x"].session.id].book
    assert book.label(found["x"].handle.number) == Label(policy, None, 1, "source")
    assert book.label(found["total"].handle.number) == Label(policy, None, 8, "sum")


# -------------------------------------------------------------------------------------------- full disks and crashes

_PROGRAM = """
import json, os, resource, sys, threading
spec = json.loads(sys.stdin.readline())
from pathlib import Path
import torch, sharetorch
from sharetorch.mpc.network.identity import Identity
from sharetorch.remote.sessions.hosting import SessionHost
from sharetorch.remote.network.server import WorkerServer
from sharetorch.remote.network.settings import NetworkSettings
from sharetorch.remote.node import Node
torch.set_num_threads(1)
identity, node = Identity.load(spec["keys"], spec["id"]), Node(spec["id"])
host = SessionHost(node, identity, NetworkSettings())
host.state = Path(spec["state"])
server = WorkerServer(node, identity, "127.0.0.1", 0, NetworkSettings(), host).start()
if spec["room"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (spec["room"], spec["room"]))
print(server.address[1], flush=True)
sys.stdin.read()
os._exit(0)
"""


class Process:
    """A worker in a process of its own, and a connection to it."""

    def __init__(self, id: str, keys: Path, state: Path, room: int = 0) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        command, pipe = [sys.executable, "-P", "-c", _PROGRAM], subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        assert self.process.stdin is not None and self.process.stdout is not None
        spec = {"id": id, "keys": str(keys), "state": str(state / id), "room": room}
        self.process.stdin.write(json.dumps(spec) + "\n")
        self.process.stdin.flush()
        port = int(self.process.stdout.readline())
        self.worker = Worker(Address("127.0.0.1", port), id, Identity.load(keys, "me")).connect()

    def stop(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait(10)
        self.worker.close()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@pytest.fixture
def process(keys: Path, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts workers in processes, which end with the test."""
    started: list[Process] = []

    def run(id: str, **options: Any) -> Process:
        started.append(Process(id, keys, tmp_path, **options))
        return started[-1]

    yield run
    for found in started:
        found.stop()


@pytest.mark.slow
@pytest.mark.parametrize("id", IDS)
def test_a_full_disk_at_one_member(
    group: Group, start: Callable[..., Group], process: Callable[..., Process], id: str
) -> None:
    rank, room = IDS.index(id), 40_000 if id != "crypto_provider" else 2_000
    group.workers[rank] = process(id, room=room).worker
    model = shared(small_model(), group)
    optimizer = momentum(model)
    x, y = (shared(part, group) for part in batch())
    save_checkpoint("mlp", model, optimizer)
    after = train(model, optimizer, x, y, 2)
    big = {"big": shared(torch.zeros(10_000), group), "text": "x" * 2_000}
    with pytest.raises(CheckpointError, match="was not written to .*: File too large. Free some space") as caught:
        save_checkpoint("mlp", model, optimizer, **big)
    assert any(id in note for note in caught.value.__notes__)
    group.hosts[rank] = None
    files = [group.files("mlp", other) for other in range(3)]
    assert [len(found) for found in files] == [1, 1, 1]  # nothing is left of the failed one, at no member
    load("mlp", group, model, optimizer)
    assert close(train(model, optimizer, x, y, 2), after)  # the session went on
    save_checkpoint("mlp", model, optimizer)
    assert len(group.files("mlp", rank)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.03, 0.05, 0.08])
def test_a_member_killed_while_saving(
    group: Group, process: Callable[..., Process], start: Callable[..., Group], seconds: float
) -> None:
    bob = process("bob")
    group.workers[1] = bob.worker
    values = [torch.full((500_000,), number) for number in (1, 2)]
    old, new = (shared(value, group) for value in values)
    save_checkpoint("x", x=old, half=old[1:], step=1)

    def kill() -> None:
        time.sleep(seconds)
        bob.process.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    new.session.sync()
    killer.start()
    done = True
    try:
        save_checkpoint("x", x=new, half=new[1:], step=2)
    except NetworkError:
        done = False
    killer.join()
    group.stop()

    again = start()
    found = load("x", again)
    assert found["step"] == 2 if done else found["step"] in (1, 2)
    assert torch.equal(found["x"].get(), values[found["step"] - 1])  # both shares are of the same state
    save_checkpoint("x", x=found["x"], step=3, keep=1)
    assert [len(again.files("x", rank)) for rank in range(3)] == [1, 1, 1]
