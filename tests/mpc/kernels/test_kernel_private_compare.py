"""SecureNN's private comparison: kernels against the reference, and both against the truth."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels import find_zero, mask_symbols, reference, share_bits

Symbols = NDArray[np.uint8]
Comparands = NDArray[np.uint64]

MODULUS = 67
TOP = (1 << 64) - 1
LENGTHS = st.sampled_from([0, 1, 2, 127, 128, 129, 255, 256, 1001])


class Case(NamedTuple):
    """Everything P0 and P1 hold for one comparison of n elements."""

    x: Comparands
    t: Comparands
    direction: Symbols
    share0: Symbols
    s: Symbols
    z: Symbols
    rotation: Symbols

    def masked(self, share: Symbols, rank: int) -> Symbols:
        """Mask by the kernel."""
        return mask_symbols(share, self.t, self.direction, self.s, self.z, self.rotation, rank)

    def truth(self) -> NDArray[np.bool_]:
        """Compare in the clear."""
        return np.select([self.direction == 0, self.direction == 1], [self.x > self.t, self.x < self.t], True)


def pairs(rng: np.random.Generator, n: int) -> tuple[Comparands, Comparands]:
    """Random, equal, one-bit-apart, neighbouring and extreme pairs in turn."""
    x = rng.integers(0, TOP, n, dtype=np.uint64, endpoint=True)
    kind = rng.integers(0, 5, n)
    bit = np.uint64(1) << rng.integers(0, 64, n, dtype=np.uint64)
    other = rng.integers(0, TOP, n, dtype=np.uint64, endpoint=True)
    t = np.select([kind == 0, kind == 1, kind == 2, kind == 3], [other, x, x ^ bit, x + np.uint64(1)], np.uint64(0))
    corners = np.array([0, 1, TOP >> 1, (TOP >> 1) + 1, TOP - 1, TOP], np.uint64)
    extreme = kind == 4
    x[extreme] = rng.choice(corners, extreme.sum())
    t[extreme] = rng.choice(corners, extreme.sum())
    return x, t


def case(n: int, seed: int) -> Case:
    """A random comparison; the top values of all masks occur."""
    rng = np.random.default_rng(seed)
    x, t = pairs(rng, n)
    byte = np.uint8
    return Case(
        x,
        t,
        rng.integers(0, 3, n, dtype=byte),
        rng.choice(np.array([0, 1, 33, 65, 66], byte), 64 * n),
        rng.choice(np.array([1, 2, 33, 66], byte), 64 * n),
        rng.integers(0, MODULUS, 64 * n, dtype=byte),
        rng.integers(0, 64, n, dtype=byte),
    )


def as_rows(packed: Symbols) -> Tensor:
    """Bring the kernels' layout into that of the reference."""
    return reference.unpack_blocks(torch.from_numpy(packed))


def as_words(x: Comparands) -> Tensor:
    """Bring unsigned words into torch."""
    return torch.from_numpy(x.view(np.int64))


@settings(max_examples=40, deadline=None)
@given(LENGTHS, st.integers(0, 2**32))
def test_kernels_equal_reference_and_find_the_truth(n: int, seed: int) -> None:
    c = case(n, seed)
    before = case(n, seed)
    share1 = share_bits(c.x, c.share0)
    assert torch.equal(as_rows(share1), reference.share_bits(as_words(c.x), as_rows(c.share0), 64))
    sent = []
    for rank, share in enumerate((c.share0, share1)):
        sent.append(c.masked(share, rank))
        public = (as_words(c.t), torch.from_numpy(c.direction), as_rows(c.s), as_rows(c.z))
        want = reference.mask_symbols(as_rows(share), *public, torch.from_numpy(c.rotation), rank, 64)
        assert torch.equal(as_rows(sent[rank]), want)
        assert sent[rank].size == 0 or sent[rank].max() < MODULUS
    found = find_zero(sent[0], sent[1])
    assert np.array_equal(found, reference.find_zero(as_rows(sent[0]), as_rows(sent[1])).numpy())
    assert np.array_equal(found, c.truth())
    assert all(np.array_equal(getattr(c, name), getattr(before, name)) for name in Case._fields)


def test_many_elements_on_several_threads() -> None:
    c = case(60_001, 8)
    share1 = share_bits(c.x, c.share0)
    assert np.array_equal(find_zero(c.masked(c.share0, 0), c.masked(share1, 1)), c.truth())


