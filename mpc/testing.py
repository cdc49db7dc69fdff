"""Tools for tests of protocols: sessions that can be replayed, chosen shares, recorded views, measured costs.

For tests only. A session made here from a seed draws every secret from that seed, so whoever knows the seed knows all
secrets; programs make their sessions through ``sharetorch``, which offers no such choice.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.channel import Message, Payload
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.suite import SUITES
from sharetorch.mpc.randomness import Entropy, system_entropy
from sharetorch.mpc.ring import Elements, PowerRing, Ring
from sharetorch.mpc.session import new_id
from sharetorch.mpc.share import ArithmeticShare, reconstruct
from sharetorch.mpc.virtual import VirtualSession

ProtocolFunction = Callable[..., Coroutine[Any, Any, Any]]
"""``async def protocol(party, *shares, **public)``."""


@dataclass
class PlainMember:
    """A member that is nothing but a name and a store."""

    id: str
    store: dict[int, Any] = field(default_factory=dict)


class ReplayedEntropy:
    """A source of secrets that gives the same bytes for the same seed: SHA-256 of the seed and a counter."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._calls = 0

    def __call__(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        self._calls += 1
        return hashlib.shake_256(f"test/{self._seed}/{self._calls}".encode()).digest(count)


def session(n: int = 2, suite: str = "securenn", ring: Ring | None = None, seed: int | None = None) -> VirtualSession:
    """A session of ``n`` plain members and a provider, for tests only.

    Args:
        n: number of parties.
        suite: name of the protocol suite.
        ring: where shares live; Z_2^64 if None.
        seed: replays all secrets; None draws them from the operating system.
    """
    members = [PlainMember(f"party {rank}") for rank in range(n)]
    entropy: Entropy = system_entropy if seed is None else ReplayedEntropy(seed)
    return VirtualSession(members, PlainMember("provider"), ring or PowerRing(), SUITES[suite], entropy)


def plaintext(ring: Ring | None = None) -> VirtualSession:
    """A session of the reference suite: one member that holds everything in the clear."""
    return VirtualSession([PlainMember("alone")], None, ring or PowerRing(), SUITES["plaintext"])


def put(session: VirtualSession, *shares: Elements) -> int:
    """Store a secret as exactly these shares, one per party. Returns the object's number."""
    number = new_id()
    for member, share in zip(session.parties, shares, strict=True):
        member.store[number] = ArithmeticShare(share)
    if session.provider is not None:
        session.provider.store[number] = ArithmeticShare(session.ring.empty_meta(shares[0]))
    return number


def put_value(session: VirtualSession, values: Tensor | Sequence[int]) -> int:
    """Store integers under random shares. Returns the object's number."""
    return session.distribute(torch.as_tensor(values))


def put_against(session: VirtualSession, values: Tensor, first: Tensor) -> int:
    """Store integers of two parties such that the first holds ``first``."""
    ring = session.ring
    first = ring.from_integers(first)
    return put(session, first, ring.reduce(ring.from_integers(values) - first))


class Splits(NamedTuple):
    """Values with all their sharings by two parties; all tensors have shape (values * modulus,)."""

    values: Tensor
    first: Tensor


def all_splits(values: Iterable[int], ring: Ring) -> Splits:
    """Every value with every share the first of two parties may hold."""
    column = torch.tensor(list(values), dtype=torch.int64)
    shares = ring.from_integers(torch.arange(ring.modulus))
    return Splits(column.repeat_interleave(len(shares)), shares.repeat(len(column)))


def shares(session: VirtualSession, number: int) -> list[Elements]:
    """What each party holds of an object."""
    return [member.store[number].data for member in session.parties]


def value(session: VirtualSession, number: int) -> Tensor:
    """Signed integers behind an object, read from the stores without a message."""
    return session.ring.to_signed(reconstruct(shares(session, number), session.ring))


def run(session: VirtualSession, protocol: ProtocolFunction, *operands: Any, **public: Any) -> list[Any]:
    """Let every member run a protocol coroutine as one operation.

    Args:
        session: whose members run it.
        protocol: called as ``protocol(party, *held, **public)``.
        operands: numbers of objects, or functions of the member's ``Party`` that give its own argument.
        public: arguments that all members get.

    Returns:
        What each member's coroutine returned, the provider's last.
    """
    arguments = [[_argument(session, party, operand) for operand in operands] for party in session._ranks]
    coroutines = [protocol(party, *held, **public) for party, held in zip(session._ranks, arguments, strict=True)]
    try:
        return session._run(getattr(protocol, "__name__", "test"), coroutines)
    except BaseException:
        for share in (share for held in arguments for share in held if isinstance(share, ArithmeticShare)):
            share.forget_opening()
        raise


def _argument(session: VirtualSession, party: Party, operand: Any) -> Any:
    return session._members[party.rank].store[operand] if isinstance(operand, int) else operand(party)


def run_value(session: VirtualSession, protocol: ProtocolFunction, *operands: Any, **public: Any) -> Any:
    """Run a protocol and reconstruct its result: one tensor of signed integers, or a tuple of them."""
    results = run(session, protocol, *operands, **public)[: len(session.parties)]
    if isinstance(results[0], ArithmeticShare):
        return _signed(session, results)
    return tuple(_signed(session, part) for part in zip(*results, strict=True))


def _signed(session: VirtualSession, held: Sequence[ArithmeticShare]) -> Tensor:
    return session.ring.to_signed(reconstruct([share.data for share in held], session.ring))


class Received(NamedTuple):
    """One message as its receiver sees it."""

    sender: int
    fields: tuple[Payload, ...]


def view_of(transcript: Iterable[Message], rank: int) -> dict[str, list[Received]]:
    """What one member received, by label, in order."""
    view: defaultdict[str, list[Received]] = defaultdict(list)
    for message in transcript:
        if message.receiver == rank:
            view[message.label].append(Received(message.sender, message.fields))
    return dict(view)


class Execution(NamedTuple):
    """A protocol's run with everything that was sent.

    Attributes:
        results: what each member's coroutine returned.
        transcript: all messages.
        cost: what was counted.
    """

    results: list[Any]
    transcript: list[Message]
    cost: Cost


def execute(session: VirtualSession, protocol: ProtocolFunction, *operands: Any, **public: Any) -> Execution:
    """Run a protocol as ``run`` does, and record messages and cost."""
    with session.record() as transcript, session.costs.listen() as heard:
        results = run(session, protocol, *operands, **public)
    return Execution(results, transcript, heard.total().as_cost(len(session.parties)))


def require_cost(
    session: VirtualSession, declared: Cost, protocol: ProtocolFunction, *operands: Any, **public: Any
) -> None:
    """Raise AssertionError unless a run of the protocol costs exactly what was declared."""
    counted = execute(session, protocol, *operands, **public).cost
    if counted != declared:
        raise AssertionError(f"{getattr(protocol, '__name__', protocol)} declares {declared}, but used {counted}.")
