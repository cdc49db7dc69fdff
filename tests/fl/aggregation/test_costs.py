"""Rounds and bytes of every rule equal the declaration."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from sharetorch.fl.aggregation import RULES, Aggregation, Limits, Rule, Treatment, rule
from sharetorch.mpc import testing
from sharetorch.mpc.cost import Cost
from tests.fl.aggregation.tools import counted, shared, updates

SESSIONS = [("tables", 2), ("tables", 3), ("tables-wan", 2), ("fss", 2), ("securenn", 2)]
suites = pytest.mark.parametrize(("suite", "parties"), SESSIONS)
D = 13


def parameters(name: str, n: int) -> dict[str, Any]:
    special: dict[str, dict[str, Any]] = {
        "fltrust": {"trusted": torch.full((D,), 0.3)},
        "krum": {"byzantine": (n - 3) // 2},
        "multi-krum": {"byzantine": (n - 3) // 2},
    }
    return special.get(name, {})


def round_of(made: Rule, n: int, suite: str, parties: int, **options: Any) -> Aggregation:
    limits = options.pop("limits", Limits(8.0, n, weight=50))
    if suite == "securenn":
        options["bounded"] = False
    aggregation = Aggregation(testing.session(parties, suite), D, limits, made, **options)
    for update in updates(n, D):
        aggregation.submit(update, 1 if made.weighted else None)
    aggregation.close()
    return aggregation


@suites
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("n", [3, 20])
@pytest.mark.parametrize("opened", [False, True])
def test_rules_cost_what_they_declare(name: str, n: int, opened: bool, suite: str, parties: int) -> None:
    made = round_of(rule(name, **parameters(name, n)), n, suite, parties)
    used = counted(made._session, made.open if opened else made.result)  # type: ignore[arg-type]
    assert used == made.cost(opened=opened)


@suites
@pytest.mark.parametrize("clip", [0.01, 1.0, 100.0])
def test_clipping_costs_what_it_declares(clip: float, suite: str, parties: int) -> None:
    made = round_of(rule("mean"), 5, suite, parties, clip=clip)
    assert counted(made._session, made.open) == made.cost(opened=True)  # type: ignore[arg-type]


@pytest.mark.parametrize(("suite", "parties"), SESSIONS[:-1])
def test_ranges_cost_what_they_declare(suite: str, parties: int) -> None:
    for name in ("sum", "weighted-mean"):
        made = round_of(rule(name), 5, suite, parties, bounded=True)
        assert counted(made._session, made.result) == made.cost()  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [1, 10**4, 10**6])
def test_weighted_means_cost_what_they_declare_for_all_sizes(weight: int) -> None:
    made = round_of(rule("weighted-mean"), 5, "tables", 2, limits=Limits(8.0, 20, weight=weight))
    assert counted(made._session, made.result) == made.cost()  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1e-4, 0.02, 50.0])
def test_scores_cost_what_they_declare_for_all_lengths(scale: float) -> None:
    made = round_of(rule("fltrust", trusted=torch.full((D,), scale)), 5, "tables", 2)
    assert counted(made._session, made.result) == made.cost()  # type: ignore[arg-type]


def test_distances_that_are_shrunk_cost_a_truncation() -> None:
    limits, made, session = Limits(2.0**11, 5), rule("krum"), testing.session(2, "tables")
    treatment, x = Treatment(made, limits, bounded=False), shared(session, torch.zeros(5, 40), limits)
    assert made._shrink(5, 40, limits) > 1  # type: ignore[attr-defined]
    assert counted(session, lambda: treatment(x)) == treatment.cost(5, 40, session.suite.prices(2))


def test_an_opened_mean_costs_the_opening_only() -> None:
    made = round_of(rule("mean"), 6, "tables", 2)
    assert made.cost(opened=True) == Cost(rounds=1, party_bytes=8 * D)


PAGE = Path(__file__).resolve().parents[3] / "docs" / "protocols" / "aggregation.md"
_ROW = re.compile(r"^\| `([\w-]+)`[^|]*\| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", re.MULTILINE)


def test_the_page_says_what_rules_declare() -> None:
    """For n = 20 and d = 10^5."""
    n, d = 20, 10**5
    prices, limits = testing.session(2, "tables").suite.prices(2), Limits(8.0, n, weight=1000)
    rows = _ROW.findall(PAGE.read_text(encoding="utf-8"))
    assert {name for name, *_ in rows} == set(RULES) - {"sum", "multi-krum"}
    for name, rounds, sent, dealt in rows:
        given = {"trusted": torch.ones(d)} if name == "fltrust" else {"byzantine": 6} if name == "krum" else {}
        cost = rule(name, **given).total_cost(n, d, prices, limits)
        assert cost.rounds == int(rounds)
        assert abs(cost.party_bytes / 1e6 - float(sent)) <= 0.051
        assert abs(cost.dealer_bytes / 1e6 - float(dealt)) <= 0.051
