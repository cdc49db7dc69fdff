"""Vector code that numba's loops do not reach: byte shuffles, masked loads and Intel's tile instructions.

Everything here is an ``intrinsic`` on addresses and counts, emitted as LLVM vectors of words, or as inline assembly for
the tiles (AMX). Callers vouch for the addresses. ``instructions()`` says what compiled code may use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

LANES = 8
LIMBS = 8
LIMB_BYTES = 2048
"""Distance of a limb's bytes from the next limb's, in a packed block."""

_I1, _I8, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
_WORDS = ir.VectorType(_I64, LANES)
_BYTES = ir.VectorType(_I8, 64)
_TOP_BITS = -0x7F7F7F7F7F7F7F80
"""0x8080808080808080: the top bit of every byte."""

Builder = Any
"""Builds code: llvmlite's ``IRBuilder``."""
Value = Any
"""A value of the code being built."""
Intrinsic = Any
"""A function of int64 arguments that kernels call."""


def instructions() -> frozenset[str]:
    """Give the names of the instruction sets that compiled code may use, by LLVM's names."""
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    names = {name[1:] for name in features.split(",") if name.startswith("+")}
    return frozenset(names | {str(triple).split("-")[0]})


def processor() -> str:
    """Give LLVM's name of the processor that code is compiled for."""
    return str(cpu_target.target_context.codegen().magic_tuple()[1])


def _emitted(arguments: int, emit: Callable[..., None]) -> Intrinsic:
    """Make an intrinsic of so many int64 arguments from a function that builds its code."""

    def lowered(context: Builder, builder: Builder, _signature: object, values: Sequence[Value]) -> Value:
        emit(builder, *values)
        return context.get_dummy_value()

    signature = types.void(*[types.int64] * arguments)
    forms: dict[int, Callable[..., Intrinsic]] = {
        0: lambda _typing: (signature, lowered),
        1: lambda _typing, _a: (signature, lowered),
        2: lambda _typing, _a, _b: (signature, lowered),
        3: lambda _typing, _a, _b, _c: (signature, lowered),
        4: lambda _typing, _a, _b, _c, _d: (signature, lowered),
        5: lambda _typing, _a, _b, _c, _d, _e: (signature, lowered),
        6: lambda _typing, _a, _b, _c, _d, _e, _f: (signature, lowered),
        9: lambda _typing, _a, _b, _c, _d, _e, _f, _g, _h, _i: (signature, lowered),
    }
    return intrinsic(forms[arguments])


def _assembly(arguments: int, *lines: str) -> Intrinsic:
    """Make an intrinsic of assembly lines; ``$0``, ``$1``, ... are its int64 arguments."""
    constraints = ",".join(["r"] * arguments + ["~{memory}"])

    def emit(builder: Builder, *values: Value) -> None:
        form = ir.FunctionType(ir.VoidType(), [_I64] * arguments)
        builder.asm(form, "\n".join(lines), constraints, list(values), True)

    return _emitted(arguments, emit)


def _vector(kind: ir.VectorType, numbers: Sequence[int]) -> Value:
    return ir.Constant(kind, [ir.Constant(kind.element, n) for n in numbers])


def _splat(builder: Builder, value: Value, kind: Any = _WORDS) -> Value:  # noqa: ANN401
    if kind == _I64:
        return value
    single = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(_I32, 0))
    return _shuffle(builder, single, single, [0] * kind.count)


def _shuffle(builder: Builder, x: Value, y: Value, places: Sequence[int]) -> Value:
    return builder.shuffle_vector(x, y, _vector(ir.VectorType(_I32, len(places)), places))


def _pointer(builder: Builder, address: Value, offset: Value | int, kind: ir.Type) -> Value:
    offset = ir.Constant(_I64, offset) if isinstance(offset, int) else offset
    return builder.inttoptr(builder.add(address, offset), kind.as_pointer())


def _below(builder: Builder, first: int, count: Value) -> Value:
    """Which of the lanes first, first + 1, ... lie below a count."""
    return builder.icmp_signed("<", _vector(_WORDS, range(first, first + LANES)), _splat(builder, count))


