"""The number systems in which shares live.

``PowerRing(l)``: Z_{2^l}, elements in ``torch.int64`` read as signed two's complement. l = 64 wraps by itself and is
the ring of every secure computation; smaller l exist so that tests can visit whole rings.
``WordField(q)``: Z_q for 2 <= q <= 2^62, elements in ``torch.int64`` within [0, q).
``WideField(q)``: Z_q for any larger q, elements are ``gmpy2.mpz`` held by a ``WideElements``.

Elements are added, subtracted and negated by the Python operators followed by ``ring.reduce``. The provider, which
holds no share, computes on tensors of the device ``meta``: every function here passes them through.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import gmpy2
import numpy as np
import torch
from torch import Tensor

from sharetorch.mpc import kernels
from sharetorch.mpc.errors import EncodingRangeError, ModulusError
from sharetorch.mpc.kernels import limbs
from sharetorch.mpc.kernels._threads import in_parts

WORD_BITS = 64
_WORD_FIELD_LIMIT = 1 << 62
_LIMB_BITS = 31
_LIMB = (1 << _LIMB_BITS) - 1

Elements = Any
"""A tensor of ring elements: ``torch.Tensor`` (int64) or ``WideElements``."""


class Ring(ABC):
    """What protocols ask of a number system."""

    modulus: int
    element_bytes: int
    has_views = True

    @abstractmethod
    def reduce(self, x: Elements) -> Elements:
        """Bring the result of +, - or negation of elements into canonical form."""

    @abstractmethod
    def from_integers(self, x: Tensor) -> Elements:
        """Map signed int64 integers to elements."""

    @abstractmethod
    def to_signed(self, x: Elements) -> Tensor:
        """Map elements to signed int64 integers in [-modulus/2, modulus/2)."""

    @abstractmethod
    def mul(self, x: Elements, y: Elements) -> Elements:
        """Multiply elementwise, with broadcasting."""

    @abstractmethod
    def matmul(self, x: Elements, y: Elements) -> Elements:
        """Multiply matrices (2-d, or 3-d with equal batch sizes)."""

    def matmul_add(self, x: Elements, y: Elements, u: Elements, v: Elements, start: Elements) -> Elements:
        """start + x y + u v for matrices (2-d, or 3-d with equal batch sizes). The caller gives start up."""
        return self.add(self.add(start, self.matmul(x, y)), self.matmul(u, v))

    @abstractmethod
    def linear(self, function: Callable[..., Any], *operands: Elements) -> Any:
        """Apply a function that is linear over the integers (selections, sums, paddings) to elements."""

    def add(self, x: Elements, y: Elements) -> Elements:
        """x + y, with broadcasting."""
        return self.reduce(x + y)

    def subtract(self, x: Elements, y: Elements) -> Elements:
        """x - y, with broadcasting."""
        return self.reduce(x - y)

    def negate(self, x: Elements) -> Elements:
        """-x."""
        return self.reduce(-x)

    def add_into(self, x: Elements, y: Elements) -> Elements:
        """x + y in the memory of y, which the caller gives up; x broadcasts to y."""
        return self.add(x, y)

    def empty_meta(self, x: Elements) -> Tensor:
        """A tensor of the same shape that holds nothing, as the provider has it."""
        return torch.empty(x.shape, dtype=torch.int64, device="meta")


class PowerRing(Ring):
    """Z_{2^bits} in int64, two's complement.

    Elementwise work goes through numpy: it starts no threads, which members that share a machine would wait for.
    """

    def __init__(self, bits: int = WORD_BITS) -> None:
        if not 2 <= bits <= WORD_BITS:
            raise ModulusError(f"A power-of-two ring has 2 to {WORD_BITS} bits; {bits} were asked for.")
        self.bits = bits
        self.modulus = 1 << bits
        self.element_bytes = (bits + 7) // 8

    def __repr__(self) -> str:
        return f"PowerRing({self.bits})"

    def reduce(self, x: Tensor) -> Tensor:
        """Wrap around; nothing to do at 64 bits."""
        if self.bits == WORD_BITS:
            return x
        shift = WORD_BITS - self.bits
        return (x << shift) >> shift

    def from_integers(self, x: Tensor) -> Tensor:
        """Wrap signed integers."""
        return self.reduce(x)

    def to_signed(self, x: Tensor) -> Tensor:
        """Elements are signed already."""
        return x

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y, with broadcasting."""
        return self.reduce(_by_numpy(np.add, x, y))

    def subtract(self, x: Tensor, y: Tensor) -> Tensor:
        """x - y, with broadcasting."""
        return self.reduce(_by_numpy(np.subtract, x, y))

    def add_into(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y in the memory of y."""
        np.add(x.numpy(), y.numpy(), out=y.numpy())
        return self.reduce(y)

    def negate(self, x: Tensor) -> Tensor:
        """-x."""
        return self.empty_meta(x) if x.is_meta else self.reduce(torch.from_numpy(np.asarray(np.negative(x.numpy()))))

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """Multiply elementwise mod 2^bits."""
        return self.reduce(_by_numpy(np.multiply, x, y))

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """Multiply matrices mod 2^bits: on the CPU by the ring kernels, on other devices by digits in float64."""
        if x.is_meta or y.is_meta:
            return torch.matmul(x.to("meta"), y.to("meta"))
        if x.device.type != "cpu":
            return self.reduce(limbs.matmul(x, y))
        multiply = kernels.matmul if x.dim() == 2 else kernels.batched_matmul
        return self.reduce(torch.from_numpy(multiply(x.numpy(), y.numpy())))

    def matmul_add(self, x: Tensor, y: Tensor, u: Tensor, v: Tensor, start: Tensor) -> Tensor:
        """start + x y + u v mod 2^bits, on the CPU in the memory of start, which the caller gives up."""
        operands = (x, y, u, v, start)
        if any(operand.device.type != "cpu" for operand in operands):
            return self.reduce(start + self.matmul(x, y) + self.matmul(u, v))
        multiply = kernels.matmul_add if x.dim() == 2 else kernels.batched_matmul_add
        return self.reduce(torch.from_numpy(multiply(*(operand.numpy() for operand in operands), reuse=True)))

    def linear(self, function: Callable[..., Any], *operands: Tensor) -> Any:
        """Apply the function to the words; sums wrap as they should."""
        results = _on_one_thread(function, *operands)
        return results if self.bits == WORD_BITS else _map(self.reduce, results)


class WordField(Ring):
    """Z_q for q up to 2^62, elements in int64 within [0, q)."""

    def __init__(self, modulus: int) -> None:
        self.modulus = modulus
        self.element_bytes = 8

    def __repr__(self) -> str:
        return f"WordField({self.modulus})"

    def reduce(self, x: Tensor) -> Tensor:
        """Reduce into [0, q)."""
        return x % self.modulus

    def from_integers(self, x: Tensor) -> Tensor:
        """Reduce signed integers into [0, q)."""
        return x % self.modulus

    def to_signed(self, x: Tensor) -> Tensor:
        """Read the upper half as negative."""
        return torch.where(x >= (self.modulus + 1) // 2, x - self.modulus, x)

    def mul(self, x: Tensor, y: Tensor) -> Tensor:
        """Multiply elementwise mod q; beyond 31 bits through integers of any size."""
        if self.modulus <= _LIMB + 1 or x.is_meta:
            return (x * y) % self.modulus
        return _to_words(_to_objects(x) * _to_objects(y) % self.modulus)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        """Multiply matrices mod q through integers of any size."""
        if x.is_meta or y.is_meta:
            return torch.matmul(x.to("meta"), y.to("meta"))
        return _to_words(np.matmul(_to_objects(x), _to_objects(y)) % self.modulus)

    def linear(self, function: Callable[..., Any], *operands: Tensor) -> Any:
        """Apply the function to 31-bit limbs, so that sums of up to 2^32 elements cannot overflow."""
        low = function(*(x & _LIMB for x in operands))
        high = function(*(x >> _LIMB_BITS for x in operands))
        radix = torch.tensor((1 << _LIMB_BITS) % self.modulus)
        return _map(lambda a, b: self.reduce(self.reduce(a) + self.mul(self.reduce(b), radix)), low, high)


class WideElements:
    """A tensor of integers of any size: the elements of a ``WideField``."""

    is_meta = False

    def __init__(self, array: Any) -> None:
        self.array = np.asarray(array, dtype=object)

    @property
    def shape(self) -> torch.Size:
        """Shape of the tensor."""
        return torch.Size(self.array.shape)

    def numel(self) -> int:
        """Number of elements."""
        return int(self.array.size)

    def clone(self) -> WideElements:
        """A copy with storage of its own."""
        return WideElements(self.array.copy())

    def __add__(self, other: WideElements) -> WideElements:
        return WideElements(self.array + other.array)

    def __sub__(self, other: WideElements) -> WideElements:
        return WideElements(self.array - other.array)

    def __neg__(self) -> WideElements:
        return WideElements(-self.array)

    def __mod__(self, modulus: int) -> WideElements:
        return WideElements(self.array % modulus)

    def __repr__(self) -> str:
        return f"WideElements(shape={tuple(self.shape)})"


class WideField(Ring):
    """Z_q for moduli beyond 2^62, elements as integers of gmpy2. Tensors have no views: every operation copies."""

    has_views = False

    def __init__(self, modulus: int) -> None:
        self.modulus = modulus
        self.element_bytes = (modulus.bit_length() + 7) // 8
        self._limbs = -(-modulus.bit_length() // _LIMB_BITS)

    def __repr__(self) -> str:
        return f"WideField({self.modulus})"

    def reduce(self, x: Elements) -> Elements:
        """Reduce into [0, q)."""
        return x if x.is_meta else x % self.modulus

    def from_integers(self, x: Tensor) -> Elements:
        """Reduce signed integers into [0, q)."""
        return x if x.is_meta else WideElements(_to_objects(x) % self.modulus)

    def to_signed(self, x: WideElements) -> Tensor:
        """Read the upper half as negative; the result must fit a word."""
        half = (self.modulus + 1) // 2
        signed = np.where(x.array >= half, x.array - self.modulus, x.array)
        return _to_words(signed)

    def mul(self, x: Elements, y: Elements) -> Elements:
        """Multiply elementwise mod q."""
        if x.is_meta or y.is_meta:
            return torch.empty(torch.broadcast_shapes(x.shape, y.shape), dtype=torch.int64, device="meta")
        return WideElements(x.array * y.array % self.modulus)

    def matmul(self, x: Elements, y: Elements) -> Elements:
        """Multiply matrices mod q."""
        if x.is_meta or y.is_meta:
            return torch.matmul(self.empty_meta(x), self.empty_meta(y))
        return WideElements(np.matmul(x.array, y.array) % self.modulus)

    def linear(self, function: Callable[..., Any], *operands: Elements) -> Any:
        """Apply the function to tensors of 31-bit limbs and put the results together again."""
        if any(x.is_meta for x in operands):
            return function(*operands)
        total: Any = None
        for limb in reversed(range(self._limbs)):
            digits = [_to_words((x.array >> (_LIMB_BITS * limb)) & _LIMB) for x in operands]
            part = _map(self.from_integers, function(*digits))
            total = part if total is None else _map(self._shift_add, total, part)
        return total

    def _shift_add(self, high: WideElements, low: WideElements) -> WideElements:
        return WideElements(((high.array << _LIMB_BITS) + low.array) % self.modulus)


def ring_of(modulus: int | None) -> Ring:
    """The ring with ``modulus`` elements; None stands for Z_2^64.

    Raises:
        ModulusError: the modulus is no integer of at least 2.
    """
    if modulus is None or modulus == 1 << WORD_BITS:
        return PowerRing()
    if isinstance(modulus, bool) or not isinstance(modulus, int):
        raise ModulusError(f"field={modulus!r} is no integer; give the number of elements, such as 2**64 or a prime.")
    if modulus < 2:
        raise ModulusError(f"field={modulus} leaves no room for shares; give a modulus of at least 2.")
    return WordField(modulus) if modulus <= _WORD_FIELD_LIMIT else WideField(modulus)


def ring_bits(ring: Ring, what: str) -> int:
    """l of a ring of 2^l elements.

    Args:
        ring: where the shares live.
        what: is done there, as the error says it: "Truncation".

    Raises:
        ModulusError: a field.
    """
    if not isinstance(ring, PowerRing):
        raise ModulusError(f"{what} works in rings Z_2^l, not in {ring!r}: share without field=.")
    return ring.bits


def next_prime(n: int) -> int:
    """The smallest prime above ``n``, for those who want a prime field."""
    return int(gmpy2.next_prime(n))


def _map(function: Callable[..., Any], *results: Any) -> Any:
    """Apply ``function`` to results that are one tensor each, or equally long sequences of tensors."""
    if isinstance(results[0], (tuple, list)):
        return tuple(function(*parts) for parts in zip(*results, strict=True))
    return function(*results)


_SPINS = "OpenMP" in torch.__config__.parallel_info()
_MANY_WORDS = 1 << 20
_THREADED_WORDS = 1 << 19


def _on_one_thread(function: Callable[..., Any], *operands: Tensor) -> Any:
    """Call a function of words; unless they are many, torch does it on the caller's thread alone.

    Threads of OpenMP spin for milliseconds after they have helped. With as many members as processors on a machine,
    that stalls the next kernels for longer than the help was worth.
    """
    threads = torch.get_num_threads()
    if not _SPINS or threads == 1 or any(x.numel() >= _MANY_WORDS for x in operands):
        return function(*operands)
    torch.set_num_threads(1)
    try:
        return function(*operands)
    finally:
        torch.set_num_threads(threads)


def _by_numpy(function: Any, x: Tensor, y: Tensor) -> Tensor:
    if x.is_meta or y.is_meta:
        return torch.empty(np.broadcast_shapes(x.shape, y.shape), dtype=torch.int64, device="meta")
    left, right = x.numpy(), y.numpy()
    if left.size < _THREADED_WORDS or not (
        left.shape == right.shape and left.flags.c_contiguous and right.flags.c_contiguous
    ):
        return torch.from_numpy(np.asarray(function(left, right)))
    out = np.empty_like(left)
    flat = [words.reshape(-1) for words in (left, right, out)]

    def part(begin: int, end: int) -> None:
        a, b, made = (words[begin:end] for words in flat)
        function(a, b, out=made)

    in_parts(part, out.size, _THREADED_WORDS // 2)
    return torch.from_numpy(out)


_to_mpz = np.frompyfunc(gmpy2.mpz, 1, 1)
_to_int = np.frompyfunc(int, 1, 1)


def _to_objects(x: Tensor) -> Any:
    return np.asarray(_to_mpz(x.numpy().astype(object)), dtype=object)


def _to_words(x: Any) -> Tensor:
    try:
        return torch.from_numpy(np.asarray(_to_int(x), dtype=object).astype(np.int64))
    except OverflowError as error:
        raise EncodingRangeError("A value of this field does not fit 64 bits, so int64 cannot hold it.") from error
