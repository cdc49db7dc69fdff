"""Division, reciprocal and square roots of secret numbers, by normalisation and Newton's iteration.

A positive integer x (a number v at scale ``unit``: x = v * unit) is normalised by comparing it with all powers of two
below 2^K: the one-hot vector of the exponent k, 2^(k-1) <= x < 2^k, gives c = x / 2^k in [0.5, 1) by one product.
Newton's iteration inverts c or its root at g = 24 fraction bits from a linear first guess, and a table linear in the
one-hot vector brings the power of two back. So the relative error is about 2^-22 over the whole domain, plus one unit
of the result.

K is twice the scale in bits: beyond it the reciprocal is below one unit, and 0 is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.cost import Cost
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.arithmetic import bilinear_cost
from sharetorch.mpc.protocols.selection import Prices
from sharetorch.mpc.protocols.truncation import truncation_cost
from sharetorch.mpc.share import ArithmeticShare

WORKING_BITS = 24
_ONE = 1 << WORKING_BITS
_RECIPROCAL_STEPS = 3
_ROOT_STEPS = 3
_WORD = 60


class Normalised(NamedTuple):
    """A positive number as mantissa and exponent.

    Attributes:
        mantissa: c in [0.5, 1) at 24 fraction bits, shape of the number.
        exponents: one-hot of k = 1 ... K along dimension 0, shape (K, *shape).
    """

    mantissa: ArithmeticShare
    exponents: ArithmeticShare


def exponent_range(unit: int) -> int:
    """K: the largest power of two that normalisation looks at."""
    return max(2 * (unit - 1).bit_length(), 8)


async def normalise(party: Party, x: ArithmeticShare, largest: int) -> Normalised:
    """Mantissa and exponent of 1 <= x < 2^largest. Outside, x = 0 has c = 0 and larger x an empty one-hot vector.

    Cost: ``largest`` thresholds in the same rounds, one product, one truncation.
    """
    bits = (await party.suite.at_least(party, x, [1 << j for j in range(1, largest + 1)])).data
    first = torch.zeros_like(bits[:1])
    if party.is_leader:
        first = first + 1
    onehot = party.ring.reduce(torch.cat([first, bits[:-1]]) - bits)
    factor = _weighted(party, onehot, [1 << (largest - k) for k in range(1, largest + 1)])
    scaled = await party.suite.multiply(party, x, ArithmeticShare(factor))
    return Normalised(await _rescale(party, scaled, largest), ArithmeticShare(onehot))


async def _rescale(party: Party, x: ArithmeticShare, bits: int) -> ArithmeticShare:
    """From ``bits`` fraction bits to the working precision."""
    if bits <= WORKING_BITS:
        return ArithmeticShare(party.ring.reduce(x.data << (WORKING_BITS - bits)))
    share: ArithmeticShare = await party.suite.truncate(party, x, 1 << (bits - WORKING_BITS))
    return share


def _column(values: list[int], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device).reshape(-1, *[1] * like.dim())


def _weighted(party: Party, onehot: Tensor, weights: list[int]) -> Tensor:
    """Sum of weights[k] * onehot[k]: local."""
    total: Tensor = (onehot * _column(weights, onehot[0])).sum(0)
    return torch.as_tensor(party.ring.reduce(total))


def _minus(party: Party, constant: int, x: Tensor) -> ArithmeticShare:
    return ArithmeticShare(party.ring.reduce(constant - x if party.is_leader else -x))


async def _times(party: Party, x: ArithmeticShare, y: ArithmeticShare, shift: int = WORKING_BITS) -> ArithmeticShare:
    product = await party.suite.multiply(party, x, y)
    share: ArithmeticShare = await party.suite.truncate(party, product, 1 << shift)
    return share


async def _invert(party: Party, c: ArithmeticShare) -> ArithmeticShare:
    """1 / c for c in [0.5, 1): w <- w (2 - c w) from w = 2.9142 - 2c, whose error is below 0.086."""
    w = _minus(party, round(2.9142 * _ONE), 2 * c.data)
    for _ in range(_RECIPROCAL_STEPS):
        w = await _times(party, w, _minus(party, 2 * _ONE, (await _times(party, c, w)).data))
    return w


async def _invert_root(party: Party, c: ArithmeticShare) -> ArithmeticShare:
    """1 / sqrt(c) for c in [0.5, 1): y <- y (3 - c y^2) / 2 from y = 1.7867 - 0.8 c, whose error is below 0.03."""
    slope = await party.suite.truncate(party, ArithmeticShare(party.ring.reduce(c.data * 4)), 5)
    y = _minus(party, round(1.7867 * _ONE), slope.data)
    for _ in range(_ROOT_STEPS):
        squared = await _times(party, y, y)
        y = await _times(party, y, _minus(party, 3 * _ONE, (await _times(party, c, squared)).data), WORKING_BITS + 1)
    return y


async def _scale_back(
    party: Party, x: ArithmeticShare, exponents: ArithmeticShare, weight: Callable[[int], float], spare: int
) -> ArithmeticShare:
    """x * weight(k) with ``spare`` bits of the table's entries after the point, then truncated by them."""
    table = [round(weight(k) * 2.0**spare) for k in range(1, exponents.data.shape[0] + 1)]
    factor = ArithmeticShare(_weighted(party, exponents.data, table))
    product = await party.suite.multiply(party, x, factor)
    share: ArithmeticShare = await party.suite.truncate(party, product, 1 << spare)
    return share


