"""Connections between two members of a session: two one-way TLS connections, one for the frames of each.

Whoever sends a message writes as much of it as the connection takes without waiting. The rest, and very long messages,
are written by a thread of its own, so that two members that send at the same time do not wait for each other. Whoever
needs a message reads it. A queue that is too full lets its member wait before the next operation. A heartbeat tells the
other that a member is alive while it computes.
"""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from sharetorch.mpc.channel import Form, Message, Payload
from sharetorch.mpc.errors import ConnectionLostError, DeadlineExceededError, FrameError, SessionEndedError
from sharetorch.mpc.network import frames
from sharetorch.mpc.network.frames import Direction, Header
from sharetorch.mpc.ring import Ring

_CHUNK = 1 << 20
_AT_ONCE = 1 << 20
"""Bytes of a message that whoever has it writes: to hand it to another thread would cost more than that saves."""
_NOT_NOW = (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError)
_LOOKS = 256
_FAREWELL_SECONDS = 1.0
GOODBYE = "goodbye"
"""Kind of the note of a member that has done all it was asked to: what was sent before it still counts."""


@dataclass(frozen=True)
class Times:
    """How long members wait for each other, in seconds.

    Attributes:
        heartbeat: after which a member that has nothing to send says that it is alive.
        silence: after which a member of which nothing is heard counts as lost.
        round: for one message, from the moment a member needs it.
        queue_bytes: bytes that may wait to be sent to one member before the next operation begins.
    """

    heartbeat: float = 5.0
    silence: float = 15.0
    round: float = 120.0
    queue_bytes: int = 256 << 20


