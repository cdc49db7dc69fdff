"""Pooling: windows are gathered locally; maxima by the suite's tree, averages by a sum and a public factor."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.nn import functional as F

from sharetorch.autograd.engine import apply
from sharetorch.autograd.extremes import maximum_over_first
from sharetorch.mpc.errors import ShapeError, UnsupportedOperationError
from sharetorch.mpc.linear import GATHER_WINDOWS, SCATTER_WINDOWS
from sharetorch.mpc.protocols.bilinear import Geometry
from sharetorch.mpc.tensor.location import user_line
from sharetorch.mpc.tensor.pending import Relu, waiting
from sharetorch.mpc.tensor.shared import SharedTensor, rule
from sharetorch.mpc.tensor.structural import apply_local

_LOWEST_BITS = 60


class _Windows(torch.autograd.Function):
    """(batch, channels, *space) -> (taps, batch, channels, *positions)."""

    @staticmethod
    def forward(ctx: Any, x: SharedTensor, geometry: Geometry) -> SharedTensor:
        ctx.geometry = geometry
        windows: SharedTensor = apply_local(GATHER_WINDOWS, x, geometry)
        return windows

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return apply_local(SCATTER_WINDOWS, gradient, ctx.geometry), None


def _numbers(value: Any, dims: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, (tuple, list, torch.Size)) else (value,)
    return values * dims if len(values) == 1 else values


def _windows(x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, dims: int, fill: float) -> Any:
    """Gather pooling windows; padding holds ``fill``."""
    kernel, padding, dilation = _numbers(kernel, dims), _numbers(padding, dims), _numbers(dilation, dims)
    stride = kernel if stride is None or stride == [] or stride == () else _numbers(stride, dims)
    if any(2 * pad > size for pad, size in zip(padding, kernel, strict=True)):
        raise ShapeError(f"Padding {padding} is more than half of the window {kernel}{user_line()}.")
    if any(padding):
        x = F.pad(x, [pad for size in reversed(padding) for pad in (size, size)], value=fill)
    channels = x.shape[1]
    shape = (channels, 1, *kernel)
    geometry = Geometry(tuple(x.shape), shape, stride, (0,) * dims, dilation, channels)
    if any(size < 1 for size in geometry.space):
        raise ShapeError(f"A window of {kernel} does not fit into an image of {tuple(x.shape[2:])}{user_line()}.")
    return apply(_Windows, x, geometry)


def _batched(x: Any, dims: int, pool: Callable[[Any], Any]) -> Any:
    """Pool with a batch dimension, added for single images."""
    if x.dim() == dims + 1:
        return pool(x.unsqueeze(0)).squeeze(0)
    if x.dim() != dims + 2:
        raise ShapeError(f"Pooling over {dims} dimensions needs {dims + 1} or {dims + 2}, not {x.dim()}{user_line()}.")
    return pool(x)


def _refuse_options(ceil_mode: bool, return_indices: bool = False) -> None:
    if ceil_mode or return_indices:
        option = "ceil_mode" if ceil_mode else "return_indices"
        raise UnsupportedOperationError(
            f"Pooling of shared tensors has no {option}=True{user_line()}; pad the image instead."
        )


def _max_pool(x: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, dims: int) -> Any:
    relu = waiting(x, Relu)
    if relu is not None:
        return torch.relu(_max_pool(relu.pass_over(), kernel, stride, padding, dilation, dims))
    lowest = -(2.0**_LOWEST_BITS) / x.encoding.unit
    return _batched(
        x, dims, lambda image: maximum_over_first(_windows(image, kernel, stride, padding, dilation, dims, lowest))[0]
    )


@rule(F.max_pool2d, torch.max_pool2d)
def max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over 2-d windows."""
    _refuse_options(ceil_mode, return_indices)
    return _max_pool(input, kernel_size, stride, padding, dilation, 2)


