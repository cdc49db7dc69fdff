"""Clients that send anything: the mean follows them, the robust rules do not."""

import pytest
import torch
from torch import Tensor

from sharetorch.fl.aggregation import Limits, Rule, rule
from tests.fl.aggregation.tools import aggregate, updates

N, BAD, D = 20, 6, 40
LIMITS = Limits(60.0, N)


def honest() -> Tensor:
    """Updates around one direction, as of clients with similar data."""
    return (1.0 + updates(N, D, spread=0.3)).mul(2**16).round() / 2**16


ATTACKS = {
    "sign flip": lambda x: -x,
    "sign flip, ten times as long": lambda x: -10 * x,
    "ten times as long": lambda x: 10 * x,
    "random": lambda x: updates(len(x), D, seed=9, spread=5.0),
    "all the same": lambda x: torch.full_like(x, -20.0),
}


def attacked(name: str) -> Tensor:
    x = honest()
    x[:BAD] = ATTACKS[name](x[:BAD])  # type: ignore[no-untyped-call]
    return x


def distance(found: Tensor) -> float:
    """From the mean of the honest clients, relative to its length."""
    clean = honest()[BAD:].mean(0)
    return float((found - clean).norm() / clean.norm())


ROBUST: list[Rule] = [
    rule("median"),
    rule("trimmed-mean", trim=0.3),
    rule("krum", byzantine=BAD),
    rule("multi-krum", byzantine=BAD),
    rule("fltrust", trusted=torch.ones(D)),
]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("made", ROBUST, ids=lambda made: made.name)
def test_robust_rules_stay_near_the_clean_mean(attack: str, made: Rule) -> None:
    bound = 0.45 if made.name == "krum" else 0.3
    assert distance(aggregate(attacked(attack), made, limits=LIMITS)) < bound


@pytest.mark.parametrize("attack", ["sign flip, ten times as long", "ten times as long", "all the same"])
def test_the_mean_does_not(attack: str) -> None:
    assert distance(aggregate(attacked(attack), "mean", limits=LIMITS)) > 2


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_majority_of_signs_stays(attack: str) -> None:
    found = aggregate(attacked(attack), "sign-vote", limits=LIMITS)
    assert bool((found == 1).all())


def test_clipping_bounds_what_one_client_can_do() -> None:
    x = honest()
    bound = float(x.norm(dim=1).max())
    x[0] *= 50 / x[0].abs().max()
    clean = x[1:].sum(0) / N
    found = aggregate(x, "mean", limits=LIMITS, clip=bound)
    assert float((found - clean).norm()) <= bound / N * 1.001