class Note(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Why a member ends a session, for its peers.

    Attributes:
        kind: name of the error.
        member: id of the member at fault.
        operation: what was under way.
        text: the error's message.
    """

    kind: str
    member: str | None
    operation: str | None
    text: str


class Outgoing:
    """The connection that carries this member's frames to one other member."""

    def __init__(self, sock: ssl.SSLSocket, peer: str, direction: Direction, ring: Ring, times: Times) -> None:
        self.peer = peer
        self._sock = sock
        self._direction = direction
        self._ring = ring
        self._times = times
        self._sequence = 0
        self._queue: deque[list[bytes | memoryview]] = deque()
        self._waiting = 0
        self._rest: list[memoryview] = []  # of a frame that has begun
        self._writing = False
        self._error: Exception | None = None
        self._closing = False
        self._changed = threading.Condition()
        sock.settimeout(0)
        self._writable = select.poll()
        self._writable.register(sock, select.POLLOUT)
        self._thread = threading.Thread(target=self._run, name=f"to {peer}", daemon=True)
        self._thread.start()

    def send(self, message: Message) -> None:
        """Send a message, as far as the connection takes it now; queue a very long one, or one behind others.

        Raises:
            ConnectionLostError: the connection is gone.
        """
        with self._changed:
            self._require_open()
            buffers = self._sealed(
                frames.DATA, operation=message.operation, round=message.round, label=message.label,
                fields=message.fields, ring=self._ring,
            )  # fmt: skip
            if self._queue or self._rest or self._writing or sum(map(len, buffers)) > _AT_ONCE:
                self._enqueue(buffers)
            else:
                self._send_now(buffers)

    def wait_for_room(self) -> None:
        """Wait until the queue is short enough for another operation.

        Raises:
            ConnectionLostError: the connection is gone.
            DeadlineExceededError: the other member takes nothing.
        """
        if self._waiting <= self._times.queue_bytes and self._error is None:
            return
        with self._changed:
            if not self._changed.wait_for(
                lambda: self._waiting <= self._times.queue_bytes or self._error is not None, self._times.round
            ):
                raise DeadlineExceededError(
                    f"{self.peer} has taken too little for {self._times.round:g} s: {self._waiting} bytes wait to be "
                    "sent to it. The session ends; check that machine and its network, then share the data again."
                )
            self._require_open()

    def _require_open(self) -> None:
        if self._error is not None:
            raise ConnectionLostError(
                f"The connection to {self.peer} is lost ({self._error}). The session ends; check that machine and its "
                "network, then share the data again."
            )

    def _put(self, kind: int, **contents: object) -> None:
        self._enqueue(self._sealed(kind, **contents))

    def _sealed(self, kind: int, **contents: object) -> list[bytes | memoryview]:
        buffers = frames.seal(self._direction, kind, self._sequence, **contents)  # type: ignore[arg-type]
        self._sequence += 1
        return buffers

    def _send_now(self, buffers: list[bytes | memoryview]) -> None:
        """Write what the connection takes without waiting, and leave the rest to the thread that writes."""
        left = [memoryview(buffer) for buffer in buffers]
        try:
            while left:
                sent = self._sock.send(left[0])
                left[0] = left[0][sent:]
                if not left[0]:
                    del left[0]
        except _NOT_NOW:
            self._rest = left
            self._waiting += sum(map(len, left))
            self._changed.notify_all()
        except (OSError, ValueError) as error:
            self._fail(error)
            self._require_open()

    def _write(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Write all of it; waits for the connection, not for the other threads of this process."""
        for buffer in buffers:
            view = memoryview(buffer)
            while view:
                try:
                    view = view[self._sock.send(view) :]
                except _NOT_NOW:
                    self._writable.poll()

    def _enqueue(self, buffers: list[bytes | memoryview]) -> None:
        self._queue.append(buffers)
        self._waiting += sum(map(len, buffers))
        self._changed.notify_all()

    def _run(self) -> None:
        try:
            while True:
                buffers = self._next()
                if not buffers:
                    return
                size = sum(map(len, buffers))
                self._write(buffers)
                with self._changed:
                    self._writing = False
                    self._waiting -= size
                    self._changed.notify_all()
        except (OSError, ValueError) as error:
            with self._changed:
                self._fail(error)

    def _next(self) -> Sequence[bytes | memoryview]:
        """What the thread that writes does next; a heartbeat if there has been nothing for a while."""
        with self._changed:
            if not (self._queue or self._rest or self._closing):
                self._changed.wait(self._times.heartbeat)
            if not (self._queue or self._rest or self._closing):
                self._put(frames.BEAT)
            buffers: Sequence[bytes | memoryview] = self._rest
            if self._rest:
                self._rest = []
            elif self._queue:
                buffers = self._queue.popleft()
            self._writing = bool(buffers)
            return buffers

    def _fail(self, error: Exception) -> None:
        self._error = error
        self._queue.clear()
        self._rest = []
        self._waiting = 0
        self._changed.notify_all()

    def close(self, note: Note | None = None) -> None:
        """Tell the other member why, if there is a reason; then close."""
        with self._changed:
            if note is not None and self._error is None and not self._closing:
                if note.kind != GOODBYE:  # what waits never leaves, and is not counted
                    self._sequence -= len(self._queue)
                    self._waiting -= sum(len(buffer) for buffers in self._queue for buffer in buffers)
                    self._queue.clear()
                self._put(frames.ABORT, note=msgspec.msgpack.encode(_short(note)))
            self._closing = True
            self._changed.notify_all()
        self._thread.join(_FAREWELL_SECONDS)
        hang_up(self._sock)
        self._thread.join(_FAREWELL_SECONDS)
        self._sock.close()


def _short(note: Note) -> Note:
    """A note that fits its frame."""
    return Note(_cut(note.kind, 60), _cut(note.member, 100), _cut(note.operation, 200), _cut(note.text, 400))


def _cut(text: Any, size: int) -> Any:
    """The beginning of a text, at most so many bytes of it."""
    return text and text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")


def hang_up(sock: ssl.SSLSocket) -> None:
    """Let reads and writes under way in other threads end.

    ``SSLSocket.shutdown`` would drop the encryption while another thread writes; the plain socket's does not.
    """
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Received(NamedTuple):
    """A message that arrived, with the length of its chain of online messages."""

    fields: tuple[Payload, ...]
    round: int


class Incoming:
    """The connection that carries another member's frames to this one.

    Attributes:
        peer: id of the other member.
        waited: seconds spent waiting for bytes so far.
    """

    def __init__(self, sock: ssl.SSLSocket, peer: str, direction: Direction, ring: Ring, times: Times) -> None:
        self.peer = peer
        self.waited = 0.0
        self._sock = sock
        self._direction = direction
        self._ring = ring
        self._times = times
        self._sequence = 0
        self._come = memoryview(bytearray(frames.RECORD_BYTES))
        self._begin = self._end = 0  # of what has come and is not taken yet
        self._raw = b""
        self._header: Header | None = None
        self._goodbye: SessionEndedError | None = None
        self._heard = time.monotonic()
        self._patience = min(times.silence, times.round)
        sock.settimeout(self._patience)

    def receive(self, operation: int, label: str, forms: tuple[Form, ...]) -> Received:
        """Wait for the next message, which must be this one.

        Raises:
            FrameError: another came.
            ConnectionLostError: the connection is gone, or silent for too long.
            DeadlineExceededError: the message did not arrive in time.
            SessionEndedError: the other member ended the session.
        """
        start = time.monotonic()
        deadline = start + self._times.round
        while self._header is None:
            if self._goodbye is not None:
                raise self._goodbye
            self._fill(frames.HEADER_BYTES, deadline, label)
            self._take_header()
        header, self._header = self._header, None
        table = frames.check_data(header, self._raw, self._direction, operation, label, forms, self._ring)
        self._fill(len(table), deadline, label)
        if self._take(len(table)) != table:
            raise FrameError(f"{self.peer} announced other shapes for {label!r} than are due. The session ends.")
        fields = []
        for form in forms:
            contents = frames.empty_field(form, self._ring)
            self._read_into(contents, deadline, label)
            fields.append(frames.decode_field(form, contents, self._ring))
        self.waited += time.monotonic() - start
        return Received(tuple(fields), header.round)

    def poll(self) -> None:
        """Look, without waiting, whether the other member is still there; for when no message is due.

        Raises:
            ConnectionLostError: it is gone, or silent for too long.
            SessionEndedError: it ended the session.
        """
        for _ in range(_LOOKS):  # whoever sends heartbeats without end must not keep this member here
            if self._header is not None or self._goodbye is not None:
                return
            self._sock.settimeout(0)
            try:
                count = self._sock.recv_into(self._room())
            except (ssl.SSLWantReadError, BlockingIOError):
                if time.monotonic() - self._heard > self._times.silence:
                    raise self._silent() from None
                return
            except (OSError, ValueError) as error:
                raise self._lost(error) from error
            finally:
                self._sock.settimeout(self._patience)
            self._note(count)
            self._end += count
            while self._end - self._begin >= frames.HEADER_BYTES and self._header is None and self._goodbye is None:
                self._take_header()

    def _take_header(self) -> None:
        """Take the header that has come; heartbeats are nothing more, that of a data frame is kept for ``receive``."""
        self._raw = self._take(frames.HEADER_BYTES)
        header = frames.read_header(self._raw, self._direction, self._sequence)
        self._sequence += 1
        if header.kind == frames.DATA:
            self._header = header
        elif header.kind == frames.ABORT:
            self._take_note(header.length)

    def _take_note(self, length: int) -> None:
        self._fill(length, time.monotonic() + _FAREWELL_SECONDS, "a note")
        try:
            note = msgspec.msgpack.decode(self._take(length), type=Note)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise FrameError(f"{self.peer} ended the session with a malformed note.") from error
        ended = SessionEndedError(f"{self.peer} ended the session: {note.text}")
        ended.member, ended.operation, ended.cause = note.member, note.operation, note.kind
        if note.kind != GOODBYE:
            raise ended
        self._goodbye = ended

    def _fill(self, count: int, deadline: float, label: str) -> None:
        """Wait until so many bytes have come, at most a record."""
        while self._end - self._begin < count:
            room = self._room()
            self._end += self._read(room, deadline, label)

    def _room(self) -> memoryview:
        """Where more can come to, behind what has come and is not taken yet."""
        left = self._end - self._begin
        self._come[:left] = self._come[self._begin : self._end]
        self._begin, self._end = 0, left
        return self._come[left:]

    def _take(self, count: int) -> bytes:
        """What has come first, and is taken now."""
        begin = self._begin
        self._begin += count
        return bytes(self._come[begin : self._begin])

    def _read_into(self, view: memoryview, deadline: float, label: str) -> None:
        """Wait until a memory is full."""
        size = len(view)
        done = min(size, self._end - self._begin)
        view[:done] = self._come[self._begin : self._begin + done]
        self._begin += done
        while done < size:
            done += self._read(view[done : done + _CHUNK], deadline, label)

    def _read(self, view: memoryview, deadline: float, label: str) -> int:
        """Wait for some bytes; how many have come."""
        if self._heard >= deadline:
            raise self._late(label)
        try:
            count = self._sock.recv_into(view)
        except TimeoutError:
            if time.monotonic() >= deadline:
                raise self._late(label) from None
            raise self._silent() from None
        except (OSError, ValueError) as error:
            raise self._lost(error) from error
        self._note(count)
        return count

    def _note(self, count: int) -> None:
        if not count:
            raise self._lost(None)
        self._heard = time.monotonic()

    def _late(self, label: str) -> DeadlineExceededError:
        return DeadlineExceededError(
            f"{self.peer} did not send {label!r} within {self._times.round:g} s. The session ends; check that machine "
            "and its network, or allow more time with round_seconds, then share the data again."
        )

    def _silent(self) -> ConnectionLostError:
        return ConnectionLostError(
            f"Nothing was heard of {self.peer} for {self._times.silence:g} s. The session ends; check that machine and "
            "its network, then share the data again."
        )

    def _lost(self, error: Exception | None) -> ConnectionLostError:
        why = f" ({error})" if error is not None else ""
        return ConnectionLostError(
            f"{self.peer} closed the connection{why}. The session ends; check that machine and its network, then share "
            "the data again."
        )

    def interrupt(self) -> None:
        """Let a read under way in another thread end."""
        hang_up(self._sock)

    def close(self) -> None:
        """Close."""
        hang_up(self._sock)
        self._sock.close()


class Link(NamedTuple):
    """Both connections to one other member."""

    outgoing: Outgoing
    incoming: Incoming

    @property
    def peer(self) -> str:
        """Id of the other member."""
        return self.outgoing.peer


def close_all(links: Sequence[Link], note: Note | None = None) -> None:
    """Close connections to all members, telling each why; at the same time, so that one that hangs delays no other."""
    closers = [threading.Thread(target=_close, args=(link, note), daemon=True) for link in links]
    for closer in closers:
        closer.start()
    for closer in closers:
        closer.join(3 * _FAREWELL_SECONDS)


def _close(link: Link, note: Note | None) -> None:
    link.outgoing.close(note)
    link.incoming.close()
