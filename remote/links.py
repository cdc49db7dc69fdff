"""The ways from one node to another: bytes in, bytes out, in one process as over a wire."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Protocol

import msgspec
import torch

from sharetorch.mpc.errors import LimitExceededError, NetworkError, ProtocolError
from sharetorch.mpc.tensor.location import user_line
from sharetorch.remote import wire
from sharetorch.remote.forecasts import Forecasts, Key, same
from sharetorch.remote.messages import (
    Call,
    Evaluate,
    Execute,
    Failed,
    Fetch,
    Forget,
    Inspect,
    Lend,
    Listing,
    Made,
    Message,
    Reply,
    Search,
    Train,
)
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
_LOOKING = (Fetch, Inspect, Search, Listing)
"""Requests that change nothing, so they may be made before it is known how earlier ones ended."""
_WINDOW = 256
"""Operations that may be under way before the driver waits."""


class Operation(Protocol):
    """One operation on objects of a worker, as a link sees it; ``remote/requests.py`` has it."""

    packed: list[Any]
    named: dict[str, Any]
    numbers: set[int]

    def key(self) -> Key | None:
        """What the form of its results follows from; None if from values."""


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

    ahead = False
    """Whether operations are sent before earlier ones are answered."""

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
        return self._carried(message)

    def _carried(self, message: Message) -> Any:
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

    def operate(self, name: str, operation: Operation) -> Made:
        """Let the worker run an operation of its list."""
        gone = self._gone
        if gone:
            self._gone = []
        made: Made = self._carried(Execute(name, operation.packed, operation.named, gone))
        return made

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

    @property
    def ahead(self) -> bool:
        """Whether operations may be sent before earlier ones are answered."""

    def carry(self, request: bytes, timed: bool) -> bytes:
        """Send a request to the worker's node and wait for the reply, as long as is usual if ``timed``."""

    def carry_ahead(self, request: bytes) -> Future[bytes]:
        """Send a request to the worker's node; the reply comes later."""

    def await_reply(self, reply: Future[bytes]) -> bytes:
        """Wait for the reply to a request that was sent ahead."""

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


class _UnderWay(NamedTuple):
    """An operation whose answer is not here yet.

    Attributes:
        reply: the answer.
        expected: what it should be.
        what: name of the operation and the user's line.
    """

    reply: Future[bytes]
    expected: Made
    what: str


