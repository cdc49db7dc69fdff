"""Names of the tensors a function uses: those of its closure, of modules, and of optimizers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

Named = Iterator[tuple[str, Tensor]]


def tensors_of(function: Callable[..., Any] | None) -> Named:
    """The tensors a function reaches by the names in it, with names made of those."""
    inner: Any = inspect.unwrap(function) if function is not None else None
    inner = getattr(inner, "__func__", inner)
    if not inspect.isfunction(inner):
        return
    found = inspect.getclosurevars(inner)
    for name, value in [*found.nonlocals.items(), *found.globals.items()]:
        yield from named(name, value)


def named(name: str, value: Any, depth: int = 0) -> Named:
    """The tensors inside a value: a tensor, a module, an optimizer, or lists and dictionaries of those."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, nn.Module):
        yield from module_tensors(name, value)
    elif isinstance(value, Optimizer):
        yield from optimizer_tensors(name, value)
    elif isinstance(value, (list, tuple)) and depth < 2:
        for place, part in enumerate(value):
            yield from named(f"{name}.{place}", part, depth + 1)
    elif isinstance(value, dict) and depth < 2:
        for key, part in value.items():
            yield from named(f"{name}.{key}", part, depth + 1)


def module_tensors(name: str, module: nn.Module) -> Named:
    """Parameters and buffers of a module."""
    prefix = f"{name}." if name else ""
    for key, tensor in [*module.named_parameters(), *module.named_buffers()]:
        yield prefix + key, tensor


def optimizer_tensors(name: str, optimizer: Optimizer) -> Named:
    """What an optimizer keeps for each parameter."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place, parameter in enumerate(parameters):
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                yield f"{name}.{key}.{place}", value