def _load(builder: Builder, address: Value, offset: Value | int, mask: Value) -> Value:
    """Load eight words, zeros where the mask is not set; memory there is not touched."""
    form = ir.FunctionType(_WORDS, [_WORDS.as_pointer(), _I32, ir.VectorType(_I1, LANES), _WORDS])
    function = builder.module.globals.get("llvm.masked.load.v8i64.p0") or ir.Function(
        builder.module, form, "llvm.masked.load.v8i64.p0"
    )
    where = _pointer(builder, address, offset, _WORDS)
    return builder.call(function, [where, ir.Constant(_I32, 8), mask, _vector(_WORDS, [0] * LANES)])


def _masked_store(builder: Builder, value: Value, address: Value, offset: Value | int, mask: Value) -> None:
    form = ir.FunctionType(ir.VoidType(), [_WORDS, _WORDS.as_pointer(), _I32, ir.VectorType(_I1, LANES)])
    function = builder.module.globals.get("llvm.masked.store.v8i64.p0") or ir.Function(
        builder.module, form, "llvm.masked.store.v8i64.p0"
    )
    builder.call(function, [value, _pointer(builder, address, offset, _WORDS), ir.Constant(_I32, 8), mask])


def _store(builder: Builder, value: Value, address: Value, offset: Value | int, align: int) -> None:
    builder.store(value, _pointer(builder, address, offset, value.type), align=align)


def _turned(builder: Builder, rows: Sequence[Value]) -> list[Value]:
    """Transpose eight vectors of eight words."""
    rows = list(rows)
    for distance in (1, 2, 4):
        low = [c if not c & distance else LANES + c - distance for c in range(LANES)]
        high = [c + distance if not c & distance else LANES + c for c in range(LANES)]
        for i in range(LANES):
            if not i & distance:
                x, y = rows[i], rows[i + distance]
                rows[i], rows[i + distance] = _shuffle(builder, x, y, low), _shuffle(builder, x, y, high)
    return rows


