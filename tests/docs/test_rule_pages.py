"""What the pages of rules say of 20 clients with 100,000 coordinates is what the rules declare."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sharetorch.fl.aggregation import Krum, Limits, Median, MultiKrum, SignVote, TrimmedMean, Trust, WeightedMean
from sharetorch.mpc.protocols import tables

PAGES = Path(__file__).resolve().parents[2] / "docs" / "protocols" / "rules"
CLIENTS, COORDINATES = 20, 100_000
RULES: dict[str, list[Any]] = {
    "weighted-mean": [WeightedMean()],
    "median": [Median()],
    "trimmed-mean": [TrimmedMean(0.2)],
    "krum": [Krum(6), MultiKrum(6)],
    "sign-vote": [SignVote()],
    "fltrust": [Trust(torch.ones(COORDINATES) / COORDINATES**0.5)],
}


@pytest.mark.parametrize("page", RULES)
def test_rounds_and_bytes(page: str) -> None:
    said = (PAGES / f"{page}.md").read_text(encoding="utf-8").replace("\n", " ")
    for rule in RULES[page]:
        cost = rule.total_cost(CLIENTS, COORDINATES, tables.prices(2), Limits(8.0, CLIENTS))
        figures = f"{cost.rounds} rounds, {cost.party_bytes / 1e6:.1f} MB, {cost.dealer_bytes / 1e6:.1f} MB dealt"
        assert figures in said, figures


def test_every_rule_has_a_page() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == {*RULES, "sum", "clipping"}