class NetworkLink:
    """Carries requests of ``owner`` to ``worker``, which is another process.

    Operations whose answer is known beforehand (``remote/forecasts.py``) are sent without waiting for it, if the owner
    is a driver. What fails among them is raised by the next request that waits, and by ``settle``; of several, the
    first: the others may follow from it.

    Deletions go with the next operation, before a request that could tell the difference, or by themselves within about
    a second. A request is sent once: if the connection breaks, it raises, and whether it was served is not known.

    Attributes:
        owner: who asks.
        worker: who is asked.
        sent: requests so far.
        waits: how often an answer was waited for so far.
        bytes_sent: of all requests.
        bytes_received: of all replies.
    """

    __slots__ = (
        "__weakref__", "_decoder", "_failure", "_forecasts", "_gone", "_settling", "_under_way", "bytes_received",
        "bytes_sent", "owner", "sent", "waits", "worker",
    )  # fmt: skip

    def __init__(self, owner: Node, worker: Carrier) -> None:
        self.owner = owner
        self.worker: Any = worker
        self.sent = self.waits = self.bytes_sent = self.bytes_received = 0
        self._gone: SimpleQueue[int] = SimpleQueue()  # may be filled while this thread is inside of it
        self._decoder = wire.Decoder(Reply, owner)
        self._forecasts = Forecasts()
        self._under_way: deque[_UnderWay] = deque()
        self._failure: Exception | None = None
        self._settling = threading.Lock()

    @property
    def ahead(self) -> bool:
        """Whether operations are sent before earlier ones are answered."""
        found: bool = self.worker.ahead
        return found

    def request(self, message: Message) -> Any:
        """Send a request and wait for the reply.

        Raises:
            ConnectionLostError: the connection broke.
            DeadlineExceededError: the worker lives but does not answer.
            LimitExceededError: the request is larger than the worker takes.
            Exception: what the worker's ``Failed`` names, for this request or for an operation that was sent ahead.
        """
        if type(message) not in _LOOKING:
            self.settle()
        if type(message) not in _CARRY_DELETIONS:
            self.flush()
        taken: list[int] = []
        if type(message) is Fetch and message.remove and (self._under_way or self._failure is not None):
            taken, message = message.numbers, msgspec.structs.replace(message, remove=False)
        data = self._written(message)
        self.waits += 1
        try:
            answer = self.worker.carry(data, type(message) not in _LONG)
        except NetworkError:
            self._give_up()
            raise
        self.settle()
        self.bytes_received += len(answer)
        reply = self._decoder.decode(answer)
        if type(reply) is Failed:
            raise error_of(reply, self.worker.id)
        for number in taken:
            self.forget(number)
        return reply

    def _written(self, message: Message) -> bytes:
        with bound_for(self.worker.id):
            data = wire.encode(message)
        if len(data) > self.worker.limit():
            raise LimitExceededError(
                f"A request of {len(data)} bytes; {self.worker.id} takes {self.worker.limit()}. Send less at once, or "
                "let its owner raise max_message_bytes."
            )
        self.sent += 1
        self.bytes_sent += len(data)
        return data

    def operate(self, name: str, operation: Operation) -> Made:
        """Let the worker run an operation of its list; without waiting, if the answer is known."""
        key = operation.key() if self.worker.ahead else None
        expected = None if key is None else self._forecasts.recall(key)
        if expected is not None:
            self._send_ahead(name, operation, expected)
            return expected
        made: Made = self.request(Execute(name, operation.packed, operation.named, self.pending()))
        if key is not None:
            self._forecasts.learn(key, made, operation.numbers)
        return made

    def _send_ahead(self, name: str, operation: Operation, expected: Made) -> None:
        numbers = [meta.number for meta in expected.results if meta is not None]
        data = self._written(Execute(name, operation.packed, operation.named, self.pending(), numbers))
        with self._settling:
            while self._under_way and (len(self._under_way) >= _WINDOW or self._under_way[0].reply.done()):
                self._take()
            try:
                reply = self.worker.carry_ahead(data)
            except NetworkError:
                self._give_up()
                raise
            self._under_way.append(_UnderWay(reply, expected, f"{name}{user_line()}"))

    def _give_up(self) -> None:
        """The connection broke, and whoever asks is told: of what was under way nothing more is to be heard."""
        self._under_way.clear()
        self._failure = None

    def _take(self) -> None:
        """Take the answer to the oldest operation under way."""
        reply, expected, what = self._under_way.popleft()
        if not reply.done():
            self.waits += 1
        try:
            data = self.worker.await_reply(reply)
            self.bytes_received += len(data)
            answer = self._decoder.decode(data)
            if type(answer) is Failed:
                raise error_of(answer, self.worker.id)
            if not same(answer, expected):
                raise ProtocolError(
                    f"{self.worker.id} gave other results than it did to the last operation like this: their shape or "
                    "type depends on something that is not public. Fetch the operands, or use a plan."
                )
        except Exception as error:
            if self._failure is None:
                error.add_note(f"in {what}, which was sent without waiting")
                self._failure = error

    def settle(self) -> None:
        """Wait until all operations that were sent ahead are done.

        Raises:
            Exception: what failed first among them.
        """
        if not self._under_way and self._failure is None:
            return
        with self._settling:
            if self._under_way and not self._under_way[-1].reply.done():
                self.waits += 1
                with suppress(Exception):  # raised again below, in order
                    self.worker.await_reply(self._under_way[-1].reply)
            while self._under_way:
                self._take()
            failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

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
