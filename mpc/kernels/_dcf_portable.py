"""Comparison keys by numpy and ``cryptography``, level by level: the bits of ``_dcf_compiled`` on any processor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sharetorch.mpc.kernels.fixed_key import FixedKeyHash

Words = NDArray[np.uint64]

BLOCK = 64
PART = 64
"""Blocks in work at a time."""
SEED_LEFT, SEED_RIGHT, VALUE_LEFT, VALUE_RIGHT = (np.uint64(purpose) for purpose in range(4))
"""Purposes of a hash."""
LOW, HIGH, VALUES = 0, 1, 2
"""Rows of a level."""

_ONE, _ZERO = np.uint64(1), np.uint64(0)


class Corrections:
    """The corrections of elements first..after as rows; both lie between blocks, or ``after`` is the end."""

    def __init__(self, key: Words, depth: int, first: int, after: int) -> None:
        self.full, self.width = divmod(after - first, BLOCK)
        self.depth = depth
        at = first * (3 * depth + 1) + 2 * depth * (first // BLOCK)
        size = BLOCK * (3 * depth + 1) + 2 * depth
        end = at + self.full * size
        self._blocks = key[at:end].reshape(self.full, size)
        self._rest = key[end : end + self.width * (3 * depth + 1) + 2 * depth]

    def _views(self, level: int, row: int) -> tuple[Words, Words]:
        start, rest = (level * (3 * width + 2) + row * width for width in (BLOCK, self.width))
        return self._blocks[:, start : start + BLOCK], self._rest[rest : rest + self.width]

    def row(self, level: int, row: int) -> Words:
        """One word an element."""
        blocks, rest = self._views(level, row)
        return np.concatenate([blocks.reshape(-1), rest])

    def set_row(self, level: int, row: int, words: Words) -> None:
        """Undo ``row``."""
        blocks, rest = self._views(level, row)
        blocks[:] = words[: blocks.size].reshape(blocks.shape)
        rest[:] = words[blocks.size :]

    def _bit_views(self, level: int, side: int) -> tuple[Words, Words]:
        start, rest = (level * (3 * width + 2) + 3 * width + side for width in (BLOCK, self.width))
        return self._blocks[:, start], self._rest[rest : rest + 1 if self.width else rest]

    def bits(self, level: int, side: int) -> Words:
        """Corrections of the control bits of the left (0) or the right child, as words 0 and 1."""
        words = np.concatenate(self._bit_views(level, side)).astype("<u8", copy=False)
        count = self.full * BLOCK + self.width
        return np.unpackbits(words.view(np.uint8), count=count, bitorder="little").astype(np.uint64)

    def set_bits(self, level: int, side: int, bits: Words) -> None:
        """Undo ``bits``."""
        blocks, rest = self._bit_views(level, side)
        padded = np.zeros(BLOCK * (blocks.size + rest.size), np.uint8)
        padded[: bits.size] = bits
        words = np.packbits(padded, bitorder="little").view("<u8")
        blocks[:] = words[: blocks.size]
        rest[:] = words[blocks.size :]


def evaluate_blocks(
    key: Words, root_low: Words, root_high: Words, points: Words, depth: int, rank: int, h: FixedKeyHash, out: Words,
    begin: int, end: int,
) -> None:  # fmt: skip
    """Set out to this rank's shares for the blocks in begin..end."""
    for block in range(begin, end, PART):
        part = slice(block * BLOCK, min(min(block + PART, end) * BLOCK, points.size))
        corrections = Corrections(key, depth, part.start, part.stop)
        shares = _evaluate(corrections, root_low[part], root_high[part], points[part], rank, h)
        out[part] = shares if rank == 0 else _ZERO - shares


def _evaluate(corrections: Corrections, low: Words, high: Words, x: Words, rank: int, h: FixedKeyHash) -> Words:
    depth = corrections.depth
    control = np.full(x.shape, rank, np.uint64)
    total = np.zeros(x.shape, np.uint64)
    for level in range(depth):
        right = (x >> np.uint64(depth - 1 - level)) & _ONE
        seed = h(low ^ np.where(right, SEED_RIGHT, SEED_LEFT), high)
        value, bit = h(low ^ np.where(right, VALUE_RIGHT, VALUE_LEFT), high)
        mask = _ZERO - control
        total += value + (corrections.row(level, VALUES) & mask)
        low = seed[0] ^ (corrections.row(level, LOW) & mask)
        high = seed[1] ^ (corrections.row(level, HIGH) & mask)
        correction = np.where(right, corrections.bits(level, 1), corrections.bits(level, 0))
        control = (bit ^ (correction & control)) & _ONE
    return total + low + (corrections.row(depth, 0) & (_ZERO - control))


def generate_blocks(
    low0: Words, high0: Words, low1: Words, high1: Words, alpha: Words, payload: Words, depth: int, h: FixedKeyHash,
    key: Words, begin: int, end: int,
) -> None:  # fmt: skip
    """Write the corrections for the blocks in begin..end into key, from the parties' roots."""
    for block in range(begin, end, PART):
        part = slice(block * BLOCK, min(min(block + PART, end) * BLOCK, alpha.size))
        corrections = Corrections(key, depth, part.start, part.stop)
        seeds = [np.stack([low0[part], high0[part]]), np.stack([low1[part], high1[part]])]
        _generate(corrections, seeds, alpha[part], payload[part], h)


def _generate(
    corrections: Corrections, seeds: list[Words], alpha: Words, payload: Words, h: FixedKeyHash
) -> None:
    """Seeds are P0's and P1's, shape (2, n); ``control`` is P1's bit on the path, ``total`` what the path lacks."""
    depth = corrections.depth
    control = np.ones(alpha.shape, np.uint64)
    total = np.zeros(alpha.shape, np.uint64)
    for level in range(depth):
        right = (alpha >> np.uint64(depth - 1 - level)) & _ONE
        children = [_children(h, *seed) for seed in seeds]
        lost = [np.where(right, left, other) for left, other in children]
        kept = [np.where(right, other, left) for left, other in children]
        seed = lost[0][:2] ^ lost[1][:2]
        bits = [(children[0][side, 3] ^ children[1][side, 3] ^ right ^ np.uint64(1 - side)) & _ONE for side in (0, 1)]
        value = lost[1][2] - lost[0][2] + payload * right
        for side in (0, 1):
            corrections.set_row(level, side, seed[side])
            corrections.set_bits(level, side, bits[side])
        corrections.set_row(level, VALUES, _signed(value - total, control))
        total = value - (kept[1][2] - kept[0][2])
        seeds = [kept[0][:2] ^ (seed & (control - _ONE)), kept[1][:2] ^ (seed & (_ZERO - control))]
        control = (kept[1][3] ^ (np.where(right, bits[1], bits[0]) & control)) & _ONE
    corrections.set_row(depth, 0, _signed(seeds[1][0] - seeds[0][0] - total, control))


def _children(h: FixedKeyHash, low: Words, high: Words) -> Words:
    """Low and high word of the seed, value and control bit of the left and of the right child, shape (2, 4, n)."""
    purposes = (SEED_LEFT, VALUE_LEFT), (SEED_RIGHT, VALUE_RIGHT)
    return np.stack([np.concatenate([h(low ^ purpose, high) for purpose in side]) for side in purposes])


def _signed(words: Words, negate: Words) -> Words:
    """The words, negated where the bit is set."""
    return np.where(negate, _ZERO - words, words)
