"""The data form of a plan: what crosses the wire, and what a file would hold.

Values of a graph are counted: first the inputs, then the state, then the results of the nodes, one for each. Inside a
graph ``Ref(n)`` is value ``n``. A node names one operation:

    "aten.add.Tensor"   an aten operation of the worker's list, with arguments as torch's schema has them
    "item"              one part of a value with several: [value, place]
    "size.shape"        one size of a tensor: [tensor, dimension]; also "size.numel", "size.stride", "size.offset"
    "number.add"        arithmetic on numbers; see ``numbers``
    "scalar"            the value of a tensor of one element, as a number that no size may depend on
"""

from __future__ import annotations

from typing import Any

import msgspec

VERSION = 1
"""Of this form. A node refuses graphs of another version."""

MAX_NODES = 200_000
MAX_VALUES = 100_000
"""Largest numbers of nodes, and of inputs and state tensors, a node accepts."""


class Spec(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An input, or a tensor of the state.

    Attributes:
        name: as in the listing.
        dtype: name of the element type.
        shape: sizes; a negative one is any size, the same wherever the same negative number stands.
    """

    name: str
    dtype: str
    shape: list[int]


class Node(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One operation.

    Attributes:
        operator: its name.
        args: its arguments; values of the graph as ``Ref``.
        kwargs: its keyword arguments.
    """

    operator: str
    args: list[Any]
    kwargs: dict[str, Any] = {}


class Graph(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A recorded function.

    Attributes:
        version: of this form.
        name: of the function.
        inputs: in the order in which ``arguments`` names them.
        arguments: form of the positional and keyword arguments, see ``forms``; its leaves are inputs.
        state: tensors that stay with the plan.
        nodes: in the order in which they run.
        output: form of the results.
    """

    version: int
    name: str
    inputs: list[Spec]
    arguments: Any
    state: list[Spec]
    nodes: list[Node]
    output: Any

    @property
    def first(self) -> int:
        """Number of the first node's result."""
        return len(self.inputs) + len(self.state)


def dims(shape: list[int]) -> str:
    """A shape as text; sizes that are free are n, m, ..."""
    names = "nmklpqrs"
    return "[" + ", ".join(str(size) if size >= 0 else names[(-size - 1) % len(names)] for size in shape) + "]"
