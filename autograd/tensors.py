"""Functions of the torch API that are compositions here, or need a derivative of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sharetorch.autograd.engine import apply
from sharetorch.mpc.errors import UnsupportedOperationError
from sharetorch.mpc.fixedpoint import Encoding
from sharetorch.mpc.tensor import shared
from sharetorch.mpc.tensor.location import user_line
from sharetorch.mpc.tensor.shared import Handle, SharedTensor, fresh_shadow, rule


class _Refresh(torch.autograd.Function):
    """Fresh shares of the same secret; the gradient passes unchanged."""

    @staticmethod
    def forward(ctx: Any, x: SharedTensor, encoding: Encoding) -> SharedTensor:
        (number,) = x.session.command("refresh", x.handle.number)
        return SharedTensor(Handle(x.session, number, encoding), fresh_shadow(x.shadow))

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        return gradient, None


def refresh(x: SharedTensor, encoding: Encoding) -> SharedTensor:
    """Fresh shares of the same secret, read in an encoding of the same scale. No messages."""
    result: SharedTensor = apply(_Refresh, x, encoding)
    return result


shared.additions.refresh = refresh


def _by_places(x: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A function that only picks elements, or puts 0: found out on the numbers of the elements, done by one index."""
    places = function(torch.arange(1, x.numel() + 1, dtype=torch.float64).reshape(x.shape))
    return F.pad(x.reshape(-1), (1, 0))[places.to(torch.int64)]


_PAD = F.pad


@rule(F.pad)
def pad(input: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
    """Pad with a constant, or by reflecting, repeating or wrapping."""
    if mode == "constant":
        with torch._C.DisableTorchFunctionSubclass():
            return _PAD(input, pad, mode, value)
    return _by_places(input, lambda places: F.pad(places, pad, mode))


@rule(F.interpolate, F.upsample)
def interpolate(
    input: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *args: Any, **kwargs: Any
) -> Any:
    """Repeat elements to a larger size.

    Raises:
        UnsupportedOperationError: a mode other than the nearest element.
    """
    if mode not in ("nearest", "nearest-exact"):
        raise UnsupportedOperationError(f"interpolate has no secure mode {mode!r}{user_line()}; use mode='nearest'.")
    return _by_places(input, lambda places: F.interpolate(places, size, scale_factor, mode))


@rule(F.unfold)
def unfold(input: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """Patches of an image as columns."""
    return _by_places(input, lambda places: F.unfold(places, kernel_size, dilation, padding, stride))


@rule(F.fold)
def fold(input: Any, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """Columns added up to an image: the transpose of ``unfold``."""
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    taps = torch.Size([kernel_size] * 2 if isinstance(kernel_size, int) else kernel_size).numel()
    shape = (*input.shape[:-2], input.shape[-2] // taps, height, width)
    numbers = torch.arange(1, torch.Size(shape).numel() + 1, dtype=torch.float64).reshape(shape)
    places = F.unfold(numbers, kernel_size, dilation, padding, stride).to(torch.int64)
    total = input.new_zeros(numbers.numel() + 1).index_add(0, places.reshape(-1), input.reshape(-1))
    return total[1:].reshape(shape)


@rule(torch.take, torch.Tensor.take)
def take(input: Any, index: Any) -> Any:
    """Elements by their number in the flattened tensor."""
    return input.reshape(-1)[index]


@rule(torch.numel, torch.Tensor.numel)
def numel(x: Any) -> int:
    """Number of elements, which is public."""
    return int(torch.Size(x.shape).numel())
