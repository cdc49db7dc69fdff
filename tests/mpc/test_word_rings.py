"""Comparison and truncation over Z_2^64: boundary values under boundary sharings, and many random values."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sharetorch.mpc import testing
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols import securenn, securenn_paper, truncation
from sharetorch.mpc.share import ArithmeticShare

COMPARISONS = [securenn.non_negative, securenn_paper.derivative_of_relu]

TOP = 1 << 62
POSITIVE = [1, 2, 3, (1 << 61) - 1, 1 << 61, (1 << 61) + 1, TOP - 2, TOP - 1]
BOUNDARY = torch.tensor([0, *POSITIVE, *(-a for a in POSITIVE)])
SHARES = torch.tensor([0, 1, -1, -2, -(1 << 63), (1 << 63) - 1])
MILLION = 1_000_000


def boundary_grid(values: Tensor, repeats: int) -> tuple[Tensor, Tensor]:
    """Every value with every share the first party may hold, or whose complement the second may."""
    first = torch.cat([SHARES.repeat(len(values)), (values[:, None] - SHARES).reshape(-1)])
    column = values.repeat_interleave(len(SHARES)).repeat(2)
    return column.repeat(repeats), first.repeat(repeats)


def random_magnitudes(count: int, seed: int) -> Tensor:
    """Integers whose magnitudes have 0 to 62 bits, equally often."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(-(TOP - 1), TOP, (count,), generator=generator)
    return words >> torch.randint(0, 63, (count,), generator=generator)


@pytest.mark.parametrize("protocol", COMPARISONS)
def test_comparison_is_exact_at_the_boundaries(protocol: Any) -> None:
    session = testing.session(seed=3)
    values, first = boundary_grid(BOUNDARY, repeats=16)
    result = testing.run_value(session, protocol, testing.put_against(session, values, first))
    assert torch.equal(result, (values >= 0).to(torch.int64))


@pytest.mark.slow
@pytest.mark.parametrize("protocol", COMPARISONS)
def test_a_million_comparisons_are_all_right(protocol: Any) -> None:
    session = testing.session(seed=4)
    values = torch.cat([BOUNDARY.repeat(MILLION // 2 // len(BOUNDARY)), random_magnitudes(MILLION // 2, seed=5)])
    values = torch.cat([values, random_magnitudes(MILLION - len(values), seed=6)])
    for part in values.split(MILLION // 5):
        result = testing.run_value(session, protocol, testing.put_value(session, part))
        assert torch.equal(result, (part >= 0).to(torch.int64))


@pytest.mark.parametrize("divisor", [2, 3, 10, 1000, 1 << 16, 10**6, (1 << 31) - 1, 1 << 40, 10**12, 1 << 61, TOP])
def test_truncation_is_exact_at_the_boundaries(divisor: int) -> None:
    session = testing.session(seed=divisor)
    offset = divisor * (TOP // divisor)
    ends = torch.tensor([-offset, -offset + 1, TOP - 1, (1 << 63) - 1 - offset])
    values, first = boundary_grid(torch.cat([BOUNDARY[BOUNDARY >= -offset], ends]), repeats=8)
    result = testing.run_value(
        session, truncation.truncate, testing.put_against(session, values, first), divisor=divisor
    )
    errors = result - torch.div(values, divisor, rounding_mode="floor")
    assert set(errors.tolist()) <= {0, 1}
    assert not errors[values % divisor == 0].any()


@pytest.mark.parametrize("divisor", [2, 3, 10, 1000, 1 << 16, 10**6, 1 << 24])
@pytest.mark.parametrize("n", [2, 3])
def test_exact_truncation_is_exact_at_the_boundaries(divisor: int, n: int) -> None:
    session = testing.session(n, seed=divisor)
    values = torch.cat([BOUNDARY[BOUNDARY >= -divisor * (TOP // divisor)], random_magnitudes(200, seed=7)])
    result = testing.run_value(session, truncation.truncate_exact, testing.put_value(session, values), divisor=divisor)
    assert torch.equal(result, torch.div(values, divisor, rounding_mode="floor"))


@pytest.mark.slow
def test_ten_million_truncations_never_wrap_and_are_unbiased() -> None:
    """Products at 16 bits of values up to 2^14: |x| < 2^46. A rounding has variance 1/6 on average."""
    session = testing.session(seed=8)
    generator = torch.Generator().manual_seed(9)
    total, count = 0.0, 0
    for _ in range(20):
        values = torch.randint(-(1 << 46), 1 << 46, (MILLION // 2,), generator=generator)
        result = testing.run_value(session, truncation.truncate, testing.put_value(session, values), divisor=1 << 16)
        errors = result - (values >> 16)
        assert 0 <= int(errors.min()) and int(errors.max()) <= 1
        total += float((errors - (values & 0xFFFF) / 65536).sum())
        count += len(values)
    assert count == 10 * MILLION
    assert abs(total) < 4 * (count / 6) ** 0.5


def test_local_truncation_is_within_a_unit_for_small_numbers() -> None:
    session = testing.session(seed=10)
    values = torch.randint(-(1 << 20), 1 << 20, (10_000,), generator=torch.Generator().manual_seed(11))
    result = testing.run_value(session, truncation.truncate_local, testing.put_value(session, values), divisor=1 << 16)
    assert int((result - (values >> 16)).abs().max()) <= 1


METHODS = [truncation.truncate, truncation.truncate_exact, truncation.truncate_local]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("divisor", [1 << 4, 10])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1,), (3, 5)])
def test_truncation_takes_any_shape(method: Any, divisor: int, shape: tuple[int, ...]) -> None:
    session = testing.session()
    x = torch.randint(-1000, 1000, shape, generator=torch.Generator().manual_seed(1))
    result = testing.run_value(session, method, testing.put_value(session, x), divisor=divisor)
    assert result.shape == shape
    assert not bool(((result - torch.div(x, divisor, rounding_mode="floor")).abs() > 1).any())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("divisor", [1 << 4, 10])
def test_a_view_that_is_not_contiguous_is_truncated(method: Any, divisor: int) -> None:
    session = testing.session()
    x = torch.arange(24).reshape(4, 6) * 100 - 1200

    async def through_view(party: Party, share: ArithmeticShare) -> Any:
        return await method(party, share.view(share.data.t()[1:, ::2]), divisor)

    expected = torch.div(x.t()[1:, ::2], divisor, rounding_mode="floor")
    result = testing.run_value(session, through_view, testing.put_value(session, x))
    assert result.shape == expected.shape
    assert int((result - expected).abs().max()) <= 1


def test_dividing_by_one_changes_nothing() -> None:
    session = testing.session()
    number = testing.put_value(session, BOUNDARY)
    assert torch.equal(testing.run_value(session, truncation.truncate, number, divisor=1), BOUNDARY)
