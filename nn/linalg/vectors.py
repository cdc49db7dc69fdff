"""Unit vectors, Gram-Schmidt and triangular inverses at the working precision.

A vector is normalised with an inverse square root of its squared length, and the small error of that is corrected by
one Newton step on the unit vector itself. So a unit vector is as exact as the vector's own entries allow, although the
square of a short vector has few digits. No step depends on a value: vectors that are too short to be normalised raise a
secret bit instead, and are treated as if their squared length were larger by 1.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from sharetorch.nn.linalg.working import inner

SHORTEST = 2.0**-15
"""Squared length below which a vector is not normalised; the inverse length stays below 182."""

BOOST_BITS = 7
"""Power of two by which short vectors are lengthened before they are normalised."""


class Units(NamedTuple):
    """Normalised columns.

    Attributes:
        units: columns of length 1, shape (n, m); a short column comes out multiplied by about 1.5.
        inverse: inverse lengths of the columns, shape (m,).
        short: integers 0 and 1, shape (m,): whether the squared length was below ``SHORTEST``.
    """

    units: Any
    inverse: Any
    short: Any


def normalise_columns(x: Any, shortest: float = SHORTEST) -> Units:
    """Columns of length 1.

    Args:
        x: shape (n, m), squared column lengths below 2^14.
        shortest: smallest squared length that is normalised, at least ``SHORTEST``.

    Error: about 2^-24 / length per entry, and 2^-30 / length^4 of the length, at most 2^-18.

    Cost: one comparison, one inverse square root, 8 products and truncations one after the other.
    """
    squared = inner(x, x)
    short = squared < shortest
    inverse = (squared + short).rsqrt()
    units = x * inverse
    correction = 1.5 - inner(units, units) * 0.5
    return Units(units * correction, inverse * correction, short)


class Length(NamedTuple):
    """Directions and lengths of columns, short columns included.

    Attributes:
        unit: columns of length 1, shape (n, m).
        length: shape (m,), to be multiplied by 2^-7 where ``raised`` is 1.
        inverse: shape (m,), to be multiplied by 2^7 where ``raised`` is 1.
        raised: integers 0 and 1, shape (m,).
        short: integers 0 and 1: length below 2^-14.5; then the other parts have no meaning but are small.
    """

    unit: Any
    length: Any
    inverse: Any
    raised: Any
    short: Any


def measure(x: Any) -> Length:
    """Directions and lengths of columns, lengthened by 2^7 first where they are short.

    Args:
        x: shape (n, m).

    Cost: two comparisons, one inverse square root, 11 products and truncations one after the other.
    """
    raised = inner(x, x) < 2 * SHORTEST
    longer = x * (raised * ((1 << BOOST_BITS) - 1) + 1)
    units, inverse, short = normalise_columns(longer)
    return Length(units, inner(units, longer), inverse, raised, short)


class Triangle(NamedTuple):
    """Gram-Schmidt of p columns and what is left of further ones.

    Attributes:
        units: the p orthonormal columns, each of shape (n, 1).
        inverse: inverse diagonal of the triangular factor R, shape (p,).
        above: rows of R right of the diagonal, ``above[j]`` of shape (1, p - j - 1 + further).
        rest: further columns without their part in the span, shape (n, further).
        short: integers 0 and 1, shape (p,): columns that depend on those before them.
    """

    units: list[Any]
    inverse: Any
    above: list[Any]
    rest: Any
    short: Any


def gram_schmidt(x: Any, p: int, units_only: bool = False) -> Triangle:
    """Modified Gram-Schmidt of the first p columns, applied to all.

    The triangular factor of this method is as accurate as that of Householder reflections [Bjo67]. Rounding errors are
    about n * p units.

    Args:
        x: shape (n, p + further), columns of length about 1.
        p: number of columns to make orthonormal, at least 1.
        units_only: normalise shorter columns, too, down to a length of 2^-14.5; ``inverse`` has no meaning then.

    Cost: p times (a normalisation and 4 products and truncations), one after the other.
    """
    units, inverses, above, shorts = [], [], [], []
    for _ in range(p):
        found = measure(x[:, :1]) if units_only else normalise_columns(x[:, :1])
        unit, inverse, short = found[0], found.inverse, found.short
        x = x[:, 1:]
        if x.shape[1]:
            row = unit.t() @ x
            x = x - unit * row
            above.append(row)
        units.append(unit)
        inverses.append(inverse)
        shorts.append(short)
    return Triangle(units, torch.cat(inverses), above, x, torch.cat(shorts))


def inverse_of_triangle(triangle: Triangle) -> Any:
    """Inverse of the upper triangular p x p factor, shape (p, p).

    Column j is -W[:, :j] R[:j, j] w_j above the diagonal and w_j = 1 / R[j, j] on it.

    Cost: p - 1 times 2 products and truncations.
    """
    p = triangle.inverse.shape[0]
    made = _padded(triangle.inverse[:1].reshape(1, 1), p)
    for j in range(1, p):
        column = torch.cat([triangle.above[i][0, j - i - 1].reshape(1, 1) for i in range(j)])
        w = triangle.inverse[j : j + 1].reshape(1, 1)
        top = -((made[:j, :j] @ column) * w)
        made = torch.cat([made[:, :j], _padded(torch.cat([top, w]), p)], dim=1)
    return made


def _padded(column: Any, rows: int) -> Any:
    """A column with zeros below."""
    return torch.nn.functional.pad(column, (0, 0, 0, rows - column.shape[0]))


def lengths_of_rows(x: Any) -> Any:
    """Euclidean length of each row, shape (n,); at the precision of x, with squared lengths within its range."""
    transposed = x.t()
    return inner(transposed, transposed).sqrt()
