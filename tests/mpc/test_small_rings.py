"""Every comparison and truncation formula over whole small rings."""

from typing import Any

import pytest
import torch

from sharetorch.mpc import testing
from sharetorch.mpc.protocols import securenn, securenn_paper, truncation
from sharetorch.mpc.ring import PowerRing
from tests.mpc import exhaustive

SIZES = [4, 5, 6]
COMPARISONS = [securenn.non_negative, securenn_paper.derivative_of_relu]


@pytest.mark.parametrize("bits", SIZES)
def test_truncate_rounds_down_or_up_and_nothing_else(bits: int) -> None:
    for divisor in range(2, (1 << (bits - 2)) + 1):
        exhaustive.check_truncate(bits, divisor)


@pytest.mark.parametrize("bits", SIZES)
def test_truncate_exact_gives_the_floor(bits: int) -> None:
    for divisor in range(2, (1 << (bits - 2)) + 1):
        exhaustive.check_truncate_exact(bits, divisor)


@pytest.mark.parametrize("bits", SIZES)
@pytest.mark.parametrize("divisor", [2, 3, 4])
def test_truncate_local_fails_as_often_as_its_formula_says(bits: int, divisor: int) -> None:
    half = 1 << (bits - 1)
    session = testing.session(ring=PowerRing(bits))
    values, first = testing.all_splits(range(-half, half), session.ring)
    result = testing.run_value(
        session, truncation.truncate_local, testing.put_against(session, values, first), divisor=divisor
    )
    failed = (result - torch.div(values, divisor, rounding_mode="floor")).abs() > 1
    for x in range(-half, half):
        assert int(failed[values == x].sum()) == (x + 1 if x >= 0 else -x - 1)


@pytest.mark.parametrize("bits", [*SIZES, 7])
@pytest.mark.parametrize("protocol", COMPARISONS)
def test_non_negative_is_exact_on_its_domain(protocol: Any, bits: int) -> None:
    exhaustive.check_non_negative(protocol, bits)


@pytest.mark.parametrize("protocol", COMPARISONS)
def test_domain_of_non_negative_is_tight(protocol: Any) -> None:
    session = testing.session(ring=PowerRing(6), seed=1)
    values, first = testing.all_splits([1 << 4], session.ring)
    result = testing.run_value(session, protocol, testing.put_against(session, values, first))
    assert int((result == 0).sum()) > 0


@pytest.mark.parametrize("bits", SIZES)
def test_share_convert_keeps_the_number(bits: int) -> None:
    exhaustive.check_share_convert(bits)


@pytest.mark.parametrize("bits", SIZES)
def test_compute_msb_gives_the_top_bit(bits: int) -> None:
    exhaustive.check_compute_msb(bits)


@pytest.mark.parametrize("bits", SIZES)
def test_private_compare_answers_every_question_right(bits: int) -> None:
    exhaustive.check_private_compare(bits)


@pytest.mark.parametrize(("parties", "bits"), [(2, 2), (2, 3), (2, 4), (2, 5), (2, 6), (2, 7), (3, 2), (3, 3), (3, 4)])
@pytest.mark.parametrize("suite", ["tables", "tables-wan"])
def test_tables_compare_everything(suite: str, parties: int, bits: int) -> None:
    exhaustive.check_comparisons(suite, bits, parties)


@pytest.mark.parametrize(("parties", "bits"), [(2, 4), (2, 5), (2, 6), (3, 4)])
@pytest.mark.parametrize("suite", ["tables", "tables-wan"])
def test_truncation_and_relu_from_one_opening(suite: str, parties: int, bits: int) -> None:
    for shift in range(bits - 1):
        exhaustive.check_truncated_relu(suite, bits, parties, 1 << shift)
