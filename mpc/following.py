"""How labels follow data: for every command, the labels of its results from those of its operands.

A rule sees names, shapes and public arguments only, so all members come to the same labels. What a label claims, and
what is not counted, stands in ``labels``; a rule that is not sure gives ``mixed``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

from torch import Tensor

from sharetorch.mpc import linear
from sharetorch.mpc.labels import EVEN, MIXED, Label, Move, Shape, elementwise, mixed, moved, summed
from sharetorch.mpc.linear import Slot
from sharetorch.mpc.policy import OPEN
from sharetorch.mpc.protocols import bilinear as maps

Labels = tuple[Label | None, ...]


class _Arguments:
    """Arguments of a local operation after its operand."""

    def __init__(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self._args, self._kwargs = args, kwargs

    def get(self, place: int, name: str, default: Any = None) -> Any:
        """The argument at a place behind the operand, or of a name."""
        return self._args[place] if place < len(self._args) else self._kwargs.get(name, default)


def _axis(number: int, rank: int) -> int:
    return number % rank if rank else 0


def _same(shape: Shape, out: Shape, a: _Arguments) -> Move:
    return Move(tuple(range(len(shape))))


def _view(shape: Shape, out: Shape, a: _Arguments) -> Move:
    """An axis stays one where as many elements lie before it, and it is as long."""
    before = {(prod(shape[:axis]), size): axis for axis, size in enumerate(shape) if size > 1}
    return Move(
        tuple(
            EVEN if size == 1 else before.get((prod(out[:axis]), size), MIXED)
            for axis, size in enumerate(out)
        )
    )  # fmt: skip


def _transposed(shape: Shape, out: Shape, a: _Arguments) -> Move:
    rank = len(shape)
    axes = list(range(rank))
    if rank > 1:
        i, j = _axis(a.get(0, "dim0", 0), rank), _axis(a.get(1, "dim1", 1), rank)
        axes[i], axes[j] = axes[j], axes[i]
    return Move(tuple(axes))


def _permuted(shape: Shape, out: Shape, a: _Arguments) -> Move:
    return Move(tuple(_axis(dim, len(shape)) for dim in a.get(0, "dims")))


def _expanded(shape: Shape, out: Shape, a: _Arguments) -> Move:
    new = len(out) - len(shape)
    return Move((EVEN,) * new + tuple(n if shape[n] == out[n + new] else EVEN for n in range(len(shape))))


def _repeated(shape: Shape, out: Shape, a: _Arguments) -> Move:
    new = len(out) - len(shape)
    old = (n if shape[n] == out[n + new] else EVEN if shape[n] == 1 else MIXED for n in range(len(shape)))
    return Move((EVEN,) * new + tuple(old))


def _squeezed(shape: Shape, out: Shape, a: _Arguments) -> Move:
    dims = a.get(0, "dim", None)
    among = range(len(shape)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {_axis(dim, len(shape)) for dim in among}
    return Move(tuple(n for n, size in enumerate(shape) if not (n in gone and size == 1)))


def _unsqueezed(shape: Shape, out: Shape, a: _Arguments) -> Move:
    at = _axis(a.get(0, "dim", 0), len(out))
    return Move((*range(at), EVEN, *range(at, len(shape))))


def _selected(shape: Shape, out: Shape, a: _Arguments) -> Move:
    gone = _axis(a.get(0, "dim", 0), len(shape))
    return Move(tuple(n for n in range(len(shape)) if n != gone))


def _cut(shape: Shape, dim: int, taken: range) -> Move:
    order = {} if len(taken) == shape[dim] else {dim: ("slice", taken.start, taken.stop, taken.step)}
    return Move(tuple(range(len(shape))), order)


def _sliced(shape: Shape, out: Shape, a: _Arguments) -> Move:
    dim = _axis(a.get(0, "dim", 0), len(shape))
    start, end, step = a.get(1, "start"), a.get(2, "end"), a.get(3, "step", 1)
    return _cut(shape, dim, range(shape[dim])[slice(start, end, step)])


def _picked(shape: Shape, dim: int, index: Tensor, new: int = 1) -> Move:
    """Elements taken by public numbers: an axis stays one if none is taken twice."""
    axes: list[int] = [*range(dim), *[MIXED] * new, *range(dim + 1, len(shape))]
    if new == 1 and shape[dim]:
        places = [place % shape[dim] for place in index.tolist()]
        if len(set(places)) == len(places):
            axes[dim] = dim
            digest = hashlib.sha256(repr(places).encode()).hexdigest()
            return Move(tuple(axes), {dim: ("index", digest)})
    return Move(tuple(axes))


def _index_selected(shape: Shape, out: Shape, a: _Arguments) -> Move:
    index = a.get(1, "index")
    if not shape or index.dim() != 1:
        return _anything(shape, out, a)
    return _picked(shape, _axis(a.get(0, "dim", 0), len(shape)), index)


def _indexed(shape: Shape, out: Shape, a: _Arguments) -> Move:
    indices = a.get(0, "indices")
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(given) != 1 or not isinstance(given[0][1], Tensor) or given[0][1].dtype.itemsize == 1:
        return _anything(shape, out, a)
    dim, index = given[0]
    return _picked(shape, dim, index, index.dim())


def _flipped(shape: Shape, out: Shape, a: _Arguments) -> Move:
    dims = {_axis(dim, len(shape)) for dim in a.get(0, "dims")}
    return Move(tuple(range(len(shape))), {dim: ("flip",) for dim in dims})


def _rolled(shape: Shape, out: Shape, a: _Arguments) -> Move:
    shifts, dims = a.get(0, "shifts"), a.get(1, "dims", ())
    if not dims:
        return _anything(shape, out, a)
    order: dict[int, tuple[Any, ...]] = {}
    for shift, dim in zip(shifts, dims, strict=True):
        place = _axis(dim, len(shape))
        order[place] = (*order.get(place, ("roll",)), shift)
    return Move(tuple(range(len(shape))), order)


def _padded(shape: Shape, out: Shape, a: _Arguments) -> Move:
    return Move(tuple(n if shape[n] == out[n] and n < len(shape) - len(a.get(0, "pad")) // 2 else MIXED
                      for n in range(len(shape))))  # fmt: skip


def _without(shape: Shape, *dims: int) -> Move:
    gone = {_axis(dim, len(shape)) for dim in dims}
    return Move(tuple(MIXED if n in gone else n for n in range(len(shape))))


def _accumulated(shape: Shape, out: Shape, a: _Arguments) -> Move:
    return _without(shape, a.get(0, "dim", 0))


def _triangle(shape: Shape, out: Shape, a: _Arguments) -> Move:
    return _without(shape, -1, -2)


def _unfolded(shape: Shape, out: Shape, a: _Arguments) -> Move:
    move = _without(shape, a.get(0, "dimension", 0))
    return Move((*move.axes, MIXED)) if shape else _anything(shape, out, a)


def _put_back(shape: Shape, out: Shape, a: _Arguments) -> Move:
    return _without(shape, a.get(1, "dim", 0))


def _put_back_one(shape: Shape, out: Shape, a: _Arguments) -> Move:
    at = _axis(a.get(1, "dim", 0), len(out))
    return Move((*range(at), MIXED, *range(at, len(shape))))


def _pixels(shape: Shape, out: Shape, a: _Arguments) -> Move:
    return Move((*range(len(shape) - 3), *[MIXED] * 3))


def _gathered(shape: Shape, out: Shape, a: _Arguments) -> Move:
    return Move((MIXED, 0, 1, *[MIXED] * (len(out) - 3)))


def _scattered(shape: Shape, out: Shape, a: _Arguments) -> Move:
    return Move((1, 2, *[MIXED] * (len(out) - 2)))


def _anything(shape: Shape, out: Shape, a: _Arguments) -> Move:
    return Move((MIXED,) * len(out))


MOVES: dict[str, Callable[[Shape, Shape, _Arguments], Move]] = {
    **dict.fromkeys(("clone.default", "detach.default", "alias.default", "neg.default"), _same),
    **dict.fromkeys(("view.default", "_unsafe_view.default", "_reshape_alias.default"), _view),
    **dict.fromkeys(("t.default", "transpose.int"), _transposed),
    "permute.default": _permuted,
    "expand.default": _expanded,
    "repeat.default": _repeated,
    **dict.fromkeys(("squeeze.default", "squeeze.dim", "squeeze.dims"), _squeezed),
    "unsqueeze.default": _unsqueezed,
    **dict.fromkeys(("select.int", "unbind.int"), _selected),
    "slice.Tensor": _sliced,
    "index_select.default": _index_selected,
    "index.Tensor": _indexed,
    "flip.default": _flipped,
    "roll.default": _rolled,
    "constant_pad_nd.default": _padded,
    "cumsum.default": _accumulated,
    **dict.fromkeys(("tril.default", "triu.default"), _triangle),
    "unfold.default": _unfolded,
    "slice_backward.default": _put_back,
    "select_backward.default": _put_back_one,
    **dict.fromkeys(("pixel_shuffle.default", "pixel_unshuffle.default"), _pixels),
    str(linear.GATHER_WINDOWS): _gathered,
    str(linear.SCATTER_WINDOWS): _scattered,
}
"""How local operations of one operand move its axes; all others are taken to move everything anywhere."""


# -------------------------------------------------------------------------------------------------- rules by command


class _Command(NamedTuple):
    """A command as its rule sees it."""

    labels: Sequence[Label | None]
    shapes: Sequence[Shape]
    outs: Sequence[Shape]
    public: Mapping[str, Any]


Rule = Callable[[_Command], Labels]


def _local(c: _Command) -> Labels:
    name = str(c.public["function"]).removeprefix("aten.")
    args, kwargs = c.public["args"], c.public["kwargs"]
    if name in ("add.Tensor", "sub.Tensor", "where.self"):
        return (_over_all(c, args, "combine" if name != "where.self" else None),)
    if name in ("cat.default", "stack.default"):
        return (_side_by_side(c, name == "stack.default", _Arguments(args[1:], kwargs)),)
    if len(c.labels) != 1 or not args or not isinstance(args[0], Slot):
        return (mixed(c.labels),) * len(c.outs)
    label, shape, a = c.labels[0], c.shapes[0], _Arguments(args[1:], kwargs)
    if name in ("sum.default", "sum.dim_IntList"):
        dims = a.get(0, "dim", None) if name != "sum.default" else None
        axes = [_axis(dim, len(shape)) for dim in dims] if dims else range(len(shape))
        return (summed(label, shape, axes, bool(a.get(1, "keepdim", False))),)
    if name in ("split.Tensor", "split_with_sizes.default"):
        return _split(c, _axis(a.get(1, "dim", 0), len(shape)))
    rule = MOVES.get(name, _anything)
    made_by = "cumsum" if name == "cumsum.default" else "sum" if name in ("trace.default",) else None
    return tuple(moved(label, rule(shape, out, a), made_by) for out in c.outs)


def _split(c: _Command, dim: int) -> Labels:
    parts, start = [], 0
    for out in c.outs:
        parts.append(moved(c.labels[0], _cut(c.shapes[0], dim, range(start, start + out[dim]))))
        start += out[dim]
    return tuple(parts)


def _over_all(c: _Command, args: Sequence[Any], made_by: str | None) -> Label | None:
    """Operands and public tensors, element by element."""
    labels, shapes = list(c.labels), list(c.shapes)
    for arg in args:
        if isinstance(arg, Tensor):
            labels.append(public(arg))
            shapes.append(tuple(arg.shape))
    return elementwise(labels, shapes, c.outs[0], made_by)


def _side_by_side(c: _Command, stacked: bool, a: _Arguments) -> Label | None:
    """Operands beside one another: rows stay rows if all have the same, along another axis."""
    out = c.outs[0]
    dim = _axis(a.get(0, "dim", 0), len(out))
    labels, shapes = list(c.labels), [list(shape) for shape in c.shapes]
    if stacked:
        labels = [moved(la, _unsqueezed(s, out, a)) for la, s in zip(labels, shapes, strict=True)]
        shapes = [[*s[:dim], 1, *s[dim:]] for s in shapes]
    if any(len(shape) != len(out) for shape in shapes):
        return mixed(labels)
    if any(label is not None and label.row_axis == dim for label in labels) and len(labels) > 1:
        return mixed(labels)
    for shape in shapes:
        shape[dim] = 1
    beside = elementwise(labels, shapes, [*out[:dim], 1, *out[dim + 1 :]])
    return None if beside is None else replace(beside, even=beside.even - {dim})


def public(values: Tensor) -> Label | None:
    """What is known of public numbers: along which axes they are equal."""
    even = frozenset(
        axis for axis, size in enumerate(values.shape) if size > 1 and bool((values == values.narrow(axis, 0, 1)).all())
    )
    return Label(OPEN, even=even) if even else None


def _each(made_by: str | None) -> Rule:
    """All operands, element by element."""

    def rule(c: _Command) -> Labels:
        return (elementwise(c.labels, c.shapes, c.outs[0], made_by),) * len(c.outs)

    return rule


def _with_values(c: _Command) -> Labels:
    values: Tensor = c.public["values"]
    shapes = [*c.shapes, tuple(values.shape)]
    return (elementwise([*c.labels, public(values)], shapes, c.outs[0], None),)


def _bilinear(c: _Command) -> Labels:
    product = _map(c.public["function"], c.labels[:2], c.shapes[:2], c.outs[0])
    if len(c.labels) == 2:
        return (product,)
    return (elementwise([product, *c.labels[2:]], [c.outs[0], *c.shapes[2:]], c.outs[0], "combine"),)


def _rectified_product(c: _Command) -> Labels:
    (label,) = _bilinear(c._replace(outs=c.outs[2:]))
    return (*(None if label is None else replace(label, made_by=name) for name in ("relu", "comparison")), label)


def _products(c: _Command) -> Labels:
    places = [(f, (int(i), int(j))) for f, i, j, _ in c.public["terms"]]
    return tuple(
        _map(f, [c.labels[k] for k in pair], [c.shapes[k] for k in pair], out)
        for (f, pair), out in zip(places, c.outs, strict=True)
    )


def _public_bilinear(c: _Command) -> Labels:
    values: Tensor = c.public["values"]
    labels, shapes = [c.labels[0], public(values)], [c.shapes[0], tuple(values.shape)]
    if c.public["public_first"]:
        labels, shapes = labels[::-1], shapes[::-1]
    return (_map(c.public["function"], labels, shapes, c.outs[0]),)


def _map(f: Any, labels: Sequence[Label | None], shapes: Sequence[Shape], out: Shape) -> Label | None:
    """A bilinear map: element by element in the space of all its indices, then summed."""
    if isinstance(f, maps.Product):
        return elementwise(labels, shapes, out, "product")
    if isinstance(f, maps.MatrixProduct):
        return _matrix_product(labels, shapes)
    if isinstance(f, (maps.Convolution, maps.ConvolutionInputGradient)):
        images = _images(labels[0], shapes[0])
        if labels[1] is not None and labels[1].row_axis is not None:
            return mixed(labels, "convolution")
        batches = elementwise([images, labels[1]], [shapes[0][:1], ()], shapes[0][:1], "convolution")
        return None if batches is None else moved(batches, Move((0, *[MIXED] * (len(out) - 1))))
    if isinstance(f, maps.ConvolutionKernelGradient):
        each = [_images(label, shape) for label, shape in zip(labels, shapes, strict=True)]
        batch = [shapes[0][0]]
        return _named(summed(elementwise(each, [batch, batch], batch), batch, (0,)), "convolution")
    return mixed(labels)


def _images(label: Label | None, shape: Shape) -> Label | None:
    """A label as if there were nothing but the axis of images."""
    return moved(label, Move((0,)))


def _matrix_product(labels: Sequence[Label | None], shapes: Sequence[Shape]) -> Label | None:
    x, y = shapes
    if len(x) != len(y) or len(x) < 2:
        return mixed(labels, "matmul")
    batch = len(x) - 2
    ahead = tuple(range(batch))
    spread = [
        moved(labels[0], Move((*ahead, batch, batch + 1, EVEN))),
        moved(labels[1], Move((*ahead, EVEN, batch, batch + 1))),
    ]
    full = (*x, y[-1])
    terms = elementwise(spread, [(*x, 1), (*y[:-2], 1, *y[-2:])], full)
    return _named(summed(terms, full, (batch + 1,)), "matmul")


def _named(label: Label | None, made_by: str) -> Label | None:
    return label if label is None or not label.restricted else replace(label, made_by=made_by)


def _relu(c: _Command) -> Labels:
    label = elementwise(c.labels, c.shapes, c.outs[0])
    return tuple(None if label is None else replace(label, made_by=n) for n in ("relu", "comparison")[: len(c.outs)])


def _maximum(c: _Command) -> Labels:
    """Over dimension 0; the largest of several rows is one row's."""
    label, shape = c.labels[0], c.shapes[0]
    rest = Move(tuple(range(1, len(shape))))
    trail = Move((MIXED, *range(1, len(shape))))
    value, index = (moved(label, rest, name) for name in ("max", "argmax"))
    return (value, index, moved(label, trail, "comparison"))


