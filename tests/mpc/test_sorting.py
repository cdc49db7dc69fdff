"""Sorting networks, sorted values with their indices and trails, gradients sent back, numbers of buckets."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sharetorch.mpc import testing
from sharetorch.mpc.errors import MembersError, ModulusError, ShapeError
from sharetorch.mpc.network.sizes import elements_of
from sharetorch.mpc.protocols import sorting
from sharetorch.mpc.ring import PowerRing, ring_of
from sharetorch.mpc.session import Session
from tests.strategies import integer_tensors

SESSIONS = [
    ("securenn", 2),
    ("securenn-paper", 2),
    ("fss", 2),
    *((suite, n) for suite in ("tables", "tables-wan") for n in (2, 3)),
    ("tables", 5),
]
suites = pytest.mark.parametrize(("suite", "parties"), SESSIONS)
SIZES = [0, 1, 2, 3, 5, 8, 13]
LIMIT = (1 << 61) - 1
numbers = st.one_of(st.integers(-3, 3), st.integers(-LIMIT, LIMIT))


def ties(n: int, columns: int = 20) -> Tensor:
    """Columns of small integers, most of which stand there more than once."""
    return torch.randint(-3, 4, (n, columns), generator=torch.Generator().manual_seed(n))


def sort(session: Session, x: Tensor, start: int, stop: int, **options: bool) -> tuple[Tensor, Tensor, int]:
    """Values, indices, and the number of the trail."""
    number = testing.put_value(session, x)
    value, index, trail = session.command("sort", number, outputs=3, start=start, stop=stop, **options)
    return testing.value(session, value), testing.value(session, index), trail


# --------------------------------------------------------------------------------------------------------- the networks


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("n", range(9))
def test_networks_sort_all_zeros_and_ones(n: int, ordered: bool) -> None:
    """A network that sorts every vector of zeros and ones sorts everything."""
    vectors = np.array(list(product([0, 1], repeat=n)), np.int64).reshape(1 << n, n).T
    for start, stop in ((i, j) for i in range(n + 1) for j in range(i, n + 1)):
        plan = sorting.network(n, start, stop, ordered)
        rows = torch.from_numpy(vectors.copy())
        for lows, highs in plan.layers:
            assert len({*lows.tolist(), *highs.tolist()}) == 2 * len(lows)
            low, high = rows[lows], rows[highs]
            rows[lows], rows[highs] = torch.minimum(low, high), torch.maximum(low, high)
        found, expected = rows[plan.places], torch.from_numpy(np.sort(vectors, 0)[start:stop])
        assert torch.equal(found if ordered else found.sort(0).values, expected)


def test_sizes_of_networks() -> None:
    """Batcher's numbers for powers of two; trees for extremes; the first of many without sorting all."""

    def size(*ranks: int, ordered: bool = True) -> tuple[int, int]:
        plan = sorting.network(*ranks, ordered)
        return plan.exchanges, len(plan.layers)

    assert [size(n, 0, n) for n in (2, 4, 8, 16, 128)] == [(1, 1), (5, 3), (19, 6), (63, 10), (1471, 28)]
    assert size(1000, 0, 1) == size(1000, 999, 1000) == (999, 10)
    assert size(1000, 0, 10) == size(1000, 990, 1000) == (6574, 40)
    assert size(5, 0, 5, ordered=False) == size(5, 2, 2) == size(1, 0, 1) == size(0, 0, 0) == (0, 0)
    assert all(sorting.most_exchanges(n) >= size(n, 0, n)[0] for n in range(70))


@pytest.mark.parametrize("ranks", [(-1, 1), (0, 4), (2, 1), (4, 4)])
def test_ranks_that_do_not_exist_are_refused(ranks: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match=f"ranks {ranks[0]} to {ranks[1]} .* of 3"):
        sorting.network(3, *ranks)


# --------------------------------------------------------------------------------------------------------- the protocol


