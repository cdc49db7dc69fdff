"""Tuples, lists and dictionaries of tensors, as programs take and give them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sharetorch.mpc.tensor.shared import SharedTensor


def parts(value: Any) -> Iterator[Any]:
    """Everything in a structure that is no structure itself, in order."""
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from parts(part)
    elif isinstance(value, Mapping):
        yield from parts(tuple(value.values()))
    else:
        yield value


def tensors(value: Any) -> list[SharedTensor]:
    """The shared tensors in a structure, in order."""
    return [part for part in parts(value) if isinstance(part, SharedTensor)]


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """The same structure with a function of every part."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(mapped(part, function) for part in value))
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(part, function) for part in value)
    if isinstance(value, dict):
        return {key: mapped(part, function) for key, part in value.items()}
    return function(value)
