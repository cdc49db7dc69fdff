"""AES-128 in LLVM's language, by the processor's instructions: rounds on vectors of blocks, and the key schedule."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sharetorch.mpc.kernels.fixed_key import ROUNDS

_I8, _I32, _I64 = (ir.IntType(bits) for bits in (8, 32, 64))
_PAIR, _QUAD = ir.VectorType(_I64, 2), ir.VectorType(_I32, 4)


def indices(places: list[int]) -> Any:
    """Places of a shuffle."""
    return ir.Constant(ir.VectorType(_I32, len(places)), places)


class Rounds:
    """LLVM code for AES on vectors of ``width`` words."""

    def __init__(self, builder: Any, width: int, round_keys: Any) -> None:
        self.builder = builder
        self.width = width
        self.vector = ir.VectorType(_I64, width)
        pair = ir.VectorType(_I64, 2)
        repeat = indices([0, 1] * (width // 2))
        self.keys = []
        for i in range(ROUNDS + 1):
            key = self._load(round_keys, ir.Constant(_I64, 2 * i), pair)
            self.keys.append(builder.shuffle_vector(key, key, repeat))
        suffix = ".512" if width == 8 else ""
        step = ir.FunctionType(self.vector, [self.vector, self.vector])
        module = builder.module
        self.round = cgutils.get_or_insert_function(module, step, f"llvm.x86.aesni.aesenc{suffix}")
        self.last_round = cgutils.get_or_insert_function(module, step, f"llvm.x86.aesni.aesenclast{suffix}")

    def encrypted(self, blocks: list[Any]) -> list[Any]:
        """AES(x), round by round for all vectors."""
        states = [self.builder.xor(block, self.keys[0]) for block in blocks]
        for key in self.keys[1:-1]:
            states = [self.builder.call(self.round, [state, key]) for state in states]
        return [self.builder.call(self.last_round, [state, self.keys[-1]]) for state in states]

    def hash(self, blocks: list[Any]) -> list[Any]:
        """AES(x) XOR x."""
        made = self.encrypted(blocks)
        return [self.builder.xor(state, block) for state, block in zip(made, blocks, strict=True)]

    def interleave(self, even: Any, odd: Any) -> tuple[Any, Any]:
        """Pairs of words, one from each vector; in each 128 bits the first pair, and the second. Its own inverse."""
        places = [(i, self.width + i) for i in range(self.width)]
        first = indices([place for pair in places[::2] for place in pair])
        second = indices([place for pair in places[1::2] for place in pair])
        return self.builder.shuffle_vector(even, odd, first), self.builder.shuffle_vector(even, odd, second)

    def spread(self, word: Any) -> Any:
        """The word in all places."""
        start = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), word, ir.Constant(_I64, 0))
        return self.builder.shuffle_vector(start, start, indices([0] * self.width))

    def load(self, base: Any, place: Any) -> Any:
        """A vector of words from an address and the number of a word."""
        return self._load(base, place, self.vector)

    def store(self, words: Any, base: Any, place: Any) -> None:
        """Undo ``load``."""
        self.builder.store(words, self._pointer(base, place, self.vector), align=8)

    def _load(self, base: Any, place: Any, kind: Any) -> Any:
        return self.builder.load(self._pointer(base, place, kind), align=8)

    def _pointer(self, base: Any, place: Any, kind: Any) -> Any:
        address = self.builder.add(base, self.builder.mul(place, ir.Constant(_I64, 8)))
        return self.builder.inttoptr(address, kind.as_pointer())


def _schedule_code(typing: Any, key: Any, round_keys: Any) -> Any:
    """The key schedule [FIPS197, Algorithm 2] from the address of a key to the address of 22 words."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at, out = arguments
        kind = ir.FunctionType(_PAIR, [_PAIR, _I8])
        assist = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.aesni.aeskeygenassist")
        zeros, pointer = ir.Constant(_QUAD, [0] * 4), _PAIR.as_pointer()
        held, constant = builder.load(builder.inttoptr(at, pointer), align=1), 1
        for i in range(ROUNDS + 1):
            place = builder.add(out, ir.Constant(_I64, 16 * i))
            builder.store(held, builder.inttoptr(place, pointer), align=8)
            if i == ROUNDS:
                break
            last = builder.bitcast(builder.call(assist, [held, ir.Constant(_I8, constant)]), _QUAD)
            words = builder.bitcast(held, _QUAD)
            total = builder.xor(words, builder.shuffle_vector(last, last, indices([3] * 4)))
            for shift in (1, 2, 3):
                moved = [4] * shift + list(range(4 - shift))
                total = builder.xor(total, builder.shuffle_vector(words, zeros, indices(moved)))
            held = builder.bitcast(total, _PAIR)
            constant = (constant << 1) ^ (0x11B if constant & 0x80 else 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


expand_key: Any = intrinsic(_schedule_code)
"""Write the round keys of a key: the address of 16 bytes, and of 22 words."""
