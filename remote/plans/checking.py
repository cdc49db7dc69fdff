"""Every node of a graph against the worker's list of operations and torch's own schemas.

What passes can fail later only as an operation fails that was asked for by itself: a size that does not fit, an index
out of range.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from sharetorch.mpc.errors import LimitExceededError, MalformedRequestError, OperationNotAllowedError, PlanError
from sharetorch.remote import operators
from sharetorch.remote.operators import Operator
from sharetorch.remote.plans import forms, numbers
from sharetorch.remote.plans.graph import MAX_NODES, MAX_VALUES, VERSION, Graph, Node, Spec
from sharetorch.remote.wire import DTYPES, Ref

TENSOR, NUMBER, SCALAR, LIST, NOTHING = "a tensor", "a number", "a hidden number", "several tensors", "nothing"
"""What a value of a graph can be. Sizes may depend on numbers, not on hidden ones, which come from tensors' values."""

Kind = str | tuple[str, ...]

_NO_OPERATION = {"set_"}
"""Operations of the list that no graph may hold: state would share memory with somebody's object."""

_SIZED_BY_VALUE = {"arange", "range", "linspace", "logspace"}
"""Operations whose results have a size that depends on numbers."""

_NUMBERS = (int, float, bool, complex)
"""Types that torch makes a tensor of, where one is wanted."""

_INTEGERS = {"IntType", "SymIntType"}
_PLAIN_TYPES: dict[str, tuple[type, ...]] = {
    "FloatType": (float, int),
    "BoolType": (bool,),
    "StringType": (str,),
    "NumberType": (float, int, complex),
    "ScalarTypeType": (torch.dtype,),
    "ScalarType": (torch.dtype,),
    "LayoutType": (torch.layout,),
    "Layout": (torch.layout,),
    "MemoryFormatType": (torch.memory_format,),
    "MemoryFormat": (torch.memory_format,),
    "DeviceObjType": (torch.device,),
    "IntType": (int,),
    "SymIntType": (int,),
    "SymBoolType": (bool,),
}


class Step(NamedTuple):
    """A checked node.

    Attributes:
        name: of the operation.
        operator: of the worker's list; None for arithmetic on numbers and parts of values.
        args: as in the node.
        kwargs: likewise.
        frees: numbers of values that nobody needs after this step.
    """

    name: str
    operator: Operator | None
    args: list[Any]
    kwargs: dict[str, Any]
    frees: tuple[int, ...]


class Program(NamedTuple):
    """A checked graph.

    Attributes:
        graph: the data it was made of.
        steps: what to run.
        writes: whether anything is changed in place.
        tells: whether the shape of a result depends on values.
        elementwise: whether it computes each element by itself, so that it is the same for all shapes and dtypes.
    """

    graph: Graph
    steps: list[Step]
    writes: bool
    tells: bool
    elementwise: bool = False


def check(graph: Graph) -> Program:
    """Check a graph.

    Raises:
        PlanError: another version.
        LimitExceededError: too many nodes.
        OperationNotAllowedError: an operation that is not on the list.
        MalformedRequestError: anything else that is not as documented.
    """
    if graph.version != VERSION:
        raise PlanError(f"A plan of version {graph.version}; this is for version {VERSION}. Build and send it again.")
    if len(graph.nodes) > MAX_NODES or graph.first > MAX_VALUES:
        raise LimitExceededError(
            f"A plan of {len(graph.nodes)} nodes and {graph.first} inputs; {MAX_NODES} and {MAX_VALUES} are taken."
        )
    _check_head(graph)
    kinds: list[Kind] = [TENSOR] * graph.first
    found: list[Operator | None] = []
    for node in graph.nodes:
        operator, kind = _node(node, kinds)
        found.append(operator)
        kinds.append(kind)
    _check_output(graph, kinds)
    used = [operator for operator in found if operator is not None]
    return Program(
        graph,
        list(_steps(graph, found)),
        any(operator.writes for operator in used),
        any(operator.tells for operator in used),
        all(operator is not None and _is_elementwise(operator) for operator in found),
    )


def _is_elementwise(operator: Operator) -> bool:
    return torch.Tag.pointwise in operator.overload.tags and not operator.writes


