"""AES-128 in counter mode [SP800-38A, section 6.5]: from a key and a counter, bytes that look random to all others.

The bytes are written, or added to words or subtracted from them on the way, which saves a pass over memory.
Compiled code uses the processor's AES instructions on 512 bits, where there are any, for the key schedule, too, so that
nothing is looked up by a secret. Elsewhere the library ``cryptography`` does the same work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels._aes import Rounds, expand_key, indices
from sharetorch.mpc.kernels._numba import INT, inline, kernel, read_only, writable
from sharetorch.mpc.kernels._threads import in_parts, thread_count
from sharetorch.mpc.kernels.fixed_key import ROUNDS, vector_words

Words = NDArray[np.int64]
Bytes = NDArray[np.uint8]

Combine = Callable[[Any, Any, Any], Any]
"""From the address of what is given, and keystream, to what is stored."""

BLOCK_BYTES = 16
PART = 1 << 21
"""Bytes worth a thread of their own."""

_WRITE, _ADD, _SUBTRACT = range(3)
_VECTOR_BYTES = 64
_BLOCKS = 4
"""Blocks of a vector."""
_IN_FLIGHT = 8
"""Vectors in work at a time, to fill the pipeline."""
_STEP = 1 << 18
_ZEROS = memoryview(bytes(_STEP))
_GROUP_BYTES = _IN_FLIGHT * _VECTOR_BYTES
_I64 = ir.IntType(64)
_WORDS = ir.VectorType(_I64, 8)
_LOW = (1 << 64) - 1


def compiled() -> bool:
    """Whether compiled code makes the bytes."""
    return vector_words() == 8


class Keystream:
    """AES-128 in counter mode under one key, by as many threads as ask.

    Args:
        key: 16 bytes.

    The counter of a block is a number below 2^128, of which the upper half is the same for all blocks of a call.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._round_keys: NDArray[np.uint64] | None = None
        self._spare: list[Any] = []

    def __repr__(self) -> str:
        return "Keystream(...)"

    def write(self, counter: int, out: Bytes) -> None:
        """Write the bytes from block ``counter`` on; uint8, shape (n,)."""
        if compiled():
            self._run(_WRITE, counter, out, out)
        else:
            in_parts(lambda begin, end: self._write(counter, out, begin, end), out.size, PART, BLOCK_BYTES)

    def add(self, counter: int, words: Words, out: Words) -> None:
        """Write words plus the words from block ``counter`` on, modulo 2^64.

        Args:
            counter: of the first block.
            words: int64, shape (n,).
            out: of the same kind; may be the same.

        Raises:
            ShapeError: lengths differ.
        """
        self._combine(_ADD, np.add, counter, words, out)

    def subtract(self, counter: int, words: Words, out: Words) -> None:
        """Write words minus the words from block ``counter`` on, modulo 2^64. Arguments as for ``add``."""
        self._combine(_SUBTRACT, np.subtract, counter, words, out)

    def _combine(self, way: int, function: Any, counter: int, words: Words, out: Words) -> None:
        if words.size != out.size:
            raise ShapeError(f"{words.size} words cannot become {out.size}; give both the same length.")
        if compiled():
            self._run(way, counter, words.view(np.uint8), out.view(np.uint8))
        else:
            drawn = np.empty(words.nbytes, np.uint8)
            self.write(counter, drawn)
            function(words, drawn.view(np.int64), out=out)

    def _run(self, way: int, counter: int, given: Bytes, out: Bytes) -> None:
        keys = self._round_keys
        if keys is None:
            keys = self._round_keys = np.empty(2 * ROUNDS + 2, np.uint64)
            _schedule(np.frombuffer(self._key, np.uint8), keys)
        high, low, size = _signed(counter >> 64), _signed(counter & _LOW), out.size
        if size < 2 * PART or thread_count() == 1:
            _part(keys, high, low, way, given, out, 0, size)
        else:
            in_parts(lambda begin, end: _part(keys, high, low, way, given, out, begin, end), size, PART, _VECTOR_BYTES)

    def _write(self, counter: int, out: Bytes, begin: int, end: int) -> None:
        try:
            encryptor = self._spare.pop()
        except IndexError:
            encryptor = Cipher(algorithms.AES(self._key), modes.CTR(bytes(BLOCK_BYTES))).encryptor()
        encryptor.reset_nonce((counter + begin // BLOCK_BYTES).to_bytes(BLOCK_BYTES, "big"))
        for start in range(begin, end, _STEP):
            part = out[start : min(start + _STEP, end)].data
            encryptor.update_into(_ZEROS[: len(part)], part)
        self._spare.append(encryptor)


def _signed(word: int) -> int:
    return word - ((word >> 63) << 64)


# ------------------------------------------------------------------------------------------------------ compiled code


def _spread(builder: Any, word: Any, places: list[int]) -> Any:
    """A vector with the word in these places and zeros elsewhere."""
    zeros = ir.Constant(_WORDS, [0] * 8)
    single = builder.insert_element(zeros, word, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(single, zeros, indices([0 if i in places else 8 for i in range(8)]))


def _generated(
    builder: Any, keys: Any, high: Any, low: Any, given: Any, out: Any, groups: Any, vectors: int, combine: Combine
) -> None:
    """Code for so many groups of vectors: keystream from block ``low`` on, combined with what lies at ``given``."""
    swap = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_WORDS, [_WORDS]), "llvm.bswap.v8i64")
    aes = Rounds(builder, 8, keys)
    upper = builder.call(swap, [_spread(builder, high, [0, 2, 4, 6])])
    lanes = [ir.Constant(_WORDS, [0, 4 * v, 0, 4 * v + 1, 0, 4 * v + 2, 0, 4 * v + 3]) for v in range(vectors)]
    with cgutils.for_range(builder, groups) as loop:
        first = builder.add(low, builder.mul(loop.index, ir.Constant(_I64, _BLOCKS * vectors)))
        start = _spread(builder, first, [1, 3, 5, 7])
        counters = [builder.or_(builder.call(swap, [builder.add(start, lane)]), upper) for lane in lanes]
        base = builder.mul(loop.index, ir.Constant(_I64, _VECTOR_BYTES * vectors))
        for v, made in enumerate(aes.encrypted(counters)):
            place = builder.add(base, ir.Constant(_I64, _VECTOR_BYTES * v))
            source, target = (builder.inttoptr(builder.add(at, place), _WORDS.as_pointer()) for at in (given, out))
            builder.store(combine(builder, source, made), target, align=1)


def _alone(builder: Any, source: Any, made: Any) -> Any:
    return made


def _added(builder: Any, source: Any, made: Any) -> Any:
    return builder.add(builder.load(source, align=1), made)


def _subtracted(builder: Any, source: Any, made: Any) -> Any:
    return builder.sub(builder.load(source, align=1), made)


def _code(vectors: int, combine: Combine) -> Any:
    """An intrinsic of the addresses of round keys, given words and results, the halves of the counter, and a number."""

    def code(typing: Any, keys: Any, high: Any, low: Any, given: Any, out: Any, groups: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            keys, high, low, given, out, groups = arguments
            _generated(builder, keys, high, low, given, out, groups, vectors, combine)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return intrinsic(code)


_write_groups, _write_one = _code(_IN_FLIGHT, _alone), _code(1, _alone)
_add_groups, _add_one = _code(_IN_FLIGHT, _added), _code(1, _added)
_subtract_groups, _subtract_one = _code(_IN_FLIGHT, _subtracted), _code(1, _subtracted)


_KEYS, _GIVEN, _OUT = read_only("uint64"), read_only("uint8"), writable("uint8")


@kernel(read_only("uint8"), writable("uint64"))
def _schedule(key: Bytes, round_keys: NDArray[np.uint64]) -> None:
    expand_key(key.ctypes.data, round_keys.ctypes.data)


@inline
def _groups(way: int, keys: int, high: int, low: int, at: int, to: int, groups: int) -> None:
    if way == _WRITE:
        _write_groups(keys, high, low, at, to, groups)
    elif way == _ADD:
        _add_groups(keys, high, low, at, to, groups)
    else:
        _subtract_groups(keys, high, low, at, to, groups)


@inline
def _vectors(way: int, keys: int, high: int, low: int, at: int, to: int, vectors: int) -> None:
    if way == _WRITE:
        _write_one(keys, high, low, at, to, vectors)
    elif way == _ADD:
        _add_one(keys, high, low, at, to, vectors)
    else:
        _subtract_one(keys, high, low, at, to, vectors)


@kernel(_KEYS, INT, INT, INT, _GIVEN, _OUT, INT, INT)
def _part(
    round_keys: NDArray[np.uint64], high: int, low: int, way: int, given: Bytes, out: Bytes, begin: int, end: int
) -> None:
    keys, at, to = round_keys.ctypes.data, given.ctypes.data, out.ctypes.data
    groups = (end - begin) // _GROUP_BYTES
    whole = begin + groups * _GROUP_BYTES
    vectors = (end - whole) // _VECTOR_BYTES
    done = whole + vectors * _VECTOR_BYTES
    _groups(way, keys, high, low + begin // BLOCK_BYTES, at + begin, to + begin, groups)
    _vectors(way, keys, high, low + whole // BLOCK_BYTES, at + whole, to + whole, vectors)
    if done < end:
        rest = np.zeros(_VECTOR_BYTES, np.uint8)
        rest[: end - done] = given[done:end]
        _vectors(way, keys, high, low + done // BLOCK_BYTES, rest.ctypes.data, rest.ctypes.data, 1)
        out[done:end] = rest[: end - done]
