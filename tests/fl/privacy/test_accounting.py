"""Epsilon is opacus' own, for the steps that it covers."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
from opacus.accountants import RDPAccountant

from sharetorch.fl.privacy import AccountingError, MissingExtraError, Step, epsilon, multiplier_for
from sharetorch.fl.privacy.accounting import ORDERS, WHOLE_ORDERS

DELTA = 1e-5


@pytest.mark.parametrize("rounds", [1, 30])
@pytest.mark.parametrize("multiplier", [0.5, 1.1, 8.0])
@pytest.mark.filterwarnings("ignore:Optimal order is the")
def test_epsilon_of_rounds_equals_the_accountants(multiplier: float, rounds: int) -> None:
    accountant = RDPAccountant()
    for _ in range(rounds):
        accountant.step(noise_multiplier=multiplier, sample_rate=1.0)
    assert epsilon([Step(multiplier)] * rounds, DELTA) == accountant.get_epsilon(DELTA, alphas=list(ORDERS))
    assert epsilon([Step(multiplier, 1.0, rounds)], DELTA) <= accountant.get_epsilon(DELTA) * (1 + 1e-12)


@pytest.mark.filterwarnings("ignore:Optimal order is the")
@pytest.mark.parametrize("sampling", [0.01, 0.3])
def test_epsilon_with_sampling_equals_the_accountants_at_whole_orders(sampling: float) -> None:
    accountant = RDPAccountant()
    for _ in range(100):
        accountant.step(noise_multiplier=1.1, sample_rate=sampling)
    found = epsilon([Step(1.1, sampling, 100)], DELTA)
    assert found == accountant.get_epsilon(DELTA, alphas=list(WHOLE_ORDERS))
    assert found == pytest.approx(accountant.get_epsilon(DELTA), rel=0.05)


def test_the_formula_of_a_single_round() -> None:
    """Against the formula written out: alpha / (2 z^2), converted by Balle et al. 2020."""
    z = 2.0
    bounds = [a / (2 * z * z) - (math.log(DELTA) + math.log(a)) / (a - 1) + math.log((a - 1) / a) for a in ORDERS]
    assert epsilon([Step(z)], DELTA) == pytest.approx(min(bounds), rel=1e-12)


def test_substitution_is_twice_the_sensitivity() -> None:
    assert epsilon([Step(2.0, substitute=True)], DELTA) == epsilon([Step(1.0)], DELTA)


def test_slack_is_paid_for() -> None:
    exact, found = (epsilon([Step(1.0, times=10, slack=slack)], DELTA) for slack in (0.0, 1e-4))
    assert exact + 2e-3 < found < exact + 4e-3


def test_nothing_costs_nothing() -> None:
    assert epsilon([], DELTA) == 0.0


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step(0.0), "multiplier"),
        (Step(math.nan), "multiplier"),
        (Step(1.0, 0.0), "sampling"),
        (Step(1.0, 1.5), "sampling"),
        (Step(1.0, times=0), "times"),
        (Step(1.0, slack=-1.0), "slack"),
        (Step(1.0, slack=2.0), "more fraction bits"),
        (Step(1.0, 0.5, substitute=True), "substitution"),
    ],
)
def test_steps_without_a_bound_are_refused(step: Step, message: str) -> None:
    with pytest.raises(AccountingError, match=message):
        epsilon([step], DELTA)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1.0, math.nan])
def test_deltas_that_are_none_are_refused(delta: float) -> None:
    with pytest.raises(AccountingError, match="delta"):
        epsilon([Step(1.0)], delta)


@pytest.mark.parametrize(("allowed", "times", "sampling"), [(8.0, 100, 1.0), (0.5, 1, 1.0), (3.0, 500, 0.05)])
def test_the_multiplier_for_a_budget_is_the_least_one(allowed: float, times: int, sampling: float) -> None:
    found = multiplier_for(allowed, DELTA, times, sampling)
    assert epsilon([Step(found, sampling, times)], DELTA) <= allowed
    assert epsilon([Step(found * 0.999, sampling, times)], DELTA) > allowed


def test_a_budget_that_no_noise_keeps_has_no_multiplier() -> None:
    with pytest.raises(AccountingError, match="No noise"):
        multiplier_for(1e-12, DELTA, 1)
    with pytest.raises(AccountingError, match="times"):
        multiplier_for(1.0, DELTA, 0)


def test_without_opacus_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "opacus.accountants", missing)
    with pytest.raises(MissingExtraError, match=r"sharetorch\[dp\]"):
        epsilon([Step(1.0)], DELTA)
