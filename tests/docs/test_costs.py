"""The table of costs on the page of protocols is what is counted."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sharetorch.mpc import odd_ring, testing
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols import arithmetic, functions, securenn_paper, selection, sorting, truncation
from sharetorch.mpc.session import Session
from tests.docs.pages import DOCS

COUNT = 64
"""Elements in a run: a multiple of 8, so that packed bits fill their bytes."""

_ROW = re.compile(
    r"^\| ((?:`securenn(?:-paper)?`: )?`\w+`[^|]*?) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", re.MULTILINE
)


def documented() -> dict[str, tuple[float, ...]]:
    text = (DOCS / "protocols" / "index.md").read_text(encoding="utf-8")
    return {name: tuple(map(float, figures)) for name, *figures in _ROW.findall(text)}


def shared(session: Session, *shape: int) -> int:
    size = torch.Size(shape).numel()
    return testing.put_value(session, torch.arange(1, size + 1).reshape(shape))


def measure(session: Session, protocol: Any, *operands: Any, **public: Any) -> Cost:
    return testing.execute(session, protocol, *operands, **public).cost


def elementwise(protocol: Any, operands: int = 1, suite: str = "securenn", **public: Any) -> Callable[[], Cost]:
    """Cost of a protocol on fresh operands."""

    def run() -> Cost:
        session = testing.session(suite=suite)
        return measure(session, protocol, *(shared(session, COUNT) for _ in range(operands)), **public)

    return run


def square(opened: bool) -> Callable[[], Cost]:
    def run() -> Cost:
        session = testing.session()
        x = shared(session, COUNT)
        if opened:
            testing.run(session, arithmetic.multiply, x, x)
        return measure(session, arithmetic.multiply, x, x)

    return run


async def refresh(party: Party, x: Any) -> Any:
    return arithmetic.refresh(party, x)


async def non_negative(party: Party, x: Any) -> Any:
    return await party.suite.non_negative(party, x)


async def find_maximum(party: Party, x: Any) -> Any:
    return await party.suite.maximum(party, x)


async def send_back(party: Party, gradient: Any, trail: Any, n: int) -> Any:
    return await party.suite.route(party, gradient, trail, n)


async def share_convert(party: Party, a: Any) -> Any:
    return await securenn_paper.share_convert(party, a.data, 64)


async def compute_msb(party: Party, a: Any) -> Any:
    y = None if party.is_provider else odd_ring.from_word(a.data.numpy())
    return await securenn_paper.compute_msb(party, y, COUNT, 64)


def maximum(n: int, suite: str) -> Callable[[], Cost]:
    def run() -> Cost:
        session = testing.session(suite=suite)
        return measure(session, find_maximum, shared(session, n, COUNT))

    return run


def route(n: int, suite: str) -> Callable[[], Cost]:
    def run() -> Cost:
        session = testing.session(suite=suite)
        _, _, trail = session.command("maximum", shared(session, n, COUNT), outputs=3)
        return measure(session, send_back, shared(session, COUNT), trail, n=n)

    return run


def sort(n: int) -> Callable[[], Cost]:
    def run() -> Cost:
        session = testing.session()
        return measure(session, sorting.sort, shared(session, n, COUNT), start=0, stop=n)

    return run


def unsort(n: int) -> Callable[[], Cost]:
    def run() -> Cost:
        session = testing.session()
        _, _, trail = session.command("sort", shared(session, n, COUNT), outputs=3, start=0, stop=n)
        return measure(session, sorting.unsort, shared(session, n, COUNT), trail, n=n, start=0)

    return run


PAPER = "securenn-paper"
MEASURED: dict[str, Callable[[], Cost]] = {
    "`multiply`": elementwise(arithmetic.multiply, 2),
    "`multiply`, x is y": square(opened=False),
    "`multiply`, both open already": square(opened=True),
    "`truncate`": elementwise(truncation.truncate, divisor=1 << 16),
    "`truncate_exact`, d = 2^16": elementwise(truncation.truncate_exact, divisor=1 << 16),
    "`truncate_exact`, d = 1000": elementwise(truncation.truncate_exact, divisor=1000),
    "`truncate_local`": elementwise(truncation.truncate_local, divisor=1 << 16),
    "`refresh`": elementwise(refresh),
    "`securenn`: `non_negative`": elementwise(non_negative),
    "`securenn`: `relu`": elementwise(selection.relu),
    "`securenn`: `equal_zero`": elementwise(selection.equal_zero),
    "`securenn`: `maximum` of 4": maximum(4, "securenn"),
    "`securenn`: `maximum` of 9": maximum(9, "securenn"),
    "`securenn`: `route` over 4": route(4, "securenn"),
    "`securenn`: `sort` of 4": sort(4),
    "`securenn`: `unsort` of 4": unsort(4),
    "`securenn-paper`: `share_convert`": elementwise(share_convert, suite=PAPER),
    "`securenn-paper`: `compute_msb`": elementwise(compute_msb, suite=PAPER),
    "`securenn-paper`: `non_negative`": elementwise(non_negative, suite=PAPER),
    "`securenn-paper`: `relu`": elementwise(securenn_paper.relu, suite=PAPER),
    "`securenn-paper`: `select_shares`": elementwise(securenn_paper.select_shares, 3, PAPER),
    "`securenn-paper`: `maximum` of 4": maximum(4, PAPER),
    "`securenn-paper`: `route` over 4": route(4, PAPER),
    "`securenn-paper`: `divide`, 4 quotient bits": elementwise(securenn_paper.divide, 2, PAPER, quotient_bits=4),
    "`securenn-paper`: `derivative_of_max_pool`, n = 4": elementwise(
        securenn_paper.derivative_of_max_pool, 1, PAPER, n=4
    ),
    "`securenn`: `reciprocal`, 16 bits": elementwise(functions.reciprocal, unit=1 << 16),
    "`securenn`: `divide`, 16 bits": elementwise(functions.divide, 2, unit=1 << 16),
    "`securenn`: `square_root`, 16 bits": elementwise(functions.square_root, unit=1 << 16),
    "`securenn`: `inverse_square_root`, 16 bits": elementwise(functions.inverse_square_root, unit=1 << 16),
}


def test_every_line_of_the_table_is_measured() -> None:
    assert set(documented()) == set(MEASURED)


@pytest.mark.parametrize("name", MEASURED)
def test_the_table_says_what_is_counted(name: str) -> None:
    cost = MEASURED[name]()
    counted = (cost.rounds, cost.party_bytes / COUNT, cost.helper_bytes / COUNT, cost.dealer_bytes / COUNT)
    assert counted == documented()[name]
