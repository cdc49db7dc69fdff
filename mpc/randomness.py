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
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.mpc import kernels, odd_ring
from sharetorch.mpc.errors import CorrelationReusedError
from sharetorch.mpc.kernels._threads import in_parts, thread_count
from sharetorch.mpc.ring import Elements, PowerRing, Ring, WideElements, WideField

KEY_BYTES = 16
SECRET_BYTES = 32
OPERATIONS_PER_KEY = 1 << 16

Entropy = Callable[[int], bytes]
"""Where secrets come from: ``os.urandom``, or a recorded source in tests."""

_ZERO_NONCE = bytes(16)
_BLOCK = 16
_STEP = 1 << 18
_PART = 1 << 20
"""Bytes worth a thread of their own."""
_ZEROS = memoryview(bytes(_STEP))


def system_entropy(count: int) -> bytes:
    """Bytes from the operating system's generator."""
    return os.urandom(count)


class _Ended:
    """What a stream draws from when another has taken its place."""

    def update_into(self, *arguments: Any) -> int:
        """Raise: what would come now is another operation's."""
        raise CorrelationReusedError(
            "This stream belongs to an operation that is over. Draw from the stream of the operation that runs."
        )

    reset_nonce = update_into


class _Key:
    """AES-128 in counter mode under one key, by as many threads as ask."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._spare: list[Any] = []

    def encryptor(self) -> Any:
        """A context of its own at counter 0."""
        return Cipher(algorithms.AES(self._key), modes.CTR(_ZERO_NONCE)).encryptor()

    def fill(self, out: memoryview, counter: int) -> None:
        """Write the keystream from a counter on."""
        try:
            encryptor = self._spare.pop()
        except IndexError:
            encryptor = self.encryptor()
        encryptor.reset_nonce(counter.to_bytes(_BLOCK, "big"))
        _draw(encryptor, out)
        self._spare.append(encryptor)


def _draw(encryptor: Any, out: memoryview) -> None:
    for start in range(0, len(out), _STEP):
        part = out[start : start + _STEP]
        encryptor.update_into(_ZEROS[: len(part)], part)


class Stream:
    """AES-128-CTR keystream under a key used for nothing else, or a part of one that begins at a counter."""

    def __init__(self, key: bytes) -> None:
        self._key = _Key(key)
        self._encryptor: Any = self._key.encryptor()
        self._start = 0
        self._drawn = 0

    def successor(self, number: int) -> Stream:
        """The stream under the same key from counter ``number`` * 2^64 on. This one ends."""
        made = Stream.__new__(Stream)
        made._key, made._encryptor, self._encryptor = self._key, self._encryptor, _ENDED
        made._start, made._drawn = number << 64, 0
        made._encryptor.reset_nonce(made._start.to_bytes(_BLOCK, "big"))
        return made

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """``count`` uniform bytes."""
        out = np.empty(count, np.uint8)
        if count <= _STEP:
            self._encryptor.update_into(_ZEROS[:count], out.data)
            self._drawn += count
        elif count < 2 * _PART or thread_count() == 1:
            _draw(self._encryptor, out.data)
            self._drawn += count
        else:
            self._fill(out.data)
        return out

    def _fill(self, out: memoryview) -> None:
        """Write the next bytes, by several threads: the rest of a block, whole blocks in parts, and go on behind."""
        head = _BLOCK - self._drawn % _BLOCK
        _draw(self._encryptor, out[:head])
        body, first = out[head:], self._start + (self._drawn + head) // _BLOCK
        in_parts(
            lambda begin, end: self._key.fill(body[begin:end], first + begin // _BLOCK), len(body), _PART, _BLOCK
        )
        self._drawn += len(out)
        self._encryptor.reset_nonce((self._start + self._drawn // _BLOCK).to_bytes(_BLOCK, "big"))
        _draw(self._encryptor, memoryview(bytearray(self._drawn % _BLOCK)))

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


_ENDED = _Ended()


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
