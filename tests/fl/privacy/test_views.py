"""What members see while a private rule runs: the tests of all rules, for this one; and what the driver sees."""

from __future__ import annotations

import pytest
import torch

from sharetorch.fl.privacy import PrivateSum
from sharetorch.mpc import testing
from sharetorch.mpc.cost import DRIVER
from sharetorch.mpc.protocols import arithmetic
from tests.fl.aggregation import test_views as rules
from tests.mpc import views

NAME = "private sum"


@pytest.fixture(autouse=True)
def private(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule among those that the tests know."""
    monkeypatch.setitem(rules.RULES, NAME, (PrivateSum(clip=3.0, multiplier=1.0), {}))


@pytest.mark.parametrize("parties", [2, 3])
def test_members_see_nothing(parties: int) -> None:
    rules.test_members_see_nothing_while_a_rule_runs(NAME, parties)


def test_different_updates_look_the_same() -> None:
    rules.test_different_updates_look_the_same(NAME)


def test_what_is_sent_depends_on_public_values_only() -> None:
    rules.test_what_is_sent_depends_on_public_values_only(NAME)


def test_the_driver_and_the_provider_receive_nothing() -> None:
    rules.test_the_driver_and_the_provider_receive_nothing(NAME)


def test_the_driver_sees_no_partys_noise() -> None:
    """All of a noisy result's shares but one are uniform, and no other message comes."""
    session = testing.session(2, "tables", seed=4)
    number = views.put_under_equal_shares(session, torch.full((1 << 15,), 7))
    with session.record() as transcript:
        (found,) = session.command("add_noise", number, variance=1 << 20, digits=0)
        session.reveal(found)
    received = [message for message in transcript if message.receiver == DRIVER]
    assert len(received) == len(transcript) == 2
    views.require_nothing_seen(received[:1], DRIVER)


def test_shares_that_are_not_made_anew_would_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic, "refresh", lambda party, x: x)
    with pytest.raises(AssertionError):
        test_the_driver_sees_no_partys_noise()
