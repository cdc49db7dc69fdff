"""Preparing with members on other machines: as in one process, without the driver between provider and parties."""

from __future__ import annotations

import queue
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import sharetorch as st
from sharetorch.mpc import testing
from sharetorch.mpc.channel import Message, form_of
from sharetorch.mpc.errors import (
    CorrelationReusedError,
    MembersError,
    NetworkError,
    ObjectGoneError,
    PreparationError,
    UnsupportedOperationError,
)
from sharetorch.mpc.network.links import Link, Received
from sharetorch.mpc.network.member import STEP, Member
from sharetorch.mpc.protocols.bilinear import Product
from sharetorch.mpc.protocols.suite import SUITES
from sharetorch.mpc.randomness import SECRET_BYTES, PairSecret
from sharetorch.mpc.ring import PowerRing
from sharetorch.mpc.share import ArithmeticShare
from sharetorch.mpc.tensor.preparing import PreparedUnusedWarning
from sharetorch.remote.sessions.blocks import Blocks
from sharetorch.remote.sessions.driver import NetworkedSession
from sharetorch.remote.sessions.messages import Prepare, Synced
from sharetorch.remote.worker import known_workers
from tests.mpc import views
from tests.mpc.test_preparing import Training, close, numbers, offline, program, square
from tests.network.tools import WorkerProcess, make_keys, start_group, until

IDS = ("alice", "bob", "carol", "crypto_provider")
MORTAL = {"between": "first_dealer", "inside": "second_dealer"}
"""Providers that are killed."""
ROOM = 8 << 20
"""Bytes the provider keeps for a session."""
CASES = [("tables", 2), ("tables", 3), ("tables-wan", 2), ("fss", 2)]


class Group:
    """Connected workers, with a way to share among them.

    Attributes:
        workers: connections to them, by id.
        state: folder of the provider.
    """

    def __init__(self, processes: dict[str, WorkerProcess], state: Path) -> None:
        self.processes = processes
        self.state = state
        self.workers = {id: process.connect() for id, process in processes.items()}
        self.parties, self.protocol, self.provider = 2, "tables", "crypto_provider"

    def use(self, protocol: str = "tables", parties: int = 2, provider: str = "crypto_provider") -> Group:
        """Share in this way from now on."""
        self.parties, self.protocol, self.provider = parties, protocol, provider
        return self

    def share(self, x: Any, **more: Any) -> Any:
        parties = [self.workers[id] for id in IDS[: self.parties]]
        return x.share(*parties, crypto_provider=self.workers[self.provider], protocol=self.protocol, **more)

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
            worker.remove_worker_from_local_worker_registry()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """Three parties and providers, each a process; only one provider has a state folder."""
    ids = (*IDS, *MORTAL.values())
    keys, state = make_keys(tmp_path_factory.mktemp("keys"), *ids, "me"), tmp_path_factory.mktemp("state")
    special = {"crypto_provider": {"state": state, "limits": {"store_bytes": ROOM}}}
    processes = start_group(ids, keys, special, sessions=True)
    others = [known_workers()[id] for id in IDS if id in known_workers()]
    for worker in others:
        worker.remove_worker_from_local_worker_registry()
    group = Group(processes, state)
    yield group
    group.close()
    for worker in others:
        worker.enter_local_worker_registry()
    for process in processes.values():
        process.stop()


@pytest.fixture
def group(made: Group) -> Group:
    return made.use()


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", PreparedUnusedWarning)
        yield


@pytest.mark.parametrize(("protocol", "parties"), CASES)
def test_a_prepared_run_gives_the_same_and_costs_the_same_online(made: Group, protocol: str, parties: int) -> None:
    group = made.use(protocol, parties)
    x, w = numbers(4, 5), numbers(5, 5, seed=1)
    held = [(group.share(x), group.share(w)) for _ in range(2)]
    session = held[0][0].session
    with session.costs.listen() as heard:
        program(*held[0]).get()
    unprepared = heard.total()
    with session.costs.listen() as heard:
        prepared = session.prepare(program, *held[1])
    ahead = heard.total()
    assert set(heard.by_operation) == {"prepare"}
    assert ahead.offline == unprepared.offline and not ahead.online and ahead.rounds == 0
    assert prepared.runs == 1 and prepared.bytes == offline(heard)
    with session.costs.listen() as heard, prepared:
        opened = program(*held[1]).get()
    assert not heard.total().offline
    assert heard.total().online == unprepared.online and heard.total().rounds == unprepared.rounds
    assert close(opened, program(x, w), 2.0**-8)
    assert prepared.runs == 0 and prepared.bytes == 0


