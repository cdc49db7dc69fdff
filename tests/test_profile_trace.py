"""Traces are what Perfetto and chrome://tracing read."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import sharetorch as st
from sharetorch.mpc.cost import Timing, Traffic
from tests.tensor.tools import ALICE, BOB, PROVIDER, eighths, share


def trace_of(p: st.Profile, folder: Path) -> dict[str, Any]:
    p.export_chrome_trace(folder / "trace.json")
    found: dict[str, Any] = json.loads((folder / "trace.json").read_text(encoding="utf-8"))
    return found


def program() -> Any:
    model = nn.Sequential(nn.Linear(3, 2), nn.ReLU()).share(ALICE, BOB, crypto_provider=PROVIDER)
    x = share(eighths(2, 3))
    return lambda: model(x).sum().backward()


def require_valid(trace: dict[str, Any]) -> None:
    """The trace event format: complete events and metadata; those of a track lie side by side or within one another."""
    assert trace["displayTimeUnit"] == "ms"
    tracks = defaultdict(list)
    for event in trace["traceEvents"]:
        assert event["ph"] in ("X", "M")
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        assert isinstance(event["name"], str) and isinstance(event["args"], dict)
        if event["ph"] == "X":
            assert event["ts"] >= 0 and event["dur"] >= 0
            tracks[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        else:
            assert event["name"] in ("process_name", "thread_name")
    slack = 1e-3  # a nanosecond, for the rounding of sums
    for spans in tracks.values():
        inside: list[float] = []
        for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while inside and inside[-1] <= begin + slack:
                inside.pop()
            assert not inside or end <= inside[-1] + slack
            inside.append(end)


def test_a_trace_has_a_track_for_each_member_and_for_modules(tmp_path: Path) -> None:
    run = program()
    with st.profile() as p:
        run()
    trace = trace_of(p, tmp_path)
    require_valid(trace)
    names = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in trace["traceEvents"]
        if event["name"] == "thread_name"
    }
    used = {
        names[event["pid"], event["tid"]]
        for event in trace["traceEvents"]
        if event["ph"] == "X"
    }
    assert used == {"modules, thread 0", "driver", "alice", "bob", "crypto_provider"}
    assert set(names) >= {(event["pid"], event["tid"]) for event in trace["traceEvents"] if event["ph"] == "X"}


def test_operations_carry_their_figures(tmp_path: Path) -> None:
    run = program()
    with st.profile() as p:
        run()
    events = trace_of(p, tmp_path)["traceEvents"]
    operations = [event for event in events if event.get("cat") == "operation"]
    assert len(operations) == p.totals.calls
    assert sum(event["args"]["rounds"] for event in operations) == p.rounds
    assert sum(event["args"]["party bytes"] for event in operations) == p.totals.party_bytes
    (relu,) = (event for event in operations if event["name"] == "rectified_product")
    assert relu["args"]["module"] == "Sequential.1 (ReLU)"
    members = sum(event["dur"] for event in events if event.get("cat") in ("online", "offline"))
    assert members / 1e6 == pytest.approx(p.totals.online + p.totals.offline)


def test_only_so_many_operations_are_kept_for_the_trace(tmp_path: Path) -> None:
    run = program()
    with st.profile(events=3) as p:
        run()
    trace = trace_of(p, tmp_path)
    assert sum(event.get("cat") == "operation" for event in trace["traceEvents"]) == 3
    assert trace["otherData"]["operations and calls left out"] == p.totals.calls - 3
    assert p.totals.calls > 3


def test_durations_alone_are_laid_out_one_after_the_other(tmp_path: Path) -> None:
    """Sessions whose members are elsewhere tell late, and tell no beginnings."""
    costs = share(eighths(2)).session.costs
    with st.profile() as p:
        asked = [costs.asked() for _ in range(3)]
        for one in asked:
            timing = Timing({0: 2.0, 1: 1.0}, {2: 0.5}, {0: 0.0, 1: 1.0, 2: 0.0}, 2.0)
            costs.note("bilinear", Traffic(rounds=1, operations=1), 2.0, timing, one)
    trace = trace_of(p, tmp_path)
    require_valid(trace)
    spans = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            spans[event["tid"]].append(event["dur"] / 1e6)
    assert spans == {tid: [pytest.approx(each)] * 3 for tid, each in {0: 2.0, 1: 2.0, 2: 2.0, 3: 0.5}.items()}


def test_an_empty_profile_has_a_valid_trace(tmp_path: Path) -> None:
    with st.profile() as p:
        pass
    require_valid(trace_of(p, tmp_path))
