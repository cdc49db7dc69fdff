"""The clients that are connected to a server: who they are, and whether they can be asked.

A client comes in, says who it is, gets the task and takes it: then it can be asked. Whoever is not enrolled is told so
and turned away; whoever breaks the rules, too. All of this runs in the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from sharetorch.fl.deployment.errors import DeploymentError, EnrolmentRefusedError, MisbehaviourError, ReplacedError
from sharetorch.fl.deployment.lines import Line
from sharetorch.fl.deployment.messages import (
    VERSION,
    Finished,
    FromClient,
    Hello,
    Left,
    Ready,
    Refused,
    Task,
    Trained,
    read_from_client,
)
from sharetorch.fl.deployment.roll import Roll
from sharetorch.mpc.errors import ConfigurationError
from sharetorch.mpc.network.identity import Peer
from sharetorch.remote.network.acceptor import Tell
from sharetorch.remote.network.settings import NetworkSettings
from sharetorch.remote.network.websocket import Websocket

_TEXT = 2000
_MARGIN = timedelta(minutes=10)
"""Certificates last so much longer than now: clocks differ."""


class Visitor:
    """One client that is connected.

    Attributes:
        id: its name, by its certificate.
        peer: its name and identity key.
        certificate: in DER.
        until: when it expires.
        line: the connection.
        greeted: whether it has said who it is.
        ready: whether it has taken the task.
        busy: round and attempt it was asked to train for and has not answered.
        late: messages that came too late since it trained last.
    """

    def __init__(self, peer: Peer, certificate: bytes) -> None:
        self.id = peer.id
        self.peer = peer
        self.certificate = certificate
        self.until = datetime.min.replace(tzinfo=UTC)
        self.line: Line
        self.greeted = self.ready = False
        self.busy: tuple[int, int] | None = None
        self.late = 0

    @property
    def gone(self) -> bool:
        """Whether the connection has ended."""
        return self.line.closed


class Asker(Protocol):
    """The attempt at a round that is under way."""

    def take(self, visitor: Visitor, message: FromClient) -> None:
        """Take a message of a client that is ready.

        Raises:
            MisbehaviourError: it may not come now.
        """

    def lost(self, visitor: Visitor) -> None:
        """A client's connection has ended."""


