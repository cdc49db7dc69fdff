"""Student's t against scipy, and releasing numbers of any magnitude."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from scipy import special, stats

from sharetorch.mpc.fixedpoint import fixed
from sharetorch.nn.linalg.floating import release, scaled_together
from sharetorch.nn.linalg.statistics import incomplete_beta, two_sided_p
from tests.nn.linalg.reference import ALICE, BOB, PROVIDER


@pytest.mark.parametrize("degrees", [1, 2, 3, 10, 431, 100_000])
def test_p_values_are_those_of_scipy(degrees: int) -> None:
    t = np.concatenate([[0], np.logspace(-3, 3, 60), -np.logspace(-3, 2, 20)])
    expected = 2 * stats.t.sf(np.abs(t), degrees)
    found = two_sided_p(torch.tensor(t), degrees).numpy()
    assert np.allclose(found, expected, rtol=1e-8, atol=1e-300)


def test_one_degree_of_freedom_is_an_arc_tangent() -> None:
    t = torch.logspace(-10, 8, 50, dtype=torch.float64)
    assert torch.allclose(two_sided_p(t, 1), 2 / math.pi * torch.atan(1 / t), rtol=1e-11, atol=0)


def test_limits_of_p() -> None:
    found = two_sided_p(torch.tensor([math.inf, -math.inf, math.nan, 0.0]), 5)
    assert found[:2].tolist() == [0, 0]
    assert math.isnan(found[2])
    assert found[3] == 1


@settings(deadline=None)
@given(some.floats(0.1, 200), some.floats(0.1, 200), some.floats(0, 1))
def test_incomplete_beta(a: float, b: float, x: float) -> None:
    assert incomplete_beta(a, b, x, 1 - x) == pytest.approx(special.betainc(a, b, x), rel=1e-8, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(
    some.lists(
        some.tuples(some.floats(-16000, 16000, allow_subnormal=False), some.integers(-150, 150)), min_size=1, max_size=8
    )
)
def test_release_keeps_twenty_bits_of_any_magnitude(numbers: list[tuple[float, int]]) -> None:
    mantissas = torch.tensor([m for m, _ in numbers], dtype=torch.float64)
    exponents = torch.tensor([e for _, e in numbers])
    encoded = (mantissas * 2**24).round() / 2**24
    secret = mantissas.share(ALICE, BOB, crypto_provider=PROVIDER, precision=24)
    found = release(secret, exponents.share(ALICE, BOB, crypto_provider=PROVIDER))
    expected = torch.ldexp(encoded, exponents)
    assert bool(((found - expected).abs() <= expected.abs() * 2.0**-19).all())


def test_a_released_zero_does_not_show_its_exponent() -> None:
    zero, exponent = torch.zeros(1, dtype=torch.float64), torch.tensor([77])
    x = zero.share(ALICE, BOB, crypto_provider=PROVIDER, precision=24)
    e = exponent.share(ALICE, BOB, crypto_provider=PROVIDER)
    with x.session.record() as transcript:
        assert release(x, e).tolist() == [0]
    opened = [m.fields[0] for m in transcript if m.label == "output share"]
    assert [int(a + b) for a, b in zip(opened[::2], opened[1::2], strict=True)] == [0, 0]


def test_scaled_together_takes_off_one_power() -> None:
    x = torch.tensor([5.0, -2.0, 0.25], dtype=torch.float64)
    shared = x.share(ALICE, BOB, crypto_provider=PROVIDER, precision=24)
    found = scaled_together(shared, 12)
    assert found.values.encoding == fixed(24)
    assert int(found.exponents.get()) == 3
    assert float((found.values.get() * 8 - x).abs().max()) <= 2.0**-20
