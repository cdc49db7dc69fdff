"""A node: a store of objects, and the one door through which everybody else reaches them.

``receive`` takes the bytes of a request and gives the bytes of a reply. It never raises: what fails is answered by
``Failed`` with the name of an error, and written to the audit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

from torch import Tensor

from sharetorch.mpc import errors
from sharetorch.mpc.errors import (
    LimitExceededError,
    MalformedRequestError,
    ObjectNotFoundError,
    RemoteOperationError,
    ShareTorchError,
)
from sharetorch.mpc.policy import Policy
from sharetorch.mpc.session import new_id
from sharetorch.remote import wire
from sharetorch.remote.access import Desk
from sharetorch.remote.audit import Audit, Call
from sharetorch.remote.messages import Failed, Made, Message, Meta, Request
from sharetorch.remote.objects import Objects, Readers, Record, storage_of

R = TypeVar("R", bound=Message)
Handler = Callable[["Node", Any, Call], Message]

HANDLERS: dict[type[Message], Handler] = {}
"""What a node does on each kind of request; filled by the modules of this package."""

_NAMES: dict[type[Message], str] = {}


def handles(kind: type[R]) -> Callable[[Callable[[Any, R, Call], Message]], Callable[[Any, R, Call], Message]]:
    """Register the handler of a kind of request."""

    def register(handler: Callable[[Any, R, Call], Message]) -> Callable[[Any, R, Call], Message]:
        HANDLERS[kind], _NAMES[kind] = handler, kind.__name__.lower()
        return handler

    return register


class Shelved(Protocol):
    """What a node knows of an object that is a part of its own data sets."""

    @property
    def dataset(self) -> str:
        """Name of the data set."""

    @property
    def policy(self) -> Policy:
        """To whom results are released."""

    @property
    def parties(self) -> frozenset[str]:
        """Ids of workers that may hold all its shares among them."""

    def usable_by(self, name: str) -> bool:
        """Whether somebody may compute with it."""


class Link(Protocol):
    """A way to another node."""

    owner: Any
    worker: Any

    def request(self, message: Message) -> Any:
        """Send a request and wait for the reply; raises the error that a ``Failed`` names."""

    def pending(self) -> list[int]:
        """Numbers of what waits to be deleted; whoever asks sends them."""

    def forget(self, number: int) -> None:
        """Let the other node delete an object, before any request that could tell the difference."""

    def lend(self, number: int) -> int:
        """Let whoever a pointer is on its way to use the object, by the number that is given; perhaps another one."""


@dataclass(frozen=True)
class Limits:
    """What a node takes on.

    Attributes:
        object_bytes: of one object.
        store_bytes: of all objects.
        message_bytes: of one message.
        objects: how many.
    """

    object_bytes: int = 4 << 30
    store_bytes: int = 64 << 30
    message_bytes: int = 4 << 30
    objects: int = 10_000_000


class Node:
    """Whoever holds objects and serves requests.

    Args:
        id: its name.
        private: whether only the owner of an object may have it back or delete it, unless others are allowed.
        limits: what it takes on.

    Attributes:
        objects: what it holds, by number.
        store: shares it holds as a member of sessions; no request of ``messages`` reaches them.
        datasets: data sets by key.
        desk: requests that wait for the owner.
        audit: the requests it was sent.
        spokesmen: senders whose word counts when a request names a user; by itself only the driver of this process.
        shelf: what is known of the node's own data sets, by number; see ``remote/network/sources.py``.
        owners: ids of those who decide about requests besides the node itself.
        couriers: senders who may put objects here that are somebody else's; None is everybody.
    """

    couriers: frozenset[str] | None = None
    owners: frozenset[str] = frozenset()
    shelf: Mapping[int, Shelved] = MappingProxyType({})

    message_pending_time: float = 0
    """Seconds by which requests from and to this node are delayed."""

    def __init__(self, id: str, private: bool = False, limits: Limits | None = None) -> None:
        self.id = id
        self.private = private
        self.limits = limits or Limits()
        self.objects = Objects()
        self.store: MutableMapping[int, Any] = {}
        self.datasets: dict[str, Any] = {}
        self.desk = Desk()
        self.audit = Audit()
        self.spokesmen = frozenset({"me"})
        self._links: dict[str, Link] = {}
        self._decoder = wire.Decoder(Request, self)

    def link(self, name: str) -> Link:
        """The way to another node.

        Raises:
            WorkerNotFoundException: none of that name is known.
        """
        raise errors.WorkerNotFoundException(f"{self.id} knows no worker {name!r}.")

    def receive(self, data: bytes, sender: str) -> bytes:
        """Serve one request.

        Args:
            data: a message of ``messages.Request``.
            sender: id of who sent it, as the connection knows it.

        Returns:
            A message of ``messages.Reply``.
        """
        call = Call(sender)
        try:
            self.audit.require_writable()
            if len(data) > self.limits.message_bytes:
                raise self._too_long(data)
            request = self._decoder.decode(data)
            kind = type(request)
            call.request = _NAMES[kind]
            reply = wire.encode(HANDLERS[kind](self, request, call))
            self.audit.note(call, "done")
        except Exception as error:
            self.audit.note(call, type(error).__name__)
            reply = wire.encode(failure(error))
        return reply

    def _too_long(self, data: bytes) -> LimitExceededError:
        return LimitExceededError(f"A message of {len(data)} bytes; {self.id} takes {self.limits.message_bytes}.")

    def keep(self, value: Any, owner: str, readers: Readers | None = None, number: int | None = None) -> Record:
        """Hold a value.

        Args:
            value: what to hold.
            owner: id of who puts it there.
            readers: who may have it; if not given everybody, or at a private node the owner.
            number: of the object; a free one if not given.

        Raises:
            ObjectNotFoundError: the number is taken.
            LimitExceededError: the node holds too many objects.
        """
        if number is None:
            number = new_id()
        objects, limits = self.objects, self.limits
        if not 0 <= number < 1 << 63:
            raise MalformedRequestError(f"{number} is no number of an object; they are from 0 to 2**63 - 1.")
        if number in objects:
            raise ObjectNotFoundError(f"{self.id} holds an object {number} already; choose another number.")
        if len(objects) >= limits.objects:
            raise LimitExceededError(f"{self.id} holds {len(objects)} objects, its limit. Delete some first.")
        record = Record(number, value, owner, readers or Readers(frozenset({owner}) if self.private else None))
        objects[number] = record
        if objects.bytes > limits.store_bytes:
            del objects[number]
            raise LimitExceededError(
                f"{self.id} holds {self.objects.bytes} bytes, and no further object fits. Delete some "
                "first."
            )
        return record

    def load(
        self, value: Any, *, number: int | None = None, tags: tuple[str, ...] = (), description: str | None = None
    ) -> Record:
        """Hold something of the node's own; a view of larger memory is copied, so that the rest stays out of reach."""
        if isinstance(value, Tensor) and storage_of(value) is not None:
            value = value.detach()
            if value.untyped_storage().nbytes() != value.numel() * value.element_size():
                value = value.clone()
        record = self.keep(value, self.id, number=number)
        record.tags, record.description = tuple(tags), description
        return record

    def __repr__(self) -> str:
        return f"<{type(self).__name__} id:{self.id} #objects:{len(self.objects) + len(self.store)}>"


