"""What a worker will answer to an operation: the same as to the last one like it.

Shape, strides and type of a result follow from the operation, from what is public about its operands, and from its
public arguments. Once a worker has answered, the next operation like that one needs no answer to go on. The worker's
answer is compared with the forecast when it comes.

Left out is what answers by values: operations whose results have as many elements as values decide, and those that
change the form of an operand in place.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.randomness import system_entropy
from sharetorch.remote import operators
from sharetorch.remote.messages import Made, Meta
from sharetorch.remote.wire import Ext, form_written

UNFORESEEN = operators.TELLING
"""Operations whose results have a shape that depends on values; besides, indexing by a mask."""

_MASKS = frozenset({torch.bool, torch.uint8})
_NUMBERS = frozenset({int, float, bool})
_REMEMBERED = 4096

Key = tuple[Any, ...]


class _Traits(NamedTuple):
    """What matters of an operation here.

    Attributes:
        foreseen: whether the form of its results follows from the forms of operands.
        by_mask: whether it does not, if one of them is a mask.
        pointwise: whether numbers among its arguments matter by their type only.
    """

    foreseen: bool
    by_mask: bool
    pointwise: bool


@cache
def _traits(func: Any) -> _Traits:
    base = str(func).split(".")[1]
    foreseen = base not in UNFORESEEN and not operators.known_as(func).reshapes
    return _Traits(foreseen, base == "index", torch.Tag.pointwise in func.tags)


def form_of(pointer: Any) -> Key:
    """What is public about an operand."""
    return (pointer.handle.kind, pointer.dtype, pointer.shape, pointer.stride(), pointer.storage_offset())


def key_of(func: Any, args: list[Any], kwargs: dict[str, Any], forms: list[Key]) -> Key | None:
    """What the form of results follows from; None if from values.

    Args:
        func: the operation.
        args: its arguments, with objects as they are written.
        kwargs: likewise.
        forms: of the objects, in the order in which they stand there.
    """
    foreseen, by_mask, pointwise = _traits(func)
    if not foreseen or (by_mask and any(form[1] in _MASKS for form in forms[1:])):
        return None
    named = tuple([(name, _part(value, pointwise)) for name, value in kwargs.items()]) if kwargs else ()
    return (func, tuple([_part(value, pointwise) for value in args]), named, tuple(forms))


def _part(value: Any, pointwise: bool) -> Any:
    kind = type(value)
    if kind in _NUMBERS:
        return kind if pointwise else (kind, value)
    if kind is Ext:
        return form_written(value)
    if kind is list:
        return tuple([_part(part, pointwise) for part in value])
    return (Tensor, value.dtype) if isinstance(value, Tensor) else (kind, value)


class Forecasts:
    """What one worker has answered."""

    def __init__(self) -> None:
        self._known: dict[Key, tuple[str, list[tuple[Any, ...] | None]]] = {}
        # Beside numbers that workers and other drivers choose, which count on from 32 random bits.
        self._numbers = itertools.count(int.from_bytes(system_entropy(8), "big") >> 2)

    def number(self) -> int:
        """A number for a result, which no object has."""
        return next(self._numbers)

    def recall(self, key: Key) -> Made | None:
        """The answer to expect, with numbers for the results; None if nothing like it was asked before."""
        known = self._known.get(key)
        if known is None:
            return None
        form, results = known
        return Made([None if fields is None else Meta(next(self._numbers), *fields) for fields in results], form)

    def learn(self, key: Key, answer: Made, operands: set[int]) -> None:
        """Remember an answer, unless a result is one of the operands."""
        metas = answer.results
        if any(meta is not None and (meta.number in operands or meta.tags or meta.description) for meta in metas):
            return
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[key] = (
            answer.form,
            [
                None if meta is None else (meta.kind, meta.dtype, meta.shape, meta.strides, meta.offset)
                for meta in metas
            ],
        )


def same(answer: Any, expected: Made) -> bool:
    """Whether an answer is what was expected."""
    return (
        type(answer) is Made
        and answer.form == expected.form
        and len(answer.results) == len(expected.results)
        and all(_alike(*pair) for pair in zip(answer.results, expected.results, strict=True))
    )


def _alike(one: Meta | None, other: Meta | None) -> bool:
    """The step along a dimension of one element is anything."""
    if one is None or other is None or one == other:
        return one == other
    steps = [[step for step, size in zip(meta.strides, meta.shape, strict=False) if size > 1] for meta in (one, other)]
    fields = [(meta.number, meta.kind, meta.dtype, meta.shape, meta.offset) for meta in (one, other)]
    return steps[0] == steps[1] and fields[0] == fields[1]
