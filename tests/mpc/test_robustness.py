"""Failures are typed, leave the session usable, and burn what they touched."""

from typing import Any

import pytest
import torch

from sharetorch.mpc import testing
from sharetorch.mpc.errors import (
    MembersError,
    ModulusError,
    ObjectGoneError,
    ProtocolError,
    RangeCheckError,
    ShapeError,
    ShareTorchError,
    UnsupportedOperationError,
)
from sharetorch.mpc.operations import OPERATIONS
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.arithmetic import multiply
from sharetorch.mpc.protocols.bilinear import Product
from sharetorch.mpc.protocols.suite import SUITES
from sharetorch.mpc.ring import PowerRing, ring_of
from sharetorch.mpc.share import ArithmeticShare
from sharetorch.mpc.virtual import VirtualSession


class PlannedFailure(Exception):
    """What the failing coroutines here raise."""


def failing_at(rank: int) -> Any:
    """A product after which one member fails, while the others wait for it."""

    async def protocol(party: Party, x: ArithmeticShare, y: ArithmeticShare) -> Any:
        product = await multiply(party, x, y)
        if party.rank == rank:
            raise PlannedFailure
        if not party.is_provider:
            await party.exchange("never answered", product.data)
        return product

    return protocol


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_session_works_on_after_a_member_failed(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with the very operands of the failed operation, whose openings some members may have and others not."""
    monkeypatch.setitem(OPERATIONS, "failing", failing_at(rank))
    session = testing.session()
    x, y = testing.put_value(session, [2, 3]), testing.put_value(session, [5, -7])
    with pytest.raises(PlannedFailure):
        session.command("failing", x, y)
    (product,) = session.command("bilinear", x, y, function=Product())
    assert session.reveal(product).tolist() == [10, -21]
    (bit,) = session.command("non_negative", y)
    assert session.reveal(bit).tolist() == [1, 0]


def test_messages_of_a_failed_operation_are_dropped() -> None:
    session = testing.session()
    x, y = testing.put_value(session, [2]), testing.put_value(session, [5])
    with pytest.raises(PlannedFailure):
        testing.run(session, failing_at(0), x, y)
    assert all(session._boxes.take(sender, receiver) is None for sender in range(3) for receiver in range(3))


def test_nothing_is_stored_after_a_failure() -> None:
    session = testing.session(3)
    x = testing.put_value(session, [2])
    held = [set(member.store) for member in session.parties]
    with pytest.raises(MembersError):
        session.command("non_negative", x)
    assert [set(member.store) for member in session.parties] == held


def test_randomness_of_a_failed_operation_is_not_drawn_again() -> None:
    """The masks of the failed product and those of its repetition have nothing in common."""
    session = testing.session(seed=1)
    opened = []

    async def failing(party: Party, x: ArithmeticShare) -> Any:
        await multiply(party, x, ArithmeticShare(x.data + 0))
        raise PlannedFailure

    x = testing.put_value(session, torch.zeros(64, dtype=torch.int64))
    for _ in range(2):
        with session.record() as transcript, pytest.raises(PlannedFailure):
            testing.run(session, failing, x)
        opened.append(testing.view_of(transcript, 1)["masked operand"][0].fields[-1])
    assert not bool((opened[0] == opened[1]).any())


def test_a_member_out_of_step_is_noticed() -> None:
    async def protocol(party: Party) -> None:
        if party.rank == 0:
            party.send(1, "one thing", torch.zeros(1).long())
        if party.rank == 1:
            await party.receive(0, "another thing")

    with pytest.raises(ProtocolError, match="awaits 'another thing'.*'one thing'"):
        testing.run(testing.session(), protocol)


def test_members_who_wait_for_each_other_are_noticed() -> None:
    async def protocol(party: Party) -> None:
        if not party.is_provider:
            await party.receive(1 - party.rank, "greeting")

    with pytest.raises(ProtocolError, match="wait for messages nobody sends"):
        testing.run(testing.session(), protocol)


def test_a_message_nobody_reads_is_noticed() -> None:
    async def protocol(party: Party) -> None:
        if party.rank == 0:
            party.send(1, "unread", torch.zeros(1).long())

    session = testing.session()
    with pytest.raises(ProtocolError, match="never read"):
        testing.run(session, protocol)
    (fresh,) = session.command("refresh", testing.put_value(session, [4]))
    assert session.reveal(fresh).tolist() == [4]


def test_a_share_of_another_shape_is_refused() -> None:
    async def protocol(party: Party) -> None:
        if not party.is_provider:
            await party.open("value", [torch.zeros(party.rank + 1).long()])

    with pytest.raises(ProtocolError, match="shape"):
        testing.run(testing.session(), protocol)


@pytest.mark.parametrize("n", [2, 3])
def test_an_object_that_is_gone_is_named(n: int) -> None:
    session = testing.session(n)
    x = testing.put_value(session, [1])
    session.free(x)
    with pytest.raises(ObjectGoneError, match=f"party 0 no longer holds object {x}"):
        session.command("negate", x)


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(UnsupportedOperationError, match="'open_everything'"):
        testing.session().command("open_everything")


def test_an_unknown_local_function_is_refused() -> None:
    session = testing.session()
    x = testing.put_value(session, [1])
    with pytest.raises(UnsupportedOperationError, match=r"aten\.abs"):
        session.command("local", x, function="aten.abs.default", args=(), kwargs={})


def test_local_truncation_needs_two_parties() -> None:
    session = testing.session(3)
    with pytest.raises(UnsupportedOperationError, match="not for 3"):
        session.command("truncate", testing.put_value(session, [8]), divisor=2, method="local")


def test_an_unknown_truncation_is_refused() -> None:
    session = testing.session()
    with pytest.raises(UnsupportedOperationError, match="'careless'"):
        session.command("truncate", testing.put_value(session, [8]), divisor=2, method="careless")


@pytest.mark.parametrize("method", ["probabilistic", "exact"])
def test_truncation_needs_a_ring_of_a_power_of_two(method: str) -> None:
    session = testing.session(ring=ring_of(2**31 - 1))
    with pytest.raises(ModulusError, match="without field="):
        session.command("truncate", testing.put_value(session, [8]), divisor=2, method=method)


def test_the_range_check_finds_what_is_too_large() -> None:
    session = testing.session()
    session.command("check_range", testing.put_value(session, [1 << 40]), limit_bits=41)
    with pytest.raises(RangeCheckError, match="2\\^40"):
        session.command("check_range", testing.put_value(session, [1 << 40]), limit_bits=40)


@pytest.mark.parametrize(
    ("names", "provider", "message"),
    [
        ([], "p", "at least 2 parties, 0 given"),
        (["a"], "p", "at least 2 parties, 1 given"),
        (["a", "b", "a"], "p", "a is named twice"),
        (["a", "b"], "b", "b is both a party and the crypto provider"),
    ],
)
def test_members_that_form_no_session_are_refused(names: list[str], provider: str, message: str) -> None:
    parties = [testing.PlainMember(name) for name in names]
    with pytest.raises(MembersError, match=message):
        VirtualSession(parties, testing.PlainMember(provider), PowerRing(), SUITES["securenn"])


@pytest.mark.parametrize("modulus", [-1, 0, 1])
def test_a_modulus_without_room_is_refused(modulus: int) -> None:
    with pytest.raises(ModulusError, match=f"field={modulus}"):
        ring_of(modulus)


@pytest.mark.parametrize("modulus", [2.5, True, "67"])
def test_a_modulus_that_is_no_integer_is_refused(modulus: Any) -> None:
    with pytest.raises(ModulusError, match="no integer"):
        ring_of(modulus)


def test_errors_of_the_library_form_one_tree() -> None:
    for error in (
        MembersError,
        ModulusError,
        ObjectGoneError,
        ProtocolError,
        RangeCheckError,
        UnsupportedOperationError,
    ):
        assert issubclass(error, ShareTorchError)


@pytest.mark.parametrize("method", ["probabilistic", "exact", "local"])
@pytest.mark.parametrize("divisor", [0, -3, (1 << 62) + 1, 1 << 63])
def test_a_divisor_out_of_range_is_refused(method: str, divisor: int) -> None:
    session = testing.session()
    with pytest.raises(ModulusError, match=f"not by {divisor}"):
        session.command("truncate", testing.put_value(session, [8]), divisor=divisor, method=method)


@pytest.mark.parametrize("suite", ["securenn", "securenn-paper"])
def test_there_is_no_maximum_of_nothing(suite: str) -> None:
    session = testing.session(suite=suite)
    with pytest.raises(ShapeError, match="no elements"):
        session.command("maximum", testing.put_value(session, torch.zeros(0, 3).long()), outputs=3)
