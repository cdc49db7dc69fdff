"""Division and roots, whose backward passes reuse what the forward pass computed; variance and products."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sharetorch.autograd.engine import apply, is_shared, sum_to_shape
from sharetorch.mpc.tensor.shared import SharedTensor, rule

_aten = torch.ops.aten


class _Divide(torch.autograd.Function):
    """q = x / y; dx = g / y, dy = -g q / y with one reciprocal in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Any, y: SharedTensor) -> Any:
        q = _aten.div.Tensor(x, y)
        ctx.save_for_backward(y, q)
        ctx.shapes = (x.shape, y.shape)
        return q

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        y, q = ctx.saved_tensors
        for_x = gradient * torch.reciprocal(y)
        for_y = -(for_x * q) if ctx.needs_input_grad[1] else None
        return (
            sum_to_shape(for_x, ctx.shapes[0]) if ctx.needs_input_grad[0] else None,
            None if for_y is None else sum_to_shape(for_y, ctx.shapes[1]),
        )


@rule(torch.div, torch.Tensor.div, torch.Tensor.__truediv__, torch.true_divide, torch.Tensor.true_divide)
def divide(input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """x / y for shared or public y."""
    if rounding_mode is not None:
        with torch._C.DisableTorchFunctionSubclass():
            return torch.div(input, other, rounding_mode=rounding_mode)
    if not is_shared(other):
        with torch._C.DisableTorchFunctionSubclass():
            return torch.div(input, other)
    if not isinstance(input, Tensor) or input.dim() == 0 and not is_shared(input):
        return torch.reciprocal(other) * input
    return apply(_Divide, input, other)


@rule(torch.Tensor.__rtruediv__, torch.Tensor.__rdiv__)
def divide_reversed(input: Any, other: Any) -> Any:
    """Other / x."""
    return divide(other, input)


class _SquareRoot(torch.autograd.Function):
    """dx = g / (2 sqrt(x))."""

    @staticmethod
    def forward(ctx: Any, x: SharedTensor) -> Any:
        ctx.save_for_backward(x)
        return _aten.sqrt.default(x)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (x,) = ctx.saved_tensors
        return gradient * _aten.rsqrt.default(x) * 0.5


@rule(torch.sqrt, torch.Tensor.sqrt)
def square_root(input: SharedTensor) -> Any:
    """Square root for x >= 0."""
    return apply(_SquareRoot, input)


class _InverseSquareRoot(torch.autograd.Function):
    """y = 1 / sqrt(x); dx = -g y^3 / 2."""

    @staticmethod
    def forward(ctx: Any, x: SharedTensor) -> Any:
        y = _aten.rsqrt.default(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (y,) = ctx.saved_tensors
        return gradient * y * (y * y) * -0.5


@rule(torch.rsqrt, torch.Tensor.rsqrt)
def inverse_square_root(input: SharedTensor) -> Any:
    """1 / sqrt(x) for x > 0."""
    return apply(_InverseSquareRoot, input)


@rule(torch.var, torch.Tensor.var)
def variance(
    input: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    """Mean squared distance from the mean, divided by n - correction."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    dims = tuple(range(input.dim())) if dim is None else ((dim,) if isinstance(dim, int) else tuple(dim))
    count = math.prod(input.shape[d] for d in dims)
    centred = input - input.mean(dims, keepdim=True)
    factor = 1 / (count - correction) if count > correction else math.nan
    return (centred * centred).sum(dims, keepdim=keepdim) * factor


@rule(torch.std, torch.Tensor.std)
def deviation(
    input: Any, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    """Square root of the variance."""
    return torch.sqrt(variance(input, dim, unbiased, keepdim, correction=correction))


@rule(torch.var_mean)
def variance_and_mean(input: Any, dim: Any = None, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Variance, and the mean."""
    keepdim = kwargs.get("keepdim", args[1] if len(args) > 1 else False)
    dims = None if isinstance(dim, bool) else dim
    mean = input.mean() if dims is None and not keepdim else input.mean(dims, keepdim=keepdim)
    return variance(input, dim, *args, **kwargs), mean


@rule(torch.std_mean)
def deviation_and_mean(input: Any, dim: Any = None, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """Standard deviation, and the mean."""
    var, mean = variance_and_mean(input, dim, *args, **kwargs)
    return torch.sqrt(var), mean


@rule(torch.cumprod, torch.Tensor.cumprod)
def cumulative_product(input: Any, dim: int, *, dtype: Any = None) -> Any:
    """Products of the first 1, 2, ... elements along a dimension, one product after the other."""
    input = input if dtype is None else input.to(dtype)
    rows = list(input.unbind(dim))
    for i in range(1, len(rows)):
        rows[i] = rows[i - 1] * rows[i]
    return torch.stack(rows, dim)


@rule(torch.prod, torch.Tensor.prod)
def product(input: Any, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """Product of all elements or along a dimension, by a tree of pairwise products."""
    input = input if dtype is None else input.to(dtype)
    x = input.reshape(-1) if dim is None else input.movedim(dim, 0)
    if x.shape[0] == 0:
        result = torch.ones_like(x.sum(0))
        return result if dim is None or not keepdim else result.unsqueeze(dim)
    while x.shape[0] > 1:
        pairs = x.shape[0] // 2
        multiplied = x[0 : 2 * pairs : 2] * x[1 : 2 * pairs : 2]
        x = torch.cat([multiplied, x[2 * pairs :]]) if x.shape[0] % 2 else multiplied
    result = x[0]
    return result if dim is None or not keepdim else result.unsqueeze(dim)


@rule(torch.square, torch.Tensor.square)
def square(input: SharedTensor) -> Any:
    """x * x, one opening."""
    return input * input


@rule(torch.reciprocal, torch.Tensor.reciprocal)
def reciprocal(input: SharedTensor) -> Any:
    """1 / x."""
    with torch._C.DisableTorchFunctionSubclass():
        return torch.reciprocal(input)
