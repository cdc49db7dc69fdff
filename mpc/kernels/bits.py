"""Bits, one per byte in memory and eight to a byte on the wire."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sharetorch.mpc.errors import ShapeError

Bytes = NDArray[np.uint8]


def pack_bits(bits: Bytes) -> Bytes:
    """Pack bits eight to a byte, the first in the least significant place; the last byte is filled up with zeros.

    Args:
        bits: zeros and ones, uint8, shape (n,).

    Returns:
        uint8, shape (ceil(n / 8),).
    """
    return np.packbits(bits, bitorder="little")


def unpack_bits(packed: Bytes, count: int) -> Bytes:
    """Undo ``pack_bits``.

    Args:
        packed: uint8, shape (ceil(count / 8),).
        count: number of bits.

    Returns:
        zeros and ones, uint8, shape (count,).

    Raises:
        ShapeError: packed does not hold exactly that many bits.
    """
    if packed.shape != (-(-count // 8),):
        raise ShapeError(f"{count} bits fill {-(-count // 8)} bytes; got shape {packed.shape}.")
    return np.unpackbits(packed, count=count, bitorder="little")
