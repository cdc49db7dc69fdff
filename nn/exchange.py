"""Exchanging what tensors are, in place, so that a model and its optimizers go on with the same objects.

``torch.utils.swap_tensors`` exchanges what a parameter is without making a new one. It refuses parameters of a graph
that is still alive. Where one of the two is a pointer the graph may live on: it keeps what it recorded, and a later
backward pass through it no longer reaches the parameter.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sharetorch.mpc.errors import ShareTorchError


def become(old: Any, new: Any) -> Any:
    """Let ``old`` be what ``new`` is, keeping its identity, and drop its gradient.

    Of pointers of the same form only the claims are exchanged. What ``old`` points to must still exist.

    Raises:
        RuntimeError: ``old`` is still part of a graph, or weakly referenced.
    """
    old.grad = None
    if _claims(old) and _claims(new) and _form(old) == _form(new):
        old.handle = new.handle
        return old
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new.detach(), requires_grad=old.requires_grad)
    if _claims(old) or _claims(new) or _ended(old):
        _swap(old, new)
    else:
        torch.utils.swap_tensors(old, new)
    return old


def _swap(one: Tensor, other: Tensor) -> None:
    """``torch.utils.swap_tensors`` without its check that no graph holds the tensors."""
    one.__class__, other.__class__ = other.__class__, one.__class__
    one.__dict__, other.__dict__ = other.__dict__, one.__dict__
    torch._C._swap_tensor_impl(one, other)


def _claims(x: Any) -> bool:
    """Whether a tensor is nothing but a form and a claim on an object of a worker."""
    return hasattr(getattr(x, "handle", None), "link")


def _ended(x: Any) -> bool:
    """Whether a tensor belongs to a session that is over: a graph that holds it can do nothing any more."""
    return bool(getattr(getattr(getattr(x, "handle", None), "session", None), "ended", False))


def _form(x: Tensor) -> tuple[Any, ...]:
    return x.shape, x.stride(), x.storage_offset(), x.dtype


def exchange(
    model: nn.Module, tensors: Iterable[Tensor], change: Callable[[Tensor], Tensor], gradients: bool = False
) -> nn.Module:
    """Let tensors of a model become ``change`` of themselves: all, or none if one cannot be made.

    Args:
        model: whose they are.
        tensors: parameters and buffers, each once; those that ``change`` gives back stay as they are.
        change: from what is to what shall be.
        gradients: whether gradients change likewise; else they are dropped.

    Returns:
        The model itself.

    Raises:
        ShareTorchError: a parameter is still part of a graph; then nothing is changed.
    """
    olds = list(tensors)
    with torch.no_grad():
        news = [change(old) for old in olds]
        grads = [change(old.grad) if gradients and old.grad is not None else None for old in olds]
    recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    for module in recurrent:
        module._flat_weight_refs = []  # weak references forbid the exchange; torch makes them anew
    try:
        _become_all(olds, news, grads)
    finally:
        for module in recurrent:
            module._init_flat_weights()
    return model


def _become_all(olds: Sequence[Tensor], news: Sequence[Tensor], grads: Sequence[Tensor | None]) -> None:
    pairs = [pair for pair in zip(olds, news, grads, strict=True) if pair[0] is not pair[1]]
    for old, new, _ in pairs:
        if not (_claims(old) or _claims(new)) and _in_use(old):
            raise _refusal(old)
    for old, new, grad in pairs:
        try:
            become(old, new)
        except RuntimeError as error:
            raise _refusal(old) from error
        old.grad = grad


def _in_use(x: Any) -> bool:
    """Whether ``torch.utils.swap_tensors`` would refuse; to try it would spoil a later backward pass."""
    return bool(weakref.getweakrefs(x)) or x._use_count() > 2


def _refusal(x: Tensor) -> ShareTorchError:
    return ShareTorchError(
        f"A parameter of shape {tuple(x.shape)} is still part of a graph or weakly referenced, so nothing is changed. "
        "Finish the backward pass or delete the output or loss first; compute outputs that need no gradients under "
        "torch.no_grad()."
    )
