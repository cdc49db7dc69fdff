"""Shared integers behind shared numbers: what rules compute with, where every scale is public and kept by hand.

Operators of integer tensors are one command each, so that the cost of a rule is the sum of the costs of its lines.
"""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from sharetorch.fl.aggregation.limits import WORD_BITS
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.fixedpoint import INTEGERS, fixed
from sharetorch.mpc.linear import Slot
from sharetorch.mpc.protocols.bilinear import BilinearMap
from sharetorch.mpc.protocols.functions import reciprocal_cost
from sharetorch.mpc.protocols.products import products_cost
from sharetorch.mpc.protocols.selection import Prices
from sharetorch.mpc.protocols.truncation import truncation_cost
from sharetorch.mpc.session import Session
from sharetorch.mpc.tensor import comparison
from sharetorch.mpc.tensor.shared import Handle, SharedTensor

_ALIAS = str(torch.ops.aten.alias.default)
_METHOD = "probabilistic"
_LEAST_UNIT, _MOST_UNIT = 18, 22


def held(x: Tensor) -> SharedTensor:
    """What operators on shared tensors give, as the shared tensor it is."""
    assert isinstance(x, SharedTensor)
    return x


def _alias(x: SharedTensor) -> int:
    (number,) = x.session.command("local", x.handle.number, function=_ALIAS, args=(Slot(0),), kwargs={})
    return number


def integers(session: Session, number: int, shape: tuple[int, ...]) -> SharedTensor:
    """A claim on an object that holds integers."""
    shadow = torch.empty(tuple(shape), dtype=torch.int64, device="meta")
    return SharedTensor(Handle(session, number, INTEGERS), shadow)


def words_of(x: SharedTensor) -> SharedTensor:
    """The integers behind a tensor: a view, so that what was opened of one for products is open of the other."""
    shadow = torch.empty_strided(x.shape, x.stride(), dtype=torch.int64, device="meta")
    return SharedTensor(Handle(x.session, _alias(x), INTEGERS), shadow)


def reals(x: SharedTensor, fraction_bits: int) -> SharedTensor:
    """The numbers that integers stand for."""
    shadow = torch.empty_strided(x.shape, x.stride(), dtype=torch.float32, device="meta")
    return SharedTensor(Handle(x.session, _alias(x), fixed(fraction_bits)), shadow)


def shrunk(x: Tensor, divisor: int) -> SharedTensor:
    """x / divisor, rounded up or down at random so that the mean is exact. Price: ``truncation_cost``."""
    x = held(x)
    if divisor == 1:
        return x
    (number,) = x.session.command("truncate", x.handle.number, divisor=divisor, method=_METHOD)
    return integers(x.session, number, tuple(x.shape))


def shifted(x: Tensor, bits: int) -> SharedTensor:
    """x 2^bits; for negative ``bits`` rounded as by ``shrunk``."""
    return shrunk(x, 1 << -bits) if bits < 0 else held(x * (1 << bits))


def rectified(x: Tensor) -> SharedTensor:
    """max(x, 0). Price: that of ``choose`` with one operand."""
    x = held(x)
    value, bit = x.session.command("relu", x.handle.number, outputs=2)
    x.session.free(bit)
    return integers(x.session, value, tuple(x.shape))


def non_negative(x: Tensor) -> SharedTensor:
    """[x >= 0]. Price: ``sign_cost``."""
    return comparison.non_negative(held(x))


def signs(x: Tensor) -> SharedTensor:
    """-1, 0 or 1: [x >= 0] + [x >= 1] - 1. Price: that of ``at_least`` with two thresholds."""
    return held(comparison.bucketize(held(x), torch.tensor([0, 1])) - 1)


def divided_product(function: BilinearMap, x: Tensor, y: Tensor, divisor: int) -> SharedTensor:
    """function(x, y) / divisor, rounded as by ``shrunk``. Price: ``products_cost``."""
    x, y = held(x), held(y)
    (number,) = x.session.command(
        "bilinear", x.handle.number, y.handle.number, function=function, divisor=divisor, method=_METHOD
    )
    return integers(x.session, number, tuple(function.shape(tuple(x.shape), tuple(y.shape))))


def inverse_roots(x: Tensor, unit: int) -> SharedTensor:
    """1 / sqrt(v) at scale ``unit`` for x = v unit. Price: ``inverse_square_root_cost``."""
    x = held(x)
    (number,) = x.session.command("inverse_square_root", x.handle.number, unit=unit)
    return integers(x.session, number, tuple(x.shape))


def sign_cost(count: int, prices: Prices) -> Cost:
    """Price of ``non_negative``."""
    return prices.choose(count, 0) if prices.opens_operand else prices.at_least(count, 1)


# ------------------------------------------------------------------------------------- division by one secret number


def unit_bits(bits: int) -> int:
    """Scale in bits at which a number below 2^bits is inverted: there the reciprocal is most exact."""
    return min(max(bits, _LEAST_UNIT), _MOST_UNIT)


def spare_shift(bits: int, result_bits: int) -> int:
    """By how many bits a numerator must be shrunk before ``quotient``, so that the product fits.

    Args:
        bits: of the denominator.
        result_bits: of the largest result.
    """
    return max(0, result_bits + unit_bits(bits) + bits + 1 - WORD_BITS)


def quotient(function: BilinearMap, x: Tensor, y: Tensor, bits: int, shift: int) -> SharedTensor:
    """2^shift x / y for one secret number 0 < y < 2^bits; 0 where x is 0.

    Its reciprocal is computed once, at scale 2^u with u = ``unit_bits``, and multiplied with all elements.
    Error: relative 2^-17 up to 18 bits, 2^(u-36) beyond, and one unit.

    Args:
        function: the product of x and y.
        x: integers.
        y: one integer, in a shape that fits the function.
        bits: bound of y.
        shift: by which x was shrunk before.
    """
    unit = unit_bits(bits)
    fraction = shifted(y, unit - bits)
    (number,) = fraction.session.command("reciprocal", fraction.handle.number, unit=1 << unit)
    return divided_product(function, x, integers(fraction.session, number, tuple(y.shape)), 1 << (unit + bits - shift))


def quotient_cost(shape: tuple[int, ...], bits: int, prices: Prices) -> Cost:
    """Price of ``quotient``."""
    count, unit = prod(shape), unit_bits(bits)
    cut = truncation_cost(1, prices.parties) if unit < bits else Cost()
    return cut + reciprocal_cost(1, 1 << unit, prices) + products_cost(count + 1, count, 0, prices.parties)
