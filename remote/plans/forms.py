"""Nested arguments and results as plain data.

A form is a leaf, or ``{"list": [...]}``, ``{"tuple": [...]}``, ``{"dict": [[key, form], ...]}``. Leaves are ``Ref`` (a
value of the plan, or a place in a reply), numbers, texts and None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sharetorch.mpc.errors import MalformedRequestError, PlanError, PlanShapeError
from sharetorch.remote.wire import Ref

PLAIN = (type(None), bool, int, float, str)
"""Types of leaves that stand for themselves."""

_MAX_DEPTH = 32


def pack(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """The form of nested lists, tuples and dictionaries.

    Args:
        value: the nest.
        leaf: from whatever is none of those to a leaf.
    """
    if isinstance(value, tuple):
        return {"tuple": [pack(part, leaf) for part in value]}
    if isinstance(value, list):
        return {"list": [pack(part, leaf) for part in value]}
    if isinstance(value, dict):
        return {"dict": [[_key(key), pack(part, leaf)] for key, part in value.items()]}
    return leaf(value)


def _key(key: Any) -> Any:
    if not isinstance(key, (str, int)):
        raise PlanError(f"A dictionary with a key of type {type(key).__name__}; plans take texts and integers as keys.")
    return key


def unpack(form: Any, leaf: Callable[[Ref], Any]) -> Any:
    """The nest of a form, with every ``Ref`` replaced."""
    if isinstance(form, Ref):
        return leaf(form)
    if not isinstance(form, dict):
        return form
    ((kind, parts),) = form.items()
    if kind == "dict":
        return {key: unpack(part, leaf) for key, part in parts}
    made = [unpack(part, leaf) for part in parts]
    return tuple(made) if kind == "tuple" else made


def mapped(form: Any, leaf: Callable[[Ref], Any]) -> Any:
    """The form with every ``Ref`` replaced by another leaf."""
    if isinstance(form, Ref):
        return leaf(form)
    if not isinstance(form, dict):
        return form
    ((kind, parts),) = form.items()
    if kind == "dict":
        return {kind: [[key, mapped(part, leaf)] for key, part in parts]}
    return {kind: [mapped(part, leaf) for part in parts]}


def refs(form: Any) -> Iterator[Ref]:
    """Every ``Ref`` of a form, in order."""
    if isinstance(form, Ref):
        yield form
    elif isinstance(form, dict):
        ((kind, parts),) = form.items()
        for part in parts:
            yield from refs(part[1] if kind == "dict" else part)


def check(form: Any, depth: int = 0) -> None:
    """Check a form that came by wire.

    Raises:
        MalformedRequestError: it is none.
    """
    if depth > _MAX_DEPTH:
        raise MalformedRequestError(f"A form nested more than {_MAX_DEPTH} deep.")
    if isinstance(form, (Ref, *PLAIN)):
        return
    if not isinstance(form, dict) or len(form) != 1:
        raise MalformedRequestError(f"A {type(form).__name__} is no form of arguments or results.")
    ((kind, parts),) = form.items()
    if kind not in ("list", "tuple", "dict") or not isinstance(parts, list):
        raise MalformedRequestError(f"{str(kind)[:40]!r} is no kind of nest; list, tuple and dict are.")
    for part in parts:
        if kind == "dict" and not (isinstance(part, list) and len(part) == 2 and isinstance(part[0], (str, int))):
            raise MalformedRequestError("An entry of a dictionary is a key and a form.")
        check(part[1] if kind == "dict" else part, depth + 1)


def leaves(form: Any, value: Any, where: str = "arguments") -> Iterator[Any]:
    """The parts of a nest that stand where its form has a ``Ref``, in order.

    Lists and tuples are not told apart: they are the same on the wire.

    Raises:
        PlanShapeError: the nest is of another form.
    """
    if isinstance(form, Ref):
        yield value
    elif not isinstance(form, dict):
        if type(value) is not type(form) or value != form:
            raise PlanShapeError(
                f"{where}: the plan was built with {form!r} here and cannot take a {type(value).__name__} of another "
                "value; build it again, or pass a tensor."
            )
    else:
        yield from _parts(form, value, where)


def _parts(form: dict[str, Any], value: Any, where: str) -> Iterator[Any]:
    ((kind, parts),) = form.items()
    expected = dict if kind == "dict" else (list, tuple)
    if not isinstance(value, expected):
        raise PlanShapeError(f"{where}: the plan takes a {kind} here, not a {type(value).__name__}.")
    if len(value) != len(parts):
        raise PlanShapeError(f"{where}: the plan takes {len(parts)} here, and was given {len(value)}.")
    if kind == "dict":
        for key, part in parts:
            if key not in value:
                raise PlanShapeError(f"{where}: the plan takes {key!r}, which is missing.")
            yield from leaves(part, value[key], f"{where}[{key!r}]")
    else:
        for place, (part, given) in enumerate(zip(parts, value, strict=True)):
            yield from leaves(part, given, f"{where}[{place}]")
