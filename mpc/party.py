"""One member of a computation, as its own protocol code sees it.

Parties have ranks 0 to N-1, the provider has rank N. A protocol is a coroutine ``async def protocol(party, ...)`` that
every member runs on its own share. The party object is all it can reach: its rank, its streams, its channels. At the
provider shares are empty tensors on ``meta``, so that shapes and layouts follow the same code.
"""

from __future__ import annotations

import types
from collections.abc import Generator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharetorch.mpc import kernels
from sharetorch.mpc.channel import Channels, Form, Message, Payload, form_of, size_of
from sharetorch.mpc.errors import MembersError, ProtocolError
from sharetorch.mpc.randomness import PairSecret, Stream
from sharetorch.mpc.ring import Elements, Ring


class Receive(NamedTuple):
    """What a coroutine hands to the runtime that steps it: wait for the next message of ``sender``.

    Attributes:
        sender: rank of the sending member.
        label: what the message must be called.
        forms: kind and shape of each of its fields.
    """

    sender: int
    label: str
    forms: tuple[Form, ...]


@types.coroutine
def _wait_for(request: Receive) -> Generator[Receive, Message, Message]:
    return (yield request)


class Party:
    """A member's rank, ring, streams and channels.

    Attributes:
        operation: number of the operation that runs.
        step: number its correlated randomness belongs to: the same, or another if it was prepared.
        clock: length of the longest chain of online messages that has ended here.
    """

    def __init__(
        self, rank: int, parties: int, ring: Ring, secrets: dict[int, PairSecret], channels: Channels, suite: Any = None
    ) -> None:
        self.rank = rank
        self.parties = parties
        self.ring = ring
        self.suite = suite
        self.operation = 0
        self.clock = 0
        self.step = 0
        self._secrets: Mapping[int, PairSecret] = secrets
        self._own = secrets
        self._channels = channels
        self._streams: dict[int, Stream] = {}

    def __repr__(self) -> str:
        return f"Party(rank={self.rank}, parties={self.parties})"

    @property
    def is_provider(self) -> bool:
        """Whether this member deals correlated randomness and holds no shares."""
        return self.rank == self.parties

    @property
    def provider(self) -> int:
        """Rank of the provider."""
        return self.parties

    @property
    def is_leader(self) -> bool:
        """Whether this is the one party that adds public constants."""
        return self.rank == 0

    @property
    def is_last(self) -> bool:
        """Whether this is the one party that receives corrections."""
        return self.rank == self.parties - 1

    @property
    def others(self) -> list[int]:
        """Ranks of the other parties, without the provider."""
        return [rank for rank in range(self.parties) if rank != self.rank]

    def begin(self, operation: int, secrets: Mapping[int, PairSecret] | None = None, step: int = 0) -> None:
        """Enter the operation of that number: streams of earlier ones are closed.

        Args:
            operation: its number.
            secrets: of the block in which it was prepared; None for all others.
            step: number under which it was prepared, if that is another; its streams are those of this number.
        """
        self.operation = operation
        self.step = step or operation
        self.clock = 0
        self._streams.clear()
        self._secrets = self._own if secrets is None else secrets

    def block(self, number: int) -> dict[int, PairSecret]:
        """Secrets shared with each other member for the operations of a block that is prepared, once."""
        return {peer: secret.block(number) for peer, secret in self._own.items()}

    def ahead(self, secrets: dict[int, PairSecret], channels: Channels) -> Party:
        """This member in a block that is prepared, with the block's secrets and channels of its own."""
        return Party(self.rank, self.parties, self.ring, secrets, channels, self.suite)

    def stream(self, peer: int, label: str) -> Stream:
        """This operation's stream shared with ``peer``; draws from it follow each other and are never repeated.

        Args:
            peer: rank of the other holder, who draws the same in the same order.
            label: what is drawn, for the reader.
        """
        stream = self._streams.get(peer)
        if stream is None:
            if peer not in self._secrets:
                raise MembersError(
                    f"This session has no member of rank {peer} to draw {label!r} with: products, truncation and "
                    "comparison need a crypto provider. Share with crypto_provider=."
                )
            stream = self._streams[peer] = self._secrets[peer].stream(self.step)
        return stream

    def send(self, receiver: int, label: str, *fields: Payload, offline: bool = False) -> None:
        """Send without waiting. Offline messages must depend on no input.

        The fields may leave later than this returns, so nothing may be written into them afterwards.
        """
        size = sum(size_of(part, self.ring.element_bytes) for part in fields)
        depth = 0 if offline else self.clock + 1
        self._channels.send(Message(self.rank, receiver, self.operation, label, fields, depth, size))

    async def receive(self, sender: int, label: str, *forms: Form) -> tuple[Payload, ...]:
        """The fields of the next message of ``sender``, which must carry ``label`` and have these forms.

        Raises:
            ProtocolError: another message came.
        """
        message = await _wait_for(Receive(sender, label, forms))
        if message.label != label or message.operation != self.operation:
            raise ProtocolError(f"Member {self.rank} awaits {label!r} of operation {self.operation}, got {message!r}.")
        if tuple(map(form_of, message.fields)) != forms:
            shapes = [tuple(part.shape) for part in message.fields]
            due = [form.shape for form in forms]
            raise ProtocolError(f"Member {sender} sent {label!r} with shapes {shapes}, where {due} are due.")
        self.clock = max(self.clock, message.round)
        return message.fields

    async def exchange(self, label: str, *fields: Payload) -> list[tuple[Payload, ...]]:
        """Send the same fields to every other party and receive theirs, in order of rank: one round."""
        for peer in self.others:
            self.send(peer, label, *fields)
        forms = tuple(map(form_of, fields))
        return [await self.receive(peer, label, *forms) for peer in self.others]

    async def open(self, label: str, shares: Sequence[Elements]) -> list[Elements]:
        """Reveal additively shared elements to all parties, several tensors in one round.

        Cost: 1 round; each party sends every element to N-1 others.
        """
        received = await self.exchange(label, *shares)
        return [self.sum(own, *(fields[i] for fields in received)) for i, own in enumerate(shares)]

    async def open_bits(self, label: str, bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Reveal XOR-shared bits (0 and 1, any shape) to all parties, packed eight to a byte."""
        packed = kernels.pack_bits(bits.reshape(-1))
        for (other,) in await self.exchange(label, packed):
            packed = packed ^ other
        return kernels.unpack_bits(packed, bits.size).reshape(bits.shape)

    def zero_share(self, shape: Any, label: str = "zero") -> Elements:
        """This party's part of fresh shares of zero; any N-2 other parties and the provider cannot predict it.

        zero_i = sum_{j>i} F(k_ij) - sum_{j<i} F(k_ij) over all pairs; no messages.
        """
        total: Elements = None
        for peer in self.others:
            drawn = self.stream(peer, label).uniform(shape, self.ring)
            signed = drawn if peer > self.rank else self.ring.negate(drawn)
            total = signed if total is None else self.ring.add(total, signed)
        return total

    def sum(self, first: Elements, *rest: Elements) -> Elements:
        """Add elements up; what was given is left as it is."""
        for part in rest:
            first = self.ring.add(first, part)
        return first
