"""A worker as a process: its node and its sessions behind one listening port.

What belongs to a connection ends with it; what belongs to a member, by its certificate, stays: objects survive
reconnecting, and nobody else sees them.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections import deque
from typing import Protocol

import msgspec

from sharetorch.mpc.errors import (
    FrameError,
    HandshakeError,
    LimitExceededError,
    ShareTorchError,
    UnsupportedOperationError,
)
from sharetorch.mpc.network.identity import ALPN_CONTROL, ALPN_PEER, Identity, Peer
from sharetorch.remote import wire
from sharetorch.remote.links import bound_for
from sharetorch.remote.network import approvals
from sharetorch.remote.network.acceptor import Acceptor, Tell, silent
from sharetorch.remote.network.client import VERSION, Hello
from sharetorch.remote.network.control import APPROVAL, HELLO, NESTED, NODE, SESSION, Control
from sharetorch.remote.network.node import BESIDE, NetworkNode, Turn
from sharetorch.remote.network.settings import NetworkSettings
from sharetorch.remote.network.stream import Stream
from sharetorch.remote.network.websocket import open_server
from sharetorch.remote.node import Node, failure

_EXECUTE = b"\xa7execute"
"""How the tag of ``Execute`` begins in a message: one operation, which the thread that reads runs by itself."""


class Sessions(Protocol):
    """What takes part in sessions; ``remote/sessions/hosting.py`` has it."""

    def serve(self, control: Control, number: int, payload: bytes) -> None:
        """Take an item of a driver; must not wait for long."""

    def accept_peer(self, sock: ssl.SSLSocket, peer: Peer) -> None:
        """Take over a connection of another member."""

    def driver_lost(self, control: Control) -> None:
        """A control connection has ended."""

    def stop(self) -> None:
        """End all sessions."""


class WorkerServer:
    """Serves a node, and sessions, to whoever has a certificate.

    Args:
        node: what is served.
        identity: our own.
        host: address to listen at.
        port: 0 takes a free one.
        settings: deadlines and limits.
        sessions: what takes part in sessions; such items are refused without.
        lanes: processes of which this worker consists.
        advertised: where other members reach it, "host:port", if not where drivers do.
        tell: hears of connections that are refused or ended.

    Attributes:
        address: host and port.
        turn: held while a request is served.
    """

    def __init__(
        self,
        node: Node,
        identity: Identity,
        host: str = "127.0.0.1",
        port: int = 0,
        settings: NetworkSettings | None = None,
        sessions: Sessions | None = None,
        lanes: int = 1,
        advertised: str = "",
        tell: Tell = silent,
    ) -> None:
        self.node = node
        self.identity = identity
        self.settings = settings or NetworkSettings()
        self.sessions = sessions
        self._tell = tell
        self.turn = node.turn if isinstance(node, NetworkNode) else Turn()
        self._hello = msgspec.msgpack.encode(
            Hello(VERSION, identity.id, lanes, advertised, self.settings.max_message_bytes)
        )
        self._lock = threading.Lock()
        self._visitors: set[_Visitor] = set()
        self._beside: dict[str, int] = {}
        self._stopped = threading.Event()
        self._acceptor = Acceptor(identity, host, port, self.settings, self._take, tell)
        self.address = self._acceptor.address

    def start(self) -> WorkerServer:
        """Begin to serve, in threads of its own."""
        self._acceptor.start()
        return self

    def serve_forever(self) -> None:
        """Serve until ``stop`` is called."""
        if not self._stopped.is_set() and not self._acceptor.started:
            self.start()
        self._stopped.wait()

    def stop(self) -> None:
        """Accept no more, end all connections and sessions."""
        self._acceptor.stop()
        with self._lock:
            visitors = list(self._visitors)
        for visitor in visitors:
            visitor.control.close(f"{self.identity.id} is shutting down")
        if self.sessions is not None:
            self.sessions.stop()
        if isinstance(self.node, NetworkNode):
            self.node.close()
        for visitor in visitors:
            visitor.control.join(1.0)
        self._stopped.set()

    # --------------------------------------------------------------------------------------------------- connections

    def _take(self, sock: ssl.SSLSocket, peer: Peer) -> None:
        """Take over a connection whose other end is known."""
        protocol = sock.selected_alpn_protocol()
        if protocol == ALPN_PEER and self.sessions is not None:
            self.sessions.accept_peer(sock, peer)
        elif protocol == ALPN_CONTROL:
            self._welcome(sock, peer)
        else:
            raise HandshakeError(f"{peer.id} asks for {protocol!r}, which is not served here.")

    def _welcome(self, sock: socket.socket, peer: Peer) -> None:
        stream = Stream(sock)
        try:
            websocket = open_server(stream, self.settings.handshake_seconds, self._refusal(peer))
        except BaseException:
            stream.close()
            raise
        visitor = _Visitor(self)
        visitor.control = Control(websocket, peer, self.settings, visitor.serve)
        visitor.control.on_close.append(visitor.left)
        with self._lock:
            self._visitors.add(visitor)
        visitor.start()
        if self._stopped.is_set():
            visitor.control.close()

    def _refusal(self, peer: Peer) -> str | None:
        """Why a member may not connect once more."""
        most = self.settings.max_connections_per_principal
        with self._lock:
            count = sum(visitor.control.peer.id == peer.id for visitor in self._visitors)
        return f"{peer.id} has {count} connections already; at most {most} are served" if count >= most else None

    def leave(self, visitor: _Visitor, error: Exception) -> None:
        """Forget a connection that has ended."""
        with self._lock:
            self._visitors.discard(visitor)
        if isinstance(error, (FrameError, LimitExceededError)):
            self._tell("warning", "connection ended", peer=visitor.control.peer.id, reason=str(error))
        if self.sessions is not None:
            self.sessions.driver_lost(visitor.control)

    # ------------------------------------------------------------------------------------------------------ requests

    def greeting(self, payload: bytes, peer: Peer) -> bytes:
        """The answer to a hello.

        Raises:
            HandshakeError: it is malformed, or of another version.
        """
        try:
            hello = msgspec.msgpack.decode(payload, type=Hello)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise HandshakeError("The hello is malformed.") from error
        if hello.version != VERSION or hello.id != peer.id:
            raise HandshakeError(
                f"{self.identity.id} speaks version {VERSION} of the control channel and knows the other end as "
                f"{peer.id}; the hello says version {hello.version} and {hello.id[:64]!r}."
            )
        return self._hello

    def answer(self, payload: bytes, sender: str) -> bytes:
        """Serve a request to the node, when its turn comes."""
        with self.turn, bound_for(sender):
            return self.node.receive(payload, sender)

    def decide(self, payload: bytes, sender: str) -> bytes:
        """Serve a request of the worker's owner about requests that wait for approval."""
        with self.turn:
            return approvals.serve(self.node, payload, sender, self.node.owners)

    def answer_beside(self, control: Control, number: int, payload: bytes) -> None:
        """Serve a request of a worker that is serving one itself, beside the others, in a thread of its own."""
        sender = control.peer.id
        with self._lock:
            running = self._beside.get(sender, 0)
            if running < BESIDE:
                self._beside[sender] = running + 1
        if running >= BESIDE:
            error = LimitExceededError(
                f"{self.identity.id} serves {BESIDE} requests of {sender} that wait for one another already. Pointers "
                "lead in a circle, or through too many workers."
            )
            control.reply(number, wire.encode(failure(error)))
            return
        threading.Thread(
            target=self._answer_beside, args=(control, number, payload), name=f"beside {sender}", daemon=True
        ).start()

    def _answer_beside(self, control: Control, number: int, payload: bytes) -> None:
        sender = control.peer.id
        try:
            control.reply(number, self.answer(payload, sender))
        finally:
            with self._lock:
                self._beside[sender] -= 1
                if not self._beside[sender]:
                    del self._beside[sender]


