"""Real numbers as ring elements: v is held as the integer round(v * base^scale).

``precision`` is the nominal number of digits after the point; ``scale`` the number a tensor carries at the moment. A
product with a small public factor may carry up to ``spare_digits`` more digits than nominal until the next truncation,
which saves a round and keeps small gradients accurate. Products need |v| < 2^62 / base^(scale of both operands): at 16
bits at least 2^22.

Base 2 rounds to nearest. Base 10 cuts off toward zero, as the tutorials do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sharetorch.mpc.errors import EncodingError, EncodingRangeError, NotFiniteError, UnsupportedDtypeError

DEFAULT_FRACTION_BITS = 16
TUTORIAL_DIGITS = 3

_VALUE_BITS = 62
_MAX_SPARE_BITS = 8
_PRODUCT_HEADROOM_BITS = 22


@dataclass(frozen=True)
class Encoding:
    """How integers in the ring stand for numbers.

    Attributes:
        base: 2 or 10.
        precision: nominal digits after the point; 0 for integers.
        scale: digits the tensor carries now.
        integer: the tensor holds integers, not reals.
        explicit: made by ``fix_precision()``, so that ``get()`` gives back a fixed-precision tensor and
            ``float_precision()`` decodes it.
        truncation: how the scale of products is removed: 'probabilistic', 'exact' or 'local'.
    """

    base: int = 2
    precision: int = DEFAULT_FRACTION_BITS
    scale: int = DEFAULT_FRACTION_BITS
    integer: bool = False
    explicit: bool = False
    truncation: str = "probabilistic"

    def at_scale(self, scale: int) -> Encoding:
        """The same encoding carrying another number of digits."""
        return self if scale == self.scale else replace(self, scale=scale)

    @property
    def unit(self) -> int:
        """The integer that stands for 1."""
        return int(self.base**self.scale)

    @property
    def spare_digits(self) -> int:
        """Digits beyond the nominal ones that a tensor may carry between truncations."""
        if self.integer or self.base != 2:
            return 0
        return max(0, min(_MAX_SPARE_BITS, _VALUE_BITS - _PRODUCT_HEADROOM_BITS - 2 * self.precision))

    @property
    def sum_digits(self) -> int:
        """Digits a sum may carry before it is truncated."""
        return max(self.scale, _VALUE_BITS - _PRODUCT_HEADROOM_BITS)

    @property
    def name(self) -> str:
        """Short text for messages: 'integers', '16 bits', '3 decimal digits'."""
        if self.integer:
            return "integers"
        return f"{self.precision} bits" if self.base == 2 else f"{self.precision} decimal digits"

    def same_numbers(self, other: Encoding) -> bool:
        """Whether base and precision agree, so that the two may be added and multiplied."""
        return self.base == other.base and self.precision == other.precision


INTEGERS = Encoding(base=2, precision=0, scale=0, integer=True)


def fixed(
    precision: int | None = None, base: int = 2, *, explicit: bool = False, truncation: str = "probabilistic"
) -> Encoding:
    """A checked encoding of reals.

    Raises:
        EncodingError: base other than 2 or 10, or more digits than products in Z_2^64 can carry.
    """
    if base not in (2, 10):
        raise EncodingError(f"base={base} is not supported; use base=2 or base=10.")
    if precision is None:
        precision = DEFAULT_FRACTION_BITS if base == 2 else TUTORIAL_DIGITS
    if isinstance(precision, bool) or not isinstance(precision, int) or precision < 0:
        raise EncodingError(f"precision={precision!r} is no number of digits; give an integer of at least 0.")
    if 2 * precision * math.log2(base) > _VALUE_BITS - 2:
        limit = int((_VALUE_BITS - 2) / 2 / math.log2(base))
        raise EncodingError(f"{precision} digits in base {base} leave no room for products; at most {limit} fit.")
    return Encoding(base, precision, precision, explicit=explicit, truncation=truncation)


def encode(x: Tensor, encoding: Encoding) -> Tensor:
    """Write a plain tensor as signed int64 integers of the same shape.

    Raises:
        UnsupportedDtypeError: complex and quantised tensors.
        NotFiniteError: NaN or infinity.
        EncodingRangeError: |v| * base^scale >= 2^62.
    """
    _check_kind(x)
    if encoding.integer:
        return encode_integers(x)
    if not x.dtype.is_floating_point:
        return _scale_integers(encode_integers(x), encoding)
    return _encode_reals(x.detach(), encoding)


def _check_kind(x: Tensor) -> None:
    if x.dtype.is_complex:
        raise UnsupportedDtypeError(f"A tensor of {x.dtype} cannot be encoded; share its real and imaginary parts.")
    if x.is_quantized or x.layout != torch.strided:
        kind = str(x.dtype) if x.is_quantized else str(x.layout)
        raise UnsupportedDtypeError(
            f"A tensor of {kind} cannot be encoded; convert it first, with dequantize() or to_dense()."
        )


def _scale_integers(x: Tensor, encoding: Encoding) -> Tensor:
    largest = max(abs(int(x.max())), abs(int(x.min()))) if x.numel() else 0
    if largest * encoding.unit >= 1 << _VALUE_BITS:
        _refuse_range(largest, encoding)
    return x * encoding.unit


def _refuse_range(largest: float, encoding: Encoding) -> None:
    raise EncodingRangeError(
        f"The largest magnitude {largest:.6g} is outside the range of {encoding.name} "
        f"(below {2.0**_VALUE_BITS / encoding.unit:.6g}) and would wrap around; "
        "scale the data down or use fewer digits."
    )


def _encode_reals(x: Tensor, encoding: Encoding) -> Tensor:
    wide = x.to(torch.float64) if encoding.base == 2 or x.dtype != torch.float64 else x
    scaled = wide * float(encoding.unit)
    if scaled.numel():
        largest = float(scaled.abs().max())
        if not math.isfinite(largest):
            raise NotFiniteError(
                "The tensor holds NaN or infinity, which no ring element can stand for; "
                "clean it first, for example with torch.nan_to_num."
            )
        if largest >= 2.0**_VALUE_BITS:
            _refuse_range(largest / encoding.unit, encoding)
    rounded = scaled.round()
    if encoding.base == 10:
        slack = scaled.abs() * 4 * torch.finfo(x.dtype).eps
        rounded = torch.where((scaled - rounded).abs() <= slack, rounded, scaled.trunc())
    return rounded.to(torch.int64)


def encode_integers(x: Tensor) -> Tensor:
    """Read an integer or boolean tensor as int64.

    Raises:
        UnsupportedDtypeError: the tensor holds reals or complex numbers.
    """
    if x.dtype.is_floating_point or x.dtype.is_complex or x.is_quantized:
        raise UnsupportedDtypeError(f"A tensor of {x.dtype} does not hold integers.")
    if x.dtype == torch.uint64 and x.numel() and int(x.to(torch.int64).min()) < 0:
        raise EncodingRangeError(
            "An integer of 2^63 or more does not fit into the signed 64-bit ring; scale the data down."
        )
    return x.detach().to(torch.int64)


def decode(x: Tensor, encoding: Encoding, dtype: torch.dtype = torch.float32) -> Tensor:
    """Read signed int64 integers as numbers of ``dtype`` (int64 for integer encodings), same shape."""
    if encoding.integer:
        return x
    return (x.to(torch.float64) / encoding.unit).to(dtype)


def encoding_for(x: Tensor, precision: int | None = None) -> Encoding:
    """The encoding ``share()`` gives a plain tensor: base 2 for floats, integers otherwise."""
    _check_kind(x)
    return fixed(precision) if x.dtype.is_floating_point else INTEGERS


@dataclass(frozen=True)
class Factor:
    """A public scalar as mantissa / base^digits."""

    mantissa: int
    digits: int


def factor(value: float, encoding: Encoding, most_digits: int = _VALUE_BITS - _PRODUCT_HEADROOM_BITS) -> Factor:
    """Write a public scalar so that small factors keep their significant digits.

    Integers need no digits, powers of two keep a mantissa of 1, others carry ``precision`` significant digits or more.
    """
    if not math.isfinite(value):
        raise NotFiniteError(f"The factor {value} is not finite, and no ring element can stand for it.")
    if float(value).is_integer():
        return Factor(int(value), 0)
    if encoding.base == 10:
        return _decimal_factor(value, encoding)
    mantissa, exponent = math.frexp(value)
    if abs(mantissa) == 0.5:
        return Factor(1 if value > 0 else -1, 1 - exponent)
    digits = max(1, min(encoding.precision, DEFAULT_FRACTION_BITS) - exponent)
    digits = max(0, min(digits, most_digits))
    return _lowest(round(value * 2.0**digits), digits)


def _lowest(mantissa: int, digits: int, base: int = 2) -> Factor:
    """The same factor with as few digits as possible."""
    while digits and mantissa and mantissa % base == 0:
        mantissa, digits = mantissa // base, digits - 1
    return Factor(mantissa, digits if mantissa else 0)


def _decimal_factor(value: float, encoding: Encoding) -> Factor:
    """A factor whose relative error is at most half of 10^-precision, within nine digits."""
    digits = max(encoding.precision, encoding.precision - math.floor(math.log10(abs(value))))
    digits = min(digits, 9)
    return _lowest(round(value * 10**digits), digits, 10)
