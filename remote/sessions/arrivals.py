"""Shares that come from outside a session, in parts: from the driver, or from an owner of data.

Memory is taken once, for a size that was checked against the shape and the worker's limits.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence

import numpy as np

from sharetorch.mpc.errors import DeadlineExceededError, LimitExceededError, MalformedRequestError
from sharetorch.mpc.ring import Ring
from sharetorch.remote.sessions.messages import Deposit, Expect, Input

_MAX_OPEN = 64
"""Objects that may be incomplete at a time."""
_MAX_DIMENSIONS = 64
"""As many as PyTorch takes."""


class _Arriving:
    """An object whose parts come in, one after the other."""

    def __init__(self, first: Input | Deposit) -> None:
        self.first = first
        self.memory = np.empty(first.size, np.uint8).data
        self._got = 0

    def add(self, part: Input | Deposit) -> None:
        end = part.offset + len(part.contents)
        same = (part.shape, part.size) == (self.first.shape, self.first.size)
        if isinstance(part, Deposit) and isinstance(self.first, Deposit):
            same = same and (part.policy, part.frame) == (self.first.policy, self.first.frame)
        if not same or part.offset != self._got or end > len(self.memory):
            raise MalformedRequestError("A part of a share that does not follow the one before.")
        self.memory[part.offset : end] = part.contents
        self._got = end

    @property
    def complete(self) -> bool:
        return self._got == len(self.memory)


class Arrivals:
    """What is on its way to one member of a session.

    Args:
        ring: where shares live.
        holds: whether this member holds shares; the provider gets shapes only.
        limit: bytes of one object.
        name: of this worker, for messages.
    """

    def __init__(self, ring: Ring, holds: bool, limit: int, name: str) -> None:
        self._ring = ring
        self._holds = holds
        self._limit = limit
        self._name = name
        self._inputs: dict[int, _Arriving] = {}
        self._deposits: dict[tuple[str, int], _Arriving] = {}
        self._changed = threading.Condition()

    def started(self, number: int) -> bool:
        """Whether a part of the driver's object is here already."""
        return number in self._inputs

    def take(self, part: Input) -> memoryview | None:
        """Take a part from the driver; gives the contents once they are complete.

        Raises:
            MalformedRequestError: its size is not that of its shape, or it does not follow the part before.
            LimitExceededError: it is too large.
        """
        arriving = self._inputs.get(part.number)
        if arriving is None:
            arriving = self._inputs[part.number] = self._begin(part, self._holds, len(self._inputs))
        arriving.add(part)
        if not arriving.complete:
            return None
        del self._inputs[part.number]
        return arriving.memory

    def _begin(self, part: Input | Deposit, holds: bool, others: int) -> _Arriving:
        count = self.count(part.shape)
        due = count * self._ring.element_bytes if holds else 0
        if part.size != due or part.offset:
            raise MalformedRequestError(f"A share of shape {part.shape} with {part.size} bytes from {part.offset} on.")
        if others >= _MAX_OPEN:
            raise LimitExceededError(
                f"A share while {others} others are under way; {self._name} takes {_MAX_OPEN} at a time. Finish some "
                "first."
            )
        return _Arriving(part)

    def count(self, shape: Sequence[int]) -> int:
        """How many elements an object of that shape has.

        Raises:
            MalformedRequestError: it is no shape.
            LimitExceededError: it is too large.
        """
        if len(shape) > _MAX_DIMENSIONS or min(shape, default=0) < 0:
            raise MalformedRequestError(
                f"A shape of {len(shape)} dimensions, the smallest {min(shape, default=0)}; {self._name} takes "
                f"{_MAX_DIMENSIONS} dimensions from 0 on."
            )
        count = math.prod(shape)
        if 8 * count > self._limit:
            raise LimitExceededError(
                f"A share of {count} elements; {self._name} takes {self._limit} bytes in one object. Share less at "
                "once, or raise object_bytes."
            )
        return count

    def deposit(self, owner: str, part: Deposit) -> None:
        """Take a part from an owner of data; runs in the thread of the owner's connection.

        Raises:
            MalformedRequestError: as ``take``.
            LimitExceededError: as ``take``.
        """
        key = owner, part.number
        with self._changed:
            arriving = self._deposits.get(key)
            if arriving is None:
                arriving = self._deposits[key] = self._begin(part, True, len(self._deposits))
            arriving.add(part)
            self._changed.notify_all()

    def expected(self, item: Expect, over: Callable[[], bool], seconds: float) -> tuple[Deposit, memoryview]:
        """Wait for an owner's share.

        Args:
            item: what the driver announced.
            over: whether the session has ended meanwhile; whoever ends it calls ``wake``.
            seconds: how long to wait.

        Raises:
            DeadlineExceededError: it did not come in time.
            MalformedRequestError: it has another shape.
            LimitExceededError: it would be too large.
        """
        self.count(item.shape)
        key = item.owner, item.number

        def complete() -> bool:
            return over() or (key in self._deposits and self._deposits[key].complete)

        with self._changed:
            if not self._changed.wait_for(complete, seconds) or key not in self._deposits:
                late = DeadlineExceededError(
                    f"{item.owner} did not share its data with {self._name} within {seconds:g} s. Check that it knows "
                    "the parties' addresses and may share with them."
                )
                late.member = item.owner
                raise late
            found = self._deposits.pop(key)
        assert isinstance(found.first, Deposit)
        if _differ(found.first.shape, item.shape):
            raise MalformedRequestError(f"{item.owner} shared {found.first.shape} where {item.shape} was announced.")
        return found.first, found.memory

    def wake(self) -> None:
        """Let whoever waits look whether the session is over."""
        with self._changed:
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget everything."""
        with self._changed:
            self._inputs.clear()
            self._deposits.clear()


def _differ(one: Sequence[int], other: Sequence[int]) -> bool:
    return tuple(one) != tuple(other)
