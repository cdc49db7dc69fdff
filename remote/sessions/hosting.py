"""A worker's sessions: which it agrees to, and who may speak in them."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sharetorch.mpc.errors import (
    ConnectionLostError,
    HandshakeError,
    LimitExceededError,
    MembersError,
    SessionEndedError,
    ShareTorchError,
    UnsupportedOperationError,
)
from sharetorch.mpc.network import handshake
from sharetorch.mpc.network.handshake import SessionDocument
from sharetorch.mpc.network.identity import Identity, Peer, check_id
from sharetorch.mpc.protocols.suite import SUITES, Plaintext
from sharetorch.mpc.randomness import system_entropy
from sharetorch.remote import wire
from sharetorch.remote.audit import Call
from sharetorch.remote.network.control import Control
from sharetorch.remote.network.settings import NetworkSettings
from sharetorch.remote.node import Node
from sharetorch.remote.sessions import (
    checkpoints,  # noqa: F401  (its handlers enter the table)
    contributing,  # noqa: F401  (its handlers enter the table)
    preparing,  # noqa: F401  (its handlers enter the table)
    ranks,  # noqa: F401  (its handlers enter the table)
)
from sharetorch.remote.sessions.hosted import HostedSession, answer, refuse
from sharetorch.remote.sessions.messages import (
    Command,
    Deposit,
    Fresh,
    Input,
    Open,
    Propose,
    ToMember,
)

_MAX_MEMBERS = 17
_MAX_MODULUS_BYTES = 512
_MAX_EARLY = 64
"""Connections of members that may wait for a driver's word."""
_REMEMBERED = 256
"""Sessions that have ended whose reasons are kept."""


class _Proposal(NamedTuple):
    """What this worker has contributed to a session that is not open yet, when, and for whom."""

    fresh: bytes
    time: float
    sender: str


