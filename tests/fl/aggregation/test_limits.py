"""Declared limits are checked against the ring before anything is accepted."""

import math

import pytest
import torch

from sharetorch.fl.aggregation import (
    Aggregation,
    AggregationError,
    DeclaredLimitsError,
    Krum,
    Limits,
    RuleError,
    TooFewClientsError,
    Treatment,
    TrimmedMean,
    Trust,
    rule,
)
from sharetorch.mpc import testing
from sharetorch.mpc.errors import EncodingError, EncodingRangeError, ModulusError
from sharetorch.mpc.ring import ring_of


@pytest.mark.parametrize(
    ("limits", "fits"),
    [
        ({"coordinate": 8.0, "clients": 20}, True),
        ({"coordinate": 2.0**30, "clients": 2**15}, True),
        ({"coordinate": 2.0**30, "clients": 2**16}, False),
        ({"coordinate": 2.0**30, "clients": 2**8, "weight": 2**8}, False),
        ({"coordinate": 2.0**46, "clients": 1}, False),
        ({"coordinate": 1.0, "clients": 2, "fraction_bits": 30}, True),
    ],
)
def test_a_sum_that_could_overflow_is_refused(limits: dict[str, float], fits: bool) -> None:
    if fits:
        Limits(**limits)  # type: ignore[arg-type]
    else:
        with pytest.raises(DeclaredLimitsError, match="could reach"):
            Limits(**limits)  # type: ignore[arg-type]


@pytest.mark.parametrize("coordinate", [0.0, -1.0, math.nan, math.inf])
def test_limits_are_positive_numbers(coordinate: float) -> None:
    with pytest.raises(DeclaredLimitsError, match="no positive number"):
        Limits(coordinate, 3)


@pytest.mark.parametrize("name", ["clients", "weight"])
def test_counts_are_positive(name: str) -> None:
    with pytest.raises(DeclaredLimitsError):
        Limits(**{"coordinate": 1.0, "clients": 3, name: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("least", [0, -1, 4])
def test_no_more_clients_are_demanded_than_taken(least: int) -> None:
    with pytest.raises(DeclaredLimitsError, match="of at most 3 clients are demanded"):
        Limits(1.0, 3, least=least)


@pytest.mark.parametrize("name", ["sum", "median", "weighted-mean"])
def test_fewer_clients_than_demanded_are_not_aggregated(name: str) -> None:
    """Whoever carries the uploads may bring those of one client only: the aggregators hand out no shares."""
    for least, come in ((3, 2), (3, 3), (2, 1)):
        made = Aggregation(testing.session(2, "tables"), 4, Limits(8.0, 5, least=least), name)
        for _ in range(come):
            made.submit(torch.zeros(4), 1 if name == "weighted-mean" else None)
        if come >= least:
            assert made.close() == come
            continue
        with pytest.raises(TooFewClientsError, match=f"{come} updates reached all aggregators, and at least {least}"):
            made.close()
        with pytest.raises(AggregationError, match="not agreed"):
            made.open()


def test_fraction_bits_leave_room_for_products() -> None:
    with pytest.raises(EncodingError):
        Limits(1.0, 3, fraction_bits=31)


def test_the_largest_sum_is_exact() -> None:
    limits = Limits(2.0**30, 2**15 - 1)
    made = Aggregation(testing.session(), 1, limits, "sum")
    for _ in range(5):
        made.submit(torch.tensor([2.0**30]))
    made.close()
    assert made.open().item() == 5 * 2.0**30


@pytest.mark.parametrize("made", [rule("krum"), rule("fltrust", trusted=torch.ones(2**20))])
def test_squared_lengths_must_fit(made: Krum | Trust) -> None:
    with pytest.raises(DeclaredLimitsError, match="squared"):
        Aggregation(testing.session(), 2**20, Limits(64.0, 20), made)


def test_clipping_needs_room_for_squared_lengths() -> None:
    with pytest.raises(DeclaredLimitsError, match="squared length"):
        Aggregation(testing.session(), 2**20, Limits(64.0, 20), clip=1.0)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan, math.inf, 1e-9])
def test_the_largest_length_is_positive(clip: float) -> None:
    with pytest.raises(DeclaredLimitsError, match="length"):
        Treatment(rule("mean"), Limits(8.0, 3), clip)


def test_an_error_says_it_is_one_of_encoding() -> None:
    assert issubclass(DeclaredLimitsError, EncodingRangeError)


@pytest.mark.parametrize(("name", "fewest"), [("krum", 3), ("multi-krum", 3), ("trimmed-mean", 3), ("mean", 1)])
def test_rules_refuse_too_few_declared_clients(name: str, fewest: int) -> None:
    session = testing.session(2, "tables")
    Aggregation(session, 4, Limits(8.0, fewest), name)
    if fewest > 1:
        with pytest.raises(TooFewClientsError, match=name):
            Aggregation(session, 4, Limits(8.0, fewest - 1), name)


def test_krum_needs_more_clients_for_more_byzantine_ones() -> None:
    assert [rule("krum", byzantine=f).fewest for f in (0, 1, 6)] == [3, 5, 15]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("average", {}),
        ("mean", {"trim": 0.1}),
        ("trimmed-mean", {"trim": 0.5}),
        ("trimmed-mean", {"trim": -0.1}),
        ("krum", {"byzantine": -1}),
        ("multi-krum", {"selected": 0}),
        ("fltrust", {}),
        ("fltrust", {"trusted": torch.zeros(3)}),
        ("fltrust", {"trusted": torch.tensor([1.0, math.nan])}),
        ("fltrust", {"trusted": torch.ones(2, 2)}),
    ],
)
def test_unknown_rules_and_wrong_parameters_are_refused(name: str, parameters: dict[str, object]) -> None:
    with pytest.raises(RuleError):
        rule(name, **parameters)


def test_a_trusted_update_of_another_size_is_refused() -> None:
    with pytest.raises(RuleError, match="3 coordinates"):
        Aggregation(testing.session(), 4, Limits(8.0, 3), rule("fltrust", trusted=torch.ones(3)))


def test_other_rings_are_refused() -> None:
    with pytest.raises(ModulusError, match="field"):
        Aggregation(testing.session(ring=ring_of(2**31 - 1)), 4, Limits(8.0, 3))


@pytest.mark.parametrize("clients", range(1, 30))
def test_a_trimmed_mean_leaves_something(clients: int) -> None:
    for trim in (0.0, 0.1, 0.2, 0.3, 0.4, 0.49):
        assert TrimmedMean(trim).divisor(clients) >= 1
    assert TrimmedMean(0.2).dropped(10) == 2
    assert TrimmedMean(0.3).dropped(20) == 6