def _route(c: _Command) -> Labels:
    rest = c.outs[0][1:]
    rank = len(rest)
    gradient = moved(c.labels[0], Move((EVEN, *range(rank))))
    trail = moved(c.labels[1], Move((MIXED, *range(1, rank + 1))))
    terms = elementwise([gradient, trail], [(1, *rest), (1, *rest)], (1, *rest), "route")
    return (None if terms is None else moved(terms, Move((MIXED, *range(1, rank + 1)))),)


def _sort(c: _Command) -> Labels:
    """Over dimension 0, along which nobody knows any more what lies where."""
    sorted_ = Move((MIXED, *range(1, len(c.shapes[0]))))
    return tuple(moved(c.labels[0], sorted_, name) for name in ("sort", "argsort", "comparison"))


def _unsort(c: _Command) -> Labels:
    rest = c.outs[0][1:]
    back = Move((MIXED, *range(1, len(rest) + 1)))
    terms = elementwise([moved(label, back) for label in c.labels], [(1, *rest)] * 2, (1, *rest), "route")
    return (None if terms is None else moved(terms, back),)


def _constant(c: _Command) -> Labels:
    return (public(c.public["values"]),)


def _write(c: _Command) -> Labels:
    return (_target(c, c.outs[0], 0, range(1, len(c.labels))),)


