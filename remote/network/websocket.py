"""Messages over a websocket, without compression, without fragments and of bounded size.

The protocol itself is that of the ``websockets`` package, its part without input and output.
"""

from __future__ import annotations

import http
import ssl
import threading
import time
from typing import Any

from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from sharetorch.mpc.errors import ConnectionLostError, DeadlineExceededError, FrameError, HandshakeError
from sharetorch.mpc.network.identity import tls_failure
from sharetorch.remote.network.stream import Stream

MESSAGE_BYTES = (4 << 20) + 4096
"""Largest message."""

_PINGS = 100
_REASON = 100
"""Pings that may wait for their answers, and characters of a reason that are passed on."""


class Websocket:
    """One end of a websocket whose opening handshake is done: made by ``open_client`` and ``open_server``.

    Args:
        stream: the connection.
        protocol: of ``websockets``, in the open state.
    """

    def __init__(self, stream: Stream, protocol: ClientProtocol | ServerProtocol) -> None:
        self._stream = stream
        self._protocol = protocol
        self._lock = threading.Lock()
        self._pings = 0

    def send(self, message: bytes) -> None:
        """Send one message, after the answers that are due. For one thread at a time.

        Raises:
            ConnectionLostError: the connection broke or was closed.
        """
        with self._lock:
            self._require_open()
            self._protocol.send_binary(message)
        self.answer()

    def ping(self) -> None:
        """Show that this end is alive, and ask the other one. For the thread that sends."""
        with self._lock:
            self._require_open()
            self._protocol.send_ping(b"")
        self.answer()

    def answer(self) -> None:
        """Send the answers that are due. For the thread that sends."""
        with self._lock:
            due = self._protocol.data_to_send()
            self._pings = 0
        for data in due:
            if data:
                self._stream.write(data)

    def receive(self, seconds: float) -> tuple[list[bytes], bool]:
        """Wait for something. For one thread.

        Returns:
            The messages that are complete, perhaps none; and whether answers are due.

        Raises:
            DeadlineExceededError: the other end was silent for so long.
            ConnectionLostError: the connection broke or was closed.
            FrameError: the other end broke the rules.
        """
        data = self._stream.read(seconds)
        with self._lock:
            if data:
                self._protocol.receive_data(data)
            else:
                self._protocol.receive_eof()
            events = self._protocol.events_received()
            failed = self._protocol.parser_exc
        messages = [bytes(event.data) for event in events if isinstance(event, Frame) and self._is_message(event)]
        if failed is not None and data:
            raise FrameError(f"The other end broke the rules of websockets: {str(failed)[:_REASON]}.")
        if not messages and (not data or self._protocol.state is not State.OPEN):
            raise ConnectionLostError(f"The other end closed the connection{self._reason()}.")
        return messages, bool(self._pings)

    def _is_message(self, frame: Frame) -> bool:
        if frame.opcode is Opcode.PING:
            self._pings += 1
            if self._pings > _PINGS:
                raise FrameError(f"The other end sent more than {_PINGS} pings at once.")
            return False
        if frame.opcode in (Opcode.PONG, Opcode.CLOSE):
            return False
        if frame.opcode is not Opcode.BINARY or not frame.fin:
            raise FrameError("The other end sent a text or a message in fragments; messages are binary and whole.")
        return True

    def _reason(self) -> str:
        close = self._protocol.close_rcvd
        return f" and says: {close.reason[:_REASON]}" if close is not None and close.reason else ""

    def _require_open(self) -> None:
        if self._protocol.state is not State.OPEN:
            raise ConnectionLostError(f"The other end closed the connection{self._reason()}.")

    def close(self, reason: str = "", broken: bool = False) -> None:
        """Say goodbye, as far as the connection takes it at once. For the thread that sends."""
        with self._lock:
            if self._protocol.state is State.OPEN:
                code = CloseCode.POLICY_VIOLATION if broken else CloseCode.NORMAL_CLOSURE
                self._protocol.send_close(code, reason[:_REASON].encode("ascii", "replace").decode())
        self.answer()

    def stop(self) -> None:
        """Wake whoever waits for the connection, from any thread; it can be used no more."""
        self._stream.stop()

    def release(self) -> None:
        """Give the connection back."""
        self._stream.close()


def open_client(stream: Stream, host: str, who: str, seconds: float) -> Websocket:
    """Open a websocket on a connection to a worker.

    Args:
        stream: the connection.
        host: name or address of the worker's machine and its port, for the request's header.
        who: the worker, for messages.
        seconds: for all of it.

    Raises:
        HandshakeError: the worker refuses, or is none.
        DeadlineExceededError: it does not answer in time.
    """
    protocol = ClientProtocol(parse_uri(f"wss://{host}/"), max_size=MESSAGE_BYTES)
    protocol.send_request(protocol.connect())
    try:
        _write(stream, protocol)
        _read_event(stream, protocol, time.monotonic() + seconds)
    except (ssl.SSLError, ConnectionLostError, EOFError) as error:
        raise tls_failure(error, who) from error
    except DeadlineExceededError as error:
        raise DeadlineExceededError(f"{who} did not answer within {seconds:g} s. It is overloaded or hangs.") from error
    if protocol.handshake_exc is not None:
        raise HandshakeError(
            f"{who} does not speak the protocol of ShareTorch's workers: {str(protocol.handshake_exc)[:_REASON]}."
        )
    return Websocket(stream, protocol)


def open_server(stream: Stream, seconds: float, refusal: str | None = None) -> Websocket:
    """Open a websocket on a connection that was opened to us.

    Args:
        stream: the connection.
        seconds: for all of it.
        refusal: why the other end is to be turned away, if it is.

    Raises:
        HandshakeError: the other end asks for something else, comes from a web page, or is turned away.
        DeadlineExceededError: it does not ask in time.
    """
    protocol = ServerProtocol(origins=[None], max_size=MESSAGE_BYTES)
    try:
        request = _read_event(stream, protocol, time.monotonic() + seconds)
        if isinstance(request, Request):
            if refusal is None:
                protocol.send_response(protocol.accept(request))
            else:
                protocol.send_response(protocol.reject(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{refusal}\n"))
        _write(stream, protocol)
    except (ssl.SSLError, ConnectionLostError, EOFError) as error:
        raise HandshakeError("The other end closed the connection before it opened a websocket.") from error
    if refusal is not None or protocol.handshake_exc is not None or protocol.state is not State.OPEN:
        raise HandshakeError(refusal or f"No websocket was asked for: {str(protocol.handshake_exc)[:_REASON]}.")
    return Websocket(stream, protocol)


def _write(stream: Stream, protocol: ClientProtocol | ServerProtocol) -> None:
    for data in protocol.data_to_send():
        if data:
            stream.write(data)


def _read_event(
    stream: Stream, protocol: ClientProtocol | ServerProtocol, deadline: float
) -> Request | Response | None:
    """The first event; None if what came is none."""
    while True:
        data = stream.read(max(0.0, deadline - time.monotonic()))
        if not data:
            raise EOFError
        protocol.receive_data(data)
        events = protocol.events_received()
        if events or protocol.handshake_exc is not None:
            _keep_rest(protocol, events[1:])
            first = events[0] if events else None
            return first if isinstance(first, (Request, Response)) else None


def _keep_rest(protocol: ClientProtocol | ServerProtocol, events: list[Any]) -> None:
    """Frames that came with the handshake wait for the first ``receive``."""
    protocol.events[:0] = events
