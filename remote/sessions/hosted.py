"""One session at one worker: it connects to the other members, and does what the driver commands.

A thread takes the driver's items one after the other. The first error ends the session: the other members and the
driver are told, every connection is closed, and shares and secrets are forgotten, so no mask is ever used again and
nothing is opened. The worker itself goes on.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch

from sharetorch.mpc.channel import RING, Form
from sharetorch.mpc.errors import (
    CheckpointError,
    LimitExceededError,
    MalformedRequestError,
    NetworkError,
    OperationNotAllowedError,
    ProtocolError,
    ReleaseRefusedError,
    SessionEndedError,
)
from sharetorch.mpc.network import frames
from sharetorch.mpc.network.handshake import SessionDocument
from sharetorch.mpc.network.identity import Identity
from sharetorch.mpc.network.links import GOODBYE, Note, Times, close_all
from sharetorch.mpc.network.member import Member, Report
from sharetorch.mpc.protocols.suite import SUITES
from sharetorch.mpc.release import Book, check
from sharetorch.mpc.ring import Elements, Ring, ring_of
from sharetorch.remote import wire
from sharetorch.remote.audit import Call
from sharetorch.remote.network.control import NOTICE, Control
from sharetorch.remote.network.settings import NetworkSettings
from sharetorch.remote.node import Node, failure
from sharetorch.remote.sessions.arrivals import Arrivals
from sharetorch.remote.sessions.blocks import Blocks
from sharetorch.remote.sessions.meeting import Meeting
from sharetorch.remote.sessions.messages import (
    Answer,
    Close,
    Command,
    Deposit,
    Ended,
    Expect,
    Input,
    Item,
    Opened,
    Output,
    Placeholder,
    Progress,
    Refused,
    Share,
    StandIn,
    Sync,
    Synced,
    Trace,
)

_MAX_WAITING = 4096
_REASON = 400
_REPORTS = 32
_IDLE_SECONDS = 0.2
_CLOSED = "The driver has closed the session."
_MANY = (Command, Input, StandIn, Placeholder, Trace)
"""Items that are not noted one by one when all is well."""
_DEBUGGING = frozenset({"check_range"})
"""Operations that open values to the parties, for debugging."""


def answer(control: Control, number: int, reply: Answer) -> None:
    """Answer an item, if it wants an answer."""
    if number:
        control.reply(number, wire.encode(reply))


def refuse(control: Control, number: int, error: Exception) -> None:
    """Answer an item by an error, if it wants an answer."""
    if number:
        failed = failure(error)
        with suppress(NetworkError):
            answer(control, number, Refused(failed.kind, failed.text))


class Host(Protocol):
    """What a session needs of the worker it is at."""

    node: Node
    identity: Identity
    settings: NetworkSettings
    peers: dict[str, tuple[str, int]]
    state: Path | None

    def over(self, session: Any, reason: str) -> None:
        """Forget a session that has ended."""


Handler = Callable[["HostedSession", Member, Any], Answer | None]

HANDLERS: dict[type[Item], Handler] = {}
"""What a session does on each kind of item, in its own thread; an answer goes to the driver."""

HARMLESS: tuple[type[Exception], ...] = (ReleaseRefusedError, CheckpointError)
"""Errors after which a session goes on: nothing was sent to other members."""


FORGIVEN: dict[type[Item], tuple[type[Exception], ...]] = {}
"""Further errors after which a session goes on, by kind of item."""


def handles(kind: type[Item]) -> Callable[[Handler], Handler]:
    """Register the handler of a kind of item."""

    def register(handler: Handler) -> Handler:
        HANDLERS[kind] = handler
        return handler

    return register


class HostedSession:
    """One session at one worker.

    Attributes:
        id: of the session.
        control: the driver's connection.
        document: what the members agree on.
        rank: of this member.
        ring: where shares live.
        host: the worker.
        meeting: how it gets connected to the other members.
        arrivals: shares on their way to this member.
        book: to whom what may be released.
        fresh: numbers of objects whose shares were re-randomised and not used since.
        blocks: what was prepared.
    """

    def __init__(self, host: Host, control: Control, document: SessionDocument, id: bytes, rank: int) -> None:
        self.id = id
        self.control = control
        self.rank = rank
        self.document = document
        self.host = host
        self.ring: Ring = ring_of(int.from_bytes(document.modulus, "big"))
        self._queue: queue.SimpleQueue[tuple[int, Any, Call] | None] = queue.SimpleQueue()
        self._waiting_bytes = 0
        self._reports: list[Report] = []
        self._operation = 0
        self.book = Book()
        self.fresh: set[int] = set()
        self.blocks = Blocks(host.node.id, host.node.limits.store_bytes, self._folder(host))
        self._reason: Exception | None = None
        self._finished: SessionEndedError | None = None
        self._member: Member | None = None
        self._lock = threading.Lock()
        self._times = Times(
            host.settings.heartbeat_seconds, host.settings.silence_seconds, document.round_seconds,
            host.settings.queue_bytes,
        )  # fmt: skip
        self.meeting = Meeting(document, id, rank, host.identity, host.peers, host.settings.connect_seconds)
        self.arrivals = Arrivals(self.ring, rank < document.parties, host.node.limits.object_bytes, host.node.id)
        self._thread = threading.Thread(target=self._run, name=f"session {id.hex()[:8]}", daemon=True)
        self._number = 0

    def _folder(self, host: Host) -> Path | None:
        """Where files of this session lie, which nobody can read once it is over."""
        return None if host.state is None else Path(host.state) / "prepared" / host.identity.id / self.id.hex()

    def start(self, number: int) -> None:
        """Connect to the other members, then serve; the item of that number is answered when connected."""
        self._number = number
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait until the session has ended."""
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def put(self, number: int, item: Any, size: int, call: Call) -> None:
        """Queue an item of the driver."""
        if type(item) is Close and item.reason:
            self.stop(SessionEndedError(f"The driver ended the session: {item.reason[:_REASON]}"))
        elif type(item) is Close and self._member is None:
            self.stop(SessionEndedError("The driver has closed the session before all members were connected."))
        self._waiting_bytes += size
        if self._queue.qsize() >= _MAX_WAITING or self._waiting_bytes > self.host.settings.max_message_bytes:
            error = LimitExceededError(
                f"{self._queue.qsize()} commands and {self._waiting_bytes} bytes wait at {self.host.node.id}, more "
                "than it takes. A driver waits for Progress before it sends more."
            )
            self.stop(error)
            raise error
        with self._lock:
            if self._finished is not None:
                raise self._finished
            self._queue.put((number, item, call))

    def stop(self, reason: Exception) -> None:
        """End the session from outside; what waits for another member ends at once."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
        self.meeting.stop(reason)
        self.arrivals.wake()
        member = self._member
        if member is not None:
            for link in member.links:
                link.incoming.interrupt()
        self._queue.put(None)

    # Serving

    def _run(self) -> None:
        try:
            secrets, links = self.meeting.connect(self.ring, self._times)
            suite, limits = SUITES[self.document.suite], self.host.node.limits
            self._member = Member(
                self.rank, self.document.parties, self.host.node.id, self.ring, suite, secrets, links,
                limits.object_bytes // 8, limits.store_bytes // 8,
            )  # fmt: skip
            answer(self.control, self._number, Opened())
            self._number = 0
            self._serve(self._member)
        except Exception as error:
            self._end(self._reason or error)

    def _serve(self, member: Member) -> None:
        looked = time.monotonic()
        while self._reason is None:
            try:
                taken = self._queue.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                taken = None
                self.tell()
            if taken is None or time.monotonic() - looked > self._times.heartbeat:
                looked = time.monotonic()
                member.poll()
            if taken is not None:
                number, item, call = taken
                self._do(member, number, item, call)
                if type(item) is Close:
                    self._close()
                    return
        raise self._reason

    def _do(self, member: Member, number: int, item: Any, call: Call) -> None:
        try:
            reply = HANDLERS[type(item)](self, member, item)
        except Exception as error:
            self.host.node.audit.note(call, failure(error).kind)
            refuse(self.control, number, error)
            if not isinstance(error, (*HARMLESS, *FORGIVEN.get(type(item), ()))):
                raise
        else:
            if type(item) not in _MANY:
                self.host.node.audit.note(call, "done")
                self.host.node.audit.require_writable()
            if reply is not None:
                self.tell()
                answer(self.control, number, reply)

    def begin(self, operation: int) -> None:
        """Enter the next operation.

        Raises:
            ProtocolError: it is not the next one.
        """
        if operation != self._operation + 1:
            raise ProtocolError(
                f"The driver commands operation {operation} after {self._operation}; a command was lost or repeated. "
                "The session ends."
            )
        self._operation = operation

    def take_input(self, member: Member, item: Input) -> None:
        """Take a part of a share from the driver."""
        if not self.arrivals.started(item.number):
            self.begin(item.operation)
            member.require_free([item.number])
        if item.operation != self._operation:
            raise MalformedRequestError("A part of a share outside of its operation.")
        self._waiting_bytes -= len(item.contents)
        contents = self.arrivals.take(item)
        if contents is not None:
            member.put(item.number, self.elements(member, contents, item.shape))
            self.note(Report(item.operation, "share", self.rank, 0, {}, {}, 0.0, 0.0))

    def elements(self, member: Member, contents: memoryview, shape: Sequence[int]) -> Elements:
        """A share from its bytes; at the provider an empty tensor on ``meta``."""
        if member.party.is_provider:
            self.arrivals.count(shape)
            return torch.empty(tuple(shape), dtype=torch.int64, device="meta")
        return frames.decode_field(Form(RING, tuple(shape)), contents, self.ring)

    def await_deposit(self, item: Expect) -> tuple[Deposit, memoryview]:
        """Wait for a share that an owner of data sends."""
        found = self.arrivals.expected(item, lambda: self._reason is not None, self._times.round)
        if self._reason is not None:
            raise self._reason
        return found

    def forget(self, member: Member, numbers: Sequence[int]) -> None:
        """Forget objects."""
        member.free(numbers)
        self.book.free(numbers)
        self.fresh.difference_update(numbers)

    def follow(self, member: Member, item: Command) -> None:
        """Note to whom the results of a command may be released."""

        def shapes() -> tuple[list[Any], list[Any]]:
            return [member.get(n).data.shape for n in item.inputs], [member.get(n).data.shape for n in item.outputs]

        self.book.follow(item.name, item.inputs, shapes, item.outputs, item.public)
        self.fresh.difference_update(item.inputs)
        if item.name == "refresh":
            self.fresh.update(item.outputs)

    def note(self, report: Report) -> None:
        """Keep the cost of an operation for the driver."""
        self._reports.append(report)
        if len(self._reports) >= _REPORTS:
            self.tell()

    def tell(self) -> None:
        """Send the driver what is known of costs."""
        if self._reports:
            reports, self._reports = self._reports, []
            self.control.post(NOTICE, wire.encode(Progress(self.id, reports)))

    # Ending

    def _close(self) -> None:
        call = Call(self.control.peer.id)
        call.request = f"session closed after {self._operation} operations"
        self.host.node.audit.note(call, "done")
        self.host.over(self, _CLOSED)
        self._burn(Note(GOODBYE, None, None, _CLOSED))
        self._refuse_rest(SessionEndedError(_CLOSED))

    def _end(self, error: Exception) -> None:
        """Tell everybody once, and forget everything."""
        failed = failure(error)
        member = getattr(error, "member", None) or (self.host.node.id if isinstance(error, ProtocolError) else None)
        reason = f"The session ended at {self.host.node.id}: {failed.text}"
        note = Note(getattr(error, "cause", None) or failed.kind, member, str(self._operation), failed.text)
        with self._lock:
            self._reason = self._reason or error
        self.host.over(self, reason)
        ended = Ended(self.id, note.kind, member, self._operation, reason)
        with suppress(NetworkError):
            if self._number:
                answer(self.control, self._number, Refused(failed.kind, failed.text))
            self.control.post(NOTICE, wire.encode(ended))
        call = Call(self.control.peer.id)
        call.request = f"session ended in operation {self._operation}"
        self.host.node.audit.note(call, failed.kind)
        self._burn(note)
        self._refuse_rest(SessionEndedError(reason))

    def _burn(self, note: Note) -> None:
        """Close all connections and forget shares and secrets."""
        member, self._member = self._member, None
        self.arrivals.clear()
        self.meeting.stop(SessionEndedError("The session is over."))
        self.meeting.close()
        self.fresh.clear()
        self.blocks.burn()
        if member is not None:
            member.store.clear()
            member.taking = None
            close_all(member.links, note)

    def _refuse_rest(self, error: SessionEndedError) -> None:
        """Answer whatever still waits, and whatever comes from now on."""
        with self._lock:
            self._finished = error
        while True:
            try:
                taken = self._queue.get_nowait()
            except queue.Empty:
                return
            if taken is not None:
                refuse(self.control, taken[0], error)


def require_allowed(session: HostedSession, name: str) -> None:
    """Refuse operations that this worker does not do.

    Raises:
        OperationNotAllowedError: it shows values, and that is not allowed here.
    """
    if name in _DEBUGGING and not session.host.settings.debug:
        raise OperationNotAllowedError(
            f"{name} shows values to the parties, and {session.host.node.id} does not allow that. Set "
            "debug = true under [network] in its configuration, for data that is not secret."
        )


@handles(Command)
def _command(session: HostedSession, member: Member, item: Command) -> None:
    require_allowed(session, item.name)
    session.blocks.require_made()
    session.begin(item.operation)
    session.forget(member, item.forget)
    session.note(member.execute(item.operation, item.name, item.inputs, item.outputs, item.public))
    session.follow(member, item)


@handles(Input)
def _input(session: HostedSession, member: Member, item: Input) -> None:
    session.take_input(member, item)


@handles(Output)
def _output(session: HostedSession, member: Member, item: Output) -> Share:
    share = member.get(item.number).data
    if item.number not in session.fresh:
        raise OperationNotAllowedError("Only shares that have just been refreshed leave a party.")
    check(session.book.label(item.number), session.control.peer.id, share.shape)
    session.fresh.discard(item.number)
    contents: Any = frames.encode_field(share, session.ring)  # a view: a large share is not copied
    return Share(list(share.shape), contents)


@handles(Sync)
def _sync(session: HostedSession, member: Member, item: Sync) -> Synced:
    return Synced()


@handles(Close)
def _close(session: HostedSession, member: Member, item: Close) -> None:
    """The session's thread closes it after this."""
