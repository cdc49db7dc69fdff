"""Parties of several processes: the same results as with one, exact sums, labels, and what happens when one dies."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sharetorch as st
from sharetorch.mpc.errors import (
    ConfigurationError,
    HandshakeError,
    LimitExceededError,
    MalformedRequestError,
    NetworkError,
    ReleaseRefusedError,
    ShapeError,
    ShareTorchError,
    UnsupportedOperationError,
)
from sharetorch.mpc.fixedpoint import encoding_for
from sharetorch.mpc.session import new_id
from sharetorch.mpc.tensor.shared import Handle, SharedTensor
from sharetorch.remote.network.client import NetworkedWorker
from sharetorch.remote.network.settings import Address, NetworkSettings, WorkerSettings
from sharetorch.remote.sessions import ranks
from sharetorch.remote.sessions.lanes import DataParallel, Lanes, lanes_of
from sharetorch.remote.sessions.messages import AllReduce, Broadcast, Join, Pass
from tests.network.ports import free_port, free_ports
from tests.network.tools import make_keys, names_free, until

UNIT = 2.0**-16
MEMBERS = ("alice", "bob", "crypto_provider")
COUNT = 2
START_SECONDS = 120
STOP_SECONDS = 60
ROUND_SECONDS = 30.0
SETTINGS = NetworkSettings(round_seconds=ROUND_SECONDS, request_seconds=60)


class Party:
    """The processes of one member.

    Attributes:
        id: of the member.
        port: where rank 0 listens.
        processes: what was started: ``torchrun``, or one process for each rank.
    """

    def __init__(self, id: str, port: int, processes: Sequence[subprocess.Popen[str]], count: int) -> None:
        self.id = id
        self.port = port
        self.processes = list(processes)
        self._ready = 0
        self._readers = [threading.Thread(target=self._read, args=(process,), daemon=True) for process in processes]
        for reader in self._readers:
            reader.start()
        self._count = count

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._ready += line.count(f"{self.id} is ready")

    def wait(self) -> None:
        """Wait until all ranks listen."""
        until(lambda: self._ready == self._count or any(p.poll() is not None for p in self.processes), START_SECONDS)
        assert self._ready == self._count, f"{self.id}: {self._ready} ready"

    def end_input(self) -> None:
        """Let all ranks stop, whoever has started them."""
        for process in self.processes:
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.close()

    def stop(self) -> None:
        """Wait until everything has ended."""
        for process, reader in zip(self.processes, self._readers, strict=True):
            process.wait(STOP_SECONDS)
            reader.join()
            assert process.stdout is not None
            process.stdout.close()

    def connect(self, keys: Path, settings: NetworkSettings = SETTINGS) -> NetworkedWorker:
        """A connection to rank 0."""
        return st.connect(f"wss://127.0.0.1:{self.port}", id=self.id, tls=keys, settings=settings)


NETWORK = "[network]\nheartbeat_seconds = 0.5\nsilence_seconds = 3\nconnect_seconds = 5\n"
DATA = """
[[datasets]]
path = "rows.csv"
name = "rows"
tags = ["#rows"]
[datasets.policy]
release_to = ["me"]
min_rows = 4
"""


def start(id: str, ports: dict[str, int], keys: Path, torchrun: bool, count: int = COUNT) -> Party:
    """Start the processes of a member, by ``torchrun`` or by an environment like its."""
    (keys / "rows.csv").write_text("a,b\n" + "".join(f"{n},{n / 2}\n" for n in range(8)))
    config = keys / f"{id}.toml"
    config.write_text(f'id = "{id}"\nkeys = "."\n{NETWORK}{DATA if id == "alice" else ""}')
    worker = ["-m", "sharetorch", "worker", "--config", str(config), "--listen", f"127.0.0.1:{ports[id]}"]
    worker += ["--threads", "1", "--log-level", "error", "--stop-with-input"]
    for other, port in ports.items():
        worker += ["--peer", f"{other}={Address('127.0.0.1', port)}"]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    meeting = str(free_port())
    if torchrun:
        command = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", meeting, *worker]
        commands = [(command, environment)]
    else:
        place = {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": meeting, "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)
        }  # fmt: skip
        commands = [(worker, environment | place | {"RANK": str(rank)}) for rank in range(count)]
    processes = [
        subprocess.Popen(
            [sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )
        for words, variables in commands
    ]
    return Party(id, ports[id], processes, count)


@contextmanager
def started(keys: Path, torchrun: bool, count: int = COUNT) -> Iterator[dict[str, Party]]:
    """Two parties and a provider."""
    ports = {id: free_ports(count) for id in MEMBERS}
    parties: dict[str, Party] = {}
    try:
        for id in MEMBERS:
            parties[id] = start(id, ports, keys, torchrun, count)
        for party in parties.values():
            party.wait()
        yield parties
    finally:
        for party in parties.values():
            party.end_input()
        for party in parties.values():
            party.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_keys(tmp_path_factory.mktemp("keys"), *MEMBERS, "me")


@pytest.fixture(scope="module")
def group(folder: Path) -> Iterator[list[NetworkedWorker]]:
    """Connections to members of two processes each, started by ``torchrun``."""
    with names_free(*MEMBERS), started(folder, torchrun=True) as parties:
        workers = [party.connect(folder) for party in parties.values()]
        yield workers
        for worker in workers:
            worker.close()


@pytest.fixture
def lanes(group: list[NetworkedWorker]) -> Lanes:
    """Lanes that work."""
    found = lanes_of(share(group, torch.zeros(1)).session)
    assert found is not None
    return found


def share(members: Sequence[Any], value: Any, **options: Any) -> Any:
    """Share among the members, the last of whom provides."""
    return value.share(*members[:-1], crypto_provider=members[-1], **options)


def batches(count: int = 6, rows: int = 9) -> list[tuple[Tensor, Tensor]]:
    """Batches whose rows do not divide by two."""
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randn(rows, 1, 8, 8, generator=generator), torch.randn(rows, 3, generator=generator) / 4)
        for _ in range(count)
    ]


def convolutional() -> nn.Module:
    """A small network with everything: convolutions, pooling, ReLU, linear layers."""
    torch.manual_seed(4)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def train(
    model: nn.Module, place: Callable[[Any], Any], wrap: Callable[[nn.Module], nn.Module]
) -> tuple[list[float], list[Tensor]]:
    """Losses and final weights; ``place`` shares things, or does not."""
    place(model)
    network = wrap(model)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for x, y in batches():
        inputs, targets = place(x), place(y)
        optimizer.zero_grad()
        loss = ((network(inputs) - targets) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    opened = [float(loss.get() if isinstance(loss, SharedTensor) else loss) for loss in losses]
    weights = [p.get() if isinstance(p, SharedTensor) else p for p in model.parameters()]
    return opened, [w.detach() for w in weights]


def test_training_over_two_lanes_gives_what_one_gives(group: list[NetworkedWorker]) -> None:
    virtual = [st.VirtualWorker(id=f"{name} here") for name in MEMBERS]
    model = convolutional()
    runs = {
        "two lanes": train(copy.deepcopy(model), lambda x: share(group, x), DataParallel),
        "one lane": train(copy.deepcopy(model), lambda x: share(group, x), lambda m: DataParallel(m, lanes=1)),
        "virtual": train(copy.deepcopy(model), lambda x: share(virtual, x), DataParallel),
        "plain": train(copy.deepcopy(model), lambda x: x, DataParallel),
    }
    right, weights = runs["plain"]
    for name, (losses, found) in runs.items():
        worst = max(abs(a - b) for a, b in zip(losses, right, strict=True))
        drift = max(float((a - b).abs().max()) for a, b in zip(found, weights, strict=True))
        assert worst < 64 * UNIT, (name, worst / UNIT)
        assert drift < 64 * UNIT, (name, drift / UNIT)


def test_both_lanes_compute(group: list[NetworkedWorker], lanes: Lanes) -> None:
    model = share(group, convolutional())

    def counts() -> list[dict[str, int]]:
        return [
            {name: record.traffic.operations for name, record in session.costs.by_operation.items()}
            for session in lanes.sessions
        ]

    before = counts()
    x, y = (share(group, part) for part in batches(1, 8)[0])
    ((DataParallel(model)(x) - y) ** 2).mean().backward()
    for old, new in zip(before, counts(), strict=True):
        for name, times in (("relu", 1), ("rectified_product", 1), ("all_reduce", 1), ("broadcast", 1)):
            assert new[name] - old.get(name, 0) == times


def test_weights_are_the_same_bit_by_bit_in_all_lanes(group: list[NetworkedWorker], lanes: Lanes) -> None:
    model = share(group, nn.Linear(6, 4))
    network = DataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
    for _ in range(10):
        network(share(group, torch.randn(4, 6))).sum().backward()
        optimizer.step()
        copies = network._spread(lanes, network._shared_state())
        for first, second in zip(copies[0].values(), copies[1].values(), strict=True):
            assert torch.equal(first.get(), second.get())  # type: ignore[attr-defined]


def test_weights_are_copied_only_when_they_have_changed(group: list[NetworkedWorker], lanes: Lanes) -> None:
    network = DataParallel(share(group, nn.Linear(6, 4)))
    x = share(group, torch.randn(4, 6))

    def copied() -> int:
        return lanes.sessions[1].costs.by_operation["broadcast"].traffic.operations

    with torch.no_grad():
        network(x)
        before = copied()
        network(x)
        assert copied() == before
        network.module.weight.add_(1.0)  # type: ignore[operator, union-attr]
        found = network(x).get()
        assert copied() == before + 1
    assert (found - network.module(x).get()).abs().max() < 4 * UNIT


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_forward_of_any_number_of_rows(group: list[NetworkedWorker], rows: int) -> None:
    model = convolutional()
    x = torch.randn(rows, 1, 8, 8)
    with torch.no_grad():
        right = model(x)
        network = DataParallel(share(group, model))
        found = network(share(group, x)).get()
    assert found.shape == right.shape
    assert (found - right).abs().max() < 32 * UNIT


class Several(nn.Module):
    """Several inputs, one of them public and one no tensor, and several outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor, y: Tensor, *, times: int, rest: dict[str, Any]) -> dict[str, Any]:
        z = self.linear(x) * self.frozen + y * times + rest["z"]
        return {"z": z, "pair": (z.sum(1), z.sum()), "times": times}


