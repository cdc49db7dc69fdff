"""Student's t distribution, by the continued fraction of the incomplete beta function."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TINY = 1e-300
_MOST_TERMS = 10_000


def two_sided_p(t: Tensor, degrees: int) -> Tensor:
    """Probability that |T| >= |t| for T of Student's distribution.

    Args:
        t: any shape; infinite values give 0, NaN gives NaN.
        degrees: degrees of freedom, at least 1.

    Returns:
        float64, the shape of ``t``; relative error about 1e-12.
    """
    values = [_two_sided(float(value), degrees) for value in t.reshape(-1)]
    return torch.tensor(values, dtype=torch.float64).reshape(t.shape)


def _two_sided(t: float, degrees: int) -> float:
    if math.isnan(t):
        return math.nan
    square = t * t
    if math.isinf(square):
        return 0.0
    return incomplete_beta(degrees / 2, 0.5, degrees / (degrees + square), square / (degrees + square))


def incomplete_beta(a: float, b: float, x: float, rest: float) -> float:
    """The regularised incomplete beta function I_x(a, b).

    Args:
        a: positive.
        b: positive.
        x: in [0, 1].
        rest: 1 - x, given apart so that it keeps its digits.
    """
    if x <= 0 or rest <= 0:
        return 0.0 if x <= 0 else 1.0
    factor = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(rest))
    if x < (a + 1) / (a + b + 2):
        return factor * _fraction(a, b, x) / a
    return 1 - factor * _fraction(b, a, rest) / b


def _fraction(a: float, b: float, x: float) -> float:
    """1 / (1 + d_1 / (1 + d_2 / ...)) by Lentz's method."""
    c, d = 1.0, _away_from_zero(1 - (a + b) * x / (a + 1))
    d = 1 / d
    value = d
    for m in range(1, _MOST_TERMS):
        for term in _terms(a, b, x, m):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _terms(a: float, b: float, x: float, m: int) -> tuple[float, float]:
    """The even and the odd coefficient number m."""
    even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
    odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
    return even, odd


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