@suites
@pytest.mark.parametrize("n", SIZES)
def test_sorted_values_and_where_they_stood(n: int, suite: str, parties: int) -> None:
    session, x = testing.session(parties, suite), ties(n)
    value, index, _ = sort(session, x, 0, n)
    assert torch.equal(value, x.sort(0).values)
    assert torch.equal(x.gather(0, index), value)
    assert torch.equal(index.sort(0).values, torch.arange(n)[:, None].expand_as(x))


@suites
@pytest.mark.parametrize("n", SIZES)
def test_equal_elements_keep_their_order_if_asked_to(n: int, suite: str, parties: int) -> None:
    session, x = testing.session(parties, suite), ties(n)
    value, index, _ = sort(session, x, 0, n, stable=True)
    expected = x.sort(dim=0, stable=True)
    assert torch.equal(value, expected.values)
    assert torch.equal(index, expected.indices)


@suites
@pytest.mark.parametrize(("n", "start", "stop"), [(8, 0, 3), (8, 6, 8), (5, 2, 3), (13, 4, 9), (3, 1, 1), (13, 0, 1)])
@pytest.mark.parametrize("ordered", [True, False])
def test_elements_of_some_ranks(n: int, start: int, stop: int, ordered: bool, suite: str, parties: int) -> None:
    session, x = testing.session(parties, suite), ties(n)
    value, index, _ = sort(session, x, start, stop, ordered=ordered)
    assert torch.equal(x.gather(0, index), value)
    assert torch.equal(value if ordered else value.sort(0).values, x.sort(0).values[start:stop])


@given(integer_tensors((6, 3), numbers), st.data())
@settings(max_examples=60)
def test_values_of_any_size_agree_with_the_plaintext_suite(x: Tensor, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, 6))
    ranks = start, data.draw(st.integers(start, 6))
    options = {"ordered": data.draw(st.booleans())}
    suite, parties = data.draw(st.sampled_from(SESSIONS))
    value, index, trail = sort(testing.session(parties, suite), x, *ranks, **options)
    reference = sort(testing.plaintext(), x, *ranks, **options)
    assert torch.equal(value, reference[0])
    assert torch.equal(index, reference[1])
    assert torch.equal(value if options["ordered"] else value.sort(0).values, x.sort(0).values[slice(*ranks)])