@pytest.mark.parametrize(("protocol", "parties"), [("tables", 2), ("tables", 3), ("fss", 2)])
def test_a_training_step_is_prepared_for_two_batches(made: Group, protocol: str, parties: int) -> None:
    group = made.use(protocol, parties)
    training = Training(group)  # type: ignore[arg-type]
    batches = [(numbers(4, 6, seed=i), numbers(4, 3, seed=i + 9)) for i in range(2)]
    shared = [(group.share(x), group.share(y)) for x, y in batches]
    prepared = training.session.prepare(training.step, *shared[0], count=2)
    with training.session.costs.listen() as heard:
        for (x, y), held in zip(batches, shared, strict=True):
            with prepared:
                loss = training.step(*held)
            assert close(loss, training.plain_step(x, y).detach(), 2.0**-8)
    assert training.agrees()
    assert offline(heard) == 0 and heard.total().rounds > 0
    training.plain_step(*batches[0])
    training.step(group.share(batches[0][0]), group.share(batches[0][1]))
    assert training.agrees(), "a step without preparation goes on from there"


def test_views_writes_and_public_tensors(group: Group) -> None:
    base, x = group.share(numbers(4, 4)), group.share(numbers(4, 4, seed=1))

    def change(base: Any, x: Any) -> Any:
        first = base * x
        base[1:3] += 1
        base.t()[0].mul_(0.5)
        return first + base * x + base.t() @ x + numbers(4, 4, seed=2)

    expected = change(numbers(4, 4), numbers(4, 4, seed=1))
    prepared = base.session.prepare(change, base, x)
    with base.session.costs.listen() as heard, prepared:
        result = change(base, x)
    assert offline(heard) == 0 and close(result, expected)
    assert close(base * x, base.get() * x.get())


def test_another_course_is_dealt_for_anew(group: Group) -> None:
    x, y = numbers(4, 4), numbers(4, 4, seed=1)
    held = group.share(x), group.share(y)
    prepared = held[0].session.prepare(lambda x, y: (x * y).sum() * y.max(), *held)
    message = "1 commands were dealt for anew, and .* not used: combine came where bilinear"
    with held[0].session.costs.listen() as heard, pytest.warns(PreparedUnusedWarning, match=message), prepared:
        found = (held[0] + held[1]).relu()
        assert close(found, (x + y).relu())
    assert offline(heard) > 0 and prepared.runs == 0
    assert close(held[0] * held[1], x * y)


def test_an_operand_that_was_used_before_does_not_fit(group: Group) -> None:
    x, y = group.share(numbers(4)), group.share(numbers(4, seed=1))
    prepared = x.session.prepare(lambda x, y: x * y, x, y)
    used = (x * x).get()
    with pytest.warns(PreparedUnusedWarning, match="used before, or was not"), prepared:
        result = (x * y).get()
    assert close(used, numbers(4) ** 2) and close(result, numbers(4) * numbers(4, seed=1))


def test_looking_at_values_on_the_way_changes_nothing(group: Group) -> None:
    x = group.share(numbers(4))
    prepared = x.session.prepare(lambda x: (x * x).relu() * x, x)
    with x.session.costs.listen() as heard, prepared:
        found = x * x
        assert close(found, numbers(4) ** 2)
        result = found.relu() * x
    assert offline(heard) == 0 and close(result, numbers(4) ** 3)


def test_an_error_of_the_program_gives_up_the_rest_of_a_run(group: Group) -> None:
    x = group.share(numbers(4))
    prepared = x.session.prepare(lambda x: (x * x) * x, x, count=2)
    with pytest.raises(ZeroDivisionError), prepared:
        (x * x).get()
        raise ZeroDivisionError
    assert prepared.runs == 1
    z = group.share(numbers(4, seed=2))
    with x.session.costs.listen() as heard, prepared:
        result = (z * z) * z
    assert offline(heard) == 0 and close(result, numbers(4, seed=2) ** 3)