def test_inputs_and_outputs_of_many_kinds(group: list[NetworkedWorker]) -> None:
    model = Several()
    x, y, z = torch.randn(5, 3), torch.randn(5, 3), torch.randn(5, 3)
    right = model(x, y, times=2, rest={"z": z})
    right["pair"][0].sum().backward()
    gradient = model.linear.weight.grad.clone()
    model.zero_grad()
    network = DataParallel(share(group, model))
    shared = share(group, x, requires_grad=True)
    found = network(shared, y, times=2, rest={"z": share(group, z)})
    found["pair"][0].sum().backward()
    assert (found["z"].get() - right["z"]).abs().max() < 8 * UNIT
    assert (found["pair"][1].sum().get() - right["pair"][1]).abs() < 64 * UNIT
    assert found["pair"][1].shape == (COUNT,) and found["times"] == 2
    assert (model.linear.weight.grad.get() - gradient).abs().max() < 16 * UNIT
    assert model.unused.grad is None and model.frozen.grad is None
    assert (shared.grad.get() - model.linear.weight.get().sum(0)).abs().max() < 16 * UNIT


def test_running_means_follow_lane_zero_as_in_pytorch(group: list[NetworkedWorker]) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    network = DataParallel(share(group, model))
    before = model[1].running_mean.get().clone()
    network(share(group, torch.randn(8, 3)))
    assert not torch.equal(model[1].running_mean.get(), before)
    model.eval()
    x = torch.randn(6, 3)
    with torch.no_grad():
        difference = network(share(group, x)).get() - model(share(group, x)).get()
    assert difference.abs().max() < 8 * UNIT


