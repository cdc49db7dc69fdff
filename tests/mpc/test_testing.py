"""The tools themselves: replay, chosen shares, views, costs."""

import pytest
import torch

from sharetorch.mpc import testing
from sharetorch.mpc.cost import DRIVER, Cost, Ledger, Traffic
from sharetorch.mpc.protocols.arithmetic import bilinear_cost, multiply
from sharetorch.mpc.ring import PowerRing


def transcript_of(seed: int | None) -> list[list[int]]:
    session = testing.session(seed=seed)
    with session.record() as transcript:
        x = testing.put_value(session, [1, -2, 3])
        (value, _) = session.command("relu", x, outputs=2)
        session.reveal(value)
    return [field.reshape(-1).tolist() for message in transcript for field in message.fields]


def test_equal_seeds_give_equal_transcripts() -> None:
    assert transcript_of(1) == transcript_of(1)


@pytest.mark.parametrize("other", [2, None])
def test_other_seeds_give_other_transcripts(other: int | None) -> None:
    assert transcript_of(1) != transcript_of(other)


def test_shares_are_stored_as_chosen() -> None:
    session = testing.session(3)
    number = testing.put(session, *(torch.tensor([i, -i]) for i in range(3)))
    assert [share.tolist() for share in testing.shares(session, number)] == [[0, 0], [1, -1], [2, -2]]
    assert testing.value(session, number).tolist() == [3, -3]


def test_the_second_share_completes_the_first() -> None:
    session = testing.session(ring=PowerRing(4))
    values, first = testing.all_splits([-8, 3, 7], session.ring)
    number = testing.put_against(session, values, first)
    assert torch.equal(testing.shares(session, number)[0], first)
    assert torch.equal(testing.value(session, number), values)
    assert len(values) == 3 * 16


def test_a_view_holds_what_its_member_received_and_nothing_else() -> None:
    session = testing.session(3, seed=1)
    x = testing.put_value(session, [1])
    found = testing.execute(session, multiply, x, x)
    view = testing.view_of(found.transcript, 1)
    assert [received.sender for received in view["masked operand"]] == [0, 2]
    assert testing.view_of(found.transcript, 3) == {}


def test_a_transcript_keeps_what_was_sent() -> None:
    session = testing.session(seed=1)
    x = testing.put_value(session, [1, 2])
    with session.record() as transcript:
        testing.run(session, multiply, x, x)
    kept = [field.clone() for message in transcript for field in message.fields]
    for message in transcript:
        if not message.round:
            continue
        for rank in range(2):
            session.parties[rank].store[x].root.masked.opened.zero_()
    assert all(torch.equal(a, b) for a, b in zip(kept, (f for m in transcript for f in m.fields), strict=True))


def test_an_execution_counts_its_own_cost_only() -> None:
    session = testing.session()
    x = testing.put_value(session, [1, 2])
    testing.run(session, multiply, x, x)
    y = testing.put_value(session, [1, 2])
    assert testing.execute(session, multiply, y, y).cost == bilinear_cost(2, 2, 2)


def test_costs_add_up_one_after_the_other() -> None:
    assert Cost(1, 2, 3, 4) + Cost(10, 20, 30, 40) == Cost(11, 22, 33, 44)


def test_steps_together_share_their_rounds() -> None:
    assert Cost(1, 2, 3, 4).together(Cost(10, 20, 30, 40)) == Cost(10, 22, 33, 44)


def test_a_ledger_adds_up_operations_by_name() -> None:
    ledger = Ledger()
    with ledger.listen() as heard:
        for _ in range(2):
            ledger.note("multiply", Traffic(rounds=1, operations=1), 0.5)
        ledger.note("get", Traffic(rounds=2, operations=1), 0.25)
    ledger.note("get", Traffic(rounds=2, operations=1), 0.25)
    assert (heard.total().rounds, heard.total().operations) == (4, 3)
    assert heard.by_operation["multiply"].seconds == 1.0
    assert ledger.total().operations == 4


def test_the_driver_is_no_member() -> None:
    session = testing.session(3)
    assert session.names() == {DRIVER: "driver", 0: "party 0", 1: "party 1", 2: "party 2", 3: "provider"}