class _Signed(NamedTuple):
    """|x|, [x >= 0], and further numbers times the sign of x."""

    magnitude: ArithmeticShare
    bit: ArithmeticShare
    others: tuple[ArithmeticShare, ...]


async def _magnitude(party: Party, x: ArithmeticShare, *others: ArithmeticShare) -> _Signed:
    """|x| = 2 x [x >= 0] - x, and likewise for the others, in the same rounds."""
    operands = (x, *others)
    chosen = await party.suite.choose(party, x, operands)
    signed = [_with_sign(party, y, product) for y, product in zip(operands, chosen.products, strict=True)]
    return _Signed(signed[0], chosen.bit, tuple(signed[1:]))


def _with_sign(party: Party, y: ArithmeticShare, product: ArithmeticShare) -> ArithmeticShare:
    """2 b y - y, which is y times the sign that b stands for."""
    return ArithmeticShare(party.ring.reduce(2 * product.data - y.data))


async def reciprocal(party: Party, x: ArithmeticShare, unit: int) -> ArithmeticShare:
    """1 / v at scale ``unit`` for v != 0 with 1 <= |v| * unit; 0 for |v| beyond unit; of no meaning for v = 0.

    Error: at most 2^-21 of the result and max(2, unit^2 / 2^36) units of it (the latter beyond 18 bits only, where
    small results run out of table digits).

    Cost: K + 1 comparisons in 2 steps, 10 products and 8 truncations one after the other (K > 24; else 7).
    """
    magnitude, bit, _ = await _magnitude(party, x)
    mantissa, exponents = await normalise(party, magnitude, exponent_range(unit))
    w = await _invert(party, mantissa)
    spare = _WORD - 2 * (unit - 1).bit_length()
    result = await _scale_back(party, w, exponents, lambda k: float(unit) * unit * 2.0 ** (-k - WORKING_BITS), spare)
    return _with_sign(party, result, await party.suite.multiply(party, result, bit))


async def divide(party: Party, x: ArithmeticShare, y: ArithmeticShare, unit: int) -> ArithmeticShare:
    """x / y where both numbers are at the same scale; the quotient at scale ``unit``. Shapes are equal.

    The quotient must be below 2^62 / unit / 2^(K/2), and |x| below 2^37 as an integer.
    Error: at most 2^-21 of the quotient and 2 + unit / |y| units of it: a unit of x counts that much, too.

    Cost: as ``reciprocal``, with one more truncation.
    """
    magnitude, _, (signed,) = await _magnitude(party, y, x)
    largest = exponent_range(unit)
    mantissa, exponents = await normalise(party, magnitude, largest)
    numerator = await _times(party, signed, await _invert(party, mantissa))
    spare = largest // 2 + (0 if unit & (unit - 1) == 0 else 12)
    return await _scale_back(party, numerator, exponents, lambda k: unit * 2.0**-k, spare)


