"""The interpreter of graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import MalformedRequestError, PlanShapeError
from sharetorch.remote.objects import dtype_name
from sharetorch.remote.operators import Operator
from sharetorch.remote.plans import forms, numbers, secure
from sharetorch.remote.plans.checking import Program, Step
from sharetorch.remote.plans.graph import Graph, Spec, dims
from sharetorch.remote.wire import Ref

Compute = Callable[[Operator, list[Any], dict[str, Any]], Any]
"""Runs one aten operation."""

Watch = Callable[[dict[int, Any]], None]
"""Looks at values by number."""


def run(
    program: Program, inputs: Sequence[Tensor], state: Sequence[Tensor], compute: Compute, watch: Watch | None = None
) -> dict[int, Any]:
    """Run a program.

    Args:
        program: a checked graph.
        inputs: checked by ``require_fit``.
        state: of the plan; changed in place where the graph says so.
        compute: runs one aten operation.
        watch: looks at all values after each step; raises to stop.

    Returns:
        Every value the output names, by number.
    """
    values: dict[int, Any] = dict(enumerate((*inputs, *state)))
    number = len(values)
    for step in program.steps:
        values[number] = _result(step, values, compute)
        number += 1
        if watch is not None:
            watch(values)
        for freed in step.frees:
            del values[freed]
    return values


def _result(step: Step, values: dict[int, Any], compute: Compute) -> Any:
    args = [_filled(arg, values) for arg in step.args]
    if step.operator is not None:
        kwargs = {name: _filled(value, values) for name, value in step.kwargs.items()}
        form = None if type(args[0] if args else None) is Tensor else secure.form_of(step.operator, args)
        return compute(step.operator, args, kwargs) if form is None else form(*args, **kwargs)
    space, _, name = step.name.partition(".")
    if space == "item":
        return _part(args[0], args[1])
    if space == "size":
        return numbers.SIZES[name](*args)
    if space == "number":
        return numbers.apply(name, args)
    return args[0].item()


def _part(whole: Any, place: int) -> Any:
    if place >= len(whole):
        raise MalformedRequestError(f"Part {place} of a value with {len(whole)} parts.")
    return whole[place]


def _filled(value: Any, values: dict[int, Any]) -> Any:
    kind = type(value)
    if kind is Ref:
        return values[value.number]
    if kind is list:
        return [_filled(part, values) for part in value]
    return value


def locally(program: Program, inputs: Sequence[Tensor], state: Sequence[Tensor]) -> Any:
    """Run a program here; autograd records, unless the program itself changes tensors in place.

    Operands may be tensors of any kind that torch's operations take: shared ones, pointers, layers.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and not program.writes):
        values = run(program, inputs, state, _compute)
    return forms.unpack(program.graph.output, lambda ref: values[ref.number])


def _compute(operator: Operator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    operator.validate(args, kwargs)
    result = operator.overload(*args, **kwargs)
    return result.zero_() if operator.uninitialised else result


def require_fit(program: Program, inputs: Sequence[Any]) -> None:
    """Check shapes and dtypes of the inputs; a program that works element by element takes any.

    Raises:
        PlanShapeError: what is wrong with the first that does not fit.
    """
    graph = program.graph
    sizes: dict[int, tuple[int, str]] = {}
    for spec, given in zip(graph.inputs, inputs, strict=True):
        if not isinstance(given, Tensor):
            raise PlanShapeError(f"{graph.name}: {spec.name} is a tensor, and a {type(given).__name__} was given.")
        if program.elementwise:
            continue
        shape = list(given.shape)
        if dtype_name(given.dtype) != spec.dtype or len(shape) != len(spec.shape):
            raise _misfit(graph, spec, given)
        for wanted, size in zip(spec.shape, shape, strict=True):
            before, name = sizes.setdefault(wanted, (size, spec.name)) if wanted < 0 else (wanted, "")
            if before != size and name:
                raise PlanShapeError(
                    f"{graph.name}: {spec.name} has shape {shape}, and {name} has {before} where this has {size}; the "
                    "plan takes them with the same size."
                )
            if before != size:
                raise _misfit(graph, spec, given)


def _misfit(graph: Graph, spec: Spec, given: Tensor) -> PlanShapeError:
    return PlanShapeError(
        f"{graph.name}: {spec.name} is a {spec.dtype} tensor of shape {dims(spec.shape)}, and one of shape "
        f"{list(given.shape)}, {dtype_name(given.dtype)} was given. Build the plan for that shape, or with -1 for a "
        "size that changes."
    )
