"""Messages between members, and the in-memory channels of the virtual runtime.

A member sends without waiting and receives in order, per sender. Everything a member learns arrives as a ``Message``,
so a recorded list of them is its whole view of a computation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from sharetorch.mpc.cost import Traffic
from sharetorch.mpc.errors import ProtocolError
from sharetorch.mpc.ring import WideElements

Payload = Any
"""One field of a message: a torch tensor, a numpy array, or ``WideElements``."""


class Form(NamedTuple):
    """Kind and shape of a field: what its receiver knows before it arrives."""

    kind: int
    shape: tuple[int, ...]


RING, BYTES, WORDS = 1, 2, 3
"""Kinds of fields: ring elements, arrays of uint8, arrays of uint64."""


def form_of(part: Payload) -> Form:
    """The form of a field."""
    if isinstance(part, np.ndarray):
        return Form(BYTES if part.dtype == np.uint8 else WORDS, part.shape)
    return Form(RING, tuple(part.shape))


class Message(NamedTuple):
    """What one member sent to another.

    Attributes:
        sender: rank of the sending member.
        receiver: rank of the receiving member.
        operation: number of the operation it belongs to.
        label: what the protocol calls it.
        fields: the contents.
        round: length of the chain of online messages ending in this one; 0 for offline messages.
        size: bytes of the contents.
    """

    sender: int
    receiver: int
    operation: int
    label: str
    fields: tuple[Payload, ...]
    round: int
    size: int

    def __repr__(self) -> str:
        return (
            f"Message({self.sender} -> {self.receiver}, operation {self.operation}, {self.label!r}, "
            f"round {self.round}, {self.size} bytes)"
        )


class Channels(Protocol):
    """How one member reaches the others."""

    def send(self, message: Message) -> None:
        """Hand a message over without waiting."""


class Mailboxes:
    """In-memory channels between all members of a session."""

    def __init__(self) -> None:
        self._boxes: dict[tuple[int, int], deque[Message]] = {}
        self._transcripts: list[list[Message]] = []
        self.traffic = Traffic()

    def put(self, message: Message) -> None:
        """Deliver a message to its receiver's box and count it."""
        self.place(message)
        self.count(message)

    def place(self, message: Message) -> None:
        """Deliver a message that was counted before."""
        self._boxes.setdefault((message.sender, message.receiver), deque()).append(message)

    def count(self, message: Message) -> None:
        """Count a message and show it to the transcripts being recorded."""
        self.traffic.count(message.sender, message.receiver, message.size, offline=message.round == 0)
        self.show(message)

    def show(self, message: Message) -> None:
        """Show a message to the transcripts being recorded."""
        for transcript in self._transcripts:
            transcript.append(_frozen(message))

    def take(self, sender: int, receiver: int) -> Message | None:
        """The oldest message from ``sender`` to ``receiver``, or None."""
        box = self._boxes.get((sender, receiver))
        return box.popleft() if box else None

    def clear(self) -> None:
        """Drop what was not received, after a failure."""
        self._boxes.clear()

    def require_empty(self) -> None:
        """Raise if a finished operation left messages unread."""
        left = [message for box in self._boxes.values() for message in box]
        if left:
            self.clear()
            raise ProtocolError(f"Members got out of step: {len(left)} messages were never read, first {left[0]!r}.")

    @contextmanager
    def record(self) -> Iterator[list[Message]]:
        """Keep a copy of every message sent inside the block."""
        transcript: list[Message] = []
        self._transcripts.append(transcript)
        try:
            yield transcript
        finally:
            self._transcripts.remove(transcript)


class MemoryChannels:
    """One member's ends of the mailboxes."""

    def __init__(self, boxes: Mailboxes, rank: int) -> None:
        self._boxes = boxes
        self._rank = rank

    def send(self, message: Message) -> None:
        """Put a message into its receiver's box."""
        self._boxes.put(message)



def size_of(part: Payload, element_bytes: int) -> int:
    """Bytes a field takes on the wire: ring elements at their ring's width, arrays of bytes as they are."""
    if isinstance(part, np.ndarray):
        return int(part.nbytes)
    return int(part.numel()) * element_bytes


def _frozen(message: Message) -> Message:
    copies = tuple(_copy(part) for part in message.fields)
    return Message(
        message.sender, message.receiver, message.operation, message.label, copies, message.round, message.size
    )


def _copy(part: Payload) -> Payload:
    if isinstance(part, (torch.Tensor, WideElements)):
        return part.clone()
    array: NDArray[Any] = part
    return array.copy()
