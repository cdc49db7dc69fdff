"""A graph as readable text, in the manner of Python."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from sharetorch.remote.plans import forms
from sharetorch.remote.plans.graph import Graph, Node, Spec, dims
from sharetorch.remote.wire import Ref

_SIGNS = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**"}


def listing(graph: Graph) -> str:
    """The text of a graph: one line for each node, with names instead of numbers."""
    names = _names(graph)
    lines = [f"def {graph.name}({', '.join(_argument(spec) for spec in graph.inputs)}):"]
    for place, spec in enumerate(graph.state, len(graph.inputs)):
        lines.append(f"    {names[place]} = state[{spec.name!r}]  # {spec.dtype}{dims(spec.shape)}")
    for place, node in enumerate(graph.nodes, graph.first):
        lines.append(f"    {names[place]} = {_expression(node, names)}")
    lines.append(f"    return {_output(graph.output, names)}")
    return "\n".join(lines)


def _argument(spec: Spec) -> str:
    return f"{spec.name}: {spec.dtype}{dims(spec.shape)}"


def _names(graph: Graph) -> list[str]:
    """A name for each value."""
    taken: dict[str, int] = {}
    wanted = [re.sub(r"^(?=\d)", "_", re.sub(r"\W+", "_", spec.name)) for spec in [*graph.inputs, *graph.state]]
    wanted += [_result_name(node) for node in graph.nodes]
    return list(_different(wanted, taken))


def _different(wanted: list[str], taken: dict[str, int]) -> Iterator[str]:
    for name in wanted:
        count = taken.get(name, 0)
        taken[name] = count + 1
        yield f"{name}_{count}" if count else name


def _result_name(node: Node) -> str:
    space, _, rest = node.operator.partition(".")
    return rest.partition(".")[0].strip("_") if space == "aten" else rest or space


def _expression(node: Node, names: list[str]) -> str:
    space, _, rest = node.operator.partition(".")
    args = [_text(arg, names) for arg in node.args]
    if space == "item":
        return f"{args[0]}[{args[1]}]"
    if space == "size":
        return f"{args[0]}.{rest}" + (f"[{args[1]}]" if len(args) == 2 else "")
    if space == "scalar":
        return f"{args[0]}.item()"
    if space == "number":
        return f" {_SIGNS[rest]} ".join(args) if rest in _SIGNS else f"{rest}({', '.join(args)})"
    named = [f"{name}={_text(value, names)}" for name, value in node.kwargs.items()]
    return f"aten.{rest.removesuffix('.default')}({', '.join([*args, *named])})"


def _text(value: Any, names: list[str]) -> str:
    if isinstance(value, Ref):
        return names[value.number]
    if isinstance(value, list):
        return f"[{', '.join(_text(part, names) for part in value)}]"
    return repr(value)


class _Name:
    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


def _output(form: Any, names: list[str]) -> str:
    return repr(forms.unpack(form, lambda ref: _Name(names[ref.number])))