def integers(session: Any, values: Tensor) -> SharedTensor:
    """Integers of 64 bits as a shared tensor of a session."""
    return SharedTensor(
        Handle(session, session.distribute(values), encoding_for(values, None)), torch.empty_like(values, device="meta")
    )


def test_sums_wrap_around_exactly(lanes: Lanes) -> None:
    generator = torch.Generator().manual_seed(1)
    edge = torch.tensor([2**63 - 1, -(2**63), -1, 0, 1, 2**62, -(2**62)])
    values = [
        torch.cat([edge.roll(lane), torch.randint(-(2**62), 2**62, (1000,), generator=generator) * 2 + lane])
        for lane in range(COUNT)
    ]
    rows = [[integers(session, x)] for session, x in zip(lanes.sessions, values, strict=True)]
    sums = lanes.all_reduce(rows, lanes=range(COUNT))
    right = sum(values[1:], values[0])
    for (total,) in sums:
        assert torch.equal(total.get(), right)
    for (row,), value in zip(rows, values, strict=True):
        assert torch.equal(row.get(), value), "summands stay as they are"


def test_what_comes_from_another_lane_is_an_object_of_its_own(lanes: Lanes) -> None:
    values = torch.arange(12).reshape(3, 4)
    x = integers(lanes.sessions[0], values)
    y = lanes.copy(x.t()[1:], 0, 1)  # type: ignore[arg-type]
    back = lanes.copy(y, 1, 0)
    x.add_(1)
    assert torch.equal(y.get(), values.t()[1:]) and torch.equal(back.get(), values.t()[1:])
    assert torch.equal((y * y).get(), values.t()[1:] ** 2)


