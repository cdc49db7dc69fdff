"""Rounds and bytes: what is counted, what protocols declare, and how the two are kept.

Bytes count the payload of messages, by sender and receiver. *Offline* bytes are corrections of correlated randomness,
which depend on no input and can be sent ahead. *Rounds* are the length of the longest chain of online messages of an
operation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

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


@dataclass
class OperationRecord:
    """Traffic and local time of all operations of one name."""

    traffic: Traffic = field(default_factory=Traffic)
    seconds: float = 0.0


class Ledger:
    """Costs of a session by operation, and the profiles that listen at the moment."""

    def __init__(self) -> None:
        self._records: dict[str, OperationRecord] = {}
        self.listeners: list[Ledger] = []

    @property
    def by_operation(self) -> dict[str, OperationRecord]:
        """Costs by operation."""
        return self._records

    def note(self, operation: str, traffic: Traffic, seconds: float) -> None:
        """Add one finished operation."""
        record = self._records.setdefault(operation, OperationRecord())
        record.traffic.add(traffic)
        record.seconds += seconds
        for listener in self.listeners:
            listener.note(operation, traffic, seconds)

    def total(self) -> Traffic:
        """All operations added up."""
        total = Traffic()
        for record in self.by_operation.values():
            total.add(record.traffic)
        return total

    @contextmanager
    def listen(self) -> Iterator[Ledger]:
        """A second ledger that hears what happens inside the block."""
        heard = Ledger()
        self.listeners.append(heard)
        try:
            yield heard
        finally:
            self.listeners.remove(heard)
