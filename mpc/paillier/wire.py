r"""An encrypted tensor as bytes. All integers have their highest byte first.

    bytes          content
    8              "STPAIL\x00\x01", the last byte is the version
    4, then a      a = bytes of n, then n
    1, 1           base, precision
    4, then u      u = bytes of the unit, then the unit
    4              b: |plaintext integer| < 2^b for every element
    1, 1           dtype (0 int64, 1 float32, 2 float64), number of dimensions d
    8 d            sizes
    2 a each       ciphertexts in row-major order

Nothing else may follow. The exact bound of a tensor holds sums of public factors; only its length in bits is written.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import gmpy2
import torch

from sharetorch.mpc.errors import CiphertextError, WrongKeyError
from sharetorch.mpc.paillier.ciphertexts import Cell
from sharetorch.mpc.paillier.encoding import MAXIMUM_DIGITS, Scale
from sharetorch.mpc.paillier.keys import MAXIMUM_BITS, PublicKey

MAGIC = b"STPAIL\x00\x01"
MAXIMUM_DIMENSIONS = 16
MAXIMUM_ELEMENTS = 1 << 48
_DTYPES = (torch.int64, torch.float32, torch.float64)


@dataclass(frozen=True, repr=False)
class Record:
    """What the bytes of an encrypted tensor say.

    Attributes:
        key: the key of its ciphertexts.
        scale: how integers stand for numbers.
        bound: no plaintext integer has a larger absolute value.
        dtype: of the decrypted tensor.
        shape: sizes.
        cells: ciphertexts in row-major order.
    """

    key: PublicKey
    scale: Scale
    bound: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    cells: list[Cell]


def pack(record: Record) -> bytes:
    """The bytes of a record."""
    n, unit = record.key.serialise(), record.scale.unit
    unit_bytes = unit.to_bytes((unit.bit_length() + 7) // 8, "big")
    parts = [
        MAGIC,
        struct.pack(">I", len(n)) + n,
        struct.pack(">BB", record.scale.base, record.scale.precision),
        struct.pack(">I", len(unit_bytes)) + unit_bytes,
        struct.pack(">IBB", record.bound.bit_length(), _DTYPES.index(record.dtype), len(record.shape)),
        struct.pack(f">{len(record.shape)}Q", *record.shape),
    ]
    return b"".join(parts + [int(cell).to_bytes(2 * len(n), "big") for cell in record.cells])


class _Reader:
    """Takes bytes from the front, and never more than there are."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._place = 0

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._data) - self._place

    def take(self, count: int) -> bytes:
        """The next bytes."""
        if count > self.left:
            raise CiphertextError(
                f"The bytes of an encrypted tensor end too early: {count} expected, {self.left} left."
            )
        self._place += count
        return bytes(self._data[self._place - count : self._place])

    def number(self, count: int) -> int:
        """The next bytes as one integer."""
        return int.from_bytes(self.take(count), "big")

    def long_number(self, most: int, name: str) -> int:
        """An integer with its length before it."""
        length = self.number(4)
        if not 0 < length <= most:
            raise CiphertextError(f"{name} has {length} bytes; 1 to {most} are allowed.")
        return self.number(length)


def unpack(data: bytes, expected: PublicKey | None) -> Record:
    """The record in bytes that somebody else may have made.

    Args:
        data: what ``pack`` gave.
        expected: the key under which the ciphertexts must be; None takes the key that the bytes name.

    Raises:
        CiphertextError: the bytes have another form, a number is out of range, or a ciphertext is none.
        WrongKeyError: the ciphertexts are under another key.
        KeySizeError: the named key is too short.
    """
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise CiphertextError(f"An encrypted tensor is read from bytes, not from {type(data).__name__}.")
    reader = _Reader(bytes(data))
    if reader.take(len(MAGIC)) != MAGIC:
        raise CiphertextError("These bytes are no encrypted tensor, or one of another version: they begin differently.")
    key = _read_key(reader, expected)
    scale = _read_scale(reader, key)
    bits, dtype, dimensions = reader.number(4), reader.number(1), reader.number(1)
    if bits > key.bits or dtype >= len(_DTYPES) or dimensions > MAXIMUM_DIMENSIONS:
        raise CiphertextError(f"Bound 2^{bits}, dtype {dtype} or {dimensions} dimensions are out of range.")
    shape = tuple(reader.number(8) for _ in range(dimensions))
    cells = _read_cells(reader, shape, key)
    if _DTYPES[dtype] == torch.int64 and scale.unit != 1:
        raise CiphertextError("Encrypted integers have the unit 1, these have another.")
    return Record(key, scale, min(1 << bits, key.capacity), _DTYPES[dtype], shape, cells)


def _read_key(reader: _Reader, expected: PublicKey | None) -> PublicKey:
    n = reader.long_number(MAXIMUM_BITS // 8, "The modulus n")
    if expected is None:
        return PublicKey(n)
    if n != expected.n:
        raise WrongKeyError(
            f"The bytes hold ciphertexts under another key than the expected {expected}. Ask the sender to encrypt "
            "under that one."
        )
    return expected


def _read_scale(reader: _Reader, key: PublicKey) -> Scale:
    base, precision = reader.number(1), reader.number(1)
    unit = reader.long_number(MAXIMUM_BITS // 8, "The unit")
    if base not in (2, 10) or precision > MAXIMUM_DIGITS or not 0 < unit <= key.n:
        raise CiphertextError(f"Base {base}, precision {precision} or the unit are out of range.")
    return Scale(base, precision, unit)


def _read_cells(reader: _Reader, shape: tuple[int, ...], key: PublicKey) -> list[Cell]:
    width, count = 2 * len(key.serialise()), math.prod(shape)
    if math.prod(size or 1 for size in shape) > MAXIMUM_ELEMENTS or count * width != reader.left:
        raise CiphertextError(
            f"A tensor of shape {shape} has {count} ciphertexts of {width} bytes; {reader.left} bytes are there."
        )
    cells = [gmpy2.mpz(reader.number(width)) for _ in range(count)]
    check_cells(cells, key)
    return cells


def check_cells(cells: list[Cell], key: PublicKey) -> None:
    """Raise unless every number is a unit modulo n^2.

    Raises:
        CiphertextError: one is not.
    """
    product = gmpy2.mpz(1)
    for cell in cells:
        if not 0 < cell < key.square:
            raise CiphertextError(
                "A ciphertext lies outside 1 ... n^2 - 1. The bytes are damaged or not honest; use none of them."
            )
        product = product * cell % key.modulus
    if gmpy2.gcd(product, key.modulus) != 1:
        raise CiphertextError(
            "A ciphertext has a factor in common with n. The bytes are damaged or not honest; use none of them."
        )
