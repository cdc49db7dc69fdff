"""State of torch's optimizers, made before recording.

Most optimizers make their state in the first step. A plan must record a step like all others, so the state is made
before: by one step with gradients of zeros, undone at once. All those listed begin with zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing
from torch.optim import SGD, Adadelta, Adagrad, Adam, Adamax, AdamW, Optimizer, RMSprop
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._mode_utils import no_dispatch

from sharetorch.mpc.errors import PlanError

BEGIN_WITH_ZEROS = (SGD, Adam, AdamW, RMSprop, Adadelta, Adagrad, Adamax)
"""Optimizers whose first step is like all others if their state begins with zeros."""

_SCRATCH = "_sharetorch_scratch"


class _Scratch:
    """Marks an optimizer that was made only to see what state it makes."""


@contextmanager
def prepared() -> Iterator[list[Optimizer]]:
    """Inside, every optimizer has its state before it steps. Gives the list of those that stepped."""
    seen: list[Optimizer] = []

    def before(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if optimizer not in seen and not isinstance(optimizer.defaults.get(_SCRATCH), _Scratch):
            seen.append(optimizer)
            _make_state(optimizer)

    hook = register_optimizer_step_pre_hook(before)
    try:
        yield seen
    finally:
        hook.remove()


def _make_state(optimizer: Optimizer) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    missing = [parameter for parameter in parameters if not optimizer.state.get(parameter)]
    if not missing or not _keeps_state(optimizer):
        return
    if not isinstance(optimizer, BEGIN_WITH_ZEROS):
        raise PlanError(
            f"{type(optimizer).__name__} makes its state in its first step, and a plan records a step like all others. "
            f"Take one step before build(), or use one of {', '.join(kind.__name__ for kind in BEGIN_WITH_ZEROS)}."
        )
    if any(group.get("dampening") for group in optimizer.param_groups):
        raise PlanError("SGD with dampening takes a first step unlike all others. Take one step before build().")
    gradients = [parameter.grad for parameter in parameters]
    with _outside(), torch.no_grad():
        for parameter, made in zip(missing, _states(optimizer, missing), strict=True):
            optimizer.state[parameter] = made
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


@contextmanager
def _outside() -> Iterator[None]:
    """Ordinary tensors, while others record."""
    with no_dispatch(), disable_proxy_modes_tracing():
        yield


def _keeps_state(optimizer: Optimizer) -> bool:
    return not isinstance(optimizer, SGD) or any(group["momentum"] for group in optimizer.param_groups)


def _states(optimizer: Optimizer, parameters: list[Tensor]) -> Iterator[dict[str, Any]]:
    """What the optimizer keeps for fresh parameters of the same shapes, before any step."""
    settings = {key: value for key, value in optimizer.param_groups[0].items() if key != "params"}
    copies = [torch.nn.Parameter(torch.zeros_like(parameter)) for parameter in parameters]
    for copy in copies:
        copy.grad = torch.zeros_like(copy)
    scratch: Any = object.__new__(type(optimizer))
    Optimizer.__init__(scratch, copies, settings | {_SCRATCH: _Scratch()})
    scratch.step()
    for copy in copies:
        yield {key: _cleared(value) for key, value in scratch.state[copy].items()}


def _cleared(value: Any) -> Any:
    return torch.zeros_like(value) if isinstance(value, Tensor) else value
