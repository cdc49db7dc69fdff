"""Exact matrix products modulo 2^64.

Words are int64 and wrap around. The product is computed in blocks: ``DEPTH`` terms of ``WIDTH`` columns of the right
factor are copied into a block that starts on a cache line (vector loads that straddle lines cost a third of the speed),
``HEIGHT`` rows of the left factor likewise, and a tile of the result is gathered before it is added to the output. The
copies also make ``A.T @ B`` and ``A @ B.T`` as fast as ``A @ B``.

A result with few columns is computed as its transpose, since the inner loop runs along columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels._numba import INT, inline, kernel, read_only, writable
from sharetorch.mpc.kernels._threads import in_parts, thread_count

Words = NDArray[np.int64]

HEIGHT = 64
WIDTH = 256
DEPTH = 256
UNROLL = 8
"""Terms added to the tile at a time."""
LINE = 16
"""Words of a column read together when a transposed factor is copied."""
CACHE_LINE = 64
NARROW = 64
"""Results with fewer columns than this, and more rows, are computed transposed."""
PART_PRODUCTS = 4_000_000
"""Multiplications worth a thread of their own."""

_INPUT = read_only("int64")


class _Matrix(NamedTuple):
    """A matrix as the kernels see it: element (i, j) is ``words[i * row_step + j * column_step]``, one step being 1."""

    words: Words
    row_step: int
    column_step: int


def _matrix(x: Words) -> _Matrix:
    if x.flags.c_contiguous:
        return _Matrix(x.reshape(-1), x.shape[1], 1)
    if x.flags.f_contiguous:
        return _Matrix(x.T.reshape(-1), 1, x.shape[0])
    return _Matrix(np.ascontiguousarray(x).reshape(-1), x.shape[1], 1)


@inline
def _aligned_zeros(rows: int, columns: int) -> Words:
    words = np.zeros(rows * columns + CACHE_LINE // 8, np.int64)
    skip = (-words.ctypes.data % CACHE_LINE) // 8
    return words[skip : skip + rows * columns].reshape(rows, columns)


@inline
def _copy_block(
    words: Words, row_step: int, column_step: int, block: Words, i0: int, i1: int, j0: int, j1: int
) -> None:
    """Copy rows i0..i1, columns j0..j1 of a matrix to the corner of a block."""
    if column_step == 1:
        for i in range(i0, i1):
            row = words[i * row_step + j0 : i * row_step + j1]
            into = block[i - i0]
            for j in range(row.size):
                into[j] = row[j]
        return
    for jb in range(j0, j1, LINE):
        for i in range(i0, i1):
            into = block[i - i0, jb - j0 : min(jb + LINE, j1) - j0]
            for j in range(into.size):
                into[j] = words[np.uint64(i * row_step + (jb + j) * column_step)]


@inline
def _multiply_block(left: Words, right: Words, tile: Words, rows: int, depth: int, width: int) -> None:
    """Add left[:rows, :depth] @ right[:depth, :width] to the tile, 8 terms at a time."""
    for k in range(0, depth, 8):
        b0, b1, b2, b3 = right[k, :width], right[k + 1, :width], right[k + 2, :width], right[k + 3, :width]
        b4, b5, b6, b7 = right[k + 4, :width], right[k + 5, :width], right[k + 6, :width], right[k + 7, :width]
        for i in range(rows):
            a0, a1, a2, a3 = left[i, k], left[i, k + 1], left[i, k + 2], left[i, k + 3]
            a4, a5, a6, a7 = left[i, k + 4], left[i, k + 5], left[i, k + 6], left[i, k + 7]
            out = tile[i]
            for j in range(width):
                first = a0 * b0[j] + a1 * b1[j] + a2 * b2[j] + a3 * b3[j]
                out[j] += first + a4 * b4[j] + a5 * b5[j] + a6 * b6[j] + a7 * b7[j]


@inline
def _add_tile(tile: Words, words: Words, row_step: int, column_step: int, i0: int, i1: int, j0: int, j1: int) -> None:
    """Add the tile to rows i0..i1, columns j0..j1 of a matrix and clear it."""
    if column_step == 1:
        for i in range(i0, i1):
            row = words[i * row_step + j0 : i * row_step + j1]
            for j in range(row.size):
                row[j] += tile[i - i0, j]
    else:
        for j in range(j0, j1):
            column = words[i0 + j * column_step : i1 + j * column_step]
            for i in range(column.size):
                column[i] += tile[i, np.uint64(j - j0)]
    tile[: i1 - i0, : j1 - j0] = 0


@kernel(_INPUT, INT, INT, _INPUT, INT, INT, writable("int64"), INT, INT, INT, INT, INT, INT, INT)
def _add_product(
    left: Words,
    left_row_step: int,
    left_column_step: int,
    right: Words,
    right_row_step: int,
    right_column_step: int,
    out: Words,
    out_row_step: int,
    out_column_step: int,
    terms: int,
    i0: int,
    i1: int,
    j0: int,
    j1: int,
) -> None:
    """Add rows i0..i1, columns j0..j1 of the product of two matrices, summing ``terms`` terms, to the matrix out."""
    height = min(HEIGHT, i1 - i0)
    depth = min(DEPTH, (terms + UNROLL - 1) // UNROLL * UNROLL)
    left_block = _aligned_zeros(height, depth)
    right_block = _aligned_zeros(depth, WIDTH)
    tile = _aligned_zeros(height, WIDTH)
    for jb in range(j0, j1, WIDTH):
        je = min(jb + WIDTH, j1)
        for kb in range(0, terms, DEPTH):
            ke = min(kb + DEPTH, terms)
            used = (ke - kb + UNROLL - 1) // UNROLL * UNROLL
            right_block[ke - kb : used] = 0
            left_block[:, ke - kb : used] = 0
            _copy_block(right, right_row_step, right_column_step, right_block, kb, ke, jb, je)
            for ib in range(i0, i1, HEIGHT):
                ie = min(ib + HEIGHT, i1)
                _copy_block(left, left_row_step, left_column_step, left_block, ib, ie, kb, ke)
                _multiply_block(left_block, right_block, tile, ie - ib, used, je - jb)
                _add_tile(tile, out, out_row_step, out_column_step, ib, ie, jb, je)


def _add_products(out: Words, factors: Sequence[tuple[Words, Words]]) -> None:
    """Add the products of the factors to out, on several threads where it pays."""
    rows, columns = out.shape
    terms = [left.shape[1] for left, _ in factors]
    if columns < NARROW and rows > columns:
        _add_products(out.T, [(right.T, left.T) for left, right in factors])
        return
    matrices = [(*_matrix(left), *_matrix(right), *_matrix(out)) for left, right in factors]

    def row_part(begin: int, end: int) -> None:
        for matrix, length in zip(matrices, terms, strict=True):
            _add_product(*matrix, length, begin, end, 0, columns)

    def column_part(begin: int, end: int) -> None:
        for matrix, length in zip(matrices, terms, strict=True):
            _add_product(*matrix, length, 0, rows, begin, end)

    if rows >= columns:
        in_parts(row_part, rows, PART_PRODUCTS // max(1, sum(terms) * columns), UNROLL)
    else:
        in_parts(column_part, columns, PART_PRODUCTS // max(1, sum(terms) * rows), UNROLL)


def _check_factors(a: Words, b: Words, dims: int) -> None:
    if a.dtype != np.int64 or b.dtype != np.int64:
        raise TypeError(f"Ring matrices are int64; got {a.dtype} and {b.dtype}. Encode them first.")
    if a.ndim != dims or b.ndim != dims or a.shape[-1] != b.shape[-2] or a.shape[:-2] != b.shape[:-2]:
        raise ShapeError(f"Cannot multiply matrices of shapes {a.shape} and {b.shape} (both need {dims} axes).")


def matmul(a: Words, b: Words) -> Words:
    """Multiply two matrices modulo 2^64.

    Args:
        a: int64, shape (m, k), any strides.
        b: int64, shape (k, n), any strides.

    Returns:
        int64, shape (m, n), C-contiguous.

    Raises:
        ShapeError: the shapes do not fit.
        TypeError: an operand is not int64.
    """
    _check_factors(a, b, 2)
    out = np.zeros((a.shape[0], b.shape[1]), np.int64)
    _add_products(out, [(a, b)])
    return out


def matmul_add(a: Words, b: Words, c: Words, d: Words, start: Words) -> Words:
    """Give ``start + a @ b + c @ d`` modulo 2^64 without temporaries.

    The local step of a Beaver product: Z + E V' + U F with V' = V + F at one party and V' = V elsewhere.

    Args:
        a: int64, shape (m, k), any strides.
        b: int64, shape (k, n), any strides.
        c: int64, shape (m, l), any strides.
        d: int64, shape (l, n), any strides.
        start: int64, shape (m, n), any strides; not modified.

    Returns:
        int64, shape (m, n), C-contiguous, fresh memory.

    Raises:
        ShapeError: the shapes do not fit.
        TypeError: an operand is not int64.
    """
    _check_factors(a, b, 2)
    _check_factors(c, d, 2)
    if start.dtype != np.int64:
        raise TypeError(f"Ring matrices are int64; got {start.dtype} to start with.")
    if not start.shape == (a.shape[0], b.shape[1]) == (c.shape[0], d.shape[1]):
        raise ShapeError(f"Cannot add products {a.shape} @ {b.shape} and {c.shape} @ {d.shape} to {start.shape}.")
    out = np.array(start, order="C")
    _add_products(out, [(a, b), (c, d)])
    return out


def batched_matmul(a: Words, b: Words) -> Words:
    """Multiply matrices pairwise modulo 2^64.

    Args:
        a: int64, shape (g, m, k), any strides.
        b: int64, shape (g, k, n), any strides.

    Returns:
        int64, shape (g, m, n), C-contiguous.

    Raises:
        ShapeError: the shapes do not fit.
        TypeError: an operand is not int64.
    """
    _check_factors(a, b, 3)
    out = np.zeros((a.shape[0], a.shape[1], b.shape[2]), np.int64)

    def part(begin: int, end: int) -> None:
        for g in range(begin, end):
            _add_product(*_matrix(a[g]), *_matrix(b[g]), *_matrix(out[g]), a.shape[2], 0, out.shape[1], 0, out.shape[2])

    if a.shape[0] < thread_count():
        for g in range(a.shape[0]):
            _add_products(out[g], [(a[g], b[g])])
    else:
        in_parts(part, a.shape[0], PART_PRODUCTS // max(1, a.shape[1] * a.shape[2] * b.shape[2]))
    return out
