"""Comparison by tables over 64 bits: any number of parties, boundaries of the ring, every size, and single use."""

import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sharetorch.mpc import testing
from sharetorch.mpc.errors import CorrelationReusedError, MembersError, ModulusError, ShapeError
from sharetorch.mpc.kernels.bit_planes import Planes
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols import functions, mask_comparison, planes, radix_tree, selection, tables
from sharetorch.mpc.protocols.planes import DealtPlanes, dealt_planes
from sharetorch.mpc.protocols.radix_tree import tree
from sharetorch.mpc.ring import PowerRing, ring_of
from sharetorch.mpc.share import ArithmeticShare
from tests.docs.pages import DOCS
from tests.mpc import exhaustive, mutation
from tests.mpc.test_selection import first_maximum, ties

SUITES = ["tables", "tables-wan"]
PARTIES = [2, 3, 4, 5]
HALF = 1 << 62
TOP = (1 << 63) - 1
NEAR = [0, 1, 2, 15, 16, 255, 1 << 31, 1 << 32, HALF - 1, HALF, HALF + 1, TOP - 1, TOP]
BOUNDARY = torch.tensor([*NEAR, *(-x for x in NEAR), -TOP - 1])
SIZES = [0, 1, 63, 64, 65, 511, 512, 513, 1500]
suites = pytest.mark.parametrize("suite", SUITES)
parties = pytest.mark.parametrize("n", PARTIES)


async def compare(party: Party, x: ArithmeticShare) -> Any:
    """[x >= 0], x [x >= 0], [x = 0]."""
    chosen = await party.suite.choose(party, x, (x,))
    return chosen.bit, *chosen.products, await party.suite.equal_zero(party, x)


def require_right(n: int, suite: str, x: Tensor) -> None:
    session = testing.session(n, suite)
    bit, product, zero = testing.run_value(session, compare, testing.put_value(session, x))
    assert torch.equal(bit, (x >= 0).to(torch.int64))
    assert torch.equal(product, x.clamp(min=0))
    assert torch.equal(zero, (x == 0).to(torch.int64))


@suites
@parties
def test_the_whole_ring_is_compared(n: int, suite: str) -> None:
    require_right(n, suite, BOUNDARY)


