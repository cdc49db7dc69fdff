"""Least squares on a pool: coefficients and standard errors, in secret.

Columns are made unit vectors; Gram-Schmidt of [X, y] gives R_x, r_y and the residual length r_yy; W = R_x^-1 and
b' = W r_y. With columns of length l_j and y of length l_y: coef_j = b'_j l_y / l_j, and, since R_x^T R_x holds the
correlations, se_j = r_yy |W_j| l_y / (l_j sqrt(n - p - 1)) with W_j row j. The residual sum of squares is the square of
the length that Gram-Schmidt leaves of y; nothing is subtracted from a total. Orthogonal methods lose digits with the
condition number of the columns, not with its square as normal equations do.

The intercept is mean(y) - mean(x) . coef; its error is that of a mean, times sqrt(1 + |W^T mean(x)|^2), with means in
units of l_j.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.nn.linalg.floating import scaled_together
from sharetorch.nn.linalg.pooling import Pool
from sharetorch.nn.linalg.vectors import (
    BOOST_BITS,
    SHORTEST,
    gram_schmidt,
    inverse_of_triangle,
    lengths_of_rows,
    measure,
    normalise_columns,
)
from sharetorch.nn.linalg.working import BITS, WORKING, at_bits, inner, integers, relabelled, shifted, to_working

SHORTEST_COLUMN = 4 * SHORTEST
"""Squared length, in the unit of its column, below which a column counts as constant."""

_LENGTH_BITS = 20
_FACTOR_BITS = 16
_MEAN_RANGE = 20


class Solution(NamedTuple):
    """Results in secret: mantissas and exponents of coefficients, then of their standard errors times sqrt(dof)."""

    mantissas: Any
    exponents: Any
    singular: Any


def solve(pooled: Pool, p: int) -> Solution:
    """Coefficients and standard errors of the last column on the first p, in secret."""
    columns = normalise_columns(pooled.rows, SHORTEST_COLUMN)
    triangle = gram_schmidt(columns.units, p)
    inverse = inverse_of_triangle(triangle)
    on_y = torch.cat([row[0, -1:] for row in triangle.above])
    residual = measure(triangle.rest)
    slopes = (inverse @ on_y.unsqueeze(1)).reshape(-1)
    length_y = inner(columns.units[:, p:], pooled.rows[:, p:])
    factors = columns.inverse[:p] * length_y
    spread = to_working(lengths_of_rows(at_bits(inverse, _LENGTH_BITS)))
    values, errors = slopes * factors, spread * residual.length * factors
    scale = pooled.exponents[p:] - pooled.exponents[:p]
    raised = residual.raised * -BOOST_BITS
    exponents = [scale, scale + raised]
    if pooled.means is not None:
        constant = _intercept(pooled, columns.inverse, slopes, inverse)
        values = torch.cat([values, constant.value * length_y])
        errors = torch.cat([errors, constant.spread * residual.length * length_y])
        of_y = pooled.exponents[p:]
        exponents = [
            torch.cat([scale, of_y + constant.value_exponent]),
            torch.cat([scale, of_y + constant.spread_exponent]) + raised,
        ]
    singular = (columns.short.sum() + triangle.short.sum()) > 0
    return Solution(torch.cat([values, errors]), torch.cat(exponents), singular)


class Intercept(NamedTuple):
    """The constant term and its error in units of the length of y, each with an exponent; shapes (1,)."""

    value: Any
    value_exponent: Any
    spread: Any
    spread_exponent: Any


def _intercept(pooled: Pool, inverse_lengths: Any, slopes: Any, inverse: Any) -> Intercept:
    """mean(y) - mean(x) . b', and sqrt(1 + |W^T mean(x)|^2), with means in units of their column's length."""
    p = slopes.shape[0]
    means = _in_lengths(pooled.means, inverse_lengths)
    all_means = scaled_together(means, _MEAN_RANGE)
    of_x = scaled_together(means[:p], _MEAN_RANGE)
    value = all_means.values[p:] - inner(all_means.values[:p].unsqueeze(1), slopes.unsqueeze(1))
    one = relabelled((of_x.onehot * _halves(_MEAN_RANGE)).sum(0), WORKING).reshape(1)
    along = (inverse.t() @ of_x.values.unsqueeze(1)).reshape(-1)
    row: Any = torch.cat([one, along]).unsqueeze(0)
    row = at_bits(row, _LENGTH_BITS)
    return Intercept(value, all_means.exponents.reshape(1), to_working(lengths_of_rows(row)), of_x.exponents.reshape(1))


def _halves(largest: int) -> Tensor:
    """2^-k in units, for k = 0 ... largest."""
    return torch.tensor([1 << (BITS - k) for k in range(largest + 1)])


def _in_lengths(means: Any, inverse_lengths: Any) -> Any:
    """means * inverse lengths: up to 2^20, so the factor has 16 bits only."""
    coarse = integers(shifted(inverse_lengths, BITS - _FACTOR_BITS))
    return shifted(means * coarse, _FACTOR_BITS)