async def inverse_square_root(party: Party, x: ArithmeticShare, unit: int) -> ArithmeticShare:
    """1 / sqrt(v) for v > 0. Cost: K comparisons, 11 products and 12 truncations one after the other."""
    mantissa, exponents = await normalise(party, x, exponent_range(unit))
    y = await _invert_root(party, mantissa)
    return await _scale_back(party, y, exponents, lambda k: unit**1.5 * 2.0 ** (-k / 2 - WORKING_BITS), 24 + 6)


async def square_root(party: Party, x: ArithmeticShare, unit: int) -> ArithmeticShare:
    """sqrt(v) for v >= 0, with sqrt(0) = 0. Cost: as ``inverse_square_root`` with one more product and truncation."""
    mantissa, exponents = await normalise(party, x, exponent_range(unit))
    root = await _times(party, mantissa, await _invert_root(party, mantissa))
    return await _scale_back(party, root, exponents, lambda k: unit**0.5 * 2.0 ** (k / 2 - WORKING_BITS), 30)


# Declared prices, for operands that were not opened before, in a suite of these prices.


def _product(opened: int, count: int, prices: Prices) -> Cost:
    return bilinear_cost(opened * count, count, prices.parties)


def _times_cost(opened: int, count: int, prices: Prices) -> Cost:
    return _product(opened, count, prices) + truncation_cost(count, prices.parties)


def normalise_cost(count: int, largest: int, prices: Prices) -> Cost:
    """Declared price of ``normalise``."""
    cost = prices.at_least(count, largest) + _product(1 if prices.opens_operand else 2, count, prices)
    return cost + truncation_cost(count, prices.parties) if largest > WORKING_BITS else cost


def _sequence(*steps: Cost) -> Cost:
    total = Cost()
    for step in steps:
        total += step
    return total


def _invert_cost(count: int, prices: Prices) -> Cost:
    """The mantissa is opened once, each w and each 2 - c w once."""
    opened = [2, 1, *[1, 1] * (_RECIPROCAL_STEPS - 1)]
    return _sequence(*(_times_cost(new, count, prices) for new in opened))


def _invert_root_cost(count: int, prices: Prices) -> Cost:
    """The mantissa is opened once; y, its square and 3 - c y^2 once a step."""
    opened = [1, 2, 1, *[1, 1, 1] * (_ROOT_STEPS - 1)]
    return _sequence(
        truncation_cost(count, prices.parties), *(_times_cost(new, count, prices) for new in opened)
    )


def reciprocal_cost(count: int, unit: int, prices: Prices) -> Cost:
    """Declared price of ``reciprocal``."""
    return _sequence(
        prices.choose(count, 1),
        normalise_cost(count, exponent_range(unit), prices),
        _invert_cost(count, prices),
        _times_cost(2, count, prices),
        _product(1 if prices.opens_bit else 2, count, prices),
    )


def divide_cost(count: int, unit: int, prices: Prices) -> Cost:
    """Declared price of ``divide``."""
    products = (_times_cost(2, count, prices), _times_cost(2, count, prices))
    return _sequence(
        prices.choose(count, 2),
        normalise_cost(count, exponent_range(unit), prices),
        _invert_cost(count, prices),
        *products,
    )


def inverse_square_root_cost(count: int, unit: int, prices: Prices) -> Cost:
    """Declared price of ``inverse_square_root``."""
    normalised = normalise_cost(count, exponent_range(unit), prices)
    return _sequence(normalised, _invert_root_cost(count, prices), _times_cost(2, count, prices))


def square_root_cost(count: int, unit: int, prices: Prices) -> Cost:
    """Declared price of ``square_root``."""
    return inverse_square_root_cost(count, unit, prices) + _times_cost(1, count, prices)
