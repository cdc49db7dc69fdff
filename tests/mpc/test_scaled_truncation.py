"""A quotient and a multiple of it from one opening: exact ranges, no bias, declared cost, bad numbers refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharetorch.mpc import kernels, testing
from sharetorch.mpc.errors import ModulusError, ShapeError
from sharetorch.mpc.kernels import reference
from sharetorch.mpc.protocols.scaled_truncation import Scaling, truncate_and_scale, truncate_and_scale_cost
from sharetorch.mpc.ring import PowerRing, WordField

SEEDS = st.integers(0, 1 << 32)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([0, 1, 7, 1000]), st.integers(4, 64), st.data(), st.booleans(), SEEDS)
def test_kernels_equal_the_reference(n: int, bits: int, data: st.DataObject, leader: bool, seed: int) -> None:
    fraction_bits = data.draw(st.integers(0, bits - 2))
    digits = data.draw(st.integers(0, bits - 2 - fraction_bits))
    factor = data.draw(st.integers(-(1 << (62 - digits)) + 1, (1 << (62 - digits)) - 1))
    rng = np.random.default_rng(seed)
    own, others, r = (rng.integers(-(1 << 63), 1 << 63, n, np.int64) << (64 - bits) >> (64 - bits) for _ in range(3))
    dealt = rng.integers(-(1 << 63), 1 << 63, 3 * n, np.int64)
    mask = kernels.scaled_truncation_mask(r, fraction_bits, factor, digits, bits)
    want = reference.scaled_truncation_mask(torch.from_numpy(r), fraction_bits, factor, digits, bits)
    assert np.array_equal(mask.reshape(3, n), want.numpy())
    found = kernels.scaled_truncation(own, others, dealt, fraction_bits, factor, digits, bits, leader=leader)
    tensors = torch.from_numpy(own), torch.from_numpy(others), torch.from_numpy(dealt).reshape(3, n)
    want = reference.scaled_truncation(*tensors, fraction_bits, factor, digits, bits, leader=leader)
    assert np.array_equal(found.reshape(2, n), want.numpy())


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([0, 1, 100_000]), SEEDS)
def test_add_weighted_equals_the_reference(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y, start = (rng.integers(-(1 << 63), 1 << 63, n, np.int64) for _ in range(3))
    a, b = (int(part) for part in rng.integers(-(1 << 62), 1 << 62, 2))
    want = reference.add_weighted(torch.from_numpy(x), torch.from_numpy(y), a, b, torch.from_numpy(start)).numpy()
    kernels.add_weighted(x, y, a, b, start)
    assert np.array_equal(start, want)


@pytest.mark.parametrize("wrong", [(-1, 1, 0), (0, 1, -1), (40, 1, 23), (0, 1 << 40, 23), (0, -(1 << 62), 1)])
def test_kernels_refuse_numbers_out_of_range(wrong: tuple[int, int, int]) -> None:
    words = np.zeros(3, np.int64)
    with pytest.raises(ValueError, match="bits"):
        kernels.scaled_truncation_mask(words, *wrong)
    with pytest.raises(ValueError, match="bits"):
        kernels.scaled_truncation(words, words, np.zeros(9, np.int64), *wrong, leader=True)
    with pytest.raises(ShapeError, match="dealt"):
        kernels.scaled_truncation(words, words, words, 1, 1, 1, leader=True)


@pytest.mark.parametrize("by", [Scaling(1, 3, 1), Scaling(2, -3, 1), Scaling(1, 1, 2), Scaling(0, -5, 2)])
def test_whole_small_rings(by: Scaling) -> None:
    """Every value in every sharing: the quotient rounded down or up, its multiple likewise, and nothing else."""
    bits = 7
    session = testing.session(ring=PowerRing(bits), seed=3)
    limit = 1 << (bits - 2)
    splits = testing.all_splits(range(-limit, limit), session.ring)
    values, first = splits.values.repeat(16), splits.first.repeat(16)
    y, z = testing.run_value(session, truncate_and_scale, testing.put_against(session, values, first), by=by)
    assert set((y - (values >> by.fraction_bits)).tolist()) <= {0, 1}
    divided = values % (1 << by.fraction_bits) == 0
    assert torch.equal(y[divided] << by.fraction_bits, values[divided])
    exact = y * by.factor
    assert set((z - (exact >> by.digits)).tolist()) == {0, 1}
    whole = exact % (1 << by.digits) == 0
    assert torch.equal(z[whole] << by.digits, exact[whole])


@pytest.mark.parametrize("parties", [2, 3, 5])
@pytest.mark.parametrize("by", [Scaling(15, -13107, 24), Scaling(16, 1 << 20, 21), Scaling(1, -7, 0)])
def test_large_numbers_have_no_wrap_error_and_no_bias(parties: int, by: Scaling) -> None:
    session = testing.session(parties, "tables")
    generator = torch.Generator().manual_seed(parties)
    x = torch.randint(-(1 << 45), 1 << 45, (60_000,), generator=generator)
    x[:4] = torch.tensor([0, 1, -1, 1 << 45])
    y, z = testing.run_value(session, truncate_and_scale, testing.put_value(session, x), by=by)
    assert ((y - (x >> by.fraction_bits)).abs() <= 1).all()
    exact = y.double() * by.factor / 2**by.digits
    errors = z.double() - exact
    assert errors.abs().max() < 1 + 2**-10
    spread = errors.std() if errors.std() > 0 else 1.0
    assert abs(errors.mean()) < 6 * spread / len(x) ** 0.5 + 2**-12


@pytest.mark.parametrize("parties", [2, 3, 4])
@pytest.mark.parametrize("count", [0, 1, 100])
def test_cost(parties: int, count: int) -> None:
    session = testing.session(parties, "tables")
    x = testing.put_value(session, torch.arange(count))
    testing.require_cost(session, truncate_and_scale_cost(count, parties), truncate_and_scale, x, by=Scaling(4, 3, 4))


def test_what_does_not_fit_is_refused() -> None:
    session = testing.session(2, "tables")
    x = testing.put_value(session, torch.arange(3))
    for by in (Scaling(40, 1, 30), Scaling(1, 1 << 50, 20), Scaling(-1, 1, 1)):
        with pytest.raises(ModulusError, match="one after the other"):
            testing.run(session, truncate_and_scale, x, by=by)
    field = testing.session(2, "tables", WordField(2147483647))
    with pytest.raises(ModulusError, match="Z_2"):
        testing.run(field, truncate_and_scale, testing.put_value(field, torch.arange(3)), by=Scaling(1, 1, 1))