def test_objects_that_are_gone_are_forgotten_in_all_lanes(group: list[NetworkedWorker], lanes: Lanes) -> None:
    network = DataParallel(share(group, nn.Linear(6, 4)))
    x = share(group, torch.randn(4, 6))

    def step() -> list[int]:
        network(x).sum().backward()
        network.zero_grad()
        lanes.sync()
        return [len(session._live) for session in lanes.sessions]

    step()
    assert step() == step()


def test_lanes_of_other_sizes_do_not_add_up(lanes: Lanes) -> None:
    rows = [
        [integers(session, torch.zeros(2 + lane, dtype=torch.int64))] for lane, session in enumerate(lanes.sessions)
    ]
    with pytest.raises(ShapeError):
        lanes.all_reduce(rows)


def test_a_worker_says_how_many_processes_it_has(group: list[NetworkedWorker]) -> None:
    alice = group[0]
    assert alice.lanes == COUNT
    assert alice.lane(0) is alice
    assert alice.lane(1) is alice.lane(1)
    assert (alice.lane(1).id, alice.lane(1).public) == (alice.id, alice.public)
    assert alice.lane(1).address[1] == alice.address[1] + 1
    with pytest.raises(UnsupportedOperationError, match="torchrun"):
        alice.lane(2)


def test_more_lanes_than_there_are(group: list[NetworkedWorker]) -> None:
    x = share(group, torch.zeros(4, 3), protocol="securenn-paper")
    model = share(group, nn.Linear(3, 2), protocol="securenn-paper")
    with pytest.raises(UnsupportedOperationError, match="2 process"):
        DataParallel(model, lanes=3)(x)


# ------------------------------------------------------------------------------------- what a driver may not do