def _check_head(graph: Graph) -> None:
    for spec in [*graph.inputs, *graph.state]:
        _check_spec(spec)
    if any(size < 0 for spec in graph.state for size in spec.shape):
        raise MalformedRequestError("Tensors of the state have fixed sizes.")
    forms.check(graph.arguments)
    forms.check(graph.output)
    if [ref.number for ref in forms.refs(graph.arguments)] != list(range(len(graph.inputs))):
        raise MalformedRequestError("The form of the arguments must name every input once, in order.")
    _, parts = _only(graph.arguments, "tuple")
    if len(parts) != 2 or _only(parts[0], "tuple") is None or _only(parts[1], "dict") is None:
        raise MalformedRequestError(
            "The form of the arguments is a tuple of positional ones and a dictionary of named ones."
        )


def _only(form: Any, kind: str) -> tuple[str, list[Any]]:
    if not isinstance(form, dict) or kind not in form:
        raise MalformedRequestError(f"A {kind} is needed here.")
    return kind, form[kind]


def _check_spec(spec: Spec) -> None:
    if spec.dtype not in DTYPES:
        raise MalformedRequestError(f"{spec.dtype[:40]!r} is no dtype.")
    if len(spec.shape) > 64:
        raise MalformedRequestError(f"A tensor of {len(spec.shape)} dimensions; 64 are the most.")


def _check_output(graph: Graph, kinds: list[Kind]) -> None:
    for ref in forms.refs(graph.output):
        kind = kinds[ref.number] if ref.number < len(kinds) else None
        if kind not in (TENSOR, NUMBER, NOTHING):
            raise MalformedRequestError(f"A plan gives tensors and sizes; value {ref.number} is {kind or 'missing'}.")


def _node(node: Node, kinds: list[Kind]) -> tuple[Operator | None, Kind]:
    """The operation of a node, and what it gives."""
    space, _, name = node.operator.partition(".")
    if space == "aten":
        operator = operators.find(node.operator)
        return operator, _aten(operator, node, kinds)
    if node.kwargs:
        raise MalformedRequestError(f"{node.operator[:40]!r} takes no keyword arguments.")
    if space == "number":
        return None, _number(name, node, kinds)
    if space == "size":
        return None, _size(name, node, kinds)
    if node.operator == "item":
        return None, _item(node, kinds)
    if node.operator == "scalar":
        _expect(node, kinds, [TENSOR])
        return None, SCALAR
    raise OperationNotAllowedError(f"{node.operator[:80]!r} is no operation of plans.")


def _kind(value: Any, kinds: list[Kind]) -> Kind | None:
    """What an argument is, if it is a value of the graph.

    Raises:
        MalformedRequestError: the value is made later, or never.
    """
    if type(value) is not Ref:
        return None
    if value.number >= len(kinds):
        raise MalformedRequestError(f"A node uses value {value.number}, and only {len(kinds)} are made before it.")
    return kinds[value.number]


def _expect(node: Node, kinds: list[Kind], expected: list[str]) -> None:
    given = [_kind(arg, kinds) for arg in node.args]
    if given != expected:
        raise MalformedRequestError(f"{node.operator[:40]} takes {', '.join(expected)}.")


def _number(name: str, node: Node, kinds: list[Kind]) -> Kind:
    if len(node.args) != numbers.operands(name):
        raise MalformedRequestError(f"number.{name} takes {numbers.operands(name)} numbers, not {len(node.args)}.")
    given = [_kind(arg, kinds) for arg in node.args]
    for arg, kind in zip(node.args, given, strict=True):
        if kind not in (NUMBER, SCALAR) and (kind is not None or type(arg) not in (int, float)):
            raise MalformedRequestError(f"number.{name} works on numbers, not on {kind or type(arg).__name__}.")
    return SCALAR if SCALAR in given else NUMBER


def _size(name: str, node: Node, kinds: list[Kind]) -> Kind:
    arguments = 2 if name in ("shape", "stride") else 1
    if name not in numbers.SIZES or len(node.args) != arguments or _kind(node.args[0], kinds) != TENSOR:
        raise MalformedRequestError(
            "size.shape and size.stride take a tensor and a dimension, size.numel and size.offset a tensor."
        )
    if arguments == 2 and type(node.args[1]) is not int:
        raise MalformedRequestError(f"size.{name} takes a dimension.")
    return NUMBER


def _item(node: Node, kinds: list[Kind]) -> Kind:
    if len(node.args) != 2 or type(node.args[1]) is not int or node.args[1] < 0:
        raise MalformedRequestError("item takes a value with several parts and a place.")
    whole, place = _kind(node.args[0], kinds), node.args[1]
    if whole == LIST:
        return TENSOR
    if not isinstance(whole, tuple) or place >= len(whole):
        raise MalformedRequestError(f"item: part {place} of {whole or 'no value of the plan'}.")
    return whole[place]


