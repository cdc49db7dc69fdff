"""The local steps of elementwise protocols, each in one pass over memory.

Arrays are 1-D, contiguous int64 and of equal length; words wrap around modulo 2^64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels._numba import INT, kernel, read_only, writable
from sharetorch.mpc.kernels._threads import in_parts

Words = NDArray[np.int64]

WORD_BITS = 64
PART = 1 << 16
"""Elements worth a thread of their own."""

_INPUT = read_only("int64")


def check_vectors(dtype: type, **vectors: NDArray[np.generic]) -> None:
    """Check that vectors have this dtype, are contiguous and equally long.

    Raises:
        ShapeError: a vector has another length, more axes, or gaps.
        TypeError: a vector has another dtype.
    """
    length = next(iter(vectors.values())).size
    for name, vector in vectors.items():
        if vector.dtype != dtype:
            raise TypeError(f"{name} has dtype {vector.dtype}; this kernel works on {np.dtype(dtype)}.")
        if vector.shape != (length,) or not vector.flags.c_contiguous:
            raise ShapeError(
                f"{name} has shape {vector.shape}; this kernel needs contiguous vectors of length {length}."
            )


@kernel(_INPUT, _INPUT, _INPUT, _INPUT, _INPUT, writable("int64"), INT, INT)
def _beaver_part(e: Words, f: Words, x: Words, v: Words, z: Words, out: Words, begin: int, end: int) -> None:
    e, f, x, v, z, out = e[begin:end], f[begin:end], x[begin:end], v[begin:end], z[begin:end], out[begin:end]
    for i in range(out.size):
        out[i] = z[i] + e[i] * v[i] + x[i] * f[i]


def beaver_combine(e: Words, f: Words, x: Words, v: Words, z: Words) -> Words:
    """Give this party's share of x y after x - U and y - V were opened.

    Args:
        e: the opened x - U, int64, shape (n,).
        f: the opened y - V, int64, shape (n,).
        x: this party's share of x, int64, shape (n,).
        v: this party's share of V, int64, shape (n,).
        z: this party's share of U V, int64, shape (n,).

    Returns:
        z + e v + x f, int64, shape (n,): all parties' sum is U V + (x - U) V + x (y - V).

    Raises:
        ShapeError: lengths differ or a vector is not contiguous.
        TypeError: a vector is not int64.
    """
    check_vectors(np.int64, e=e, f=f, x=x, v=v, z=z)
    out = np.empty_like(z)
    in_parts(lambda begin, end: _beaver_part(e, f, x, v, z, out, begin, end), out.size, PART)
    return out


@kernel(_INPUT, _INPUT, INT, INT, writable("int64"), INT, INT)
def _weighted_part(x: Words, y: Words, a: int, b: int, out: Words, begin: int, end: int) -> None:
    x, y, out = x[begin:end], y[begin:end], out[begin:end]
    for i in range(out.size):
        out[i] += a * x[i] + b * y[i]


def add_weighted(x: Words, y: Words, a: int, b: int, out: Words) -> None:
    """Add a x + b y to ``out``; all int64, shape (n,).

    Raises:
        ShapeError: lengths differ or a vector is not contiguous.
        TypeError: a vector is not int64.
    """
    check_vectors(np.int64, x=x, y=y, out=out)
    in_parts(lambda begin, end: _weighted_part(x, y, a, b, out, begin, end), out.size, PART)


@kernel(_INPUT, _INPUT, _INPUT, _INPUT, INT, INT, INT, writable("int64"), INT, INT)
def _truncation_part(
    own: Words,
    others: Words,
    m: Words,
    t: Words,
    fraction_bits: int,
    ring_bits: int,
    lead: int,
    out: Words,
    begin: int,
    end: int,
) -> None:
    own, others, m, t, out = own[begin:end], others[begin:end], m[begin:end], t[begin:end], out[begin:end]
    top = ring_bits - 1
    low = (1 << top) - 1
    offset = 1 << (top - 1)
    unused = 64 - ring_bits
    for i in range(out.size):
        c = own[i] + others[i] + offset
        top_bit = (c >> top) & 1
        carry = lead * top_bit + (1 - 2 * top_bit) * t[i]
        y = (carry << (top - fraction_bits)) - m[i] + lead * (((c & low) >> fraction_bits) - (offset >> fraction_bits))
        out[i] = (y << unused) >> unused


def truncation_combine(
    own: Words, others: Words, m: Words, t: Words, fraction_bits: int, ring_bits: int = WORD_BITS, *, leader: bool
) -> Words:
    """Give this party's share of x / 2^fraction_bits, rounded up or down at random, after x + r was opened.

    With l = ring_bits, f = fraction_bits and a random r of l bits: c = x + 2^(l-2) + r is public,
    m = floor((r mod 2^(l-1)) / 2^f), t = the top bit of r, and -2^(l-2) <= x < 2^(l-2). The carry out of bit l-2 of the
    sum is (top bit of c) XOR t, and so

        y = (c mod 2^(l-1)) >> f - 2^(l-2-f) - m + 2^(l-1-f) ((top bit of c) XOR t).

    This is [DEK20]'s probabilistic truncation: y is floor(x / 2^f) or one more, x / 2^f on average.

    Args:
        own: this party's share of x + r, int64, shape (n,).
        others: the sum of the other parties' shares of x + r, int64, shape (n,).
        m: this party's additive share of m, int64, shape (n,).
        t: this party's additive share of t as a ring element, int64, shape (n,).
        fraction_bits: f, between 0 and l - 2.
        ring_bits: l, between 2 and 64.
        leader: exactly one party adds the public terms.

    Returns:
        int64, shape (n,), in [-2^(l-1), 2^(l-1)).

    Raises:
        ShapeError: lengths differ or a vector is not contiguous.
        TypeError: a vector is not int64.
        ValueError: the numbers of bits are out of range.
    """
    check_vectors(np.int64, own=own, others=others, m=m, t=t)
    if not 0 <= fraction_bits <= ring_bits - 2 <= WORD_BITS - 2:
        raise ValueError(
            f"Cannot cut {fraction_bits} bits off a ring of {ring_bits} bits; at most {ring_bits - 2}, of 64."
        )
    out = np.empty_like(own)
    in_parts(
        lambda begin, end: _truncation_part(own, others, m, t, fraction_bits, ring_bits, int(leader), out, begin, end),
        out.size,
        PART,
    )
    return out


@kernel(_INPUT, INT, INT, writable("int64"), writable("int64"), INT, INT)
def _mask_part(r: Words, fraction_bits: int, ring_bits: int, m: Words, t: Words, begin: int, end: int) -> None:
    r, m, t = r[begin:end], m[begin:end], t[begin:end]
    top = ring_bits - 1
    low = (1 << top) - 1
    for i in range(r.size):
        m[i] = (r[i] & low) >> fraction_bits
        t[i] = (r[i] >> top) & 1


def truncation_mask(r: Words, fraction_bits: int, ring_bits: int = WORD_BITS) -> Words:
    """Give what the dealer shares of a truncation mask: m = floor((r mod 2^(l-1)) / 2^f) and t, the top bit of r.

    Args:
        r: the mask, int64, shape (n,).
        fraction_bits: f.
        ring_bits: l.

    Returns:
        m and t, int64, shape (2, n).

    Raises:
        ShapeError: the vector is not contiguous.
        TypeError: it is not int64.
    """
    check_vectors(np.int64, r=r)
    out = np.empty((2, r.size), np.int64)
    m, t = out
    in_parts(lambda begin, end: _mask_part(r, fraction_bits, ring_bits, m, t, begin, end), r.size, PART)
    return out


@kernel(_INPUT, INT, INT, INT, INT, writable("int64"), INT, INT)
def _scaled_mask_part(
    r: Words, fraction_bits: int, factor: int, digits: int, ring_bits: int, dealt: Words, begin: int, end: int
) -> None:
    top, n = ring_bits - 1, r.size
    low, rest = (1 << top) - 1, (1 << digits) - 1
    r, m, t = r[begin:end], dealt[begin:end], dealt[n + begin : n + end]
    scaled = dealt[2 * n + begin : 2 * n + end]
    for i in range(r.size):
        m[i] = (r[i] & low) >> fraction_bits
        t[i] = (r[i] >> top) & 1
        scaled[i] = (m[i] >> digits) * factor + (((m[i] & rest) * factor) >> digits)


@kernel(_INPUT, _INPUT, _INPUT, INT, INT, INT, INT, INT, writable("int64"), INT, INT)
def _scaled_truncation_part(
    own: Words, others: Words, dealt: Words, fraction_bits: int, factor: int, digits: int, ring_bits: int, lead: int,
    out: Words, begin: int, end: int,
) -> None:  # fmt: skip
    top, n = ring_bits - 1, own.size
    low, rest = (1 << top) - 1, (1 << digits) - 1
    offset, unused = 1 << (top - 1), 64 - ring_bits
    own, others, m, t = own[begin:end], others[begin:end], dealt[begin:end], dealt[n + begin : n + end]
    scaled, y, z = dealt[2 * n + begin : 2 * n + end], out[begin:end], out[n + begin : n + end]
    for i in range(own.size):
        c = own[i] + others[i] + offset
        top_bit = (c >> top) & 1
        carry = lead * top_bit + (1 - 2 * top_bit) * t[i]
        public = ((c & low) >> fraction_bits) - (offset >> fraction_bits)
        quotient = (carry << (top - fraction_bits)) - m[i] + lead * public
        product = (public >> digits) * factor + (((public & rest) * factor) >> digits)
        product = ((carry * factor) << (top - fraction_bits - digits)) - scaled[i] + lead * product
        y[i] = (quotient << unused) >> unused
        z[i] = (product << unused) >> unused


def _check_scaled(fraction_bits: int, factor: int, digits: int, ring_bits: int) -> None:
    if not (0 <= fraction_bits and 0 <= digits and fraction_bits + digits <= ring_bits - 2 <= WORD_BITS - 2):
        raise ValueError(
            f"Cannot cut {fraction_bits} and {digits} bits off a ring of {ring_bits} bits; at most {ring_bits - 2}, "
            "of 64."
        )
    if digits + factor.bit_length() > WORD_BITS - 2:
        raise ValueError(f"A factor of {factor.bit_length()} bits and {digits} digits; together at most 62.")


def scaled_truncation_mask(r: Words, fraction_bits: int, factor: int, digits: int, ring_bits: int = WORD_BITS) -> Words:
    """Give m and t as ``truncation_mask``, and floor(m factor / 2^digits).

    Args:
        r: the mask, int64, shape (n,).
        fraction_bits: f.
        factor: public, of either sign.
        digits: of the factor.
        ring_bits: l.

    Returns:
        int64, shape (3 n,), one row behind the other.

    Raises:
        ShapeError: the vector is not contiguous.
        TypeError: it is not int64.
        ValueError: the numbers of bits are out of range.
    """
    check_vectors(np.int64, r=r)
    _check_scaled(fraction_bits, factor, digits, ring_bits)
    out = np.empty(3 * r.size, np.int64)
    in_parts(
        lambda begin, end: _scaled_mask_part(r, fraction_bits, factor, digits, ring_bits, out, begin, end),
        r.size,
        PART,
    )
    return out


def scaled_truncation(
    own: Words, others: Words, dealt: Words, fraction_bits: int, factor: int, digits: int,
    ring_bits: int = WORD_BITS, *, leader: bool,
) -> Words:  # fmt: skip
    """Give this party's shares of y = x / 2^fraction_bits and of y factor / 2^digits, after x + r was opened.

    With c and the carry u of ``truncation_combine``, y = p - m + u 2^(l-1-f) for a public p, as integers. So

        floor(p factor / 2^digits) - floor(m factor / 2^digits) + u factor 2^(l-1-f-digits)

    is y factor / 2^digits rounded down or up, the latter as often as makes the mean exact, since m is uniform.

    Args:
        own: this party's share of x + r, int64, shape (n,).
        others: the sum of the other parties' shares of x + r, int64, shape (n,).
        dealt: this party's additive share of what ``scaled_truncation_mask`` gives, int64, shape (3 n,).
        fraction_bits: f.
        factor: public, of either sign.
        digits: of the factor; f + digits <= l - 2.
        ring_bits: l.
        leader: exactly one party adds the public terms.

    Returns:
        int64, shape (2 n,), one row behind the other, in [-2^(l-1), 2^(l-1)).

    Raises:
        ShapeError: lengths differ or a vector is not contiguous.
        TypeError: a vector is not int64.
        ValueError: the numbers of bits are out of range.
    """
    check_vectors(np.int64, own=own, others=others)
    check_vectors(np.int64, dealt=dealt)
    if dealt.size != 3 * own.size:
        raise ShapeError(f"{dealt.size} dealt words for {own.size} elements; 3 for each are due.")
    _check_scaled(fraction_bits, factor, digits, ring_bits)
    out = np.empty(2 * own.size, np.int64)
    in_parts(
        lambda begin, end: _scaled_truncation_part(
            own, others, dealt, fraction_bits, factor, digits, ring_bits, int(leader), out, begin, end
        ),
        own.size,
        PART,
    )
    return out
