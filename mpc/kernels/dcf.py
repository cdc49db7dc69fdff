"""Distributed comparison functions: keys that let two parties add up to beta [x < alpha] for a public x.

See [BCGGIKR21]. alpha has ``depth`` bits, beta is a word, sums are modulo 2^64. A key is a root seed of 128 bits
of its own for each party, and corrections that both get. A party walks down a binary tree along the bits of x, the
highest first, with a seed s, a control bit t (at the root: its rank) and a sum V = 0. Each level hashes s into the
seed, the value v (a word) and the control bit of the child it turns to, corrects them if t is set, and adds v to V:

    s' = H(s XOR d) XOR t S,    V += v + t W,    t' = u XOR t U_d,    (v, u) = H(s XOR 2 XOR d),    d the bit of x

with the level's corrections S (two words), W (a word), U_0 and U_1 (bits). Below the last level it adds the low word of
s and t times a last correction. P1 negates its sum. Off the path of alpha both parties have the same s and t, which
cancel; on it their seeds are independent, their control bits opposite, and the corrections see to it that the parties
come together when they leave the path, with V summing up to beta if they leave it to the left and to 0 otherwise.

Layout of the corrections of n elements: blocks of 64 elements, the last one of w <= 64. A block holds, level by level,
w low words of S, w high words of S, w words W, one word with the bits U_0 (element q in bit q) and one with U_1; then w
last corrections. That is 194 bits an element and level, and 64.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels import _dcf_compiled as compiled
from sharetorch.mpc.kernels import _dcf_portable as portable
from sharetorch.mpc.kernels._threads import in_parts
from sharetorch.mpc.kernels.combine import check_vectors
from sharetorch.mpc.kernels.fixed_key import FixedKeyHash, vector_words

Words = NDArray[np.uint64]

BLOCK = 64
PART = 16
"""Blocks worth a thread of their own."""
MAX_DEPTH = 64


class Seeds(NamedTuple):
    """One seed of 128 bits an element: vectors of their low and high words."""

    low: Words
    high: Words


def key_words(elements: int, depth: int) -> int:
    """Words of the corrections of so many elements."""
    return elements * (3 * depth + 1) + 2 * depth * _blocks(elements)


def generate(root0: Seeds, root1: Seeds, alpha: Words, beta: Words, depth: int, h: FixedKeyHash) -> Words:
    """Make the corrections that go with the parties' roots.

    Args:
        root0: uniform seeds only P0 and the dealer know, shape (n,).
        root1: uniform seeds only P1 and the dealer know, shape (n,).
        alpha: secret thresholds below 2^depth, uint64, shape (n,).
        beta: secret payloads, uint64, shape (n,).
        depth: bits of a threshold, 1 to 64.
        h: the hash both parties use.

    Returns:
        uint64, shape (key_words(n, depth),): for both parties.

    Raises:
        ShapeError: lengths differ or a vector is not contiguous.
        TypeError: a vector is not uint64.
        ValueError: there is no such depth.
    """
    check_vectors(np.uint64, alpha=alpha, beta=beta, low0=root0.low, high0=root0.high, low1=root1.low, high1=root1.high)
    _check_depth(depth)
    key = np.empty(key_words(alpha.size, depth), np.uint64)

    def generate_blocks(begin: int, end: int) -> None:
        if vector_words():
            compiled.generate_blocks(*root0, *root1, alpha, beta, depth, h.round_keys, key, begin, end)
        else:
            portable.generate_blocks(*root0, *root1, alpha, beta, depth, h, key, begin, end)

    in_parts(generate_blocks, _blocks(alpha.size), PART)
    return key


def evaluate(key: Words, root: Seeds, x: Words, depth: int, rank: int, h: FixedKeyHash) -> Words:
    """Give this party's shares of beta [x < alpha].

    Args:
        key: the corrections, uint64, shape (key_words(n, depth),).
        root: this party's seeds, shape (n,).
        x: public numbers below 2^depth, uint64, shape (n,).
        depth: bits of a threshold, 1 to 64.
        rank: 0 or 1.
        h: the hash the keys were made with.

    Returns:
        uint64, shape (n,).

    Raises:
        ShapeError: lengths differ or a vector is not contiguous.
        TypeError: a vector is not uint64.
        ValueError: there is no such depth or rank.
    """
    check_vectors(np.uint64, key=key)
    check_vectors(np.uint64, x=x, low=root.low, high=root.high)
    _check_depth(depth)
    if rank not in (0, 1):
        raise ValueError(f"Only ranks 0 and 1 hold comparison keys, not {rank}.")
    if key.size != key_words(x.size, depth):
        raise ShapeError(
            f"Keys of {x.size} elements of {depth} bits have {key_words(x.size, depth)} words, not {key.size}."
        )
    out = np.empty_like(x)

    def evaluate_blocks(begin: int, end: int) -> None:
        if vector_words():
            compiled.evaluate_blocks(key, *root, x, depth, rank, h.round_keys, out, begin, end)
        else:
            portable.evaluate_blocks(key, *root, x, depth, rank, h, out, begin, end)

    in_parts(evaluate_blocks, _blocks(x.size), PART)
    return out


def _blocks(elements: int) -> int:
    return -(-elements // BLOCK)


def _check_depth(depth: int) -> None:
    if not 1 <= depth <= MAX_DEPTH:
        raise ValueError(f"A comparison key has 1 to {MAX_DEPTH} levels, not {depth}.")
