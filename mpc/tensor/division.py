"""Powers, division and roots of shared tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import DivisionByZeroError, UnsupportedOperationError
from sharetorch.mpc.fixedpoint import fixed
from sharetorch.mpc.tensor.arithmetic import is_scalar, make, multiply, scale, typed
from sharetorch.mpc.tensor.encodings import align, as_shared, to_encoding, truncate_to
from sharetorch.mpc.tensor.location import user_line
from sharetorch.mpc.tensor.shared import SharedTensor, aten
from sharetorch.mpc.tensor.structural import apply_local, on_shadows

_aten = torch.ops.aten


@aten(_aten.pow.Tensor_Scalar)
def power(func: Any, x: SharedTensor, exponent: Any) -> Any:
    """X to a public multiple of 1/2: by squaring, a square root and a reciprocal as needed.

    Raises:
        UnsupportedOperationError: another exponent.
    """
    if not float(2 * exponent).is_integer():
        raise UnsupportedOperationError(
            f"x ** {exponent} has no secure form{user_line()}; exponents are whole and half numbers. Use x * x or sqrt."
        )
    if exponent == -0.5:
        return _aten.rsqrt(x)
    if exponent < 0:
        return power(func, _aten.reciprocal(x), -exponent)
    if not float(exponent).is_integer():
        root = _aten.sqrt(x)
        return root if exponent == 0.5 else root * power(func, x, int(exponent))
    return _whole_power(x, int(exponent))


def _whole_power(x: Any, exponent: int) -> Any:
    if exponent == 0:
        return _aten.ones_like(x)
    if exponent == 1:
        return _aten.clone(x)
    half = x if exponent in (2, 3) else _whole_power(x, exponent // 2)
    return half * half * x if exponent % 2 else half * half


@aten(_aten.square.default)
def square(func: Any, x: SharedTensor) -> Any:
    """x * x with one opening."""
    return multiply(_aten.mul.Tensor, x, x)


@aten(_aten.div.Scalar, _aten.div.Tensor)
def divide(func: Any, x: Any, y: Any) -> Any:
    """x / y: a product with the inverse for public y, division by iteration for shared y.

    Raises:
        DivisionByZeroError: y is the public number 0.
    """
    if isinstance(y, SharedTensor):
        return _divide_by_secret(x, y)
    if is_scalar(y):
        number = y.item() if isinstance(y, Tensor) else y
        if number == 0:
            raise DivisionByZeroError(f"Division of a shared tensor by 0{user_line()}; the result would be infinite.")
        return typed(scale(_real(x), 1 / number), on_shadows(func, (x, y), {}))
    if bool((y == 0).any()):
        raise DivisionByZeroError(
            f"Division of a shared tensor by a tensor that holds 0{user_line()}; the result would be infinite."
        )
    return multiply(_aten.mul.Tensor, _real(x), 1 / y)


def _real(x: SharedTensor) -> SharedTensor:
    return to_encoding(x, fixed()) if x.encoding.integer else x


def _divide_by_secret(x: Any, y: SharedTensor) -> SharedTensor:
    shadow = on_shadows(_aten.div.Tensor, (x, y), {})
    y = _real(y)
    if not isinstance(x, SharedTensor) and is_scalar(x):
        return typed(scale(reciprocal(_aten.reciprocal.default, y), x), shadow)
    x, y = align(_real(as_shared(x, y)), y)
    x, y = (truncate_to(operand, operand.encoding.precision) for operand in (x, y))
    shape = torch.broadcast_shapes(x.shape, y.shape)
    x, y = (apply_local(_aten.expand.default, operand, list(shape)) for operand in (x, y))
    (number,) = x.session.command("divide", x.handle.number, y.handle.number, unit=y.encoding.unit)
    return make(x.session, number, y.encoding, shadow)


def _function(name: str, x: SharedTensor) -> SharedTensor:
    x = _real(x)
    x = truncate_to(x, x.encoding.precision)
    (number,) = x.session.command(name, x.handle.number, unit=x.encoding.unit)
    return make(x.session, number, x.encoding, x.shadow)


@aten(_aten.reciprocal.default)
def reciprocal(func: Any, x: SharedTensor) -> SharedTensor:
    """1 / x by normalisation and Newton's iteration, |x| of at least one unit of the encoding."""
    return _function("reciprocal", x)


@aten(_aten.sqrt.default)
def square_root(func: Any, x: SharedTensor) -> SharedTensor:
    """The square root by normalisation and Newton's iteration, for x >= 0."""
    return _function("square_root", x)


@aten(_aten.rsqrt.default)
def inverse_square_root(func: Any, x: SharedTensor) -> SharedTensor:
    """1 / sqrt(x) by normalisation and Newton's iteration, for x > 0."""
    return _function("inverse_square_root", x)


@aten(_aten.addcdiv.default)
def add_quotient(func: Any, c: Any, x: Any, y: Any, *, value: Any = 1) -> Any:
    """C + value * x / y."""
    return c + value * (x / y)


@aten(_aten.linalg_vector_norm.default)
def vector_norm(func: Any, x: Any, order: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Euclidean norm, sum of magnitudes or largest magnitude; the sum of squares must stay below 2^(fraction bits)."""
    dims = list(range(x.dim())) if dim is None else dim
    if order == 2:
        return _aten.sqrt(_aten.sum(x * x, dims, keepdim))
    if order == 1:
        return _aten.sum(_aten.abs(x), dims, keepdim)
    raise UnsupportedOperationError(
        f"The norm of order {order} has no secure form{user_line()}; 1 and 2 are available."
    )
