"""Who may compute with an object, who may have its value, and how to ask its owner."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sharetorch.mpc.errors import GetNotPermittedError, ObjectNotFoundError
from sharetorch.remote.audit import Call
from sharetorch.remote.objects import Record

if TYPE_CHECKING:
    from sharetorch.remote.node import Node


@dataclass
class ReleaseRequest:
    """A request for a value that waits for the owner.

    Attributes:
        number: of the request.
        object: number of the object.
        user: who asks.
        reason: what they gave.
        state: "waiting", "approved" or "denied".
    """

    number: int
    object: int
    user: str
    reason: str
    record: Record
    state: str = "waiting"

    def approve(self) -> None:
        """Let this user have this object; the next ``get()`` gives it."""
        self.state = "approved"
        self.record.released |= {self.user}

    def deny(self) -> None:
        """Refuse; the user is told at the next ``get()``."""
        self.state = "denied"

    def __repr__(self) -> str:
        return f"<ReleaseRequest {self.number}: {self.user} asks for object {self.object}, {self.state}: {self.reason!r}>"


class Desk:
    """Where requests for values wait for the owner of a worker's objects."""

    def __init__(self) -> None:
        self.requests: list[ReleaseRequest] = []
        self._numbers = itertools.count(1)

    def ask(self, record: Record, user: str, reason: str) -> ReleaseRequest:
        """The request of this user for this object, made at the first call."""
        for request in self.requests:
            if request.record is record and request.user == user:
                return request
        made = ReleaseRequest(next(self._numbers), record.number, user, reason, record)
        self.requests.append(made)
        return made

    def waiting(self) -> list[ReleaseRequest]:
        """Requests nobody has decided."""
        return [request for request in self.requests if request.state == "waiting"]


def usable(node: Node, number: int, call: Call) -> Record:
    """An object the caller may compute with.

    Raises:
        ObjectNotFoundError: there is none of that number, or it is another client's at a private worker: the two are
            not told apart.
    """
    record = node.objects.get(number)
    if record is None or (node.private and record.owner not in (call.sender, node.id)):
        raise ObjectNotFoundError(
            f"{node.id} has no object {number}: it was deleted, fetched or moved, or it belongs to somebody else. Send "
            "the data again."
        )
    call.objects.append(number)
    return record


def may_read(record: Record, *names: str | None) -> bool:
    """Whether one of these may have the object's value."""
    return record.readers.include(*names) or any(name in record.released for name in names)


def readable(node: Node, number: int, call: Call, reason: str | None = None) -> Record:
    """An object whose value the caller may have.

    Raises:
        ObjectNotFoundError: as ``usable``.
        GetNotPermittedError: the policy does not allow it; with a reason, a request now waits for the owner.
    """
    record = usable(node, number, call)
    user = call.user or call.sender
    if may_read(record, user):
        return record
    refused = f"{user} may not have object {number} of {node.id}: its policy allows {_allowed(record)}."
    if reason is None:
        raise GetNotPermittedError(f"{refused} Ask the owner with get(user=..., reason=...).")
    request = node.desk.ask(record, user, reason)
    if request.state == "denied":
        raise GetNotPermittedError(f"{refused} The owner has denied request {request.number}.")
    raise GetNotPermittedError(f"{refused} Request {request.number} waits for the owner's approval; get() again after it.")


def _allowed(record: Record) -> str:
    names = record.readers.names
    return "nobody" if not names else f"{len(names)} user(s), not this one"
