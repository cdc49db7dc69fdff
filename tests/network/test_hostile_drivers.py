"""A driver with a genuine certificate that does not keep to the rules: refused by a typed error, and noted.

Whatever it sends, the worker stays alive, no other driver's session suffers, and the audit says who tried what.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from sharetorch.mpc.errors import LimitExceededError, ShareTorchError
from sharetorch.mpc.linear import Slot
from sharetorch.mpc.network import handshake
from sharetorch.mpc.network.identity import Identity
from sharetorch.mpc.protocols.bilinear import Geometry, MatrixProduct, Product
from sharetorch.mpc.protocols.suite import SUITES
from sharetorch.mpc.ring import PowerRing
from sharetorch.mpc.session import new_id
from sharetorch.remote import wire
from sharetorch.remote.network.client import NetworkedWorker
from sharetorch.remote.network.control import SESSION
from sharetorch.remote.network.node import NetworkNode
from sharetorch.remote.network.server import WorkerServer
from sharetorch.remote.network.settings import Address, NetworkSettings
from sharetorch.remote.node import Limits
from sharetorch.remote.sessions.driver import NetworkedSession
from sharetorch.remote.sessions.hosting import SessionHost
from sharetorch.remote.sessions.messages import (
    Answer,
    Command,
    Deposit,
    Expect,
    Finish,
    Fresh,
    Input,
    Leave,
    LoadPrepared,
    Open,
    Output,
    Placeholder,
    Prepare,
    Propose,
    Refused,
    SavePrepared,
    StandIn,
    Sync,
    Synced,
    Trace,
    Use,
    written,
)
from tests.network.tools import until

MEMBERS = ("alice", "bob", "crypto_provider")
SETTINGS = NetworkSettings(
    connect_seconds=2.0, round_seconds=2.0, max_sessions_per_principal=4, max_message_bytes=1 << 22
)
LIMITS = Limits(object_bytes=1 << 20)
RING64 = PowerRing()
HUGE = 1 << 40
SCALING = {"scaling": [1, 1, 1]}


class Worker(NetworkedWorker):
    """Outside the registry of names."""


class Group:
    """Workers of this process behind real ports.

    Attributes:
        servers: of the workers.
        honest: a driver's connections.
        rogue: another one's.
    """

    def __init__(self, keys: Path) -> None:
        self.servers = [self._serve(Identity.load(keys, id)) for id in MEMBERS]
        self.honest, self.rogue = (self.connect(Identity.load(keys, id)) for id in ("me", "mallory"))

    def _serve(self, identity: Identity) -> WorkerServer:
        node = NetworkNode(identity, {}, SETTINGS, limits=LIMITS)
        return WorkerServer(node, identity, settings=SETTINGS, sessions=SessionHost(node, identity, SETTINGS)).start()

    def connect(self, identity: Identity) -> list[Any]:
        """Connections of a driver to all workers."""
        return [
            Worker(Address(*server.address), server.identity.id, identity, SETTINGS).connect()
            for server in self.servers
        ]

    def host(self, rank: int) -> SessionHost:
        """A worker's sessions."""
        found = self.servers[rank].sessions
        assert isinstance(found, SessionHost)
        return found

    def noted(self, rank: int, since: int = 0) -> list[tuple[str, str, str]]:
        """Who asked a worker for what, and what came of it."""
        return [(entry.sender, entry.request, entry.outcome) for entry in self.host(rank).node.audit][since:]

    def computes(self) -> bool:
        """Whether the honest driver gets what it should."""
        x = torch.arange(3.0).share(*self.honest[:2], crypto_provider=self.honest[2])  # type: ignore[attr-defined]
        return bool(((x * x).get() - torch.arange(3.0) ** 2).abs().max() < 2**-12)


@pytest.fixture(scope="module")
def group(keys: Path) -> Iterator[Group]:
    made = Group(keys)
    yield made
    for worker in (*made.honest, *made.rogue):
        worker.close()
    for server in made.servers:
        server.stop()


@pytest.fixture(autouse=True)
def no_proposals(group: Group) -> Iterator[None]:
    """What a test has proposed does not count for the next."""
    yield
    for rank in range(3):
        group.host(rank)._proposals.clear()


