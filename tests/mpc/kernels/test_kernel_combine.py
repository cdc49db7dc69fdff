"""Elementwise combinations and bit packing."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels import beaver_combine, pack_bits, reference, truncation_combine, unpack_bits

Words = NDArray[np.int64]

LENGTHS = st.sampled_from([0, 1, 7, 127, 128, 129, 1001, 200_003])
SEEDS = st.integers(0, 2**32)


def words(rng: np.random.Generator, n: int) -> Words:
    """Random words, some of them extreme."""
    x = rng.integers(-(1 << 63), (1 << 63) - 1, n, dtype=np.int64, endpoint=True)
    return np.where(rng.random(n) < 0.2, rng.choice(np.array([-(1 << 63), (1 << 63) - 1, -1, 0, 1]), n), x)


def wrapped(x: Words, bits: int) -> Words:
    """Read the low bits as a signed number."""
    return (x << (64 - bits)) >> (64 - bits)


@settings(max_examples=30, deadline=None)
@given(LENGTHS, SEEDS)
def test_beaver_combine_equals_reference(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = [words(rng, n) for _ in range(5)]
    before = [x.copy() for x in vectors]
    result = beaver_combine(*vectors)
    want = reference.beaver_combine(*(torch.from_numpy(x) for x in vectors))
    assert np.array_equal(result, want.numpy())
    assert all(np.array_equal(x, y) for x, y in zip(vectors, before, strict=True))


def test_beaver_shares_add_up_to_the_product() -> None:
    rng = np.random.default_rng(5)
    x, y, u, v, x0, v0, z0 = (words(rng, 1000) for _ in range(7))
    z = u * v
    first = beaver_combine(x - u, y - v, x0, v0, z0)
    second = beaver_combine(x - u, y - v, x - x0, v - v0, z - z0)
    assert np.array_equal(first + second, x * y)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(2, 64), st.data(), st.booleans(), SEEDS)
def test_truncation_combine_equals_reference(n: int, bits: int, data: st.DataObject, leader: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fraction_bits = data.draw(st.integers(0, bits - 2))
    arrays = [wrapped(words(rng, n), bits) for _ in range(4)]
    before = [array.copy() for array in arrays]
    result = truncation_combine(*arrays, fraction_bits, bits, leader=leader)
    tensors = [torch.from_numpy(array) for array in before]
    want = reference.truncation_combine(*tensors, fraction_bits, bits, leader=leader)
    assert np.array_equal(result, want.numpy())
    assert all(np.array_equal(x, y) for x, y in zip(arrays, before, strict=True))


def truncate(x: Words, r: Words, fraction_bits: int, bits: int, rng: np.random.Generator) -> Words:
    """Truncate with two parties, following [DEK20]."""
    top = bits - 1
    own = words(rng, x.size)
    others = x + r - own
    m, t = (r & ((1 << top) - 1)) >> fraction_bits, (r >> top) & 1
    m0, t0 = words(rng, x.size), words(rng, x.size)
    shares = (
        truncation_combine(own, others, m0, t0, fraction_bits, bits, leader=True),
        truncation_combine(others, own, m - m0, t - t0, fraction_bits, bits, leader=False),
    )
    return wrapped(shares[0] + shares[1], bits)


@pytest.mark.parametrize("fraction_bits", [0, 1, 16, 62])
def test_truncation_rounds_down_or_up(fraction_bits: int) -> None:
    rng = np.random.default_rng(6)
    limit = 1 << 62
    x = np.concatenate([rng.integers(-limit, limit, 5000), np.array([-limit, -limit + 1, -1, 0, 1, limit - 1])])
    y = truncate(x, words(rng, x.size), fraction_bits, 64, rng)
    assert set(np.unique(y - (x >> fraction_bits))) <= {0, 1}
    if fraction_bits == 0:
        assert np.array_equal(x, y)


def test_truncation_of_a_whole_small_ring() -> None:
    rng = np.random.default_rng(7)
    bits, fraction_bits = 6, 2
    x, r = (part.reshape(-1) for part in np.meshgrid(np.arange(-16, 16), np.arange(-32, 32)))
    error = truncate(x, r, fraction_bits, bits, rng) - (x >> fraction_bits)
    assert set(np.unique(error)) <= {0, 1}
    rounded_up = error.reshape(64, 32).mean(axis=0)
    assert np.array_equal(rounded_up, (np.arange(-16, 16) % 4) / 4)


def test_wrong_vectors_raise() -> None:
    x = np.zeros(4, np.int64)
    with pytest.raises(ShapeError):
        beaver_combine(x, x, x, x, x[:3])
    with pytest.raises(ShapeError):
        beaver_combine(x[::2], x[::2], x[::2], x[::2], x[::2])
    with pytest.raises(ShapeError):
        truncation_combine(x.reshape(2, 2), x, x, x, 1, leader=True)
    with pytest.raises(TypeError):
        truncation_combine(x, x, x, x.view(np.uint64), 1, leader=True)
    with pytest.raises(ValueError, match="63 bits"):
        truncation_combine(x, x, x, x, 63, leader=True)
    with pytest.raises(ValueError, match="65 bits"):
        truncation_combine(x, x, x, x, 16, 65, leader=True)


@given(st.lists(st.integers(0, 1), max_size=130))
def test_packing_bits_is_undone_and_xor_commutes(values: list[int]) -> None:
    bits = np.array(values, np.uint8)
    packed = pack_bits(bits)
    assert packed.size == (bits.size + 7) // 8
    assert np.array_equal(unpack_bits(packed, bits.size), bits)
    other = bits[::-1].copy()
    assert np.array_equal(unpack_bits(packed ^ pack_bits(other), bits.size), bits ^ other)


def test_unpacking_another_number_of_bits_raises() -> None:
    with pytest.raises(ShapeError):
        unpack_bits(np.zeros(2, np.uint8), 17)
    with pytest.raises(ShapeError):
        unpack_bits(np.zeros(3, np.uint8), 16)
