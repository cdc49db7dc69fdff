"""The odd ring Z_M, M = 2^l - 1, in which SecureNN compares [WGC19, section 3].

Elements are ``numpy.uint64`` in [0, M). Since 2^l = 1 mod M, a carry out of l bits comes back as +1. ``bits`` is l;
tests use small l, every computation uses 64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

_FULL = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_ONE = np.uint64(1)


def modulus(bits: int) -> np.uint64:
    """M = 2^bits - 1."""
    return np.uint64((1 << bits) - 1)


def reduce(x: U64, bits: int = 64) -> U64:
    """Map l-bit words to Z_M: M itself becomes 0."""
    m = modulus(bits)
    return np.where(x == m, np.uint64(0), x)


def add(x: U64, y: U64, bits: int = 64) -> U64:
    """x + y mod M."""
    total = x + y
    if bits == 64:
        total += (total < x).astype(np.uint64)
    else:
        total = (total & modulus(bits)) + (total >> np.uint64(bits))
    return reduce(total, bits)


def negate(x: U64, bits: int = 64) -> U64:
    """-x mod M."""
    return reduce(modulus(bits) - x, bits)


def subtract(x: U64, y: U64, bits: int = 64) -> U64:
    """x - y mod M."""
    return add(x, negate(y, bits), bits)


def from_word(x: NDArray[np.int64], bits: int = 64) -> U64:
    """Read signed l-bit words as unsigned and map them to Z_M."""
    return reduce(x.view(np.uint64) & modulus(bits), bits)
