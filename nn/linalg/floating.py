"""Secret exponents: numbers of any magnitude in fixed point.

A number is a mantissa at the working precision and an integer exponent, both shared. Exponents are found by comparing
with all powers of two at once, and taken off by one product with a secret power of two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.nn.linalg.working import BITS, integers, relabelled, shifted

RELEASED_BITS = 20
"""Significant bits of a released number: a relative error of 2^-20."""

_MANTISSA_BITS = 40


class Scaled(NamedTuple):
    """Numbers divided by a secret power of two.

    Attributes:
        values: the numbers, below 1 in magnitude.
        exponents: integers e: what the values are to be multiplied by is 2^e.
        onehot: integers 0 and 1, one for each e = 0, 1, ... along dimension 0.
    """

    values: Any
    exponents: Any
    onehot: Any


def magnitudes(x: Any) -> Any:
    """|x|. Cost: one comparison and one product."""
    return x * ((x >= 0) * 2 - 1)


def onehot_of(bits: Any) -> Any:
    """From [e > 0], [e > 1], ..., [e > K - 1] along dimension 0 to the one-hot vector of e = 0 ... K. No messages."""
    ones = torch.ones_like(bits[:1])
    return torch.cat([ones, bits]) - torch.cat([bits, torch.zeros_like(bits[:1])])


def weighted(onehot: Any, weights: list[int]) -> Any:
    """Sum of weights[k] * onehot[k] over dimension 0: integers. No messages."""
    column = torch.tensor(weights).reshape(-1, *[1] * (onehot.dim() - 1))
    return (onehot * column).sum(0)


def exponents_of(sizes: Any, largest: int) -> Any:
    """One-hot vectors of the smallest e with sizes < 2^e, 0 <= e <= largest, along a new dimension 0.

    Cost: ``largest`` comparisons for each number, in the same rounds.
    """
    powers = torch.tensor([2.0**k for k in range(largest)], dtype=torch.float64).reshape(-1, *[1] * sizes.dim())
    return onehot_of(sizes.unsqueeze(0) >= powers)


def divided(x: Any, onehot: Any) -> Any:
    """x / 2^e for the one-hot vector of e = 0 ... K, for |x| < 2^(e + 37 - K). One product, one truncation."""
    largest = onehot.shape[0] - 1
    return shifted(x * weighted(onehot, [1 << (largest - k) for k in range(largest + 1)]), largest)


def scaled_together(x: Any, largest: int) -> Scaled:
    """A vector divided by one power of two so that its sum of magnitudes is below 1, if it is below 2^largest.

    Args:
        x: shape (n,), working numbers.
        largest: largest exponent.

    Returns:
        Values of shape (n,), an exponent of no dimension.
    """
    onehot = exponents_of(magnitudes(x).sum(), largest)
    return Scaled(divided(x, onehot), weighted(onehot, list(range(largest + 1))), onehot)


def release(mantissas: Any, exponents: Any) -> Tensor:
    """Open mantissas * 2^exponents as floating-point numbers of 20 significant bits.

    Each number is normalised in secret first, and its exponents are added up, so that what is opened is the number
    itself, not the scales it was computed from. A number of 0 is opened as such.

    Args:
        mantissas: working numbers of shape (n,), magnitudes below 2^16.
        exponents: integers of shape (n,).

    Returns:
        float64, shape (n,).

    Cost: 2 comparisons one after the other (of 1 and 40 numbers an element), 3 products, one exact truncation.
    Leaks: of a number below 2^-4, the zeros after its last significant bit, when ``mantissas`` had fewer than 20 of
        them.
    """
    sign = (mantissas >= 0) * 2 - 1
    units = integers(mantissas)
    powers = torch.tensor([1 << k for k in range(_MANTISSA_BITS)]).reshape(-1, 1)
    bits = (units * sign).unsqueeze(0) >= powers
    factors = weighted(onehot_of(bits), [1 << (_MANTISSA_BITS - k) for k in range(_MANTISSA_BITS + 1)])
    spare = _MANTISSA_BITS - RELEASED_BITS
    raised = shifted(units * factors + (1 << (spare - 1)), spare, "exact")
    total = (exponents + bits.sum(0)) * bits[0]
    return torch.ldexp(_opened(raised).double(), _opened(total) - (RELEASED_BITS + BITS))


def _opened(x: Any) -> Tensor:
    """Signed integers behind a shared tensor, opened."""
    opened: Tensor = relabelled(x, x.encoding, dtype=torch.int64).get()
    return opened
