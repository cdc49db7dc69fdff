"""Time of members that take turns: who computed, who would have waited, what could be done ahead."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
import torch

from sharetorch.mpc import timing
from sharetorch.mpc.channel import Message
from sharetorch.mpc.cost import Ledger, Timing, Traffic
from sharetorch.mpc.timing import Stopwatch


class Clock:
    """Stands still unless somebody computes."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "time", made)
    return made


def computing(clock: Clock, *steps: float) -> Generator[None, Any, None]:
    for seconds in steps[:-1]:
        clock.now += seconds
        yield
    clock.now += steps[-1]


def message(sender: int, receiver: int, round: int, *fields: Any, label: str = "x") -> Message:
    return Message(sender, receiver, 1, label, fields, round, 0)


def finish(member: Any, received: Message | None) -> None:
    with pytest.raises(StopIteration):
        member.send(received)


def test_who_is_slower_lets_the_other_wait(clock: Clock) -> None:
    watch = Stopwatch([computing(clock, 5.0, 1.0), computing(clock, 2.0, 1.0)], 2)
    for member in watch.members:
        member.send(None)
    finish(watch.members[0], message(1, 0, 1))
    finish(watch.members[1], message(0, 1, 1))
    found = watch.read()
    assert found.online == {0: 6.0, 1: 3.0}
    assert found.waiting == {0: 0.0, 1: 3.0}
    assert found.elapsed == 6.0
    assert found.offline == {}
    assert [tuple(span) for span in found.spans] == [
        (0, 100.0, 105.0, False), (1, 105.0, 107.0, False), (0, 107.0, 108.0, False), (1, 108.0, 109.0, False),
    ]  # fmt: skip


def test_what_the_provider_does_before_it_hears_anything_could_be_done_ahead(clock: Clock) -> None:
    watch = Stopwatch([computing(clock, 1.0, 1.0), computing(clock, 7.0, 2.0)], 1)
    party, provider = watch.members
    party.send(None)
    provider.send(None)
    finish(provider, message(0, 1, 1))
    finish(party, message(1, 0, 2))
    found = watch.read()
    assert found.offline == {1: 7.0}
    assert found.online == {0: 2.0, 1: 2.0}
    assert found.waiting == {0: 2.0, 1: 1.0}
    assert found.elapsed == 4.0
    assert [span.offline for span in found.spans] == [False, True, False, False]


def test_corrections_are_counted_and_not_waited_for(clock: Clock) -> None:
    watch = Stopwatch([computing(clock, 1.0), computing(clock, 1.0, 0.0, 0.0), computing(clock, 9.0)], 2)
    finish(watch.members[2], None)
    watch.members[1].send(None)
    watch.members[1].send(message(2, 1, 0, torch.zeros(2, 3, dtype=torch.int64), label="words"))
    finish(watch.members[1], message(2, 1, 0, np.zeros(5, dtype=np.uint8), label="bits"))
    found = watch.read()
    assert found.dealt == {"words": 6, "bits": 40}
    assert found.waiting[1] == 0.0 and found.elapsed == 1.0


def test_time_until_an_error_counts(clock: Clock) -> None:
    def failing() -> Generator[None, Any, None]:
        clock.now += 3.0
        yield from ()
        raise ZeroDivisionError

    watch = Stopwatch([failing()], 1)
    with pytest.raises(ZeroDivisionError):
        watch.members[0].send(None)
    assert watch.read().online == {0: 3.0}


class Listener:
    timed = True

    def __init__(self) -> None:
        self.places = 0
        self.heard: list[Any] = []

    def asked(self) -> object:
        self.places += 1
        return f"place {self.places}"

    def note(
        self, operation: str, traffic: Traffic, seconds: float, timing: Timing | None = None, asked: object = None
    ) -> None:
        self.heard.append((operation, asked))


def test_listeners_get_back_what_they_remembered() -> None:
    ledger, first, second = Ledger(), Listener(), Listener()
    assert ledger.asked() is None and not ledger.wants_timing
    with ledger.listen():
        assert not ledger.wants_timing, "a ledger counts messages only"
        ledger.listeners += [first, second]
        assert ledger.wants_timing
        second.asked()
        asked = ledger.asked()
        ledger.note("get", Traffic(), 0.0)
        ledger.listeners.remove(first)
        ledger.note("multiply", Traffic(), 0.0, None, asked)
    assert first.heard == [("get", None)]
    assert second.heard == [("get", None), ("multiply", "place 2")]