@pytest.fixture
def pair(folder: Path, group: list[NetworkedWorker]) -> Iterator[Callable[[], list[Any]]]:
    """Makes sessions of both lanes that nobody else uses, over connections of their own."""
    made: list[Any] = []

    def sessions() -> list[Any]:
        firsts = [NetworkedWorker(w.url, w.id, w.identity, SETTINGS).connect() for w in group]
        made.extend(firsts)
        rows = [firsts, [w.lane(1) for w in firsts]]
        return [share(row, torch.zeros(1)).session for row in rows]

    yield sessions
    for worker in made:
        worker.close()


def say(session: Any, item: Callable[[int], Any]) -> None:
    name = type(item(0)).__name__
    with session._sending:
        session._post(item(session._begin("all_reduce" if name == "AllReduce" else name.lower())))


def join(sessions: list[Any], ids: list[bytes] | None = None) -> None:
    for session in sessions:
        say(session, lambda n, id=session.id: Join(id, n, ids or [s.id for s in sessions]))


def refused(session: Any, *kinds: type[Exception]) -> None:
    with pytest.raises(ShareTorchError) as found:
        session.sync()
    assert isinstance(found.value, (*kinds, NetworkError)), found.value
    if not isinstance(found.value, kinds):
        assert any(kind.__name__ in str(found.value.cause) for kind in kinds), (found.value, found.value.cause)


def test_lanes_are_joined_at_their_ranks_and_once(pair: Any) -> None:
    for ids in (lambda a, b: [b.id, a.id], lambda a, b: [a.id, a.id], lambda a, b: [a.id, b"x" * 32]):
        sessions = pair()
        join(sessions[:1], ids(*sessions))
        refused(sessions[0], MalformedRequestError, HandshakeError, NetworkError)
    sessions = pair()
    join(sessions)
    join(sessions)
    refused(sessions[0], MalformedRequestError)


def test_sessions_of_other_members_are_not_joined(folder: Path, group: list[NetworkedWorker], pair: Any) -> None:
    first = pair()[0]
    others = [NetworkedWorker(w.url, w.id, w.identity, SETTINGS).connect() for w in group]
    turned = [others[1].lane(1), others[0].lane(1), others[2].lane(1)]
    second = share(turned, torch.zeros(1)).session
    join([first, second])
    refused(first, HandshakeError)
    for worker in others:
        worker.close()


def test_a_driver_that_tells_lanes_different_things_ends_its_own_sessions(pair: Any, lanes: Lanes) -> None:
    mine, theirs = pair()
    join([mine, theirs])
    x, y = (integers(session, torch.arange(6)) for session in (mine, theirs))
    say(mine, lambda n: AllReduce(mine.id, n, [x.handle.number], [new_id()], [[6]]))
    say(theirs, lambda n: Pass(theirs.id, n, 0, 1, [new_id()], [[6]]))
    refused(mine, HandshakeError)
    assert y is not None
    lanes.sync()


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        (lambda s, x, n: AllReduce(s.id, n, [x], [new_id()], [[7]]), ShapeError),
        (lambda s, x, n: AllReduce(s.id, n, [x], [x], [[6]]), MalformedRequestError),
        (lambda s, x, n: AllReduce(s.id, n, [], [], []), ShapeError),
        (lambda s, x, n: Broadcast(s.id, n, [x, x], [[6]]), ShapeError),
        (lambda s, x, n: Broadcast(s.id, n, [x], [[-1]]), ShapeError),
        (lambda s, x, n: Pass(s.id, n, 1, 0, [new_id()], [[1 << 60]]), LimitExceededError),
        (lambda s, x, n: Pass(s.id, n, 0, 0, [x], [[6]]), MalformedRequestError),
        (lambda s, x, n: Pass(s.id, n, 0, 5, [x], [[6]]), MalformedRequestError),
        (lambda s, x, n: Pass(s.id, n, 1, 0, [x], [[6]]), MalformedRequestError),
    ],
)
def test_items_that_are_wrong_end_the_session(pair: Any, lanes: Lanes, item: Any, kind: type[Exception]) -> None:
    sessions = pair()
    join(sessions)
    x = integers(sessions[0], torch.arange(6))
    say(sessions[0], lambda n: item(sessions[0], x.handle.number, n))
    refused(sessions[0], kind)
    lanes.sync()


