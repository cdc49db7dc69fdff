"""Number systems: Z_2^l, word fields, wide fields, the odd ring."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sharetorch.mpc import odd_ring
from sharetorch.mpc.errors import EncodingRangeError, ModulusError
from sharetorch.mpc.kernels import set_thread_count, thread_count
from sharetorch.mpc.ring import PowerRing, Ring, WideElements, WideField, WordField, next_prime, ring_of
from tests.strategies import FIELDS, words

MODULI = [2, 3, 67, 2**8, 2**31, *FIELDS, 2**64 - 59, 2**200 + 235]
moduli = st.sampled_from(MODULI)
U64 = np.uint64


def element(ring: Ring, value: int) -> Tensor | WideElements:
    """One canonical element."""
    residue = value % ring.modulus
    if isinstance(ring, WideField):
        return WideElements([residue])
    return torch.tensor([residue]) if isinstance(ring, WordField) else ring.reduce(torch.tensor([value]))


def residue(ring: Ring, x: Tensor | WideElements) -> int:
    """The element as a Python integer in [0, q)."""
    return int((x.array if isinstance(x, WideElements) else x)[0]) % ring.modulus


@given(moduli, words, words)
def test_fields_compute_as_python_integers_do(modulus: int, a: int, b: int) -> None:
    ring = ring_of(modulus)
    x, y = element(ring, a), element(ring, b)
    assert residue(ring, ring.add(x, y)) == (a + b) % modulus
    assert residue(ring, ring.subtract(x, y)) == (a - b) % modulus
    assert residue(ring, ring.negate(x)) == -a % modulus
    assert residue(ring, ring.mul(x, y)) == a % modulus * (b % modulus) % modulus


@given(st.integers(2, 64), words, words)
def test_power_rings_compute_as_python_integers_do(bits: int, a: int, b: int) -> None:
    ring = PowerRing(bits)
    x, y = element(ring, a), element(ring, b)
    assert residue(ring, ring.add(x, y)) == (a + b) % (1 << bits)
    assert residue(ring, ring.subtract(x, y)) == (a - b) % (1 << bits)
    assert residue(ring, ring.mul(x, y)) == a * b % (1 << bits)
    assert -(1 << (bits - 1)) <= int(ring.add(x, y)[0]) < 1 << (bits - 1)


@given(moduli, st.integers(-(2**20), 2**20))
def test_signed_integers_come_back(modulus: int, value: int) -> None:
    ring = ring_of(modulus)
    found = int(ring.to_signed(ring.from_integers(torch.tensor([value])))[0])
    assert found % modulus == value % modulus
    assert -(modulus // 2) <= found < (modulus + 1) // 2 or found == -modulus / 2


@given(moduli, st.lists(words, min_size=1, max_size=6))
def test_linear_functions_are_applied_mod_q(modulus: int, values: list[int]) -> None:
    ring = ring_of(modulus)
    canonical = [value % modulus for value in values]
    x = WideElements(canonical) if isinstance(ring, WideField) else torch.tensor(canonical)
    total = ring.linear(lambda t: t.sum().reshape(1), x)
    assert residue(ring, total) == sum(values) % modulus


@pytest.mark.parametrize("modulus", [None, *FIELDS])
def test_matrix_products_are_taken_mod_q(modulus: int | None) -> None:
    ring = ring_of(modulus)
    q = ring.modulus
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randint(-(2**62), 2**62, shape, generator=generator) for shape in ((3, 4), (4, 2)))
    a, b = ring.from_integers(x), ring.from_integers(y)
    expected = x.numpy().astype(object) @ y.numpy().astype(object) % q
    product = ring.matmul(a, b)
    found = (product.array if isinstance(product, WideElements) else product.numpy().astype(object)) % q
    assert (found == expected).all()


def test_a_wide_value_that_fits_no_word_is_refused() -> None:
    ring = WideField(2**127 - 1)
    with pytest.raises(EncodingRangeError, match="64 bits"):
        ring.to_signed(WideElements([2**100]))


@pytest.mark.parametrize("bits", [0, 1, 65])
def test_power_rings_have_2_to_64_bits(bits: int) -> None:
    with pytest.raises(ModulusError, match=str(bits)):
        PowerRing(bits)


@pytest.mark.parametrize(
    ("modulus", "kind"),
    [(None, PowerRing), (2**64, PowerRing), (2**62, WordField), (2**62 + 1, WideField), (2, WordField)],
)
def test_a_modulus_chooses_its_ring(modulus: int | None, kind: type) -> None:
    assert type(ring_of(modulus)) is kind


def test_next_prime() -> None:
    assert [next_prime(n) for n in (1, 2, 66, 2**31 - 2)] == [2, 3, 67, 2**31 - 1]


@pytest.mark.parametrize("bits", [3, 4, 6])
def test_the_odd_ring_is_right_on_all_pairs(bits: int) -> None:
    m = (1 << bits) - 1
    x, y = (axis.reshape(-1).astype(U64) for axis in np.meshgrid(np.arange(m), np.arange(m)))
    assert np.array_equal(odd_ring.add(x, y, bits), (x + y) % U64(m))
    assert np.array_equal(odd_ring.subtract(x, y, bits), (x + U64(m) - y) % U64(m))
    assert np.array_equal(odd_ring.negate(x, bits), (U64(m) - x) % U64(m))


@given(st.integers(0, 2**64 - 2), st.integers(0, 2**64 - 2))
def test_the_odd_ring_of_words_computes_as_python_integers_do(a: int, b: int) -> None:
    m = 2**64 - 1
    x, y = np.array([a], U64), np.array([b], U64)
    assert int(odd_ring.add(x, y)[0]) == (a + b) % m
    assert int(odd_ring.subtract(x, y)[0]) == (a - b) % m
    assert int(odd_ring.negate(x)[0]) == -a % m


@given(words)
def test_words_enter_the_odd_ring_unsigned(word: int) -> None:
    assert int(odd_ring.from_word(np.array([word]))[0]) == word % 2**64 % (2**64 - 1)


@pytest.mark.parametrize("size", [(1 << 16) - 1, 1 << 16, 3 * (1 << 16) + 5])
@pytest.mark.parametrize("threads", [1, 3])
def test_large_sums_by_several_threads(size: int, threads: int) -> None:
    before = thread_count()
    set_thread_count(threads)
    try:
        ring, generator = PowerRing(), torch.Generator().manual_seed(size)
        x, y = (torch.randint(-(1 << 63), (1 << 63) - 1, (size,), generator=generator) for _ in range(2))
        found = {np.add: ring.add(x, y), np.subtract: ring.subtract(x, y), np.multiply: ring.mul(x, y)}
        for function, made in found.items():
            assert np.array_equal(made.numpy(), function(x.numpy(), y.numpy()))
        table = x[: size // 5 * 5].view(5, -1)
        assert torch.equal(ring.add(table, y[: table.shape[1]]), table + y[: table.shape[1]])
        assert torch.equal(ring.add(table.t(), table.t()), 2 * table.t())
    finally:
        set_thread_count(before)


def test_linear_functions_leave_the_number_of_torch_threads_as_it_is() -> None:
    ring, before = PowerRing(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        seen = []
        ring.linear(lambda x: seen.append(torch.get_num_threads()) or x, torch.ones(4, dtype=torch.int64))
        assert seen == [1] and torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            ring.linear(lambda x: 1 // 0, torch.ones(4, dtype=torch.int64))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
