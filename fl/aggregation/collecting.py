"""An aggregator on a machine of its own: it takes uploads, agrees with the others, and hands its shares to the session.

Whoever asks is known by the certificate of the connection. Only clients that were invited upload, each once a round.
Announcements and hashes go from aggregator to aggregator, so the driver cannot make them use different sets:

    begin      the driver says what the round is
    upload     clients bring pieces
    settle     the driver asks for it; the aggregator asks the others what they have, and fixes the set
    confirm    likewise; the aggregator asks the others for their hashes, and if all agree and there are enough
               clients, its shares become an object of the session

With the shares goes a policy: results go to the driver that began the round, and, by rules that add up all clients,
only results that aggregate every client of the set. Cost: 2 rounds; 16 bytes for each upload and 32 from each
aggregator to each other one.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from sharetorch.fl.aggregation.errors import AggregationError, DuplicateUploadError, UploadError, UploadSetError
from sharetorch.fl.aggregation.inbox import Inbox
from sharetorch.fl.aggregation.invitations import (
    AGGREGATION,
    ANNOUNCE,
    BEGIN,
    CONFIRM,
    COUNTED,
    DIGEST,
    SETTLE,
    UPLOAD,
    Invitation,
    answered,
    ask,
    invitation_of,
)
from sharetorch.fl.aggregation.uploads import Piece
from sharetorch.mpc.errors import LimitExceededError, MalformedRequestError, UnsupportedOperationError
from sharetorch.mpc.network import frames
from sharetorch.mpc.policy import Policy
from sharetorch.mpc.ring import ring_of
from sharetorch.remote.audit import Call
from sharetorch.remote.messages import Values
from sharetorch.remote.node import Node
from sharetorch.remote.sessions.messages import Deposit

_RING = ring_of(None)


def depositor(round: bytes) -> str:
    """The name under which aggregators hand shares of a round to their session; no worker can have it."""
    return f"uploads of round {round.hex()}"


@dataclass
class Collected:
    """A round at one aggregator.

    Attributes:
        invitation: what it is.
        driver: who began it.
        inbox: what was uploaded.
        clients: ids of clients, by id of their upload.
        closed: whether nothing is taken any more.
        digest: of the set this aggregator is about to use; empty before it is settled.
    """

    invitation: Invitation
    driver: str
    inbox: Inbox
    clients: dict[bytes, str] = field(default_factory=dict)
    closed: bool = False
    digest: bytes = b""


_ROUNDS: MutableMapping[Node, dict[str, Collected]] = WeakKeyDictionary()
"""The round under way at each node, by driver."""


def serve(node: Node, options: dict[str, Any], call: Call) -> Values:
    """Serve a request of aggregation."""
    said = options[AGGREGATION]
    if not isinstance(said, list) or not said or said[0] not in _STEPS:
        raise MalformedRequestError(f"A request of aggregation names one of {', '.join(_STEPS)}.")
    step, *given = said
    call.request = f"aggregation {step}"
    handler, count = _STEPS[step]
    if len(given) != count:
        raise MalformedRequestError(f"{step!r} of aggregation takes {count} value(s), not {len(given)}.")
    return answered(step, lambda: handler(node, call, *given))


def _begin(node: Node, call: Call, said: Any) -> list[Any]:
    invitation = invitation_of(said)
    terms = invitation.terms()
    if node.id not in invitation.aggregators:
        raise AggregationError(f"{node.id} is none of the aggregators of this round.")
    if getattr(node, "sessions", None) is None:
        raise UnsupportedOperationError(f"{node.id} takes part in no sessions, so it cannot aggregate.")
    size = 8 * terms.words * terms.limits.clients
    if size > node.limits.object_bytes:
        raise LimitExceededError(
            f"{terms.limits.clients} updates of {terms.words} words take {size} bytes; {node.id} takes "
            f"{node.limits.object_bytes} in one object. Declare fewer clients, or raise object_bytes."
        )
    inbox = Inbox(terms, invitation.aggregators.index(node.id))
    _ROUNDS.setdefault(node, {})[call.sender] = Collected(invitation, call.sender, inbox)
    return []


def _find(node: Node, round: Any) -> Collected:
    for found in _ROUNDS.get(node, {}).values():
        if found.invitation.round == round:
            return found
    raise UploadError(
        f"{node.id} was told of no such round: it is over, or aggregators and clients were told different things of it."
    )


def _upload(node: Node, call: Call, round: Any, upload: Any, seeded: Any, contents: Any) -> list[Any]:
    if not isinstance(upload, bytes) or not isinstance(seeded, bool) or not isinstance(contents, bytes):
        raise MalformedRequestError("An upload has an id, a mark and contents.")
    found = _find(node, round)
    if call.sender not in found.invitation.clients:
        raise UploadError(f"{call.sender} is not asked in this round.")
    if found.closed:
        raise UploadError(f"The upload of {call.sender} came after the set was settled; send one in the next round.")
    if call.sender in found.clients.values():
        raise DuplicateUploadError(f"{call.sender} has uploaded already; a client uploads once a round.")
    found.inbox.accept(Piece(round, upload, found.invitation.aggregators.index(node.id), seeded, contents))
    found.clients[upload] = call.sender
    return []


def _announce(node: Node, call: Call, round: Any) -> list[Any]:
    found = _of_peer(node, call, round)
    found.closed = True
    return list(found.inbox.announce())


def _digest(node: Node, call: Call, round: Any) -> list[Any]:
    found = _of_peer(node, call, round)
    if not found.digest:
        raise UploadSetError(f"{node.id} has not settled the set of uploads yet.")
    return [found.digest]


def _of_peer(node: Node, call: Call, round: Any) -> Collected:
    found = _find(node, round)
    if call.sender not in found.invitation.aggregators:
        raise UploadSetError(f"{call.sender} is none of the aggregators of this round.")
    return found


def _settle(node: Node, call: Call, round: Any) -> list[Any]:
    found = _of_driver(node, call, round)
    found.closed = True
    announced = [
        [*found.inbox.announce()] if name == node.id else ask(node.link(name), ANNOUNCE, round)
        for name in found.invitation.aggregators
    ]
    if not all(isinstance(upload, bytes) for ids in announced for upload in ids):
        raise UploadSetError("An aggregator announced something that is no upload. Repeat the round.")
    found.digest = found.inbox.settle(announced)
    return []


def _confirm(node: Node, call: Call, round: Any) -> list[Any]:
    found = _of_driver(node, call, round)
    digests = [
        found.digest if name == node.id else bytes(ask(node.link(name), DIGEST, round)[0])
        for name in found.invitation.aggregators
    ]
    found.inbox.confirm(digests)
    names = [found.clients[upload] for upload in found.inbox.order]
    held = found.inbox.shares()
    _deposit(node, found, held.updates, found.invitation.numbers[0])
    if len(held.weights):
        _deposit(node, found, held.weights, found.invitation.numbers[1])
    return names


def _of_driver(node: Node, call: Call, round: Any) -> Collected:
    found = _find(node, round)
    if call.sender != found.driver:
        raise UploadSetError(f"{call.sender} has not begun this round.")
    return found


def _deposit(node: Any, found: Collected, shares: Tensor, number: int) -> None:
    """Let the session take shares of all clients as one object; rows are clients."""
    shape = list(shares.shape)
    least = shape[0] if found.invitation.rule in COUNTED else 1
    policy = Policy(frozenset({found.driver}), None, least, found.invitation.dimension)
    contents: Any = frames.encode_field(shares, _RING)  # a view: large shares are not copied
    size = 8 * math.prod(shape)
    deposit = Deposit(
        found.invitation.session, number, shape, 0, size, contents, policy.to_bytes(), [found.invitation.round.hex()]
    )
    node.sessions.deposit(deposit, depositor(found.invitation.round))


_STEPS: dict[str, tuple[Any, int]] = {
    BEGIN: (_begin, 1),
    UPLOAD: (_upload, 4),
    ANNOUNCE: (_announce, 1),
    SETTLE: (_settle, 1),
    DIGEST: (_digest, 1),
    CONFIRM: (_confirm, 1),
}
"""What an aggregator does in each step, and how many values come with it."""
