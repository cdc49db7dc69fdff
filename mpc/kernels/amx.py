"""Exact matrix products modulo 2^64 on Intel's tile unit (AMX), for Linux on x86-64.

A word is the sum of digit_i 256^i over eight signed bytes, and a product modulo 2^64 is the sum over i + j < 8 of 36
products of byte matrices, each exact in 32 bits. Weights i + j of 4 and more count modulo 2^32 only, where sums wrap
around as they should; below, at most four products of at most 2^14 are added per term, so that a sum of fewer than 2^15
terms cannot overflow.

Operands are packed block by block into bytes as the tiles want them: a panel is 32 rows of the left factor (or 32
columns of the right one) in blocks of 64 terms; a block holds the limbs one after the other, each as two tiles of 16
rows (columns). The panels of ``WIDTH_BYTES`` stay in the second-level cache while panels of the left factor pass.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from collections.abc import Sequence
from functools import cache

import llvmlite.binding as llvm
import numpy as np
from numba import types
from numpy.typing import NDArray

from sharetorch.mpc.kernels import _vectors
from sharetorch.mpc.kernels._numba import INT, inline, kernel, read_only, writable
from sharetorch.mpc.kernels._vectors import (
    clear_sums,
    collect,
    configure,
    load_sums,
    pack_left,
    pack_right,
    release,
    step_1x1,
    step_1x2,
    step_2x1,
    step_2x2,
    store_sums,
    turn,
)

Words = NDArray[np.int64]

PANEL = 32
"""Rows or columns of a panel."""
DEPTH = 16
"""Blocks of 64 terms per pass: 1024 terms, far below 2^15."""
RESIDENT = 2
"""Blocks of two panels that pass through the first-level cache together."""
WIDTH_BYTES = 1 << 20
PART_PRODUCTS = 3_000_000
"""Multiplications worth a thread of their own."""
BLOCK_BYTES = 16384
LIMB_BYTES = 2048
TILE_BYTES = 1024
ROW_BYTES = 64
WEIGHT_BYTES = 4096
"""Four tiles of sums."""
TURNED = 4096
"""Where a block of words is transposed, behind the configuration of the tiles."""
SUMS = TURNED + BLOCK_BYTES
PANELS = SUMS + 8 * WEIGHT_BYTES
PAGE = 4096

_ARCH_REQ_XCOMP_PERM, _XTILEDATA = 0x1023, 18
_ARCH_PRCTL = 158
_NEEDED = {"x86_64", "amx-tile", "amx-int8", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi"}

_INPUT = read_only("int64", 2, "A")


@cache
def available() -> bool:
    """Ask the system, once, to let this process use the tiles.

    Returns:
        Whether compiled code may use them.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64" or not _NEEDED <= _vectors.instructions():
        return False
    try:
        allowed = bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _ARCH_REQ_XCOMP_PERM, _XTILEDATA) == 0)
    except (OSError, AttributeError):
        return False
    if allowed:
        llvm.initialize_native_asmparser()
    return allowed


@inline
def _pack_left_block(at: int, row_step: int, term_step: int, rows: int, terms: int, into: int, turned: int) -> None:
    """Pack up to 32 rows of up to 64 terms."""
    if term_step == 8:
        for i in range(32):
            pack_left(at + i * row_step, terms if i < rows else 0, into + i * ROW_BYTES)
        return
    for i in range(0, 32, 8):
        for k in range(0, 64, 8):
            turn(at + 8 * i + k * term_step, term_step, terms - k, rows - i, turned + 8 * k, 512)
        for r in range(8):
            pack_left(turned + 512 * r, terms, into + (i + r) * ROW_BYTES)


@inline
def _pack_right_block(at: int, term_step: int, step: int, terms: int, columns: int, into: int, turned: int) -> None:
    """Pack up to 32 columns of up to 64 terms."""
    for h in range(0, 32, 16):
        tile = into + (h >> 4) * TILE_BYTES
        if step == 8:
            for k in range(0, 64, 4):
                pack_right(at + 8 * h + k * term_step, term_step, terms - k, columns - h, tile + 16 * k)
        else:
            for j in range(0, 16, 8):
                for k in range(0, 64, 8):
                    turn(at + 8 * k + (h + j) * step, step, columns - h - j, terms - k, turned + 128 * k + 8 * j, 128)
            for k in range(0, 64, 4):
                pack_right(turned + 128 * k, 128, terms - k, columns - h, tile + 16 * k)


@inline
def _sum_pairs(left: int, right: int, weight: int, begin: int, end: int, tall: bool, wide: bool) -> None:
    """Add the products of all limbs i + j = weight, over blocks begin..end, to the tiles."""
    for pair in range(weight + 1):
        i = weight - pair if weight & 1 else pair
        a, b = left + i * LIMB_BYTES, right + (weight - i) * LIMB_BYTES
        for at in range(begin * BLOCK_BYTES, end * BLOCK_BYTES, BLOCK_BYTES):
            if tall and wide:
                step_2x2(a + at, b + at, ROW_BYTES)
            elif tall:
                step_2x1(a + at, b + at, ROW_BYTES)
            elif wide:
                step_1x2(a + at, b + at, ROW_BYTES)
            else:
                step_1x1(a + at, b + at, ROW_BYTES)


