"""Number, tags, description and readers of tensors that are here, until they are sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

from sharetorch.mpc.errors import LabelError
from sharetorch.remote.ids import ID_PROVIDER


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


def put(x: Any, label: Label) -> Any:
    """Replace all that was said of a tensor; returns it."""
    setattr(x, _ATTRIBUTE, label)
    return x


def number_of(x: Any) -> int:
    """A number of the tensor's own, given at the first question."""
    number: int | None = getattr(x, "_sharetorch_number", None)
    if number is None:
        number = x._sharetorch_number = ID_PROVIDER.pop()
    return number


def set_number(x: Any, number: int) -> None:
    """Give a tensor this number."""
    x._sharetorch_number = number


def tag(x: Tensor, *tags: str) -> Any:
    """Add tags to a tensor; returns it.

    Raises:
        LabelError: a tag that is no text.
    """
    label = of(x)
    return put(x, label._replace(tags=tuple(dict.fromkeys([*label.tags, *_texts(tags)]))))


def tags(x: Tensor) -> set[str]:
    """The tags of a tensor."""
    return set(of(x).tags)


def set_tags(x: Tensor, tags: Iterable[str] | None) -> None:
    """Give a tensor these tags and no others.

    Raises:
        LabelError: a tag that is no text, or one text in place of several.
    """
    if isinstance(tags, str):
        raise LabelError(f"Tags are several texts; write x.tags = [{tags!r}], or x.tag({tags!r}).")
    put(x, of(x)._replace(tags=tuple(dict.fromkeys(_texts(tags or ())))))


def _texts(values: Iterable[Any]) -> list[str]:
    values = list(values)
    wrong = [type(value).__name__ for value in values if not isinstance(value, str)]
    if wrong:
        raise LabelError(f"Tags are texts, one argument each: x.tag('#a', '#b'); got {', '.join(wrong)}.")
    return values


def describe(x: Tensor, text: str) -> Any:
    """Say what a tensor is; returns it.

    Raises:
        LabelError: no text.
    """
    set_description(x, text)
    return x


def description(x: Tensor) -> str | None:
    """What is said of a tensor."""
    return of(x).description


def set_description(x: Tensor, text: str | None) -> None:
    """Say what a tensor is; None takes it back.

    Raises:
        LabelError: no text.
    """
    if text is not None and not isinstance(text, str):
        raise LabelError(f"A description is a text, not a {type(text).__name__}.")
    put(x, of(x)._replace(description=text))


def restrict(x: Tensor, allowed_users: Any = ()) -> Any:
    """Let only these users have the tensor back once it is sent; returns a tensor with the same values.

    Args:
        x: any tensor.
        allowed_users: names, or objects whose text is their name; one alone or several.
    """
    names = [allowed_users] if isinstance(allowed_users, str) else allowed_users
    marked = x.detach().requires_grad_(x.requires_grad) if x.is_leaf else x
    return put(marked, of(x)._replace(readers=frozenset(str(name) for name in names)))


def allows(x: Tensor, user: str | None) -> bool:
    """Whether a user may have the tensor."""
    readers = of(x).readers
    return readers is None or str(user) in readers


class PrivateTensor:
    """The tutorials' way to write ``x.private_tensor(allowed_users=...)``: ``PrivateTensor(allowed_users=...).on(x)``.

    Args:
        allowed_users: who may have a tensor back once it is sent.
        tags: to give it.
        description: to give it.
    """

    def __init__(
        self, allowed_users: Any = (), tags: Iterable[str] | None = None, description: str | None = None
    ) -> None:
        self.allowed_users = allowed_users
        self.tags = tags
        self.description = description

    def on(self, x: Tensor, wrap: bool = True) -> Any:
        """A tensor with the values of ``x`` that only these users may have back; ``wrap`` changes nothing."""
        marked = restrict(x, self.allowed_users)
        if self.tags is not None:
            set_tags(marked, self.tags)
        return marked if self.description is None else describe(marked, self.description)
