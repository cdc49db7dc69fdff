"""A federation of Flower's own: its simulation of 20 nodes, and a SuperLink with 3 SuperNodes, all as processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fl.flower.links import Link
from tests.network.tools import make_keys

DEAD = (3, 11)
SIZE = 8

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def stacked(numbers: Sequence[int]) -> Any:
    """Updates of the app's clients as rows."""
    return np.array([np.random.default_rng([i, 1]).uniform(-1, 1, SIZE) for i in numbers])


def weighted(numbers: Sequence[int], values: Any) -> Any:
    """The mean by numbers of examples."""
    weights = np.array([10 + 3 * i for i in numbers], np.float64)
    return weights @ values / weights.sum()


def test_a_simulation_of_twenty_nodes(tmp_path: Path) -> None:
    """Masks and a rule on shares equal the plain rules over those that live."""
    link = Link(tmp_path, make_keys(tmp_path / "keys", "server"), "simulated", "--simulation")
    try:
        masked, median = link.run(
            "--federation-config", "num-supernodes=20 client-resources-num-cpus=1 init-args-num-cpus=2",
            rules="weighted-mean,median", nodes=20,
        )  # fmt: skip
    finally:
        left = link.stop()
    for each in (masked, median):
        assert len(each["left out"]) == len(DEAD), each["left out"]
    here = [i for i in range(20) if i not in DEAD]
    losses = np.array(here) + 0.5
    assert np.abs(masked["w"] - weighted(here, stacked(here))).max() <= 2.0**-25
    assert np.abs(median["w"] - np.median(stacked(here), 0)).max() <= 2.0**-17
    assert abs(masked["loss"] - weighted(here, losses)) < 1e-5 and abs(median["loss"] - losses.mean()) < 1e-3
    assert left == []
    assert link.trap.beyond == []


def test_a_superlink_with_three_supernodes(tmp_path: Path) -> None:
    """TLS, keys for each node, and a process for every message: the sum is exact, each step entered in each ledger."""
    keys = make_keys(tmp_path / "keys", "server", *(f"clinic_{i}" for i in range(3)))
    link = Link(tmp_path, keys, "app")
    try:
        for i in range(3):
            link.node(f'sharetorch-keys="{keys}" sharetorch-id="clinic_{i}" partition-id={i}')
        (found,) = link.run(keys=str(keys), rules="weighted-mean", nodes=3)
    finally:
        left = link.stop()
    assert found["left out"] == []
    assert np.abs(found["w"] - weighted(range(3), stacked(range(3)))).max() <= 2.0**-25
    assert abs(found["loss"] - weighted(range(3), np.arange(3) + 0.5)) < 1e-5
    assert [len((keys / f"clinic_{i}.rounds").read_text().splitlines()) for i in range(3)] == [5, 5, 5]
    assert left == []
    assert link.trap.caught == []
