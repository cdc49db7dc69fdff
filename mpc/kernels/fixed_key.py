"""A hash of blocks by AES-128 under a public key: H(x) = AES_k(x) XOR x (Matyas, Meyer, Oseas).

One key schedule serves any number of blocks, which is what makes it fast. A block is two 64-bit words, the low one
first, and blocks lie as two vectors: all low words, all high words. What it is good for is proven in [GKWY20].

Compiled code uses the processor's AES instructions where there are any; the library ``cryptography`` does the same
work elsewhere, with the same result.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numba.core.registry import cpu_target
from numpy.typing import NDArray

Words = NDArray[np.uint64]

KEY_BYTES = 16
ROUNDS = 10
_BLOCK_BYTES = 16


@cache
def vector_words() -> int:
    """64-bit words per AES instruction of compiled code: 8 with VAES and AVX-512, 2 with AES-NI, 0 without either.

    It follows numba's settings: ``NUMBA_CPU_NAME=generic`` in the environment makes it 0.
    """
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    present = set(features.split(","))
    if not triple.startswith("x86_64") or "+aes" not in present:
        return 0
    return 8 if {"+vaes", "+avx512f"} <= present else 2


class FixedKeyHash:
    """H under one public key.

    Attributes:
        key: 16 bytes.
        round_keys: the key schedule, uint64, shape (22,): two words a round.
    """

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.round_keys = np.frombuffer(b"".join(_key_schedule(key)), "<u8").astype(np.uint64)

    def __call__(self, low: Words, high: Words) -> tuple[Words, Words]:
        """H of blocks, by ``cryptography``: the low words and the high words.

        Args:
            low: shape (n,).
            high: shape (n,).
        """
        blocks = np.stack([low, high], axis=-1).astype("<u8", copy=False)
        out = np.empty(blocks.nbytes + _BLOCK_BYTES - 1, np.uint8)
        encryptor = Cipher(algorithms.AES(self.key), modes.ECB()).encryptor()
        encryptor.update_into(blocks.reshape(-1).view(np.uint8).data, out.data)
        hashed = out[: blocks.nbytes].view("<u8").reshape(-1, 2) ^ blocks
        return np.ascontiguousarray(hashed[:, 0]), np.ascontiguousarray(hashed[:, 1])


def _key_schedule(key: bytes) -> list[bytes]:
    """The words of all round keys [FIPS197, Algorithm 2]."""
    words = [key[i : i + 4] for i in range(0, KEY_BYTES, 4)]
    constant = 1
    for i in range(4, 4 * (ROUNDS + 1)):
        last = words[-1]
        if i % 4 == 0:
            last = bytes(_substitution()[byte] for byte in last[1:] + last[:1])
            last = bytes([last[0] ^ constant]) + last[1:]
            constant = _double(constant)
        words.append(bytes(a ^ b for a, b in zip(words[-4], last, strict=True)))
    return words


def _double(value: int) -> int:
    return (value << 1) ^ (0x11B if value & 0x80 else 0)


@cache
def _substitution() -> bytes:
    """The S-box [FIPS197, 5.1.1]: the inverse in GF(2^8), taken among the powers of 3, under an affine map."""
    powers = [1]
    while len(powers) < 255:
        powers.append(powers[-1] ^ _double(powers[-1]))
    inverses = {power: powers[-i % 255] for i, power in enumerate(powers)} | {0: 0}
    box = bytearray()
    for byte in range(256):
        spread = inverses[byte] * 0x101
        turned = spread ^ spread >> 4 ^ spread >> 5 ^ spread >> 6 ^ spread >> 7
        box.append((turned & 0xFF) ^ 0x63)
    return bytes(box)
