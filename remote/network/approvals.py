"""Requests for approval over the network: a worker's owner lists who asks for values, and decides.

A family of requests of its own beside ``remote/messages.py``, for two reasons: only the owner may send one, whatever
other rights a sender has, and no connection but the owner's can even name them. Texts in a listing were written by
others; whoever shows them makes control characters visible first, as ``line`` does.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import msgspec

from sharetorch.mpc.errors import GetNotPermittedError, MalformedRequestError
from sharetorch.remote.access import ReleaseRequest
from sharetorch.remote.audit import Call
from sharetorch.remote.messages import Failed, Message
from sharetorch.remote.network.control import APPROVAL
from sharetorch.remote.node import Node, error_of, failure

_MOST_BYTES = 4096
"""Size of a request at most."""


class Waiting(Message, frozen=True, tag="waiting"):
    """List requests. Reply: ``Listed``.

    Attributes:
        decided: also those that are decided, as far as they are remembered.
    """

    decided: bool = False


class Decide(Message, frozen=True, tag="decide"):
    """Approve or deny a request. Reply: ``Listed``, with this one."""

    number: int
    approve: bool


class Asked(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A request for a value.

    Attributes:
        number: of the request.
        object: number of the object.
        user: who asks.
        reason: what they gave; a text of theirs.
        state: "waiting", "approved" or "denied".
        kind: what the object is.
        dtype: of its elements; empty if it is no tensor.
        shape: its sizes.
        tags: by which it is found.
    """

    number: int
    object: int
    user: str
    reason: str
    state: str
    kind: str
    dtype: str
    shape: list[int]
    tags: list[str]


class Listed(Message, frozen=True, tag="listed"):
    """Requests, oldest first."""

    requests: list[Asked]


_requests = msgspec.msgpack.Decoder(Waiting | Decide)
_replies = msgspec.msgpack.Decoder(Listed | Failed)


def serve(node: Node, data: bytes, sender: str, owners: Collection[str] = ()) -> bytes:
    """Serve one request at the worker. It never raises; everything is audited.

    Args:
        node: whose desk it is.
        data: a message of this module.
        sender: id of who sent it, as the connection knows it.
        owners: ids of those who decide besides the worker itself.

    Returns:
        The bytes of a reply.
    """
    call = Call(sender)
    try:
        reply: Message = _serve(node, data, call, owners)
        node.audit.note(call, "done")
    except Exception as error:
        node.audit.note(call, type(error).__name__)
        reply = failure(error)
    return msgspec.msgpack.encode(reply)


def _serve(node: Node, data: bytes, call: Call, owners: Collection[str]) -> Listed:
    call.request = "approvals"
    if call.sender != node.id and call.sender not in owners:
        raise GetNotPermittedError(
            f"{call.sender} may not see or decide what waits for the owner of {node.id}. Connect as {node.id}, or let "
            "its owner add you to owners in its settings."
        )
    if len(data) > _MOST_BYTES:
        raise MalformedRequestError(f"A request of {len(data)} bytes; one to the desk has up to {_MOST_BYTES}.")
    try:
        request = _requests.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedRequestError(f"Bytes that are no request to the desk: {error}") from error
    if isinstance(request, Waiting):
        call.request = "waiting"
        desk = node.desk
        return Listed([_asked(each) for each in (desk.requests if request.decided else desk.waiting())])
    call.request = f"{'approve' if request.approve else 'deny'} {request.number}"
    node.audit.require_writable()
    found = node.desk.find(request.number)
    call.objects.append(found.object)
    call.user = found.user
    if request.approve:
        found.approve()
    else:
        found.deny()
    return Listed([_asked(found)])


def _asked(request: ReleaseRequest) -> Asked:
    meta = request.record.meta()
    return Asked(
        request.number,
        request.object,
        request.user,
        request.reason,
        request.state,
        meta.kind,
        meta.dtype,
        list(meta.shape),
        list(meta.tags),
    )


class Channel(Protocol):
    """What is needed of a control channel."""

    def request(self, kind: int, payload: bytes, timeout: float | None = None) -> bytes:
        """Send an item and wait for the reply."""


def waiting(control: Channel, decided: bool = False, worker: str = "?") -> list[Asked]:
    """Requests that wait at a worker, asked for by its owner.

    Args:
        control: the connection to the worker.
        decided: also those that are decided.
        worker: id of the worker, for messages.

    Raises:
        GetNotPermittedError: the caller is not the worker's owner.
    """
    return _ask(control, Waiting(decided), worker)


def decide(control: Channel, number: int, approve: bool, worker: str = "?") -> Asked:
    """Approve or deny a request; to deny takes an approval back, except for what was fetched already.

    Args:
        control: the connection to the worker.
        number: of the request.
        approve: whether the user may have the value.
        worker: id of the worker, for messages.

    Returns:
        The request as it is now.

    Raises:
        GetNotPermittedError: the caller is not the worker's owner.
        ObjectNotFoundError: there is no request of that number.
    """
    (asked,) = _ask(control, Decide(number, approve), worker)
    return asked


def _ask(control: Channel, message: Message, worker: str) -> list[Asked]:
    try:
        reply = _replies.decode(control.request(APPROVAL, msgspec.msgpack.encode(message)))
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedRequestError(f"{worker} answered with bytes that are no reply of its desk.") from error
    if isinstance(reply, Failed):
        raise error_of(reply, worker)
    found: list[Asked] = reply.requests
    return found


def line(asked: Asked) -> str:
    """A request as one line for people; texts of others are shown without control characters."""
    what = f"{asked.kind} {asked.object}"
    if asked.dtype:
        what += f" ({asked.dtype}, {'x'.join(map(str, asked.shape)) or 'one number'})"
    tags = f" {' '.join(asked.tags)}" if asked.tags else ""
    text = f"{asked.number}  {asked.state}  {asked.user} asks for {what}{tags}: {asked.reason}"
    return "".join(sign if sign.isprintable() else "?" for sign in text)
