"""Matrix products modulo 2^64."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels import batched_matmul, matmul, matmul_add, reference

Words = NDArray[np.int64]

LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
LAYOUTS = ("rows", "columns", "slice", "reversed", "read-only")
SIZES = st.sampled_from([0, 1, 2, 3, 7, 8, 9, 31, 63, 64, 65, 127, 129, 255, 256, 257])


def words(rng: np.random.Generator, *shape: int) -> Words:
    """Random words, a fifth of them extreme."""
    x = rng.integers(LOWEST, HIGHEST, shape, dtype=np.int64, endpoint=True)
    extreme = rng.choice(np.array([LOWEST, HIGHEST, -1, 0, 1]), shape)
    return np.where(rng.random(shape) < 0.2, extreme, x)


def laid_out(x: Words, layout: str) -> Words:
    """Give an equal matrix with other strides."""
    if layout == "columns":
        return np.ascontiguousarray(x.T).T
    if layout == "slice":
        wide = np.zeros((x.shape[0] * 2, x.shape[1] * 3), np.int64)
        wide[::2, ::3] = x
        return wide[::2, ::3]
    if layout == "reversed":
        return np.ascontiguousarray(x[::-1])[::-1]
    copy = x.copy()
    copy.flags.writeable = layout != "read-only"
    return copy


def expected(a: Words, b: Words) -> Words:
    """Multiply by the reference."""
    return reference.matmul(torch.from_numpy(a.copy()), torch.from_numpy(b.copy())).numpy()


@settings(max_examples=150, deadline=None)
@given(SIZES, SIZES, SIZES, st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.integers(0, 2**32))
def test_equals_reference_for_any_size_and_stride(m: int, k: int, n: int, left: str, right: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = words(rng, m, k), words(rng, k, n)
    result = matmul(laid_out(a, left), laid_out(b, right))
    assert result.flags.c_contiguous and result.dtype == np.int64
    assert np.array_equal(result, expected(a, b))


@pytest.mark.parametrize(
    "shape", [(128, 784, 128), (3000, 25, 20), (20, 25, 3000), (100, 784, 10), (1, 784, 128), (5, 1000, 600)]
)
@pytest.mark.parametrize("layout", ["rows", "columns"])
def test_shapes_of_real_layers(shape: tuple[int, int, int], layout: str) -> None:
    rng = np.random.default_rng(1)
    m, k, n = shape
    a, b = words(rng, m, k), words(rng, k, n)
    assert np.array_equal(matmul(laid_out(a, layout), laid_out(b, layout)), expected(a, b))


def test_entries_agree_with_python_integers() -> None:
    rng = np.random.default_rng(2)
    a, b = words(rng, 200, 300), words(rng, 300, 150)
    result = matmul(a, b)
    for i, j in rng.integers(0, (200, 150), (50, 2)):
        exact = sum(int(x) * int(y) for x, y in zip(a[i], b[:, j], strict=True))
        assert int(result[i, j]) % 2**64 == exact % 2**64


def test_lowest_word_squared_wraps_to_zero() -> None:
    lowest = np.full((9, 9), LOWEST)
    assert not matmul(lowest, lowest).any()


@settings(max_examples=60, deadline=None)
@given(SIZES, SIZES, SIZES, SIZES, st.sampled_from(LAYOUTS), st.integers(0, 2**32))
def test_matmul_add_equals_reference(m: int, k: int, length: int, n: int, layout: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b, c, d = words(rng, m, k), words(rng, k, n), words(rng, m, length), words(rng, length, n)
    start = words(rng, m, n)
    result = matmul_add(laid_out(a, layout), b, c, laid_out(d, layout), laid_out(start, layout))
    assert result.flags.c_contiguous
    tensors = (torch.from_numpy(x) for x in (a, b, c, d, start))
    assert np.array_equal(result, reference.matmul_add(*tensors).numpy())


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (1, 3, 4, 5), (3, 1, 0, 2), (7, 70, 30, 5), (2, 200, 300, 90)])
def test_batched_equals_reference(shape: tuple[int, int, int, int]) -> None:
    rng = np.random.default_rng(3)
    g, m, k, n = shape
    a, b = words(rng, g, m, k), words(rng, g, k, n)
    assert np.array_equal(batched_matmul(a, b), expected(a, b))
    swapped = np.ascontiguousarray(b.swapaxes(1, 2)).swapaxes(1, 2)
    assert np.array_equal(batched_matmul(a, swapped), expected(a, b))


@pytest.mark.parametrize("shape", [(200, 300, 20), (20, 300, 200)])
def test_inputs_stay_as_they_are(shape: tuple[int, int, int]) -> None:
    rng = np.random.default_rng(4)
    m, k, n = shape
    inputs = (words(rng, m, k), words(rng, k, n), words(rng, m, k), words(rng, k, n), words(rng, m, n))
    before = [x.copy() for x in inputs]
    result = matmul_add(*inputs)
    assert all(np.array_equal(x, y) for x, y in zip(inputs, before, strict=True))
    assert not any(np.shares_memory(result, x) for x in inputs)


def test_wrong_shapes_and_dtypes_raise() -> None:
    a = np.zeros((2, 3), np.int64)
    with pytest.raises(ShapeError):
        matmul(a, a)
    with pytest.raises(ShapeError):
        matmul(a, np.zeros(3, np.int64))
    with pytest.raises(ShapeError):
        matmul_add(a, a.T, a, a.T, np.zeros((2, 1), np.int64))
    with pytest.raises(ShapeError):
        batched_matmul(a[None], np.zeros((2, 3, 1), np.int64))
    with pytest.raises(TypeError):
        matmul(a, np.zeros((3, 2)))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        matmul_add(a, a.T, a, a.T, np.zeros((2, 2), np.int32))
