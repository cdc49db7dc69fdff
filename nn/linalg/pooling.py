"""The owners' contributions in common units: one matrix whose columns have the inner products of all data.

For each column the largest exponent of all owners is found in secret: from their steps [E_i >= k], 1 minus the product
of the opposites is [max E_i >= k]. Its one-hot vector picks 2^(E_i - max) from each table.

With means m_i of w_i = n_i / n of all rows, and any reference, the pooled mean is m = sum w_i m_i, and the deviations
from it have the factor of the stacked R_i and the rows sqrt(w_i) (m_i - m). Means of different owners may differ by far
more than the data of one owner vary, so a second exponent is found that covers the differences.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from sharetorch.mpc.errors import RegressionDataError
from sharetorch.nn.linalg.floating import divided, exponents_of, magnitudes, onehot_of, weighted
from sharetorch.nn.linalg.owners import LEVELS, LOWEST, MEAN_BITS, STEP, Contribution

MOST_OWNERS = 1 << 10


class Pool(NamedTuple):
    """All data in secret units of their columns.

    Attributes:
        rows: shape (r, c), with inner products of the (centred) columns over all rows, divided by n.
        means: pooled means, shape (c,); None for data that are not centred.
        exponents: integers, shape (c,): the unit of a column is 2^exponent.
    """

    rows: Any
    means: Any
    exponents: Any


def pool(parts: Sequence[Contribution], counts: Sequence[int]) -> Pool:
    """Combine the contributions of owners with these numbers of rows.

    Cost: with one owner two products. Else, for means, 1 + 16 comparisons for each column in two steps, and 6 products
    and truncations one after the other.

    Raises:
        RegressionDataError: more than 1024 owners.

    Leaks: nothing but shapes and numbers of rows.
    """
    if len(parts) > MOST_OWNERS:
        raise RegressionDataError(f"{len(parts)} owners: the ranges of means have room for {MOST_OWNERS} at most.")
    steps = _largest([part.steps for part in parts])
    onehot = onehot_of(steps[1:])
    exponents = weighted(onehot, [LOWEST + STEP * k for k in range(LEVELS)])
    ratios = [(onehot * part.table).sum(0) for part in parts]
    rows = torch.cat([part.rows * ratio for part, ratio in zip(parts, ratios, strict=True)])
    if parts[0].means is None:
        return Pool(rows, None, exponents)
    means = torch.stack([part.means * ratio for part, ratio in zip(parts, ratios, strict=True)])
    if len(parts) == 1:
        return Pool(rows, means[0], exponents)
    return _with_differences(Pool(rows, means, exponents), counts)


def _largest(steps: list[Any]) -> Any:
    """Steps of the largest exponent: 1 - product of (1 - steps), as a tree."""
    if len(steps) == 1:
        return steps[0]
    none = [1 - step for step in steps]
    while len(none) > 1:
        none = [none[i] * none[i + 1] if i + 1 < len(none) else none[i] for i in range(0, len(none), 2)]
    return 1 - none[0]


def _with_differences(pooled: Pool, counts: Sequence[int]) -> Pool:
    """Add the rows of differences of means; ``means`` has one row for each owner before, none after."""
    differences = pooled.means[1:] - pooled.means[:1]
    largest = MEAN_BITS + 1 + math.ceil(math.log2(len(counts)))
    onehot = exponents_of(magnitudes(differences).sum(0), largest)
    both = torch.cat([pooled.rows, differences, pooled.means[:1]])
    both = divided(both, onehot)
    rows, differences, first = both.split([pooled.rows.shape[0], len(counts) - 1, 1])
    weights = torch.tensor([counts], dtype=torch.float64) / sum(counts)
    centre = weights[:, 1:] @ differences
    between = torch.cat([torch.zeros_like(first), differences]) - centre
    exponents = pooled.exponents + weighted(onehot, list(range(largest + 1)))
    return Pool(torch.cat([rows, between * weights.t().sqrt()]), (first + centre).reshape(-1), exponents)