class SessionHost:
    """All sessions in which a worker takes part.

    Args:
        node: the worker.
        identity: its keys.
        settings: deadlines and limits.
        peers: addresses of other workers; if there are none, those of session documents count.
        state: folder for checkpoints and what was prepared; None if neither is to be kept.
    """

    def __init__(
        self,
        node: Node,
        identity: Identity,
        settings: NetworkSettings,
        peers: dict[str, tuple[str, int]] | None = None,
        state: Path | None = None,
    ) -> None:
        self.node = node
        self.identity = identity
        self.settings = settings
        self.peers = peers or {}
        self.state = state
        self._decoder = wire.Decoder(ToMember, node)
        self._proposals: dict[tuple[int, bytes], _Proposal] = {}
        self._sessions: dict[bytes, HostedSession] = {}
        self._over: dict[bytes, str] = {}
        self._early = 0
        self._changed = threading.Condition()
        node.sessions = self  # type: ignore[attr-defined]

    def serve(self, control: Control, number: int, payload: bytes) -> None:
        """Take one item of a driver; never waits for other members."""
        call = Call(control.peer.id)
        try:
            item = self._decoder.decode(payload)
            call.request = f"session {type(item).__name__.lower()}"
            self._take(control, number, item, call)
        except Exception as error:
            self.node.audit.note(call, type(error).__name__)
            refuse(control, number, error)

    def _take(self, control: Control, number: int, item: Any, call: Call) -> None:
        if type(item) is Propose:
            answer(control, number, self._propose(control, item))
            self.node.audit.note(call, "done")
        elif type(item) is Open:
            self._open(control, number, item)
            self.node.audit.note(call, "done")
        elif type(item) is Deposit:
            self.deposit(item, control.peer.id)
            self.node.audit.note(call, "done")
        else:
            session = self._sessions.get(item.session)
            if session is None or session.control is not control:
                raise SessionEndedError(
                    self._over.get(item.session, f"{self.node.id} takes part in no such session of this connection. ")
                    + " Share the data again."
                )
            if type(item) is Command:
                call.request = f"session command {item.name[:60]}"
            session.put(number, item, len(item.contents) if type(item) is Input else 0, call)

    def deposit(self, item: Deposit, sender: str) -> None:
        """Take a part of a share from an owner of data."""
        session = self._sessions.get(item.session)
        if session is None:
            raise SessionEndedError(self._over.get(item.session, f"{self.node.id} takes part in no such session."))
        session.arrivals.deposit(sender, item)

    def _propose(self, control: Control, item: Propose) -> Fresh:
        self._check(item.document)
        sender, now = control.peer.id, time.monotonic()
        fresh = system_entropy(handshake.FRESH_BYTES)
        with self._changed:
            self._keep_proposals(lambda key, found: found.time >= now - self.settings.connect_seconds)
            open_now = sum(session.control.peer.id == sender for session in self._sessions.values())
            proposed = sum(found.sender == sender for found in self._proposals.values())
            if open_now + proposed >= self.settings.max_sessions_per_principal:
                raise LimitExceededError(
                    f"{sender} has {open_now} sessions at {self.node.id} and has proposed {proposed}; the limit is "
                    f"{self.settings.max_sessions_per_principal}. Close some first."
                )
            self._proposals[id(control), item.document.canonical()] = _Proposal(fresh, now, sender)
        return Fresh(fresh)

    def _keep_proposals(self, fits: Callable[[tuple[int, bytes], _Proposal], bool]) -> None:
        self._proposals = {key: found for key, found in self._proposals.items() if fits(key, found)}

    def _check(self, document: SessionDocument) -> None:
        """Refuse a document in which this worker would not take part as itself, or that no session can have."""
        ids = [entry.id for entry in document.members]
        for entry in document.members:
            check_id(entry.id)
        if len(document.modulus) > _MAX_MODULUS_BYTES:
            raise LimitExceededError(f"A modulus of {len(document.modulus)} bytes; {_MAX_MODULUS_BYTES} are taken.")
        if document.version != handshake.VERSION:
            raise HandshakeError(
                f"The driver speaks version {document.version} of the session protocol, {self.node.id} version "
                f"{handshake.VERSION}. Install the same version of sharetorch on both."
            )
        own = [entry for entry in document.members if entry.id == self.identity.id]
        if len(own) != 1 or own[0].public != self.identity.public:
            raise HandshakeError(f"The session document does not name {self.identity.id} once with its identity key.")
        if len(set(ids)) != len(ids) or len({entry.public for entry in document.members}) != len(ids):
            raise MembersError(f"A session of {', '.join(ids)}: nobody may be in it twice.")
        if not 2 <= document.parties <= len(ids) <= min(document.parties + 1, _MAX_MEMBERS):
            raise MembersError(
                f"A session of {len(ids)} members, {document.parties} of them parties; there must be 2 to "
                f"{_MAX_MEMBERS - 1} parties and at most one provider."
            )
        if document.suite not in SUITES or document.suite == Plaintext.name:
            raise UnsupportedOperationError(f"There is no protocol {document.suite!r} at {self.node.id}.")
        if not 0 < document.round_seconds <= self.settings.round_seconds * 10:
            raise LimitExceededError(f"{document.round_seconds} s for a message; that is not for {self.node.id}.")

    def _open(self, control: Control, number: int, item: Open) -> None:
        with self._changed:
            mine = self._proposals.pop((id(control), item.document.canonical()), None)
        rank = next(i for i, entry in enumerate(item.document.members) if entry.id == self.identity.id) if mine else 0
        lengths = {len(fresh) for fresh in item.fresh}
        fits = len(item.fresh) == len(item.document.members) and lengths == {handshake.FRESH_BYTES}
        if mine is None or not fits or item.fresh[rank] != mine.fresh:
            raise HandshakeError(f"{self.node.id} has not agreed to this session. Propose it first.")
        session = HostedSession(self, control, item.document, handshake.session_id(item.document, item.fresh), rank)
        with self._changed:
            self._sessions[session.id] = session
            self._changed.notify_all()
        session.start(number)

    def accept_peer(self, sock: ssl.SSLSocket, peer: Peer) -> None:
        """Take over a connection that another member has dialed; runs in a thread of its own."""
        try:
            sock.settimeout(self.settings.connect_seconds)
            hello = handshake.read_hello(sock)
            session = self._await(hello.session)
            session.meeting.accept(sock, peer, hello)
        except (ShareTorchError, OSError) as error:
            call = Call(peer.id)
            call.request = "peer connection"
            self.node.audit.note(call, type(error).__name__)
            sock.close()

    def _await(self, session: bytes) -> HostedSession:
        """The session of that id; a peer may be here before the driver's word is."""
        with self._changed:
            if self._early >= _MAX_EARLY:
                raise LimitExceededError(f"{_MAX_EARLY} members wait at {self.node.id} for a driver's word already.")
            self._early += 1
            self._changed.wait_for(lambda: session in self._sessions, self.settings.connect_seconds)
            self._early -= 1
            if session not in self._sessions:
                raise HandshakeError("A member connected for a session that this worker is not in.")
            return self._sessions[session]

    def driver_lost(self, control: Control) -> None:
        """End what a driver has begun, after its connection has ended."""
        for session in list(self._sessions.values()):
            if session.control is control:
                lost = ConnectionLostError(f"The driver {control.peer.id} has closed its connection or gone silent.")
                lost.member = control.peer.id
                session.stop(lost)
        with self._changed:
            self._keep_proposals(lambda key, found: key[0] != id(control))

    def over(self, session: HostedSession, reason: str) -> None:
        """Forget a session that has ended."""
        with self._changed:
            self._sessions.pop(session.id, None)
            self._over[session.id] = reason
            while len(self._over) > _REMEMBERED:
                del self._over[next(iter(self._over))]

    def stop(self) -> None:
        """End all sessions."""
        for session in list(self._sessions.values()):
            session.stop(ConnectionLostError(f"{self.node.id} is shutting down."))
        for session in list(self._sessions.values()):
            session.join(self.settings.handshake_seconds)
