"""Rounds and bytes: what is counted, what protocols declare, and how the two are kept.

Bytes count the payload of messages, by sender and receiver. *Offline* bytes are corrections of correlated randomness,
which depend on no input and can be sent ahead. *Rounds* are the length of the longest chain of online messages of an
operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

DRIVER = -1
"""Rank under which messages from and to the driver are counted."""


@dataclass(frozen=True)
class Cost:
    """The price of one operation.

    Attributes:
        rounds: length of the longest chain of online messages.
        party_bytes: online bytes each party sends to others, the first party's figure where they differ.
        helper_bytes: online bytes the provider sends.
        dealer_bytes: offline bytes the provider sends.
    """

    rounds: int = 0
    party_bytes: int = 0
    helper_bytes: int = 0
    dealer_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.rounds + other.rounds,
            self.party_bytes + other.party_bytes,
            self.helper_bytes + other.helper_bytes,
            self.dealer_bytes + other.dealer_bytes,
        )

    def together(self, other: Cost) -> Cost:
        """The price of two steps that share their rounds."""
        both = self + other
        return Cost(max(self.rounds, other.rounds), both.party_bytes, both.helper_bytes, both.dealer_bytes)


@dataclass
class Traffic:
    """What was sent: bytes by (sender, receiver) rank, and rounds."""

    online: dict[tuple[int, int], int] = field(default_factory=dict)
    offline: dict[tuple[int, int], int] = field(default_factory=dict)
    rounds: int = 0
    operations: int = 0

    def count(self, sender: int, receiver: int, size: int, *, offline: bool = False) -> None:
        """Add one message."""
        table = self.offline if offline else self.online
        table[sender, receiver] = table.get((sender, receiver), 0) + size

    def add(self, other: Traffic) -> None:
        """Add what another record holds."""
        for (sender, receiver), size in other.online.items():
            self.count(sender, receiver, size)
        for (sender, receiver), size in other.offline.items():
            self.count(sender, receiver, size, offline=True)
        self.rounds += other.rounds
        self.operations += other.operations

    def sent_by(self, rank: int, *, offline: bool = False) -> int:
        """Bytes a member has sent."""
        table = self.offline if offline else self.online
        return sum(count for (sender, _), count in table.items() if sender == rank)

    def as_cost(self, provider: int) -> Cost:
        """The record in the form in which protocols declare it."""
        return Cost(self.rounds, self.sent_by(0), self.sent_by(provider), self.sent_by(provider, offline=True))


class Span(NamedTuple):
    """A stretch of time in which one member computed.

    Attributes:
        rank: of the member.
        begin: on the clock of ``time.perf_counter``.
        end: likewise.
        offline: whether it depended on no input.
    """

    rank: int
    begin: float
    end: float
    offline: bool


@dataclass(frozen=True)
class Timing:
    """Where the time of one operation went, by rank, in seconds.

    Attributes:
        online: computing that depends on what others sent online; all computing of parties counts.
        offline: computing that could be done ahead: the provider's, until it receives an online message.
        waiting: between the wish for a message and its arrival.
        elapsed: the longest chain of online computing, what messages cost left out.
        spans: when members computed, where that is known.
        dealt: elements and bits of correlated randomness received offline, by what protocols call it.
    """

    online: dict[int, float]
    offline: dict[int, float]
    waiting: dict[int, float]
    elapsed: float
    spans: tuple[Span, ...] = ()
    dealt: dict[str, int] = field(default_factory=dict)


class Listener(Protocol):
    """Who hears of a session's operations while it is among ``Ledger.listeners``."""

    @property
    def timed(self) -> bool:
        """Whether the time of members is to be measured."""

    def asked(self) -> object:
        """What to remember of the place in the program that gives a command now; runs in its thread."""

    def note(
        self, operation: str, traffic: Traffic, seconds: float, timing: Timing | None = None, asked: object = None
    ) -> None:
        """Hear of a finished operation.

        Args:
            operation: its name.
            traffic: what was sent; it may change after the call.
            seconds: from its beginning to its end.
            timing: where they went, if that was measured.
            asked: what ``asked`` gave when the command was given; None if it is being given now, by this thread.
        """


Asked = dict[int, object]
"""What each listener remembers of a command, by ``id`` of the listener."""


@dataclass
class OperationRecord:
    """Traffic and local time of all operations of one name."""

    traffic: Traffic = field(default_factory=Traffic)
    seconds: float = 0.0


class Ledger:
    """Costs of a session by operation, and the profiles that listen at the moment.

    Args:
        sync: lets what was commanded be finished and counted; called before anybody reads.
    """

    timed = False

    def __init__(self, sync: Callable[[], None] | None = None) -> None:
        self._sync = sync
        self._behalf: Asked | None = None
        self._records: dict[str, OperationRecord] = {}
        self.listeners: list[Listener] = []

    @property
    def by_operation(self) -> dict[str, OperationRecord]:
        """Costs by operation."""
        self._finish()
        return self._records

    def _finish(self) -> None:
        if self._sync is not None:
            self._sync()

    @property
    def wants_timing(self) -> bool:
        """Whether a listener wants to know where the time goes."""
        return bool(self.listeners) and any(listener.timed for listener in self.listeners)

    def asked(self) -> Asked | None:
        """What listeners remember of the command that is given now; for ``note``, if that comes later.

        Sessions that do not wait for their commands call this with each command.
        """
        if self._behalf is not None or not self.listeners:
            return self._behalf
        return {id(listener): listener.asked() for listener in self.listeners}

    @contextmanager
    def on_behalf(self, asked: Asked | None) -> Iterator[None]:
        """Commands inside the block count as given when ``asked`` was got."""
        before, self._behalf = self._behalf, asked
        try:
            yield
        finally:
            self._behalf = before

    def note(
        self, operation: str, traffic: Traffic, seconds: float, timing: Timing | None = None, asked: object = None
    ) -> None:
        """Add one finished operation.

        Args:
            operation: its name.
            traffic: what was sent.
            seconds: from its beginning to its end.
            timing: where they went, if that was measured.
            asked: what ``asked`` gave when the command was given, if that was earlier.
        """
        record = self._records.setdefault(operation, OperationRecord())
        record.traffic.add(traffic)
        record.seconds += seconds
        for listener in self.listeners:
            asked = self._behalf if asked is None else asked
            remembered = asked.get(id(listener)) if isinstance(asked, dict) else None
            listener.note(operation, traffic, seconds, timing, remembered)

    def total(self) -> Traffic:
        """All operations added up."""
        total = Traffic()
        for record in self.by_operation.values():
            total.add(record.traffic)
        return total

    @contextmanager
    def listen(self) -> Iterator[Ledger]:
        """A second ledger that hears what happens inside the block."""
        self._finish()
        heard = Ledger()
        self.listeners.append(heard)
        try:
            yield heard
            self._finish()
        finally:
            self.listeners.remove(heard)
