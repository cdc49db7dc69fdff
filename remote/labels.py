"""Tags, description and readers of tensors that are here, until they are sent."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from sharetorch.mpc.session import new_id


class Label(NamedTuple):
    """What is said of a tensor.

    Attributes:
        tags: by which it will be found.
        description: what it is.
        readers: who may have it back; None is everybody.
    """

    tags: tuple[str, ...] = ()
    description: str | None = None
    readers: frozenset[str] | None = None


_NONE = Label()
_ATTRIBUTE = "_sharetorch_label"


def of(x: Tensor) -> Label:
    """What was said of a tensor."""
    return getattr(x, _ATTRIBUTE, _NONE)


def _set(x: Any, label: Label) -> Any:
    setattr(x, _ATTRIBUTE, label)
    return x


def number_of(x: Any) -> int:
    """A number of the tensor's own, given at the first question."""
    number: int | None = getattr(x, "_sharetorch_number", None)
    if number is None:
        number = x._sharetorch_number = new_id()
    return number


def tag(x: Tensor, *tags: str) -> Any:
    """Add tags to a tensor; returns it."""
    label = of(x)
    return _set(x, label._replace(tags=tuple(dict.fromkeys([*label.tags, *tags]))))


def describe(x: Tensor, text: str) -> Any:
    """Say what a tensor is; returns it."""
    return _set(x, of(x)._replace(description=text))


def restrict(x: Tensor, allowed_users: Any) -> Any:
    """Let only these users have the tensor back once it is sent; returns a tensor with the same values."""
    names = [allowed_users] if isinstance(allowed_users, str) else allowed_users
    marked = x.detach().requires_grad_(x.requires_grad) if x.is_leaf else x
    return _set(marked, of(x)._replace(readers=frozenset(str(name) for name in names)))


def allows(x: Tensor, user: str | None) -> bool:
    """Whether a user may have the tensor."""
    readers = of(x).readers
    return readers is None or user in readers
