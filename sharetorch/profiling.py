"""``with st.profile() as p``: time, rounds, bytes and correlated randomness of what happens inside the block."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any, NamedTuple

from sharetorch import profile_table, profile_trace
from sharetorch.mpc.cost import DRIVER
from sharetorch.mpc.session import Session
from sharetorch.mpc.tensor.arithmetic import Debug
from sharetorch.mpc.tensor.sharing import sessions
from sharetorch.profile_places import Places
from sharetorch.profile_table import Row
from sharetorch.profile_totals import FIGURES, Ear, Totals, all_groups

_EVENTS = 100_000


class Estimate(NamedTuple):
    """Seconds that a program would take with each member on a machine of its own.

    Attributes:
        computing: the longest chain of online computing, operation by operation.
        latency: rounds times the latency.
        transfer: the bytes of whoever sends most in each operation, divided by the bandwidth.
        preparing: what can be done ahead: the provider's computing, and its offline bytes divided by the bandwidth.
    """

    computing: float
    latency: float
    transfer: float
    preparing: float

    @property
    def online(self) -> float:
        """computing + latency + transfer."""
        return self.computing + self.latency + self.transfer

    @property
    def total(self) -> float:
        """online + preparing, as if nothing were done at the same time."""
        return self.online + self.preparing


class Profile:
    """Costs of all sessions inside a ``profile()`` block.

    Args:
        events: operations of each session, and calls of modules, kept for the trace; tables count all.

    Attributes:
        elapsed: seconds from the beginning of the block to its end, or to now.
        rounds: online rounds, one operation after the other.
        bytes_sent: online bytes each member has sent, by member id, the driver included.
        provider_bytes: offline bytes providers have sent: corrections of correlated randomness.
        seconds: time spent in operations.
    """

    def __init__(self, events: int = _EVENTS) -> None:
        self._ears: list[Ear] = []
        self._events = events
        self._places = Places(events)
        self._begin = time.perf_counter()
        self._end: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds from the beginning of the block to its end, or to now."""
        return (time.perf_counter() if self._end is None else self._end) - self._begin

    @property
    def totals(self) -> Totals:
        """All figures, added up."""
        total = Totals()
        for _, _, totals in all_groups(self._ears):
            total.add(totals)
        return total

    @property
    def rounds(self) -> int:
        """Online rounds."""
        return self.totals.rounds

    @property
    def seconds(self) -> float:
        """Time spent in operations."""
        return self.totals.seconds

    @property
    def bytes_sent(self) -> dict[str, int]:
        """Online bytes each member has sent."""
        sent: dict[str, int] = {}
        for ear in self._ears:
            if not ear.traffic.operations:
                continue
            for rank, name in ear.session.names().items():
                sent[name] = sent.get(name, 0) + ear.traffic.sent_by(rank)
        return sent

    @property
    def provider_bytes(self) -> int:
        """Offline bytes providers have sent."""
        return self.totals.dealer_bytes

    def rows(self, by: str = "operation", *, sort_by: str | None = None, depth: int | None = None) -> list[Row]:
        """Figures by operation, module, line or session; every operation is in exactly one row.

        Args:
            by: "operation", "module" (or optimizer; forward and backward pass apart), "line" (of your program) or
                "session".
            sort_by: "name" or a figure of ``Totals``, highest first; if None, operations by their time and the others
                in the order of their first operation.
            depth: how many names of a module's path are told apart: 1 adds up each outermost module; all if None.

        Raises:
            ConfigurationError: there is no such grouping or figure.
        """
        return profile_table.rows(self._ears, by, sort_by, depth)

    def table(
        self,
        by: str = "operation",
        *,
        sort_by: str | None = None,
        depth: int | None = None,
        limit: int | None = None,
    ) -> str:
        """The rows as text, with a line of totals.

        Args:
            by: as for ``rows``.
            sort_by: as for ``rows``.
            depth: as for ``rows``.
            limit: rows shown; all if None.

        Raises:
            ConfigurationError: as for ``rows``.
        """
        return profile_table.text(by, self.rows(by, sort_by=sort_by, depth=depth), self.totals, limit)

    def __str__(self) -> str:
        tables = [self.table()]
        if any(key.place.parts for _, key, _ in all_groups(self._ears)):
            tables.append(self.table("module"))
        tables.append(f"{self.elapsed * 1e3:.2f} ms in the block, {self.seconds * 1e3:.2f} ms of them in operations")
        return "\n\n".join(tables)

    def estimate(self, *, latency_seconds: float, bandwidth_bytes_per_s: float) -> Estimate:
        """What the same operations would take on a given network, from their exact rounds and bytes.

        online = elapsed computing + rounds * latency + bytes / bandwidth, where the bytes are, operation by operation,
        those of the member that sends most, and computing is as measured here. Time outside of operations is not in it.

        Args:
            latency_seconds: one way, between any two members: 0.0002 in a local network, 0.03 between places.
            bandwidth_bytes_per_s: that each member can send: 625e6 for 5 Gbit/s, 40e6 for 320 Mbit/s.
        """
        totals = self.totals
        return Estimate(
            totals.elapsed,
            totals.rounds * latency_seconds,
            totals.busiest_bytes / bandwidth_bytes_per_s,
            totals.offline + totals.dealer_bytes / bandwidth_bytes_per_s,
        )

    def as_dict(self) -> dict[str, Any]:
        """All tables and totals, for JSON: seconds, bytes and counts under the names of ``Totals``."""
        return {
            "elapsed": self.elapsed,
            "totals": _figures(self.totals),
            "bytes_sent": self.bytes_sent,
            **{
                f"by_{by}": [{"name": row.name, **_figures(row.totals)} for row in self.rows(by)]
                for by in ("operation", "module", "line", "session")
            },
        }

    def export_chrome_trace(self, file: str | PathLike[str]) -> None:
        """Write a trace for ui.perfetto.dev or chrome://tracing: tracks of modules, of operations and of members."""
        dropped = self._places.dropped + sum(ear.dropped for ear in self._ears)
        profile_trace.write(file, self._ears, list(self._places.calls), self._begin, dropped)

    # Listening

    def _listen(self, session: Session) -> None:
        session.sync()
        ear = Ear(session, self._places, self._events)
        self._ears.append(ear)
        session.costs.listeners.append(ear)

    def _finish(self) -> None:
        for ear in self._ears:
            if not ear.session.ended:
                ear.session.sync()

    def _stop(self) -> None:
        self._places.close()
        self._end = time.perf_counter()
        for ear in self._ears:
            ear.session.costs.listeners.remove(ear)


def _figures(totals: Totals) -> dict[str, Any]:
    return {**{name: getattr(totals, name) for name in FIGURES}, "correlations": dict(totals.correlations)}


@contextmanager
def profile(*, events: int = _EVENTS) -> Iterator[Profile]:
    """Listen to all sessions, also to those that begin inside the block.

    Args:
        events: operations of each session, and calls of modules, kept for ``export_chrome_trace``; tables count all.
    """
    heard = Profile(events)
    try:
        with sessions.watched(heard._listen):
            heard._places.open()
            yield heard
            heard._finish()
    finally:
        heard._stop()


@contextmanager
def debug() -> Iterator[None]:
    """Check the range of every product before it is truncated, by opening it: only for data that is not secret.

    A product that has wrapped around into the range again cannot be seen; multiply smaller steps to find it.

    Raises:
        RangeCheckError: from the operation whose result leaves the range in which truncation is exact.
    """
    before = Debug.enabled
    Debug.enabled = True
    try:
        yield
    finally:
        Debug.enabled = before


__all__ = ["DRIVER", "Estimate", "Profile", "Row", "Totals", "debug", "profile"]