def test_lanes_that_were_not_joined(pair: Any) -> None:
    session = pair()[0]
    x = integers(session, torch.arange(6))
    say(session, lambda n: Broadcast(session.id, n, [x.handle.number], [[6]]))
    refused(session, MalformedRequestError)


# ------------------------------------------------------------------------------------------------------------- labels


def test_labels_go_along_to_other_lanes(group: list[NetworkedWorker], lanes: Lanes) -> None:
    (handle,) = group[0].search("#rows")
    x = handle.share(*group[:-1], crypto_provider=group[-1]).get()
    assert x.sum(0).get().shape == (2,), "eight rows are enough"
    there = lanes.copy(x, 0, 1)
    for held in (there, there.sum(0), lanes.copy(there, 1, 0)):
        with pytest.raises(ReleaseRefusedError):
            held.get()
    (row,) = lanes.all_reduce([[x], [integers_like(lanes.sessions[1], x)]])
    with pytest.raises(ReleaseRefusedError):
        row[0].get()
    summed = lanes.copy(x.sum(0), 0, 1)
    assert torch.equal(summed.get(), x.sum(0).get())


def integers_like(session: Any, x: SharedTensor) -> SharedTensor:
    """Zeros in another session, in the same encoding."""
    return SharedTensor(
        Handle(session, session.distribute(torch.zeros(x.shape, dtype=torch.int64)), x.encoding),
        torch.empty(x.shape, device="meta"),
    )


# ------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_dies_ends_the_sessions_of_all_lanes(folder: Path, number: int) -> None:
    with names_free(*MEMBERS), started(folder, torchrun=False) as parties:
        workers = [party.connect(folder) for party in parties.values()]
        model = share(workers, nn.Linear(4, 2))
        network = DataParallel(model)
        x = share(workers, torch.randn(6, 4))
        network(x).sum().backward()
        lanes = lanes_of(x.session)
        assert lanes is not None
        lanes.sync()
        victim = parties["alice"].processes[1]
        victim.send_signal(number)
        begin = time.monotonic()
        with pytest.raises(NetworkError) as found:
            for _ in range(10_000):
                network(x).sum().backward()
        assert time.monotonic() - begin < ROUND_SECONDS + 5
        assert "alice" in str(found.value)
        assert until(lambda: all(session._failure is not None for session in lanes.sessions), 5)
        fresh = share(workers, torch.ones(3))
        assert fresh.session is not x.session
        assert torch.equal((fresh * 2).get(), torch.full((3,), 2.0)), "one lane works on"
        victim.kill()
        for worker in workers:
            worker.close()


# ------------------------------------------------------------------------------------------------- ranks and settings


@pytest.mark.parametrize("environment", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "x"}, {"WORLD_SIZE": "0"}])
def test_an_environment_that_makes_no_sense(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="torchrun"):
        ranks.count_from(environment)


def test_each_rank_has_ports_and_files_of_its_own() -> None:
    assert ranks.count_from({}) == (0, 1)
    settings = WorkerSettings(
        "alice", Address("0.0.0.0", 8777), Path("keys"), {"bob": Address("bob", 9000)}, state=Path("state"),
        audit=Path("audit.jsonl"),
    )  # fmt: skip
    assert ranks.settings_of(settings, 0) == settings
    second = ranks.settings_of(settings, 1)
    assert (second.listen.port, second.peers["bob"].port) == (8778, 9001)
    assert (second.state, second.audit) == (Path("state/rank-1"), Path("audit.jsonl.1"))
    for port in (0, 65535):
        with pytest.raises(ConfigurationError, match="port"):
            ranks.settings_of(WorkerSettings("alice", Address("::1", port), Path("keys")), 1)
