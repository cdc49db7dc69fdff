"""SecureNN's private comparison: the local work of P0 and P1 (masking) and of P2 (looking for a zero).

Secrets x are unsigned 64-bit integers whose bits are additively shared modulo p = 67, one byte each, most significant
bit first: symbol 0 is bit 63. See [WGC19, Algorithm 3], with three changes: the products s_i c_i are refreshed by a
common z_i, so that P2's view does not depend on the shares; a rotation replaces the permutation, which suffices because
at most one symbol is zero and the others are uniform; the sign of the difference is the one that tests x > t.

Layout: the symbols of n elements lie in one buffer of 64 n bytes, in blocks of 128 elements. Block v holds
w = min(128, n - 128 v) elements; symbol i of its element q is at 8192 v + i w + q. A block fits in the first-level
cache, and neighbours in memory belong to different elements, which vector instructions treat alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels._numba import INT, inline, kernel, read_only, writable
from sharetorch.mpc.kernels._threads import in_parts
from sharetorch.mpc.kernels.combine import check_vectors

Symbols = NDArray[np.uint8]
Comparands = NDArray[np.uint64]
Lanes = NDArray[np.uint16]

MODULUS = 67
SYMBOLS = 64
BLOCK = 128
BLOCK_SYMBOLS = SYMBOLS * BLOCK
PART = 64
"""Blocks worth a thread of their own in masking."""
LIGHT_PART = 256
"""Blocks worth a thread of their own in the cheaper steps."""

GREATER, LESS, ALWAYS = 0, 1, 2
"""Directions: test x > t, test x < t, or report true whatever x is."""

_RECIPROCAL = 65536 // MODULUS
_ABOVE_ANY_SUM = (SYMBOLS + 1) * MODULUS
_SYMBOLS_IN = read_only("uint8")
_WORDS_IN = read_only("uint64")


@inline
def _reduce(value: np.uint16) -> np.uint16:
    """Give value mod 67; cut to 16 bits after each step, since numba widens small integers to 64."""
    quotient = np.uint16((np.uint32(value) * np.uint32(_RECIPROCAL)) >> np.uint32(16))
    rest = np.uint16(value - np.uint16(quotient * np.uint16(MODULUS)))
    return np.uint16(min(rest, np.uint16(rest - np.uint16(MODULUS))))


@inline
def _byte_planes(x: Comparands, planes: Symbols) -> None:
    """Set planes[b, q] to byte b of x[q], the most significant first."""
    for b in range(8):
        plane = planes[b]
        shift = np.uint64(56 - 8 * b)
        for q in range(x.size):
            plane[q] = np.uint8(x[q] >> shift)


@kernel(_WORDS_IN, _SYMBOLS_IN, writable("uint8"), INT, INT)
def _share_blocks(x: Comparands, share0: Symbols, out: Symbols, begin: int, end: int) -> None:
    planes = np.empty((8, BLOCK), np.uint8)
    for v in range(begin, end):
        values = x[v * BLOCK : (v + 1) * BLOCK]
        width = values.size
        _byte_planes(values, planes)
        for i in range(SYMBOLS):
            at = v * BLOCK_SYMBOLS + i * width
            row, given, plane = out[at : at + width], share0[at : at + width], planes[i // 8]
            shift = np.uint8(7 - i % 8)
            for q in range(row.size):
                bit = np.uint8(np.uint8(plane[q] >> shift) & np.uint8(1))
                rest = np.uint8(np.uint8(bit + np.uint8(MODULUS)) - given[q])
                row[q] = min(rest, np.uint8(rest - np.uint8(MODULUS)))


@inline
def _mask_block(
    x: Symbols, planes: Symbols, signs: Lanes, s: Symbols, z: Symbols, rank: int, width: int, keep: Lanes, sums: Lanes,
    masked: Symbols,
) -> None:  # fmt: skip
    """Set masked[i, q] = s_i c_i + z_i (rank 0) or s_i c_i - z_i (rank 1), mod 67, most significant symbol first.

    ``signs`` is 1 for direction 0 and -1 for direction 1; ``keep`` is 0 for direction 2 and all ones elsewhere.
    ``sums`` holds rank + sum of w_k over the more significant k, plus a multiple of 67 that keeps it positive.
    """
    one = np.uint16(rank)
    for q in range(width):
        sums[q] = np.uint16(one + np.uint16(_ABOVE_ANY_SUM))
    for i in range(SYMBOLS):
        at = i * width
        bits, factors, refresh = x[at : at + width], s[at : at + width], z[at : at + width]
        plane, row = planes[i // 8], masked[i]
        shift = np.uint8(7 - i % 8)
        corner = np.uint16(one if i > 0 else 0)
        for q in range(bits.size):
            t = np.uint16(np.uint8(plane[q] >> shift) & np.uint8(1))
            share = np.uint16(bits[q])
            public = np.uint16(t * one)
            difference = np.uint16(signs[q] * np.uint16(public - share))
            c = _reduce(np.uint16(sums[q] + difference))
            c = np.uint16(np.uint16(c & keep[q]) | np.uint16(corner & np.uint16(~keep[q])))
            added = np.uint16(refresh[q]) if rank == 0 else np.uint16(np.uint16(MODULUS) - np.uint16(refresh[q]))
            row[q] = np.uint8(_reduce(np.uint16(np.uint16(c * np.uint16(factors[q])) + added)))
            twice = np.uint16(np.uint16(t * share) * np.uint16(2))
            sums[q] = np.uint16(np.uint16(sums[q] + share) + np.uint16(public - twice))


@inline
def _rotate_rows(source: Symbols, spare: Symbols, rotation: Symbols, chosen: Symbols) -> None:
    """Move symbol (i + rotation) mod 64 of each element to row i of source.

    Six steps, each by a power of two or not at all, from source to spare and back.
    """
    for step in range(6):
        for q in range(rotation.size):
            chosen[q] = np.uint8(0) - np.uint8(np.uint8(rotation[q] >> np.uint8(step)) & np.uint8(1))
        for i in range(SYMBOLS):
            near, far, into = source[i], source[(i + (1 << step)) & 63], spare[i]
            for q in range(BLOCK):
                into[q] = np.uint8(near[q] ^ np.uint8(np.uint8(near[q] ^ far[q]) & chosen[q]))
        source, spare = spare, source


@kernel(
    _SYMBOLS_IN, _WORDS_IN, _SYMBOLS_IN, _SYMBOLS_IN, _SYMBOLS_IN, _SYMBOLS_IN, INT, writable("uint8"), INT, INT
)  # fmt: skip
def _mask_blocks(
    x: Symbols, t: Comparands, direction: Symbols, s: Symbols, z: Symbols, rotation: Symbols, rank: int, out: Symbols,
    begin: int, end: int,
) -> None:  # fmt: skip
    planes, chosen = np.empty((8, BLOCK), np.uint8), np.zeros(BLOCK, np.uint8)
    masked, spare = np.zeros((SYMBOLS, BLOCK), np.uint8), np.zeros((SYMBOLS, BLOCK), np.uint8)
    signs, keep, sums = np.empty(BLOCK, np.uint16), np.empty(BLOCK, np.uint16), np.empty(BLOCK, np.uint16)
    for v in range(begin, end):
        comparands = t[v * BLOCK : (v + 1) * BLOCK]
        tests = direction[v * BLOCK : (v + 1) * BLOCK]
        width = comparands.size
        symbols = slice(v * BLOCK_SYMBOLS, v * BLOCK_SYMBOLS + SYMBOLS * width)
        _byte_planes(comparands, planes)
        for q in range(width):
            signs[q] = np.uint16(1) - np.uint16(2) * np.uint16(tests[q])
            keep[q] = np.uint16(0) if tests[q] == ALWAYS else np.uint16(65535)
        _mask_block(x[symbols], planes, signs, s[symbols], z[symbols], rank, width, keep, sums, masked)
        _rotate_rows(masked, spare, rotation[v * BLOCK : (v + 1) * BLOCK], chosen)
        for i in range(SYMBOLS):
            at = v * BLOCK_SYMBOLS + i * width
            row = out[at : at + width]
            for q in range(row.size):
                row[q] = masked[i, q]


@kernel(_SYMBOLS_IN, _SYMBOLS_IN, writable("uint8"), INT, INT)
def _find_in_blocks(d0: Symbols, d1: Symbols, out: Symbols, begin: int, end: int) -> None:
    for v in range(begin, end):
        found = out[v * BLOCK : (v + 1) * BLOCK]
        width = found.size
        found[:] = 0
        for i in range(SYMBOLS):
            at = v * BLOCK_SYMBOLS + i * width
            first, second = d0[at : at + width], d1[at : at + width]
            for q in range(found.size):
                total = np.uint8(first[q] + second[q])
                found[q] |= np.uint8((total == np.uint8(0)) | (total == np.uint8(MODULUS)))


def _blocks(elements: int) -> int:
    return -(-elements // BLOCK)


def _check_symbols(elements: int, **buffers: Symbols) -> None:
    check_vectors(np.uint8, **buffers)
    size = next(iter(buffers.values())).size
    if size != SYMBOLS * elements:
        raise ShapeError(f"Symbols of {elements} elements fill {SYMBOLS * elements} bytes, not {size}.")


def share_bits(x: Comparands, share0: Symbols) -> Symbols:
    """Give P1's share of the bits of x, P0's share being given.

    Args:
        x: uint64, shape (n,).
        share0: uniform symbols in [0, 67), uint8, shape (64 n,).

    Returns:
        (bit_i(x) - share0_i) mod 67, uint8, shape (64 n,).

    Raises:
        ShapeError: sizes do not fit or a buffer is not contiguous.
        TypeError: a dtype is wrong.
    """
    check_vectors(np.uint64, x=x)
    _check_symbols(x.size, share0=share0)
    out = np.empty_like(share0)
    in_parts(lambda begin, end: _share_blocks(x, share0, out, begin, end), _blocks(x.size), LIGHT_PART)
    return out


def mask_symbols(
    x: Symbols, t: Comparands, direction: Symbols, s: Symbols, z: Symbols, rotation: Symbols, rank: int
) -> Symbols:
    """Compute what P0 or P1 sends to P2; together the two tell P2 the outcome of the test and nothing else.

    With bits t_i of t, this rank's shares x_i, w_i = x_i + rank t_i - 2 t_i x_i (a share of x_i XOR t_i), and S_i the
    sum of w_k over all more significant k:

        direction 0 (is x > t):  c_i = rank t_i - x_i + rank + S_i
        direction 1 (is x < t):  c_i = x_i - rank t_i + rank + S_i
        direction 2 (true):      c_i = rank, and 0 for the most significant symbol

    The shares of c_i add up to 0 for at most one i, and for one exactly if the test holds. The symbols
    d_i = s_i c_i + z_i (rank 0), s_i c_i - z_i (rank 1) modulo 67 are rotated: out_i = d_{(i + rotation) mod 64}.

    Args:
        x: this party's share of the bits, symbols in [0, 67), uint8, shape (64 n,).
        t: public comparand, uint64, shape (n,).
        direction: 0, 1 or 2, uint8, shape (n,).
        s: common factors, uniform in [1, 67), uint8, shape (64 n,).
        z: common refreshment, uniform in [0, 67), uint8, shape (64 n,).
        rotation: common, uniform in [0, 64), uint8, shape (n,).
        rank: 0 or 1; rank 1 carries the public constants.

    Returns:
        uint8, shape (64 n,), symbols in [0, 67).

    Raises:
        ShapeError: sizes do not fit or a buffer is not contiguous.
        TypeError: a dtype is wrong.
        ValueError: rank is neither 0 nor 1.
    """
    check_vectors(np.uint64, t=t)
    check_vectors(np.uint8, direction=direction, rotation=rotation)
    _check_symbols(t.size, x=x, s=s, z=z)
    if direction.size != t.size:
        raise ShapeError(f"There are {t.size} comparands but {direction.size} directions.")
    if rank not in (0, 1):
        raise ValueError(f"Only ranks 0 and 1 hold shares of the bits, not {rank}.")
    out = np.empty_like(x)
    in_parts(
        lambda begin, end: _mask_blocks(x, t, direction, s, z, rotation, rank, out, begin, end), _blocks(t.size), PART
    )
    return out


def find_zero(d0: Symbols, d1: Symbols) -> Symbols:
    """Tell which elements have a symbol with d0 + d1 = 0 mod 67.

    Args:
        d0: symbols in [0, 67) from P0, uint8, shape (64 n,).
        d1: symbols in [0, 67) from P1, uint8, shape (64 n,).

    Returns:
        1 where there is one, else 0; uint8, shape (n,).

    Raises:
        ShapeError: sizes do not fit or a buffer is not contiguous.
        TypeError: a dtype is wrong.
    """
    elements = d0.size // SYMBOLS
    _check_symbols(elements, d0=d0, d1=d1)
    out = np.empty(elements, np.uint8)
    in_parts(lambda begin, end: _find_in_blocks(d0, d1, out, begin, end), _blocks(elements), LIGHT_PART)
    return out
