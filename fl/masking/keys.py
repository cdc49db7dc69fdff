"""Keys of a round: agreement by X25519, derivation by HKDF-SHA256, encryption by AES-256-GCM, masks from streams.

What two members agree on is never used itself. HKDF, salted with the hash of the round's document, derives from it one
secret for one purpose; the purpose, the round's id and both members' ids are its info. The key of a box serves for that
one box, so its nonce is constant.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sharetorch.fl.masking.encoding import Words
from sharetorch.fl.masking.errors import ForgedMessageError
from sharetorch.mpc.randomness import SECRET_BYTES, PairSecret

PAIR_MASK = b"pair mask"
SELF_MASK = b"self mask"
SHARES = b"shares"
_NONCE = bytes(12)


class Context(NamedTuple):
    """What secrets of a round are bound to.

    Attributes:
        round: its id.
        digest: hash of its document.
    """

    round: bytes
    digest: bytes

    def derive(self, secret: bytes, label: bytes, first: str, second: str) -> bytes:
        """32 bytes for one purpose of two members."""
        parts = (label, self.round, first.encode(), second.encode())
        info = b"sharetorch/masking/v1" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=self.digest, info=info).derive(secret)

    def pair_mask(self, agreed: bytes, one: tuple[int, str], other: tuple[int, str]) -> PairSecret:
        """What the mask of two members, each given by number and id, is drawn from."""
        low, high = sorted((one, other))
        return PairSecret(self.derive(agreed, PAIR_MASK, low[1], high[1]))

    def self_mask(self, seed: bytes, id: str) -> PairSecret:
        """What a member's own mask is drawn from."""
        return PairSecret(self.derive(seed, SELF_MASK, id, id))

    def box_key(self, agreed: bytes, sender: str, receiver: str) -> AESGCM:
        """The key of the one box from one member to another."""
        return AESGCM(self.derive(agreed, SHARES, sender, receiver))


class KeyPair:
    """An X25519 key pair for one round.

    Args:
        secret: 32 uniform bytes.
    """

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self._private = X25519PrivateKey.from_private_bytes(secret)
        self.public = self._private.public_key().public_bytes_raw()

    def agree(self, public: bytes) -> bytes:
        """What only the holders of both keys know.

        Raises:
            ForgedMessageError: the other key has low order, so everybody would know it.
        """
        try:
            return self._private.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise ForgedMessageError("A member advertised a degenerate key; nothing is agreed with it.") from error

    def __repr__(self) -> str:
        return "KeyPair(...)"


def seal(key: AESGCM, plain: bytes, digest: bytes) -> bytes:
    """Encrypt shares; the tag covers the hash of the round's document too."""
    return key.encrypt(_NONCE, plain, digest)


def unseal(key: AESGCM, box: bytes, digest: bytes, sender: str) -> bytes:
    """Decrypt shares.

    Raises:
        ForgedMessageError: the box is not the sender's, or not whole.
    """
    try:
        return key.decrypt(_NONCE, box, digest)
    except InvalidTag as error:
        raise ForgedMessageError(
            f"The shares from {sender} were changed on their way, or are of another round. This client leaves the "
            "round; begin another without who changed them."
        ) from error


def add_mask(words: Words, source: PairSecret) -> None:
    """Add a mask of the vector's own shape, in place. The source is used up."""
    np.add(words, _mask(words, source), out=words)


def subtract_mask(words: Words, source: PairSecret) -> None:
    """Subtract a mask of the vector's own shape, in place. The source is used up."""
    np.subtract(words, _mask(words, source), out=words)


def _mask(words: Words, source: PairSecret) -> Words:
    mask: Words = source.stream(0).words(words.shape).numpy().view(np.uint64)
    return mask
