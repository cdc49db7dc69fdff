"""One client's upload: its update as additive shares, of which all but one are seeds.

Notation: N aggregators, x the update as m integers of Z_2^64 (a private weight is the last of them). For every
aggregator j but one the client draws a seed of 32 bytes, and
    key_j = HMAC-SHA256(seed_j, label || round || id || j), first 16 bytes,     share_j = AES-128-CTR(key_j), m words,
    share_b = x - sum of share_j, j != b,
so the bulk aggregator b receives 8 m bytes and every other one 32. The key is bound to round, upload and aggregator:
the same seed under another id is another stream. Any N - 1 aggregators hold uniform words that do not depend on x.
"""

from __future__ import annotations

import hmac
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.fl.aggregation.errors import UploadError
from sharetorch.fl.aggregation.limits import Limits
from sharetorch.mpc.errors import EncodingRangeError, NotFiniteError
from sharetorch.mpc.fixedpoint import encode
from sharetorch.mpc.randomness import KEY_BYTES, SECRET_BYTES, Entropy, Stream, system_entropy

ID_BYTES = 16
_LABEL = b"sharetorch/v2/uploads/"

Words = NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Piece:
    """What one aggregator gets of an upload.

    Attributes:
        round: id of the aggregation, 16 bytes.
        upload: id of the upload, 16 bytes.
        rank: of the aggregator.
        seeded: whether the contents are a seed.
        contents: a seed of 32 bytes, or the share itself, little-endian words of 8 bytes.
    """

    round: bytes
    upload: bytes
    rank: int
    seeded: bool
    contents: bytes

    def __repr__(self) -> str:
        kind = "seed" if self.seeded else "share"
        return f"Piece({self.upload.hex()}, {kind} for aggregator {self.rank}, {len(self.contents)} bytes)"


@dataclass(frozen=True)
class Terms:
    """What a client must know to take part; all of it is public.

    Attributes:
        round: id of the aggregation, 16 bytes.
        dimension: coordinates of an update.
        aggregators: how many there are.
        limits: largest numbers.
        weighted: whether an upload holds a private weight.
    """

    round: bytes
    dimension: int
    aggregators: int
    limits: Limits
    weighted: bool = False

    @property
    def words(self) -> int:
        """Integers of an upload."""
        return self.dimension + self.weighted

    @property
    def upload_bytes(self) -> int:
        """What a client sends: 8 bytes an integer to one aggregator, a seed to each other one."""
        return 8 * self.words + SECRET_BYTES * (self.aggregators - 1)

    def split(
        self, update: Tensor, weight: int | None = None, *, bulk: int = 0, entropy: Entropy = system_entropy
    ) -> list[Piece]:
        """Write an update as integers and split it, at the client.

        Args:
            update: shape (dimension,), real numbers.
            weight: a whole number from 0 on, if the aggregation is weighted.
            bulk: rank of the aggregator that gets the share itself.
            entropy: source of seeds and of the upload's id.

        Returns:
            One piece for each aggregator, in order of rank.

        Raises:
            UploadError: another shape, or a weight too many or missing.
            NotFiniteError: NaN or infinity.
            EncodingRangeError: a number beyond the declared limits.
        """
        rest = self._integers(update, weight).numpy().copy()
        mask = np.empty_like(rest)
        upload, pieces = entropy(ID_BYTES), []
        for rank in range(self.aggregators):
            seed = b"" if rank == bulk else entropy(SECRET_BYTES)
            if seed:
                expand(seed, self.round, upload, rank, mask)
                rest -= mask
            pieces.append(Piece(self.round, upload, rank, rank != bulk, seed))
        share = Piece(self.round, upload, bulk, False, rest.astype("<i8", copy=False).tobytes())
        return [share if piece.rank == bulk else piece for piece in pieces]

    def _integers(self, update: Tensor, weight: int | None) -> Tensor:
        if tuple(update.shape) != (self.dimension,):
            raise UploadError(
                f"An update of shape {tuple(update.shape)} where ({self.dimension},) is agreed; flatten it."
            )
        if (weight is not None) != self.weighted:
            due = "needs one" if self.weighted else "takes none"
            raise UploadError(f"This aggregation {due}: a weight for each client is agreed for all or for none.")
        integers = encode(update, self.limits.encoding)
        if integers.numel() and int(integers.abs().max()) > self.limits.largest:
            raise EncodingRangeError(
                f"An update has a coordinate beyond the declared {self.limits.coordinate:g}; the sum could overflow. "
                "Clip the update, or agree on a larger limit."
            )
        return integers if weight is None else torch.cat([integers, torch.tensor([self._checked(weight)])])

    def _checked(self, weight: int) -> int:
        if not math.isfinite(weight):
            raise NotFiniteError("A weight is NaN or infinite; give a whole number.")
        if weight != int(weight) or not 0 <= weight <= self.limits.weight:
            raise EncodingRangeError(f"A weight is no whole number from 0 to the declared {self.limits.weight}.")
        return int(weight)


def expand(seed: bytes, round: bytes, upload: bytes, rank: int, out: Words) -> None:
    """Write the words a seed stands for.

    Args:
        seed: 32 bytes.
        round: id of the aggregation.
        upload: id of the upload.
        rank: of the aggregator.
        out: int64, shape (n,), without gaps.
    """
    info = _LABEL + round + upload + rank.to_bytes(4, "big") + b"\x01"
    stream = Stream(hmac.digest(seed, info, "sha256")[:KEY_BYTES])
    stream.fill(out)
