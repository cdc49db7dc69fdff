"""Matrix products modulo 2^64 by digits in float64: the code of devices without products of int64 matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels import limbs
from sharetorch.mpc.ring import PowerRing, WordField

LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
LARGEST_DIGITS = (1 << 63) - (1 << 43) - (1 << 21)
"""-2^21 - 2^21 2^22 - 2^19 2^44 modulo 2^64."""
SIZES = st.sampled_from([0, 1, 2, 5, 17, 64, 100])
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES, st.integers(0, 2**32))
def test_equals_integers(m: int, k: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (torch.from_numpy(rng.integers(LOWEST, HIGHEST, shape)) for shape in ((m, k), (k, n)))
    for device in DEVICES:
        assert torch.equal(limbs.matmul(a.to(device), b.to(device)).cpu(), a @ b)


@pytest.mark.parametrize("value", [LOWEST, HIGHEST, -1, LARGEST_DIGITS, -LARGEST_DIGITS])
@pytest.mark.parametrize("terms", [limbs.TERMS - 1, limbs.TERMS, limbs.TERMS + 1, 5000])
@pytest.mark.parametrize("device", DEVICES)
def test_longest_sums_of_largest_digits(value: int, terms: int, device: str) -> None:
    a, b = torch.full((2, terms), value, device=device), torch.full((terms, 3), value, device=device)
    b[::7] = -1
    assert torch.equal(limbs.matmul(a, b).cpu(), a.cpu() @ b.cpu())


@pytest.mark.parametrize("device", DEVICES)
def test_batches_and_transposed_operands(device: str) -> None:
    rng = np.random.default_rng(3)
    a = torch.from_numpy(rng.integers(LOWEST, HIGHEST, (3, 5, 1100)))
    b = torch.from_numpy(rng.integers(LOWEST, HIGHEST, (3, 4, 1100))).transpose(1, 2)
    assert torch.equal(limbs.matmul(a.to(device), b.to(device)).cpu(), a @ b)


def test_digits_give_the_word_again_and_are_bounded() -> None:
    rng = np.random.default_rng(4)
    x = torch.from_numpy(rng.integers(LOWEST, HIGHEST, 1000))
    x[:3] = torch.tensor([LOWEST, HIGHEST, LARGEST_DIGITS])
    digits = limbs._digits(x)
    assert torch.equal(sum(d.to(torch.int64) << (22 * i) for i, d in enumerate(digits)), x)
    assert [bool(d.abs().max() <= bound) for d, bound in zip(digits, (2**21, 2**21, 2**19), strict=True)] == [True] * 3


def test_wrong_shapes_and_dtypes_raise() -> None:
    a = torch.zeros((2, 3), dtype=torch.int64)
    with pytest.raises(ShapeError):
        limbs.matmul(a, a)
    with pytest.raises(ShapeError):
        limbs.matmul(a, torch.zeros((1, 3, 2), dtype=torch.int64))
    with pytest.raises(TypeError):
        limbs.matmul(a, torch.zeros((3, 2)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("bits", [13, 64])
def test_rings_multiply_on_every_device(device: str, batch: tuple[int, ...], bits: int) -> None:
    rng = np.random.default_rng(5)
    ring = PowerRing(bits)
    shapes = ((4, 6), (6, 3), (4, 2), (2, 3), (4, 3))
    operands = [ring.reduce(torch.from_numpy(rng.integers(LOWEST, HIGHEST, (*batch, *shape)))) for shape in shapes]
    a, b, c, d, start = operands
    moved = [x.to(device) for x in operands]
    assert torch.equal(ring.matmul(*moved[:2]).cpu(), ring.reduce(a @ b))
    assert torch.equal(ring.matmul_add(*(x.clone() for x in moved)).cpu(), ring.reduce(start + a @ b + c @ d))
    assert ring.matmul_add(*(x.to("meta") for x in operands)).shape == start.shape


def test_the_sum_of_products_in_a_field() -> None:
    field = WordField(101)
    a, b = torch.arange(6).reshape(2, 3), torch.arange(6).reshape(3, 2)
    start = torch.full((2, 2), 100)
    assert torch.equal(field.matmul_add(a, b, b.T, a.T, start.clone()), (start + a @ b + b.T @ a.T) % 101)