PLAIN_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        RuntimeError,
        TypeError,
        ValueError,
        IndexError,
        KeyError,
        NotImplementedError,
        ZeroDivisionError,
        OverflowError,
        ArithmeticError,
    )
}
"""Errors of torch that arrive as what they are, so that a program sees the same as with local tensors."""

_OUR_ERRORS: dict[str, type[Exception]] = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ShareTorchError)
}


def failure(error: Exception) -> Failed:
    """The reply for an error; what is neither torch's nor ours is told by its name alone."""
    name = type(error).__name__
    if name in _OUR_ERRORS or name in PLAIN_ERRORS:
        return Failed(name, str(error))
    plain = next((base.__name__ for base in type(error).__mro__ if base.__name__ in PLAIN_ERRORS), None)
    if plain is not None:
        return Failed(plain, str(error))
    return Failed(RemoteOperationError.__name__, f"The request failed with a {name}.")


def error_of(failed: Failed, worker: str) -> Exception:
    """The error a reply names."""
    kind = _OUR_ERRORS.get(failed.kind) or PLAIN_ERRORS.get(failed.kind, RemoteOperationError)
    error = kind(failed.text)
    error.add_note(f"raised at worker {worker}")
    return error


def made(*records: Record) -> Made:
    """The reply that describes new objects."""
    metas: list[Meta | None] = [record.meta() for record in records]
    return Made(metas, "one" if len(metas) == 1 else "several")
