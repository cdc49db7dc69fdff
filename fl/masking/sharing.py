"""Shamir's sharing of 32 secret bytes among neighbours.

Over Z_p with p = 2^256 + 297, the least prime above 2^256: every 32 bytes are an element, so no value is left out and
none is folded. The share of the holder number x is the value of a uniform polynomial of degree t - 1 at x + 1; t
shares give the secret back, fewer are independent of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import gmpy2

from sharetorch.fl.masking.errors import ForgedMessageError
from sharetorch.fl.masking.messages import SHARE_BYTES
from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.randomness import SECRET_BYTES, Stream
from sharetorch.mpc.ring import WideField

PRIME = (1 << 256) + 297
_FIELD = WideField(PRIME)


def split(secret: bytes, holders: tuple[int, ...], threshold: int, stream: Stream) -> dict[int, bytes]:
    """Shares of a secret, 33 bytes for each holder.

    Args:
        secret: 32 bytes.
        holders: their numbers, all different.
        threshold: how many shares give the secret back.
        stream: from which coefficients come.

    Raises:
        ShapeError: the secret has another length, or there are fewer holders than the threshold.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= len(set(holders)) == len(holders):
        raise ShapeError(
            f"{len(secret)} bytes cannot be shared by {threshold} of {len(holders)}: a secret has {SECRET_BYTES} "
            "bytes, and there are at least as many holders as the threshold."
        )
    coefficients = [gmpy2.mpz(value) for value in stream.uniform((threshold - 1,), _FIELD).array]
    coefficients.append(gmpy2.mpz(int.from_bytes(secret, "big")))
    shares = {}
    for holder in holders:
        value = gmpy2.mpz(0)
        for coefficient in coefficients:
            value = (value * (holder + 1) + coefficient) % PRIME
        shares[holder] = int(value).to_bytes(SHARE_BYTES, "big")
    return shares


def join(shares: Mapping[int, bytes], threshold: int) -> bytes:
    """The secret, from the first ``threshold`` shares by number of the holder.

    Raises:
        ForgedMessageError: they are shares of no 32 bytes.
        ShapeError: there are fewer shares.
    """
    if len(shares) < threshold:
        raise ShapeError(f"{len(shares)} shares do not give a secret back that {threshold} are needed for.")
    chosen = sorted(shares)[:threshold]
    secret = gmpy2.mpz(0)
    for holder in chosen:
        above = below = gmpy2.mpz(1)
        for other in chosen:
            if other != holder:
                above *= other + 1
                below *= other - holder
        value = int.from_bytes(shares[holder], "big")
        secret = (secret + value * (above % PRIME) * gmpy2.invert(below, PRIME)) % PRIME
    if secret >> 256:
        raise ForgedMessageError(
            "Shares of neighbours join to no secret: at least one of them was changed. The round is over; begin "
            "another."
        )
    return int(secret).to_bytes(SECRET_BYTES, "big")
