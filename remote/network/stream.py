"""A connection that one thread reads while others write.

OpenSSL allows one call at a time on a connection, so every call is made under a lock and never waits inside: whoever
must wait does so outside of the lock, for the socket itself.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time

from sharetorch.mpc.errors import ConnectionLostError, DeadlineExceededError

_READ = 1 << 18
_WRITE = 1 << 18
_RECORD = 1 << 14
_SLICE_SECONDS = 1.0
"""How long a wait lasts before it looks whether the connection was closed meanwhile."""


class Stream:
    """A TLS connection, or in tests a plain one.

    Args:
        sock: a connected socket; it belongs to the stream from now on.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._lock = threading.Lock()
        self._closed = False
        self._reading, self._writing = select.poll(), select.poll()

    def read(self, seconds: float) -> bytes:
        """What has arrived; waits until something has. Empty at the end of the stream.

        For one thread.

        Raises:
            DeadlineExceededError: nothing came for so long.
            ConnectionLostError: the connection broke, or was closed here.
        """
        deadline = time.monotonic() + seconds
        wanted: int | None = select.POLLIN
        while wanted is not None:
            if self._pending():
                pass
            elif not self._wait(self._reading, wanted, min(_SLICE_SECONDS, deadline - time.monotonic())):
                self._require_open()
                if time.monotonic() >= deadline:
                    raise DeadlineExceededError(f"Nothing came for {seconds:g} s.")
                continue
            data, wanted = self._receive()
        return data

    def _pending(self) -> bool:
        """Whether OpenSSL has something that the socket no longer shows."""
        with self._lock:
            self._require_open()
            return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def _receive(self) -> tuple[bytes, int | None]:
        """What is there, at most about ``_READ`` bytes, and None; or nothing, and what to wait for."""
        parts: list[bytes] = []
        size = 0
        with self._lock:
            self._require_open()
            while size < _READ:
                try:
                    part = self._sock.recv(_READ)
                except (ssl.SSLWantReadError, BlockingIOError):
                    return b"".join(parts), None if parts else select.POLLIN
                except ssl.SSLWantWriteError:
                    return b"".join(parts), None if parts else select.POLLOUT
                except (OSError, ValueError) as error:
                    if parts or isinstance(error, ssl.SSLEOFError):
                        return b"".join(parts), None
                    if isinstance(error, ssl.SSLError):
                        raise
                    raise _lost(error) from error
                parts.append(part)
                size += len(part)
                if len(part) < _RECORD:  # no full record: most likely there is no more
                    break
        return b"".join(parts), None

    def write(self, data: bytes) -> None:
        """Send everything; waits as long as the other end takes to make room. For one thread at a time.

        Raises:
            ConnectionLostError: the connection broke, or was closed.
        """
        view = memoryview(data)
        while view:
            chunk = view[:_WRITE]
            try:
                with self._lock:
                    self._require_open()
                    view = view[self._sock.send(chunk) :]
                continue
            except (ssl.SSLWantWriteError, BlockingIOError):
                wanted = select.POLLOUT
            except ssl.SSLWantReadError:
                wanted = select.POLLIN
            except (OSError, ValueError) as error:
                raise _lost(error) from error
            self._wait(self._writing, wanted, _SLICE_SECONDS)

    def _wait(self, poll: select.poll, wanted: int, seconds: float) -> bool:
        try:
            poll.register(self._sock, wanted)
            return bool(poll.poll(max(0.0, 1000 * seconds)))
        except (OSError, ValueError) as error:  # closed by another thread
            raise ConnectionLostError("The connection was closed here.") from error

    def _require_open(self) -> None:
        if self._closed:
            raise ConnectionLostError("The connection was closed here.")

    def stop(self) -> None:
        """Let both directions end, from any thread, without waiting; whoever waits wakes up."""
        self._closed = True
        with contextlib.suppress(OSError, ValueError):
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)  # SSLSocket's own would pull OpenSSL away from others

    def close(self) -> None:
        """Give the socket back."""
        self.stop()
        with self._lock, contextlib.suppress(OSError):
            self._sock.close()


def _lost(error: Exception) -> ConnectionLostError:
    if isinstance(error, ConnectionLostError):
        return error
    return ConnectionLostError(f"The connection broke ({getattr(error, 'strerror', None) or type(error).__name__}).")
