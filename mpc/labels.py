"""Who may have results of a secure computation: policies of data, and labels that follow them through every command.

The owner of data gives it a ``Policy``. Every member gives the shared object a ``Label`` and computes the labels of
results from those of operands, with public information only: names of operations, shapes, public arguments. Before a
member lets go of its share of a result, ``check`` compares its label with who asks.

**What a label claims.** Objects with ``row_axis`` None: every element is a function of public numbers, of data without
a count, and of aggregates over at least ``rows`` distinct rows each; in an aggregate, all rows went through the same
function and were added with the same weight. Objects with a ``row_axis``: the slices along it concern disjoint sets of
``rows`` rows, all treated alike, in the order that ``frame`` stands for; all else in them is as above with ``floor``
rows. So the sum over n slices aggregates n * rows rows, or ``floor`` if that is less.

**What is not counted.** Whatever cannot be seen to be so loses its ``row_axis``: it keeps the rows its elements had and
gains none by later sums. Above all, rows multiplied by, added to or put beside numbers from elsewhere that differ from
row to row, public or shared: such numbers can select one row. Repeated rows, partial sums, rows in different orders.

A function of the data itself can select one row too, and two aggregates may differ by one row: see
docs/explanation/release-policy.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, NamedTuple

from sharetorch.mpc.errors import ReleaseRefusedError
from sharetorch.mpc.policy import OPEN, UNCOUNTED, Policy

Shape = Sequence[int]


@dataclass(frozen=True)
class Label:
    """What members know of a shared object's origin; the module's docstring says what it claims.

    Attributes:
        policy: joined policies of all data it depends on.
        row_axis: axis along which rows lie; None if they do not, or not surely.
        rows: of the data, aggregated at least in every element.
        made_by: the operation that made it, a name of ``MAKERS``.
        frame: which rows lie along ``row_axis``, in which order.
        floor: rows aggregated in what is the same for all rows; only with a ``row_axis``.
        even: axes along which all elements are equal.
    """

    policy: Policy
    row_axis: int | None = None
    rows: int = UNCOUNTED
    made_by: str = "source"
    frame: tuple[Any, ...] = ()
    floor: int = UNCOUNTED
    even: frozenset[int] = field(default=frozenset())

    @property
    def restricted(self) -> bool:
        """Whether there is anything to check."""
        return self.policy is not OPEN

    @property
    def counted(self) -> bool:
        """Whether a policy asks for a number of rows."""
        return self.policy.min_rows > 1

    @property
    def least(self) -> int:
        """Rows aggregated in every element as it is."""
        return min(self.rows, self.floor)


def source(policy: Policy, shape: Shape, frame: Sequence[Any]) -> Label | None:
    """The label of an owner's data: rows along dimension 0. None if the policy allows everything.

    Args:
        policy: of the data.
        shape: of the tensor.
        frame: names the rows: the same for tensors that hold columns of the same rows in the same order. It begins
            with the owner's id, so that nobody names another's rows.
    """
    if policy == OPEN:
        return None
    return Label(policy, 0 if len(shape) else None, 1, "source", (*frame, shape[0] if len(shape) else 1))


def check(label: Label | None, recipient: str, shape: Shape) -> None:
    """Refuse to release an object to somebody who may not have it.

    Raises:
        ReleaseRefusedError: the policy does not allow it.
    """
    if label is None or not label.restricted:
        return
    policy = label.policy
    if policy.recipients is not None and recipient not in policy.recipients:
        allowed = ", ".join(sorted(policy.recipients)) or "nobody"
        raise _refused(recipient, shape, f"the owners of the data allow results to {allowed}", "add the recipient")
    if policy.outputs is not None and not _may_be_output(label.made_by, policy.outputs):
        names = ", ".join(sorted(policy.outputs)) or "none"
        raise _refused(
            recipient, shape, f"it was made by {label.made_by}, and outputs allowed are {names}", "allow this output"
        )
    if label.counted and label.least < policy.min_rows:
        raise _refused(
            recipient,
            shape,
            f"its elements surely aggregate {label.least} row(s) of the data, and {policy.min_rows} are demanded",
            "lower min_rows; or sum or average over more rows first, with the same weight for each",
        )
    if policy.max_elements is not None and prod(shape) > policy.max_elements:
        raise _refused(
            recipient,
            shape,
            f"it has {prod(shape)} elements, and {policy.max_elements} are allowed in one release",
            "raise max_elements; or release fewer elements",
        )


def _may_be_output(made_by: str, outputs: frozenset[str]) -> bool:
    return made_by in outputs or (made_by == "sum" and "mean" in outputs)


def _refused(recipient: str, shape: Shape, reason: str, remedy: str) -> ReleaseRefusedError:
    return ReleaseRefusedError(
        f"{recipient} may not have a result of shape {tuple(shape)}: {reason}. The owners can {remedy}."
    )


# ----------------------------------------------------------------------------------------- several operands, one result


def _even_at(label: Label | None, shape: Shape, axis: int) -> bool:
    """Whether all elements along an axis are equal; there is but one before the first axis."""
    return axis < 0 or shape[axis] == 1 or (label is not None and axis in label.even)


def _who_counts(labels: Sequence[Label | None]) -> list[Label]:
    """Labels whose rows matter: those of policies that ask for a number of rows, if there are any."""
    restricted = [label for label in labels if label is not None and label.restricted]
    return [label for label in restricted if label.counted] or restricted


def _policy(labels: Sequence[Label | None]) -> Policy:
    joined = OPEN
    for label in labels:
        if label is not None and label.restricted:
            joined = label.policy if joined is OPEN else joined.join(label.policy)
    return joined


def _maker(labels: Sequence[Label | None], made_by: str | None) -> str:
    """The name given, or that of the operands if they agree."""
    if made_by is not None:
        return made_by
    names = {label.made_by for label in labels if label is not None and label.restricted}
    return names.pop() if len(names) == 1 else "combine"


def mixed(labels: Sequence[Label | None], made_by: str | None = None) -> Label | None:
    """The label of any function of the operands: their rows, no further counting."""
    policy = _policy(labels)
    if policy is OPEN:
        return None
    rows = min(label.least for label in _who_counts(labels))
    return Label(policy, None, rows, _maker(labels, made_by))


def elementwise(
    labels: Sequence[Label | None], shapes: Sequence[Shape], out: Shape, made_by: str | None = None
) -> Label | None:
    """The label of an elementwise function, with broadcasting.

    Rows keep their axis if every operand has the same rows in the same order along it, or equal elements.
    """
    rank = len(out)
    shifts = [rank - len(shape) for shape in shapes]
    operands = list(zip(labels, shapes, shifts, strict=True))
    even = frozenset(
        axis for axis in range(rank) if out[axis] != 1 and all(_even_at(la, s, axis - d) for la, s, d in operands)
    )
    policy = _policy(labels)
    if policy is OPEN:
        return Label(OPEN, even=even) if even else None
    counting = _who_counts(labels)
    holders = [op for op in operands if op[0] is not None and op[0].row_axis is not None and op[0] in counting]
    if holders:
        first, _, shift = holders[0]
        assert first is not None and first.row_axis is not None
        place = first.row_axis + shift
        aligned = [_holds(op, place, first.frame, out) for op in operands]
        if all(holds or _even_at(op[0], op[1], place - op[2]) for holds, op in zip(aligned, operands, strict=True)):
            rows, floor = _rows_and_floor(operands, aligned, counting)
            return Label(policy, place, rows, _maker(labels, made_by), first.frame, floor, even)
    rows = min(label.least for label in counting)
    return Label(policy, None, rows, _maker(labels, made_by), even=even)


def _holds(operand: tuple[Label | None, Shape, int], place: int, frame: tuple[Any, ...], out: Shape) -> bool:
    """Whether an operand has these very rows along this axis of the result."""
    label, shape, shift = operand
    if label is None or label.row_axis is None or not label.restricted:
        return False
    return label.row_axis + shift == place and label.frame == frame and shape[label.row_axis] == out[place]


def _rows_and_floor(
    operands: Sequence[tuple[Label | None, Shape, int]], aligned: Sequence[bool], counting: Sequence[Label]
) -> tuple[int, int]:
    rows, floor = UNCOUNTED, UNCOUNTED
    for (label, _, _), holds in zip(operands, aligned, strict=True):
        if label is None or label not in counting:
            continue
        rows = min(rows, label.rows) if holds else rows
        floor = min(floor, label.floor if holds else label.least)
    return rows, floor


def summed(label: Label | None, shape: Shape, axes: Iterable[int], keep: bool = False) -> Label | None:
    """The label of a sum over axes of an operand of this shape."""
    if label is None:
        return None
    gone = frozenset(axes)
    axis, made_by = label.row_axis, "sum" if label.restricted else label.made_by
    kept = [a for a in range(len(shape)) if a not in gone]
    where = {a: a if keep else n for n, a in enumerate(kept)}
    even = frozenset(where[a] for a in label.even if a in where)
    if axis is not None and axis in gone:
        rows = min(label.rows * max(shape[axis], 1), label.floor, UNCOUNTED)
        return Label(label.policy, None, rows, made_by, even=even)
    return replace(label, row_axis=None if axis is None else where[axis], even=even, made_by=made_by)


# ----------------------------------------------------------------------------------------- one operand, elements moved


EVEN, MIXED = -1, -2
"""Axes of a result that are no axis of the operand: with equal elements, and with others."""


class Move(NamedTuple):
    """Where the axes of a result come from.

    Attributes:
        axes: for each axis of the result: the operand's, ``EVEN`` or ``MIXED``.
        order: for axes of the operand whose elements were picked or reordered, none twice: a name for how.
    """

    axes: tuple[int, ...]
    order: Mapping[int, tuple[Any, ...]] = {}


def moved(label: Label | None, move: Move, made_by: str | None = None) -> Label | None:
    """The label of elements that were moved, picked or repeated."""
    even = frozenset(
        n for n, axis in enumerate(move.axes) if axis == EVEN or (label is not None and axis in label.even)
    )
    if label is None:
        return Label(OPEN, even=even) if even else None
    if not label.restricted:
        return Label(OPEN, even=even) if even else None
    name = made_by or label.made_by
    axis = label.row_axis
    if axis is None or axis not in move.axes:
        return Label(label.policy, None, label.least, name, even=even)
    frame = label.frame if axis not in move.order else (*label.frame, move.order[axis])
    return replace(label, row_axis=move.axes.index(axis), frame=frame, made_by=name, even=even)
