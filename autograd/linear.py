"""Linear layers: the backward pass opens the gradient once for both products; that of the weights can wait."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from sharetorch.autograd.engine import apply, is_shared
from sharetorch.mpc.tensor.products import linear as product_of_rows
from sharetorch.mpc.tensor.products import weight_gradient
from sharetorch.mpc.tensor.shared import rule


class _Linear(torch.autograd.Function):
    """y = x w^T + b; dx = g w, dw = g^T x, db = the sum of g over rows. x is a matrix.

    The view w^T is saved and not the parameter, which can be exchanged as long as nothing holds it.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any, b: Any) -> Any:
        transposed = w.t()
        ctx.save_for_backward(x, transposed)
        return product_of_rows(x, transposed, b)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        x, transposed = ctx.saved_tensors
        for_x, for_w, for_b = ctx.needs_input_grad
        return (
            torch.mm(gradient, transposed.t()) if for_x else None,
            weight_gradient(gradient.t(), x) if for_w else None,
            gradient.sum(0) if for_b else None,
        )


_LINEAR = F.linear


@rule(F.linear)
def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    """x w^T + b over the last dimension."""
    if not (is_shared(input) and is_shared(weight)) or input.dim() == 0:
        with torch._C.DisableTorchFunctionSubclass():
            return _LINEAR(input, weight, bias)
    rows = input if input.dim() == 2 else input.reshape(-1, input.shape[-1])
    result = apply(_Linear, rows, weight, bias)
    return result if input.dim() == 2 else result.reshape(*input.shape[:-1], -1)