class Hall:
    """Who is there.

    Args:
        roll: who may come.
        task: for those who do.
        settings: deadlines and limits of connections.
        tell: hears who comes and goes.

    Attributes:
        asker: the attempt at a round that is under way, if there is one.
        finished: for those who come when there are no more rounds.
        told: ids of those who know that there are no more.
    """

    def __init__(self, roll: Roll, task: Task, settings: NetworkSettings, tell: Tell) -> None:
        self._roll, self._task, self._settings, self._tell = roll, task, settings, tell
        self._visitors: dict[str, Visitor] = {}
        self._lines: dict[Line, Visitor] = {}
        self._changed = asyncio.Event()
        self.asker: Asker | None = None
        self.finished: Finished | None = None
        self.told: set[str] = set()

    # ----------------------------------------------------------------------------------------------- who can be asked

    @property
    def count(self) -> int:
        """Connections, of clients that can be asked or not."""
        return len(self._lines)

    def ready(self) -> list[Visitor]:
        """Clients that can be asked to train, by name; those who have been struck from the roll are sent away.

        While the roll cannot be read nobody is enrolled.
        """
        for visitor in list(self._visitors.values()):
            try:
                self._roll.require(visitor.peer)
                _require_lasting(visitor)
            except DeploymentError as error:
                self.dismiss(visitor, error)
            except ConfigurationError as error:
                self._tell("error", "nobody is enrolled", reason=str(error))
                return []
        found = sorted(self._visitors.items())
        return [visitor for _, visitor in found if visitor.ready and not visitor.busy and not visitor.gone]

    def changed(self) -> None:
        """Wake whoever waits."""
        self._changed.set()

    async def wait(self, reached: Callable[[], bool], seconds: float | None) -> bool:
        """Wait until something is so.

        Returns:
            Whether it is; else so many seconds have passed.
        """
        loop = asyncio.get_running_loop()
        end = None if seconds is None else loop.time() + seconds
        while not reached():
            left = None if end is None else end - loop.time()
            if left is not None and left <= 0:
                return False
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._changed.wait()
        return True

    # --------------------------------------------------------------------------------------------------- coming, going

    def arrive(self, websocket: Websocket, peer: Peer, certificate: bytes) -> None:
        """A member of the group has connected."""
        visitor = Visitor(peer, certificate)
        visitor.line = Line(websocket, peer, self._settings, read_from_client, self._take, self._ended)
        self._lines[visitor.line] = visitor
        visitor.line.start()

    def dismiss(self, visitor: Visitor, error: DeploymentError) -> None:
        """Tell a client why it is turned away, and end its connection."""
        self._tell("warning", "client turned away", client=visitor.id, error=type(error).__name__, reason=str(error))
        self._forget(visitor)
        visitor.line.close(Refused(type(error).__name__, str(error)[:_TEXT]))

    def send_home(self, finished: Finished) -> None:
        """Tell everybody that there are no more rounds."""
        self.finished = finished
        for visitor in self._visitors.values():
            if visitor.ready:
                visitor.line.send(finished)

    def close(self) -> None:
        """End all connections."""
        for line in list(self._lines):
            line.close()

    def _forget(self, visitor: Visitor) -> None:
        self._lines.pop(visitor.line, None)
        if self._visitors.get(visitor.id) is visitor:
            del self._visitors[visitor.id]
        if self.asker is not None:
            self.asker.lost(visitor)
        self.changed()

    def _ended(self, line: Line, error: Exception) -> None:
        visitor = self._lines.get(line)
        if visitor is None:
            return
        self._forget(visitor)
        if self.finished is not None and visitor.ready:
            self.told.add(visitor.id)
        else:
            self._tell("info", "client gone", client=visitor.id, reason=str(error))

    # -------------------------------------------------------------------------------------------------------- messages

    def _take(self, line: Line, message: FromClient) -> None:
        visitor = self._lines.get(line)
        if visitor is None:
            return
        try:
            if not visitor.greeted:
                self._greet(visitor, message)
            elif isinstance(message, Ready) and not visitor.ready:
                self._let_in(visitor)
            elif isinstance(message, Hello | Ready):
                raise MisbehaviourError(f"{visitor.id} sent {type(message).__name__} for a second time.")
            elif isinstance(message, Left) and not visitor.ready:
                self._tell("warning", "client refuses the task", client=visitor.id, error=message.reason)
                self._forget(visitor)
                visitor.line.close()
            else:
                self._pass_on(visitor, message)
        except DeploymentError as error:
            self.dismiss(visitor, error)
        except ConfigurationError as error:
            self._tell("error", "nobody is enrolled", reason=str(error))
            self.dismiss(visitor, EnrolmentRefusedError("The server cannot read its list of clients. Try again later."))
        self.changed()

    def _greet(self, visitor: Visitor, message: FromClient) -> None:
        """Let an enrolled client in; a newer connection of the same client takes the place of an older one."""
        if not isinstance(message, Hello):
            raise MisbehaviourError(f"{visitor.id} sent {type(message).__name__} before it said Hello.")
        if message.version != VERSION:
            raise MisbehaviourError(
                f"{visitor.id} speaks version {message.version} of these messages, the server version {VERSION}. "
                "Install the same version of ShareTorch on both machines."
            )
        if message.id != visitor.id:
            raise EnrolmentRefusedError(
                f"A client calls itself {message.id!r}, and its certificate names {visitor.id!r}. Nobody takes part "
                "under another name."
            )
        self._roll.require(visitor.peer)
        self._require_own_key(visitor)
        self._require_relayed(visitor)
        known = self._visitors.get(visitor.id)
        if known is not None:
            self.dismiss(known, _replaced(visitor.id))
        visitor.greeted = True
        self._visitors[visitor.id] = visitor
        self._tell("info", "client connected", client=visitor.id)
        visitor.line.send(self._task)

    def _require_relayed(self, visitor: Visitor) -> None:
        """A certificate goes to the others in each sum, so it must hold there, too."""
        try:
            visitor.until = self._roll.authority.until(visitor.certificate, f"What {visitor.id} presents")
        except ConfigurationError as error:
            raise EnrolmentRefusedError(str(error)) from error
        _require_lasting(visitor)

    def _let_in(self, visitor: Visitor) -> None:
        visitor.ready = True
        self._tell("info", "client ready", client=visitor.id)
        if self.finished is not None:
            visitor.line.send(self.finished)

    def _require_own_key(self, visitor: Visitor) -> None:
        for other in self._visitors.values():
            if other.id != visitor.id and other.peer.public == visitor.peer.public:
                raise EnrolmentRefusedError(
                    f"{visitor.id!r} has the identity key of {other.id!r}, who is here already. Each client needs keys "
                    "of its own."
                )

    def _pass_on(self, visitor: Visitor, message: FromClient) -> None:
        if not visitor.ready:
            raise MisbehaviourError(f"{visitor.id} sent {type(message).__name__} before it was ready.")
        if isinstance(message, Trained | Left) and not message.round:
            raise MisbehaviourError(f"{visitor.id} sent {type(message).__name__} for no round.")
        if isinstance(message, Trained | Left) and visitor.busy == (message.round, message.attempt):
            visitor.busy = None
        if self.asker is not None:
            self.asker.take(visitor, message)


def _require_lasting(visitor: Visitor) -> None:
    if visitor.until - datetime.now(UTC) < _MARGIN:
        raise EnrolmentRefusedError(
            f"The certificate of {visitor.id!r} expires at {visitor.until:%Y-%m-%d %H:%M} UTC, and the other clients "
            "would refuse a sum with it. Make a new one, `sharetorch keygen --renew`, and join again."
        )


def _replaced(id: str) -> ReplacedError:
    return ReplacedError(
        f"Another connection with the certificate of {id!r} has taken the place of this one. If two programs use it, "
        "stop one of them."
    )
