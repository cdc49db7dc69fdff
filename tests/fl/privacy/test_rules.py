"""Private sums and means: result, noise, sensitivity, cost, refusals."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

from sharetorch.fl.aggregation import Aggregation, DeclaredLimitsError, HiddenAggregator, Limits, Treatment
from sharetorch.fl.aggregation.bounding import clip_lengths
from sharetorch.fl.aggregation.words import words_of
from sharetorch.fl.privacy import Noise, NoiseError, PrivateMean, PrivateSum
from sharetorch.fl.privacy.mechanism import sensitivity
from sharetorch.mpc import testing
from sharetorch.mpc.errors import UnsupportedOperationError
from tests.fl.aggregation.tools import clipped, counted, shared, updates
from tests.fl.privacy.tools import require_discrete_gaussian

LIMITS = Limits(8.0, 5)
UNIT = 2.0**-16


def opened(rule: PrivateSum, x: torch.Tensor, parties: int = 2, **options: Any) -> torch.Tensor:
    round = Aggregation(testing.session(parties, "tables"), x.shape[1], LIMITS, rule, **options)
    for update in x:
        round.submit(update)
    round.close()
    return round.open()


@pytest.mark.parametrize("parties", [2, 3])
def test_the_sum_is_that_of_clipped_updates_with_noise(parties: int) -> None:
    x = updates(4, 2000)
    rule = PrivateSum(clip=2.0, multiplier=0.001)
    found = opened(rule, x, parties)
    residue = (found - torch.from_numpy(clipped(x.numpy(), 2.0).sum(0))) / rule.deviation(2000, LIMITS, parties)
    assert abs(float(residue.std()) - 1) < 0.12  # 5.5 deviations of 0.016, and rounding
    assert float(residue.abs().max()) < 7


def test_the_opened_noise_has_the_distribution_of_all_parties_together() -> None:
    session, d = testing.session(3, "tables"), 1 << 15
    rule = PrivateSum(clip=1.0, multiplier=2.5, curious=1)
    found = Treatment(rule, Limits(8.0, 1))(shared(session, torch.zeros(1, d), LIMITS))
    own = rule.noise.own_variance(rule.sensitivity(d, LIMITS), 3)
    assert own * 2 == (Fraction(2.5) * (65536 + 256 + math.isqrt(d) + 1)) ** 2
    require_discrete_gaussian(words_of(found).get().numpy(), own * 3)


@pytest.mark.parametrize("fault", ["no noise", "half of it", "that of another sensitivity"])
def test_planted_faults_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    add = Noise.__call__
    faults = {
        "no noise": lambda self, x, sensitivity: x,
        "half of it": lambda self, x, sensitivity: add(self, x, sensitivity // 2),
        "that of another sensitivity": lambda self, x, sensitivity: add(self, x, sensitivity * 33 // 32),
    }
    monkeypatch.setattr(Noise, "__call__", faults[fault])
    with pytest.raises(AssertionError):
        test_the_opened_noise_has_the_distribution_of_all_parties_together()


def test_the_mean_divides_by_the_clients_that_arrived() -> None:
    x = updates(3, 10)
    found = opened(PrivateMean(clip=100.0, multiplier=1e-7), x)
    assert (found - x.mean(0)).abs().max() < 3 * UNIT


def test_a_shared_result_has_noise_too() -> None:
    session = testing.session(2, "tables")
    x = shared(session, updates(3, 100))
    treatment = Treatment(PrivateMean(clip=1.0, multiplier=1.0), LIMITS)
    one, other = treatment(x).get(), treatment(x).get()
    assert not torch.equal(one, other)


def test_hidden_aggregators_take_private_rules() -> None:
    members = [testing.session(2, "tables").parties, testing.session().provider]
    aggregator = HiddenAggregator(
        *members[0], crypto_provider=members[1], limits=LIMITS, rule=PrivateMean(clip=1.0, multiplier=0.01)
    )
    aggregator.begin(1, ["a", "b"])
    for name, value in (("a", 0.5), ("b", 4.0)):
        aggregator.add(name, torch.tensor([value, 0.0], dtype=torch.float64), 10)
    assert (aggregator.finish() - torch.tensor([0.75, 0.0])).abs().max() < 0.2


# Sensitivity: what is left of an update after clipping is never longer.


@pytest.mark.parametrize("bound", [1.0, 0.03, 1.4142, 3.999])
@pytest.mark.parametrize("d", [1, 7, 1000])
def test_no_update_is_longer_than_the_sensitivity(bound: float, d: int) -> None:
    session = testing.session(2, "tables")
    generator = torch.Generator().manual_seed(d)
    directions = torch.randn(60, d, generator=generator, dtype=torch.float64)
    directions /= directions.norm(dim=1, keepdim=True)
    lengths = torch.logspace(-0.1, 3.7, 60, dtype=torch.float64) * bound  # to 5000 times the bound
    x = (directions * lengths.unsqueeze(1)).clamp(-60000, 60000)
    limits = Limits(60000.0 if d < 1000 else 2000.0, 60, fraction_bits=12)
    x = x.clamp(-limits.coordinate, limits.coordinate)
    rule = PrivateSum(clip=bound, multiplier=1.0)
    found = clip_lengths(words_of(shared(session, x, limits)), rule.bound(limits)).get().double()
    assert float(found.norm(dim=1).max()) <= rule.sensitivity(d, limits)
    assert float(found.norm(dim=1).max()) >= 0.98 * rule.bound(limits) - math.sqrt(d)


@pytest.mark.parametrize(("bound", "d", "expected"), [(65536, 1, 65794), (1, 1, 4), (257, 10**6, 257 + 2 + 1001)])
def test_the_sensitivity_counts_rounding(bound: int, d: int, expected: int) -> None:
    assert sensitivity(bound, d) == expected


# Cost.


@pytest.mark.parametrize("parties", [2, 3])
def test_the_cost_is_as_declared(parties: int) -> None:
    round = Aggregation(testing.session(parties, "tables"), 11, LIMITS, PrivateMean(clip=1.0, multiplier=1.0))
    for update in updates(3, 11):
        round.submit(update)
    round.close()
    assert counted(round._session, round.result) == round.cost()  # type: ignore[arg-type]
    assert counted(round._session, round.open) == round.cost(opened=True)  # type: ignore[arg-type]


# Refusals.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 0.0}, "no length"),
        ({"clip": math.inf}, "no length"),
        ({"clip": math.nan}, "no length"),
        ({"multiplier": 0.0}, "multiplier"),
        ({"multiplier": -1.0}, "multiplier"),
        ({"multiplier": math.nan}, "multiplier"),
        ({"curious": -1}, "number of aggregators"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(NoiseError, match=message):
        PrivateSum(**{"clip": 1.0, "multiplier": 1.0, **options})


def test_somebodys_noise_must_remain() -> None:
    with pytest.raises(NoiseError, match="nobody's noise remains"):
        opened(PrivateSum(1.0, 1.0, curious=2), updates(2, 3))


def test_more_noise_than_can_be_drawn_is_refused_at_the_beginning() -> None:
    with pytest.raises(NoiseError, match="fraction bits"):
        Aggregation(testing.session(2, "tables"), 3, LIMITS, PrivateSum(1.0, 5000.0))


def test_a_clip_below_a_unit_is_refused() -> None:
    with pytest.raises(DeclaredLimitsError):
        Aggregation(testing.session(2, "tables"), 3, LIMITS, PrivateSum(1e-9, 1.0))


def test_protocols_that_do_not_compare_all_words_are_refused() -> None:
    with pytest.raises(UnsupportedOperationError, match="range check"):
        Aggregation(testing.session(2, "securenn"), 3, LIMITS, PrivateSum(1.0, 1.0))


# Sums of discrete Gaussians.


def test_sums_of_narrow_noise_are_not_one_noise_and_the_slack_says_so() -> None:
    """Two of variance 1/2 against one of variance 1: the largest ratio of probabilities is within the bound."""
    x = np.arange(-40, 41)
    one, two = (np.exp(-(x.astype(float) ** 2) / (2 * s)) for s in (1.0, 0.5))
    one, two = one / one.sum(), two / two.sum()
    both = np.convolve(two, two)[40:121]
    near = np.abs(x) <= 6
    ratio = float(np.abs(np.log(both[near] / one[near])).max())
    slack = Noise(1.0, curious=0).slack(1, 2, 1)
    assert 1e-3 < ratio <= slack == 10 * math.exp(-(math.pi**2) / 2)


def test_sums_of_noise_narrower_than_half_a_unit_have_no_bound() -> None:
    assert Noise(0.7, curious=1).slack(1, 2, 1) == 0.0
    with pytest.raises(NoiseError, match="have no bound"):
        Noise(0.7, curious=0).slack(1, 2, 1)


def test_wide_noise_has_no_slack_to_speak_of() -> None:
    assert Noise(1.0).slack(1, 5, 10**6) == 0.0
    assert Noise(1.0, curious=0).slack(65536, 5, 10**6) == 0.0
