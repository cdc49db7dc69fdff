"""How large the result of an operation will be, from shapes and public arguments alone.

A member asks before it takes memory: a few bytes of a command can ask for a result without end, by a public shape or by
a product of a column and a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharetorch.mpc import linear
from sharetorch.mpc.protocols import sorting
from sharetorch.mpc.protocols.bilinear import BilinearMap

Shape = tuple[int, ...]

_BOUNDED = linear.VIEWS | frozenset(
    f"aten.{name}"
    for name in (
        "add.Tensor", "sub.Tensor", "where.self", "clone.default", "_unsafe_view.default", "neg.default",
        "sum.default", "sum.dim_IntList", "cumsum.default", "flip.default", "roll.default", "tril.default",
        "triu.default", "trace.default", "rot90.default", "select_scatter.default", "slice_scatter.default",
        "index_put.default", "index_add.default", "index_copy.default", "scatter.src", "scatter_add.default",
    )
)  # fmt: skip
"""Local operations whose result has at most as many elements as their operands multiplied."""


def elements_of(name: str, shapes: Sequence[Shape], public: Mapping[str, Any], limit: int) -> int:
    """At least how many elements the largest result has, if that is more than the limit; else any number within it.

    Args:
        name: of the operation.
        shapes: of its operands.
        public: its public arguments.
        limit: what is taken.

    Raises:
        Exception: what the operation itself would raise on these shapes.
    """
    if name == "local":
        return _local(shapes, public, limit)
    if name == "products":
        return sum(math.prod(f.shape(shapes[i], shapes[j])) for f, i, j, _ in public["terms"])
    if name == "write_all":
        return max(_broadcast(shapes, sources) for _, sources, _ in public["writes"])
    if name == "descend":
        targets = [(second if first < 0 else first, sources) for first, sources, _, second in public["steps"]]
        sums = sum(_broadcast(shapes, (target, *sources)) for target, sources in targets)
        products: int = sum(math.prod(f.shape(shapes[i], shapes[j])) for _, f, i, j in public.get("products", ()))
        return sums + products
    values, function = public.get("values"), public.get("function")
    if isinstance(values, Tensor):
        shapes = [tuple(values.shape), *shapes] if public.get("public_first") else [*shapes, tuple(values.shape)]
    if isinstance(function, BilinearMap) and len(shapes) >= 2:
        made = function.shape(*shapes[:2])
        return math.prod(np.broadcast_shapes(made, *shapes[2:]))
    if name == "route":
        return int(public.get("n", 1)) * max(map(math.prod, shapes), default=0)
    if name == "sort":
        return max(1, sorting.most_exchanges(shapes[0][0])) * math.prod(shapes[0][1:])
    if name == "unsort":
        return int(public.get("n", 1)) * math.prod(shapes[0][1:])
    if name == "bucketize":
        return int(public["thresholds"].numel()) * math.prod(shapes[0])
    if _product(shapes) <= limit:
        return 0
    return math.prod(np.broadcast_shapes(*shapes)) if name != "constant" else max(map(math.prod, shapes))


def _broadcast(shapes: Sequence[Shape], places: Sequence[int]) -> int:
    """Elements of a sum of operands."""
    return math.prod(np.broadcast_shapes(*(shapes[k] for k in places)))


def _local(shapes: Sequence[Shape], public: Mapping[str, Any], limit: int) -> int:
    function, args = public.get("function"), public.get("args", ())
    known = [*shapes, *(tuple(arg.shape) for arg in args if isinstance(arg, Tensor))]
    if function in linear.VIEWS or function not in linear.FUNCTIONS or not shapes:
        return 0
    if function in _BOUNDED and _product(known) <= limit:
        return 0
    metas = [torch.empty(shape, dtype=torch.int64, device="meta") for shape in shapes]
    made = linear.bind(function, args, public.get("kwargs", {}))(*metas)
    return sum(part.numel() for part in (made if isinstance(made, (list, tuple)) else [made]))


def _product(shapes: Sequence[Shape]) -> int:
    return math.prod(max(1, math.prod(shape)) for shape in shapes)