class Rogue:
    """A driver in a session of its own, who can send each member anything.

    Attributes:
        x: number of a tensor of shape (2, 3) that it has shared.
    """

    def __init__(self, group: Group) -> None:
        self.group = group
        self.session = NetworkedSession(group.rogue[:2], group.rogue[2], RING64, SUITES["securenn"])
        self.id = self.session.id
        self.x = self.session.distribute(torch.ones(2, 3, dtype=torch.int64))
        self.session.sync()
        self.next = self.session._operation + 1

    def ask(self, item: Any, rank: int = 0, seconds: float = 5.0) -> Any:
        """Send an item to a member and wait for its answer."""
        return ask(self.group.rogue[rank], item, seconds)

    def command(
        self, name: str, *inputs: int, outputs: int = 1, operation: int = 0, numbers: Any = None, **public: Any
    ) -> Command:
        """A command, by default the next one, whose results get new numbers."""
        made = [new_id() for _ in range(outputs)] if numbers is None else numbers
        return Command(self.id, operation or self.next, name, list(inputs), made, written(public), [])

    def local(self, function: str, *args: Any, **kwargs: Any) -> Command:
        """A local operation on ``x``."""
        return self.command("local", self.x, function=f"aten.{function}", args=(Slot(0), *args), kwargs=kwargs)

    def input(self, shape: list[int], size: int, contents: bytes = b"", offset: int = 0) -> Input:
        """A part of a share."""
        return Input(self.id, self.next, new_id(), shape, offset, size, contents)


def ask(worker: Any, item: Any, seconds: float = 5.0) -> Any:
    """Send an item, or bytes in its place, and wait for the answer; None if there is none."""
    data = item if isinstance(item, bytes) else wire.encode(item)
    try:
        return wire.Decoder(Answer, None).decode(worker.control.submit(SESSION, data).result(seconds))
    except FutureTimeout:
        return None


@pytest.fixture
def rogue(group: Group) -> Iterator[Rogue]:
    made = Rogue(group)
    yield made
    made.session.close()
    assert until(lambda: not any(s.control.peer.id == "mallory" for s in group.host(0)._sessions.values()))


Attack = Callable[[Rogue], Any]

