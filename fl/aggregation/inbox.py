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

from sharetorch.fl.aggregation.errors import (
    DuplicateUploadError,
    TooFewClientsError,
    UploadError,
    UploadSetError,
)
from sharetorch.fl.aggregation.uploads import ID_BYTES, Piece, Terms, Words, expand
from sharetorch.mpc.randomness import SECRET_BYTES

DIGEST_BYTES = 32
_FIRST_ROWS = 32
"""Uploads there is room for at the beginning."""


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
        self._places: dict[bytes, int] = {}
        rows = min(terms.limits.clients, _FIRST_ROWS)
        self._updates: Words = np.empty((rows, terms.dimension), np.int64)
        self._weights: Words = np.empty((rows, terms.words - terms.dimension), np.int64)
        self._order: list[bytes] | None = None
        self._agreed = self._handed_out = False

    def __repr__(self) -> str:
        return f"Inbox(aggregator {self._rank}, {len(self._places)} uploads)"

    def accept(self, piece: Piece) -> None:
        """Take this aggregator's piece of an upload. A refused piece leaves no trace.

        Raises:
            UploadError: it belongs to another round or aggregator, has another size, comes after the set was settled,
                or more clients than declared would take part.
            DuplicateUploadError: the id is there already.
        """
        self._check(piece)
        place = len(self._places)
        if piece.seeded:
            share = expand(piece.contents, piece.round, piece.upload, self._rank, self._terms.words)
        else:
            share = np.frombuffer(piece.contents, "<i8")
        if place == len(self._updates):
            self._updates, self._weights = _doubled(self._updates), _doubled(self._weights)
        self._updates[place] = share[: self._terms.dimension]
        self._weights[place] = share[self._terms.dimension :]
        self._places[piece.upload] = place

    def _check(self, piece: Piece) -> None:
        due = SECRET_BYTES if piece.seeded else 8 * self._terms.words
        if self._order is not None:
            raise UploadError(f"Upload {piece.upload.hex()} came after the set was settled; send it in the next round.")
        if piece.round != self._terms.round or piece.rank != self._rank or len(piece.upload) != ID_BYTES:
            raise UploadError(f"{piece!r} is not for aggregator {self._rank} in this round; split the update anew.")
        if len(piece.contents) != due:
            raise UploadError(f"{piece!r} should have {due} bytes: {self._terms.words} integers are agreed.")
        if piece.upload in self._places:
            raise DuplicateUploadError(f"Upload {piece.upload.hex()} is here already; a client uploads once a round.")
        if len(self._places) == self._terms.limits.clients:
            raise UploadError(
                f"{len(self._places)} clients are declared and here; more could overflow the sum. Declare more clients."
            )

    def announce(self) -> tuple[bytes, ...]:
        """Ids of the uploads here, in the order in which they came."""
        return tuple(self._places)

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
        if not self._agreed or self._handed_out or self._order is None:
            raise UploadSetError(f"Aggregator {self._rank} hands out its shares once, after the set is agreed.")
        self._handed_out = True
        places = [self._places[upload] for upload in self._order]
        found = Shares(_picked(self._updates, places), _picked(self._weights, places).reshape(-1))
        self._updates, self._weights = self._updates[:0].copy(), self._weights[:0].copy()
        return found


def _doubled(rows: Words) -> Words:
    """The same rows, and as much room again."""
    made = np.empty((2 * len(rows), rows.shape[1]), np.int64)
    made[: len(rows)] = rows
    return made


def _picked(rows: Words, places: list[int]) -> Tensor:
    """Rows at these places; without a copy if they are the first ones in order."""
    in_order = places == list(range(len(places)))
    return torch.from_numpy(rows[: len(places)] if in_order else rows[places])