class _Visitor:
    """One control connection, and the requests that came by it and wait.

    They are served in the order in which they came, by a thread of their own, so that items of sessions and the end of
    the connection are noticed meanwhile. Single operations are run by the thread that reads, unless others wait before
    them: that saves a fifth of their time.

    Attributes:
        control: the connection.
    """

    control: Control

    def __init__(self, server: WorkerServer) -> None:
        self._server = server
        self._greeted = False
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._busy = 0
        self._changed = threading.Condition()
        self._gone = False

    def start(self) -> None:
        """Begin to serve."""
        threading.Thread(target=self._run, name=f"requests of {self.control.peer.id}", daemon=True).start()
        self.control.start()

    def serve(self, control: Control, kind: int, number: int, payload: bytes) -> None:
        """Take an item; called by the thread that reads.

        Raises:
            FrameError: it may not come now.
        """
        if kind == HELLO and not self._greeted:
            self._greet(number, payload)
        elif not self._greeted:
            raise FrameError(f"An item of kind {kind} came before the hello.")
        elif kind == NODE and not self._busy and payload[1:9] == _EXECUTE:
            control.reply(number, self._server.answer(payload, control.peer.id))
        elif kind == NODE:
            self._put(number, payload)
        elif kind == APPROVAL:
            control.reply(number, self._server.decide(payload, control.peer.id))
        elif kind == NESTED:
            self._server.answer_beside(control, number, payload)
        elif kind == SESSION and self._server.sessions is not None:
            self._server.sessions.serve(control, number, payload)
        elif kind == SESSION:
            control.refuse(number, UnsupportedOperationError(f"{self._server.identity.id} takes part in no sessions."))
        else:
            raise FrameError(f"An item of kind {kind} may not be sent to a worker, or not again.")

    def _greet(self, number: int, payload: bytes) -> None:
        if not number:
            raise FrameError("A hello wants a reply.")
        try:
            self.control.reply(number, self._server.greeting(payload, self.control.peer))
        except ShareTorchError as error:
            self.control.refuse(number, error)
            raise FrameError(str(error)) from error
        self._greeted = True

    def _put(self, number: int, payload: bytes) -> None:
        """Let a request wait for its turn; too much that waits stops the reading."""
        with self._changed:
            while self._waiting and self._bytes + len(payload) > self._server.settings.queue_bytes and not self._gone:
                self._changed.wait(1.0)
            self._waiting.append((number, payload))
            self._busy += 1
            self._bytes += len(payload)
            self._changed.notify_all()

    def _run(self) -> None:
        """The thread that serves requests in the order in which they came."""
        while True:
            with self._changed:
                while not self._waiting and not self._gone:
                    self._changed.wait()
                if not self._waiting:
                    return
                number, payload = self._waiting.popleft()
            reply = self._server.answer(payload, self.control.peer.id)
            with self._changed:
                self._bytes -= len(payload)
                self._changed.notify_all()
            self.control.reply(number, reply)
            with self._changed:
                self._busy -= 1
            del payload, reply

    def left(self, error: Exception) -> None:
        """The connection has ended: what waits is served still, as whoever sent it does not know that it is not."""
        with self._changed:
            self._gone = True
            self._changed.notify_all()
        self._server.leave(self, error)
