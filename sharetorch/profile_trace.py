"""A profile as a trace that Perfetto and chrome://tracing show.

One process for the program, with the calls of its modules in a track for each thread; one process for each session,
with a track of the driver's operations and one for each member. Times are microseconds from the beginning of the
profile. Where only durations are known (members on other machines), they are laid out one after the other, from when
they were asked for. Names and arguments are those of operations, modules, members and lines of the program, never
values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from os import PathLike
from typing import Any

from sharetorch.mpc.cost import DRIVER
from sharetorch.profile_places import Call
from sharetorch.profile_table import session_name
from sharetorch.profile_totals import Ear, Event

_PROGRAM = 0


def write(file: str | PathLike[str], ears: list[Ear], calls: list[Call], begin: float, dropped: int) -> None:
    """Write the trace of what sessions and modules did.

    Args:
        file: where to.
        ears: what sessions did.
        calls: of modules and optimizers.
        begin: of the profile, on the clock of ``time.perf_counter``.
        dropped: operations and calls that were not kept.
    """
    trace = {
        "traceEvents": list(_events(ears, calls, begin)),
        "displayTimeUnit": "ms",
        "otherData": {"operations and calls left out": dropped},
    }
    with open(file, "w", encoding="utf-8") as out:
        json.dump(trace, out)


def _events(ears: list[Ear], calls: list[Call], begin: float) -> Iterator[dict[str, Any]]:
    threads = {thread: number for number, thread in enumerate(dict.fromkeys(call.thread for call in calls))}
    yield _name("process_name", _PROGRAM, 0, "program")
    for number in threads.values():
        yield _name("thread_name", _PROGRAM, number, f"modules, thread {number}")
    for call in sorted(calls, key=lambda call: call.begin):
        yield _span(_PROGRAM, threads[call.thread], call.place.name(), "module", call.begin - begin, call.end - begin)
    for process, ear in enumerate(ears, start=_PROGRAM + 1):
        yield from _of_session(process, ear, begin)


def _of_session(process: int, ear: Ear, begin: float) -> Iterator[dict[str, Any]]:
    yield _name("process_name", process, 0, f"session {session_name(ear.session)}")
    for rank, member in ear.session.names().items():
        yield _name("thread_name", process, _track(rank), member)
    free: dict[int, float] = {}
    for event in list(ear.events):
        start, end = _place(free, DRIVER, event.begin, event.totals.seconds)
        yield _span(process, _track(DRIVER), event.key.operation, "operation", start - begin, end - begin, _args(event))
        for span in event.spans:
            kind = "offline" if span.offline else "online"
            times = span.begin - begin, span.end - begin
            yield _span(process, _track(span.rank), event.key.operation, kind, *times)
        for rank, seconds in event.busy.items():
            start, end = _place(free, rank, event.begin, seconds)
            yield _span(process, _track(rank), event.key.operation, "operation", start - begin, end - begin)


def _place(free: dict[int, float], rank: int, begin: float, seconds: float) -> tuple[float, float]:
    """The first stretch of that length from ``begin`` on that overlaps no earlier one of the track."""
    start = max(begin, free.get(rank, begin))
    free[rank] = start + seconds
    return start, start + seconds


def _track(rank: int) -> int:
    return 0 if rank == DRIVER else rank + 1


def _args(event: Event) -> dict[str, Any]:
    totals, key = event.totals, event.key
    args: dict[str, Any] = {
        "module": key.place.name() + (" backward" if key.backward else ""),
        "line": key.line,
        "rounds": totals.rounds,
        "party bytes": totals.party_bytes,
        "helper bytes": totals.helper_bytes,
        "driver bytes": totals.driver_bytes,
        "offline bytes": totals.dealer_bytes,
        "waiting ms": round(totals.waiting * 1e3, 6),
    }
    return {**args, **totals.correlations}


def _span(
    process: int, track: int, name: str, category: str, begin: float, end: float, args: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A complete event; what began before the profile is cut off at its beginning."""
    begin = max(0.0, begin)
    return {
        "ph": "X",
        "name": name,
        "cat": category,
        "pid": process,
        "tid": track,
        "ts": begin * 1e6,
        "dur": max(0.0, end - begin) * 1e6,
        "args": args or {},
    }


def _name(what: str, process: int, track: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": track, "args": {"name": name}}
