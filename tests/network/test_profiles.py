"""Profiles of sessions between machines: the same rounds and bytes, put down to the module that asked for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sharetorch as st
from tests.network.tools import start_group
from tests.test_profile_trace import require_valid, trace_of

NAMES = ("alice", "bob", "carol")


@pytest.fixture
def parties(keys: Path, names: None) -> Iterator[list[Any]]:
    group = start_group(NAMES, keys, sessions=True)
    made = [worker.connect() for worker in group.values()]
    yield made
    for worker in made:
        worker.close()
    for process in group.values():
        process.stop()


def profiled(workers: list[Any]) -> st.Profile:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).share(*workers[:2], crypto_provider=workers[2])
    x = torch.ones(3, 5).share(*workers[:2], crypto_provider=workers[2])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    with st.profile() as p:
        (model(x) ** 2).mean().backward()
        optimizer.step()
        model(x).detach().get()
    return p


def counted(p: st.Profile, by: str) -> Any:
    """Rows without times."""
    found = [(row.name, row.totals) for row in p.rows(by)]
    return sorted((name, t.calls, t.rounds, t.party_bytes, t.helper_bytes, t.dealer_bytes) for name, t in found)


def test_a_session_that_ends_inside_leaves_the_profile_usable(parties: list[Any], tmp_path: Path) -> None:
    x = torch.ones(2).share(*parties[:2], crypto_provider=parties[2])
    with st.profile() as p:
        (x * x).get()
        x.session.sync()
        x.session.close()
    assert {row.name: row.totals.calls for row in p.rows()} == {"bilinear": 1, "refresh": 1, "get": 1}
    p.export_chrome_trace(tmp_path / "trace.json")


def test_a_profile_is_that_of_virtual_workers(parties: list[Any], tmp_path: Path) -> None:
    found = profiled(parties)
    expected = profiled([st.VirtualWorker(id=f"profile {name}") for name in NAMES])
    assert counted(found, "module") == counted(expected, "module")
    assert counted(found, "operation") == counted(expected, "operation")
    assert counted(found, "line") == counted(expected, "line")
    total = found.totals
    assert total.online > 0 and total.offline > 0 and total.waiting >= 0
    assert 0 < total.elapsed < total.online
    require_valid(trace_of(found, tmp_path))