def test_what_was_used_is_gone(group: Group) -> None:
    x = group.share(numbers(4))
    prepared = x.session.prepare(lambda x: x * x, x, count=2)
    for left in (1, 0):
        with prepared:
            group.share(numbers(4)) ** 2
        assert prepared.runs == left
    with pytest.raises(CorrelationReusedError, match="A second use would reveal"), prepared:
        raise AssertionError("nothing is left")
    with x.session.costs.listen() as heard:
        (group.share(numbers(4)) ** 2).get()
    assert offline(heard) > 0


def test_blocks_that_nobody_needs_are_forgotten(group: Group) -> None:
    x = group.share(numbers(4))
    first = x.session.prepare(lambda x: x * x, x)
    number = first._block.number
    del first
    assert number in x.session._unused
    with x.session.prepare(lambda x: x * x, x):
        assert close(x * x, numbers(4) ** 2)
    assert number not in x.session._unused


def test_a_run_does_not_begin_inside_another(group: Group) -> None:
    x = group.share(numbers(4))
    prepared = x.session.prepare(lambda x: x * x, x, count=2)
    with prepared:
        with pytest.raises(PreparationError, match="End that run first"), prepared:
            raise AssertionError("no second run")
        with pytest.raises(PreparationError, match="End that run first"):
            x.session.prepare(lambda x: x * x, x)
        (x * x).get()
    assert prepared.runs == 1


# What cannot be prepared


def test_a_program_that_opens_something_is_refused(group: Group) -> None:
    x = group.share(numbers(4, 4))
    held: list[Any] = []

    def opening(x: Any) -> Any:
        held.append(x @ x)
        held.append(held[0].relu())
        return x.get()

    with pytest.raises(PreparationError, match="it cannot open a tensor"):
        x.session.prepare(opening, x)
    assert close(x @ x, numbers(4, 4) @ numbers(4, 4))
    with pytest.raises(ObjectGoneError):
        held[1].get()


