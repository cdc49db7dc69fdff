"""The aten operations a worker runs for others.

A name that arrives by wire is looked up in the list of ``remote/whitelist.py``; it is never turned into an attribute
otherwise. The schema of the operation tells which arguments it writes, and which may be tensors; what a schema does not
tell is set down here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.errors import MalformedRequestError, OperationNotAllowedError
from sharetorch.remote import checks, recurrent
from sharetorch.remote.limits import NO_LARGER, OWN, UNBOUND
from sharetorch.remote.whitelist import ALLOWED

UNINITIALISED = {
    "empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided",
}  # fmt: skip
"""Operations that hand out memory as it was left by others: the worker fills it with zeros."""

_Tells = Callable[..., bool]


def _by_mask(self: Tensor, indices: list[Any], *_: Any, **__: Any) -> bool:
    """Indexing by a mask gives as many results as the mask holds ones."""
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _put_by_mask(self: Tensor, indices: list[Any], values: Tensor, *_: Any, **__: Any) -> bool:
    """Whether as many values fit as the mask holds ones is seen from whether it works."""
    return values.numel() != 1 and _by_mask(self, indices)


def _too_few(self: Tensor, mask: Tensor, source: Tensor) -> bool:
    """Whether the source lasts is seen from whether it works."""
    return source.numel() < self.numel()


TELLING = {
    "nonzero", "masked_select", "unique_dim", "unique_consecutive", "_unique", "_unique2", "bincount",
    "repeat_interleave", "one_hot", "linalg_lstsq",
}  # fmt: skip
"""Operations whose results have a shape that depends on values."""

TELLING_AT_TIMES: dict[str, _Tells] = {
    "index": _by_mask,
    "index_put": _put_by_mask,
    "index_put_": _put_by_mask,
    "masked_scatter": _too_few,
    "masked_scatter_": _too_few,
}
"""Operations that tell a number of results, or whether it fits, for such arguments only."""

WRITES_UNTOLD: dict[str, tuple[str, ...]] = {
    "native_batch_norm": ("running_mean", "running_var"),
}
"""Arguments that are written although the schema does not say so."""

RUNS: dict[str, Callable[..., Any]] = {
    "mkldnn_rnn_layer": recurrent.layer,
    "mkldnn_rnn_layer_backward": recurrent.layer_backward,
}
"""What is run instead of torch's own kernel."""

_COPIES_AT_TIMES = {"reshape", "contiguous"}
"""Operations whose schema promises a view, and that may copy."""

_WITHOUT_RESULTS = {"aten::_linalg_check_errors", "aten::_foreach_add_", "aten::_foreach_mul_"}
"""Operations that give nothing: they raise, or write."""

_FOREIGN = ("Storage", "Stream", "Generator", "Dimname", "Dict", "List[t]", "AnyEnumType", "List[str]", "__torch__")
"""Types of arguments that no message can hold."""


