"""The ways from one node to another: bytes in, bytes out, in one process as over a wire."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import torch

from sharetorch.mpc.errors import LimitExceededError
from sharetorch.remote import wire
from sharetorch.remote.messages import Call, Evaluate, Execute, Failed, Forget, Lend, Message, Reply, Train
from sharetorch.remote.node import Node, error_of

_FORGOTTEN_AT_ONCE = 16
"""Deletions that travel in one message: a message for each would cost a fifth of the time of an operation."""

_AFRESH = (torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set())
"""How torch dispatches outside of any operation. A request is sent from inside one, where torch passes over the kernels
that look at a tensor's conjugate and negative bits; a worker of this process must compute as one of another process
does."""


_CARRY_DELETIONS = (Execute, Call)
"""Requests that take deletions along."""
_LONG = (Train, Evaluate)
"""Requests that may take as long as they like; the other end's signs of life are enough."""


class MemoryLink:
    """Carries requests of ``owner`` to ``worker``, which is in the same process.

    A request waits for the ``message_pending_time``, in seconds, of both, where they have one.

    Deletions go with the next operation, or by themselves if there are many or a request could tell the difference.

    Attributes:
        owner: who asks.
        worker: who is asked.
        sent: requests so far.
        bytes_sent: of all requests.
        bytes_received: of all replies.
    """

    __slots__ = ("__weakref__", "_decoder", "_gone", "bytes_received", "bytes_sent", "owner", "sent", "worker")

    def __init__(self, owner: Node, worker: Node) -> None:
        self.owner = owner
        self.worker = worker
        self.sent = self.bytes_sent = self.bytes_received = 0
        self._gone: list[int] = []
        self._decoder = wire.Decoder(Reply, owner)

    def request(self, message: Message) -> Any:
        """Send a request and wait for the reply.

        Raises:
            Exception: what the worker's ``Failed`` names.
        """
        if self._gone and type(message) not in _CARRY_DELETIONS:
            self.flush()
        data = wire.encode(message)
        if self.worker.message_pending_time or self.owner.message_pending_time:
            self._wait()
        with torch._C._ForceDispatchKeyGuard(*_AFRESH):
            answer = self.worker.receive(data, self.owner.id)
        self.sent += 1
        self.bytes_sent += len(data)
        self.bytes_received += len(answer)
        reply = self._decoder.decode(answer)
        if type(reply) is Failed:
            raise error_of(reply, self.worker.id)
        return reply

    def forget(self, number: int) -> None:
        """Let the worker delete an object, soon."""
        self._gone.append(number)
        if len(self._gone) >= _FORGOTTEN_AT_ONCE:
            self.flush()

    def pending(self) -> list[int]:
        """Numbers of what waits to be deleted; whoever asks sends them."""
        numbers, self._gone = self._gone, []
        return numbers

    def flush(self) -> bool:
        """Let the worker delete what waits to be deleted; tells whether anything did."""
        if not self._gone:
            return False
        self.request(Forget(self.pending()))
        return True

    def lend(self, number: int) -> int:
        """In one process a claim travels with its pointer: the object keeps its number."""
        return number

    def __del__(self) -> None:
        try:
            self.flush()
        except Exception:  # noqa: S110 - the interpreter may be going down
            pass

    def _wait(self) -> None:
        time.sleep(max(0.0, self.owner.message_pending_time + self.worker.message_pending_time))


class Carrier(Protocol):
    """A worker of another process, as a link uses it."""

    id: str

    def carry(self, request: bytes, timed: bool) -> bytes:
        """Send a request to the worker's node and wait for the reply, as long as is usual if ``timed``."""

    def carry_soon(self, request: bytes) -> None:
        """Send a request that nobody waits for; without waiting."""

    def reachable(self) -> bool:
        """Whether something can be sent just now."""

    def limit(self) -> int:
        """Bytes the worker takes in one request."""


_bound = threading.local()


@contextmanager
def bound_for(name: str) -> Iterator[None]:
    """While this thread writes a message: who is to receive it, and with it the pointers in it."""
    before = getattr(_bound, "name", None)
    _bound.name = name
    try:
        yield
    finally:
        _bound.name = before


class NetworkLink:
    """Carries requests of ``owner`` to ``worker``, which is another process.

    Deletions go with the next operation, before a request that could tell the difference, or by themselves within about
    a second. A request is sent once: if the connection breaks, it raises, and whether it was served is not known.

    Attributes:
        owner: who asks.
        worker: who is asked.
        sent: requests so far.
        bytes_sent: of all requests.
        bytes_received: of all replies.
    """

    __slots__ = ("__weakref__", "_decoder", "_gone", "bytes_received", "bytes_sent", "owner", "sent", "worker")

    def __init__(self, owner: Node, worker: Carrier) -> None:
        self.owner = owner
        self.worker: Any = worker
        self.sent = self.bytes_sent = self.bytes_received = 0
        self._gone: SimpleQueue[int] = SimpleQueue()  # may be filled while this thread is inside of it
        self._decoder = wire.Decoder(Reply, owner)

    def request(self, message: Message) -> Any:
        """Send a request and wait for the reply.

        Raises:
            ConnectionLostError: the connection broke.
            DeadlineExceededError: the worker lives but does not answer.
            LimitExceededError: the request is larger than the worker takes.
            Exception: what the worker's ``Failed`` names.
        """
        if type(message) not in _CARRY_DELETIONS:
            self.flush()
        with bound_for(self.worker.id):
            data = wire.encode(message)
        if len(data) > self.worker.limit():
            raise LimitExceededError(
                f"A request of {len(data)} bytes; {self.worker.id} takes {self.worker.limit()}. Send less at once, or "
                "let its owner raise max_message_bytes."
            )
        self.sent += 1
        self.bytes_sent += len(data)
        answer = self.worker.carry(data, type(message) not in _LONG)
        self.bytes_received += len(answer)
        reply = self._decoder.decode(answer)
        if type(reply) is Failed:
            raise error_of(reply, self.worker.id)
        return reply

    def forget(self, number: int) -> None:
        """Let the worker delete an object, soon; never waits, for it is called whenever Python drops a pointer."""
        self._gone.put(number)

    def pending(self) -> list[int]:
        """Numbers of what waits to be deleted; whoever asks sends them."""
        numbers = []
        while not self._gone.empty():
            try:
                numbers.append(self._gone.get_nowait())
            except Empty:
                break
        return numbers

    def flush(self) -> bool:
        """Let the worker delete what waits to be deleted; tells whether anything did."""
        if self._gone.empty() or not self.worker.reachable():
            return False
        self.worker.carry_soon(wire.encode(Forget(self.pending())))
        return True

    def lend(self, number: int) -> int:
        """Let whoever the message that is being written goes to use an object; gives the number it has for them."""
        name = getattr(_bound, "name", None)
        if name is None:
            return number
        (meta,) = self.request(Lend(number, name)).objects
        found: int = meta.number
        return found