@rule(F.max_pool1d, torch.max_pool1d)
def max_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over 1-d windows."""
    _refuse_options(ceil_mode, return_indices)
    return _max_pool(input, kernel_size, stride, padding, dilation, 1)


def _avg_pool(x: Any, kernel: Any, stride: Any, padding: Any, include_pad: bool, divisor: int | None, dims: int) -> Any:
    taps = prod(_numbers(kernel, dims))
    summed = _batched(x, dims, lambda image: _windows(image, kernel, stride, padding, 1, dims, 0.0).sum(0))
    if any(_numbers(padding, dims)) and not include_pad and divisor is None:
        ones = torch.ones((1, 1, *x.shape[-dims:]))
        pool = F.avg_pool2d if dims == 2 else F.avg_pool1d
        share = pool(ones, kernel, stride, padding, count_include_pad=True)  # fraction of the window inside the image
        return summed * (1 / (share * taps).round()).reshape(summed.shape[-dims:])
    return summed * (1 / (divisor or taps))


@rule(F.avg_pool2d)
def avg_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Mean over 2-d windows."""
    _refuse_options(ceil_mode)
    return _avg_pool(input, kernel_size, stride, padding, count_include_pad, divisor_override, 2)


@rule(F.avg_pool1d)
def avg_pool1d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:
    """Mean over 1-d windows."""
    _refuse_options(ceil_mode)
    return _avg_pool(input, kernel_size, stride, padding, count_include_pad, None, 1)


def _goals(x: Any, output_size: Any, dims: int) -> tuple[int, ...]:
    """Cells asked for in each spatial dimension; None keeps the size."""
    sizes, given = x.shape[-dims:], _numbers(output_size, dims)
    goals = tuple(size if goal is None else goal for size, goal in zip(sizes, given, strict=True))
    if any(goal < 1 for goal in goals):
        raise ShapeError(f"Pooling to {goals} cells leaves nothing{user_line()}; ask for at least 1.")
    return goals


def _adaptive(x: Any, output_size: Any, dims: int, reduce: Callable[[Any, int], Any]) -> Any:
    """Split each spatial dimension into as many cells as asked for and reduce each cell over its last dims."""
    for place, goal in enumerate(_goals(x, output_size, dims)):
        dim = x.dim() - dims + place
        size = x.shape[dim]
        cells = [
            reduce(x.narrow(dim, i * size // goal, -(-(i + 1) * size // goal) - i * size // goal), dim)
            for i in range(goal)
        ]
        x = torch.cat(cells, dim)
    return x


def _adaptive_average(x: Any, output_size: Any, dims: int) -> Any:
    goals = _goals(x, output_size, dims)
    if all(goal == 1 for goal in goals):
        return x.mean(tuple(range(-dims, 0)), keepdim=True)
    if all(size % goal == 0 for size, goal in zip(x.shape[-dims:], goals, strict=True)):
        kernel = tuple(size // goal for size, goal in zip(x.shape[-dims:], goals, strict=True))
        return _avg_pool(x, kernel, kernel, 0, True, None, dims)
    return _adaptive(x, output_size, dims, lambda cell, dim: cell.mean(dim, keepdim=True))


@rule(F.adaptive_avg_pool2d)
def adaptive_avg_pool2d(input: Any, output_size: Any) -> Any:
    """Mean over a fixed number of cells."""
    return _adaptive_average(input, output_size, 2)


@rule(F.adaptive_avg_pool1d)
def adaptive_avg_pool1d(input: Any, output_size: Any) -> Any:
    """Mean over a fixed number of cells."""
    return _adaptive_average(input, output_size, 1)


@rule(F.adaptive_max_pool2d)
def adaptive_max_pool2d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """Maximum over a fixed number of cells."""
    _refuse_options(False, return_indices)
    return _adaptive(input, output_size, 2, lambda cell, dim: cell.max(dim, keepdim=True).values)


@rule(F.adaptive_max_pool1d)
def adaptive_max_pool1d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """Maximum over a fixed number of cells."""
    _refuse_options(False, return_indices)
    return _adaptive(input, output_size, 1, lambda cell, dim: cell.max(dim, keepdim=True).values)
