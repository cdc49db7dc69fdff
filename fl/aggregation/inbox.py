"""One aggregator's side of a round of uploads, as a state machine without a network.

    collecting   ``accept`` takes pieces; clients may vanish at any moment
    settled      ``announce`` gave the ids received here; ``settle`` took those of all aggregators: what all of them
                 have counts, in the order in which the first one received it
    agreed       ``confirm`` compared the hashes of what everybody is about to use, and the set is as large as the
                 limits demand; only now ``shares`` are given

Two messages from each aggregator to each other one: ids of 16 bytes, a hash of 32 bytes. A client that reached some
aggregators and not others has dropped out. Whoever carries the messages cannot make aggregators use different sets: the
hash covers round, sizes, sorted ids and their order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sharetorch.fl.aggregation import uploads
from sharetorch.fl.aggregation.errors import (
    DuplicateUploadError,
    TooFewClientsError,
    UploadError,
    UploadSetError,
)
from sharetorch.fl.aggregation.uploads import ID_BYTES, Piece, Terms, Words
from sharetorch.mpc.randomness import SECRET_BYTES

DIGEST_BYTES = 32
_BLOCK = 1 << 15
"""Words that stay in a processor's cache while uploads are added to them."""


class Shares(NamedTuple):
    """One aggregator's shares of the agreed uploads.

    Attributes:
        updates: int64, shape (n, d).
        weights: int64, shape (n,), or (0,) without private weights.
    """

    updates: Tensor
    weights: Tensor


