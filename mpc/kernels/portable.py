"""Exact matrix products modulo 2^64 on any processor, by vectors of words where it has them.

The product is computed tile by tile: the sums of ``TILE`` stay in registers while the terms pass. ``DEPTH`` terms of
``WIDTH_BYTES`` of the right factor are copied into panels as wide as a tile, which stay in the second-level cache; the
left factor is read where it lies. One panel is read where it lies too, if it would be used once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numba import types
from numpy.typing import NDArray

from sharetorch.mpc.kernels._numba import INT, inline, kernel, read_only, writable
from sharetorch.mpc.kernels._vectors import TILE, multiply_tile

Words = NDArray[np.int64]

ROWS, COLUMNS, LANES = TILE.rows, TILE.columns, TILE.lanes
DEPTH = 256
"""Terms per pass."""
WIDTH_BYTES = 1 << 20
PART_PRODUCTS = 2_000_000
"""Multiplications worth a thread of their own."""
LINE = 8
"""Words of a column read together when a transposed factor is copied."""
CACHE_LINE = 64
FEW = 4
"""Results of at most so many rows, of a transposed right factor, are computed transposed, to read it where it lies."""

_INPUT = read_only("int64", 2, "A")


@inline
def _copy_panel(b: Words, begin: int, end: int, j: int, columns: int, panel: Words) -> None:
    """Copy terms begin..end of some columns, zeros behind the last one."""
    if b.strides[1] == 8:
        for k in range(begin, end):
            row = b[k, j : j + columns]
            into = panel[(k - begin) * COLUMNS : (k - begin + 1) * COLUMNS]
            for t in range(columns):
                into[t] = row[t]
            into[columns:] = 0
        return
    for k in range(begin, end, LINE):
        last = min(k + LINE, end)
        for t in range(columns):
            for term in range(k, last):
                panel[(term - begin) * COLUMNS + t] = b[term, j + t]
        for term in range(k, last):
            panel[(term - begin) * COLUMNS + columns : (term - begin + 1) * COLUMNS] = 0


@inline
def _copy_rows(a: Words, begin: int, end: int, i: int, rows: int, panel: Words) -> None:
    """Copy terms begin..end of some rows of a transposed factor, term by term."""
    for k in range(begin, end):
        for r in range(rows):
            panel[(k - begin) * ROWS + r] = a[i + r, k]


@inline
def _store_tile(sums: Words, out: Words, i: int, rows: int, j: int, columns: int, keep: int) -> None:
    """Put a tile of sums into the result, or add it to it."""
    for r in range(rows):
        row = out[i + r, j : j + columns]
        tile = sums[r * COLUMNS : r * COLUMNS + columns]
        if keep:
            for t in range(columns):
                row[t] += tile[t]
        else:
            for t in range(columns):
                row[t] = tile[t]


@kernel(_INPUT, _INPUT, types.Array(INT, 2, "A"), INT, INT, writable("int64"))
def _part(a: Words, b: Words, out: Words, keep: int, width: int, space: Words) -> None:
    """Put a @ b into out, added to it if ``keep``."""
    sums, turned = space[: ROWS * COLUMNS], space[ROWS * COLUMNS : ROWS * (COLUMNS + DEPTH)]
    panels = space[ROWS * (COLUMNS + DEPTH) :]
    rows, columns = out.shape
    at_b = b.ctypes.data
    for begin in range(0, a.shape[1], DEPTH):
        end = min(begin + DEPTH, a.shape[1])
        size = (end - begin) * COLUMNS
        for jb in range(0, columns, COLUMNS * width):
            je = min(jb + COLUMNS * width, columns)
            direct = rows <= ROWS and b.strides[1] == 8
            for j in range(jb, je, COLUMNS):
                if not (direct and j + COLUMNS <= je):
                    at = (j - jb) // COLUMNS * size
                    _copy_panel(b, begin, end, j, min(COLUMNS, je - j), panels[at : at + size])
            i = 0
            height = ROWS
            while i < rows:
                while height > rows - i:
                    height //= 2
                row_step, term_step = a.strides
                left = a.ctypes.data + i * row_step + begin * term_step
                if term_step != 8 and je - jb > COLUMNS:
                    _copy_rows(a, begin, end, i, height, turned)
                    left, row_step, term_step = turned.ctypes.data, 8, 8 * ROWS
                for j in range(jb, je, COLUMNS):
                    count = min(COLUMNS, je - j)
                    if direct and count == COLUMNS:
                        right, step = at_b + begin * b.strides[0] + j * 8, b.strides[0]
                    else:
                        right, step = panels.ctypes.data + (j - jb) // COLUMNS * size * 8, 8 * COLUMNS
                    vectors = (count + LANES - 1) // LANES
                    multiply_tile(
                        height, vectors, left, row_step, term_step, right, step, end - begin, sums.ctypes.data
                    )
                    _store_tile(sums, out, i, height, j, count, keep if begin == 0 else 1)
                i += height


class _Memory(threading.local):
    space: Words = np.zeros(0, np.int64)


_memory = _Memory()


def _space(size: int) -> Words:
    """So many words of memory of this thread, from the start of a cache line on."""
    if _memory.space.size < size:
        raw = np.zeros(size + CACHE_LINE // 8, np.int64)
        _memory.space = raw[-raw.ctypes.data % CACHE_LINE // 8 :][:size]
    return _memory.space


def add_products(out: Words, factors: Sequence[tuple[Words, Words]], keep: bool) -> None:
    """Put the sum of the products of pairs of matrices into out, in the calling thread.

    Args:
        out: int64, shape (m, n), a step of one word along its rows.
        factors: pairs of shapes (m, k) and (k, n), any strides.
        keep: add to what out holds.
    """
    if out.shape[0] <= FEW and factors[0][1].strides[1] != 8:
        out, factors = out.T, [(b.T, a.T) for a, b in factors]
    for a, b in factors:
        if a.shape[1] and out.size:
            depth = min(DEPTH, a.shape[1])
            panels = min(-(-out.shape[1] // COLUMNS), max(1, WIDTH_BYTES // (8 * COLUMNS * depth)))
            _part(a, b, out, int(keep), panels, _space(ROWS * (COLUMNS + DEPTH) + panels * depth * COLUMNS))
            keep = True
    if not keep:
        out[:] = 0
