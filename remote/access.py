"""Who may compute with an object, who may have its value, and how to ask its owner."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sharetorch.mpc.errors import GetNotPermittedError, LimitExceededError, ObjectNotFoundError
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
        """Refuse, or take an approval back; the user is told at the next ``get()``."""
        if self.state == "approved":
            self.record.released -= {self.user}
        self.state = "denied"

    def __repr__(self) -> str:
        asked = f"{self.user} asks for object {self.object}"
        return f"<ReleaseRequest {self.number}: {asked}, {self.state}: {self.reason!r}>"


_WAITING = 1000
_REASON = 1000
"""Requests that may wait, and characters of a reason that are kept."""


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
        if len(self.requests) >= _WAITING:
            self._make_room()
        made = ReleaseRequest(next(self._numbers), record.number, user, reason[:_REASON], record)
        self.requests.append(made)
        return made

    def _make_room(self) -> None:
        """Let go of the oldest request that is decided.

        Raises:
            LimitExceededError: all wait.
        """
        decided = next((request for request in self.requests if request.state != "waiting"), None)
        if decided is None:
            raise LimitExceededError(f"{_WAITING} requests wait for the owner already. Ask again later.")
        self.requests.remove(decided)

    def find(self, number: int) -> ReleaseRequest:
        """The request of that number.

        Raises:
            ObjectNotFoundError: there is none.
        """
        for request in self.requests:
            if request.number == number:
                return request
        raise ObjectNotFoundError(f"There is no request {number}; list those that wait for their numbers.")

    def waiting(self) -> list[ReleaseRequest]:
        """Requests nobody has decided."""
        return [request for request in self.requests if request.state == "waiting"]


def reader(node: Node, call: Call) -> str:
    """In whose name a request reads: the user it names, else the sender."""
    return call.user or call.sender


def askers(node: Node, call: Call) -> tuple[str, ...]:
    """Who must all be allowed to read: to name a user gives no more rights, unless the sender may speak for users."""
    user = reader(node, call)
    return (user,) if user == call.sender or call.sender in node.spokesmen else (user, call.sender)


def usable(node: Node, number: int, call: Call) -> Record:
    """An object the caller may compute with.

    Raises:
        ObjectNotFoundError: there is none of that number, or it is another client's at a private worker: the two are
            not told apart.
    """
    record = node.objects.get(number)
    if record is None or not visible(node, record, call):
        raise ObjectNotFoundError(
            f"{node.id} has no object {number}: it was deleted, fetched or moved, or it belongs to somebody else. Send "
            "the data again."
        )
    call.objects.append(number)
    return record


def visible(node: Node, record: Record, call: Call) -> bool:
    """Whether the caller may know of an object: at a private worker its own, and data sets it may compute with."""
    if not node.private or record.owner == call.sender:
        return True
    known = node.shelf.get(record.number)
    return record.owner == node.id and (known is None or known.usable_by(call.sender))


def may_delete(node: Node, record: Record, call: Call) -> bool:
    """Whether the caller may delete, label or move an object away: at a private worker, only its owner."""
    return not node.private or record.owner == call.sender


def delete(node: Node, numbers: Iterable[int], call: Call) -> None:
    """Delete what is the caller's to delete; pass over the rest."""
    objects = node.objects
    for number in numbers:
        record = objects.get(number)
        if record is not None and (not node.private or may_delete(node, record, call)):
            del objects[number]


def require_writable(node: Node, record: Record, call: Call) -> None:
    """Refuse to change, at a private worker, memory that is not the caller's: not by a view of it either.

    Raises:
        GetNotPermittedError: it is somebody else's.
    """
    if node.private and record.readers.keeper != call.sender:
        raise GetNotPermittedError(
            f"Object {record.number} of {node.id} is not {call.sender}'s to change. Change a copy: x.clone()."
        )


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
    user = reader(node, call)
    if all(may_read(record, name) for name in askers(node, call)):
        return record
    refused = f"{user} may not have object {number} of {node.id}: its policy allows {_allowed(record)}."
    if reason is None:
        raise GetNotPermittedError(f"{refused} Ask the owner with get(user=..., reason=...).")
    request = node.desk.ask(record, user, reason)
    if request.state == "denied":
        raise GetNotPermittedError(f"{refused} The owner has denied request {request.number}.")
    raise GetNotPermittedError(
        f"{refused} Request {request.number} waits for the owner's approval; get() again after it."
    )


def _allowed(record: Record) -> str:
    names = record.readers.names
    return "nobody" if not names else f"{len(names)} user(s), not this one"
