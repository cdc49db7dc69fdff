"""The control channel: requests, replies and notices between a driver and a worker, or between two workers.

An item is ``u32 length, u8 kind, u64 number`` in big-endian order, then ``length`` bytes. A message of the websocket
holds one or several items. Number 0 wants no reply; the reply to another has the same number. An item of more than
``PART_BYTES`` travels as parts that follow one another, each ``u8 kind, u64 total`` and a piece: a part says what the
whole is, so that its size is refused before any memory is given to it.

kind  item
1     reply
2     part of a larger item
3     request to a worker's node, served in the order of the channel
4     item of a session
5     hello, the first of each end
6     notice of a worker to whoever is connected
7     request to a worker's node by another one that is serving a request itself: served beside the others
8     refusal of a request: name of an error, a zero byte, its text
9     request of a worker's owner about those who wait for approval (``approvals.py``)

Everything here belongs to one connection: a reply can reach nobody else, and what is wrong ends this connection alone.
"""

from __future__ import annotations

import itertools
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import NamedTuple, cast

from sharetorch.mpc.errors import ConnectionLostError, DeadlineExceededError, FrameError, LimitExceededError
from sharetorch.mpc.network.identity import Peer
from sharetorch.remote.messages import Failed
from sharetorch.remote.network.settings import NetworkSettings
from sharetorch.remote.network.websocket import Websocket
from sharetorch.remote.node import error_of

REPLY, PART, NODE, SESSION, HELLO, NOTICE, NESTED, REFUSAL, APPROVAL = range(1, 10)
"""Kinds of items."""

PART_BYTES = 4 << 20

_GATHER_SECONDS = 0.0005
"""How long what nobody waits for may wait for more of its kind: a message for each command would cost more than it."""

_PARKED_SECONDS = 0.1
"""How long the reading thread stays away after somebody has read in its place."""

_HEAD = struct.Struct(">IBQ")
_PART = struct.Struct(">BQ")
_KINDS = frozenset(range(1, 10))

Serve = Callable[["Control", int, int, bytes], None]
"""What is done with an item that is no reply, given its kind, number and payload; must not wait for long."""


