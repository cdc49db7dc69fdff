"""Maxima and minima over a dimension or a whole tensor. The first of equal elements wins, also for the gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from sharetorch.autograd.engine import apply
from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.tensor import comparison
from sharetorch.mpc.tensor.comparison import truth
from sharetorch.mpc.tensor.location import user_line
from sharetorch.mpc.tensor.shared import SharedTensor, rule


class Extreme:
    """Values and indices of maxima, like PyTorch's pair; ``get()`` and ``float_precision()`` act on the values."""

    def __init__(self, values: Any, indices: Any) -> None:
        self.values = values
        self.indices = indices

    def __iter__(self) -> Iterator[Any]:
        return iter((self.values, self.indices))

    def __len__(self) -> int:
        return 2

    def __getitem__(self, place: int) -> Any:
        return (self.values, self.indices)[place]

    def get(self) -> Any:
        """Open the values."""
        return self.values.get()

    def float_precision(self) -> Any:
        """The values in floats."""
        return self.values.float_precision()

    float_prec = float_precision

    def __repr__(self) -> str:
        return f"Extreme(values={self.values!r}, indices={self.indices!r})"


class _Maximum(torch.autograd.Function):
    """Maximum over dimension 0."""

    @staticmethod
    def forward(ctx: Any, x: SharedTensor) -> tuple[SharedTensor, SharedTensor]:
        value, index, trail = comparison.maximum(x)
        ctx.save_for_backward(trail)
        ctx.size = x.shape[0]
        ctx.mark_non_differentiable(index)
        return value, index

    @staticmethod
    def backward(ctx: Any, gradient: Any, _: Any) -> Any:
        (trail,) = ctx.saved_tensors
        return comparison.route(gradient, trail, ctx.size)


def maximum_over_first(x: SharedTensor) -> tuple[SharedTensor, SharedTensor]:
    """Maximum and its index over dimension 0, differentiable."""
    value, index = apply(_Maximum, x)
    return value, index


def _over(x: Any, dim: int | None, keepdim: bool) -> tuple[Any, Any]:
    """Maximum over one dimension, or over all if dim is None."""
    if x.numel() == 0 or (dim is not None and x.dim() and x.shape[dim] == 0):
        raise ShapeError(f"The maximum of no elements, shape {tuple(x.shape)}, does not exist{user_line()}.")
    if dim is None:
        value, index = maximum_over_first(x.reshape(-1))
        return (value.reshape([1] * x.dim()), index.reshape([1] * x.dim())) if keepdim else (value, index)
    if x.dim() == 0:
        zero: Any = comparison.non_negative(x) * 0
        return x, truth(zero, x)
    value, index = maximum_over_first(x.movedim(dim, 0))
    return (value.unsqueeze(dim), index.unsqueeze(dim)) if keepdim else (value, index)


def _with_index(x: Any, dim: Any, keepdim: bool) -> Extreme:
    value, index = _over(x, dim, keepdim)
    return Extreme(value, truth(index, x))


@rule(torch.max, torch.Tensor.max)
def maximum(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Maximum of all elements; with ``dim`` values and indices along it; with a tensor the elementwise maximum."""
    if isinstance(dim, torch.Tensor):
        return torch.maximum(input, dim)
    if dim is None:
        return _over(input, None, keepdim)[0]
    return _with_index(input, dim, keepdim)


@rule(torch.min, torch.Tensor.min)
def minimum(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Minimum, in the forms of ``maximum``."""
    if isinstance(dim, torch.Tensor):
        return torch.minimum(input, dim)
    if dim is None:
        return -_over(-input, None, keepdim)[0]
    found = _with_index(-input, dim, keepdim)
    return Extreme(-found.values, found.indices)


@rule(torch.amax, torch.Tensor.amax)
def amax(input: Any, dim: Any = (), keepdim: bool = False) -> Any:
    """Maximum over some dimensions; the gradient goes to the first maximum."""
    for one in _dimensions(input, dim):
        input = _over(input, one, True)[0]
    return input if keepdim else input.squeeze(_dimensions(input, dim))


@rule(torch.amin, torch.Tensor.amin)
def amin(input: Any, dim: Any = (), keepdim: bool = False) -> Any:
    """Minimum over some dimensions."""
    return -amax(-input, dim, keepdim)


@rule(torch.aminmax, torch.Tensor.aminmax)
def aminmax(input: Any, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """Minimum and maximum of all elements or along a dimension."""
    dims = () if dim is None else dim
    return torch.return_types.aminmax((amin(input, dims, keepdim), amax(input, dims, keepdim)))


def _dimensions(x: Any, dim: Any) -> tuple[int, ...]:
    given = (dim,) if isinstance(dim, int) else tuple(dim)
    return tuple(d % x.dim() for d in given) if given else tuple(range(x.dim()))


@rule(torch.argmax, torch.Tensor.argmax)
def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Index of the first maximum over all elements or along a dimension."""
    with torch.no_grad():
        return truth(_over(input.detach(), dim, keepdim)[1], input)


@rule(torch.argmin, torch.Tensor.argmin)
def argmin(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Index of the first minimum over all elements or along a dimension."""
    return argmax(-input.detach(), dim, keepdim)
