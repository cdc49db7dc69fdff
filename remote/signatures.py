"""What an operation would give, from the shapes and dtypes of its operands alone.

The operation runs on tensors without data, once for each signature; the answer is kept. No memory is touched and no
value
looked at, so the answer, and the text of an error, tells nothing of values.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

PLAIN = frozenset({Tensor, torch.nn.Parameter})
"""Types of tensors that torch's own kernels compute on."""

_KEPT = 4096
_INTEGERS = {int}


class Form(NamedTuple):
    """A tensor without its values."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def elements(self) -> int:
        """How many."""
        count = 1
        for size in self.shape:
            count *= size
        return count

    @property
    def bytes(self) -> int:
        """Of a dense tensor of this form."""
        return self.elements * self.dtype.itemsize

    def tensor(self) -> Tensor:
        """A tensor of this form, without data."""
        return torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="meta")


class _Number(NamedTuple):
    """A number with its type, as 1, 1.0 and True are equal keys."""

    kind: type
    value: Any


def form_of(x: Tensor) -> Form:
    """The form of a tensor."""
    return Form(x.dtype, x.shape, x.stride())


def _key(value: Any) -> Any:
    kind = type(value)
    if kind is Tensor:
        return Form(value.dtype, value.shape, value.stride())
    if kind is int or value is None:
        return value
    if kind is list or kind is tuple:
        return tuple(value) if set(map(type, value)) == _INTEGERS else tuple([_key(part) for part in value])
    if kind in (float, bool, complex):
        return _Number(kind, value)
    return form_of(value) if isinstance(value, Tensor) else value


def _argument(key: Any) -> Any:
    kind = type(key)
    if kind is Form:
        return key.tensor()
    if kind is _Number:
        return key.value
    if kind is tuple:
        return [_argument(part) for part in key]
    return torch.device("meta") if kind is torch.device else key


def results(overload: Any, *args: Any, **kwargs: Any) -> tuple[Form | None, ...]:
    """Forms of the results an operation would give; None for what is an operand again, or nothing.

    Args:
        overload: the operation.
        args: its arguments; a ``Form`` may stand for a tensor.
        kwargs: its keyword arguments.

    Raises:
        NotImplementedError: torch cannot tell without values.
        Exception: what torch raises for operands that do not fit.
    """
    keys = tuple([_key(value) for value in args])
    return _results(overload, keys, tuple([(name, _key(value)) for name, value in kwargs.items()]) if kwargs else ())


@cache
def _has_device(overload: Any) -> bool:
    return any(argument.name == "device" for argument in overload._schema.arguments)


@lru_cache(_KEPT)
def _results(overload: Any, keys: tuple[Any, ...], named: tuple[tuple[str, Any], ...]) -> tuple[Form | None, ...]:
    args = [_argument(key) for key in keys]
    kwargs = {name: _argument(key) for name, key in named}
    if _has_device(overload):
        kwargs["device"] = torch.device("meta")
    with torch.no_grad():
        given = overload(*args, **kwargs)
    operands = {id(arg) for arg in args}
    return tuple(
        form_of(result) if isinstance(result, Tensor) and id(result) not in operands else None
        for result in (given if isinstance(given, (list, tuple)) else [given])
    )
