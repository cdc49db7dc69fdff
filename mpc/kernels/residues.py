"""Uniform residues from uniform 16-bit words.

A word below the largest multiple of the modulus that fits in 16 bits gives its remainder; any other word is rejected
and replaced. Which words are rejected depends on the words alone, so both ends of a common stream draw the same
residues.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sharetorch.mpc.kernels._numba import INT, inline, kernel, read_only, writable
from sharetorch.mpc.kernels._threads import in_parts
from sharetorch.mpc.kernels.combine import check_vectors

Shorts = NDArray[np.uint16]
Symbols = NDArray[np.uint8]

WORD_VALUES = 1 << 16
MAX_RESIDUES = 256
CHUNK = 512
"""Words whose rejections are counted together."""
PART = 1 << 20
"""Words worth a thread of their own; a multiple of CHUNK."""


@inline
def _reduce_chunk(words: Shorts, modulus: np.uint16, reciprocal: np.uint16, offset: np.uint16, out: Symbols) -> None:
    """Set out = offset + words mod modulus.

    The quotient estimate floor(word * floor(2^16 / modulus) / 2^16) is right or one too small. Every step is cut to 16
    bits again, because numba computes small integers in 64 and would lose three quarters of the vector width.
    """
    for i in range(out.size):
        quotient = np.uint16((np.uint32(words[i]) * np.uint32(reciprocal)) >> np.uint32(16))
        rest = np.uint16(words[i] - np.uint16(quotient * modulus))
        less = np.uint16(rest - modulus)
        out[i] = np.uint8(np.uint16(min(rest, less)) + offset)


@inline
def _count_above(words: Shorts, highest: np.uint16) -> int:
    count = np.uint16(0)
    for i in range(words.size):
        count = np.uint16(count + np.uint16(words[i] > highest))
    return int(count)


@kernel(read_only("uint16"), INT, INT, INT, writable("uint8"), writable("int64"), INT, INT)
def _reduce_part(
    words: Shorts,
    modulus: int,
    highest: int,
    offset: int,
    out: Symbols,
    rejected: NDArray[np.int64],
    begin: int,
    end: int,
) -> None:
    """Reduce words begin..end, begin divisible by CHUNK, and set the number of rejected words of each chunk."""
    reciprocal = np.uint16(min(WORD_VALUES // modulus, WORD_VALUES - 1))
    for start in range(begin, end, CHUNK):
        stop = min(start + CHUNK, end)
        chunk = words[start:stop]
        _reduce_chunk(chunk, np.uint16(modulus), reciprocal, np.uint16(offset), out[start:stop])
        rejected[start // CHUNK] = _count_above(chunk, np.uint16(highest))


@kernel(read_only("uint16"), INT, read_only("int64"), writable("int64"))
def _locate_rejected(words: Shorts, highest: int, rejected: NDArray[np.int64], places: NDArray[np.int64]) -> None:
    """List the places of all words above ``highest``, in order."""
    found = 0
    for chunk in range(rejected.size):
        if rejected[chunk] > 0:
            for i in range(chunk * CHUNK, min((chunk + 1) * CHUNK, words.size)):
                if words[i] > highest:
                    places[found] = i
                    found += 1


def _reduce(words: Shorts, modulus: int, highest: int, offset: int) -> tuple[Symbols, NDArray[np.int64]]:
    out = np.empty(words.size, np.uint8)
    rejected = np.zeros(-(-words.size // CHUNK), np.int64)
    in_parts(
        lambda begin, end: _reduce_part(words, modulus, highest, offset, out, rejected, begin, end),
        words.size,
        PART,
        CHUNK,
    )
    places = np.empty(int(rejected.sum()), np.int64)
    if places.size:
        _locate_rejected(words, highest, rejected, places)
    return out, places


def reduce_words(words: Shorts, modulus: int, offset: int, more: Callable[[int], Shorts]) -> Symbols:
    """Turn uniform words into uniform residues offset .. offset + modulus - 1.

    Args:
        words: uniform words, uint16, shape (n,).
        modulus: number of residues, 1 to 256.
        offset: least residue; offset + modulus is at most 256.
        more: gives that many further words of the same stream; called only if words were rejected, for as many as were,
            until none is. The replacements take the places of the rejected words in order.

    Returns:
        uint8, shape (n,), uniform if the words are.

    Raises:
        ShapeError: words are not a contiguous vector.
        TypeError: words are not uint16.
        ValueError: residues do not fit in a byte.
    """
    check_vectors(np.uint16, words=words)
    if not (1 <= modulus and 0 <= offset and offset + modulus <= MAX_RESIDUES):
        raise ValueError(f"Residues {offset} to {offset + modulus - 1} are none or do not fit in a byte.")
    highest = WORD_VALUES // modulus * modulus - 1
    out, places = _reduce(words, modulus, highest, offset)
    while places.size:
        replacements, still = _reduce(more(places.size), modulus, highest, offset)
        out[places] = replacements
        places = places[still]
    return out
