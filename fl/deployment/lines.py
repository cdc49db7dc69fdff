"""Connections on which typed messages come and go, between a server and its clients.

Below is the control channel of workers (``remote/network/control.py``): TLS 1.3 with certificates on both sides, signs
of life, messages of bounded size. Its threads hand messages to the event loop; whoever sends what is no message ends
its own connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from typing import Any

from sharetorch.fl.masking.messages import Message, encode
from sharetorch.fl.rounds.threads import Busy
from sharetorch.mpc.errors import ConnectionLostError, FrameError, HandshakeError, NetworkError, ShareTorchError
from sharetorch.mpc.network.identity import ALPN_CONTROL, Identity, Peer, dial
from sharetorch.remote.network.acceptor import Acceptor, Tell
from sharetorch.remote.network.control import SESSION, Control
from sharetorch.remote.network.settings import Address, NetworkSettings
from sharetorch.remote.network.stream import Stream
from sharetorch.remote.network.websocket import Websocket, open_client, open_server

_MOST_UNREAD = 64
"""Messages of one connection that may wait to be taken."""

Read = Callable[[bytes], Any]
"""From bytes to a message."""


class Line:
    """One end of a connection.

    Args:
        websocket: opened.
        peer: whom it belongs to, by its certificate.
        settings: deadlines and limits.
        read: makes messages of bytes; what it raises ends the connection.
        take: called in the event loop with each message.
        ended: called in the event loop when the connection has ended, once.

    Attributes:
        peer: as given.
    """

    def __init__(
        self,
        websocket: Websocket,
        peer: Peer,
        settings: NetworkSettings,
        read: Read,
        take: Callable[[Line, Any], None],
        ended: Callable[[Line, Exception], None],
    ) -> None:
        self.peer = peer
        self._loop = asyncio.get_running_loop()
        self._read, self._take, self._ended = read, take, ended
        self._lock = threading.Lock()
        self._unread = 0
        self._control = Control(websocket, peer, settings, self._serve)
        self._control.on_close.append(self._over)

    def start(self) -> Line:
        """Begin to read. Returns the line."""
        self._control.start()
        return self

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._control.closed

    def send(self, message: Message) -> None:
        """Send a message, soon; of a connection that has ended ``ended`` tells."""
        self.send_encoded(encode(message))

    def send_encoded(self, data: bytes) -> None:
        """Send a message that many get."""
        with contextlib.suppress(ConnectionLostError):
            self._control.post(SESSION, data)

    def close(self, last: Message | None = None) -> None:
        """Send a last message, and end the connection, in a thread of its own."""
        threading.Thread(target=self._close, args=(last,), name=f"goodbye to {self.peer.id}", daemon=True).start()

    def _close(self, last: Message | None) -> None:
        with contextlib.suppress(NetworkError, ssl.SSLError, OSError):
            if last is not None:
                self._control.post(SESSION, encode(last))
            self._control.flush()
        self._control.close()

    def _serve(self, control: Control, kind: int, number: int, payload: bytes) -> None:
        """Take an item; called by the thread that reads."""
        if kind != SESSION or number:
            raise FrameError(f"An item of kind {kind} does not belong into a federation.")
        try:
            message = self._read(payload)
        except ShareTorchError as error:
            raise FrameError(f"{self.peer.id} sent what is no message of a federation: {error}") from error
        with self._lock:
            self._unread += 1
            if self._unread > _MOST_UNREAD:
                raise FrameError(f"{self.peer.id} sent more than {_MOST_UNREAD} messages that nobody asked for.")
        self._loop.call_soon_threadsafe(self._hand_over, message)

    def _hand_over(self, message: Any) -> None:
        with self._lock:
            self._unread -= 1
        self._take(self, message)

    def _over(self, error: Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
            self._loop.call_soon_threadsafe(self._ended, self, error)


class Door:
    """Where clients come in.

    Args:
        identity: the server's.
        address: to listen at.
        settings: deadlines and limits.
        arrive: called in the event loop with a websocket, whom it belongs to, and its certificate in DER.
        tell: hears of connections that are refused.

    Attributes:
        address: host and port.

    Raises:
        WorkerUnreachableError: the address is not ours or taken.
    """

    def __init__(
        self,
        identity: Identity,
        address: Address,
        settings: NetworkSettings,
        arrive: Callable[[Websocket, Peer, bytes], None],
        tell: Tell,
    ) -> None:
        self._settings, self._arrive = settings, arrive
        self._loop = asyncio.get_running_loop()
        self._acceptor = Acceptor(identity, *address, settings, self._take, tell)
        self.address = Address(*self._acceptor.address)

    def open(self) -> None:
        """Begin to accept."""
        self._acceptor.start()

    def close(self) -> None:
        """Accept no more."""
        self._acceptor.stop()

    def _take(self, sock: ssl.SSLSocket, peer: Peer) -> None:
        """Open a websocket on a connection whose other end is known; in a thread of its own."""
        certificate = sock.getpeercert(binary_form=True) or b""
        if sock.selected_alpn_protocol() != ALPN_CONTROL:
            raise HandshakeError(f"{peer.id} asks for {sock.selected_alpn_protocol()!r}, which is not served here.")
        stream = Stream(sock)
        try:
            websocket = open_server(stream, self._settings.handshake_seconds)
            self._loop.call_soon_threadsafe(self._arrive, websocket, peer, certificate)
        except RuntimeError:  # the loop is closed
            stream.close()
        except BaseException:
            stream.close()
            raise


async def reach(
    identity: Identity, address: Address, expect: str, settings: NetworkSettings
) -> tuple[Websocket, Peer]:
    """Connect to a server.

    Args:
        identity: our own.
        address: where it listens.
        expect: the id its certificate must have.
        settings: deadlines and limits.

    Raises:
        WorkerUnreachableError: nobody answers.
        HandshakeError: one side refuses the other, or another member than expected answers.
        DeadlineExceededError: somebody answers, but not in time.
    """
    made: list[Websocket] = []
    given_up = threading.Event()

    def call() -> tuple[Websocket, Peer]:
        websocket, peer = _reached(identity, address, expect, settings)
        made.append(websocket)
        if given_up.is_set():
            websocket.release()
        return websocket, peer

    try:
        return await Busy().run(f"call to {address}", call)
    except asyncio.CancelledError:
        given_up.set()
        for websocket in made:
            websocket.release()
        raise


def _reached(identity: Identity, address: Address, expect: str, settings: NetworkSettings) -> tuple[Websocket, Peer]:
    seconds = settings.connect_seconds
    sock, peer = dial(identity, address, expect, ALPN_CONTROL, seconds)
    stream = Stream(sock)
    try:
        return open_client(stream, str(address), f"{peer.id} at {address}", seconds), peer
    except BaseException:
        stream.close()
        raise


def passing(error: Exception) -> bool:
    """Whether another try may succeed: nobody answered, or the connection broke, but nobody refused."""
    if isinstance(error, HandshakeError):
        cause = error.__cause__
        return isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError, EOFError, ConnectionError))
    return isinstance(error, NetworkError) and not isinstance(error, FrameError)