def _limbs(builder: Builder, vectors: Sequence[Value]) -> list[Value]:
    """Split 64 words into signed bytes: vector i gets limb i of every word, in order.

    (x + C) XOR C with C the top bit of every byte makes each byte the signed digit of x in base 256.
    """
    top = _vector(_WORDS, [_TOP_BITS] * LANES)
    gather = [8 * (place % 8) + place // 8 for place in range(64)]
    rows = []
    for vector in vectors:
        digits = builder.bitcast(builder.xor(builder.add(vector, top), top), _BYTES)
        rows.append(builder.bitcast(_permuted(builder, digits, gather), _WORDS))
    return _turned(builder, rows)


def _permuted(builder: Builder, taken: Value, places: Sequence[int]) -> Value:
    """Put byte places[i] at i, by the one instruction for it (LLVM splits regular shuffles into many)."""
    form = ir.FunctionType(_BYTES, [_BYTES, _BYTES])
    return builder.asm(form, "vpermb $1, $2, $0", "=v,v,v", [taken, _vector(_BYTES, places)], False)


def _emit_pack_left(builder: Builder, source: Value, count: Value, target: Value) -> None:
    vectors = [_load(builder, source, 64 * i, _below(builder, LANES * i, count)) for i in range(8)]
    for limb, value in enumerate(_limbs(builder, vectors)):
        _store(builder, value, target, LIMB_BYTES * limb, 64)


def _emit_pack_right(
    builder: Builder, source: Value, step: Value, rows: Value, columns: Value, target: Value
) -> None:
    vectors = []
    zero = ir.Constant(_I64, 0)
    for row in range(4):
        inside = builder.icmp_signed("<", ir.Constant(_I64, row), rows)
        count = builder.select(inside, columns, zero)
        offset = builder.mul(step, ir.Constant(_I64, row))
        for half in range(2):
            mask = _below(builder, LANES * half, count)
            vectors.append(_load(builder, builder.add(source, offset), 64 * half, mask))
    order = [16 * (place % 4) + place // 4 for place in range(64)]
    for limb, value in enumerate(_limbs(builder, vectors)):
        taken = builder.bitcast(value, _BYTES)
        _store(builder, _permuted(builder, taken, order), target, LIMB_BYTES * limb, 64)


def _emit_turn(
    builder: Builder, source: Value, step: Value, rows: Value, columns: Value, target: Value, target_step: Value
) -> None:
    vectors = []
    zero = ir.Constant(_I64, 0)
    for row in range(LANES):
        inside = builder.icmp_signed("<", ir.Constant(_I64, row), rows)
        mask = _below(builder, 0, builder.select(inside, columns, zero))
        vectors.append(_load(builder, source, builder.mul(step, ir.Constant(_I64, row)), mask))
    for row, value in enumerate(_turned(builder, vectors)):
        _store(builder, value, target, builder.mul(target_step, ir.Constant(_I64, row)), 64)


def _emit_collect(builder: Builder, sums: Value, target: Value, count: Value, keep: Value) -> None:
    half = ir.VectorType(_I32, LANES)
    for part in range(2):
        low: Value = None
        high: Value = None
        for weight in range(LIMBS):
            where = _pointer(builder, sums, 4096 * weight + 32 * part, half)
            digit = builder.load(where, align=32)
            shift = 8 * (weight % 4)
            if weight < 4:
                wide = builder.sext(digit, _WORDS)
                wide = builder.shl(wide, _vector(_WORDS, [shift] * LANES))
                low = wide if low is None else builder.add(low, wide)
            else:
                moved = builder.shl(digit, _vector(half, [shift] * LANES))
                high = moved if high is None else builder.add(high, moved)
        upper = builder.shl(builder.zext(high, _WORDS), _vector(_WORDS, [32] * LANES))
        total = builder.add(low, upper)
        mask = _below(builder, LANES * part, count)
        kept = _below(builder, LANES * part, builder.select(_true(builder, keep), count, ir.Constant(_I64, 0)))
        total = builder.add(total, _load(builder, target, 64 * part, kept))
        _masked_store(builder, total, target, 64 * part, mask)


def _true(builder: Builder, value: Value) -> Value:
    return builder.icmp_signed("!=", value, ir.Constant(_I64, 0))


def _emit_copy_words(builder: Builder, source: Value, target: Value, count: Value) -> None:
    mask = _below(builder, 0, count)
    _masked_store(builder, _load(builder, source, 0, mask), target, 0, mask)


def _emit_add_words(builder: Builder, source: Value, target: Value, count: Value) -> None:
    mask = _below(builder, 0, count)
    total = builder.add(_load(builder, source, 0, mask), _load(builder, target, 0, mask))
    _masked_store(builder, total, target, 0, mask)


pack_left = _emitted(3, _emit_pack_left)
pack_right = _emitted(5, _emit_pack_right)
turn = _emitted(6, _emit_turn)
collect = _emitted(4, _emit_collect)
copy_words = _emitted(3, _emit_copy_words)
add_words = _emitted(3, _emit_add_words)

configure = _assembly(1, "ldtilecfg ($0)")
release = _assembly(0, "tilerelease")


def _tiles(rows: Sequence[int], columns: Sequence[int], *operations: str) -> str:
    """Repeat lines for the sums of these row and column tiles: tile 2 r + c at 1024 (2 r + c)."""
    return "\n".join(
        line.format(tile=2 * r + c, at=1024 * (2 * r + c)) for r in rows for c in columns for line in operations
    )


def _step(rows: int, columns: int) -> Intrinsic:
    """Add to the sums the product of ``rows`` tiles at $0 and ``columns`` tiles at $1."""
    lines = ["tileloadd ($0,$2,1), %tmm4", "tileloadd ($1,$2,1), %tmm6", "tdpbssd %tmm6, %tmm4, %tmm0"]
    if columns == 2:
        lines += ["tileloadd 1024($1,$2,1), %tmm7", "tdpbssd %tmm7, %tmm4, %tmm1"]
    if rows == 2:
        lines += ["tileloadd 1024($0,$2,1), %tmm5", "tdpbssd %tmm6, %tmm5, %tmm2"]
    if rows == columns == 2:
        lines += ["tdpbssd %tmm7, %tmm5, %tmm3"]
    return _assembly(3, *lines)


clear_sums = _assembly(0, _tiles((0, 1), (0, 1), "tilezero %tmm{tile}"))
load_sums = _assembly(2, _tiles((0, 1), (0, 1), "tileloadd {at}($0,$1,1), %tmm{tile}"))
store_sums = _assembly(2, _tiles((0, 1), (0, 1), "tilestored %tmm{tile}, {at}($0,$1,1)"))
step_1x1, step_1x2, step_2x1, step_2x2 = (_step(rows, columns) for rows in (1, 2) for columns in (1, 2))


class TileShape(NamedTuple):
    """Sums that ``multiply_tile`` keeps in registers.

    Attributes:
        rows: a power of two.
        vectors: vectors of a row, at most.
        lanes: words of a vector.
    """

    rows: int
    vectors: int
    lanes: int

    @property
    def columns(self) -> int:
        """Words of a row, at most."""
        return self.vectors * self.lanes


def _tile_shape() -> TileShape:
    """Fill the registers: 32 vectors of 8 words, 16 of 4, or 16 single ones where vectors cannot be multiplied."""
    found = instructions()
    if {"x86_64", "avx512dq"} <= found:
        return TileShape(8, 3, 8)
    if {"x86_64", "avx2"} <= found:
        return TileShape(4, 2, 4)
    return TileShape(4, 2, 1)


TILE = _tile_shape()


def _emit_multiply_tile(
    builder: Builder,
    rows: Value,
    vectors: Value,
    left: Value,
    row_step: Value,
    term_step: Value,
    right: Value,
    right_step: Value,
    terms: Value,
    sums: Value,
) -> None:
    for height in (2**i for i in range(TILE.rows.bit_length())):
        for width in range(1, TILE.vectors + 1):
            same = builder.and_(
                builder.icmp_signed("==", rows, ir.Constant(_I64, height)),
                builder.icmp_signed("==", vectors, ir.Constant(_I64, width)),
            )
            with builder.if_then(same):
                _emit_tile_loop(builder, height, width, (left, row_step, term_step), (right, right_step), terms, sums)


def _emit_tile_loop(
    builder: Builder,
    height: int,
    width: int,
    left: tuple[Value, Value, Value],
    right: tuple[Value, Value],
    terms: Value,
    sums: Value,
) -> None:
    kind = ir.VectorType(_I64, TILE.lanes) if TILE.lanes > 1 else _I64
    zero = ir.Constant(kind, None)
    places = [[cgutils.alloca_once_value(builder, zero) for _ in range(width)] for _ in range(height)]
    for place in (place for row in places for place in row):
        builder.store(zero, place)
    starts = [builder.add(left[0], builder.mul(left[1], ir.Constant(_I64, r))) for r in range(height)]
    with cgutils.for_range(builder, terms) as loop:
        at = builder.add(right[0], builder.mul(right[1], loop.index))
        along = builder.mul(left[2], loop.index)
        columns = [builder.load(_pointer(builder, at, 8 * TILE.lanes * v, kind), align=8) for v in range(width)]
        for start, row in zip(starts, places, strict=True):
            factor = builder.load(_pointer(builder, start, along, _I64), align=8)
            factor = _splat(builder, factor, kind)
            for column, place in zip(columns, row, strict=True):
                builder.store(builder.add(builder.load(place), builder.mul(factor, column)), place)
    for r, row in enumerate(places):
        for v, place in enumerate(row):
            _store(builder, builder.load(place), sums, 8 * (TILE.columns * r + TILE.lanes * v), 8)


multiply_tile = _emitted(9, _emit_multiply_tile)