COMMANDS: dict[str, tuple[Attack, str]] = {
    "unknown operation": (lambda r: r.command("open", r.x), "UnsupportedOperationError"),
    "name of a method": (lambda r: r.command("__class__", r.x), "UnsupportedOperationError"),
    "no operand": (lambda r: r.command("negate"), "TypeError"),
    "operands too many": (lambda r: r.command("negate", r.x, r.x), "TypeError"),
    "argument missing": (lambda r: r.command("bilinear", r.x, r.x), "TypeError"),
    "unknown argument": (lambda r: r.command("negate", r.x, secret=True), "TypeError"),
    "party as an argument": (lambda r: r.command("negate", r.x, party=1), "TypeError"),
    "argument of another type": (lambda r: r.command("scale", r.x, values="1"), ""),
    "results too many": (lambda r: r.command("negate", r.x, outputs=2), "ProtocolError"),
    "results too few": (lambda r: r.local("unbind.int", 0), "ProtocolError"),
    "result under an operand's number": (
        lambda r: r.command("local", r.x, numbers=[r.x], function="aten.clone.default", args=(Slot(0),), kwargs={}),
        "MalformedRequestError",
    ),
    "results under one number": (lambda r: r.command("relu", r.x, numbers=[77, 77]), "MalformedRequestError"),
    "object that is not there": (lambda r: r.command("negate", 12345), "ObjectGoneError"),
    "debugging": (lambda r: r.command("check_range", r.x, limit_bits=1), "OperationNotAllowedError"),
    "operation repeated": (lambda r: r.command("negate", r.x, operation=r.next - 1), "ProtocolError"),
    "operation left out": (lambda r: r.command("negate", r.x, operation=r.next + 1), "ProtocolError"),
    "function of torch": (lambda r: r.local("item.default"), "UnsupportedOperationError"),
    "slot that is not there": (
        lambda r: r.command("local", r.x, function="aten.neg.default", args=(Slot(7),), kwargs={}), ""
    ),
    "shape without end": (lambda r: r.local("repeat.default", [1, HUGE]), "LimitExceededError"),
    "padding without end": (lambda r: r.local("constant_pad_nd.default", [0, HUGE]), "LimitExceededError"),
    "product without end": (lambda r: _outer(r), "LimitExceededError"),
    "beyond its memory": (lambda r: r.local("as_strided.default", [2, 3], [1 << 20, 1]), ""),
    "before its memory": (lambda r: r.local("as_strided.default", [2, 3], [1, 1], -8), ""),
    "dimension that is not there": (lambda r: r.local("select.int", 5, 0), "IndexError"),
    "index that is not there": (lambda r: r.local("index_select.default", 0, torch.tensor([99])), ""),
    "index before the first": (lambda r: r.local("gather.default", 0, torch.tensor([[-99]])), ""),
    "divisor of zero": (lambda r: r.command("truncate", r.x, divisor=0, method="exact"), ""),
    "unknown way of truncation": (lambda r: r.command("truncate", r.x, divisor=2, method="none"), ""),
    "bilinear map without its geometry": (
        lambda r: r.command("bilinear", r.x, r.x, function=MatrixProduct(), divisor=1), ""
    ),
    "product of an operand that is not among the inputs": (
        lambda r: r.command("products", r.x, terms=[[Product(), 0, 3, 1]]), ""
    ),
    "products without terms": (lambda r: r.command("products", r.x, terms=[]), ""),
    "written to no operand": (lambda r: r.command("write_all", r.x, writes=[[2, [0], [1]]]), ""),
    "written without sources": (lambda r: r.command("write_all", r.x, writes=[[0, [], []]]), ""),
    "factors of another number": (lambda r: r.command("write_all", r.x, writes=[[0, [0], [1, 2]]]), ""),
    "a step to no operand": (lambda r: r.command("descend", r.x, steps=[[0, [0], [1], 3]], scaling=[1, 1, 1]), ""),
    "a step of nothing": (lambda r: r.command("descend", r.x, steps=[[0, [], [], 0]], scaling=[1, 1, 1]), ""),
    "a step too large": (lambda r: r.command("descend", r.x, steps=[[0, [0], [1], 0]], scaling=[40, 1, 40]), ""),
    "a step that is no number": (lambda r: r.command("descend", r.x, steps=[[0, [0], [1], 0]], scaling=["1", 1]), ""),
    "a step with a product of no step": (
        lambda r: r.command("descend", r.x, steps=[[0, [0], [1], 0]], products=[[7, Product(), 0, 0]], **SCALING), ""
    ),
    "a step with a product of no operand": (
        lambda r: r.command("descend", r.x, steps=[[-1, [], [], 0]], products=[[0, Product(), 0, 5]], **SCALING), ""
    ),
    "a step with a product that is none": (
        lambda r: r.command("descend", r.x, steps=[[-1, [0], [1], 0]], products=[[0, "mm", 0, 0]], **SCALING), ""
    ),
    "output that was not refreshed": (lambda r: Output(r.id, r.x), "OperationNotAllowedError"),
    "output of what is not there": (lambda r: Output(r.id, 12345), "ObjectGoneError"),
    "input of another size": (lambda r: r.input([2], 8), "MalformedRequestError"),
    "input from the middle": (lambda r: r.input([2], 16, b"x" * 8, 8), "MalformedRequestError"),
    "input with more than it says": (lambda r: r.input([1], 8, b"x" * 16), "MalformedRequestError"),
    "input without end": (lambda r: r.input([HUGE], 8 * HUGE), "LimitExceededError"),
    "input of a negative shape": (lambda r: r.input([-1, -1], 8), "MalformedRequestError"),
    "input of many dimensions": (lambda r: r.input([1 << 62] * 100_000, 8), "MalformedRequestError"),
    "input in the place of another": (
        lambda r: Input(r.id, r.next, r.x, [1], 0, 8, b"x" * 8), "MalformedRequestError"
    ),
    "expected shape without end": (lambda r: Expect(r.id, r.next, new_id(), "bob", [HUGE]), "LimitExceededError"),
    "expected negative shape": (lambda r: Expect(r.id, r.next, new_id(), "bob", [-1]), "MalformedRequestError"),
    "nobody ever sends it": (lambda r: Expect(r.id, r.next, new_id(), "bob", [1]), "DeadlineExceededError"),
    "block left out": (lambda r: Prepare(r.id, 2, HUGE), "ProtocolError"),
    "block without a number": (lambda r: Prepare(r.id, 0, HUGE), "ProtocolError"),
    "objects of no block": (lambda r: StandIn(r.id, 1, [new_id()], [r.x]), "ProtocolError"),
    "placeholder of no block": (lambda r: Placeholder(r.id, new_id(), [1]), "ProtocolError"),
    "operation of no block": (lambda r: Trace(r.id, "negate", [r.x], [new_id()], {}), "ProtocolError"),
    "end of no block": (lambda r: Finish(r.id, True), "ProtocolError"),
    "run of no block": (lambda r: Use(r.id, 1, 1), "ProtocolError"),
    "end of no run": (lambda r: Leave(r.id), "ProtocolError"),
}  # fmt: skip


