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

from sharetorch.mpc.errors import LimitExceededError, SessionEndedError
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
from sharetorch.remote.network.hosting import SessionHost
from sharetorch.remote.network.node import NetworkNode
from sharetorch.remote.network.server import WorkerServer
from sharetorch.remote.network.session_messages import (
    Answer,
    Command,
    Deposit,
    Expect,
    Fresh,
    Input,
    Open,
    Output,
    Propose,
    Refused,
    Sync,
    Synced,
    written,
)
from sharetorch.remote.network.sessions import NetworkedSession
from sharetorch.remote.network.settings import Address, NetworkSettings
from sharetorch.remote.node import Limits
from tests.network.tools import until

MEMBERS = ("alice", "bob", "crypto_provider")
SETTINGS = NetworkSettings(
    connect_seconds=2.0, round_seconds=1.0, max_sessions_per_principal=4, max_message_bytes=1 << 22
)
LIMITS = Limits(object_bytes=1 << 20)
RING64 = PowerRing()
HUGE = 1 << 40


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

    def command(self, name: str, *inputs: int, outputs: int = 1, operation: int = 0, **public: Any) -> Command:
        """A command, by default the next one."""
        made = [new_id() for _ in range(outputs)]
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
    "results too few": (lambda r: r.command("relu", r.x), "ProtocolError"),
    "object that is not there": (lambda r: r.command("negate", 12345), "ObjectGoneError"),
    "debugging": (lambda r: r.command("check_range", r.x, limit_bits=1), "OperationNotAllowedError"),
    "operation repeated": (lambda r: r.command("negate", r.x, operation=r.next - 1), "ProtocolError"),
    "operation left out": (lambda r: r.command("negate", r.x, operation=r.next + 1), "ProtocolError"),
    "function of torch": (lambda r: r.local("item.default"), "UnsupportedOperationError"),
    "slot that is not there": (
        lambda r: r.command("local", r.x, function="aten.neg.default", args=(Slot(7),), kwargs={}), ""
    ),
    "shape without end": (lambda r: r.local("repeat.default", [HUGE]), "LimitExceededError"),
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
    assert answer.kind == (kind or answer.kind) and answer.kind != "RemoteOperationError", answer
    refusals = [entry for entry in group.noted(rank, since) if entry[2] != "done"]
    assert refusals[0][0] == "mallory" and refusals[0][2] == answer.kind, refusals
    assert refusals[-1][1].startswith("session ended")
    with pytest.raises(Exception, match="session|Session"):
        for _ in range(200):
            rogue.session.sync()
            time.sleep(0.01)
    assert group.computes()


HARMLESS_AT_THE_PROVIDER = {"output that was not refreshed", "nobody ever sends it", "input of another size"}
