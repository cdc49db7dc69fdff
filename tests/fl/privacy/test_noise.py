"""Noise that each party adds of its own: what it is, who can know it, and planted faults."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from sharetorch.fl.privacy import noised
from sharetorch.mpc import testing
from sharetorch.mpc.cost import DRIVER
from sharetorch.mpc.discrete_gaussian import as_integers
from sharetorch.mpc.errors import EncodingRangeError
from sharetorch.mpc.protocols import noise
from sharetorch.mpc.randomness import Stream
from sharetorch.mpc.release import Label, Policy, after
from sharetorch.mpc.virtual import VirtualSession
from tests.fl.aggregation.tools import shared
from tests.fl.privacy.tools import Integers, require_discrete_gaussian, require_independent
from tests.mpc import mutation, views

COUNT = 1 << 15
VARIANCE = Fraction(1 << 20, 3)


def add(session: VirtualSession, number: int, variance: Fraction = VARIANCE) -> int:
    numerator, digits = as_integers(variance)
    (found,) = session.command("add_noise", number, variance=numerator, digits=digits)
    return found


def drawn(session: VirtualSession, number: int, variance: Fraction = VARIANCE) -> list[Integers]:
    """What each party added."""
    before, after = testing.shares(session, number), testing.shares(session, add(session, number, variance))
    return [(new - old).numpy().reshape(-1) for old, new in zip(before, after, strict=True)]


def watched(parties: int) -> list[Integers]:
    """What is drawn by all parties in two commands of one session, and in a session that replays its secrets."""
    found = []
    for commands in (2, 1):
        session = testing.session(parties, "tables", seed=11)
        number = testing.put_value(session, torch.zeros(COUNT, dtype=torch.int64))
        for _ in range(commands):
            found += drawn(session, number)
    return found


def require_sound(parties: int = 3) -> None:
    """Every party's noise is as declared, and none follows from another, from an earlier one, or from the session."""
    found = watched(parties)
    assert len(found) == 3 * parties
    for part in found:
        require_discrete_gaussian(part, VARIANCE)
    for one, other in combinations(found, 2):
        require_independent(one, other)


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_every_party_adds_its_own(parties: int) -> None:
    require_sound(parties)


OWN = "draw(fresh_stream(), x.data.numel())"
FAULTS = {
    "one party adds nothing": (OWN, OWN + " * (0 if party.rank == 1 else 1)"),
    "the same noise in every command": ("fresh_stream()", "__import__('sharetorch').mpc.randomness.Stream(bytes(16))"),
    "known to the provider": ("fresh_stream()", "party.stream(party.provider, 'noise')"),
    "known to another party": ("fresh_stream()", "party.stream(party.others[0], 'noise')"),
    "one integer for all elements": (OWN, "draw(fresh_stream(), 1).repeat(x.data.numel())"),
    "half the variance": ("discrete_gaussian(parameter)", "discrete_gaussian(parameter / 2)"),
    "positive": (OWN, OWN + ".__abs__()"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation.plant(monkeypatch, noise, "add_noise", *FAULTS[name])
    with pytest.raises(AssertionError):
        require_sound(2)


def test_a_stream_of_the_drivers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(count: int) -> bytes:
        raise AssertionError("a secret of the session")

    session = testing.session(2, "tables", seed=1)
    number = testing.put_value(session, [5, 6])
    monkeypatch.setattr(session, "_entropy", refuse)
    add(session, number)


@pytest.mark.parametrize("curious", [1, 2])
def test_what_remains_when_curious_parties_take_theirs_off(curious: int) -> None:
    session = testing.session(3, "tables", seed=2)
    target = Fraction(5 << 30)
    number = testing.put_value(session, torch.full((COUNT,), 7))
    own = drawn(session, number, target / (3 - curious))
    require_discrete_gaussian(sum(own[curious:], np.zeros(COUNT, np.int64)), target)


def test_members_send_nothing_and_the_driver_sees_uniform_shares() -> None:
    session = testing.session(3, "tables", seed=3)
    number = views.put_under_equal_shares(session, torch.full((1 << 15,), 7))
    with session.record() as transcript:
        found = add(session, number)
        assert not transcript
        session.reveal(found)
    received = [message for message in transcript if message.receiver == DRIVER]
    assert len(received) == len(transcript) == 3
    views.require_nothing_seen(received[:2], DRIVER)


@pytest.mark.parametrize("parties", [2, 3])
def test_the_cost_is_as_declared(parties: int) -> None:
    session = testing.session(parties)
    number = testing.put_value(session, [1, 2, 3])
    with session.costs.listen() as heard:
        add(session, number)
    assert heard.total().as_cost(parties) == noise.noise_cost()


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 5)])
def test_shapes_stay(shape: tuple[int, ...]) -> None:
    session = testing.session(2, "tables")
    x = shared(session, torch.ones(shape, dtype=torch.float64))
    found = noised(x.t() if len(shape) == 2 else x, Fraction(1, 100))
    assert found.get().shape == (shape[::-1] if len(shape) == 2 else shape)


def test_where_the_elements_are_not_in_order() -> None:
    session = testing.session(2, "tables")
    x = torch.arange(15, dtype=torch.float64).reshape(3, 5)
    found = noised(shared(session, x).t(), Fraction(1, 100)).get()
    assert (found - x.t()).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("variance", "digits"), [(0, 0), (-1, 3), (1 << 60, 0), (5, 63), (5, -1), (5.0, 1), (5, True), ("5", 1)]
)
def test_variances_that_are_none_are_refused(variance: Any, digits: Any) -> None:
    session = testing.session(2)
    number = testing.put_value(session, [1])
    with pytest.raises(EncodingRangeError, match="Noise of variance"):
        session.command("add_noise", number, variance=variance, digits=digits)


def test_a_command_cannot_say_what_to_draw() -> None:
    session = testing.session(2)
    number = testing.put_value(session, [1])
    for name in ("seed", "stream", "noise"):
        with pytest.raises(TypeError, match=name):
            session.command("add_noise", number, variance=1, digits=0, **{name: bytes(16)})


@pytest.mark.parametrize("known", [False, True])
def test_a_driver_that_replays_its_own_entropy_learns_nothing(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sessions with equal secrets open different noise; with noise from those secrets they would not."""
    if known:
        mutation.plant(monkeypatch, noise, "add_noise", *FAULTS["known to the provider"])
    opened: list[Any] = []
    play: Callable[[VirtualSession], Any] = lambda session: session.reveal(  # noqa: E731
        add(session, testing.put_value(session, torch.zeros(100, dtype=torch.int64)))
    )
    opened = [play(testing.session(2, "tables", seed=8)) for _ in range(2)]
    assert torch.equal(*opened) is known


def test_streams_are_made_anew() -> None:
    assert isinstance(noise.fresh_stream(), Stream)


def test_labels_of_owners_data_stay_what_they_were() -> None:
    policy = Policy(frozenset({"me"}), frozenset({"sum"}), 10)
    label = Label(policy, None, 12, "sum")
    (found,) = after("add_noise", [label], [(3,)], [(3,)], {"variance": 1, "digits": 0})
    assert found == label