def _outer(r: Rogue) -> Command:
    """A matrix product of a column and a row, much larger than both."""
    numbers = []
    for shape in ((1 << 16, 1), (1, 1 << 16)):
        numbers.append(r.session.distribute(torch.ones(shape, dtype=torch.int64)))
    r.session.sync()
    r.next += 2
    return r.command("bilinear", *numbers, function=MatrixProduct())


@pytest.mark.parametrize("rank", [0, 2], ids=["party", "provider"])
@pytest.mark.parametrize("attack", COMMANDS)
def test_what_a_member_refuses(group: Group, rogue: Rogue, attack: str, rank: int) -> None:
    make, kind = COMMANDS[attack]
    item = make(rogue)
    since = len(group.noted(rank))
    answer = rogue.ask(item, rank)
    if rank == 2 and not (isinstance(answer, Refused)):  # a provider holds no values: some attacks mean nothing to it
        assert attack in HARMLESS_AT_THE_PROVIDER
        return
    assert isinstance(answer, Refused), answer
    assert answer.kind == (kind or answer.kind), answer
    refusals = [entry for entry in group.noted(rank, since) if entry[2] != "done"]
    assert ("mallory", answer.kind) in [(who, what) for who, _, what in refusals], refusals
    assert until(lambda: any(request.startswith("session ended") for _, request, _ in group.noted(rank, since)))
    with pytest.raises(ShareTorchError):
        for _ in range(200):
            rogue.session.sync()
            time.sleep(0.01)
    assert group.computes()


HARMLESS_AT_THE_PROVIDER = {
    "nobody ever sends it", "beyond its memory", "index that is not there", "index before the first",
}  # fmt: skip


# ------------------------------------------------------------------------------------------ sessions that are not one's


def test_sessions_of_others_do_not_exist(group: Group, rogue: Rogue) -> None:
    """Not even whoever knows the id of a session can speak in it."""
    x = torch.arange(3.0).share(*group.honest[:2], crypto_provider=group.honest[2])  # type: ignore[attr-defined]
    id, number = x.session.id, x.handle.number
    for item in (Output(id, number), Sync(id), Command(id, 99, "negate", [number], [new_id()], {}, [])):
        since = len(group.noted(0))
        answer = rogue.ask(item)
        assert answer.kind == "SessionEndedError" and "no such session of this connection" in answer.text
        assert ("mallory", "SessionEndedError") in [(who, what) for who, _, what in group.noted(0, since)]
    assert rogue.ask(Output(rogue.id, number)).kind == "ObjectGoneError"  # nor is its object in another session
    assert torch.equal(x.get(), torch.arange(3.0))


def test_another_connection_of_the_same_driver_is_another_driver(group: Group, rogue: Rogue, keys: Path) -> None:
    again = group.connect(Identity.load(keys, "mallory"))
    try:
        assert ask(again[0], Sync(rogue.id)).kind == "SessionEndedError"
        assert isinstance(rogue.ask(Sync(rogue.id)), Synced)
    finally:
        for worker in again:
            worker.close()


def _document(group: Group, **changes: Any) -> handshake.SessionDocument:
    members = [handshake.MemberEntry(w.id, w.public, *w.address) for w in group.rogue]
    document = handshake.SessionDocument(
        handshake.VERSION, members, 2, RING64.modulus.to_bytes(9, "big"), "securenn", 1.0
    )
    return msgspec.structs.replace(document, **changes)


DOCUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "no protection": ({"suite": "plaintext"}, "UnsupportedOperationError"),
    "unknown protocol": ({"suite": "open"}, "UnsupportedOperationError"),
    "one party": ({"parties": 1}, "MembersError"),
    "parties without end": ({"parties": 1 << 40}, "MembersError"),
    "another version": ({"version": 2}, "HandshakeError"),
    "waits without end": ({"round_seconds": 1e9}, "LimitExceededError"),
    "waits for no number": ({"round_seconds": float("nan")}, "LimitExceededError"),
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_documents_a_worker_does_not_agree_to(group: Group, case: str) -> None:
    changes, kind = DOCUMENTS[case]
    since = len(group.noted(0))
    answer = ask(group.rogue[0], Propose(_document(group, **changes)))
    assert isinstance(answer, Refused) and answer.kind == kind
    assert ("mallory", "session propose", kind) in group.noted(0, since)


@pytest.mark.parametrize("modulus", [b"", b"\x00", b"\x01", b"\xff" * 100_000], ids=["none", "zero", "one", "huge"])
def test_rings_that_are_none(group: Group, modulus: bytes) -> None:
    kinds = ("ModulusError", "LimitExceededError")
    document = _document(group, modulus=modulus)
    fresh = [ask(worker, Propose(document)) for worker in group.rogue]
    if all(isinstance(answer, Fresh) for answer in fresh):
        fresh = [ask(worker, Open(document, [part.fresh for part in fresh])) for worker in group.rogue]
    assert all(isinstance(answer, Refused) and answer.kind in kinds for answer in fresh), fresh
    assert group.computes()


def test_a_session_needs_what_this_worker_contributed_to_this_connection(group: Group, keys: Path) -> None:
    """Replayed proposals, and proposals of somebody else's connection, open nothing."""
    document = _document(group)
    old = [ask(worker, Propose(document)).fresh for worker in group.rogue]
    new = [ask(worker, Propose(document)).fresh for worker in group.rogue]
    assert ask(group.rogue[0], Open(document, old)).kind == "HandshakeError"
    assert ask(group.rogue[0], Open(document, new)).kind == "HandshakeError"  # the wrong try has used it up
    mine = ask(group.rogue[1], Propose(document)).fresh
    assert ask(group.honest[1], Open(document, [mine] * 3)).kind == "HandshakeError"
    assert ask(group.rogue[1], Open(document, [new[0], mine, new[2][:-1]])).kind == "HandshakeError"


def test_an_opening_is_not_replayed(group: Group, rogue: Rogue) -> None:
    assert rogue.ask(Open(rogue.session.document, rogue.session.fresh)).kind == "HandshakeError"
    assert isinstance(rogue.ask(Sync(rogue.id)), Synced)


def test_sessions_are_bounded_for_each_driver(group: Group) -> None:
    made: list[NetworkedSession] = []
    try:
        with pytest.raises(LimitExceededError, match="mallory has .* sessions at alice"):
            for _ in range(SETTINGS.max_sessions_per_principal + 1):
                made.append(NetworkedSession(group.rogue[:2], group.rogue[2], RING64, SUITES["securenn"]))
        assert len(made) <= SETTINGS.max_sessions_per_principal
        assert group.computes()
    finally:
        for session in made:
            session.close()


def test_proposals_of_one_driver_do_not_count_for_others(group: Group) -> None:
    while isinstance(ask(group.rogue[0], Propose(_document(group, round_seconds=0.5))), Fresh):
        if len(group.host(0)._proposals) > 2 * SETTINGS.max_sessions_per_principal:
            break
        for seconds in (0.1, 0.2, 0.3, 0.4):
            ask(group.rogue[0], Propose(_document(group, round_seconds=seconds)))
    session = NetworkedSession(group.honest[:2], group.honest[2], RING64, SUITES["securenn"])
    session.sync()
    session.close()
    assert until(lambda: not group.host(0)._sessions or group.computes())


# ------------------------------------------------------------------------------------------------- deposits of owners


def _deposit(rogue: Rogue, number: int, shape: list[int], contents: bytes, **changes: Any) -> Deposit:
    item = Deposit(rogue.id, number, shape, 0, len(contents), contents, b"", [])
    return msgspec.structs.replace(item, **changes)


def test_a_deposit_of_somebody_else_than_announced_is_not_taken(group: Group, rogue: Rogue) -> None:
    number = new_id()
    assert ask(group.honest[0], _deposit(rogue, number, [1], b"x" * 8), 0.3) is None  # it is kept, for "me"
    answer = rogue.ask(Expect(rogue.id, rogue.next, number, "bob", [1]))
    assert answer.kind == "DeadlineExceededError" and "bob did not share" in answer.text
    assert group.computes()


