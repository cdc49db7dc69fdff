"""Where the time of an operation goes when one thread steps all its members in turn.

Members take turns here and never wait, so waiting is computed: each member gets a clock that runs while it computes,
every message carries the time on its sender's clock, and a receiver whose clock shows less waits until then. That is
what would happen if each member had a machine of its own and messages took no time. Corrections count as dealt ahead:
they arrive at once, and the provider's clock stands still until it receives an online message.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from math import prod
from typing import Any, Protocol

import numpy as np

from sharetorch.mpc.channel import Message, Payload
from sharetorch.mpc.cost import Span, Timing

PREPARED = "prepared "
"""Before labels of correlated randomness that was dealt ahead and is used now."""


class Steps(Protocol):
    """What a runtime steps: a coroutine, or one that is timed."""

    def send(self, message: Any, /) -> Any:
        """Go on with a message, until the next is needed."""

    def close(self) -> None:
        """Give up."""


class TimedMember:
    """A member's coroutine and its clock.

    Attributes:
        rank: of the member.
        online: seconds of computing that count as online.
        offline: seconds of computing that could be done ahead.
        waiting: seconds by which the messages it wanted came later than its wish.
        clock: online computing and waiting so far.
        dealt: elements and bits of corrections received, by label.
    """

    def __init__(self, watch: Stopwatch, coroutine: Steps, rank: int, provider: bool) -> None:
        self._watch = watch
        self._coroutine = coroutine
        self._provider = provider
        self._depth = 0
        self._sent = {0: 0.0}
        self.rank = rank
        self.online = self.offline = self.waiting = self.clock = 0.0
        self.dealt: dict[str, int] = {}

    def send(self, message: Message | None, /) -> Any:
        """Step the coroutine and measure the step."""
        if message is not None:
            self._hear(message)
        begin = time.perf_counter()
        try:
            return self._coroutine.send(message)
        finally:
            self._add(begin, time.perf_counter())

    def close(self) -> None:
        """Close the coroutine."""
        self._coroutine.close()

    def sent_at(self, round: int) -> float:
        """This clock when the message that ends a chain of so many messages was sent."""
        return self._sent.get(round - 1, 0.0)

    def _hear(self, message: Message) -> None:
        if message.round == 0:
            _add_amount(self.dealt, message)
            return
        self._depth = max(self._depth, message.round)
        late = max(0.0, self._watch.members[message.sender].sent_at(message.round) - self.clock)
        self.waiting += late
        self.clock += late

    def _add(self, begin: float, end: float) -> None:
        ahead = self._provider and self._depth == 0
        if ahead:
            self.offline += end - begin
        else:
            self.online += end - begin
            self.clock += end - begin
        self._sent[self._depth] = self.clock
        self._watch.spans.append(Span(self.rank, begin, end, ahead))


class Stopwatch:
    """Times the members of one operation.

    Args:
        coroutines: of the members, in order of rank.
        provider: rank a provider has.

    Attributes:
        members: to be stepped in place of the coroutines.
        spans: when members computed.
    """

    def __init__(self, coroutines: Sequence[Steps], provider: int) -> None:
        self.spans: list[Span] = []
        self.members = [
            TimedMember(self, coroutine, rank, rank == provider) for rank, coroutine in enumerate(coroutines)
        ]

    def read(self) -> Timing:
        """Where the time went."""
        return Timing(
            {member.rank: member.online for member in self.members},
            {member.rank: member.offline for member in self.members if member.offline},
            {member.rank: member.waiting for member in self.members},
            max((member.clock for member in self.members), default=0.0),
            tuple(self.spans),
            _largest(member.dealt for member in self.members),
        )


def amounts(messages: Iterable[Message]) -> dict[str, int]:
    """Elements and bits of corrections, by label; where all parties get some, those of one."""
    by_receiver: dict[int, dict[str, int]] = {}
    for message in messages:
        _add_amount(by_receiver.setdefault(message.receiver, {}), message)
    return _largest(by_receiver.values())


def _add_amount(dealt: dict[str, int], message: Message) -> None:
    dealt[message.label] = dealt.get(message.label, 0) + sum(map(_amount, message.fields))


def _largest(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """The largest amount of each label."""
    found: dict[str, int] = {}
    for dealt in counts:
        for label, amount in dealt.items():
            found[label] = max(amount, found.get(label, 0))
    return found


def _amount(part: Payload) -> int:
    """Ring elements, words, or bits of arrays of bytes."""
    if isinstance(part, np.ndarray) and part.dtype == np.uint8:
        return 8 * int(part.size)
    return prod(part.shape)
