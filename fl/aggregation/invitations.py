"""What aggregators and clients on other machines are told of a round, and how they are asked; all of it is public.

The id of a round is a hash of everything that was said of it: if a driver tells somebody something else, the uploads
and the announcements of that round are refused by the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from sharetorch.fl.aggregation import errors
from sharetorch.fl.aggregation.errors import AggregationError, UploadSetError
from sharetorch.fl.aggregation.limits import Limits
from sharetorch.fl.aggregation.registry import RULES
from sharetorch.fl.aggregation.uploads import ID_BYTES, Terms
from sharetorch.mpc.errors import MalformedRequestError
from sharetorch.remote.messages import Train, Values

AGGREGATION = "aggregation"
"""Option of ``Train`` by which a request is one of aggregation."""
BEGIN, UPLOAD, ANNOUNCE, SETTLE, DIGEST, CONFIRM = "begin", "upload", "announce", "settle", "digest", "confirm"

COUNTED = frozenset({"sum", "mean", "weighted-mean", "sign-vote", "fltrust"})
"""Rules that treat all clients' updates alike and add them up: members of the session count the clients in every
element of a result, and open none that aggregates fewer than all of the agreed set, whatever the driver commands."""

_KINDS: dict[str, type[AggregationError]] = {
    kind.__name__: kind
    for kind in (
        errors.AggregationError, errors.DeclaredLimitsError, errors.UploadError, errors.DuplicateUploadError,
        errors.UploadSetError, errors.TooFewClientsError, errors.RuleError,
    )
}  # fmt: skip


class Invitation(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One round.

    Attributes:
        session: id of the session whose parties are the aggregators.
        numbers: of the objects that hold updates and weights there.
        nonce: 16 fresh bytes.
        aggregators: ids, in order of rank.
        clients: ids of those who are asked.
        dimension: coordinates of an update.
        rule: name of the rule.
        limits: coordinate, clients, weight, fraction bits, least.
    """

    session: bytes
    numbers: tuple[int, int]
    nonce: bytes
    aggregators: list[str]
    clients: list[str]
    dimension: int
    rule: str
    limits: tuple[float, int, int, int, int]

    @property
    def round(self) -> bytes:
        """Id of the round."""
        said = b"sharetorch/v1/aggregation round/" + msgspec.msgpack.encode(self)
        return hashlib.sha256(said).digest()[:ID_BYTES]

    def terms(self) -> Terms:
        """What pieces are split and taken by.

        Raises:
            DeclaredLimitsError: a sum could overflow within the limits.
            AggregationError: there is no such rule, or another number is out of its range.
        """
        if self.rule not in RULES or self.dimension < 1 or not 2 <= len(set(self.aggregators)) == len(self.aggregators):
            raise AggregationError(
                f"A round of {len(self.aggregators)} aggregators, {self.dimension} coordinates and the rule "
                f"{self.rule[:40]!r}: there must be two or more of the first, one or more of the second, and a rule of "
                f"{', '.join(RULES)}."
            )
        weighted = RULES[self.rule].weighted
        return Terms(self.round, self.dimension, len(self.aggregators), Limits(*self.limits), weighted)

    def bulk(self, client: str) -> int:
        """Rank of the aggregator to which a client sends the share itself: they take turns."""
        return self.clients.index(client) % len(self.aggregators)


def ask(link: Any, step: str, *given: Any) -> list[Any]:
    """Ask an aggregator for a step of a round.

    Raises:
        AggregationError: it refuses, as its own class.
        NetworkError: it cannot be reached.
    """
    values: list[Any] = link.request(Train(0, "", {AGGREGATION: [step, *given]})).values
    if len(values) != 2 or not isinstance(values[0], str):
        raise UploadSetError(f"{link.worker.id} knows nothing of aggregation. Install the same version everywhere.")
    kind, said = values
    if kind != step:
        raise _KINDS.get(kind, AggregationError)(f"{link.worker.id}: {said}")
    return list(said)


def answered(step: str, work: Callable[[], list[Any]]) -> Values:
    """The reply to a request: what the work gives, or the error of aggregation it raises."""
    try:
        return Values([step, work()])
    except AggregationError as error:
        return Values([type(error).__name__, str(error)])


def invitation_of(said: Any) -> Invitation:
    """An invitation from a message.

    Raises:
        MalformedRequestError: it is none.
    """
    try:
        return msgspec.convert(said, Invitation)
    except msgspec.ValidationError as error:
        raise MalformedRequestError(f"This is no invitation to a round: {error}.") from error
