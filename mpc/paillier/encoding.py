"""Real numbers as plaintext integers: v is held as the integer v * unit, negative ones modulo n.

The unit grows with every product and is never cut off again: a truncation would need the private key. The range of a
key of 2048 bits, |integer| < 2^2047, leaves room for dozens of products. Units and bounds depend on public things
only: dtypes, shapes, precisions and public operands, never on encrypted values.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.errors import EncodingError, EncodingRangeError, NotFiniteError, UnsupportedDtypeError

DEFAULT_DIGITS = 9
DEFAULT_BITS = 30
MAXIMUM_DIGITS = 64
DEFAULT_LIMIT = 1 << 63
"""Every int64 fits."""


@dataclass(frozen=True)
class Scale:
    """How integers stand for numbers.

    Attributes:
        base: 2 or 10.
        precision: digits after the point with which real operands enter.
        unit: the integer that stands for 1 now.
    """

    base: int = 10
    precision: int = DEFAULT_DIGITS
    unit: int = 1

    @property
    def nominal(self) -> int:
        """The unit with which real operands enter."""
        return int(self.base**self.precision)

    def with_unit(self, unit: int) -> Scale:
        """The same precision with another unit."""
        return self if unit == self.unit else replace(self, unit=unit)

    def finer(self, other: Scale) -> Scale:
        """The one of the two whose real operands are more precise."""
        return other if other.nominal > self.nominal else self


class Operand(NamedTuple):
    """A public tensor as integers: value = integer / unit, in row-major order."""

    integers: list[int]
    unit: int

    @property
    def largest(self) -> int:
        """The largest absolute value."""
        return max(map(abs, self.integers), default=0)


def scale_for(precision_fractional: int | None, base: int) -> Scale:
    """The scale of freshly encoded numbers, still without its unit.

    Raises:
        EncodingError: base or digits are out of range.
    """
    if base not in (2, 10):
        raise EncodingError(f"base={base!r} is not available; use 10 or 2.")
    precision = precision_fractional
    if precision is None:
        precision = DEFAULT_DIGITS if base == 10 else DEFAULT_BITS
    if isinstance(precision, bool) or not isinstance(precision, int) or not 0 <= precision <= MAXIMUM_DIGITS:
        raise EncodingError(f"precision_fractional={precision!r} is not a whole number from 0 to {MAXIMUM_DIGITS}.")
    return Scale(base, precision)


def logical_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the encrypted tensor: int64 for whole numbers, float32 or float64 for others.

    Raises:
        UnsupportedDtypeError: complex or quantised numbers.
    """
    if x.dtype.is_complex or x.is_quantized or x.layout != torch.strided:
        raise UnsupportedDtypeError(
            f"A {x.dtype} tensor of layout {x.layout} has no encoding. Use real floating point numbers or integers in "
            "a dense tensor."
        )
    if not x.dtype.is_floating_point:
        return torch.int64
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def encode(x: Tensor, unit: int) -> list[int]:
    """The integers nearest to x * unit, in row-major order; for whole numbers they are exact.

    Raises:
        UnsupportedDtypeError: complex numbers.
        NotFiniteError: NaN or infinity.
    """
    if logical_dtype(x) == torch.int64:
        whole: list[int] = x.detach().to("cpu", torch.int64).reshape(-1).tolist()
        return [value * unit for value in whole]
    if not bool(torch.isfinite(x).all()):
        raise NotFiniteError(
            "The tensor holds NaN or infinity, which no integer stands for. Replace them first, for example with "
            "torch.nan_to_num."
        )
    return [_nearest(value, unit) for value in x.detach().to("cpu", torch.float64).reshape(-1).tolist()]


def _nearest(value: float, unit: int) -> int:
    """value * unit rounded to nearest, computed without floating point."""
    numerator, denominator = value.as_integer_ratio()
    return (2 * numerator * unit + denominator) // (2 * denominator)


def operand(x: Any, scale: Scale) -> Operand:
    """A public tensor or number as a factor: real numbers get the nominal digits of ``scale``."""
    tensor = as_tensor(x)
    unit = 1 if logical_dtype(tensor) == torch.int64 else scale.nominal
    return Operand(encode(tensor, unit), unit)


def as_tensor(x: Any) -> Tensor:
    """A number as a tensor that holds it exactly."""
    if isinstance(x, Tensor):
        return x
    return torch.tensor(x, dtype=torch.float64) if isinstance(x, float) else torch.tensor(x)


def check_limit(integers: list[int], limit: int, unit: int) -> None:
    """Raise if a value exceeds what its owner declared.

    Raises:
        EncodingRangeError: it does.
    """
    beyond = sum(abs(integer) > limit * unit for integer in integers)
    if beyond:
        raise EncodingRangeError(
            f"{beyond} of {len(integers)} elements exceed the limit {limit} in absolute value. Scale the data, or "
            "pass a larger limit= to encrypt; it is public and counts against the range of the key."
        )


def decode(integers: list[int], unit: int, dtype: torch.dtype, shape: torch.Size) -> Tensor:
    """The numbers integer / unit, rounded to nearest.

    Raises:
        EncodingRangeError: a number does not fit the dtype.
    """
    if dtype == torch.int64:
        if any(not -(1 << 63) <= integer < 1 << 63 for integer in integers):
            raise _beyond(dtype, "x.double().decrypt(...)")
        return torch.tensor(integers, dtype=dtype).reshape(shape)
    try:
        exact = torch.tensor([integer / unit for integer in integers], dtype=torch.float64)
    except OverflowError as error:
        raise _beyond(dtype, "a division by a public number before") from error
    made = exact.to(dtype).reshape(shape)
    if not bool(torch.isfinite(made).all()):
        raise _beyond(dtype, "x.double().decrypt(...)")
    return made


def _beyond(dtype: torch.dtype, remedy: str) -> EncodingRangeError:
    return EncodingRangeError(f"A decrypted number does not fit {dtype}. Use {remedy}.")


def common_unit(first: int, second: int) -> int:
    """The least unit in which numbers of both units are whole."""
    return math.lcm(first, second)
