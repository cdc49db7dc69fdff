"""What a profile adds up: figures of operations, and a session's share of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from sharetorch.mpc.cost import DRIVER, Span, Timing, Traffic
from sharetorch.mpc.session import Session
from sharetorch.mpc.timing import PREPARED
from sharetorch.profile_places import Origin, Place, Places

_KINDS = {
    "product of masks": ("triples", 1),
    "truncated mask and top bit": ("truncation pairs", 2),
    "digit table": ("table bits", 1),
    "digit tables": ("table bits", 1),
    "products of node masks": ("product bits", 1),
    "conversion bit in the ring": ("converted bits", 1),
    "comparison bit": ("converted bits", 1),
    "bit shares": ("shared bits", 8),
    "top bit of the mask": ("converted bits", 1),
    "comparison keys": ("key words", 1),
}
"""What protocols' labels of corrections stand for, and how many elements or bits of the message make one."""


@dataclass
class Totals:
    """Figures of some operations, added up. Times are in seconds, bytes are payloads.

    Attributes:
        calls: how many operations.
        seconds: from their beginnings to their ends.
        online: computing of all members that depends on online messages or belongs to parties.
        offline: computing of the provider that could be done ahead.
        waiting: of all members for messages.
        elapsed: the longest chain of online computing of each operation.
        rounds: of online messages, one operation after the other.
        party_bytes: online, from the first party.
        helper_bytes: online, from the provider.
        driver_bytes: online, from the driver.
        dealer_bytes: offline, from the provider.
        busiest_bytes: online, from whoever sends most in each operation.
        correlations: correlated randomness that needed corrections, by kind, where members tell: elements of products
            ("triples"), of truncations ("truncation pairs"), and bits. What only expands streams is not counted. What
            was dealt by ``Session.prepare`` counts there, and as "prepared triples" and so on where it is used.
    """

    calls: int = 0
    seconds: float = 0.0
    online: float = 0.0
    offline: float = 0.0
    waiting: float = 0.0
    elapsed: float = 0.0
    rounds: int = 0
    party_bytes: int = 0
    helper_bytes: int = 0
    driver_bytes: int = 0
    dealer_bytes: int = 0
    busiest_bytes: int = 0
    correlations: dict[str, int] = field(default_factory=dict)

    def add(self, other: Totals) -> None:
        """Add other figures to these."""
        for name in FIGURES:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for kind, amount in other.correlations.items():
            self.correlations[kind] = self.correlations.get(kind, 0) + amount


FIGURES = tuple(one.name for one in fields(Totals) if one.name != "correlations")
"""Names of the figures that are numbers."""


def totals_of(traffic: Traffic, seconds: float, timing: Timing | None, provider: int) -> Totals:
    """Figures of one report of a session whose provider has the given rank."""
    cost = traffic.as_cost(provider)
    senders = {sender for sender, _ in traffic.online}
    totals = Totals(
        calls=traffic.operations,
        seconds=seconds,
        elapsed=seconds,
        rounds=cost.rounds,
        party_bytes=cost.party_bytes,
        helper_bytes=cost.helper_bytes,
        driver_bytes=traffic.sent_by(DRIVER),
        dealer_bytes=sum(traffic.offline.values()),
        busiest_bytes=max(map(traffic.sent_by, senders), default=0),
    )
    if timing is not None:
        totals.online = sum(timing.online.values())
        totals.offline = sum(timing.offline.values())
        totals.waiting = sum(timing.waiting.values())
        totals.elapsed = timing.elapsed
        for label, amount in timing.dealt.items():
            before = PREPARED if label.startswith(PREPARED) else ""
            kind, size = _KINDS.get(label.removeprefix(PREPARED), (label.removeprefix(PREPARED), 1))
            totals.correlations[before + kind] = totals.correlations.get(before + kind, 0) + amount // size
    return totals


class Key(NamedTuple):
    """What operations are grouped by."""

    operation: str
    place: Place
    backward: bool
    line: str


class Event(NamedTuple):
    """One operation, for the trace.

    Attributes:
        key: what it was and where it was asked for.
        asked: when.
        begin: when it began, as far as known.
        totals: its figures.
        spans: when members computed; empty if only their times are known.
        busy: seconds from beginning to end at each member, by rank.
    """

    key: Key
    asked: float
    begin: float
    totals: Totals
    spans: tuple[Span, ...]
    busy: dict[int, float]


class Ear:
    """Hears what happens in one session.

    Args:
        session: which.
        places: knows where the program is.
        limit: operations kept for the trace.

    Attributes:
        traffic: all that was sent.
        groups: figures by what operations are grouped by, in the order of their first.
        events: the first ``limit`` operations.
        dropped: how many more there were.
    """

    timed = True

    def __init__(self, session: Session, places: Places, limit: int) -> None:
        self.session = session
        self.traffic = Traffic()
        self.groups: dict[Key, Totals] = {}
        self.events: list[Event] = []
        self.dropped = 0
        self._places = places
        self._limit = limit

    def asked(self) -> Origin:
        """Where the program is."""
        return self._places.here()

    def note(
        self, operation: str, traffic: Traffic, seconds: float, timing: Timing | None = None, asked: object = None
    ) -> None:
        """Add one finished operation."""
        now = time.perf_counter()
        origin = asked if isinstance(asked, Origin) else self.asked()
        key = Key(operation, origin.place, origin.backward, origin.line)
        totals = totals_of(traffic, seconds, timing, len(self.session.parties))
        self.traffic.add(traffic)
        self.groups.setdefault(key, Totals()).add(totals)
        if len(self.events) >= self._limit:
            self.dropped += 1
            return
        spans = timing.spans if timing is not None else ()
        begin = spans[0].begin if spans else origin.time if asked is not None else now - seconds
        self.events.append(Event(key, origin.time, begin, totals, spans, _busy(timing)))


def _busy(timing: Timing | None) -> dict[int, float]:
    """Seconds from beginning to end at each member."""
    if timing is None or timing.spans:
        return {}
    ranks = {*timing.online, *timing.offline, *timing.waiting}
    parts = (timing.online, timing.offline, timing.waiting)
    return {rank: sum(part.get(rank, 0.0) for part in parts) for rank in sorted(ranks)}


def all_groups(ears: list[Ear]) -> Iterator[tuple[Ear, Key, Totals]]:
    """The groups of all sessions."""
    for ear in ears:
        for key, totals in list(ear.groups.items()):
            yield ear, key, totals
