"""What is done to every client's update before a rule sees it: coordinates into their range, length below a bound.

Nobody learns whose update was changed, nor whether any was. Notation: X the updates as integers at scale 2^f, shape
(n, d); C and B the largest coordinate and length at the same scale.

``within_range``   a client that leaves the declared range has its coordinates set to the nearest allowed value:
                       C - relu(2 C - relu(X + C)),
                   which lies in [-C, C] for every word of Z_2^64, also where X + C wraps. So one client cannot make the
                   sum of all overflow, whatever it uploads. It takes a comparison that is exact on the whole ring.
``clip_lengths``   q = |X_i|^2 exactly at scale 2^(2f); b = [q > B^2]; with 2^(k-1) < B <= 2^k, v = q / 4^k and
                   s = 1 / sqrt(v) at scale 2^24, the factor is 1 + b (s B / 2^k - 1). Updates within the bound are left
                   as they are, to the bit. Beyond 2^12 B the root is 0, and so is the update.
"""

from __future__ import annotations

import torch

from sharetorch.fl.aggregation.errors import DeclaredLimitsError
from sharetorch.fl.aggregation.limits import Limits
from sharetorch.fl.aggregation.words import (
    divided_product,
    held,
    inverse_roots,
    non_negative,
    rectified,
    shifted,
    sign_cost,
)
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.errors import UnsupportedOperationError
from sharetorch.mpc.protocols.arithmetic import bilinear_cost
from sharetorch.mpc.protocols.bilinear import Product
from sharetorch.mpc.protocols.functions import inverse_square_root_cost
from sharetorch.mpc.protocols.products import products_cost
from sharetorch.mpc.protocols.selection import Prices
from sharetorch.mpc.protocols.truncation import truncation_cost
from sharetorch.mpc.session import Session
from sharetorch.mpc.tensor.shared import SharedTensor

ROOT_BITS = 24
"""Scale of inverse roots."""
_SPARE_BITS = 20
WHOLE_RING = ("tables", "tables-wan", "fss")
"""Protocols whose comparisons are exact on the whole ring."""


def within_range(x: SharedTensor, smallest: int, largest: int) -> SharedTensor:
    """Integers, those outside [smallest, largest] set to the nearer end; those that wrap to either end.

    Cost: ``range_cost``. Leaks: nothing.
    """
    return held(largest - rectified((largest - smallest) - rectified(x - smallest)))


def require_whole_ring(session: Session) -> None:
    """Raise unless the session compares all words of the ring, as ``within_range`` needs.

    Raises:
        UnsupportedOperationError: its protocol compares numbers up to 2^62 only.
    """
    if session.suite.name not in WHOLE_RING:
        raise UnsupportedOperationError(
            f"{session.suite.name!r} compares numbers up to 2^62 only, so a client could upload words that escape the "
            f"range check; make the session with protocol= one of {', '.join(WHOLE_RING)}, or trust clients to keep "
            "their word with bounded=False."
        )


def range_cost(count: int, prices: Prices) -> Cost:
    """Declared price of ``within_range``."""
    return prices.choose(count, 1) + prices.choose(count, 1)


def squared_lengths(x: SharedTensor) -> SharedTensor:
    """The sum of squares of each row, shape (n, 1). Price: ``bilinear_cost(n d, n)``."""
    n, d = x.shape
    return held(torch.bmm(x.view(n, 1, d), x.view(n, d, 1)).view(n, 1))


def scale_bits(length: int) -> int:
    """k with 2^(k-1) < length <= 2^k."""
    return (length - 1).bit_length()


def clip_lengths(x: SharedTensor, bound: int) -> SharedTensor:
    """Rows longer than ``bound`` shortened to it; all others unchanged.

    Error of a shortened row: relative 2^-20, and one unit of each coordinate.

    Args:
        x: integers whose sum of squares stays below 2^62 in each row, shape (n, d).
        bound: B.

    Cost: ``clip_cost``. Leaks: nothing.
    """
    k = scale_bits(bound)
    squares = squared_lengths(x)
    longer = 1 - non_negative(bound * bound - squares)
    roots = inverse_roots(shifted(squares, ROOT_BITS - 2 * k), 1 << ROOT_BITS)
    shorter = roots * round(bound * 2.0 ** (_SPARE_BITS - k)) - (1 << (ROOT_BITS + _SPARE_BITS))
    factors = divided_product(Product(), longer, shorter, 1 << _SPARE_BITS) + (1 << ROOT_BITS)
    return divided_product(Product(), x, factors, 1 << ROOT_BITS)


def clip_cost(clients: int, dimension: int, bound: int, prices: Prices) -> Cost:
    """Declared price of ``clip_lengths``."""
    n, count, parties = clients, clients * dimension, prices.parties
    cut = truncation_cost(n, parties) if 2 * scale_bits(bound) > ROOT_BITS else Cost()
    return (
        bilinear_cost(count, n, parties)
        + sign_cost(n, prices)
        + cut
        + inverse_square_root_cost(n, 1 << ROOT_BITS, prices)
        + products_cost(2 * n, n, 0, parties)
        + products_cost(n, count, 0, parties)
    )


def require_lengths(limits: Limits, dimension: int, bound: int) -> None:
    """Raise unless the squared lengths of updates fit, also after they are scaled by the square of a length.

    Raises:
        DeclaredLimitsError: they could overflow.
    """
    scaled = dimension * limits.largest**2 << max(0, ROOT_BITS - 2 * scale_bits(bound))
    limits.require(scaled, f"the squared length of an update of {dimension} coordinates")


def require_clipping(limits: Limits, dimension: int, bound: int) -> None:
    """Raise unless updates of so many coordinates can be clipped to a length.

    Raises:
        DeclaredLimitsError: the length is no positive number, or a number could overflow.
    """
    if bound < 1:
        raise DeclaredLimitsError(f"A largest length of {bound} units of 2^-{limits.fraction_bits}; give a larger one.")
    require_lengths(limits, dimension, bound)
    limits.require(bound * bound, "the square of the largest length")
    limits.require(limits.largest << ROOT_BITS, "a coordinate times a factor of 24 bits")
