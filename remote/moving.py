"""Moves between workers through which gradients flow back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Move(torch.autograd.Function):
    """Copy a tensor to another worker; its gradient comes back to where it was."""

    @staticmethod
    def forward(ctx: Any, x: Any, worker: Any, user: str | None) -> Any:
        """Let the tensor be copied straight to the worker."""
        ctx.home, ctx.user = x.location, user
        return x.forwarded(worker, remove=False, user=user)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, None, None]:
        """Let the gradient go straight back."""
        (grad,) = grads
        back = (
            grad.forwarded(ctx.home, remove=False, user=ctx.user) if hasattr(grad, "forwarded") else grad.send(ctx.home)
        )
        return back, None, None


class Send(torch.autograd.Function):
    """Send a local tensor; its gradient comes back here."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, send: Any) -> Any:
        """Send by ``send``."""
        return send(x)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, None]:
        """Fetch the gradient."""
        return grads[0].copy().get(), None
