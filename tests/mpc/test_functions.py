"""Reciprocal, division and square roots against float64, over dense grids, within their stated bounds.

The bounds are those of the docstrings: 2^-21 of the result from the iteration at 24 bits, and units of the result from
the last truncations.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sharetorch.mpc import testing
from sharetorch.mpc.protocols import functions

UNITS = [1 << 8, 1 << 16, 1 << 20, 1000]
RELATIVE = 2.0**-21
POINTS = 4000


def grid(low: float, high: float) -> Tensor:
    """Integers spread evenly in the logarithm, with both ends."""
    return torch.logspace(torch.tensor(low).log2(), torch.tensor(high).log2(), POINTS, 2.0, dtype=torch.float64).long()


def worst(result: Tensor, expected: Tensor, units: float | Tensor = 2.0) -> float:
    """Largest error in multiples of what is allowed: a share of the result, and some units."""
    return float(((result - expected).abs() / (units + expected.abs() * RELATIVE)).max())


def evaluate(
    function: Callable[..., object], unit: int, *operands: Tensor, suite: str = "securenn", parties: int = 2
) -> Tensor:
    session = testing.session(parties, suite, seed=unit)
    numbers = [testing.put_value(session, x) for x in operands]
    return torch.as_tensor(testing.run_value(session, function, *numbers, unit=unit)).double()


@pytest.mark.parametrize("unit", UNITS)
def test_reciprocal(unit: int) -> None:
    magnitude = grid(1, unit * unit)
    x = torch.cat([magnitude, -magnitude])
    assert worst(evaluate(functions.reciprocal, unit, x), unit * unit / x.double(), max(2.0, unit**2 / 2**36)) <= 1


def test_reciprocal_of_more_than_the_unit_is_nothing() -> None:
    x = torch.tensor([1 << 33, 1 << 40, -(1 << 50)])
    assert float(evaluate(functions.reciprocal, 1 << 16, x).abs().max()) <= 1


@pytest.mark.parametrize("unit", UNITS)
def test_divide(unit: int) -> None:
    y = grid(unit / 16, unit * 64)
    x = (torch.rand(POINTS, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 128 - 64) * unit
    x = x.long()
    assert worst(evaluate(functions.divide, unit, x, y), unit * x.double() / y.double(), 2 + unit / y.double()) <= 1


@pytest.mark.parametrize("unit", UNITS)
def test_divide_by_negative_numbers(unit: int) -> None:
    x, y = torch.tensor([3 * unit, -3 * unit, 0]), torch.tensor([-2 * unit, -2 * unit, -unit])
    assert worst(evaluate(functions.divide, unit, x, y), unit * x.double() / y.double()) <= 1


@pytest.mark.parametrize("unit", UNITS)
def test_square_root(unit: int) -> None:
    x = torch.cat([torch.zeros(1, dtype=torch.int64), grid(1, unit * unit // 2)])
    assert worst(evaluate(functions.square_root, unit, x), (x.double() * unit).sqrt()) <= 1


@pytest.mark.parametrize("unit", UNITS)
def test_inverse_square_root(unit: int) -> None:
    x = grid(1, unit * unit // 2)
    assert worst(evaluate(functions.inverse_square_root, unit, x), (unit**3 / x.double()).sqrt()) <= 1


@pytest.mark.parametrize("function", [functions.reciprocal, functions.square_root, functions.inverse_square_root])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (2, 3)])
def test_functions_take_any_shape(function: Callable[..., object], shape: tuple[int, ...]) -> None:
    x = torch.full(shape, 1 << 16)
    result = evaluate(function, 1 << 16, x)
    assert result.shape == shape
    assert not bool(((result - 65536).abs() > 2).any())


SESSIONS = [("securenn-paper", 2), ("tables", 2), ("tables", 3), ("tables", 5), ("tables-wan", 3)]
sessions = pytest.mark.parametrize(("suite", "parties"), SESSIONS)
UNIT = 1 << 16


@sessions
def test_reciprocals_run_on_every_comparison(suite: str, parties: int) -> None:
    x = torch.cat([grid(1 << 12, 1 << 24)[::40], -grid(1 << 12, 1 << 24)[::40]])
    found = evaluate(functions.reciprocal, UNIT, x, suite=suite, parties=parties)
    assert worst(found, 2.0**32 / x.double()) <= 1


@sessions
def test_quotients_run_on_every_comparison(suite: str, parties: int) -> None:
    y = torch.cat([grid(UNIT / 16, UNIT * 64)[::40], -grid(UNIT / 16, UNIT * 64)[::40]])
    x = torch.linspace(-60 * UNIT, 60 * UNIT, y.numel(), dtype=torch.float64).long()
    found = evaluate(functions.divide, UNIT, x, y, suite=suite, parties=parties)
    assert worst(found, UNIT * x.double() / y.double(), 2 + UNIT / y.double().abs()) <= 1


@sessions
def test_roots_run_on_every_comparison(suite: str, parties: int) -> None:
    x = grid(1, UNIT * UNIT // 2)[::40]
    root = evaluate(functions.square_root, UNIT, x, suite=suite, parties=parties)
    assert worst(root, (x.double() * UNIT).sqrt()) <= 1
    inverse = evaluate(functions.inverse_square_root, UNIT, x, suite=suite, parties=parties)
    assert worst(inverse, (UNIT**3 / x.double()).sqrt()) <= 1