def test_inputs_may_be_read_only_and_unaligned() -> None:
    c = case(130, 9)
    raw = b"\0" + c.t.tobytes()
    t = np.frombuffer(raw, np.uint64, offset=1)
    share1 = np.frombuffer(share_bits(c.x, c.share0).tobytes(), np.uint8)
    moved = c._replace(t=t)
    assert np.array_equal(moved.masked(share1, 1), c.masked(share1, 1))


def test_at_most_one_symbol_is_zero_and_its_place_rotates() -> None:
    c = case(2000, 10)
    share1 = share_bits(c.x, c.share0)
    for rotation in (0, 1, 63):
        turned = c._replace(rotation=np.full(2000, rotation, np.uint8))
        opened = (as_rows(turned.masked(c.share0, 0)).long() + as_rows(turned.masked(share1, 1))) % MODULUS
        assert np.array_equal((opened == 0).sum(dim=1).numpy(), c.truth())
        if rotation == 0:
            unrotated = opened
        assert torch.equal(opened, unrotated.roll(-rotation, dims=1))


def test_find_zero_sees_each_symbol() -> None:
    n = 129
    d0 = torch.ones(n, 64, dtype=torch.uint8)
    d1 = torch.ones(n, 64, dtype=torch.uint8)
    rows = torch.arange(0, n, 2)
    d1[rows, rows % 64] = 66
    d0[0], d1[0] = 5, 5
    d0[0, 7], d1[0, 7] = 0, 0
    found = find_zero(reference.pack_blocks(d0).numpy(), reference.pack_blocks(d1).numpy())
    assert np.array_equal(found, np.arange(n) % 2 == 0)


@given(LENGTHS, st.integers(4, 64), st.integers(0, 2**32))
@settings(max_examples=20, deadline=None)
def test_block_layout_is_undone(n: int, bits: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    symbols = torch.randint(0, MODULUS, (n, bits), dtype=torch.uint8, generator=generator)
    assert torch.equal(reference.unpack_blocks(reference.pack_blocks(symbols), bits), symbols)


def test_block_layout_is_as_documented() -> None:
    n = 128 + 3
    symbols = torch.arange(n * 64).reshape(n, 64)
    packed = reference.pack_blocks(symbols)
    assert packed[5 * 128 + 77] == symbols[77, 5]
    assert packed[8192 + 5 * 3 + 2] == symbols[130, 5]


def compare_small(bits: int, direction: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Run the reference on all pairs of a small ring; give x, t and what P2 finds."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.arange(1 << bits)
    x, t = values.repeat_interleave(1 << bits), values.repeat(1 << bits)
    n = len(x)
    share0 = torch.randint(0, MODULUS, (n, bits), generator=generator)
    s = torch.randint(1, MODULUS, (n, bits), generator=generator)
    z = torch.randint(0, MODULUS, (n, bits), generator=generator)
    rotation = torch.randint(0, bits, (n,), generator=generator)
    share1 = reference.share_bits(x, share0, bits)
    tests = torch.full((n,), direction)
    d0 = reference.mask_symbols(share0, t, tests, s, z, rotation, 0, bits)
    d1 = reference.mask_symbols(share1, t, tests, s, z, rotation, 1, bits)
    assert ((d0.long() + d1) % MODULUS == 0).sum(dim=1).max() <= 1
    return x, t, reference.find_zero(d0, d1).bool()


@pytest.mark.parametrize("bits", [4, 5, 6])
@pytest.mark.parametrize("seed", range(5))
def test_reference_is_right_on_whole_small_rings(bits: int, seed: int) -> None:
    x, t, found = compare_small(bits, 0, seed)
    assert torch.equal(found, x > t)
    x, t, found = compare_small(bits, 1, seed)
    assert torch.equal(found, x < t)
    assert compare_small(bits, 2, seed)[2].all()


def test_wrong_arguments_raise() -> None:
    c = case(3, 11)
    with pytest.raises(ValueError, match="ranks 0 and 1"):
        c.masked(c.share0, 2)
    with pytest.raises(ShapeError):
        c._replace(direction=c.direction[:2]).masked(c.share0, 0)
    with pytest.raises(ShapeError):
        c.masked(c.share0[:-1], 0)
    with pytest.raises(ShapeError):
        share_bits(c.x, c.share0[:-64])
    with pytest.raises(ShapeError):
        find_zero(c.share0[:-1], c.share0[:-1])
    with pytest.raises(TypeError):
        share_bits(c.x.view(np.int64), c.share0)
    with pytest.raises(TypeError):
        find_zero(c.share0.view(np.int8), c.share0)