class Inbox:
    """What one aggregator received in one round.

    Args:
        terms: of the round.
        rank: of this aggregator.
    """

    def __init__(self, terms: Terms, rank: int) -> None:
        self._terms = terms
        self._rank = rank
        self._pieces: dict[bytes, Piece] = {}
        self._order: list[bytes] | None = None
        self._agreed = self._handed_out = False

    def __repr__(self) -> str:
        return f"Inbox(aggregator {self._rank}, {len(self._pieces)} uploads)"

    def accept(self, piece: Piece) -> None:
        """Take this aggregator's piece of an upload, as it came. A refused piece leaves no trace.

        Raises:
            UploadError: it belongs to another round or aggregator, has another size, comes after the set was settled,
                or more clients than declared would take part.
            DuplicateUploadError: the id is there already.
        """
        self._check(piece)
        self._pieces[piece.upload] = piece

    def _check(self, piece: Piece) -> None:
        due = SECRET_BYTES if piece.seeded else 8 * self._terms.words
        if self._order is not None:
            raise UploadError(f"Upload {piece.upload.hex()} came after the set was settled; send it in the next round.")
        if piece.round != self._terms.round or piece.rank != self._rank or len(piece.upload) != ID_BYTES:
            raise UploadError(f"{piece!r} is not for aggregator {self._rank} in this round; split the update anew.")
        if len(piece.contents) != due:
            raise UploadError(f"{piece!r} should have {due} bytes: {self._terms.words} integers are agreed.")
        if piece.upload in self._pieces:
            raise DuplicateUploadError(f"Upload {piece.upload.hex()} is here already; a client uploads once a round.")
        if len(self._pieces) == self._terms.limits.clients:
            raise UploadError(
                f"{len(self._pieces)} clients are declared and here; more could overflow the sum. Declare more clients."
            )

    def announce(self) -> tuple[bytes, ...]:
        """Ids of the uploads here, in the order in which they came."""
        return tuple(self._pieces)

    def settle(self, announced: Sequence[Sequence[bytes]]) -> bytes:
        """Fix what is used: the uploads that all aggregators have. No piece is taken from now on.

        Args:
            announced: what all aggregators announced, in order of rank.

        Returns:
            A hash of the set, for the other aggregators.

        Raises:
            UploadSetError: not one announcement for each aggregator, an id twice, or not this one's own among them.
        """
        if len(announced) != self._terms.aggregators or tuple(announced[self._rank]) != self.announce():
            raise UploadSetError(
                f"Aggregator {self._rank} was given announcements that are not those of the {self._terms.aggregators} "
                "aggregators, its own among them. Repeat the round."
            )
        everywhere = set(announced[0]).intersection(*announced[1:])
        self._order = [upload for upload in announced[0] if upload in everywhere]
        if len(self._order) != len(everywhere):
            raise UploadSetError("An aggregator announced an upload twice. Repeat the round.")
        return self._digest(self._order)

    def _digest(self, order: Sequence[bytes]) -> bytes:
        terms = self._terms
        sizes = (terms.dimension, terms.words, terms.aggregators, len(order))
        places = {upload: place for place, upload in enumerate(sorted(order))}
        parts = [terms.round, *(size.to_bytes(8, "big") for size in sizes), *sorted(order)]
        parts += [places[upload].to_bytes(8, "big") for upload in order]
        return hashlib.sha256(b"sharetorch/v2/upload set/" + b"".join(parts)).digest()

    def confirm(self, digests: Sequence[bytes]) -> None:
        """Compare the hashes of all aggregators.

        Args:
            digests: what all of them gave, in order of rank.

        Raises:
            UploadSetError: they differ, or nothing was settled.
            TooFewClientsError: fewer uploads are in the set than the limits demand.
        """
        mine = None if self._order is None else self._digest(self._order)
        if mine is None or len(digests) != self._terms.aggregators or any(digest != mine for digest in digests):
            raise UploadSetError(
                f"Aggregator {self._rank} is about to use another set of uploads than the others: shares of different "
                "clients would be added. Nothing was computed; repeat the round."
            )
        count, least = len(self._order or ()), self._terms.limits.least
        if count < least:
            raise TooFewClientsError(
                f"{count} updates reached all aggregators, and at least {least} are demanded: a result over fewer "
                "tells too much of each. Nothing was computed; wait for more clients."
            )
        self._agreed = True

    @property
    def order(self) -> tuple[bytes, ...]:
        """Ids of the agreed uploads, in the order of their shares.

        Raises:
            UploadSetError: nothing is agreed.
        """
        if self._order is None:
            raise UploadSetError(f"Aggregator {self._rank} has not settled the set of uploads.")
        return tuple(self._order)

    def shares(self) -> Shares:
        """This aggregator's shares of the agreed uploads; once, then they are forgotten here.

        Raises:
            UploadSetError: nothing is agreed, or they were handed out.
        """
        pieces = self._agreed_pieces()
        self._handed_out = True
        dimension = self._terms.dimension
        updates = np.empty((len(pieces), dimension), np.int64)
        weights = np.empty((len(pieces), self._terms.words - dimension), np.int64)
        for piece, row, weight in zip(pieces, updates, weights, strict=True):
            if piece.seeded and not weight.size:
                self._expand(piece, row)
            else:
                share = self._words(piece)
                row[:], weight[:] = share[:dimension], share[dimension:]
        self._pieces.clear()
        return Shares(torch.from_numpy(updates), torch.from_numpy(weights).reshape(-1))

    def total(self) -> Tensor:
        """The sum of this aggregator's shares of the agreed updates, which need not all be written out for it.

        Returns:
            int64, shape (d,).

        Raises:
            UploadSetError: nothing is agreed, or the shares were handed out.
        """
        pieces = self._agreed_pieces()
        total = np.zeros(self._terms.dimension, np.int64)
        given = [self._words(piece) for piece in pieces if not piece.seeded]
        for begin in range(0, total.size, _BLOCK):
            part = total[begin : begin + _BLOCK]
            for share in given:
                np.add(part, share[begin : begin + part.size], out=part)
        drawn = np.empty(self._terms.words, np.int64)
        for piece in pieces:
            if piece.seeded:
                self._expand(piece, drawn)
                np.add(total, drawn[: total.size], out=total)
        return torch.from_numpy(total)

    def _agreed_pieces(self) -> list[Piece]:
        if not self._agreed or self._handed_out or self._order is None:
            raise UploadSetError(f"Aggregator {self._rank} hands out its shares once, after the set is agreed.")
        return [self._pieces[upload] for upload in self._order]

    def _expand(self, piece: Piece, out: Words) -> None:
        uploads.expand(piece.contents, piece.round, piece.upload, self._rank, out)

    def _words(self, piece: Piece) -> Words:
        if not piece.seeded:
            return np.frombuffer(piece.contents, "<i8")
        words = np.empty(self._terms.words, np.int64)
        self._expand(piece, words)
        return words
