"""Comparison keys by compiled code with AES instructions; ``dcf`` says what is computed and how keys lie in memory.

A block of 64 elements goes down the tree level by level. Each quantity is a row of 64 words, so that every loop becomes
vector instructions. The hash is written in LLVM's language; on the way it packs low and high words into AES blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from sharetorch.mpc.kernels._aes import Rounds
from sharetorch.mpc.kernels._numba import INT, inline, kernel, read_only, writable
from sharetorch.mpc.kernels.fixed_key import vector_words

Words = NDArray[np.uint64]

BLOCK = 64
SEED, VALUE = 0, 2
"""Purposes of a hash, for the left child; one more for the right child."""

_IN_FLIGHT = 4
"""Pairs of AES vectors in work at a time, to fill the pipeline."""
_LEVEL_WORDS = 3 * BLOCK + 2
_LINES = -(-_LEVEL_WORDS // 8)
"""Cache lines of a level of a full block."""
_AHEAD = 4 * _LEVEL_WORDS
"""How far ahead of its use a key is fetched: without, reading keys takes as long as hashing."""
_I64 = ir.IntType(64)
_IN = read_only("uint64")
_OUT = writable("uint64")
_ONE, _ZERO = np.uint64(1), np.uint64(0)


def _hash_code(
    typing_context: Any, low: Any, high: Any, out_low: Any, out_high: Any, round_keys: Any, tweak: Any
) -> Any:
    """H of BLOCK seeds XOR tweak. All arguments but the tweak are addresses of vectors of words."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        low, high, out_low, out_high, round_keys, tweak = arguments
        aes = Rounds(builder, vector_words(), round_keys)
        offset = aes.spread(tweak)
        step = _IN_FLIGHT * aes.width
        with cgutils.for_range(builder, ir.Constant(_I64, BLOCK // step)) as loop:
            first = builder.mul(loop.index, ir.Constant(_I64, step))
            places = [builder.add(first, ir.Constant(_I64, g * aes.width)) for g in range(_IN_FLIGHT)]
            blocks: list[Any] = []
            for place in places:
                words = builder.xor(aes.load(low, place), offset)
                blocks += aes.interleave(words, aes.load(high, place))
            hashed = aes.hash(blocks)
            for g, place in enumerate(places):
                lows, highs = aes.interleave(hashed[2 * g], hashed[2 * g + 1])
                aes.store(lows, out_low, place)
                aes.store(highs, out_high, place)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5, types.uint64), generate


def _prefetch_code(typing_context: Any, address: Any, lines: Any) -> Any:
    """Ask the memory for so many cache lines from an address on, which may lie outside of any array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, lines = arguments
        i32, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, i32, i32, i32])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        settings = [ir.Constant(i32, value) for value in (0, 3, 1)]
        with cgutils.for_range(builder, lines) as loop:
            place = builder.add(address, builder.mul(loop.index, ir.Constant(_I64, 64)))
            builder.call(ask, [builder.inttoptr(place, pointer), *settings])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


_hash_words: Any = intrinsic(_hash_code)
_prefetch: Any = intrinsic(_prefetch_code)


# Rows of the scratch space of a block. One array holds them all, so that the compiler sees that rows do not overlap.
_POINT, _RIGHT, _MASK, _TOTAL = 0, 1, 2, 3
_PAYLOAD = 4
_SEEDS = 5
"""Low and high words, of P0 and of P1 when keys are made."""
_CORRECTIONS = 9
"""Low words, high words, values."""
_CHILDREN = 12
"""For P0, then P1: low and high words of the hashes for the four purposes."""
_TURNED = 28
_ROWS = 29
_ROW_BYTES = 8 * BLOCK


@inline
def _path_masks(scratch: Words, shift: np.uint64) -> None:
    """All ones where the point turns right at this level."""
    for q in range(BLOCK):
        scratch[_RIGHT, q] = _ZERO - ((scratch[_POINT, q] >> shift) & _ONE)


@inline
def _load(words: Words, begin: int, end: int, scratch: Words, row: int) -> None:
    scratch[row, : end - begin] = words[begin:end]
    scratch[row, end - begin :] = _ZERO


@inline
def _turn(scratch: Words) -> None:
    for q in range(BLOCK):
        scratch[_TURNED, q] = scratch[_SEEDS, q] ^ (scratch[_RIGHT, q] & _ONE)


@inline
def _correct(scratch: Words, key: Words, at: int, width: int) -> None:
    """One level of a party's walk: corrections lie at word ``at`` of the key."""
    low, high, value = key[at : at + width], key[at + width : at + 2 * width], key[at + 2 * width : at + 3 * width]
    for q in range(width):
        scratch[_SEEDS, q] = scratch[_CHILDREN, q] ^ (low[q] & scratch[_MASK, q])
    for q in range(width):
        scratch[_SEEDS + 1, q] = scratch[_CHILDREN + 1, q] ^ (high[q] & scratch[_MASK, q])
    for q in range(width):
        scratch[_TOTAL, q] += scratch[_CHILDREN + 4, q] + (value[q] & scratch[_MASK, q])


@inline
def _step_mask(scratch: Words, left_bits: np.uint64, right_bits: np.uint64) -> None:
    for q in range(BLOCK):
        bits = left_bits ^ ((left_bits ^ right_bits) & scratch[_RIGHT, q])
        corrected = scratch[_CHILDREN + 5, q] ^ ((bits >> np.uint64(q)) & scratch[_MASK, q])
        scratch[_MASK, q] = _ZERO - (corrected & _ONE)


@kernel(_IN, _IN, _IN, _IN, INT, INT, _IN, _OUT, INT, INT)
def evaluate_blocks(
    key: Words, root_low: Words, root_high: Words, points: Words, depth: int, rank: int, round_keys: Words, out: Words,
    begin: int, end: int,
) -> None:  # fmt: skip
    """Set out to this rank's shares for the blocks in begin..end."""
    scratch = np.empty((_ROWS, BLOCK), np.uint64)
    base, keys, corrections = scratch.ctypes.data, round_keys.ctypes.data, key.ctypes.data
    turned, high = base + _TURNED * _ROW_BYTES, base + (_SEEDS + 1) * _ROW_BYTES
    child, value = base + _CHILDREN * _ROW_BYTES, base + (_CHILDREN + 2 * VALUE) * _ROW_BYTES
    for v in range(begin, end):
        first, after = v * BLOCK, min(points.size, (v + 1) * BLOCK)
        width = after - first
        at = first * (3 * depth + 1) + 2 * depth * v
        _load(root_low, first, after, scratch, _SEEDS)
        _load(root_high, first, after, scratch, _SEEDS + 1)
        _load(points, first, after, scratch, _POINT)
        scratch[_MASK] = _ZERO - np.uint64(rank)
        scratch[_TOTAL] = _ZERO
        for level in range(depth):
            _path_masks(scratch, np.uint64(depth - 1 - level))
            _turn(scratch)
            _prefetch(corrections + 8 * (at + _AHEAD), _LINES)
            _hash_words(turned, high, child, child + _ROW_BYTES, keys, np.uint64(SEED))
            _hash_words(turned, high, value, value + _ROW_BYTES, keys, np.uint64(VALUE))
            _correct(scratch, key, at, width)
            at += 3 * width + 2
            _step_mask(scratch, key[at - 2], key[at - 1])
        for q in range(width):
            total = scratch[_TOTAL, q] + scratch[_SEEDS, q] + (key[at + q] & scratch[_MASK, q])
            out[first + q] = total if rank == 0 else _ZERO - total


@inline
def _step_seeds(scratch: Words, half: int) -> None:
    """Low (half 0) or high words of the seeds: their correction, and both parties' corrected seeds on the path."""
    for q in range(BLOCK):
        right, mask = scratch[_RIGHT, q], scratch[_MASK, q]
        left0, right0 = scratch[_CHILDREN + half, q], scratch[_CHILDREN + half + 2, q]
        left1, right1 = scratch[_CHILDREN + half + 8, q], scratch[_CHILDREN + half + 10, q]
        swap0, swap1 = (left0 ^ right0) & right, (left1 ^ right1) & right
        lost = right0 ^ swap0 ^ right1 ^ swap1
        scratch[_CORRECTIONS + half, q] = lost
        scratch[_SEEDS + half, q] = left0 ^ swap0 ^ (lost & ~mask)
        scratch[_SEEDS + half + 2, q] = left1 ^ swap1 ^ (lost & mask)


@inline
def _step_values(scratch: Words) -> None:
    """Corrections of values; the total becomes what is still to be corrected on the path."""
    for q in range(BLOCK):
        right, mask = scratch[_RIGHT, q], scratch[_MASK, q]
        left_gap = scratch[_CHILDREN + 12, q] - scratch[_CHILDREN + 4, q]
        right_gap = scratch[_CHILDREN + 14, q] - scratch[_CHILDREN + 6, q]
        swap = (left_gap ^ right_gap) & right
        lost = (right_gap ^ swap) + (scratch[_PAYLOAD, q] & right)
        scratch[_CORRECTIONS + 2, q] = ((lost - scratch[_TOTAL, q]) ^ mask) - mask
        scratch[_TOTAL, q] = lost - (left_gap ^ swap)


@inline
def _control_word(scratch: Words, row: int, flip: np.uint64, width: int) -> np.uint64:
    """Corrections of the control bits of one child, an element to a bit."""
    word = _ZERO
    for q in range(width):
        bit = scratch[row, q] ^ scratch[row + 8, q] ^ scratch[_RIGHT, q] ^ flip
        word |= (bit & _ONE) << np.uint64(q)
    return word


@inline
def _step_masks(scratch: Words) -> None:
    """The second party's control bits on the path; the first party's are the complement."""
    for q in range(BLOCK):
        right = scratch[_RIGHT, q]
        left0, right0 = scratch[_CHILDREN + 5, q], scratch[_CHILDREN + 7, q]
        left1, right1 = scratch[_CHILDREN + 13, q], scratch[_CHILDREN + 15, q]
        own = left1 ^ ((left1 ^ right1) & right)
        other = left0 ^ ((left0 ^ right0) & right)
        scratch[_MASK, q] = _ZERO - ((own ^ ((own ^ other ^ _ONE) & scratch[_MASK, q])) & _ONE)


@kernel(_IN, _IN, _IN, _IN, _IN, _IN, INT, _IN, _OUT, INT, INT)
def generate_blocks(
    low0: Words, high0: Words, low1: Words, high1: Words, alpha: Words, payload: Words, depth: int, round_keys: Words,
    key: Words, begin: int, end: int,
) -> None:  # fmt: skip
    """Write the corrections for the blocks in begin..end into key, from the parties' roots."""
    scratch = np.empty((_ROWS, BLOCK), np.uint64)
    base, keys = scratch.ctypes.data, round_keys.ctypes.data
    seeds, children = base + _SEEDS * _ROW_BYTES, base + _CHILDREN * _ROW_BYTES
    for v in range(begin, end):
        first, after = v * BLOCK, min(alpha.size, (v + 1) * BLOCK)
        width = after - first
        at = first * (3 * depth + 1) + 2 * depth * v
        _load(low0, first, after, scratch, _SEEDS)
        _load(high0, first, after, scratch, _SEEDS + 1)
        _load(low1, first, after, scratch, _SEEDS + 2)
        _load(high1, first, after, scratch, _SEEDS + 3)
        _load(alpha, first, after, scratch, _POINT)
        _load(payload, first, after, scratch, _PAYLOAD)
        scratch[_MASK] = _ZERO - _ONE
        scratch[_TOTAL] = _ZERO
        for level in range(depth):
            _path_masks(scratch, np.uint64(depth - 1 - level))
            for job in range(8):
                rank, purpose = job // 4, job % 4
                low, child = seeds + 2 * rank * _ROW_BYTES, children + 2 * job * _ROW_BYTES
                _hash_words(low, low + _ROW_BYTES, child, child + _ROW_BYTES, keys, np.uint64(purpose))
            _step_seeds(scratch, 0)
            _step_seeds(scratch, 1)
            _step_values(scratch)
            for row in range(_CORRECTIONS, _CORRECTIONS + 3):
                key[at : at + width] = scratch[row, :width]
                at += width
            key[at] = _control_word(scratch, _CHILDREN + 5, _ONE, width)
            key[at + 1] = _control_word(scratch, _CHILDREN + 7, _ZERO, width)
            at += 2
            _step_masks(scratch)
        for q in range(width):
            last = scratch[_SEEDS + 2, q] - scratch[_SEEDS, q] - scratch[_TOTAL, q]
            key[at + q] = (last ^ scratch[_MASK, q]) - scratch[_MASK, q]
