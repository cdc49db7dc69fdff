"""Every secret random number of the library comes from here.

Operating-system entropy makes pair secrets; HMAC-SHA256 (HKDF-Expand with one block, RFC 5869) derives from a pair
secret one key for 2^16 operations, named by a canonical label; AES-128 in counter mode turns a key into streams: that
of operation n begins at counter n 2^64. No two streams ever meet: every operation has a number of its own, and numbers
only grow. Operations that are prepared together draw from a secret of their own, derived in the same way.

Both holders of a stream run the same program, so they draw the same values in the same order. Sampling rejects, so
that every distribution is exact.
"""

from __future__ import annotations

import hmac
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.mpc import kernels, odd_ring
from sharetorch.mpc.errors import CorrelationReusedError
from sharetorch.mpc.kernels.keystream import Keystream
from sharetorch.mpc.ring import Elements, PowerRing, Ring, WideElements, WideField

KEY_BYTES = 16
SECRET_BYTES = 32
OPERATIONS_PER_KEY = 1 << 16

Entropy = Callable[[int], bytes]
"""Where secrets come from: ``os.urandom``, or a recorded source in tests."""

_BLOCK = 16


def system_entropy(count: int) -> bytes:
    """Bytes from the operating system's generator."""
    return os.urandom(count)