def _aten(operator: Operator, node: Node, kinds: list[Kind]) -> Kind:
    base = operator.name.split(".")[1]
    if base in _NO_OPERATION:
        raise OperationNotAllowedError(f"{operator.name} cannot be part of a plan; copy_ writes values in place.")
    schema = operator.overload._schema
    given = list(_pair(operator, schema, node))
    for argument, value in given:
        if not _fits(argument.real_type, value, kinds, base in _SIZED_BY_VALUE):
            raise MalformedRequestError(
                f"{operator.name}: argument {argument.name} is a {argument.type}, and {_told(value, kinds)} was given."
            )
    names = {argument.name for argument, _ in given}
    for argument in schema.arguments:
        if argument.name not in names and not argument.has_default_value():
            raise MalformedRequestError(f"{operator.name}: argument {argument.name} is missing.")
    returned = tuple(_returned(result.type) for result in schema.returns)
    return returned[0] if len(returned) == 1 else (returned or NOTHING)


def _pair(operator: Operator, schema: Any, node: Node) -> Iterator[tuple[Any, Any]]:
    positional = [argument for argument in schema.arguments if not argument.kwarg_only]
    if len(node.args) > len(positional):
        raise MalformedRequestError(
            f"{operator.name} takes {len(positional)} positional arguments, not {len(node.args)}."
        )
    yield from zip(positional, node.args, strict=False)
    rest = {argument.name: argument for argument in schema.arguments if argument not in positional[: len(node.args)]}
    for name, value in node.kwargs.items():
        if name not in rest:
            raise MalformedRequestError(f"{operator.name} has no argument {name[:40]!r} left to name.")
        yield rest[name], value


def _fits(wanted: Any, value: Any, kinds: list[Kind], sized: bool) -> bool:
    """Whether an argument is of the type a schema wants."""
    name = wanted.kind()
    if name == "OptionalType":
        return value is None or _fits(wanted.getElementType(), value, kinds, sized)
    if name == "ListType":
        element = wanted.getElementType()
        if type(value) is list:
            return all(_fits(element, part, kinds, sized) for part in value)
        if _kind(value, kinds) == LIST:
            return bool(element.kind() == "TensorType")
        return element.kind() in {*_INTEGERS, "FloatType", "BoolType"} and _fits(element, value, kinds, sized)
    kind = _kind(value, kinds)
    if kind is None:
        return (
            type(value) in _NUMBERS
            if name == "TensorType"
            else isinstance(value, _PLAIN_TYPES.get(name, ())) and not (name in _INTEGERS and isinstance(value, bool))
        )
    if name == "TensorType":
        return kind in (TENSOR, NUMBER, SCALAR)
    if name in _INTEGERS:
        return kind == NUMBER
    return name in ("NumberType", "FloatType") and (kind == NUMBER or (kind == SCALAR and not sized))


def _told(value: Any, kinds: list[Kind]) -> str:
    if isinstance(value, list):
        return f"a list of {', '.join(sorted({_told(part, kinds) for part in value})) or 'nothing'}"
    kind = _kind(value, kinds)
    return f"a {type(value).__name__}" if kind is None else " and ".join(kind) if isinstance(kind, tuple) else kind


def _returned(kind: Any) -> str:
    if kind.kind() == "TensorType":
        return TENSOR
    if kind.kind() == "ListType":
        return LIST
    raise MalformedRequestError(f"An operation that gives a {kind} cannot be part of a plan.")


def _named(value: Any) -> Iterator[int]:
    if type(value) is Ref:
        yield value.number
    elif type(value) is list:
        for part in value:
            yield from _named(part)


def used(node: Node) -> Iterator[int]:
    """Numbers of the values a node uses."""
    for value in (*node.args, *node.kwargs.values()):
        yield from _named(value)


def _steps(graph: Graph, found: list[Operator | None]) -> Iterator[Step]:
    """The nodes as steps; each names the values it is the last to use."""
    kept = {ref.number for ref in forms.refs(graph.output)} | set(range(graph.first))
    frees: list[tuple[int, ...]] = []
    for place in range(len(graph.nodes) - 1, -1, -1):
        last = ({*used(graph.nodes[place]), graph.first + place}) - kept
        kept |= last
        frees.append(tuple(last))
    for node, operator, free in zip(graph.nodes, found, reversed(frees), strict=True):
        yield Step(node.operator, operator, node.args, node.kwargs, free)
