"""The driver's side of a session whose members are processes of their own.

Commands are pipelined: the driver numbers the results itself and does not wait. What goes wrong is raised at the next
command, ``get()`` or ``sync()``, with the line of the user's program that asked for it.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from typing import Any, NoReturn, Protocol

from torch import Tensor

from sharetorch.mpc.channel import RING, Form
from sharetorch.mpc.cost import DRIVER, Asked, Timing, Traffic
from sharetorch.mpc.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    NetworkError,
    ObjectGoneError,
    PreparationError,
    ProtocolError,
    SessionEndedError,
    ShareTorchError,
)
from sharetorch.mpc.network import frames, handshake
from sharetorch.mpc.network.handshake import MemberEntry, SessionDocument
from sharetorch.mpc.network.member import Report
from sharetorch.mpc.preparing import no_values
from sharetorch.mpc.protocols.suite import Suite
from sharetorch.mpc.ring import Ring
from sharetorch.mpc.session import Member, new_id, object_is_gone
from sharetorch.mpc.share import reconstruct
from sharetorch.mpc.tensor.location import user_line
from sharetorch.remote import wire
from sharetorch.remote.messages import Failed
from sharetorch.remote.network.control import SESSION, Control
from sharetorch.remote.network.settings import NetworkSettings
from sharetorch.remote.node import error_of
from sharetorch.remote.secret_values import driven
from sharetorch.remote.sessions.messages import (
    Answer,
    Close,
    Command,
    Ended,
    Expect,
    Fresh,
    Input,
    Item,
    Notice,
    Open,
    Output,
    Propose,
    Refused,
    Share,
    Sync,
    written,
)
from sharetorch.remote.sessions.parts import parts_of
from sharetorch.remote.sessions.tracing import PreparingSession

_WINDOW = 256
"""Operations that may be under way before the driver waits."""
_REASON = 400


class _UnderWay:
    """An operation whose reports are not all in."""

    __slots__ = ("asked", "line", "missing", "name", "reports", "rounds", "seconds", "traffic")

    def __init__(self, name: str, line: str, members: int, traffic: Traffic | None, asked: Asked | None) -> None:
        self.name = name
        self.line = line
        self.missing = members
        self.traffic = traffic or Traffic(operations=1)
        self.rounds = self.traffic.rounds
        self.seconds = 0.0
        self.asked = asked
        self.reports: list[Report] = []


def _timing(reports: Sequence[Report], provider: int) -> Timing:
    """Where members say that time went. A provider's counts as offline in operations in which it sends nothing online.

    Args:
        reports: of all members on one operation.
        provider: rank a provider has.
    """
    ahead = {report.rank for report in reports if report.rank == provider and not report.online}
    computing = {report.rank: max(0.0, report.seconds - report.waited) for report in reports}
    online = {rank: seconds for rank, seconds in computing.items() if rank not in ahead}
    offline = {rank: computing[rank] for rank in ahead}
    waiting = {report.rank: report.waited for report in reports}
    return Timing(online, offline, waiting, max(online.values(), default=0.0))


class NetworkMember(Member, Protocol):
    """A worker on another machine, as ``st.connect`` gives it."""

    control: Control
    public: bytes
    address: tuple[str, int]
    settings: NetworkSettings


class NetworkedSession(PreparingSession):
    """A session with workers on other machines, each connected to the driver and to all others.

    Args:
        parties: connected workers, as ``st.connect`` gives them.
        provider: likewise.
        ring: as for ``Session``.
        suite: as for ``Session``.

    Raises:
        MembersError: as for ``Session``.
        NetworkError: a member cannot be reached, or refuses.
    """

    ahead = True

    def __init__(
        self, parties: Sequence[NetworkMember], provider: NetworkMember | None, ring: Ring, suite: Suite
    ) -> None:
        super().__init__(parties, provider, ring, suite)
        members = [*parties, *([provider] if provider is not None else [])]
        self._controls = [member.control for member in members]
        self._live: set[int] = set()
        self._gone: list[int] = []
        self._operation = 0
        self._under_way: deque[_UnderWay] = deque()
        self._first_under_way = 1
        self._failure: Exception | None = None
        self._lines: dict[int, str] = {}
        self._changed = threading.Condition()
        self._sending = threading.RLock()
        self._decoder = wire.Decoder(Answer, None)
        self._notices = wire.Decoder(Notice, None)
        self._seconds = parties[0].settings.request_seconds
        self._hearing: list[tuple[list[Any], Any]] = []
        self._prepares()
        self._open(members)

    # Beginning

    def _open(self, members: Sequence[NetworkMember]) -> None:
        document = SessionDocument(
            handshake.VERSION,
            [MemberEntry(member.id, member.public, *member.address) for member in members],
            len(self.parties),
            self.ring.modulus.to_bytes((self.ring.modulus.bit_length() + 7) // 8, "big"),
            self.suite.name,
            members[0].settings.round_seconds,
        )
        fresh = [reply.fresh for reply in self.ask_all(Propose(document), Fresh)]
        self.document, self.fresh = document, fresh
        self.id = handshake.session_id(document, fresh)
        driven[self.id] = self
        self._watch()
        try:
            self.ask_all(Open(document, fresh), Item)
        except BaseException:
            self.close()
            raise

    def _watch(self) -> None:
        """Hear what members say unasked, and when one is lost."""
        for control in self._controls:
            self._hearing += [(control.on_notice, self._hear), (control.on_close, self._lost(control))]
        for ears, ear in self._hearing:
            ears.append(ear)

    def ask_all(self, item: Item, kind: type[Any], members: Sequence[int] | None = None) -> list[Any]:
        """Send an item to all members, or to those of some ranks, and wait for their answers.

        Raises:
            SessionEndedError: a member was lost.
            DeadlineExceededError: a member did not answer in time.
            ShareTorchError: what a member's refusal names.
        """
        return list(self._ask(item, kind, range(len(self._members)) if members is None else members))

    def _ask(self, item: Item, kind: type[Any], members: Sequence[int]) -> Iterator[Any]:
        """As ``ask_all``, one answer after the other, none of which is kept here."""
        data = wire.encode(item)
        with self._sending:
            futures = deque(self._submit(rank, data) for rank in members)
        for rank in members:
            yield self._answer(rank, futures.popleft(), type(item), kind)

    def ask_later(self, item: Item, kind: type[Any], rank: int) -> Callable[[], Any]:
        """Send an item to a member; what this gives waits for the answer, and raises what ``ask_all`` would."""
        self._raise_failure()
        with self._sending:
            future = self._submit(rank, wire.encode(item))
        return lambda: self._answer(rank, future, type(item), kind)

    def _submit(self, rank: int, data: bytes) -> Future[bytes]:
        try:
            return self._controls[rank].submit(SESSION, data)
        except NetworkError as error:
            self._blame(rank, error)

    def _blame(self, rank: int, error: NetworkError) -> NoReturn:
        """Raise for a member whose connection has ended: the session's one error, once there is a session."""
        error.member = error.member or self._members[rank].id
        self._lost(self._controls[rank])(error)
        self._raise_failure()
        raise error

    def _answer(self, rank: int, future: Future[bytes], asked: type[Item], kind: type[Any]) -> Any:
        name = self._members[rank].id
        try:
            reply = self._decoder.decode(future.result(self._seconds))
        except FutureTimeout:
            late = DeadlineExceededError(f"{name} has not answered for {self._seconds:g} s. The session ends.")
            late.member = name
            self.fail(late)
            raise late from None
        except ConnectionLostError as error:
            self._blame(rank, error)
        if isinstance(reply, Refused):
            self._raise_failure()
            raise error_of(Failed(reply.kind, reply.text), name)
        if not isinstance(reply, kind):
            raise ProtocolError(f"{name} answered {asked.__name__} by {type(reply).__name__}.")
        return reply

    # Commands

    def _command(self, name: str, inputs: Sequence[int], outputs: int, public: dict[str, Any]) -> tuple[int, ...]:
        """As ``Session.command``, but the error of a member comes at a later command, ``get()`` or ``sync()``."""
        if self._ahead is not None:
            return self._trace(self._ahead, name, inputs, outputs, public)
        for number in inputs:
            self.require_live(number)
        results = tuple(new_id() for _ in range(outputs))
        with self._sending:
            gone = self._take_gone()
            operation = self._begin(name)
            self._post(Command(self.id, operation, name, list(inputs), list(results), written(public), gone))
        self._live.update(results)
        return results

    def require_live(self, number: int) -> None:
        """Raise unless the members hold an object for this driver, or will.

        Raises:
            ObjectGoneError: they do not.
        """
        if number not in self._live:
            raise ObjectGoneError(object_is_gone("The session", number))

    def _begin(self, name: str, traffic: Traffic | None = None) -> int:
        """The number of the next operation; waits while too many are under way."""
        if self._ahead is not None:
            raise PreparationError(f"A program that is being prepared cannot do {name!r}: it needs more than commands.")
        with self._changed:
            if len(self._under_way) >= _WINDOW and not self._changed.wait_for(
                lambda: len(self._under_way) < _WINDOW or self._failure is not None, self._seconds
            ):
                self._failure = self._failure or DeadlineExceededError(
                    f"No operation was finished within {self._seconds:g} s. The session ends."
                )
            self._raise_failure()
            self._operation += 1
            self._under_way.append(_UnderWay(name, user_line(), len(self._members), traffic, self.costs.asked()))
            return self._operation

    def _post(self, item: Item) -> None:
        data = wire.encode(item)
        for control in self._controls:
            self._post_to(control, data)

    def _post_to(self, control: Control, data: bytes) -> None:
        try:
            control.post(SESSION, data)
        except NetworkError as error:
            self._lost(control)(error)
            self._raise_failure()

    def _take_gone(self) -> list[int]:
        gone, self._gone = self._gone, []
        return gone

    def distribute(self, values: Tensor) -> int:
        """As ``Session.distribute``. Shares go out in parts, so that no more than a part of them is held here."""
        if self._ahead is not None:
            return self._ahead.put(new_id(), values)
        parts = parts_of(values, len(self.parties), self.ring)
        number, shape = new_id(), list(values.shape)
        size = values.numel() * self.ring.element_bytes
        traffic = Traffic(operations=1, rounds=1)
        for rank in range(len(self.parties)):
            traffic.count(DRIVER, rank, size)
        with self._sending:
            operation = self._begin("share", traffic)
            if self.provider is not None:
                announced = Input(self.id, operation, number, shape, 0, 0, b"")
                self._post_to(self._controls[-1], wire.encode(announced))
            for part in parts:
                for control, contents in zip(self._controls, part.contents, strict=False):
                    self._post_to(
                        control, wire.encode(Input(self.id, operation, number, shape, part.offset, size, contents))
                    )
        self._live.add(number)
        return number

    def holds(self, numbers: Iterable[int]) -> bool:
        """Whether all these objects exist, or will."""
        return not self.ended and self._live.issuperset(numbers)

    def adopt(self, numbers: Iterable[int]) -> None:
        """Count objects that members hold by another way than a command as this driver's."""
        self._live.update(numbers)

    @property
    def live(self) -> int:
        """How many objects the members hold for this driver, or will."""
        return len(self._live)

    def expect(self, owner: str, number: int, shape: Sequence[int]) -> None:
        """Let the members wait for a tensor that an owner of data shares under a number."""
        with self._sending:
            operation = self._begin("contribute")
            self._post(Expect(self.id, operation, number, owner, list(shape)))
        self._live.add(number)

    def reveal_elements(self, number: int) -> Any:
        """As ``Session.reveal_elements``: every party sends its re-randomised share, if its policy lets it."""
        if self._ahead is not None:
            raise no_values()
        (fresh,) = self.command("refresh", number)
        total, shape, traffic = None, None, Traffic(operations=1, rounds=1)
        try:
            for reply in self._ask(Output(self.id, fresh), Share, range(len(self.parties))):
                shape = tuple(reply.shape) if shape is None else shape
                size = math.prod(shape) * self.ring.element_bytes
                rank = len(traffic.online)
                if tuple(reply.shape) != shape or len(reply.contents) != size:
                    raise ProtocolError(
                        f"{self.parties[rank].id} released a share of shape {reply.shape} where {shape} is due."
                    )
                traffic.count(rank, DRIVER, size)
                share = frames.decode_field(Form(RING, shape), memoryview(bytearray(reply.contents)), self.ring)
                del reply  # of large shares, no more than needed are here at a time
                total = share if total is None else reconstruct([total, share], self.ring)
        finally:
            self.free(fresh)
        self.costs.note("get", traffic, 0.0)
        return total

    def free(self, number: int) -> None:
        """Let every member forget an object, with the next command."""
        if self._ahead is not None:
            self._ahead.free(number)
        if number in self._live:
            self._live.discard(number)
            self._gone.append(number)

    def sync(self) -> None:
        """Wait until all commands are done.

        Raises:
            SessionEndedError: a member was lost or failed.
            ShareTorchError: what an operation raised.
        """
        super().sync()
        self._raise_failure()
        if self._ahead is not None:
            self._ahead.drain()
            return
        self.ask_all(Sync(self.id), Item)
        self._raise_failure()

    def close(self, reason: str = "") -> None:
        """End the session: members forget what they hold.

        Args:
            reason: what went wrong, if something did; members then do not finish what was commanded before.
        """
        self.ended = True
        data = wire.encode(Close(self.id, reason[:_REASON]))
        for control in self._controls:
            with suppress(NetworkError):
                control.post(SESSION, data)
        for ears, ear in self._hearing:
            with suppress(ValueError):
                ears.remove(ear)

    # What members report

    def _hear(self, payload: bytes) -> None:
        """Take a notice of a member; runs in the thread that reads its connection."""
        notice = self._notices.decode(payload)
        if notice.session != self.id:
            return
        if isinstance(notice, Ended):
            self.fail(self._error_of(notice))
            return
        with self._changed:
            for report in notice.reports:
                self._take(report)
            self._changed.notify_all()

    def _take(self, report: Report) -> None:
        place = report.operation - self._first_under_way
        if not 0 <= place < len(self._under_way) or self._under_way[place].name != report.name:
            stray = ProtocolError(f"A member reported an operation {report.name!r} that nobody asked for.")
            self._failure = self._failure or stray
            return
        under_way = self._under_way[place]
        sender = report.rank
        for table, offline in ((report.online, False), (report.offline, True)):
            for receiver, size in table.items():
                under_way.traffic.count(sender, receiver, size, offline=offline)
        under_way.rounds = max(under_way.rounds, report.rounds)
        under_way.seconds = max(under_way.seconds, report.seconds)
        under_way.reports.append(report)
        under_way.missing -= 1
        while self._under_way and not self._under_way[0].missing:
            done = self._under_way.popleft()
            self._first_under_way += 1
            done.traffic.rounds = done.rounds
            timing = _timing(done.reports, len(self.parties)) if self.costs.wants_timing else None
            self.costs.note(done.name, done.traffic, done.seconds, timing, done.asked)

    def _error_of(self, notice: Ended) -> Exception:
        """The error that a member's notice stands for, with the line that asked for the operation."""
        place = notice.operation - self._first_under_way
        what = None
        if 0 <= place < len(self._under_way):
            what = f"{self._under_way[place].name}{self._under_way[place].line}"
        during = f" It was at {what}." if what else ""
        error = error_of(Failed(notice.kind, notice.text), notice.member or "?")
        if isinstance(error, NetworkError | ProtocolError) or not isinstance(error, ShareTorchError):
            error = SessionEndedError(
                f"{notice.text}{during} What the members held is forgotten; share the data again, or resume from a "
                "checkpoint."
            )
        else:
            error.add_note(f"The session ended.{during} What its members held is forgotten.")
        if isinstance(error, NetworkError):
            error.member, error.operation, error.cause = notice.member, what, notice.kind
        return error

    def _lost(self, control: Control) -> Callable[[Exception], None]:
        """What to do when the connection to a member ends."""

        def lost(error: Exception) -> None:
            ended = SessionEndedError(
                f"{control.peer.id} is lost: {error} The session ended; share the data again once {control.peer.id} is "
                "back, or resume from a checkpoint."
            )
            ended.member, ended.cause = control.peer.id, type(error).__name__
            self.fail(ended)

        return lost

    def fail(self, error: Exception) -> None:
        """Note the first error, and let all members end the session."""
        with self._changed:
            if self._failure is not None or self.ended:
                return
            self._failure, self.ended = error, True
            self._changed.notify_all()
        threading.Thread(target=self.close, args=(str(error),), daemon=True).start()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            self.ended = True
            raise self._failure
        if self.ended:
            raise SessionEndedError(f"{self!r} has been closed. Share the data again.")
