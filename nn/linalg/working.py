"""The working precision of linear algebra, and the way into and out of it.

All work is done in base 2 with 24 fraction bits: one unit is 6e-8, and products and sums of products stay below 2^14.
Numbers are kept near 1 by normalisation, so both suffice. Nothing here opens anything.
"""

from __future__ import annotations

from typing import Any

import torch

from sharetorch.mpc.fixedpoint import INTEGERS, Encoding, fixed
from sharetorch.mpc.tensor.arithmetic import make
from sharetorch.mpc.tensor.shared import SharedTensor

BITS = 24
WORKING = fixed(BITS)
"""24 fraction bits; ``get()`` gives plain numbers."""

_FACTOR_BITS = 30


def relabelled(
    x: SharedTensor, encoding: Encoding, factor: int = 1, dtype: torch.dtype = torch.float64
) -> SharedTensor:
    """The integers behind ``x`` times a public integer, read in another encoding. No messages."""
    (number,) = x.session.command("scale", x.handle.number, values=torch.tensor(factor))
    return make(x.session, number, encoding, torch.empty(x.shape, dtype=dtype, device="meta"))


def shifted(x: SharedTensor, bits: int, method: str | None = None) -> SharedTensor:
    """x / 2^bits in the same encoding, rounded to a unit. One round, three if ``method`` is "exact"."""
    if not bits:
        return x
    (number,) = x.session.command(
        "truncate", x.handle.number, divisor=1 << bits, method=method or x.encoding.truncation
    )
    return make(x.session, number, x.encoding, x.shadow)


def at_bits(x: SharedTensor, bits: int) -> SharedTensor:
    """The same numbers in base 2 with ``bits`` fraction bits, from any other number of them."""
    encoding = fixed(bits)
    if x.encoding.scale > bits:
        return relabelled(shifted(x, x.encoding.scale - bits), encoding)
    return relabelled(x, encoding, 1 << (bits - x.encoding.scale))


def to_working(x: SharedTensor) -> SharedTensor:
    """A shared or local fixed-precision tensor at the working precision, in float64.

    Args:
        x: integers or reals of any encoding with |v| < 2^14.

    Cost: none from base 2, one truncation from base 10.
    """
    if x.encoding.integer or x.encoding.base == 2:
        return at_bits(x, BITS)
    unit = x.encoding.unit
    spare = _FACTOR_BITS - max(0, (1 << BITS) // unit).bit_length()
    raised = relabelled(x, WORKING, round((1 << (BITS + spare)) / unit))
    return shifted(raised, spare)


def from_working(x: SharedTensor, encoding: Encoding, dtype: torch.dtype) -> SharedTensor:
    """A tensor at the working precision in the encoding the user chose.

    Cost: one truncation, unless the encoding has as many bits or more.
    """
    target = encoding.at_scale(encoding.precision)
    if target.integer:
        target = fixed()
    if target.base == 2:
        found = at_bits(x, target.scale)
        return relabelled(found, target, dtype=dtype)
    return relabelled(shifted(relabelled(x, WORKING, target.unit), BITS), target, dtype=dtype)


def integers(x: SharedTensor) -> SharedTensor:
    """Bits and counts as integers, whatever their dtype was."""
    return relabelled(x, INTEGERS, dtype=torch.int64)


def inner(x: Any, y: Any) -> Any:
    """Inner products of columns, each truncated once.

    Args:
        x: shape (n, m).
        y: shape (n, m); entry j of the result is x[:, j] . y[:, j].

    Returns:
        Shape (m,).
    """
    products = x.t().unsqueeze(1) @ y.t().unsqueeze(2)
    return products.reshape(-1)