@given(integer_tensors((5, 2), st.integers(-LIMIT // 5 // 2, LIMIT // 5 // 2)))
@settings(max_examples=30)
def test_stable_sorting_is_exact_to_its_limit(x: Tensor) -> None:
    for session in (testing.session(2, "tables"), testing.session()):
        value, index, _ = sort(session, x, 0, 5, stable=True)
        expected = x.sort(dim=0, stable=True)
        assert torch.equal(value, expected.values)
        assert torch.equal(index, expected.indices)


@pytest.mark.parametrize("bits", [8, 33])
def test_keys_have_inverses_in_every_power_of_two(bits: int) -> None:
    session, x = testing.session(ring=PowerRing(bits), seed=1), ties(6) % 3
    value, index, _ = sort(session, x, 0, 6, stable=True)
    expected = x.sort(dim=0, stable=True)
    assert torch.equal(value, expected.values)
    assert torch.equal(index, expected.indices)


@pytest.mark.parametrize("shape", [(4,), (3, 2, 2), (2, 0), (0, 3), (5, 1, 3)])
def test_other_dimensions_are_kept(shape: tuple[int, ...]) -> None:
    x = torch.randint(-100, 100, shape, generator=torch.Generator().manual_seed(1))
    value, index, trail = sort(testing.session(3, "tables"), x, 0, shape[0])
    assert torch.equal(value, x.sort(0).values)
    assert index.shape == shape


def test_what_was_sorted_stays_as_it_was() -> None:
    session = testing.session(2, "tables")
    for n in (1, 4):
        number = testing.put_value(session, ties(n))
        held = [share.clone() for share in testing.shares(session, number)]
        value, _, _ = session.command("sort", number, outputs=3, start=0, stop=n)
        session.command("write", value, number)
        assert all(map(torch.equal, held, testing.shares(session, number)))


# ------------------------------------------------------------------------------------------------------- the way back


@suites
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("ordered", [True, False])
def test_gradients_go_back_to_where_elements_came_from(n: int, ordered: bool, suite: str, parties: int) -> None:
    session, x = testing.session(parties, suite), ties(n, 6)
    for start, stop in {(0, n), (0, min(n, 2)), (n // 2, min(n // 2 + 1, n))}:
        _, index, trail = sort(session, x, start, stop, ordered=ordered)
        gradient = torch.arange((stop - start) * 6).reshape(-1, 6) - 5
        number = testing.put_value(session, gradient)
        (back,) = session.command("unsort", number, trail, n=n, start=start, ordered=ordered)
        expected = torch.zeros((n, 6), dtype=torch.int64).scatter(0, index, gradient)
        assert torch.equal(testing.value(session, back), expected)


def test_a_trail_of_another_sort_is_refused() -> None:
    session = testing.session(2, "tables")
    _, _, trail = sort(session, ties(5), 0, 5)
    with pytest.raises(ShapeError, match="does not belong to 2 of 5"):
        session.command("unsort", testing.put_value(session, ties(2)), trail, n=5, start=0)
    with pytest.raises(ShapeError, match="does not belong"):
        session.command("unsort", testing.put_value(session, ties(5, 3)), trail, n=5, start=0)


# ------------------------------------------------------------------------------------------------------------- buckets


@suites
@pytest.mark.parametrize("thresholds", [[], [0], [-5, -1, 0, 0, 3, 1 << 40]])
def test_numbers_of_buckets(thresholds: list[int], suite: str, parties: int) -> None:
    session = testing.session(parties, suite)
    limits = torch.tensor(thresholds, dtype=torch.int64)
    x = torch.cat([ties(4).reshape(-1), limits, limits - 1, torch.tensor([LIMIT, -LIMIT])])
    (found,) = session.command("bucketize", testing.put_value(session, x), thresholds=limits)
    assert torch.equal(testing.value(session, found), (x >= limits[:, None]).sum(0))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
def test_buckets_of_any_shape(shape: tuple[int, ...]) -> None:
    session, x = testing.session(3, "tables"), torch.ones(shape, dtype=torch.int64)
    (found,) = session.command("bucketize", testing.put_value(session, x), thresholds=torch.tensor([0, 1, 2]))
    assert torch.equal(testing.value(session, found), 2 * x)


# ------------------------------------------------------------------------------------------------------------ refusals


def test_securenn_sorts_for_two_parties() -> None:
    session = testing.session(3, "securenn")
    with pytest.raises(MembersError, match="3 parties"):
        session.command("sort", testing.put_value(session, ties(3)), outputs=3, start=0, stop=3)


@pytest.mark.parametrize("modulus", [2**31 - 1, 2**127 - 1])
@pytest.mark.parametrize("suite", ["securenn", "tables"])
def test_sorting_needs_a_power_of_two(suite: str, modulus: int) -> None:
    session = testing.session(2, suite, ring_of(modulus))
    with pytest.raises(ModulusError, match="Z_2"):
        session.command("sort", testing.put_value(session, ties(3)), outputs=3, start=0, stop=3)


# --------------------------------------------------------------------------------------------- what a member asks first


@pytest.mark.parametrize("n", [0, 1, 7, 100])
def test_no_result_is_larger_than_a_member_expects(n: int) -> None:
    shape, largest = (n, 3), 3 * max(n, sorting.network(n, 0, n).exchanges)
    assert elements_of("sort", [shape], {"start": 0, "stop": n}, 0) >= largest
    assert elements_of("unsort", [(1, 3), (5, 3)], {"n": n, "start": 0}, 0) >= 3 * n
    assert elements_of("bucketize", [shape], {"thresholds": torch.arange(9)}, 0) >= 9 * 3 * n


def test_a_sort_beyond_all_limits_makes_no_network() -> None:
    assert elements_of("sort", [(1 << 40,)], {"start": 0, "stop": 1 << 40}, 1 << 30) > 1 << 40
