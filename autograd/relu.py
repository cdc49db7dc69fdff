"""Functions that choose by a comparison. The comparison's bit is kept, so the backward pass compares nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from sharetorch.autograd.engine import apply, is_shared
from sharetorch.mpc.errors import UnsupportedOperationError
from sharetorch.mpc.tensor.comparison import difference, non_negative, rectify, truth
from sharetorch.mpc.tensor.shared import SharedTensor, rule


class _ReLU(torch.autograd.Function):
    """y = x [x > 0]; the gradient passes where the bit is 1."""

    @staticmethod
    def forward(ctx: Any, x: SharedTensor) -> SharedTensor:
        y, bit = rectify(x)
        ctx.save_for_backward(bit)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        (bit,) = ctx.saved_tensors
        return gradient * bit


@rule(F.relu, torch.relu, torch.Tensor.relu)
def relu(input: SharedTensor, inplace: bool = False) -> SharedTensor:
    """max(x, 0): one comparison and one product."""
    result: SharedTensor = apply(_ReLU, input)
    return input.copy_(result) if inplace else result  # type: ignore[return-value]


@rule(torch.relu_, torch.Tensor.relu_, F.relu_)
def relu_(input: SharedTensor) -> Any:
    """Relu in place."""
    return relu(input, inplace=True)


@rule(F.relu6)
def relu6(input: SharedTensor, inplace: bool = False) -> Any:
    """min(max(x, 0), 6)."""
    return clamp(input, 0, 6)


@rule(F.leaky_relu)
def leaky_relu(input: SharedTensor, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    """Slope x + (1 - slope) relu(x): one comparison."""
    result = input * negative_slope + relu(input) * (1 - negative_slope)
    return input.copy_(result) if inplace else result


@rule(F.hardtanh)
def hardtanh(input: SharedTensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    """x clipped to [min_val, max_val]."""
    return clamp(input, min_val, max_val)


@rule(torch.clamp, torch.Tensor.clamp, torch.clip, torch.Tensor.clip)
def clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    """x clipped from below, above or both: one comparison each."""
    if min is None and max is None:
        raise UnsupportedOperationError("clamp needs min=, max= or both.")
    if min is not None:
        input = maximum(input, min)
    return input if max is None else minimum(input, max)


@rule(torch.clamp_min, torch.Tensor.clamp_min)
def clamp_min(input: SharedTensor, min: Any) -> Any:
    """max(x, min)."""
    return clamp(input, min)


@rule(torch.clamp_max, torch.Tensor.clamp_max)
def clamp_max(input: SharedTensor, max: Any) -> Any:
    """min(x, max)."""
    return clamp(input, None, max)


@rule(torch.Tensor.clamp_, torch.Tensor.clip_)
def clamp_(input: Any, min: Any = None, max: Any = None) -> Any:
    """Clip in place."""
    return input.copy_(clamp(input, min, max))


@rule(torch.maximum, torch.Tensor.maximum, torch.fmax, torch.Tensor.fmax)
def maximum(input: Any, other: Any) -> Any:
    """The larger of two, elementwise: y + relu(x - y)."""
    return other + torch.relu(difference(input, other))


@rule(torch.minimum, torch.Tensor.minimum, torch.fmin, torch.Tensor.fmin)
def minimum(input: Any, other: Any) -> Any:
    """The smaller of two, elementwise: y - relu(y - x)."""
    return other - torch.relu(difference(other, input))


@rule(torch.abs, torch.Tensor.abs, torch.absolute, torch.Tensor.absolute, torch.Tensor.__abs__)
def absolute(input: Any) -> Any:
    """|x| = x (2 [x >= 0] - 1). The derivative at 0 is 1."""
    with torch.no_grad():
        sign = 2 * non_negative(input.detach()) - 1
    return input * sign


@rule(torch.sign, torch.Tensor.sign, torch.sgn, torch.Tensor.sgn)
def sign(input: SharedTensor) -> Any:
    """[x >= 0] - [-x >= 0]: both comparisons in the same rounds."""
    with torch.no_grad():
        x: Any = input.detach()
        stacked: Any = torch.stack([x, -x])
        bits: Any = non_negative(stacked)
        return truth(bits[0] - bits[1], x).to(input.dtype)


@rule(F.threshold)
def threshold(input: Any, threshold: float, value: float, inplace: bool = False) -> Any:
    """x where x > threshold, else ``value``."""
    result = where(input.detach() > threshold, input, value)
    return input.copy_(result) if inplace else result


@rule(torch.where)
def where(condition: Any, input: Any = None, other: Any = None) -> Any:
    """``input`` where the condition holds, else ``other``: a product for a shared condition, local for a public one."""
    if input is None or other is None:
        raise UnsupportedOperationError(
            "torch.where(condition) lists places, which would reveal the condition; give both alternatives."
        )
    if is_shared(condition):
        bits = condition if condition.bits else condition != 0
        return other + bits * (input - other)
    with torch._C.DisableTorchFunctionSubclass():
        return torch.where(condition, input, other)


@rule(torch.Tensor.where)
def where_method(input: Any, condition: Any, other: Any) -> Any:
    """``input.where(condition, other)``."""
    return where(condition, input, other)
