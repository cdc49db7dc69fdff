"""The way from one node to another in the same process: bytes in, bytes out, as over a wire."""

from __future__ import annotations

import time
from typing import Any

import torch

from sharetorch.remote import wire
from sharetorch.remote.messages import Call, Execute, Failed, Forget, Message, Reply
from sharetorch.remote.node import Node, error_of

_FORGOTTEN_AT_ONCE = 16
"""Deletions that travel in one message: a message for each would cost a fifth of the time of an operation."""

_AFRESH = (torch._C._dispatch_tls_local_include_set(), torch._C._dispatch_tls_local_exclude_set())
"""How torch dispatches outside of any operation. A request is sent from inside one, where torch passes over the kernels
that look at a tensor's conjugate and negative bits; a worker of this process must compute as one of another process
does."""


_CARRY_DELETIONS = (Execute, Call)
"""Requests that take deletions along."""


class MemoryLink:
    """Carries requests of ``owner`` to ``worker``.

    A request waits for the ``message_pending_time``, in seconds, of both, where they have one.

    Deletions go with the next operation, or by themselves if there are many or a request could tell the difference.

    Attributes:
        owner: who asks.
        worker: who is asked.
        sent: requests so far.
        bytes_sent: of all requests.
        bytes_received: of all replies.
    """

    __slots__ = ("__weakref__", "_decoder", "_gone", "bytes_received", "bytes_sent", "owner", "sent", "worker")

    def __init__(self, owner: Node, worker: Node) -> None:
        self.owner = owner
        self.worker = worker
        self.sent = self.bytes_sent = self.bytes_received = 0
        self._gone: list[int] = []
        self._decoder = wire.Decoder(Reply, owner)

    def request(self, message: Message) -> Any:
        """Send a request and wait for the reply.

        Raises:
            Exception: what the worker's ``Failed`` names.
        """
        if self._gone and type(message) not in _CARRY_DELETIONS:
            self.flush()
        data = wire.encode(message)
        if self.worker.message_pending_time or self.owner.message_pending_time:
            self._wait()
        with torch._C._ForceDispatchKeyGuard(*_AFRESH):
            answer = self.worker.receive(data, self.owner.id)
        self.sent += 1
        self.bytes_sent += len(data)
        self.bytes_received += len(answer)
        reply = self._decoder.decode(answer)
        if type(reply) is Failed:
            raise error_of(reply, self.worker.id)
        return reply

    def forget(self, number: int) -> None:
        """Let the worker delete an object, soon."""
        self._gone.append(number)
        if len(self._gone) >= _FORGOTTEN_AT_ONCE:
            self.flush()

    def pending(self) -> list[int]:
        """Numbers of what waits to be deleted; whoever asks sends them."""
        numbers, self._gone = self._gone, []
        return numbers

    def flush(self) -> bool:
        """Let the worker delete what waits to be deleted; tells whether anything did."""
        if not self._gone:
            return False
        self.request(Forget(self.pending()))
        return True

    def __del__(self) -> None:
        try:
            self.flush()
        except Exception:  # noqa: S110 - the interpreter may be going down
            pass

    def _wait(self) -> None:
        time.sleep(max(0.0, self.owner.message_pending_time + self.worker.message_pending_time))