class Control:
    """One end of a control channel.

    Args:
        websocket: opened.
        peer: whom the connection belongs to.
        settings: deadlines and limits.
        serve: what is done with items that are no replies; called by the thread that reads.

    Attributes:
        peer: whom the connection belongs to.
        address: where the other end is, as it says in its hello; for workers.
        closed: whether it has ended.
        error: why it ended.
        on_close: called once with the reason when it ends, by the thread that reads.
        on_notice: called with each notice, by the thread that reads.
        idle: called about once a second by the thread that reads, or after each message.
        sent: items sent so far.
        received: items received so far.
    """

    def __init__(self, websocket: Websocket, peer: Peer, settings: NetworkSettings, serve: Serve) -> None:
        self.peer = peer
        self.closed = False
        self.error: Exception | None = None
        self.on_close: list[Callable[[Exception], None]] = []
        self.on_notice: list[Callable[[bytes], None]] = []
        self.idle: list[Callable[[], None]] = []
        self.sent = self.received = 0
        self._websocket = websocket
        self._settings = settings
        self._serve = serve
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[bytes]] = {}
        self._queue: deque[_Piece] = deque()
        self._queued = 0
        guard = threading.Lock()  # of the queue
        self._room = threading.Condition(guard)  # for those who have more to send than the queue takes
        self._due = threading.Condition(guard)  # for the thread that sends
        self._sending = threading.Lock()  # held by whoever writes to the websocket
        self._reading = threading.Lock()  # held by whoever reads
        self._parked_until = 0.0
        self._wake = threading.Event()
        self._attended = False  # whether notices may come at any time
        self._heard = time.monotonic()
        self._whole: _Whole | None = None
        self._answers = False
        self._last_sent = time.monotonic()
        self._ending = threading.Lock()
        self._threads = [
            threading.Thread(target=run, name=f"{name} {peer.id}", daemon=True)
            for run, name in ((self._read, "control from"), (self._send_waiting, "control to"))
        ]

    def start(self) -> Control:
        """Begin to read and to send."""
        for thread in self._threads:
            thread.start()
        return self

    # ---------------------------------------------------------------------------------------------------- requests

    def submit(self, kind: int, payload: bytes) -> Future[bytes]:
        """Send a request at once; the reply comes later.

        Raises:
            ConnectionLostError: the connection has ended.
        """
        if kind == SESSION and not self._attended:
            self._attended = True
            self._unpark()
        number = next(self._numbers)
        future: Future[bytes] = Future()
        future.number = number  # type: ignore[attr-defined]
        self._waiting[number] = future
        try:
            self._enqueue(kind, number, payload)
            self.flush()
        except ConnectionLostError:
            self._waiting.pop(number, None)
            raise
        if self.closed:  # it ended between: nobody else may have seen this request
            self._fail_waiting()
        return future

    def request(self, kind: int, payload: bytes, timeout: float | None = None) -> bytes:
        """Send a request and wait for the reply.

        Raises:
            ConnectionLostError: the connection ended; whether the request was served is not known.
            DeadlineExceededError: no reply came in time.
            Exception: what the other end's refusal names.
        """
        self._park(kind)
        return self.wait(self.submit(kind, payload), timeout)

    def wait(self, future: Future[bytes], timeout: float | None = None) -> bytes:
        """Wait for the reply to a request that was submitted.

        Raises:
            Exception: as ``request``.
        """
        self._lead(future, timeout)
        try:
            return future.result(timeout)
        except FutureTimeout:
            if future.done():
                return future.result()
            self._waiting.pop(future.number, None)  # type: ignore[attr-defined]
            raise DeadlineExceededError(
                f"{self.peer.id} is alive but did not answer within {timeout:g} s. Whether the request is served is "
                "not known."
            ) from None

    def _park(self, kind: int) -> None:
        """Let the reading thread stay away for a while: whoever sends one request after the other reads by itself."""
        if kind == SESSION:
            self._attended = True
        if not self._attended:
            self._parked_until = time.monotonic() + _PARKED_SECONDS

    def _lead(self, future: Future[bytes], timeout: float | None) -> None:
        """Read in place of the reading thread, if it stays away, until the reply is there."""
        if self._attended or not self._reading.acquire(blocking=False):
            return
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while not future.done() and not self.closed and (deadline is None or time.monotonic() < deadline):
                self._parked_until = time.monotonic() + _PARKED_SECONDS
                self._read_once(1.0 if deadline is None else min(1.0, deadline - time.monotonic()))
        except Exception as error:
            self._end(error)
        finally:
            self._reading.release()
        if self._waiting or self.closed:  # others wait for their replies
            self._unpark()

    def _unpark(self) -> None:
        self._parked_until = 0.0
        self._wake.set()

    def post(self, kind: int, payload: bytes) -> None:
        """Send an item that wants no reply, soon; waits while too much is waiting to be sent.

        Raises:
            ConnectionLostError: the connection has ended.
        """
        if kind == SESSION and not self._attended:
            self._attended = True
            self._unpark()
        self._enqueue(kind, 0, payload)

    def reply(self, number: int, payload: bytes) -> None:
        """Answer a request; one that wants no reply, or whose connection has ended, is passed over."""
        if number:
            self._answer(REPLY, number, payload)

    def refuse(self, number: int, error: Exception) -> None:
        """Answer a request by an error."""
        if number:
            self._answer(REFUSAL, number, f"{type(error).__name__}\0{error}".encode())

    def _answer(self, kind: int, number: int, payload: bytes) -> None:
        try:
            self._enqueue(kind, number, payload)
            self.flush()
        except ConnectionLostError:
            pass

    # ----------------------------------------------------------------------------------------------------- sending

    def _enqueue(self, kind: int, number: int, payload: bytes) -> None:
        items = _items(kind, number, payload)
        size = sum(item.size for item in items)
        with self._room:
            while self._queued and self._queued + size > self._settings.queue_bytes and not self.closed:
                self._room.wait(1.0)
            self._require_open()
            self._queue.extend(items)
            self._queued += size
            self.sent += 1
            if not number:
                self._due.notify()

    def flush(self) -> None:
        """Send what waits, by this thread.

        Raises:
            ConnectionLostError: the connection has ended.
        """
        with self._sending:
            while (message := self._next()) is not None:
                try:
                    self._websocket.send(message)
                except (ConnectionLostError, ssl.SSLError) as error:
                    self._end(error)
                    self._require_open()
                self._last_sent = time.monotonic()

    def _next(self) -> bytes | None:
        """As many waiting items as fit into one message."""
        with self._room:
            if not self._queue:
                return None
            pieces = [self._queue.popleft()]
            size = pieces[0].size
            while self._queue and size + self._queue[0].size <= PART_BYTES:
                pieces.append(self._queue.popleft())
                size += pieces[-1].size
            self._queued -= size
            self._room.notify_all()
        return b"".join(part for piece in pieces for part in piece)

    def _send_waiting(self) -> None:
        """The thread that sends what nobody waits for, and signs of life."""
        beat = self._settings.heartbeat_seconds
        while not self.closed:
            with self._due:
                if not self._queue and not self._answers and not self.closed:
                    self._due.wait(max(0.05, self._last_sent + beat - time.monotonic()))
                answers, self._answers = self._answers, False
            try:
                if self._queue and not answers:
                    time.sleep(_GATHER_SECONDS)
                self.flush()
                if answers:
                    with self._sending:
                        self._websocket.answer()
                if time.monotonic() - self._last_sent >= beat:
                    self._beat()
            except (ConnectionLostError, ssl.SSLError) as error:
                self._end(error)

    def _beat(self) -> None:
        with self._sending:
            self._websocket.ping()
            self._last_sent = time.monotonic()

    # --------------------------------------------------------------------------------------------------- receiving

    def _read(self) -> None:
        """The thread that reads, while nobody else does."""
        try:
            while not self.closed:
                while not self.closed and (left := self._parked_until - time.monotonic()) > 0:
                    self._wake.wait(left)
                    self._wake.clear()
                with self._reading:
                    if not self.closed:
                        self._read_once(1.0)
                for run in self.idle:
                    run()
        except Exception as error:
            self._end(error)
        finally:
            self._finish()

    def _read_once(self, seconds: float) -> None:
        """Take what comes within so long, if anything does; for whoever reads.

        Raises:
            ConnectionLostError: the connection broke, or the other end is silent for too long.
            FrameError: what came is malformed.
        """
        try:
            messages, answers = self._websocket.receive(max(0.0, seconds))
        except DeadlineExceededError:
            if time.monotonic() - self._heard < self._settings.silence_seconds:
                return
            raise ConnectionLostError(
                f"{self.peer.id} went silent: nothing came for {self._settings.silence_seconds:g} s, not even a "
                "sign of life. It hangs, or the network between is broken."
            ) from None
        except ssl.SSLError as error:
            raise ConnectionLostError(f"The connection with {self.peer.id} broke ({error.reason}).") from error
        self._heard = time.monotonic()
        if answers:
            with self._due:
                self._answers = True
                self._due.notify()
        for message in messages:
            self._take(message)
        self._heard = time.monotonic()

    def _take(self, message: bytes) -> None:
        """Take a message apart.

        Raises:
            FrameError: it is malformed.
        """
        view, place = memoryview(message), 0
        if not message:
            raise FrameError("An empty message.")
        while place < len(view):
            if len(view) - place < _HEAD.size:
                raise FrameError("A message ends within the head of an item.")
            length, kind, number = _HEAD.unpack_from(view, place)
            place += _HEAD.size
            if kind not in _KINDS or length > len(view) - place:
                raise FrameError(f"An item of kind {kind} and {length} bytes, of which {len(view) - place} are there.")
            piece = view[place : place + length]
            place += length
            if kind == PART:
                self._take_part(number, piece)
            elif self._whole is not None:
                raise FrameError("An item stands between the parts of a larger one.")
            else:
                self._deliver(kind, number, bytes(piece))

    def _take_part(self, number: int, piece: memoryview) -> None:
        if len(piece) <= _PART.size:
            raise FrameError("A part without contents.")
        kind, total = _PART.unpack_from(piece)
        if self._whole is None:
            if kind == PART or kind not in _KINDS or total <= PART_BYTES:
                raise FrameError(f"Parts of an item of kind {kind} and {total} bytes.")
            if total > self._settings.max_message_bytes:
                raise LimitExceededError(
                    f"{self.peer.id} announces an item of {total} bytes; at most {self._settings.max_message_bytes} "
                    "are taken. Send less at once, or raise max_message_bytes."
                )
            self._whole = _Whole(kind, number, total)
        self._whole.add(kind, number, total, piece[_PART.size :])
        if self._whole.complete:
            whole, self._whole = self._whole, None
            self._deliver(whole.kind, whole.number, cast(bytes, whole.data))  # which is read, and not copied

    def _deliver(self, kind: int, number: int, payload: bytes) -> None:
        self.received += 1
        if kind == REPLY or kind == REFUSAL:
            future = self._waiting.pop(number, None)
            if future is None:  # its request gave up waiting
                if not 0 < number:
                    raise FrameError("A reply without a number.")
            elif kind == REPLY:
                future.set_result(payload)
            else:
                name, _, text = payload.decode("utf-8", "replace").partition("\0")
                future.set_exception(error_of(Failed(name, text), self.peer.id))
        else:
            self._serve(self, kind, number, payload)

    # ------------------------------------------------------------------------------------------------------ ending

    def _require_open(self) -> None:
        if self.closed:
            raise self.lost()

    def lost(self) -> ConnectionLostError:
        """The error for whoever uses a connection that has ended."""
        return ConnectionLostError(
            f"The connection with {self.peer.id} has ended: {self.error} What was under way may or may not have been "
            "done; it is not sent again. Connect again with worker.connect(): objects there are kept."
        )

    def close(self, reason: str = "") -> None:
        """End the connection, in order."""
        if not self.closed and self._sending.acquire(timeout=1.0):
            try:
                self._websocket.close(reason)
            except (ConnectionLostError, ssl.SSLError):
                pass
            finally:
                self._sending.release()
        self._end(ConnectionLostError("It was closed here."))

    def abandon(self) -> None:
        """End the connection at once, without a word and without waiting; safe wherever Python drops an object."""
        self._websocket.stop()

    def _end(self, error: Exception) -> None:
        """Note the first reason, and let the reading thread finish."""
        with self._ending:
            if self.closed:
                return
            self.error = error
            self.closed = True
        if isinstance(error, (FrameError, LimitExceededError)) and self._sending.acquire(timeout=1.0):
            try:
                self._websocket.close(f"{type(error).__name__}: {error}", broken=True)
            except (ConnectionLostError, ssl.SSLError):
                pass
            finally:
                self._sending.release()
        self._websocket.stop()
        if self._threads[0].ident is None:  # nobody reads, so nobody else gives it back
            self._websocket.release()
        self._unpark()
        with self._room:
            self._room.notify_all()
            self._due.notify_all()

    def _finish(self) -> None:
        self._end(ConnectionLostError("It ended."))
        self._fail_waiting()
        with self._room:
            self._queue.clear()
            self._queued = 0
        error = self.error or self.lost()
        for run in list(self.on_close):
            run(error)
        self._websocket.release()

    def _fail_waiting(self) -> None:
        while self._waiting:
            try:
                _, future = self._waiting.popitem()
            except KeyError:
                return
            future.set_exception(self.lost())

    def join(self, seconds: float) -> None:
        """Wait until the threads have ended."""
        for thread in self._threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(seconds)

    def __repr__(self) -> str:
        return f"<Control {self.peer.id} {'closed' if self.closed else 'open'}>"


