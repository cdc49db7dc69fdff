"""What a worker remembers of the requests it was sent."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sharetorch.mpc.errors import RemoteOperationError


class Entry(NamedTuple):
    """One request.

    Attributes:
        time: seconds since 1970.
        sender: id of who sent it.
        user: on whose behalf, if named.
        request: kind of message, with the operation or method.
        objects: numbers of the objects it named, the first 100.
        outcome: "done", or the name of the error.
    """

    time: float
    sender: str
    user: str | None
    request: str
    objects: tuple[int, ...]
    outcome: str


_Fields = tuple[float, str, str | None, str, tuple[int, ...], str]
"""Of an ``Entry``; Python's garbage collector passes over such a tuple, and there are many."""

_TEXT = 100
_OBJECTS = 100
"""How much of one request is remembered, so that nobody fills the memory with long ones."""


class Audit:
    """The latest requests, oldest first; never values.

    Args:
        length: how many are remembered.

    Attributes:
        total: requests since the worker began.
        sinks: told of every request, such as an audit file.
    """

    def __init__(self, length: int = 10_000) -> None:
        self.total = 0
        self.sinks: list[Callable[[Entry], None]] = []
        self._trouble: str | None = None
        self._telling = threading.Lock()  # requests to the node, and each session, are served by threads of their own
        self._entries: deque[_Fields] = deque(maxlen=length)

    def note(self, call: Call, outcome: str) -> None:
        """Remember a request."""
        self.total += 1
        objects = tuple(call.objects) if len(call.objects) <= _OBJECTS else tuple(call.objects[:_OBJECTS])
        fields = (time.time(), call.sender, call.user, call.request[:_TEXT], objects, outcome)
        self._entries.append(fields)
        if self.sinks:
            with self._telling:
                self._tell(Entry(*fields))

    def _tell(self, entry: Entry) -> None:
        self._trouble = None
        for sink in self.sinks:
            try:
                sink(entry)
            except OSError as error:
                self._trouble = error.strerror or str(error)

    def require_writable(self) -> None:
        """Refuse to act unseen: to be called before a request is served.

        Raises:
            RemoteOperationError: the last request could not be written down. This refusal is written down in its turn,
                so that requests are served again once there is room.
        """
        if self._trouble is not None:
            raise RemoteOperationError(
                f"The audit cannot be written: {self._trouble}. No request is served until the owner mends that."
            )

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        for fields in list(self._entries):
            yield Entry(*fields)

    def refused(self) -> list[Entry]:
        """Requests that were not carried out."""
        return [entry for entry in self if entry.outcome != "done"]


class Call:
    """One request while it is served.

    Attributes:
        sender: id of who sent it.
        user: on whose behalf, if named.
        request: kind of message, with the operation or method once it is known.
        objects: numbers of the objects it named.
        made: numbers of the objects that came to be.
    """

    __slots__ = ("made", "objects", "request", "sender", "user")

    def __init__(self, sender: str) -> None:
        self.sender = sender
        self.user: str | None = None
        self.request = "?"
        self.objects: list[int] = []
        self.made: list[int] = []