def test_a_deposit_of_another_shape_than_announced_is_not_taken(group: Group, rogue: Rogue) -> None:
    number = new_id()
    ask(group.honest[0], _deposit(rogue, number, [2], b"x" * 16), 0.3)
    assert rogue.ask(Expect(rogue.id, rogue.next, number, "me", [1, 2])).kind == "MalformedRequestError"
    assert group.computes()


DEPOSITS: dict[str, tuple[Callable[[Rogue], Deposit], str]] = {
    "another size": (lambda r: _deposit(r, 1, [3], b"x" * 8), "MalformedRequestError"),
    "from the middle": (lambda r: _deposit(r, 1, [1], b"x" * 8, offset=8), "MalformedRequestError"),
    "without end": (lambda r: _deposit(r, 1, [HUGE], b"", size=8 * HUGE), "LimitExceededError"),
    "many dimensions": (lambda r: _deposit(r, 1, [1 << 62] * 100_000, b""), "MalformedRequestError"),
    "no session": (lambda r: _deposit(r, 1, [1], b"x" * 8, session=b"0" * 32), "SessionEndedError"),
}


@pytest.mark.parametrize("case", DEPOSITS)
def test_deposits_that_are_refused(group: Group, rogue: Rogue, case: str) -> None:
    make, kind = DEPOSITS[case]
    since = len(group.noted(0))
    answer = ask(group.honest[0], make(rogue))
    assert isinstance(answer, Refused) and answer.kind == kind
    assert ("me", "session deposit", kind) in group.noted(0, since)
    assert isinstance(rogue.ask(Sync(rogue.id)), Synced)


def test_deposits_nobody_waits_for_are_bounded(group: Group, rogue: Rogue) -> None:
    for _ in range(64):
        group.honest[0].control.post(SESSION, wire.encode(_deposit(rogue, new_id(), [1], b"x" * 8)))
    assert ask(group.honest[0], _deposit(rogue, new_id(), [1], b"x" * 8)).kind == "LimitExceededError"


# --------------------------------------------------------------------------------------------------------------- bytes


def test_malformed_items(group: Group, rogue: Rogue) -> None:
    """Cut, changed and random items; the connection stays, since what belongs to it is in order."""
    whole = wire.encode(rogue.command("negate", rogue.x))
    broken = [b"", b"\xc1", b"\x93\xa3abc", whole + b"\x00", wire.encode(Synced())]
    broken += [b"\xdd\xff\xff\xff\xff", b"\x91" * 5000]
    broken += [whole[:cut] for cut in range(len(whole))]
    for data in broken:
        answer = rogue.ask(data)
        assert isinstance(answer, Refused) and answer.kind == "MalformedRequestError", (data, answer)
    assert ("mallory", "?", "MalformedRequestError") in group.noted(0)
    assert isinstance(rogue.ask(Sync(rogue.id)), Synced)
    assert group.computes()


def test_maps_and_geometries_that_are_none(rogue: Rogue) -> None:
    geometry = Geometry((1, 1, 4, 4), (1, 1, 2, 2), (1, 1), (0, 0), (1, 1), 1)
    for wrong in (
        msgspec.msgpack.Ext(33, msgspec.msgpack.encode(["open", None])),
        msgspec.msgpack.Ext(33, b"\xc1"),
        msgspec.msgpack.Ext(34, written(geometry).data[:-1]),
        msgspec.msgpack.Ext(34, msgspec.msgpack.encode([[1, 1, 4, 4], [1, 1, 2, 2], [0, 1], [0, 0], [1, 1], 1])),
        msgspec.msgpack.Ext(99, b""),
    ):
        item = rogue.command("bilinear", rogue.x, rogue.x)
        answer = rogue.ask(msgspec.structs.replace(item, public={"function": wrong}))
        assert isinstance(answer, Refused) and answer.kind == "MalformedRequestError", answer
    assert isinstance(rogue.ask(Sync(rogue.id)), Synced)


