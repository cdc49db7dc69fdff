"""Models at a worker: parameters and buffers are exchanged in place and keep their identity.

An optimizer made before ``model.send(bob)`` goes on working. The model's structure stays here and records the graph;
only tensors travel.
"""

from __future__ import annotations

import copy as copying
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sharetorch.nn.exchange import exchange
from sharetorch.remote.node import Node
from sharetorch.remote.pointer import PointerTensor


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _exchange(model: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    return exchange(model, _tensors(model), change, gradients=True)


def _start_there(module: nn.RNNBase) -> None:
    """Let a stock recurrent layer begin with zeros where its input is: torch makes them here."""
    if _begin not in module._forward_pre_hooks.values():
        module.register_forward_pre_hook(_begin, with_kwargs=True)


def _begin(module: nn.RNNBase, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, *rest = args
    if not isinstance(x, PointerTensor) or (rest and rest[0] is not None) or kwargs.get("hx") is not None:
        return None
    batch = x.shape[0 if module.batch_first else 1 : 1 if module.batch_first else 2] if x.dim() == 3 else ()
    rows = module.num_layers * (2 if module.bidirectional else 1)
    hidden = x.new_zeros(rows, *batch, module.proj_size or module.hidden_size)
    start = (hidden, x.new_zeros(rows, *batch, module.hidden_size)) if isinstance(module, nn.LSTM) else hidden
    return (x, start), {name: value for name, value in kwargs.items() if name != "hx"}


def send(model: nn.Module, *workers: Any, owner: Node, **options: Any) -> nn.Module:
    """Send all parameters and buffers, after giving every trainable parameter without a gradient one of zeros.

    Returns:
        The model itself.
    """
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            _start_there(module)
    return _exchange(model, lambda old: old.detach().send(*workers, owner=owner, **options))  # type: ignore[attr-defined]


def elsewhere(model: nn.Module) -> bool:
    """Whether any parameter or buffer is at a worker."""
    return any(isinstance(tensor, PointerTensor) for tensor in _tensors(model))


def get(model: nn.Module, user: str | None = None, reason: str | None = None) -> nn.Module:
    """Fetch all parameters and buffers that are elsewhere. Returns the model itself."""
    return _exchange(model, lambda old: old.fetched(user, reason) if isinstance(old, PointerTensor) else old)


def apply(model: nn.Module, method: str, *args: Any, **kwargs: Any) -> nn.Module:
    """Let parameters and floating-point buffers become what a method of pointers gives. Returns the model itself."""

    def change(old: Tensor) -> Tensor:
        if not (isinstance(old, PointerTensor) and old.dtype.is_floating_point):
            return old
        changed: Tensor = getattr(old.detach(), method)(*args, **kwargs)
        return changed

    for parameter in model.parameters():
        parameter.grad = None
    return _exchange(model, change)


def move(model: nn.Module, worker: Any, user: str | None = None) -> None:
    """Let all parameters and buffers go straight to another worker, or here."""
    _exchange(model, lambda old: old.forwarded(worker, remove=False, user=user))  # type: ignore[attr-defined]


def copy(model: nn.Module) -> nn.Module:
    """A deep copy, at the same worker."""
    return copying.deepcopy(model)


def location(model: nn.Module) -> Any:
    """Where the model's tensors are.

    Raises:
        AttributeError: it was not sent.
    """
    for tensor in _tensors(model):
        if hasattr(tensor, "location"):
            return tensor.location
    raise AttributeError(f"{type(model).__name__} has no location: it was not sent to a worker.")


def owner(model: nn.Module, otherwise: Any) -> Any:
    """Who holds the model's tensors or the pointers to them."""
    for tensor in _tensors(model):
        if isinstance(tensor, PointerTensor):
            return tensor.owner
    return otherwise
