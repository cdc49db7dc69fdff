"""Leaving out what a recorded graph does not need."""

from __future__ import annotations

from typing import Any

import torch

from sharetorch.remote.plans import forms
from sharetorch.remote.plans.checking import used
from sharetorch.remote.plans.graph import Graph, Node
from sharetorch.remote.wire import Ref


def without_dead(graph: Graph) -> Graph:
    """The graph without nodes whose results nobody uses, and which change nothing."""
    kept = {ref.number for ref in forms.refs(graph.output)}
    alive: list[int] = []
    for place in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[place]
        if graph.first + place in kept or _writes(node):
            alive.append(place)
            kept.update(used(node))
    return _renumbered(graph, alive[::-1])


def _writes(node: Node) -> bool:
    overload = node.operator.split(".")[1:]
    return node.operator.startswith("aten.") and (overload[0].endswith("_") or _schema_writes(node.operator))


def _schema_writes(name: str) -> bool:
    _, base, overload = name.split(".")
    schema = getattr(getattr(torch.ops.aten, base), overload)._schema
    return bool(schema.is_mutable) or base in ("native_batch_norm", "_batch_norm_impl_index")


def _renumbered(graph: Graph, alive: list[int]) -> Graph:
    numbers = {place: place for place in range(graph.first)}
    numbers.update({graph.first + old: graph.first + new for new, old in enumerate(alive)})

    def moved(value: Any) -> Any:
        if isinstance(value, Ref):
            return Ref(numbers[value.number])
        return [moved(part) for part in value] if isinstance(value, list) else value

    nodes = [
        Node(node.operator, moved(node.args), {name: moved(value) for name, value in node.kwargs.items()})
        for node in (graph.nodes[place] for place in alive)
    ]
    output = forms.mapped(graph.output, moved)
    return Graph(graph.version, graph.name, graph.inputs, graph.arguments, graph.state, nodes, output)
