"""Integers of the distribution that they are said to have; wrong samplers are caught."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import sqrt
from typing import Any

import mpmath
import numpy as np
import pytest

from sharetorch.mpc import discrete_gaussian as dg
from sharetorch.mpc.discrete_gaussian import DiscreteGaussian, Thresholds, as_integers
from sharetorch.mpc.errors import EncodingRangeError
from sharetorch.mpc.randomness import Stream, fresh_stream
from tests.fl.privacy.tools import Integers, plant_method, require_discrete_gaussian

COUNT = 1 << 18
SIZES = [
    Fraction(9, 100), Fraction(1), Fraction(7, 2), Fraction(200), Fraction(1 << 16), Fraction(1 << 40),
    Fraction(3, 5) * 2**56,
]  # fmt: skip


def drawn(parameter: Fraction, count: int = COUNT, key: int = 1) -> Integers:
    return DiscreteGaussian(parameter).draw(Stream(key.to_bytes(16, "big")), count)


@pytest.mark.parametrize("parameter", SIZES, ids=lambda s: f"deviation {sqrt(s):.3g}")
def test_the_distribution_is_right(parameter: Fraction) -> None:
    require_discrete_gaussian(drawn(parameter), parameter)


@pytest.mark.parametrize("count", [0, 1, 3, 20_001])
def test_as_many_as_asked_for(count: int) -> None:
    found = drawn(Fraction(100), count)
    assert found.shape == (count,)
    assert found.dtype == np.int64


@pytest.mark.parametrize("parameter", [Fraction(0), Fraction(-1), Fraction(1 << 56)])
def test_what_cannot_be_drawn_is_refused(parameter: Fraction) -> None:
    with pytest.raises(EncodingRangeError, match="cannot be drawn"):
        DiscreteGaussian(parameter)


@pytest.mark.parametrize("parameter", [Fraction(1), Fraction(1, 3), Fraction(1 << 55), Fraction(10**9, 7)])
def test_parameters_as_integers_are_not_smaller(parameter: Fraction) -> None:
    numerator, digits = as_integers(parameter)
    assert 0 < numerator < 1 << 62
    assert 0 <= Fraction(numerator, 1 << digits) / parameter - 1 < Fraction(1, 1 << 55)


# The tables, against another implementation of exp; and what they give, without drawing.


def _output(distribution: DiscreteGaussian) -> dict[int, Any]:
    """What each integer comes with, by the tables alone: no sampling."""
    k = distribution._k
    bounds = [0, *distribution._coarse._values, 1 << 128]
    coarse = [mpmath.mpf(above - below) for below, above in zip(bounds, bounds[1:], strict=False)]
    factors = [mpmath.mpf(factor._values[0]) / 2**128 for factor in distribution._factors]
    found: dict[int, Any] = {}
    for a, weight in enumerate(coarse):
        for b in range(1 << k):
            size, t = (a << k) + b, (a * b << (k + 1)) + b * b
            kept = mpmath.fprod(factor for i, factor in enumerate(factors) if t >> i & 1)
            found[size] = found[-size] = weight * kept
    total = mpmath.fsum(found.values())
    return {x: p / total for x, p in found.items()}


@pytest.mark.parametrize("parameter", [Fraction(9, 100), Fraction(10), Fraction(17, 4) * 64, Fraction(500)])
def test_tables_give_the_distribution_to_118_bits(parameter: Fraction) -> None:
    with mpmath.workprec(220):
        s = mpmath.mpf(parameter.numerator) / parameter.denominator
        found = _output(DiscreteGaussian(parameter))
        reach = max(found) + 40
        exact = {x: mpmath.exp(-mpmath.mpf(x * x) / (2 * s)) for x in range(-reach, reach + 1)}
        total = mpmath.fsum(exact.values())
        distance = mpmath.fsum(abs(p / total - found.get(x, 0)) for x, p in exact.items()) / 2
        assert distance < mpmath.mpf(2) ** -118


class Told:
    """A stream of given words."""

    def __init__(self, *words: int) -> None:
        self._rest = list(words)

    def bytes(self, count: int) -> Any:
        taken, self._rest = self._rest[: count // 8], self._rest[count // 8 :]
        return np.array(taken, np.uint64).view(np.uint8)


def test_numbers_that_agree_in_64_bits_are_compared_in_128() -> None:
    high = 5 << 64
    thresholds = Thresholds([high | 7, high | 9, 6 << 64])
    told: Any = Told(4, 5, 5, 5, 6, 6, 8, 9, 0)
    assert thresholds.reached(told, 5).tolist() == [0, 0, 1, 2, 3]


# Wrong samplers.


def _rounded(parameter: Fraction) -> Integers:
    return np.rint(np.random.default_rng(1).normal(0, sqrt(parameter), COUNT)).astype(np.int64)


def _wider(parameter: Fraction) -> Integers:
    return drawn(parameter * Fraction(103, 100))


WRONG: dict[str, tuple[Callable[[Fraction], Integers], Fraction]] = {
    "rounded normal numbers, 0.3": (_rounded, Fraction(9, 100)),
    "rounded normal numbers, 1": (_rounded, Fraction(1)),
    "rounded normal numbers, 1.5": (_rounded, Fraction(9, 4)),
    "variance off by 3 %, 0.3": (_wider, Fraction(9, 100)),
    "variance off by 3 %, 4": (_wider, Fraction(16)),
    "variance off by 3 %, 2^20": (_wider, Fraction(1 << 40)),
    "never odd": (lambda s: drawn(s / 4) * 2, Fraction(1 << 40)),
    "tails cut off": (lambda s: drawn(s).clip(-int(3.5 * sqrt(s)), int(3.5 * sqrt(s))), Fraction(1 << 40)),
    "never negative": (lambda s: np.abs(drawn(s)), Fraction(16)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_distributions_are_caught(name: str) -> None:
    sampler, parameter = WRONG[name]
    with pytest.raises(AssertionError):
        require_discrete_gaussian(sampler(parameter), parameter)


MUTANTS = {
    "zeros twice": ("_candidates", "~(negative & (size == 0))", "np.ones(count, np.bool_)", Fraction(16)),
    "nothing is dropped": ("_candidates", "kept &= ~(failed &", "kept &= ~(False &", Fraction(1 << 16)),
    "b has a bit less": ("_candidates", "(1 << self._k) - 1", "(1 << self._k) // 2 - 1", Fraction(1 << 40)),
    "the cross term is missing": ("_candidates", "((a * b) << (self._k + 1)) + b * b", "b * b", Fraction(1 << 16)),
    "one sign": ("_candidates", "(rest >> np.uint64(63))", "(rest >> np.uint64(64 - 1) & np.uint64(0))", Fraction(16)),
    "rate twice": ("__init__", "2 * Decimal(parameter.numerator)", "Decimal(parameter.numerator)", Fraction(1 << 40)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, correct, wrong, parameter = MUTANTS[name]
    plant_method(monkeypatch, DiscreteGaussian, method, correct, wrong)
    with pytest.raises(AssertionError):
        require_discrete_gaussian(drawn(parameter), parameter)


def test_streams_of_their_own_give_other_integers() -> None:
    one, other = (dg.discrete_gaussian(Fraction(1 << 40)).draw(fresh_stream(), 100) for _ in range(2))
    assert not np.array_equal(one, other)