@inline
def _multiply_panels(left: int, right: int, blocks: int, sums: int, tall: bool, wide: bool) -> None:
    """Put the sums of the eight weights, for two panels, into ``sums``."""
    for begin in range(0, blocks, RESIDENT):
        for weight in range(8):
            at = sums + weight * WEIGHT_BYTES
            if begin == 0:
                clear_sums()
            else:
                load_sums(at, ROW_BYTES)
            _sum_pairs(left, right, weight, begin, min(begin + RESIDENT, blocks), tall, wide)
            store_sums(at, ROW_BYTES)


@inline
def _collect_panels(sums: int, at: int, row_step: int, rows: int, columns: int, keep: int) -> None:
    """Add up the weighted sums, and put them into the result, or add them to it."""
    for r in range(rows):
        row = sums + (r >> 4) * 2 * TILE_BYTES + (r & 15) * ROW_BYTES
        collect(row, at + r * row_step, min(16, columns), keep)
        if columns > 16:
            collect(row + TILE_BYTES, at + r * row_step + 128, columns - 16, keep)


@kernel(_INPUT, _INPUT, _INPUT, _INPUT, types.Array(INT, 2, "A"), INT, INT, INT, writable("uint8"))
def _part(
    a: Words, b: Words, c: Words, d: Words, out: Words, keep: int, depth: int, width: int, space: NDArray[np.uint8]
) -> None:
    """Put a @ b + c @ d into out, added to it if ``keep``; every matrix has a step of one word along one axis."""
    space[0] = 1
    space[16:32:2] = ROW_BYTES
    space[48:56] = 16
    turned, sums = space.ctypes.data + TURNED, space.ctypes.data + SUMS
    left = space.ctypes.data + PANELS
    rights = left + depth * BLOCK_BYTES
    first = (a.shape[1] + 63) // 64
    blocks = first + (c.shape[1] + 63) // 64
    configure(space.ctypes.data)
    for begin in range(0, blocks, depth):
        end = min(begin + depth, blocks)
        panel_bytes = (end - begin) * BLOCK_BYTES
        kept = keep if begin == 0 else 1
        for jb in range(0, out.shape[1], PANEL * width):
            je = min(jb + PANEL * width, out.shape[1])
            into = rights
            for j in range(jb, je, PANEL):
                for block in range(begin, end):
                    x = b if block < first else d
                    k = (block if block < first else block - first) * 64
                    at = x.ctypes.data + k * x.strides[0] + j * x.strides[1]
                    _pack_right_block(at, x.strides[0], x.strides[1], x.shape[0] - k, je - j, into, turned)
                    into += BLOCK_BYTES
            for i in range(0, out.shape[0], PANEL):
                rows = min(PANEL, out.shape[0] - i)
                for block in range(begin, end):
                    x = a if block < first else c
                    k = (block if block < first else block - first) * 64
                    at = x.ctypes.data + i * x.strides[0] + k * x.strides[1]
                    into = left + (block - begin) * BLOCK_BYTES
                    _pack_left_block(at, x.strides[0], x.strides[1], rows, x.shape[1] - k, into, turned)
                for j in range(jb, je, PANEL):
                    right = rights + (j - jb) // PANEL * panel_bytes
                    columns = min(PANEL, je - j)
                    _multiply_panels(left, right, end - begin, sums, rows > 16, columns > 16)
                    at = out.ctypes.data + i * out.strides[0] + 8 * j
                    _collect_panels(sums, at, out.strides[0], rows, columns, kept)
    release()


class _Memory(threading.local):
    space: NDArray[np.uint8] = np.zeros(0, np.uint8)


_memory = _Memory()


def _space(size: int) -> NDArray[np.uint8]:
    """So many bytes of memory of this thread, from the start of a page on."""
    if _memory.space.size < size:
        raw = np.zeros(size + PAGE, np.uint8)
        _memory.space = raw[-raw.ctypes.data % PAGE :][:size]
    return _memory.space


def _steady(x: Words) -> Words:
    """The matrix, or a copy of it, with a step of one word along one axis."""
    return x if x.strides[1] == 8 or x.strides[0] == 8 else np.ascontiguousarray(x)


def add_products(out: Words, factors: Sequence[tuple[Words, Words]], keep: bool) -> None:
    """Put the sum of the products of one or two pairs of matrices into out, in the calling thread.

    Args:
        out: int64, shape (m, n), a step of one word along its rows.
        factors: pairs of shapes (m, k) and (k, n), any strides.
        keep: add to what out holds.
    """
    (a, b), (c, d) = factors if len(factors) == 2 else (*factors, (factors[0][0][:, :0], factors[0][1][:0]))
    blocks = -(-a.shape[1] // 64) + -(-c.shape[1] // 64)
    if blocks == 0 or out.size == 0:
        out[:] = out if keep else 0
        return
    depth = -(-blocks // -(-blocks // DEPTH))
    panels = min(-(-out.shape[1] // PANEL), WIDTH_BYTES // (BLOCK_BYTES * depth))
    space = _space(PANELS + (1 + panels) * depth * BLOCK_BYTES)
    _part(_steady(a), _steady(b), _steady(c), _steady(d), out, int(keep), depth, panels, space)