def _write_all(c: _Command) -> Labels:
    writes = zip(c.public["writes"], c.outs, strict=True)
    return tuple(_target(c, out, int(target), places) for (target, places, _), out in writes)


def _descend(c: _Command) -> Labels:
    """What the first target of a step becomes is added to the second one."""
    labels: list[Label | None] = []
    steps = zip(c.public["steps"], c.outs[::2], c.outs[1::2], strict=True)
    for number, ((first, sources, _, second), moved_out, out) in enumerate(steps):
        products = [
            (_map(f, [c.labels[i], c.labels[j]], [c.shapes[i], c.shapes[j]], moved_out), moved_out)
            for step, f, i, j in c.public.get("products", ())
            if step == number
        ]
        changed = _target(c, moved_out, int(first), sources, products)
        labels += [changed, elementwise([c.labels[second], changed], [c.shapes[second], moved_out], out, "combine")]
    return tuple(labels)


def _target(
    c: _Command, out: Shape, target: int, sources: Sequence[int], more: Sequence[tuple[Label | None, Shape]] = ()
) -> Label | None:
    """What a target written to as a whole holds afterwards, or a new object: a sum of operands and of more."""
    parts = [*((c.labels[k], c.shapes[k]) for k in sources), *more]
    made_by = None if len(parts) == 1 else "combine"
    written = elementwise([label for label, _ in parts], [shape for _, shape in parts], out, made_by)
    label = c.labels[target] if target >= 0 else None
    if label is None or not label.restricted:
        return written
    return elementwise([label, written], [c.shapes[target], out], out)


