"""Fixed point: bounds of encoding and decoding, base 10 as the tutorials have it, and bad input."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sharetorch.mpc import testing
from sharetorch.mpc.errors import EncodingError, EncodingRangeError, NotFiniteError, UnsupportedDtypeError
from sharetorch.mpc.fixedpoint import (
    INTEGERS,
    Encoding,
    decode,
    encode,
    encode_integers,
    encoding_for,
    factor,
    fixed,
)
from sharetorch.mpc.protocols.bilinear import Product

bits = st.integers(0, 30)
digits = st.integers(0, 9)


@given(st.floats(-1000, 1000), bits)
def test_base_2_rounds_to_nearest(value: float, precision: int) -> None:
    encoding = fixed(precision)
    decoded = decode(encode(torch.tensor([value], dtype=torch.float64), encoding), encoding, torch.float64)
    assert abs(float(decoded) - value) <= 0.5 / encoding.unit


@given(st.floats(-1000, 1000), digits)
def test_base_10_cuts_off_toward_zero(value: float, precision: int) -> None:
    encoding = fixed(precision, base=10)
    decoded = float(decode(encode(torch.tensor([value], dtype=torch.float64), encoding), encoding, torch.float64))
    assert abs(decoded) <= abs(value) * (1 + 1e-14) + 1e-300
    assert abs(decoded - value) < (1 + 1e-9) / encoding.unit


@given(st.integers(-(2**40), 2**40), st.integers(0, 20))
def test_what_is_encoded_exactly_is_decoded_exactly(number: int, precision: int) -> None:
    encoding = fixed(precision)
    value = torch.tensor([number / encoding.unit], dtype=torch.float64)
    assert encode(value, encoding).tolist() == [number]
    assert torch.equal(decode(encode(value, encoding), encoding, torch.float64), value)


def test_the_default_is_base_2_with_16_bits() -> None:
    assert fixed() == Encoding(2, 16, 16)


def test_the_default_of_base_10_has_3_digits() -> None:
    assert fixed(base=10).unit == 1000


def test_a_tenth_in_base_10_is_a_hundred_thousandths() -> None:
    assert encode(torch.tensor([0.1, -0.1, 0.1239]), fixed(base=10)).tolist() == [100, -100, 123]


@pytest.mark.parametrize(
    ("x", "y", "precision", "expected"), [(2.113, 2.113, 2, 4.45), (2.113, -0.113, 3, -0.238), (2.113, 2.0, 3, 4.226)]
)
def test_products_in_base_10_are_cut_off_as_in_the_tutorials(
    x: float, y: float, precision: int, expected: float
) -> None:
    encoding = fixed(precision, base=10)
    session = testing.plaintext()
    operands = [session.distribute(encode(torch.tensor([v], dtype=torch.float64), encoding)) for v in (x, y)]
    (product,) = session.command("bilinear", *operands, function=Product())
    (result,) = session.command("truncate", product, divisor=encoding.unit, method="probabilistic")
    assert float(decode(testing.value(session, result), encoding, torch.float64)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("base", [2, 10])
def test_what_is_not_finite_is_refused(bad: float, base: int) -> None:
    with pytest.raises(NotFiniteError, match="NaN or infinity"):
        encode(torch.tensor([1.0, bad]), fixed(base=base))


@pytest.mark.parametrize("precision", [0, 16, 30])
def test_what_is_outside_the_range_is_refused(precision: int) -> None:
    limit = 2.0 ** (62 - precision)
    inside = torch.tensor([limit * (1 - 2**-20)], dtype=torch.float64)
    assert encode(inside, fixed(precision)).abs().max() < 1 << 62
    with pytest.raises(EncodingRangeError, match="outside the range"):
        encode(torch.tensor([-limit]), fixed(precision))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_numbers_are_refused(dtype: torch.dtype) -> None:
    x = torch.zeros(2, dtype=dtype)
    for attempt in (lambda: encode(x, fixed()), lambda: encoding_for(x), lambda: encode_integers(x)):
        with pytest.raises(UnsupportedDtypeError, match="complex"):
            attempt()


def test_reals_are_no_integers() -> None:
    with pytest.raises(UnsupportedDtypeError, match="does not hold integers"):
        encode_integers(torch.tensor([1.0]))


@pytest.mark.parametrize("precision", [-1, 31, 2.5, True])
def test_a_wrong_precision_is_refused(precision: int) -> None:
    with pytest.raises(EncodingError):
        fixed(precision)


def test_a_wrong_base_is_refused() -> None:
    with pytest.raises(EncodingError, match="base=3"):
        fixed(base=3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_integers_are_shared_as_they_are(dtype: torch.dtype) -> None:
    x = torch.tensor([0, 1]).to(dtype)
    assert encoding_for(x) == INTEGERS
    assert encode(x, INTEGERS).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_reals_of_every_dtype_are_encoded(dtype: torch.dtype) -> None:
    x = torch.tensor([1.5, -2.25], dtype=dtype)
    assert encode(x, encoding_for(x)).tolist() == [98304, -147456]


def test_an_integer_tensor_in_a_real_encoding_is_scaled() -> None:
    assert encode(torch.tensor([3, -1]), fixed(4)).tolist() == [48, -16]


def test_integers_too_large_for_a_real_encoding_are_refused() -> None:
    with pytest.raises(EncodingRangeError):
        encode(torch.tensor([1 << 50]), fixed(16))


@pytest.mark.parametrize("shape", [(), (0,), (2, 0)])
def test_empty_and_scalar_tensors_are_encoded(shape: tuple[int, ...]) -> None:
    x: Tensor = torch.ones(shape)
    assert torch.equal(decode(encode(x, fixed()), fixed()), x)


@given(st.floats(-(2.0**20), 2.0**20).filter(lambda v: v == 0 or abs(v) > 2.0**-16), st.sampled_from([2, 10]))
def test_a_public_factor_keeps_its_significant_digits(value: float, base: int) -> None:
    found = factor(value, fixed(base=base, precision=16 if base == 2 else 3))
    relative = 2.0**-16 if base == 2 else 1e-3
    assert abs(found.mantissa / base**found.digits - value) <= abs(value) * relative


@pytest.mark.parametrize(
    ("value", "mantissa", "digits"), [(3.0, 3, 0), (0.25, 1, 2), (-0.5, -1, 1), (0.0, 0, 0), (0.75, 3, 2)]
)
def test_short_factors_stay_short(value: float, mantissa: int, digits: int) -> None:
    found = factor(value, fixed())
    assert (found.mantissa, found.digits) == (mantissa, digits)


def test_a_factor_that_is_not_finite_is_refused() -> None:
    with pytest.raises(NotFiniteError, match="not finite"):
        factor(math.inf, fixed())