def test_a_program_asks_for_nothing_but_commands(group: Group) -> None:
    x = group.share(numbers(4))
    with pytest.raises(PreparationError, match="cannot do 'contribute'"):
        x.session.prepare(lambda x: x.session.expect("bob", 1, [4]), x)
    with pytest.raises(ZeroDivisionError):
        x.session.prepare(lambda x: (x * x) * (1 // 0), x)
    prepared = x.session.prepare(lambda x: x * group.share(numbers(4)), x)
    with x.session.costs.listen() as heard, prepared:
        result = x * group.share(numbers(4))
    assert offline(heard) == 0 and close(result, numbers(4) ** 2)


def test_a_provider_who_takes_part_online_is_refused(made: Group) -> None:
    group = made.use("securenn")
    x = group.share(numbers(4))
    with pytest.raises(UnsupportedOperationError, match='protocol="tables"'):
        x.session.prepare(lambda x: x.relu() * x, x)
    assert close(x.relu(), numbers(4).relu())
    y = group.share(numbers(4, seed=1))
    prepared = x.session.prepare(lambda y: y * y, y)
    with x.session.costs.listen() as heard, prepared:
        result = y * y
    assert offline(heard) == 0 and close(result, numbers(4, seed=1) ** 2)


def test_there_are_limits(group: Group) -> None:
    x, large = group.share(numbers(100)), group.share(numbers(60_000))
    with pytest.raises(PreparationError, match="More than 4000 bytes were prepared, in run 2"):
        x.session.prepare(lambda x: x * x, x, count=5, max_bytes=4000)
    with pytest.raises(PreparationError, match=f"More than {ROOM} bytes .* crypto_provider .* store_bytes"):
        x.session.prepare(lambda x: (x * x).relu() * x, large, count=50)
    kept = x.session.prepare(lambda x: x * x, large, count=3)
    with pytest.raises(PreparationError, match="crypto_provider has left"):
        x.session.prepare(lambda x: x * x, large, count=6)
    assert kept.runs == 3
    assert close(x * x, numbers(100) ** 2)


def test_a_session_without_a_provider_cannot(made: Group) -> None:
    session = NetworkedSession([made.workers[id] for id in IDS[:2]], None, PowerRing(), SUITES["tables"])
    with pytest.raises(MembersError, match="no crypto provider"):
        session.prepare(lambda: None)
    with pytest.raises(MembersError, match="no crypto provider"):
        session.load_prepared("steps")
    with pytest.raises(MembersError, match="no crypto provider"):
        session.ask_all(Prepare(session.id, 1, 1), Synced)
    session.close()


# Files


def test_what_is_saved_is_loaded_once(group: Group) -> None:
    x = group.share(numbers(4))
    prepared = x.session.prepare(square, x, count=3)
    with prepared:
        square(x).get()
    size = prepared.bytes
    prepared.save("material")
    assert prepared.runs == 0 and prepared.bytes == 0
    with pytest.raises(CorrelationReusedError), prepared:
        raise AssertionError("nothing is left")
    (path,) = group.state.rglob("material")
    assert path.stat().st_mode & 0o077 == 0
    copy = path.read_bytes()
    path.write_bytes(copy[:-1])
    with pytest.raises(PreparationError, match="damaged"):
        x.session.load_prepared("material")
    path.write_bytes(copy)
    loaded = x.session.load_prepared("material")
    assert (loaded.runs, loaded.bytes) == (2, size) and not path.exists()
    for seed in (4, 5):
        with x.session.costs.listen() as heard, loaded:
            result = square(group.share(numbers(4, seed=seed)))
        assert offline(heard) == 0 and close(result, numbers(4, seed=seed) ** 2)
    with pytest.raises(PreparationError, match="cannot be read"):
        x.session.load_prepared("material")
    path.write_bytes(copy)
    with pytest.raises(CorrelationReusedError, match="was loaded before"):
        x.session.load_prepared("material")
    path.unlink()
    assert close(x * x, numbers(4) ** 2)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../up", "a\\b", "x" * 65])
def test_names_of_files_have_no_folders(group: Group, name: str) -> None:
    x = group.share(numbers(4))
    prepared = x.session.prepare(square, x)
    with pytest.raises(PreparationError, match="is no name for a file"):
        prepared.save(name)
    with pytest.raises(PreparationError, match="is no name for a file"):
        x.session.load_prepared(name)
    with prepared:
        assert close(square(x), numbers(4) ** 2)


def test_a_file_that_cannot_be_written_loses_nothing(group: Group) -> None:
    x = group.share(numbers(4))
    one, other = (x.session.prepare(square, group.share(numbers(4))) for _ in range(2))
    one.save("taken")
    with pytest.raises(PreparationError, match="there is such a file"):
        other.save("taken")
    with other, pytest.raises(PreparationError, match="has not ended"):
        other.save("new")
    assert x.session.load_prepared("taken").runs == 1


def test_a_worker_without_a_state_folder_keeps_no_files(made: Group) -> None:
    group = made.use(provider="carol")
    x = group.share(numbers(4))
    prepared = x.session.prepare(square, x)
    with pytest.raises(PreparationError, match="carol keeps no files"):
        prepared.save("material")
    with prepared:
        assert close(square(x), numbers(4) ** 2)


def test_files_end_with_their_session(made: Group) -> None:
    group = made.use("tables-wan")
    x = group.share(numbers(4))
    x.session.prepare(square, x).save("last")
    (path,) = group.state.rglob("last")
    x.session.close()
    assert until(lambda: not path.parent.exists())


# What a profile says


def test_online_and_offline_are_told_apart(group: Group) -> None:
    x = group.share(numbers(8, 8))
    with st.profile() as ahead:
        prepared = x.session.prepare(square, x)
    with st.profile() as run, prepared:
        result = square(x).detach()
    assert close(result, numbers(8, 8) ** 2)
    assert ahead.totals.offline > 0 and ahead.totals.online == 0 and ahead.rounds == 0
    assert {row.name for row in ahead.rows()} == {"prepare"}
    assert ahead.provider_bytes > 0 and run.provider_bytes == 0 and run.totals.online > 0


# Faults


@pytest.mark.parametrize("moment", MORTAL)
def test_a_provider_that_dies_ends_the_session_by_one_error(made: Group, moment: str) -> None:
    name = MORTAL[moment]
    process, group = made.processes[name], made.use(provider=name)
    x = group.share(numbers(4))
    prepared = x.session.prepare(square, x, count=2)
    with prepared:
        assert close(square(x), numbers(4) ** 2)
    if moment == "between":
        process.stop()
    with pytest.raises(NetworkError) as first, prepared:
        process.stop()
        for _ in range(100):
            square(x)
    assert name in str(first.value)
    with pytest.raises(NetworkError) as second:
        square(x).get()
    assert str(second.value) == str(first.value)


# Views


class _End:
    """One direction between two members, in memory."""

    def __init__(self, transcript: list[Message]) -> None:
        self.waited = 0.0
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._transcript = transcript

    def send(self, message: Message) -> None:
        self._transcript.append(message)
        self._queue.put(message)

    def wait_for_room(self) -> None:
        """There always is some."""

    def receive(self, operation: int, label: str, forms: Any) -> Received:
        message = self._queue.get(timeout=30)
        assert (message.operation, message.label) == (operation, label)
        assert tuple(map(form_of, message.fields)) == forms
        return Received(message.fields, message.round)


class Members:
    """Members of a session as on the network, whose messages are recorded.

    Attributes:
        all: parties and provider.
        transcript: what they sent.
    """

    def __init__(self, parties: int, protocol: str, seed: int) -> None:
        self.transcript: list[Message] = []
        size, entropy = parties + 1, testing.ReplayedEntropy(seed)
        ends = {(i, j): _End(self.transcript) for i in range(size) for j in range(size) if i != j}
        secrets = {(i, j): entropy(SECRET_BYTES) for i in range(size) for j in range(i + 1, size)}
        self.all = [
            Member(
                rank, parties, f"member {rank}", PowerRing(), SUITES[protocol],
                {peer: secrets[min(rank, peer), max(rank, peer)] for peer in range(size) if peer != rank},
                {peer: self._link(ends, rank, peer) for peer in range(size) if peer != rank},
            )
            for rank in range(size)
        ]  # fmt: skip
        self.blocks = [Blocks(member.name, 1 << 40, None) for member in self.all]
        self._operation = 0

    def _link(self, ends: Mapping[tuple[int, int], _End], rank: int, peer: int) -> Any:
        return Link(ends[rank, peer], ends[peer, rank])  # type: ignore[arg-type]

    def put(self, number: int, value: int, count: int) -> None:
        """A tensor of equal elements under equal shares; all parties but the last hold fixed words."""
        parts = [torch.full((count,), 0x0123_4567_89AB_CDEF * (rank + 1)) for rank in range(len(self.all) - 2)]
        last, empty = torch.full((count,), value) - sum(parts), torch.empty(count, dtype=torch.int64, device="meta")
        shares = [*parts, last, empty]
        for member, share in zip(self.all, shares, strict=True):
            member.store[number] = ArithmeticShare(share)

    def prepare(self, name: str, inputs: list[int], outputs: list[int], **public: Any) -> None:
        """Let the provider work ahead for one run of one operation."""
        for member, blocks in zip(self.all, self.blocks, strict=True):
            blocks.begin(member, 1, 1 << 40)
        tracing = self.blocks[-1].tracing
        tracing.stand_in(1, [], [])
        tracing.command(name, inputs, outputs, public, [])
        self.blocks[-1].finish(True)

    def use(self) -> None:
        """Begin the run."""
        for member, blocks in zip(self.all, self.blocks, strict=True):
            blocks.use(member, 1, 1)

    def execute(self, name: str, inputs: list[int], outputs: list[int], **public: Any) -> list[Any]:
        """One operation at all members, each in a thread of its own; their reports."""
        self._operation += 1
        reports: dict[int, Any] = {}

        def run(rank: int) -> None:
            reports[rank] = self.all[rank].execute(self._operation, name, inputs, outputs, public)

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(self.all))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return [reports[rank] for rank in range(len(self.all))]


PROGRAMS: dict[str, Any] = {
    "bilinear": SimpleNamespace(inputs=[1, 2], outputs=[3], public={"function": Product(), "divisor": 1 << 16}),
    "relu": SimpleNamespace(inputs=[1], outputs=[3, 4], public={}),
}
OBJECTS = 1 << 15


def _watch(name: str, protocol: str, parties: int, value: int, seed: int, prepared: bool = True) -> Members:
    members, work = Members(parties, protocol, seed), PROGRAMS[name]
    for number in (1, 2):
        members.put(number, value, OBJECTS)
    if prepared:
        members.prepare(name, work.inputs, [23, 24][: len(work.outputs)], **work.public)
        members.use()
    assert not members.transcript, "nothing is sent ahead"
    reports = members.execute(name, work.inputs, work.outputs, **work.public)
    assert all(bool(report.offline) == (not prepared and report.rank == parties) for report in reports)
    return members


def _announced(members: Members) -> list[tuple[int, int, list[int]]]:
    return [(m.sender, m.receiver, m.fields[0].tolist()) for m in members.transcript if m.label == STEP]


def _others(members: Members) -> list[Message]:
    return [message for message in members.transcript if message.label != STEP]


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(("protocol", "parties"), [("tables", 2), ("tables", 3), ("fss", 2)])
def test_messages_of_a_prepared_run_are_those_of_another_and_tell_nothing(
    name: str, protocol: str, parties: int
) -> None:
    prepared, other = (_watch(name, protocol, parties, value, seed) for value, seed in ((-5, 1), (7, 2)))
    unprepared = _watch(name, protocol, parties, -5, 3, prepared=False)

    def outline(members: Members) -> list[Any]:
        return sorted(
            (m.sender, m.receiver, m.operation, m.label, m.round, m.size, tuple(map(form_of, m.fields)))
            for m in _others(members)
        )

    assert outline(prepared) == outline(other) == outline(unprepared)
    assert not _announced(unprepared)
    assert _announced(prepared) == _announced(other) == [(parties, rank, [(1 << 32) + 1]) for rank in range(parties)]
    for rank in range(parties):
        if protocol == "tables":
            views.require_nothing_seen(_others(prepared), rank)
        mine, theirs = ([m for m in _others(found) if m.round] for found in (prepared, other))
        views.require_same_views(mine, theirs, rank)
        views.require_independent_runs(mine, theirs, rank)


def test_a_run_on_the_secrets_of_the_session_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: every block draws from the same secret, and a step from the same place of its streams."""
    monkeypatch.setattr(PairSecret, "block", lambda secret, number: PairSecret(bytes(SECRET_BYTES)))
    one, other = (_watch("bilinear", "tables", 2, -5, seed) for seed in (1, 2))
    mine, theirs = ([m for m in _others(found) if m.round] for found in (one, other))
    with pytest.raises(AssertionError, match="between runs"):
        views.require_independent_runs(mine, theirs, 1)


def test_a_step_that_a_provider_announces_twice_is_refused() -> None:
    members, work = Members(2, "tables", 1), PROGRAMS["bilinear"]
    for number in (1, 2):
        members.put(number, 3, 4)
    members.prepare("bilinear", work.inputs, [23], **work.public)
    members.use()
    members.execute("bilinear", work.inputs, work.outputs, **work.public)
    members.put(5, 3, 4)
    taking = members.all[-1].taking
    assert taking is not None and taking.run is not None
    told = Message(2, 0, 2, STEP, members.transcript[0].fields, 0, 0)
    members.all[0]._links[2].incoming.send(told)  # type: ignore[attr-defined]
    with pytest.raises(CorrelationReusedError, match="already used"):
        members.all[0].execute(2, "bilinear", [5, 5], [6], work.public)


def test_a_command_that_does_not_fit_is_announced_as_such() -> None:
    members, work = Members(3, "tables", 1), PROGRAMS["bilinear"]
    for number in (1, 2):
        members.put(number, 3, 4)
    members.prepare("bilinear", work.inputs, [23], **work.public)
    members.use()
    reports = members.execute("relu", [1], [7, 8])
    assert _announced(members) == [(3, rank, [0]) for rank in range(3)]
    assert reports[3].offline
    members.execute("bilinear", work.inputs, work.outputs, **work.public)
    used = [blocks.leave(member) for blocks, member in zip(members.blocks, members.all, strict=True)]
    assert used[:3] == [None] * 3
    assert used[3] is not None and (used[3].used, used[3].beside, used[3].left) == (0, 2, 1)
    assert used[3].reason == "relu came where bilinear was prepared"