class Stream:
    """AES-128-CTR keystream under a key used for nothing else, or a part of one that begins at a counter."""

    def __init__(self, key: bytes) -> None:
        self._keystream: Keystream | None = Keystream(key)
        self._start = 0
        self._drawn = 0

    def successor(self, number: int) -> Stream:
        """The stream under the same key from counter ``number`` * 2^64 on. This one ends."""
        made = Stream.__new__(Stream)
        made._keystream, _, _ = self._next(0)
        self._keystream = None
        made._start, made._drawn = number << 64, 0
        return made

    def _next(self, count: int) -> tuple[Keystream, int, int]:
        """Keystream, counter of the block in which the next bytes begin, and how many of its bytes are gone.

        Raises:
            CorrelationReusedError: another stream has taken this one's place.
        """
        if self._keystream is None:
            raise CorrelationReusedError(
                "This stream belongs to an operation that is over. Draw from the stream of the operation that runs."
            )
        block, gone = divmod(self._drawn, _BLOCK)
        self._drawn += count
        return self._keystream, self._start + block, gone

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """``count`` uniform bytes."""
        keystream, counter, gone = self._next(count)
        out = np.empty(gone + count, np.uint8)
        keystream.write(counter, out)
        return out[gone:].copy() if gone else out

    def fill(self, out: NDArray[np.int64]) -> None:
        """Uniform 64-bit words into an array, shape (n,), without gaps."""
        keystream, counter, gone = self._next(out.nbytes)
        if gone:
            drawn = np.empty(gone + out.nbytes, np.uint8)
            keystream.write(counter, drawn)
            out.view(np.uint8)[:] = drawn[gone:]
        else:
            keystream.write(counter, out.view(np.uint8))

    def words(self, shape: tuple[int, ...] | torch.Size) -> Tensor:
        """Uniform 64-bit words as int64."""
        return torch.from_numpy(self.bytes(8 * math.prod(shape)).view(np.int64).reshape(tuple(shape)))

    def uniform(self, shape: tuple[int, ...] | torch.Size, ring: Ring) -> Elements:
        """Uniform ring elements."""
        if isinstance(ring, PowerRing):
            return ring.reduce(self.words(shape))
        values = np.array(self._below(ring.modulus, math.prod(shape)), dtype=object).reshape(tuple(shape))
        if isinstance(ring, WideField):
            return ring.reduce(WideElements(values))
        return torch.from_numpy(values.astype(np.int64))

    def add_uniform(self, x: Elements, ring: Ring) -> Elements:
        """x plus uniform ring elements of its shape, in the memory of x, which the caller gives up."""
        if isinstance(ring, PowerRing):
            return ring.reduce(self._combined(Keystream.add, np.add, x))
        return ring.add(x, self.uniform(x.shape, ring))

    def subtract_uniform(self, x: Elements, ring: Ring) -> Elements:
        """x minus uniform ring elements of its shape, in the memory of x, which the caller gives up."""
        if isinstance(ring, PowerRing):
            return ring.reduce(self._combined(Keystream.subtract, np.subtract, x))
        return ring.subtract(x, self.uniform(x.shape, ring))

    def _combined(self, by: Any, function: Any, x: Tensor) -> Tensor:
        """Words with the next words of the stream, in one pass over memory."""
        x = x.contiguous()
        words = x.numpy().reshape(-1)
        if self._drawn % _BLOCK:
            function(words, self.words((words.size,)).numpy(), out=words)
        else:
            keystream, counter, _ = self._next(words.nbytes)
            by(keystream, counter, words, words)
        return x

    def _below(self, bound: int, count: int) -> list[int]:
        width = (bound.bit_length() + 7) // 8
        mask = (1 << bound.bit_length()) - 1
        found: list[int] = []
        while len(found) < count:
            raw = self.bytes(width * (count - len(found))).tobytes()
            drawn = (int.from_bytes(raw[i : i + width], "little") & mask for i in range(0, len(raw), width))
            found.extend(value for value in drawn if value < bound)
        return found

    def odd_ring(self, count: int, bits: int = 64) -> NDArray[np.uint64]:
        """Uniform elements of Z_{2^bits - 1}."""
        modulus = odd_ring.modulus(bits)
        out = self.bytes(8 * count).view(np.uint64) & modulus
        rejected = np.flatnonzero(out == modulus)
        while rejected.size:
            out[rejected] = self.bytes(8 * rejected.size).view(np.uint64) & modulus
            rejected = rejected[out[rejected] == modulus]
        return out

    def residues(self, count: int, modulus: int = 67) -> NDArray[np.uint8]:
        """Uniform residues in [0, modulus)."""
        return kernels.reduce_words(self._short_words(count), modulus, 0, self._short_words)

    def nonzero_residues(self, count: int, modulus: int = 67) -> NDArray[np.uint8]:
        """Uniform residues in [1, modulus)."""
        return kernels.reduce_words(self._short_words(count), modulus - 1, 1, self._short_words)

    def below(self, bound: int, count: int) -> NDArray[np.uint8]:
        """Uniform integers in [0, bound) for bound up to 256."""
        return kernels.reduce_words(self._short_words(count), bound, 0, self._short_words)

    def bits(self, count: int) -> NDArray[np.uint8]:
        """Uniform bits as 0 and 1."""
        return kernels.unpack_bits(self.bytes((count + 7) // 8), count)

    def _short_words(self, count: int) -> NDArray[np.uint16]:
        return self.bytes(2 * count).view(np.uint16)


def fresh_stream(entropy: Entropy = system_entropy) -> Stream:
    """A stream nobody else knows."""
    return Stream(entropy(KEY_BYTES))


class PairSecret:
    """What exactly two members know, and derive their common streams from."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) != SECRET_BYTES:
            raise ValueError(f"A pair secret has {SECRET_BYTES} bytes, not {len(secret)}.")
        self._secret = secret
        self._last_operation = -1
        self._last_block = -1
        self._key_number = -1
        self._current: Stream

    def stream(self, operation: int) -> Stream:
        """The stream of one operation; that of the operation before ends, and a second request raises.

        Raises:
            CorrelationReusedError: this operation has had its stream, or a later one has begun.
        """
        if operation <= self._last_operation:
            raise CorrelationReusedError(
                f"The stream of operation {operation} was already used. "
                "A second use would reveal differences of secrets; begin a new operation."
            )
        self._last_operation = operation
        number = operation // OPERATIONS_PER_KEY
        if number != self._key_number:
            info = b"sharetorch/v2/operations/%d\x01" % number
            self._current, self._key_number = Stream(hmac.digest(self._secret, info, "sha256")[:KEY_BYTES]), number
        self._current = self._current.successor(operation)
        return self._current

    def block(self, number: int) -> PairSecret:
        """A secret of its own for operations that are prepared and begin later, in an order of their own.

        Raises:
            CorrelationReusedError: this block has had its secret, or a later one has.
        """
        if number <= self._last_block:
            raise CorrelationReusedError(
                f"The secret of block {number} was already derived. "
                "A second one would draw the same streams again; begin a new block."
            )
        self._last_block = number
        return PairSecret(hmac.digest(self._secret, b"sharetorch/v2/prepared/%d\x01" % number, "sha256"))

    def __repr__(self) -> str:
        return "PairSecret(...)"