def test_commands_that_wait_are_bounded(group: Group, rogue: Rogue) -> None:
    """A driver that does not wait for Progress, with operations that cannot go on."""
    control = group.rogue[0].control
    control.post(SESSION, wire.encode(Expect(rogue.id, rogue.next, new_id(), "bob", [1])))
    data = wire.encode(Sync(rogue.id))
    futures = [control.submit(SESSION, data) for _ in range(5000)]
    kinds = {wire.Decoder(Answer, None).decode(future.result(10)).kind for future in futures}
    assert kinds <= {"LimitExceededError", "SessionEndedError"} and "LimitExceededError" in kinds
    assert group.computes()


def test_an_output_is_given_once(group: Group, rogue: Rogue) -> None:
    """Two outputs of one refreshed share would be the same; whoever wants another refreshes again."""
    (fresh,) = rogue.session.command("refresh", rogue.x)
    rogue.session.sync()
    assert type(rogue.ask(Output(rogue.id, fresh))).__name__ == "Share"
    assert rogue.ask(Output(rogue.id, fresh)).kind == "OperationNotAllowedError"
    assert group.computes()


def test_what_is_computed_from_a_refreshed_share_is_not_fresh(rogue: Rogue) -> None:
    """An output of 2 x beside that of x would let the same mask be seen twice."""
    (fresh,) = rogue.session.command("refresh", rogue.x)
    (double,) = rogue.session.command("combine", fresh, fresh)
    rogue.session.sync()
    assert rogue.ask(Output(rogue.id, double)).kind == "OperationNotAllowedError"


def test_the_provider_has_nothing_to_put_out(rogue: Rogue) -> None:
    (fresh,) = rogue.session.command("refresh", rogue.x)
    rogue.session.sync()
    answer = rogue.ask(Output(rogue.id, fresh), 2)
    assert isinstance(answer, Refused), answer


def test_products_are_what_they_were(group: Group, rogue: Rogue) -> None:
    """The rules leave honest programs alone."""
    made = rogue.session.command("bilinear", rogue.x, rogue.x, function=Product())
    assert rogue.session.reveal_elements(made[0]).tolist() == [[1, 1, 1], [1, 1, 1]]


# ---------------------------------------------------------------------------------------------------- prepared programs

PROVIDER = 2


def _begin_block(rogue: Rogue, run: bool = True) -> None:
    """Begin block 1 at all members, and its first run at the provider."""
    assert all(isinstance(rogue.ask(Prepare(rogue.id, 1, HUGE), rank), Synced) for rank in range(3))
    if run:
        assert isinstance(rogue.ask(StandIn(rogue.id, 1, [], []), PROVIDER), Synced)


TRACES: dict[str, tuple[Attack, str]] = {
    "run left out": (lambda r: StandIn(r.id, 3, [], []), "ProtocolError"),
    "run repeated": (lambda r: StandIn(r.id, 1, [], []), "ProtocolError"),
    "stands for nothing": (lambda r: StandIn(r.id, 2, [new_id()], []), "MalformedRequestError"),
    "stands for what is not there": (lambda r: StandIn(r.id, 2, [new_id()], [12345]), "ObjectGoneError"),
    "stands in the place of another": (lambda r: StandIn(r.id, 2, [r.x], [r.x]), "MalformedRequestError"),
    "stands twice": (lambda r: StandIn(r.id, 2, [77, 77], [r.x, r.x]), "MalformedRequestError"),
    "placeholder in the place of another": (lambda r: Placeholder(r.id, r.x, [1]), "MalformedRequestError"),
    "placeholder of a negative shape": (lambda r: Placeholder(r.id, new_id(), [-1]), "MalformedRequestError"),
    "operand that is not there": (lambda r: Trace(r.id, "negate", [12345], [new_id()], {}), "ObjectGoneError"),
    "result in the place of another": (lambda r: Trace(r.id, "negate", [r.x], [r.x], {}), "MalformedRequestError"),
    "results too many": (lambda r: Trace(r.id, "negate", [r.x], [new_id(), new_id()], {}), "ProtocolError"),
    "another block": (lambda r: Prepare(r.id, 2, HUGE), "ProtocolError"),
    "a run of what is not made": (lambda r: Use(r.id, 1, 1), "ProtocolError"),
    "a command meanwhile": (lambda r: r.command("negate", r.x), "ProtocolError"),
}


