"""Maxima by pairs: right, first of equals, as dear as declared, and taken where they pay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sharetorch.mpc import testing
from sharetorch.mpc.errors import ModulusError
from sharetorch.mpc.protocols import pairs, selection
from sharetorch.mpc.protocols.suite import SUITES
from sharetorch.mpc.ring import WordField
from tests.mpc.test_selection import first_maximum

SESSIONS = pytest.mark.parametrize(
    ("suite", "parties"), [("tables", 2), ("tables", 3), ("tables", 5), ("tables-wan", 2), ("fss", 2), ("securenn", 2)]
)


def numbers(n: int, seed: int) -> Tensor:
    """Few different values, so that most rows have equal ones, and values at the ends of the domain."""
    made = torch.randint(-2, 3, (n, 12), generator=torch.Generator().manual_seed(seed))
    made[:, 0] = torch.arange(n)
    made[:, 1] = -torch.arange(n)
    made[:, 2] = torch.where(torch.arange(n) % 3 == 1, (1 << 61) - 1, -(1 << 61))
    return made


@SESSIONS
@pytest.mark.parametrize("n", [1, 2, 3, 5, 10])
def test_value_index_and_one_hot_trail(suite: str, parties: int, n: int) -> None:
    session = testing.session(parties, suite)
    x = numbers(n, n)
    value, index, trail = testing.run_value(session, pairs.maximum_by_pairs, testing.put_value(session, x))
    assert torch.equal(value, x.max(0).values)
    assert torch.equal(index, first_maximum(x))
    assert torch.equal(trail, (torch.arange(n)[:, None] == first_maximum(x)).long())


@pytest.mark.parametrize(("suite", "parties"), [("tables", 2), ("tables", 3), ("tables", 5), ("tables-wan", 2)])
@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_costs_are_as_declared(suite: str, parties: int, n: int) -> None:
    session = testing.session(parties, suite)
    x = testing.put_value(session, numbers(n, 1))
    found = testing.execute(session, pairs.maximum_by_pairs, x)
    assert found.cost == pairs.maximum_by_pairs_cost(n, 12, SUITES[suite].prices(parties))
    trails = [result.trail for result in found.results]
    gradient = testing.put_value(session, torch.arange(12))
    testing.require_cost(
        session, pairs.route_one_hot_cost(n, 12, parties), pairs.route_one_hot, gradient,
        lambda party: trails[party.rank],
    )  # fmt: skip


@pytest.mark.parametrize(("suite", "rounds"), [("tables", 8), ("tables-wan", 6)])
@pytest.mark.parametrize("n", [5, 9, 10])
def test_the_suites_find_maxima_of_few_elements_by_pairs(suite: str, rounds: int, n: int) -> None:
    session = testing.session(2, suite)
    x = numbers(n, 3)
    with session.costs.listen() as heard:
        value, index, trail = session.command("maximum", testing.put_value(session, x), outputs=3)
    assert heard.by_operation["maximum"].traffic.rounds == rounds
    assert torch.equal(testing.value(session, value), x.max(0).values)
    gradient = torch.arange(1, 13)
    (back,) = session.command("route", testing.put_value(session, gradient), trail, n=n)
    assert torch.equal(testing.value(session, back), (torch.arange(n)[:, None] == first_maximum(x)) * gradient)
    assert session.suite.trail_rows(x.shape) == n


def test_where_it_pays() -> None:
    assert [n for n in range(12) if pairs.pays((n, 1))] == [5, 6, 7, 8, 9, 10, 11]
    assert pairs.pays((10, 128)) and pairs.pays((10, 2, 91)) and not pairs.pays((10, 183))
    assert pairs.pays((128,)) and not pairs.pays((129,))
    assert SUITES["tables"].trail_rows((10, 183)) == 9
    assert all(SUITES[suite].trail_rows((10, 1)) == 9 for suite in ("securenn", "fss"))


def test_a_tree_takes_over_where_it_does_not() -> None:
    session = testing.session(2, "tables")
    x = torch.randint(-50, 50, (10, 200), generator=torch.Generator().manual_seed(5))
    value, index, trail = session.command("maximum", testing.put_value(session, x), outputs=3)
    assert torch.equal(testing.value(session, index), first_maximum(x))
    assert testing.value(session, trail).shape == (selection.tree_rows(10), 200)


def test_maxima_of_nothing_and_of_one_row() -> None:
    session = testing.session(2, "tables")
    value, index, trail = session.command("maximum", testing.put_value(session, torch.zeros(7, 0).long()), outputs=3)
    assert testing.value(session, value).shape == testing.value(session, index).shape == (0,)
    (back,) = session.command("route", value, trail, n=7)
    assert testing.value(session, back).shape == (7, 0)


def test_a_field_is_refused() -> None:
    session = testing.session(2, "tables", WordField(2147483647))
    with pytest.raises(ModulusError, match="Z_2"):
        session.command("maximum", testing.put_value(session, torch.arange(6)), outputs=3)
