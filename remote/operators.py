"""The aten operations a worker runs for others.

A name that arrives by wire is looked up in the list of ``remote/whitelist.py``; it is never turned into an attribute
otherwise. The schema of the operation tells which arguments it writes; what a schema does not tell is set down here.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import torch

from sharetorch.mpc.errors import OperationNotAllowedError
from sharetorch.remote import checks
from sharetorch.remote.whitelist import ALLOWED

UNINITIALISED = {
    "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided",
}  # fmt: skip
"""Operations that hand out memory as it was left by others: the worker fills it with zeros."""

TELLING = {
    "nonzero", "nonzero_static", "masked_select", "unique_dim", "unique_consecutive", "_unique2", "unique_dim_consecutive",
    "bincount", "repeat_interleave", "one_hot",
}  # fmt: skip
"""Operations whose results have a shape that depends on values."""

WRITES_UNTOLD: dict[str, tuple[str, ...]] = {
    "native_batch_norm": ("running_mean", "running_var"),
    "_batch_norm_impl_index": ("running_mean", "running_var"),
}
"""Arguments that are written although the schema does not say so."""


class Operator(NamedTuple):
    """An operation of the list.

    Attributes:
        name: such as "aten.mul.Tensor".
        overload: what torch runs.
        writes: place and name of the arguments it changes.
        uninitialised: whether the result's memory comes as it is.
        tells: whether a result's shape depends on values.
        checks: what must hold of the arguments, where torch's kernel does not check it itself.
    """

    name: str
    overload: Any
    writes: tuple[tuple[int, str], ...]
    uninitialised: bool
    tells: bool
    checks: checks.Check | None

    def written(self, args: list[Any], kwargs: dict[str, Any]) -> Iterator[Any]:
        """The tensors the operation has changed."""
        for place, name in self.writes:
            value = args[place] if place < len(args) else kwargs.get(name)
            if isinstance(value, list):
                yield from value
            elif value is not None:
                yield value

    def validate(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Check what torch's kernel does not check itself.

        Raises:
            MalformedRequestError: arguments the kernel would read or write outside of tensors with.
        """
        if self.checks is not None:
            self.checks(self.overload, args, kwargs)


@cache
def name_of(func: Any) -> str:
    """Name of an overload as it crosses a wire."""
    return str(func)


@cache
def reshapes(func: Any) -> bool:
    """Whether an operation changes the shape of its first argument in place."""
    return torch.Tag.inplace_view in func.tags


def _parts(name: str) -> tuple[str, str]:
    space, _, rest = name.partition(".")
    base, _, overload = rest.partition(".")
    if space != "aten" or base not in ALLOWED:
        raise OperationNotAllowedError(f"{name[:80]!r} is not on the list of operations a worker runs for others.")
    return base, overload or "default"


_found: dict[str, Operator] = {}


def find(name: str) -> Operator:
    """The operation of that name.

    Raises:
        OperationNotAllowedError: it is not on the list.
    """
    operator = _found.get(name)
    if operator is None:
        base, overload = _parts(name)
        packet = getattr(torch.ops.aten, base)
        if overload not in packet.overloads():
            raise OperationNotAllowedError(f"{base} has no form {overload[:80]!r}; it has {', '.join(packet.overloads())}.")
        operator = _found[name] = _operator(name, base, getattr(packet, overload))
    return operator


def _operator(name: str, base: str, overload: Any) -> Operator:
    untold = WRITES_UNTOLD.get(base, ())
    writes = tuple(
        (place, argument.name)
        for place, argument in enumerate(overload._schema.arguments)
        if argument.name in untold or (argument.alias_info is not None and argument.alias_info.is_write)
    )
    return Operator(
        name, overload, writes, base in UNINITIALISED, base in TELLING, checks.CHECKS.get(base)
    )
