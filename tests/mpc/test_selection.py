"""What follows from a sign: relu, equality, maxima, routing, and the published forms of SecureNN."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sharetorch.mpc import testing
from sharetorch.mpc.errors import MembersError, ModulusError, ShapeError
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols import securenn_paper, selection
from sharetorch.mpc.ring import PowerRing, ring_of
from sharetorch.mpc.share import ArithmeticShare
from tests.strategies import integer_tensors

SECURENN = ["securenn", "securenn-paper"]
SUITES = [*SECURENN, "tables", "tables-wan"]
LIMIT = (1 << 61) - 1
BOUNDARY = torch.tensor([0, 1, -1, 2, -2, LIMIT, -LIMIT])
numbers = st.one_of(st.integers(-3, 3), st.integers(-LIMIT, LIMIT))


def ties(n: int, columns: int = 60) -> Tensor:
    """Columns of small integers: most hold several maxima."""
    return torch.randint(-2, 3, (n, columns), generator=torch.Generator().manual_seed(n))


def first_maximum(x: Tensor) -> Tensor:
    """Index of the first of the largest elements along dimension 0."""
    places = torch.arange(x.shape[0]).reshape(-1, *[1] * (x.dim() - 1))
    return torch.where(x == x.amax(0), places, x.shape[0]).amin(0)


@pytest.mark.parametrize("suite", SUITES)
def test_relu_and_its_bit(suite: str) -> None:
    session = testing.session(suite=suite)
    value, bit = testing.run_value(session, selection.relu, testing.put_value(session, BOUNDARY))
    assert torch.equal(value, BOUNDARY.clamp(min=0))
    assert torch.equal(bit, (BOUNDARY > 0).to(torch.int64))


@pytest.mark.parametrize("suite", SUITES)
def test_equal_zero(suite: str) -> None:
    session = testing.session(suite=suite)
    values = BOUNDARY.repeat(20)
    result = testing.run_value(session, selection.equal_zero, testing.put_value(session, values))
    assert torch.equal(result, (values == 0).to(torch.int64))


@pytest.mark.parametrize("suite", SUITES)
def test_thresholds_are_compared_together(suite: str) -> None:
    session = testing.session(suite=suite)
    thresholds = [0, 1, -1, 5, -5, 1 << 40, -(1 << 40)]
    values = torch.tensor([*thresholds, *(t - 1 for t in thresholds), LIMIT, -LIMIT])

    async def at_least(party: Party, x: ArithmeticShare) -> ArithmeticShare:
        found: ArithmeticShare = await party.suite.at_least(party, x, thresholds)
        return found

    result = testing.run_value(session, at_least, testing.put_value(session, values))
    assert torch.equal(result, (values >= torch.tensor(thresholds)[:, None]).to(torch.int64))


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("threshold", [0, 1, -7])
@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_bit_and_its_products(suite: str, threshold: int, others: int) -> None:
    session = testing.session(suite=suite)
    operands = [BOUNDARY, *(torch.arange(BOUNDARY.numel()) * (1 << 55) + i for i in range(others))]
    numbers = [testing.put_value(session, x) for x in operands]

    async def choose(party: Party, *held: ArithmeticShare) -> Any:
        chosen = await party.suite.choose(party, held[0], held, threshold)
        return (chosen.bit, *chosen.products)

    bit, *products = testing.run_value(session, choose, *numbers)
    assert torch.equal(bit, (BOUNDARY >= threshold).to(torch.int64))
    assert all(torch.equal(product, bit * x) for product, x in zip(products, operands, strict=True))


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("divisor", [1, 2, 1 << 16])
def test_relu_of_a_truncated_number(suite: str, divisor: int) -> None:
    session = testing.session(suite=suite)
    x = torch.cat([BOUNDARY, torch.arange(-300, 300) * 1000])

    async def truncated_relu(party: Party, share: ArithmeticShare) -> Any:
        return await party.suite.truncated_relu(party, share, divisor)

    value, bit, truncated = testing.run_value(session, truncated_relu, testing.put_value(session, x))
    error = truncated - torch.div(x, divisor, rounding_mode="floor")
    assert set(error.tolist()) <= ({0} if divisor == 1 else {0, 1})
    assert torch.equal(value, truncated * bit)
    decided = (x <= 0) | (x >= divisor)
    assert torch.equal(bit[decided], (x > 0).to(torch.int64)[decided])


def test_equal_zero_over_a_whole_small_ring() -> None:
    session = testing.session(ring=PowerRing(6), seed=1)
    values, first = testing.all_splits(range(-15, 16), session.ring)
    result = testing.run_value(session, selection.equal_zero, testing.put_against(session, values, first))
    assert torch.equal(result, (values == 0).to(torch.int64))


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("n", range(1, 10))
def test_the_maximum_is_found_at_its_first_place(n: int, suite: str) -> None:
    session = testing.session(suite=suite)
    x = ties(n)
    (value, index, _) = session.command("maximum", testing.put_value(session, x), outputs=3)
    assert torch.equal(testing.value(session, value), x.amax(0))
    assert torch.equal(testing.value(session, index), first_maximum(x))


@given(integer_tensors((5, 3), numbers))
def test_the_maximum_of_large_numbers(x: Tensor) -> None:
    session = testing.session()
    (value, index, _) = session.command("maximum", testing.put_value(session, x), outputs=3)
    assert torch.equal(testing.value(session, value), x.amax(0))
    assert torch.equal(testing.value(session, index), first_maximum(x))


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("n", range(1, 10))
def test_a_gradient_is_routed_to_the_maximum(n: int, suite: str) -> None:
    session = testing.session(suite=suite)
    x = ties(n, columns=12)
    gradient = torch.arange(12) - 5
    _, _, trail = session.command("maximum", testing.put_value(session, x), outputs=3)
    (routed,) = session.command("route", testing.put_value(session, gradient), trail, n=n)
    places = torch.arange(n)[:, None] == first_maximum(x)
    assert torch.equal(testing.value(session, routed), places * gradient)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("shape", [(4,), (3, 2, 2), (2, 0)])
def test_maxima_keep_the_other_dimensions(suite: str, shape: tuple[int, ...]) -> None:
    session = testing.session(suite=suite)
    x = torch.randint(-100, 100, shape, generator=torch.Generator().manual_seed(1))
    value, index, _ = session.command("maximum", testing.put_value(session, x), outputs=3)
    assert torch.equal(testing.value(session, value), x.amax(0))
    assert testing.value(session, index).shape == shape[1:]


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 0, 2), (1,), (129,)])
def test_comparisons_take_any_shape(suite: str, shape: tuple[int, ...]) -> None:
    session = testing.session(suite=suite)
    x = torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(1))
    (bit,) = session.command("non_negative", testing.put_value(session, x))
    assert torch.equal(testing.value(session, bit), (x >= 0).to(torch.int64))


@pytest.mark.parametrize("suite", SUITES)
def test_a_view_that_is_not_contiguous_is_compared(suite: str) -> None:
    session = testing.session(suite=suite)
    x = torch.arange(24).reshape(4, 6) - 12
    number = testing.put_value(session, x)

    async def compare(party: Party, share: ArithmeticShare) -> Any:
        return await party.suite.non_negative(party, share.view(share.data.t()[1:, ::2]))

    assert torch.equal(testing.run_value(session, compare, number), (x.t()[1:, ::2] >= 0).to(torch.int64))


@pytest.mark.parametrize("suite", SECURENN)
def test_securenn_needs_two_parties(suite: str) -> None:
    session = testing.session(3, suite)
    with pytest.raises(MembersError, match="3 parties"):
        session.command("non_negative", testing.put_value(session, [1]))


@pytest.mark.parametrize("suite", SUITES)
def test_comparing_needs_a_power_of_two(suite: str) -> None:
    session = testing.session(2, suite, ring_of(2**31 - 1))
    with pytest.raises(ModulusError, match="Z_2"):
        session.command("non_negative", testing.put_value(session, [1]))


def test_select_shares_takes_the_second_where_the_bit_is_set() -> None:
    session = testing.session()
    bit, x, y = (testing.put_value(session, v) for v in ([0, 1, 0, 1], [5, 6, -7, -8], [1, 2, 3, 4]))
    assert testing.run_value(session, securenn_paper.select_shares, bit, x, y).tolist() == [5, 2, -7, 4]


def test_relu_as_published() -> None:
    session = testing.session()
    result = testing.run_value(session, securenn_paper.relu, testing.put_value(session, BOUNDARY))
    assert torch.equal(result, BOUNDARY.clamp(min=0))


@pytest.mark.parametrize("quotient_bits", [1, 5, 13])
def test_division_as_published_gives_the_floor(quotient_bits: int) -> None:
    session = testing.session()
    y = torch.tensor([1, 2, 3, 7, 100, 65537, (1 << 47) - 1])
    x = torch.tensor([0, 1, 2, 5, 99, 12345, (1 << 47) - 2])
    result = testing.run_value(
        session,
        securenn_paper.divide,
        testing.put_value(session, x),
        testing.put_value(session, y),
        quotient_bits=quotient_bits,
    )
    assert torch.equal(result, torch.div(x << quotient_bits, y, rounding_mode="floor"))


@pytest.mark.parametrize("n", range(1, 10))
def test_max_pooling_as_published(n: int) -> None:
    session = testing.session()
    x = ties(n)
    value, index = testing.run_value(session, securenn_paper.max_pool, testing.put_value(session, x))
    assert torch.equal(value, x.amax(0))
    assert torch.equal(index, first_maximum(x))


@pytest.mark.parametrize("n", [1, 2, 4, 8, 16])
def test_the_derivative_of_max_pooling_is_one_hot(n: int) -> None:
    session = testing.session()
    index = torch.arange(n).repeat(20).reshape(20, n)
    result = testing.run_value(session, securenn_paper.derivative_of_max_pool, testing.put_value(session, index), n=n)
    assert torch.equal(result, (torch.arange(n)[:, None, None] == index).to(torch.int64))


@pytest.mark.parametrize("n", [0, 3, 6])
def test_the_published_derivative_needs_a_power_of_two(n: int) -> None:
    session = testing.session()
    with pytest.raises(ShapeError, match=f"not {n}"):
        testing.run(session, securenn_paper.derivative_of_max_pool, testing.put_value(session, [0]), n=n)
