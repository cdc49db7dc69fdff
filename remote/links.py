"""The way from one node to another in the same process: bytes in, bytes out, as over a wire."""

from __future__ import annotations

from typing import Any

from sharetorch.remote import wire
from sharetorch.remote.messages import Failed, Message, Reply
from sharetorch.remote.node import Node, error_of


class MemoryLink:
    """Carries requests of ``owner`` to ``worker``.

    Attributes:
        owner: who asks.
        worker: who is asked.
        sent: requests so far.
        bytes_sent: of all requests.
        bytes_received: of all replies.
    """

    __slots__ = ("__weakref__", "_decoder", "bytes_received", "bytes_sent", "owner", "sent", "worker")

    def __init__(self, owner: Node, worker: Node) -> None:
        self.owner = owner
        self.worker = worker
        self.sent = self.bytes_sent = self.bytes_received = 0
        self._decoder = wire.Decoder(Reply, owner)

    def request(self, message: Message) -> Any:
        """Send a request and wait for the reply.

        Raises:
            Exception: what the worker's ``Failed`` names.
        """
        data = wire.encode(message)
        answer = self.worker.receive(data, self.owner.id)
        self.sent += 1
        self.bytes_sent += len(data)
        self.bytes_received += len(answer)
        reply = self._decoder.decode(answer)
        if type(reply) is Failed:
            raise error_of(reply, self.worker.id)
        return reply