@pytest.mark.parametrize("attack", TRACES)
def test_what_a_provider_that_works_ahead_refuses(group: Group, rogue: Rogue, attack: str) -> None:
    make, kind = TRACES[attack]
    _begin_block(rogue)
    since = len(group.noted(PROVIDER))
    answer = rogue.ask(make(rogue), PROVIDER)
    assert isinstance(answer, Refused) and answer.kind == kind, answer
    assert ("mallory", kind) in [(who, what) for who, _, what in group.noted(PROVIDER, since)]
    assert until(lambda: any(what.startswith("session ended") for _, what, _ in group.noted(PROVIDER, since)))
    assert group.computes()


def test_an_operation_before_the_first_run_is_refused(group: Group, rogue: Rogue) -> None:
    _begin_block(rogue, run=False)
    answer = rogue.ask(Trace(rogue.id, "negate", [rogue.x], [new_id()], {}), PROVIDER)
    assert answer.kind == "ProtocolError" and group.computes()


FORGIVEN: dict[str, tuple[Attack, str]] = {
    "unknown operation": (lambda r: Trace(r.id, "open", [r.x], [new_id()], {}), "UnsupportedOperationError"),
    "debugging": (
        lambda r: Trace(r.id, "check_range", [r.x], [new_id()], {"limit_bits": 1}), "OperationNotAllowedError"
    ),
    "placeholder without end": (lambda r: Placeholder(r.id, new_id(), [HUGE]), "LimitExceededError"),
    "shape without end": (
        lambda r: Trace(
            r.id, "local", [r.x], [new_id()],
            written({"function": "aten.repeat.default", "args": (Slot(0), [1, HUGE]), "kwargs": {}}),
        ),
        "LimitExceededError",
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", FORGIVEN)
def test_nothing_more_is_prepared_after_a_refusal_and_the_session_goes_on(
    group: Group, rogue: Rogue, attack: str
) -> None:
    make, kind = FORGIVEN[attack]
    _begin_block(rogue)
    answer = rogue.ask(make(rogue), PROVIDER)
    assert isinstance(answer, Refused) and answer.kind == kind, answer
    assert rogue.ask(Trace(rogue.id, "negate", [rogue.x], [new_id()], {}), PROVIDER).kind == "PreparationError"
    assert isinstance(rogue.ask(Finish(rogue.id, True), PROVIDER), Synced)
    made = rogue.session.command("bilinear", rogue.x, rogue.x, function=Product())
    assert rogue.session.reveal_elements(made[0]).tolist() == [[1, 1, 1], [1, 1, 1]]
    assert rogue.ask(Use(rogue.id, 1, 1), PROVIDER).kind == "PreparationError"
    assert group.computes()


@pytest.mark.parametrize("rank", [0, PROVIDER], ids=["party", "provider"])
@pytest.mark.parametrize(
    ("run", "kind"), [(1, "CorrelationReusedError"), (0, "CorrelationReusedError"), (3, "ProtocolError")]
)
def test_a_run_begins_once_and_in_its_turn(group: Group, rogue: Rogue, run: int, kind: str, rank: int) -> None:
    session = rogue.session
    prepared = session.prepare(lambda: session.command("bilinear", rogue.x, rogue.x, function=Product()), count=3)
    with prepared:
        session.command("bilinear", rogue.x, rogue.x, function=Product())
    answer = rogue.ask(Use(rogue.id, 1, run), rank)
    assert isinstance(answer, Refused) and answer.kind == kind, answer
    assert group.computes()


def test_a_run_does_not_begin_in_another(group: Group, rogue: Rogue) -> None:
    session = rogue.session
    prepared = session.prepare(lambda: session.command("negate", rogue.x), count=2)
    with pytest.raises(ShareTorchError), prepared:
        assert rogue.ask(Use(rogue.id, 1, 2)).kind == "ProtocolError"
        session.sync()
    assert group.computes()


def test_files_of_a_worker_without_a_folder(group: Group, rogue: Rogue) -> None:
    for item in (SavePrepared(rogue.id, 1, "steps"), LoadPrepared(rogue.id, "steps")):
        answer = rogue.ask(item, PROVIDER)
        assert answer.kind == "PreparationError" and "no state folder" in answer.text
    assert isinstance(rogue.ask(Sync(rogue.id), PROVIDER), Synced)
    assert rogue.ask(SavePrepared(rogue.id, 1, "steps")).kind == "ProtocolError"  # a party
    assert group.computes()
