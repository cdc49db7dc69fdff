"""Every secret random number of the library comes from here.

Operating-system entropy makes pair secrets; HMAC-SHA256 (HKDF-Expand with one block, RFC 5869) derives from a pair
secret one key per operation, named by a canonical label; AES-128 in counter mode turns a key into a stream. No key
ever makes two streams: every operation has a number of its own, and numbers only grow.

Both holders of a stream run the same program, so they draw the same values in the same order. Sampling rejects, so
that every distribution is exact.
"""

from __future__ import annotations

import hmac
import math
import os
from collections.abc import Callable

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.mpc import kernels, odd_ring
from sharetorch.mpc.errors import CorrelationReusedError
from sharetorch.mpc.ring import Elements, PowerRing, Ring, WideElements, WideField

KEY_BYTES = 16
SECRET_BYTES = 32

Entropy = Callable[[int], bytes]
"""Where secrets come from: ``os.urandom``, or a recorded source in tests."""

_ZERO_NONCE = bytes(16)
_STEP = 1 << 18
_ZEROS = memoryview(bytes(_STEP))


def system_entropy(count: int) -> bytes:
    """Bytes from the operating system's generator."""
    return os.urandom(count)


class Stream:
    """AES-128-CTR keystream under a key used for nothing else."""

    def __init__(self, key: bytes) -> None:
        self._encryptor = Cipher(algorithms.AES(key), modes.CTR(_ZERO_NONCE)).encryptor()

    def bytes(self, count: int) -> NDArray[np.uint8]:
        """``count`` uniform bytes."""
        out = np.empty(count, np.uint8)
        if count <= _STEP:
            self._encryptor.update_into(_ZEROS[:count], out.data)
            return out
        view = out.data
        for start in range(0, count, _STEP):
            part = view[start : start + _STEP]
            self._encryptor.update_into(_ZEROS[: len(part)], part)
        return out

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

    def stream(self, operation: int) -> Stream:
        """The stream of one operation; a second request raises.

        Raises:
            CorrelationReusedError: this operation has had its stream, or a later one has begun.
        """
        if operation <= self._last_operation:
            raise CorrelationReusedError(
                f"The stream of operation {operation} was already used. "
                "A second use would reveal differences of secrets; begin a new operation."
            )
        self._last_operation = operation
        info = b"sharetorch/v1/operation/%d\x01" % operation
        return Stream(hmac.digest(self._secret, info, "sha256")[:KEY_BYTES])

    def __repr__(self) -> str:
        return "PairSecret(...)"
