"""What is sent equals what is declared: rounds, bytes of parties and helper, bytes dealt ahead."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from sharetorch.mpc import operations, testing
from sharetorch.mpc.cost import DRIVER, Cost
from sharetorch.mpc.linear import Slot
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols import arithmetic, functions, securenn_paper, selection, sorting, tables, truncation
from sharetorch.mpc.protocols.bilinear import Convolution, Geometry, MatrixProduct
from sharetorch.mpc.protocols.private_compare import private_compare_cost
from sharetorch.mpc.protocols.suite import SUITES
from sharetorch.mpc.ring import ring_of
from sharetorch.mpc.share import ArithmeticShare
from tests.mpc.exhaustive import compare

COUNTS = [1, 7, 130]
SESSIONS = [
    ("securenn", 2),
    ("securenn-paper", 2),
    *((suite, n) for suite in ("tables", "tables-wan") for n in (2, 3, 4, 5)),
]
suites = pytest.mark.parametrize(("suite", "parties"), SESSIONS)
counts = pytest.mark.parametrize("count", COUNTS)


def integers(*shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=torch.int64)


@counts
@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_multiply(n: int, count: int) -> None:
    session = testing.session(n)
    operands = [testing.put_value(session, integers(count)) for _ in range(2)]
    testing.require_cost(session, arithmetic.bilinear_cost(2 * count, count, n), arithmetic.multiply, *operands)


@pytest.mark.parametrize("modulus", [None, 2**31 - 1, 2**62, 2**127 - 1])
def test_products_cost_elements_of_the_ring(modulus: int | None) -> None:
    ring = ring_of(modulus)
    session = testing.session(3, ring=ring)
    operands = [testing.put_value(session, integers(5)) for _ in range(2)]
    declared = arithmetic.bilinear_cost(10, 5, 3, ring.element_bytes)
    testing.require_cost(session, declared, arithmetic.multiply, *operands)


@pytest.mark.parametrize("n", [2, 3])
def test_matrix_products_cost_the_operands_and_the_result(n: int) -> None:
    session = testing.session(n)
    operands = [testing.put_value(session, integers(*shape)) for shape in ((3, 4), (4, 5))]

    async def matmul(party: Party, x: ArithmeticShare, y: ArithmeticShare) -> ArithmeticShare:
        return await arithmetic.bilinear(party, MatrixProduct(), x, y)

    testing.require_cost(session, arithmetic.bilinear_cost(12 + 20, 15, n), matmul, *operands)


def test_convolutions_cost_image_and_kernel_not_patches() -> None:
    g = Geometry((2, 3, 8, 8), (4, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1)
    session = testing.session()
    operands = [testing.put_value(session, integers(*shape)) for shape in (g.image, g.kernel)]

    async def convolve(party: Party, x: ArithmeticShare, y: ArithmeticShare) -> ArithmeticShare:
        return await arithmetic.bilinear(party, Convolution(g), x, y)

    opened = 2 * 3 * 8 * 8 + 4 * 3 * 3 * 3
    testing.require_cost(session, arithmetic.bilinear_cost(opened, 2 * 4 * 8 * 8, 2), convolve, *operands)


@counts
@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("divisor", [1 << 16, 1000])
def test_truncate(n: int, count: int, divisor: int) -> None:
    session = testing.session(n)
    x = testing.put_value(session, integers(count))
    testing.require_cost(session, truncation.truncation_cost(count, n), truncation.truncate, x, divisor=divisor)


@counts
@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("divisor", [2, 1 << 16, 1000, 10**6])
def test_truncate_exact(n: int, count: int, divisor: int) -> None:
    session = testing.session(n)
    x = testing.put_value(session, integers(count))
    declared = truncation.exact_truncation_cost(count, n, divisor)
    testing.require_cost(session, declared, truncation.truncate_exact, x, divisor=divisor)


def test_truncate_local_is_free() -> None:
    session = testing.session()
    testing.require_cost(session, Cost(), truncation.truncate_local, testing.put_value(session, [5]), divisor=4)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("operation", ["refresh", "negate"])
def test_local_operations_are_free(operation: str, n: int) -> None:
    session = testing.session(n)
    number = testing.put_value(session, integers(4))
    with session.costs.listen() as heard:
        session.command(operation, number)
    assert heard.total().as_cost(n) == Cost()


@suites
@counts
def test_non_negative(suite: str, parties: int, count: int) -> None:
    session = testing.session(parties, suite)
    x = testing.put_value(session, integers(count))
    with session.costs.listen() as heard:
        session.command("non_negative", x)
    declared = SUITES[suite].prices(parties)
    expected = declared.choose(count, 0) if declared.opens_operand else declared.at_least(count, 1)
    assert heard.total().as_cost(parties) == expected


@suites
@counts
@pytest.mark.parametrize("thresholds", [1, 2, 9])
def test_at_least(suite: str, parties: int, count: int, thresholds: int) -> None:
    session = testing.session(parties, suite)
    x = testing.put_value(session, integers(count))

    async def at_least(party: Party, x: ArithmeticShare) -> ArithmeticShare:
        found: ArithmeticShare = await party.suite.at_least(party, x, range(thresholds))
        return found

    testing.require_cost(session, SUITES[suite].prices(parties).at_least(count, thresholds), at_least, x)


@suites
@counts
@pytest.mark.parametrize("others", [0, 1, 2])
def test_choose(suite: str, parties: int, count: int, others: int) -> None:
    session = testing.session(parties, suite)
    numbers = [testing.put_value(session, integers(count)) for _ in range(1 + others)]

    async def choose(party: Party, *operands: ArithmeticShare) -> Any:
        return await party.suite.choose(party, operands[0], operands)

    testing.require_cost(session, SUITES[suite].prices(parties).choose(count, 1 + others), choose, *numbers)


@suites
@counts
def test_relu(suite: str, parties: int, count: int) -> None:
    session = testing.session(parties, suite)
    x = testing.put_value(session, integers(count))
    testing.require_cost(session, SUITES[suite].prices(parties).choose(count, 1), selection.relu, x)


@suites
@counts
def test_equal_zero(suite: str, parties: int, count: int) -> None:
    session = testing.session(parties, suite)
    x = testing.put_value(session, integers(count))
    testing.require_cost(session, SUITES[suite].prices(parties).equal_zero(count), selection.equal_zero, x)


@pytest.mark.parametrize(("suite", "digits"), [("tables", tables.SHORT_DIGITS), ("tables-wan", tables.LONG_DIGITS)])
@pytest.mark.parametrize("parties", [2, 3])
@counts
def test_truncated_relu(suite: str, digits: tables.Shape, parties: int, count: int) -> None:
    session = testing.session(parties, suite)
    x = testing.put_value(session, integers(count))

    async def truncated_relu(party: Party, x: ArithmeticShare) -> Any:
        return await party.suite.truncated_relu(party, x, 1 << 16)

    testing.require_cost(session, tables.truncated_relu_cost(count, parties, digits), truncated_relu, x)


def test_tables_cost_what_was_planned() -> None:
    """ReLU of a multiple of 64 elements: 98 bits from each party to each other, 57 bytes from the provider."""
    assert tables.choose_cost(640, 1, 2) == Cost(4, 640 * 98 // 8, 0, 640 * 57)
    assert tables.choose_cost(640, 1, 3, tables.LONG_DIGITS).rounds == 3
    assert tables.equal_zero_cost(640, 2) == Cost(4, 640 * 85 // 8, 0, 640 * (240 + 55 + 64) // 8)


@pytest.mark.parametrize("parties", [2, 3])
def test_a_number_that_is_open_is_compared_without_opening_it_again(parties: int) -> None:
    session = testing.session(parties, "tables")
    x = testing.put_value(session, integers(64))
    testing.run(session, arithmetic.multiply, x, x)
    declared = tables.choose_cost(64, 1, parties)
    declared = Cost(declared.rounds - 1, declared.party_bytes - 512 * (parties - 1), 0, declared.dealer_bytes)
    testing.require_cost(session, declared, selection.relu, x)


@suites
@pytest.mark.parametrize("n", range(1, 10))
def test_maximum_and_route_by_a_tree(suite: str, parties: int, n: int) -> None:
    session = testing.session(parties, suite)
    x = testing.put_value(session, integers(n, 3))
    declared = selection.maximum_tree_cost(n, 3, SUITES[suite].prices(parties))
    found = testing.execute(session, selection.maximum_tree, x)
    assert found.cost == declared
    trails = [result.trail for result in found.results]
    gradient = testing.put_value(session, integers(3))
    declared = selection.route_tree_cost(n, 3, parties)
    testing.require_cost(session, declared, selection.route_tree, gradient, lambda party: trails[party.rank], n=n)


@pytest.mark.parametrize(("suite", "parties"), [*SESSIONS, ("fss", 2)])
@pytest.mark.parametrize("options", [{}, {"ordered": False}, {"stable": True}])
@pytest.mark.parametrize(("n", "start", "stop"), [(0, 0, 0), (1, 0, 1), (2, 0, 2), (5, 0, 5), (8, 0, 3), (9, 4, 5)])
def test_sort_and_unsort(
    suite: str, parties: int, options: dict[str, bool], n: int, start: int, stop: int
) -> None:
    session = testing.session(parties, suite)
    ordered = options.get("ordered", True)
    declared = sorting.sort_cost(n, start, stop, 3, SUITES[suite].prices(parties), ordered=ordered)
    x = testing.put_value(session, integers(n, 3))
    found = testing.execute(session, sorting.sort, x, start=start, stop=stop, **options)
    assert found.cost == declared
    trails = [result.trail for result in found.results]
    gradient = testing.put_value(session, integers(stop - start, 3))
    declared = sorting.unsort_cost(n, start, stop, 3, parties, ordered=ordered)
    trail = lambda party: trails[party.rank]  # noqa: E731
    testing.require_cost(session, declared, sorting.unsort, gradient, trail, n=n, start=start, ordered=ordered)


@pytest.mark.parametrize(("suite", "parties"), [*SESSIONS, ("fss", 2)])
@pytest.mark.parametrize("thresholds", [0, 1, 9])
def test_buckets_cost_one_comparison_with_all_boundaries(suite: str, parties: int, thresholds: int) -> None:
    session = testing.session(parties, suite)
    x = testing.put_value(session, integers(7))
    declared = SUITES[suite].prices(parties).at_least(7, thresholds) if thresholds else Cost()
    testing.require_cost(session, declared, sorting.bucketize, x, thresholds=list(range(thresholds)))


@counts
def test_private_compare_costs_a_byte_a_bit(count: int) -> None:
    session = testing.session()
    words = torch.arange(count).numpy().astype("uint64")
    with session.costs.listen() as heard:
        compare(session, words, words, (words * 0).astype("uint8"), 64)
    dealt = Cost(dealer_bytes=64 * count)
    assert heard.total().as_cost(2) == private_compare_cost(count) + dealt


@counts
def test_share_convert(count: int) -> None:
    session = testing.session()

    async def convert(party: Party, a: ArithmeticShare) -> Any:
        return await securenn_paper.share_convert(party, a.data, 64)

    x = testing.put_value(session, integers(count))
    testing.require_cost(session, securenn_paper.share_convert_cost(count), convert, x)


@counts
def test_compute_msb(count: int) -> None:
    session = testing.session()

    async def msb(party: Party) -> Any:
        y = None if party.is_provider else torch.zeros(count, dtype=torch.int64).numpy().astype("uint64")
        return await securenn_paper.compute_msb(party, y, count, 64)

    testing.require_cost(session, securenn_paper.compute_msb_cost(count), msb)


@counts
def test_select_shares(count: int) -> None:
    session = testing.session()
    operands = [testing.put_value(session, integers(count)) for _ in range(3)]
    testing.require_cost(session, securenn_paper.select_shares_cost(count), securenn_paper.select_shares, *operands)


@counts
def test_relu_as_published(count: int) -> None:
    session = testing.session()
    x = testing.put_value(session, integers(count))
    testing.require_cost(session, securenn_paper.relu_cost(count), securenn_paper.relu, x)


@counts
@pytest.mark.parametrize("quotient_bits", [1, 4])
def test_division_as_published(count: int, quotient_bits: int) -> None:
    session = testing.session()
    operands = [testing.put_value(session, integers(count) * value) for value in (1, 2)]
    declared = securenn_paper.divide_cost(count, quotient_bits)
    testing.require_cost(session, declared, securenn_paper.divide, *operands, quotient_bits=quotient_bits)


@pytest.mark.parametrize("n", [1, 2, 5])
@counts
def test_max_pooling_as_published(n: int, count: int) -> None:
    session = testing.session()
    x = testing.put_value(session, integers(n, count))
    testing.require_cost(session, securenn_paper.max_pool_cost(n, count), securenn_paper.max_pool, x)


@pytest.mark.parametrize("n", [1, 2, 8])
@counts
def test_derivative_of_max_pooling(n: int, count: int) -> None:
    session = testing.session()
    index = testing.put_value(session, 0 * integers(count))
    declared = securenn_paper.derivative_of_max_pool_cost(n, count)
    testing.require_cost(session, declared, securenn_paper.derivative_of_max_pool, index, n=n)


@suites
@pytest.mark.parametrize("unit", [1 << 8, 1 << 16, 1000])
@pytest.mark.parametrize(
    ("function", "declared", "operands"),
    [
        pytest.param(functions.reciprocal, functions.reciprocal_cost, 1, id="reciprocal"),
        pytest.param(functions.divide, functions.divide_cost, 2, id="divide"),
        pytest.param(functions.square_root, functions.square_root_cost, 1, id="square_root"),
        pytest.param(functions.inverse_square_root, functions.inverse_square_root_cost, 1, id="inverse_square_root"),
    ],
)
def test_functions(
    function: Callable[..., Any], declared: Callable[..., Cost], operands: int, unit: int, suite: str, parties: int
) -> None:
    session = testing.session(parties, suite)
    numbers = [testing.put_value(session, integers(5) * unit) for _ in range(operands)]
    prices = SUITES[suite].prices(parties)
    testing.require_cost(session, declared(5, unit, prices), function, *numbers, unit=unit)


@pytest.mark.parametrize("n", [2, 3])
def test_sharing_and_getting_are_counted_under_the_driver(n: int) -> None:
    session = testing.session(n)
    with session.costs.listen() as heard:
        session.reveal(session.distribute(integers(5)))
    assert heard.by_operation["share"].traffic.online == {(DRIVER, rank): 40 for rank in range(n)}
    assert heard.by_operation["get"].traffic.online == {(rank, DRIVER): 40 for rank in range(n)}


def test_a_wrong_declaration_is_noticed() -> None:
    session = testing.session()
    x = testing.put_value(session, integers(3))
    with pytest.raises(AssertionError, match="declares"):
        testing.require_cost(session, truncation.truncation_cost(4, 2), truncation.truncate, x, divisor=2)


SILENT: dict[str, tuple[int, dict[str, Any]]] = {
    "local": (1, {"function": "aten.neg.default", "args": (Slot(0),), "kwargs": {}}),
    "combine": (2, {"a": 3, "b": -1}),
    "negate": (1, {}),
    "add_public": (1, {"values": integers(5)}),
    "scale": (1, {"values": integers(5)}),
}


@pytest.mark.parametrize("name", sorted(operations.SILENT))
def test_silent_operations_neither_send_nor_draw(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They run without what others need: a number of their own, streams, mailboxes."""
    session = testing.session(3, "tables")
    count, public = SILENT[name]
    operands = [testing.put_value(session, integers(5)) for _ in range(count)]

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("a silent operation drew or sent something")

    for method in ("stream", "send"):
        monkeypatch.setattr(Party, method, refuse)
    with session.costs.listen() as heard:
        session.command(name, *operands, **public)
    assert heard.by_operation[name].traffic.operations == 1
    assert heard.total().as_cost(3) == Cost()