@suites
@parties
@pytest.mark.parametrize("size", SIZES)
def test_every_size_is_compared(n: int, suite: str, size: int) -> None:
    require_right(n, suite, BOUNDARY.repeat(size // len(BOUNDARY) + 1)[:size])


@suites
def test_several_chunks_are_compared(suite: str) -> None:
    size = 2 * planes.CHUNK + 77
    require_right(3, suite, BOUNDARY.repeat(size // len(BOUNDARY) + 1)[:size])


@suites
@parties
@pytest.mark.parametrize("shape", [(), (1,), (2, 0, 3), (3, 5)])
def test_every_shape_is_compared(n: int, suite: str, shape: tuple[int, ...]) -> None:
    require_right(n, suite, torch.arange(torch.Size(shape).numel()).reshape(shape) - 3)


@pytest.mark.parametrize("n", [2, 3])
def test_of_a_million_numbers_none_is_compared_wrong(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    uniform = torch.randint(-TOP - 1, TOP, (500_000,), generator=generator)
    small = torch.randint(-3, 4, (250_000,), generator=generator)
    require_right(n, "tables", torch.cat([uniform, small, BOUNDARY.repeat(250_000 // len(BOUNDARY) + 1)[:250_000]]))


@given(st.lists(st.integers(-TOP - 1, TOP), max_size=70), st.sampled_from(PARTIES), st.sampled_from(SUITES))
def test_any_numbers_are_compared(values: list[int], n: int, suite: str) -> None:
    require_right(n, suite, torch.tensor(values, dtype=torch.int64))


@suites
@parties
def test_relu_and_thresholds(n: int, suite: str) -> None:
    session = testing.session(n, suite)
    x = BOUNDARY[:-1]
    value, bit = testing.run_value(session, selection.relu, testing.put_value(session, x))
    assert torch.equal(value, x.clamp(min=0))
    assert torch.equal(bit, (x > 0).to(torch.int64))
    thresholds = [0, 1, -1, 16, -255, HALF]

    async def at_least(party: Party, share: ArithmeticShare) -> Any:
        return await party.suite.at_least(party, share, thresholds)

    small = x[x.abs() < HALF]
    found = testing.run_value(session, at_least, testing.put_value(session, small))
    assert torch.equal(found, (small >= torch.tensor(thresholds)[:, None]).to(torch.int64))


@suites
@parties
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_maxima_and_ways_back(n: int, suite: str, rows: int) -> None:
    session = testing.session(n, suite)
    x = ties(rows, columns=12)
    value, index, trail = session.command("maximum", testing.put_value(session, x), outputs=3)
    assert torch.equal(testing.value(session, value), x.amax(0))
    assert torch.equal(testing.value(session, index), first_maximum(x))
    gradient = torch.arange(12) - 5
    (routed,) = session.command("route", testing.put_value(session, gradient), trail, n=rows)
    assert torch.equal(testing.value(session, routed), (torch.arange(rows)[:, None] == first_maximum(x)) * gradient)


@suites
def test_views_and_operands_that_were_open_before(suite: str) -> None:
    session = testing.session(3, suite)
    x = torch.arange(24).reshape(4, 6) - 12
    number = testing.put_value(session, x)

    async def several(party: Party, share: ArithmeticShare) -> Any:
        await party.suite.multiply(party, share, share)
        view = share.view(share.data.t()[1:, ::2])
        first = await party.suite.choose(party, view, (view,), 1)
        again = await party.suite.choose(party, view, (view, view), -5)
        return first.bit, *first.products, again.bit, *again.products

    part = x.t()[1:, ::2]
    above, reached = (part >= 1).to(torch.int64), (part >= -5).to(torch.int64)
    expected = (above, above * part, reached, reached * part, reached * part)
    for found, right in zip(testing.run_value(session, several, number), expected, strict=True):
        assert torch.equal(found, right)


@pytest.mark.parametrize("digits", [(1, 3), (2, 3), (3, 4), (1, 9), (4, 3)])
@pytest.mark.parametrize(("n", "bits"), [(2, 6), (2, 7), (3, 4)])
def test_every_cut_compares_whole_small_rings(
    n: int, bits: int, digits: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = testing.session(n, "tables")
    monkeypatch.setattr(session.suite, "digits", tables.Shape(*digits))
    exhaustive.check_comparisons("tables", bits, n)


@pytest.mark.parametrize("bits", [1, 2, 3, 7, 16, 62, 63, 64])
@pytest.mark.parametrize("digits", [(1, 3), (4, 4), (7, 9), (5, 4)])
@pytest.mark.parametrize("equality", [False, True])
def test_every_plane_of_a_tree_is_used_once(bits: int, digits: tuple[int, int], equality: bool) -> None:
    plan = tree(bits, *digits, equality)
    assert int(plan.digits[:, 1].sum()) == bits
    first = 0
    for level in plan.levels:
        opened = sorted(int(slot) for slot in level.slots.reshape(-1) if slot >= 0)
        assert opened == list(range(level.opened))
        kept = sorted(-1 - int(slot) for slot in level.slots.reshape(-1) if -1000 < slot < 0)
        assert kept == list(range(level.kept))
        assert level.first_mask == first
        first += level.opened
    assert plan.masks == first
    assert len(plan.levels[-1].nodes) == 0


def test_the_tree_of_the_plan() -> None:
    """For a sign 232 rows, 27 + 6 masks of inputs and one of the result, 96 products; for equality 240, 21, 55."""
    short, equal, long = tree(63, 4, 4), tree(64, 4, 4, equality=True), tree(63, 7, 9)
    assert (short.rows, short.masks, short.products) == (232, 34, 96)
    assert (equal.rows, equal.masks, equal.products) == (240, 21, 55)
    assert (long.rows, long.masks, long.products) == (9 * 127, 17, 749)
    assert [len(plan.levels) for plan in (short, equal, long)] == [3, 3, 2]


DOCUMENTED = re.compile(r"^\| `(tables[^`]*)` \| `(\w+)`([^|]*) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", re.MULTILINE)


def documented() -> list[tuple[str, str, str, float, float, float]]:
    text = (DOCS / "protocols" / "tables.md").read_text(encoding="utf-8")
    return [(suite, name, rest, *map(float, figures)) for suite, name, rest, *figures in DOCUMENTED.findall(text)]


async def run_operation(party: Party, x: ArithmeticShare, name: str) -> Any:
    calls = {
        "at_least": lambda: party.suite.at_least(party, x, range(8)),
        "truncated_relu": lambda: party.suite.truncated_relu(party, x, 1 << 16),
        "maximum": lambda: party.suite.maximum(party, x),
        "relu": lambda: selection.relu(party, x),
        "non_negative": lambda: party.suite.non_negative(party, x),
        "equal_zero": lambda: party.suite.equal_zero(party, x),
        "reciprocal": lambda: functions.reciprocal(party, x, 1 << 16),
    }
    return await calls[name]()


@pytest.mark.parametrize("row", documented(), ids=lambda row: " ".join(map(str, row[:2])))
def test_the_documented_costs_are_counted(row: tuple[str, str, str, float, float, float]) -> None:
    suite, name, _, *figures = row
    session = testing.session(2, suite)
    x = torch.arange(1, 65) if name != "maximum" else torch.arange(256).reshape(4, 64)
    cost = testing.execute(session, run_operation, testing.put_value(session, x), name=name).cost
    assert [cost.rounds, cost.party_bytes / 64, cost.dealer_bytes / 64] == figures
    assert cost.helper_bytes == 0


def test_all_lines_of_the_documented_costs_are_found() -> None:
    assert len(documented()) == 9


@suites
@parties
def test_fields_are_refused(n: int, suite: str) -> None:
    session = testing.session(n, suite, ring_of(2**31 - 1))
    number = testing.put_value(session, [1])
    for operation, outputs in (("non_negative", 1), ("equal_zero", 1), ("relu", 2)):
        with pytest.raises(ModulusError, match="share without field="):
            session.command(operation, number, outputs=outputs)


def test_operands_of_another_shape_are_refused() -> None:
    session = testing.session(2, "tables")
    numbers = [testing.put_value(session, torch.zeros(shape, dtype=torch.int64)) for shape in ((3,), (1,))]

    async def choose(party: Party, x: ArithmeticShare, y: ArithmeticShare) -> Any:
        return await party.suite.choose(party, x, (y,))

    with pytest.raises(ShapeError, match="of its shape"):
        testing.run(session, choose, *numbers)


@pytest.mark.parametrize("divisor", [0, 3, 1000, 1 << 63])
def test_divisors_that_are_no_power_of_two_are_refused(divisor: int) -> None:
    session = testing.session(2, "tables")

    async def truncated_relu(party: Party, x: ArithmeticShare) -> Any:
        return await party.suite.truncated_relu(party, x, divisor)

    with pytest.raises(ModulusError, match=f"not by {divisor}"):
        testing.run(session, truncated_relu, testing.put_value(session, [1]))


def test_tables_are_used_once() -> None:
    async def twice(party: Party) -> None:
        def nothing(_: Planes, __: Planes, ___: int, ____: int) -> None:
            pass

        dealt: DealtPlanes = dealt_planes(party, "digit tables", 5, 2, 3, nothing).take()
        if not party.is_provider:
            await dealt.brief(0)
            with pytest.raises(CorrelationReusedError, match="digit tables were already used"):
                await dealt.brief(0)

    testing.run(testing.session(3), twice)


def test_a_comparison_needs_a_provider() -> None:
    session = testing.session(2, "tables")
    number = testing.put_value(session, [1, -1])

    async def without(party: Party, x: ArithmeticShare) -> Any:
        party._secrets.pop(party.provider, None)
        return await party.suite.non_negative(party, x)

    with pytest.raises(MembersError, match="need a crypto provider"):
        testing.run(session, without, number)


def test_the_ring_decides_how_many_bits_are_compared() -> None:
    session = testing.session(2, "tables", PowerRing(20))
    x = torch.arange(-(1 << 19), 1 << 19, 977)
    bit, product, zero = testing.run_value(session, compare, testing.put_value(session, x))
    assert torch.equal(bit, (x >= 0).to(torch.int64))
    assert torch.equal(product, x.clamp(min=0))
    assert torch.equal(zero, (x == 0).to(torch.int64))


MUTANTS = {
    "thresholds one too large": (tables, "choose", "_signed(threshold - 1)", "_signed(threshold)"),
    "thresholds one too large, several": (tables, "at_least", "_signed(threshold - 1)", "_signed(threshold)"),
    "no top bit of c": (tables, "choose", "-1, bits - 1)", "-1, -1)"),
    "no top bit of r": (mask_comparison, "mask_bits", "r, top)", "r, -1)"),
    "the lowest p of a node missing": (radix_tree, "tree", "equality or place > 0", "equality or place > 1"),
    "masks of g in another order": (radix_tree, "_input_slots", "opened + k - 1 + i)", "opened + 2 * k - 3 - i)"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_mistakes_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing.session(2, "tables").suite, "digits", tables.Shape(1, 4))
    exhaustive.check_comparisons("tables", 6, 2)
    mutation.plant(monkeypatch, *MUTANTS[name])
    for module in (tables, mask_comparison):
        monkeypatch.setattr(module, "tree", radix_tree.tree)
    monkeypatch.setattr(tables, "mask_bits", mask_comparison.mask_bits)
    radix_tree.tree.cache_clear()
    try:
        with pytest.raises(AssertionError, match="wrong"):
            exhaustive.check_comparisons("tables", 6, 2)
    finally:
        monkeypatch.undo()
        radix_tree.tree.cache_clear()