RULES: dict[str, Rule] = {
    "local": _local,
    "combine": _each("combine"),
    "negate": _each(None),
    "constant": _constant,
    "add_public": _with_values,
    "scale": _with_values,
    "public_bilinear": _public_bilinear,
    "bilinear": _bilinear,
    "products": _products,
    "rectified_product": _rectified_product,
    "truncate": _each(None),
    "non_negative": _each("comparison"),
    "equal_zero": _each("comparison"),
    "relu": _relu,
    "maximum": _maximum,
    "route": _route,
    "sort": _sort,
    "unsort": _unsort,
    "bucketize": _each("comparison"),
    "reciprocal": _each("divide"),
    "divide": _each("divide"),
    "square_root": _each("square_root"),
    "inverse_square_root": _each("square_root"),
    "refresh": _each(None),
    "add_noise": _each(None),
    "write": _write,
    "write_all": _write_all,
    "descend": _descend,
    "check_range": _each(None),
}
"""Rules by the name of the operation; a test compares them with the command table."""


def after(
    operation: str,
    labels: Sequence[Label | None],
    shapes: Sequence[Shape],
    outs: Sequence[Shape],
    public: Mapping[str, Any],
) -> Labels:
    """Labels of a command's results.

    Args:
        operation: name of the command.
        labels: of its operands; None for what nobody restricts.
        shapes: of its operands.
        outs: shapes of its results.
        public: its public arguments.

    Returns:
        One label for each result. An operation without a rule gives the strictest of its operands' labels.
    """
    rule = RULES.get(operation)
    command = _Command(labels, shapes, outs, public)
    return (mixed(labels),) * len(outs) if rule is None else rule(command)