class _Whole:
    """A larger item while its parts come in; takes memory only for what has come."""

    __slots__ = ("data", "kind", "number", "total")

    def __init__(self, kind: int, number: int, total: int) -> None:
        self.kind = kind
        self.number = number
        self.total = total
        self.data = bytearray()

    def add(self, kind: int, number: int, total: int, piece: memoryview) -> None:
        """Append a piece.

        Raises:
            FrameError: it belongs to something else, or is too long.
        """
        if (kind, number, total) != (self.kind, self.number, self.total):
            raise FrameError("A part of one item stands between the parts of another.")
        if len(self.data) + len(piece) > total:
            raise FrameError(f"The parts of an item have more than the {total} bytes announced.")
        self.data += piece

    @property
    def complete(self) -> bool:
        """Whether all parts are there."""
        return len(self.data) == self.total


class _Piece(NamedTuple):
    """An item, or a part of one, that waits to be sent."""

    head: bytes
    body: bytes | memoryview

    @property
    def size(self) -> int:
        """Bytes of both."""
        return len(self.head) + len(self.body)


def _items(kind: int, number: int, payload: bytes) -> list[_Piece]:
    """An item as it is sent: itself, or its parts."""
    if len(payload) <= PART_BYTES:
        return [_Piece(_HEAD.pack(len(payload), kind, number), payload)]
    view, head = memoryview(payload), _PART.pack(kind, len(payload))
    step = PART_BYTES - len(head)
    pieces = (view[place : place + step] for place in range(0, len(view), step))
    return [_Piece(_HEAD.pack(len(head) + len(piece), PART, number) + head, piece) for piece in pieces]
