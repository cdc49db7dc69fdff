"""Eight 64-bit words as one value inside kernels, for work that is the same on every bit.

``load`` and ``store`` move eight neighbouring words of a vector; ``&``, ``^``, ``shift_left`` and ``shift_right`` work
on all of them. Compiled, that is one vector instruction where the processor has those of 512 bits, else two or four.
Numba's own loops over eight words would be unrolled before they are made vectors. Nothing here checks bounds.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, overload, register_model

LANES = 8

_WORDS = ir.VectorType(ir.IntType(64), LANES)
_INDEX = ir.IntType(32)

Builder = Any
"""Builds code: llvmlite's ``IRBuilder``."""
Typed = Any
"""A numba type, or the signature of a function."""
Value = Any
"""A value of the code being built, or of a kernel that is compiled."""
Lowered = tuple[Typed, Callable[..., Value]]


class LanesType(types.Type):
    """Type of eight words."""

    def __init__(self) -> None:
        super().__init__("Lanes")


@register_model(LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: object, kind: object) -> None:
        super().__init__(manager, kind, _WORDS)  # type: ignore[no-untyped-call]


_LANES = LanesType()


def _built(function: Callable[..., Lowered]) -> Callable[..., Value]:
    """What kernels call, from the function that says its types and builds its code."""
    return cast(Callable[..., Value], intrinsic(function))


def _pointer(context: Builder, builder: Builder, kind: Typed, array: Value, at: Value) -> Value:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), _WORDS.as_pointer())


def _all(builder: Builder, word: Value) -> Value:
    single = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), word, ir.Constant(_INDEX, 0))
    zeros = ir.Constant(ir.VectorType(_INDEX, LANES), [0] * LANES)
    return builder.shuffle_vector(single, single, zeros)


@_built
def load(_typing: object, array: Typed, _at: Typed) -> Lowered:
    """Words at .. at + 7 of a vector."""

    def lowered(context: Builder, builder: Builder, signature: Typed, values: Sequence[Value]) -> Value:
        return builder.load(_pointer(context, builder, signature.args[0], *values), align=1)

    return _LANES(array, types.int64), lowered


@_built
def store(_typing: object, array: Typed, _at: Typed, _words: Typed) -> Lowered:
    """Set words at .. at + 7 of a vector."""

    def lowered(context: Builder, builder: Builder, signature: Typed, values: Sequence[Value]) -> Value:
        array_value, at, words = values
        builder.store(words, _pointer(context, builder, signature.args[0], array_value, at), align=8)
        return context.get_dummy_value()

    return types.void(array, types.int64, _LANES), lowered


@_built
def spread(_typing: object, _word: Typed) -> Lowered:
    """The same word eight times."""

    def lowered(_context: Builder, builder: Builder, _signature: Typed, values: Sequence[Value]) -> Value:
        return _all(builder, values[0])

    return _LANES(types.uint64), lowered


@_built
def shift_right(_typing: object, _words: Typed, _bits: Typed) -> Lowered:
    """Every word shifted by so many bits, with zeros from above."""

    def lowered(_context: Builder, builder: Builder, _signature: Typed, values: Sequence[Value]) -> Value:
        return builder.lshr(values[0], _all(builder, values[1]))

    return _LANES(_LANES, types.uint64), lowered


@_built
def shift_left(_typing: object, _words: Typed, _bits: Typed) -> Lowered:
    """Every word shifted by so many bits, with zeros from below."""

    def lowered(_context: Builder, builder: Builder, _signature: Typed, values: Sequence[Value]) -> Value:
        return builder.shl(values[0], _all(builder, values[1]))

    return _LANES(_LANES, types.uint64), lowered


@_built
def _both(_typing: object, _x: Typed, _y: Typed) -> Lowered:
    def lowered(_context: Builder, builder: Builder, _signature: Typed, values: Sequence[Value]) -> Value:
        return builder.and_(*values)

    return _LANES(_LANES, _LANES), lowered


@_built
def _different(_typing: object, _x: Typed, _y: Typed) -> Lowered:
    def lowered(_context: Builder, builder: Builder, _signature: Typed, values: Sequence[Value]) -> Value:
        return builder.xor(*values)

    return _LANES(_LANES, _LANES), lowered


@overload(operator.and_, strict=False)
def _and(x: Typed, y: Typed) -> Callable[[Value, Value], Value] | None:
    if isinstance(x, LanesType) and isinstance(y, LanesType):
        return lambda x, y: _both(x, y)
    return None


@overload(operator.xor, strict=False)
def _xor(x: Typed, y: Typed) -> Callable[[Value, Value], Value] | None:
    if isinstance(x, LanesType) and isinstance(y, LanesType):
        return lambda x, y: _different(x, y)
    return None
