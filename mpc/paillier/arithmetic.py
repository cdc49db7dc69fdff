"""Sums, and products with public operands, element by element."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import CiphertextProductError, DivisionByZeroError, WrongKeyError
from sharetorch.mpc.paillier import ciphertexts
from sharetorch.mpc.paillier.ciphertexts import Cell
from sharetorch.mpc.paillier.encoding import as_tensor, common_unit, encode, logical_dtype, operand
from sharetorch.mpc.paillier.tensor import PaillierTensor, aten, derived, on_meta, require_room, unsupported
from sharetorch.mpc.tensor.location import user_line

_aten = torch.ops.aten

_LARGEST_DIVISOR = 1 << 64


def require_same_key(x: PaillierTensor, y: PaillierTensor) -> None:
    """Raise if two tensors are encrypted under different keys.

    Raises:
        WrongKeyError: they are.
    """
    if x.public_key != y.public_key:
        raise WrongKeyError(
            f"One tensor is encrypted under {x.public_key}, the other under {y.public_key}{user_line()}. Encrypt both "
            "under one key."
        )


def no_product(func: Any) -> CiphertextProductError:
    """The error for a product of two ciphertexts."""
    return CiphertextProductError(
        f"{func} would multiply two encrypted tensors{user_line()}, which Paillier cannot: it adds, and multiplies by "
        "public tensors. Let the holder of the private key decrypt one of them, or share both instead, "
        "x.share(alice, bob, crypto_provider=...), where products of secrets are available."
    )


def at_unit(x: PaillierTensor, unit: int) -> PaillierTensor:
    """The same numbers as integers in a unit that is a multiple of their own."""
    factor = unit // x.content.scale.unit
    if factor == 1:
        return x
    require_room(x.content.bound * factor, x.content.key)
    cells = ciphertexts.scaled(x.content.cells, [factor] * x.numel(), x.content.key)
    like = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, torch.float32), device="meta")
    return derived(x, like, cells, x.content.bound * factor, x.content.scale.with_unit(unit))


def spread(x: PaillierTensor, shape: torch.Size) -> list[Cell]:
    """Ciphertexts of ``x`` broadcast to a shape."""
    if x.shape == shape:
        return list(x.content.cells)
    places = torch.arange(x.numel()).reshape(x.shape).expand(shape)
    return [x.content.cells[place] for place in places.reshape(-1).tolist()]


def _spread_public(y: Any, shape: torch.Size) -> Tensor:
    return as_tensor(y).detach().expand(shape)


def negative(x: PaillierTensor) -> PaillierTensor:
    """Opposites."""
    return derived(x, x, ciphertexts.negated(x.content.cells, x.content.key), x.content.bound, x.content.scale)


def _sum_encrypted(x: PaillierTensor, y: PaillierTensor, like: Tensor) -> PaillierTensor:
    require_same_key(x, y)
    unit = common_unit(x.content.scale.unit, y.content.scale.unit)
    x, y = at_unit(x, unit), at_unit(y, unit)
    cells = ciphertexts.added(spread(x, like.shape), spread(y, like.shape), x.content.key)
    scale = x.content.scale.finer(y.content.scale).with_unit(unit)
    return derived(x, like, cells, x.content.bound + y.content.bound, scale)


def _sum_public(x: PaillierTensor, y: Any, like: Tensor, alpha: Any) -> PaillierTensor:
    y, scale = _spread_public(y, like.shape), x.content.scale
    if isinstance(alpha, float):
        y, alpha = y.double() * alpha, 1
    unit = scale.unit if logical_dtype(y) == torch.int64 else common_unit(scale.unit, scale.nominal)
    integers = [int(alpha) * integer for integer in encode(y, unit)]
    x = at_unit(x, unit)
    bound = x.content.bound + max(map(abs, integers), default=0)
    require_room(bound, x.content.key)
    plain = ciphertexts.without_noise(integers, x.content.key)
    cells = ciphertexts.added(spread(x, like.shape), plain, x.content.key)
    return derived(x, like, cells, bound, x.content.scale)


@aten(_aten.add.Tensor, _aten.add.Scalar)
def add(func: Any, x: Any, y: Any, alpha: Any = 1) -> PaillierTensor:
    """The sum x + alpha y, one of them encrypted or both."""
    like = on_meta(func, (x, y), {"alpha": alpha})
    if not isinstance(y, PaillierTensor):
        return _sum_public(x, y, like, alpha)
    if alpha != 1:
        y = negative(y) if alpha == -1 else y * alpha
    return _sum_encrypted(x, y, like) if isinstance(x, PaillierTensor) else _sum_public(y, x, like, 1)


@aten(_aten.sub.Tensor, _aten.sub.Scalar)
def subtract(func: Any, x: Any, y: Any, alpha: Any = 1) -> Any:
    """The difference x - alpha y."""
    on_meta(func, (x, y), {"alpha": alpha})
    return add(_aten.add.Tensor, x, y, -alpha)


@aten(_aten.rsub.Tensor, _aten.rsub.Scalar)
def subtract_from(func: Any, x: Any, y: Any, alpha: Any = 1) -> Any:
    """The difference y - alpha x."""
    like = on_meta(func, (x, y, alpha), {}) if func is _aten.rsub.Scalar else on_meta(func, (x, y), {"alpha": alpha})
    if isinstance(y, Tensor):
        return subtract(_aten.sub.Tensor, y, x, alpha)
    return _sum_public(negative(x) if alpha == 1 else x * -alpha, y, like, 1)


@aten(_aten.neg.default)
def negate(func: Any, x: PaillierTensor) -> PaillierTensor:
    """-x."""
    return negative(x)


@aten(_aten.mul.Tensor, _aten.mul.Scalar)
def multiply(func: Any, x: Any, y: Any) -> PaillierTensor:
    """The product x y, one of them public."""
    if isinstance(x, PaillierTensor) and isinstance(y, PaillierTensor):
        raise no_product(func)
    if not isinstance(x, PaillierTensor):
        x, y = y, x
    like = on_meta(func, (x, y), {})
    factors = operand(_spread_public(y, like.shape) if isinstance(y, Tensor) and y.numel() > 1 else y, x.content.scale)
    integers = factors.integers * like.numel() if len(factors.integers) == 1 < like.numel() else factors.integers
    if not like.numel():
        integers = []
    require_room(x.content.bound * factors.largest, x.content.key)
    cells = ciphertexts.scaled(spread(x, like.shape), integers, x.content.key)
    scale = x.content.scale
    return derived(x, like, cells, x.content.bound * factors.largest, scale.with_unit(scale.unit * factors.unit))


@aten(_aten.div.Tensor, _aten.div.Scalar)
def divide(func: Any, x: Any, y: Any) -> PaillierTensor:
    """The quotient x / y for public y.

    A whole number divides exactly: it becomes part of the unit, which everybody sees. Any other divisor is replaced by
    its reciprocal in the nominal digits.

    Raises:
        DivisionByZeroError: y holds a 0.
    """
    if not isinstance(x, PaillierTensor) or isinstance(y, PaillierTensor):
        raise unsupported(func)
    like = on_meta(func, (x, y), {})
    divisors = as_tensor(y).detach()
    if bool((divisors == 0).any()):
        raise DivisionByZeroError(
            f"An encrypted tensor would be divided by 0{user_line()}. Keep zeros out of the divisor."
        )
    if divisors.numel() == 1 and _is_whole(divisors):
        return _exact_quotient(x, int(divisors.item()), like)
    product: PaillierTensor = multiply(_aten.mul.Tensor, x, divisors.double().reciprocal())
    return PaillierTensor(product.content, like.shape, like.dtype)


def _is_whole(divisor: Tensor) -> bool:
    if divisor.dtype.is_complex:
        return False
    value = divisor.item()
    return math.isfinite(value) and abs(value) <= _LARGEST_DIVISOR and value == int(value)


def _exact_quotient(x: PaillierTensor, divisor: int, like: Tensor) -> PaillierTensor:
    x = negative(x) if divisor < 0 else x
    scale = x.content.scale
    cells = spread(x, like.shape)
    return derived(x, like, cells, x.content.bound, scale.with_unit(scale.unit * abs(divisor)))


@aten(_aten.pow.Tensor_Scalar, _aten.pow.Tensor_Tensor, _aten.square.default, _aten.prod.default, _aten.prod.dim_int)
def power(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Products of an encrypted tensor with itself: refused."""
    raise no_product(func)
