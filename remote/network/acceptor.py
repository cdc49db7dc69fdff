"""Accepting connections: nobody gets further than the handshake without a certificate, or holds it up for others.

Each handshake has a thread of its own. There are a bounded number of them: when one more connection comes, the oldest
that has not shown its certificate is dropped. Whoever opens connections and stays silent therefore costs a fixed amount
of memory, and whoever has a certificate is through long before it is the oldest.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Protocol

from sharetorch.mpc.errors import NetworkError, WorkerUnreachableError
from sharetorch.mpc.network.identity import Identity, Peer, accept
from sharetorch.remote.network.settings import NetworkSettings

_BACKLOG = 1024
_PAUSE_SECONDS = 0.05

class Tell(Protocol):
    """What is told of events; such as ``log`` of ``sharetorch.cli.logs``."""

    def __call__(self, level: str, event: str, **facts: object) -> None:
        """Take an event, with public facts about it."""


def silent(level: str, event: str, **facts: object) -> None:
    """Let an event pass."""


Take = Callable[[ssl.SSLSocket, Peer], None]
"""What is done with a connection whose other end is known; runs in the thread of its handshake."""


class Acceptor:
    """Listens at an address.

    Args:
        identity: our own.
        host: address to listen at.
        port: 0 takes a free one.
        settings: deadlines and limits.
        take: what is done with a connection whose other end is known.
        tell: hears of connections that are refused.

    Attributes:
        address: host and port.

    Raises:
        WorkerUnreachableError: the address is not ours or taken.
    """

    def __init__(
        self, identity: Identity, host: str, port: int, settings: NetworkSettings, take: Take, tell: Tell = silent
    ) -> None:
        self._context = identity.server_context()
        self._settings = settings
        self._take = take
        self._tell = tell
        self._lock = threading.Lock()
        self._pending: dict[int, socket.socket] = {}
        self._next = 0
        self._stopped = False
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listening = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise WorkerUnreachableError(
                f"{identity.id} cannot listen at {host}:{port}: {error.strerror or error}. Choose another address or "
                "port, or stop the program that has it."
            ) from error
        self.address: tuple[str, int] = self._listening.getsockname()[:2]
        self._thread = threading.Thread(target=self._run, name="accept", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    @property
    def started(self) -> bool:
        """Whether it has begun."""
        return self._thread.ident is not None

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError as error:
                if self._stopped:
                    return
                self._tell("warning", "accepting failed", reason=error.strerror)
                time.sleep(_PAUSE_SECONDS)
                continue
            try:
                self._admit(sock)
            except (OSError, RuntimeError) as error:  # no file descriptors or threads are left
                sock.close()
                self._tell("warning", "connection dropped", reason=str(error))
                time.sleep(_PAUSE_SECONDS)

    def _admit(self, sock: socket.socket) -> None:
        """Let a handshake begin, and drop the oldest one if there are too many."""
        watched = socket.socket(fileno=os.dup(sock.fileno()))
        with self._lock:
            number = self._next
            self._next += 1
            self._pending[number] = watched
            if len(self._pending) > self._settings.pending_handshakes:
                _stop(self._pending[next(iter(self._pending))])
                self._forget(next(iter(self._pending)))
        threading.Thread(target=self._shake_hands, args=(number, sock), name="handshake", daemon=True).start()

    def _shake_hands(self, number: int, sock: socket.socket) -> None:
        try:
            tls, peer = accept(self._context, sock, self._settings.handshake_seconds)
        except (NetworkError, OSError, ValueError) as error:
            if not self._stopped:
                self._tell("info", "connection refused", reason=str(error))
            return
        finally:
            with self._lock:
                self._forget(number)
        try:
            self._take(tls, peer)
        except (NetworkError, OSError, ValueError) as error:
            if not self._stopped:
                self._tell("info", "connection refused", peer=peer.id, reason=str(error))
            with contextlib.suppress(OSError):
                tls.close()

    def _forget(self, number: int) -> None:
        watched = self._pending.pop(number, None)
        if watched is not None:
            watched.close()

    def stop(self) -> None:
        """Accept no more."""
        self._stopped = True
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            for number in list(self._pending):
                _stop(self._pending[number])
                self._forget(number)
        if self.started:
            self._thread.join(1.0)


def _stop(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