class Operator(NamedTuple):
    """An operation of the list.

    Attributes:
        name: such as "aten.mul.Tensor".
        base: such as "mul".
        overload: torch's own, with its schema.
        run: what is run; torch's own function behind the overload, which only calls it.
        tensors: places, and names, of the arguments that may be tensors.
        required: those among them that cannot be left out.
        writes: place and name of the arguments it changes.
        named: place and name of the arguments that are dtypes, layouts and memory formats.
        uninitialised: whether the result's memory comes as it is.
        tells: whether a result's shape depends on values.
        tells_of: whether it does so for these arguments; None if that depends on the operation alone.
        checks: what must hold of the arguments, where torch's kernel does not check it itself.
        learns: what is remembered of indices once it has run.
        view: whether it never takes memory.
        several: whether it gives a list of tensors.
        in_place: whether its result is its first argument.
        bounded: whether results have no more elements than the product of what they are made from.
        pointwise: whether each element of a result is made of one element of each operand.
        no_larger: whether results have no more elements than their operands together.
        measured: whether it takes memory or gives parts, of which there may be too much or too many.
    """

    name: str
    base: str
    overload: Any
    run: Callable[..., Any]
    tensors: frozenset[int | str]
    required: frozenset[int | str]
    writes: tuple[tuple[int, str], ...]
    named: tuple[tuple[int, str], ...]
    uninitialised: bool
    tells: bool
    tells_of: _Tells | None
    checks: checks.Check | None
    learns: checks.Learn | None
    view: bool
    several: bool
    in_place: bool
    bounded: bool
    pointwise: bool
    no_larger: bool
    measured: bool

    def written(self, args: list[Any], kwargs: dict[str, Any]) -> Iterator[Any]:
        """The tensors the operation has changed."""
        for place, name in self.writes:
            value = args[place] if place < len(args) else kwargs.get(name)
            if isinstance(value, list):
                yield from value
            elif value is not None:
                yield value

    def reveals(self, args: list[Any], kwargs: dict[str, Any]) -> bool:
        """Whether a number that depends on values shows in the shape of a result, or in whether it works."""
        if self.tells_of is None:
            return self.tells
        placed, named = self.placed(args, kwargs)
        return self.tells_of(*placed, **named)

    def validate(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Check what torch's kernel does not check itself.

        Raises:
            MalformedRequestError: arguments the kernel would read or write outside of tensors with.
        """
        if "out" in kwargs:
            self._require_out(args, kwargs)
        if self.checks is None:
            return
        placed, named = self.placed(args, kwargs)
        try:
            self.checks(*placed, **named)
        except (TypeError, AttributeError, IndexError) as error:
            raise MalformedRequestError(f"Arguments {self.name} does not take: {self.overload._schema}.") from error

    def _require_out(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        """What is written has the size of the result already."""
        out = kwargs["out"]
        operands = [x for x in [*args, *kwargs.values()] if isinstance(x, Tensor) and x is not out]
        wanted = torch.broadcast_shapes(*[x.shape for x in operands])
        if not isinstance(out, Tensor) or out.shape != wanted:
            raise MalformedRequestError(
                f"{self.name} needs out= of shape {list(wanted)}; make it with torch.empty first."
            )

    def placed(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The same arguments, in their places where the schema gives them one; what was left out has its default.

        Raises:
            MalformedRequestError: too few, too many, or an unknown one.
        """
        arguments = _positional(self.overload)
        named, placed = dict(kwargs), list(args[: len(arguments)])
        for name, has_default, default in arguments[len(args) :]:
            if name not in named and not has_default:
                raise MalformedRequestError(f"{self.name} needs an argument {name}.")
            placed.append(named.pop(name, default))
        if len(args) > len(arguments):
            raise MalformedRequestError(f"{self.name} takes {len(arguments)} arguments, not {len(args)}.")
        return placed, named

    def require_names(self, args: list[Any], kwargs: dict[str, Any]) -> None:
        """Refuse a number where a dtype, a layout or a memory format belongs: torch would take it for a code, unseen.

        Raises:
            MalformedRequestError: one was given.
        """
        for place, name in self.named:
            value = args[place] if place < len(args) else kwargs.get(name)
            if isinstance(value, (int, float, complex)):
                raise MalformedRequestError(f"{self.name} needs a {name} such as torch.float32, not {value}.")

    def require_given(self, place: int | str) -> None:
        """Refuse None where a tensor belongs: some kernels look at it without asking whether it is there.

        Raises:
            MalformedRequestError: the argument is not optional by the operation's schema.
        """
        if place in self.required:
            raise MalformedRequestError(f"{self.name} needs a tensor for argument {place}, not None.")

    def require_place(self, place: int | str) -> None:
        """Refuse a tensor where a number belongs: torch would read its value, and sizes are public.

        Raises:
            MalformedRequestError: the argument is no tensor by the operation's schema.
        """
        if place not in self.tensors:
            raise MalformedRequestError(f"{self.name} takes no tensor for argument {place}.")


@cache
def _positional(overload: Any) -> tuple[tuple[str, bool, Any], ...]:
    """Arguments that have a place: name, whether they may be left out, and what they are then."""
    return tuple(
        (argument.name, argument.has_default_value(), argument.default_value)
        for argument in overload._schema.arguments
        if not argument.kwarg_only
    )


_NAMED = ("ScalarType", "Layout", "MemoryFormat")
"""Types that schemas else show as numbers."""


def _named(overload: Any) -> tuple[tuple[int, str], ...]:
    """Place and name of the arguments that are dtypes, layouts and memory formats."""
    return tuple(
        (place, argument.name)
        for place, argument in enumerate(overload._schema.arguments)
        if any(kind in str(argument.real_type) for kind in _NAMED)
    )


def _writes(overload: Any, base: str) -> tuple[tuple[int, str], ...]:
    """Place and name of the arguments an operation changes."""
    untold = WRITES_UNTOLD.get(base, ())
    return tuple(
        (place, argument.name)
        for place, argument in enumerate(overload._schema.arguments)
        if argument.name in untold or _is_write(argument.alias_info)
    )


class Known(NamedTuple):
    """What a driver knows of an operation.

    Attributes:
        name: as it crosses a wire.
        reshapes: whether it changes the shape of its first argument in place.
        several: whether it changes a list of tensors in place.
        writes: places and names of the arguments it changes.
        overload: torch's own.
    """

    name: str
    reshapes: bool
    several: bool
    writes: frozenset[int | str]
    overload: Any


_known: dict[int, Known] = {}


def known_as(func: Any) -> Known:
    """What a driver knows of an overload."""
    known = _known.get(id(func))  # to hash an overload takes as long as all of this
    if known is None:
        writes = (part for write in _writes(func, str(func).split(".")[1]) for part in write)
        reshapes, several = torch.Tag.inplace_view in func.tags, func._schema.name.startswith("aten::_foreach_")
        known = _known[id(func)] = Known(str(func), reshapes, several, frozenset(writes), func)
    return known


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
        forms = [form for form in packet.overloads() if _serves(getattr(packet, form))]
        if overload not in forms:
            raise _no_form(base, overload, forms)
        operator = _operator(f"aten.{base}.{overload}", base, getattr(packet, overload))
        _found[operator.name] = operator
    return operator


def _no_form(base: str, overload: str, forms: list[str]) -> OperationNotAllowedError:
    if overload.endswith("out"):
        return OperationNotAllowedError(
            f"{base} with out= is not run for others: it would change the size of memory. Use x.copy_({base}(...))."
        )
    return OperationNotAllowedError(f"{base} has no form {overload[:80]!r}; it has {', '.join(forms)}.")


def _serves(form: Any) -> bool:
    """Whether a form of an operation takes what a message can hold, gives tensors, and leaves the size of memory alone.

    With ``out=`` torch gives ``out`` the size of the result. For operations element by element, that size is known here
    before; others are not run with it.
    """
    schema, pointwise = form._schema, torch.Tag.pointwise in form.tags
    for argument in schema.arguments:
        written = argument.alias_info is not None and argument.alias_info.is_write
        if written and argument.kwarg_only and not (pointwise and argument.name == "out"):
            return False
        if any(word in str(argument.type) for word in _FOREIGN) and "Optional" not in str(argument.type):
            return False
    if schema.name == "aten::set_" and schema.overload_name not in ("", "source_Tensor"):
        return False
    if not schema.returns:
        return str(schema.name) in _WITHOUT_RESULTS
    return all("Tensor" in str(result.type) for result in schema.returns)


def _is_write(alias: Any) -> bool:
    return alias is not None and bool(alias.is_write)


def _operator(name: str, base: str, overload: Any) -> Operator:
    arguments, returns = overload._schema.arguments, overload._schema.returns
    tensors: set[int | str] = set()
    required: set[int | str] = set()
    for place, argument in enumerate(arguments):
        if "Tensor" in str(argument.type):
            tensors |= {place, argument.name}
        if str(argument.type) in ("Tensor", "List[Tensor]"):
            required |= {place, argument.name}
    view = base not in _COPIES_AT_TIMES and all(
        result.alias_info is not None and not _is_write(result.alias_info) for result in returns
    )
    several = any("List" in str(result.type) for result in returns)
    in_place = all(_is_write(result.alias_info) for result in returns)
    pointwise = torch.Tag.pointwise in overload.tags
    return Operator(
        name,
        base,
        overload,
        RUNS.get(base) or getattr(overload, "_op", overload),
        frozenset(tensors),
        frozenset(required),
        _writes(overload, base),
        _named(overload),
        base in UNINITIALISED,
        base in TELLING,
        TELLING_AT_TIMES.get(base),
        checks.CHECKS.get(base),
        checks.LEARNS.get(base),
        view,
        several,
        in_place,
        base not in OWN and base not in UNBOUND and "upsample" not in base,
        pointwise,
        pointwise or base in NO_LARGER,
        several or not (view or in_place),
    )
