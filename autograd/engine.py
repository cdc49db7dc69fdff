"""``loss.backward()``: PyTorch's engine, started with a public gradient of 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.tensor.constants import constant
from sharetorch.mpc.tensor.shared import SharedTensor, rule


@rule(torch.Tensor.backward)
def backward(
    loss: SharedTensor,
    gradient: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Any = None,
) -> None:
    """Backpropagate; a tensor that is no scalar starts with ones, as in the tutorials."""
    if gradient is None and not loss.encoding.integer:
        gradient = constant(1.0, loss.shadow, loss)
    with torch._C.DisableTorchFunctionSubclass():
        torch.autograd.backward(loss, gradient, retain_graph, create_graph, inputs=inputs)


def apply(function: Any, *args: Any) -> Any:
    """Apply a ``torch.autograd.Function``, whose ``apply`` carries no types."""
    return function.apply(*args)


def sum_to_shape(gradient: Any, shape: torch.Size) -> Any:
    """Undo broadcasting: sum a gradient over the dimensions that were added or repeated."""
    extra = gradient.dim() - len(shape)
    if extra:
        gradient = gradient.sum(tuple(range(extra)))
    repeated = tuple(i for i, size in enumerate(shape) if size == 1 and gradient.shape[i] != 1)
    return gradient.sum(repeated, keepdim=True) if repeated else gradient


def is_shared(x: Any) -> bool:
    """Whether an operand is secret."""
    return isinstance(x, SharedTensor)


def plain(x: Any) -> Tensor:
    """A public operand as a tensor."""
    return x if isinstance(x, Tensor) else torch.as_tensor(x)
