"""Masked openings: each private operand is masked and opened at most once."""

from typing import Any

import pytest
import torch

from sharetorch.mpc import testing
from sharetorch.mpc.linear import Slot
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.arithmetic import bilinear_cost, multiply
from sharetorch.mpc.ring import ring_of
from sharetorch.mpc.session import Session
from sharetorch.mpc.share import ArithmeticShare

VIEWS = {
    "t": ("aten.t.default", ()),
    "view": ("aten.view.default", ([2, 6],)),
    "expand": ("aten.expand.default", ([2, 3, 4],)),
    "unsqueeze": ("aten.unsqueeze.default", (0,)),
    "slice": ("aten.slice.Tensor", (1, 1, 3)),
    "select": ("aten.select.int", (0, 1)),
}


def opened_bytes(session: Session, protocol: Any, *operands: Any) -> int:
    """Online bytes the first party sends."""
    return testing.execute(session, protocol, *operands).cost.party_bytes


def view_of(session: Session, number: int, name: str) -> int:
    function, args = VIEWS[name]
    (view,) = session.command("local", number, function=function, args=(Slot(0), *args), kwargs={})
    return view


@pytest.mark.parametrize("n", [2, 3])
def test_the_second_product_of_the_same_operands_opens_nothing(n: int) -> None:
    session = testing.session(n)
    x, y = testing.put_value(session, torch.arange(6)), testing.put_value(session, torch.arange(6) - 3)
    testing.require_cost(session, bilinear_cost(12, 6, n), multiply, x, y)
    testing.require_cost(session, bilinear_cost(0, 6, n), multiply, x, y)


def test_a_new_operand_is_opened_alone() -> None:
    session = testing.session()
    x, y, z = (testing.put_value(session, torch.arange(6) + i) for i in range(3))
    testing.require_cost(session, bilinear_cost(12, 6, 2), multiply, x, y)
    testing.require_cost(session, bilinear_cost(6, 6, 2), multiply, x, z)


def test_a_square_opens_its_operand_once() -> None:
    session = testing.session()
    x = testing.put_value(session, torch.arange(6))
    testing.require_cost(session, bilinear_cost(6, 6, 2), multiply, x, x)


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_of_an_opened_operand_is_open(name: str) -> None:
    session = testing.session()
    values = torch.arange(12).reshape(3, 4)
    base = testing.put_value(session, values)
    testing.run(session, multiply, base, base)
    view = view_of(session, base, name)
    assert opened_bytes(session, multiply, view, view) == 0
    expected = testing.value(session, view)
    assert torch.equal(testing.run_value(session, multiply, view, view), expected * expected)


@pytest.mark.parametrize("name", ["t", "view", "unsqueeze", "expand"])
def test_opening_through_a_whole_view_opens_the_base(name: str) -> None:
    session = testing.session()
    base = testing.put_value(session, torch.arange(12).reshape(3, 4))
    view = view_of(session, base, name)
    assert opened_bytes(session, multiply, view, view) == 12 * 8
    assert opened_bytes(session, multiply, base, base) == 0


def test_opening_a_part_does_not_open_the_rest() -> None:
    session = testing.session()
    base = testing.put_value(session, torch.arange(12).reshape(3, 4))
    part = view_of(session, base, "select")
    assert opened_bytes(session, multiply, part, part) == 4 * 8
    assert opened_bytes(session, multiply, base, base) == 12 * 8


def test_an_expanded_operand_is_opened_without_its_repetitions() -> None:
    session = testing.session()
    base = testing.put_value(session, torch.arange(12).reshape(3, 4))
    repeated = view_of(session, base, "expand")
    other = testing.put_value(session, torch.ones(2, 3, 4, dtype=torch.int64))
    assert opened_bytes(session, multiply, repeated, other) == (12 + 24) * 8


def test_writing_to_an_operand_discards_its_opening() -> None:
    session = testing.session()
    x, y = testing.put_value(session, torch.arange(4)), testing.put_value(session, torch.arange(4) + 10)
    testing.run(session, multiply, x, x)
    session.command("write", x, y)
    assert opened_bytes(session, multiply, x, x) == 4 * 8
    assert testing.run_value(session, multiply, x, x).tolist() == [100, 121, 144, 169]


def test_writing_through_a_view_discards_the_opening_of_its_base() -> None:
    session = testing.session()
    base = testing.put_value(session, torch.zeros(3, 4, dtype=torch.int64))
    testing.run(session, multiply, base, base)
    session.command("write", view_of(session, base, "select"), testing.put_value(session, [1, 2, 3, 4]))
    assert opened_bytes(session, multiply, base, base) == 12 * 8


def test_a_new_mask_is_drawn_after_writing() -> None:
    session = testing.session(seed=5)
    x = testing.put_value(session, torch.arange(4))
    masks = []
    for _ in range(2):
        with session.record() as transcript:
            testing.run(session, multiply, x, x)
        (message,) = testing.view_of(transcript, 1)["masked operand"]
        masks.append(testing.shares(session, x)[0] - message.fields[0])
        session.command("write", x, testing.put_value(session, torch.arange(4)))
    assert not bool((masks[0] == masks[1]).any())


def test_elements_of_any_size_are_opened_once_too() -> None:
    session = testing.session(ring=ring_of(2**127 - 1))
    x = testing.put_value(session, [1, -2, 3])
    assert opened_bytes(session, multiply, x, x) == 3 * 16
    assert opened_bytes(session, multiply, x, x) == 0


def test_each_member_opens_under_its_own_mask_only() -> None:
    """The masks of the parties add up to the provider's, and nobody else's store holds it."""
    session = testing.session()
    x = testing.put_value(session, torch.arange(4))

    async def reveal_masks(party: Party, share: ArithmeticShare) -> Any:
        await multiply(party, share, share)
        assert share.root.masked is not None
        return share.root.masked.mask

    parts = testing.run(session, reveal_masks, x)
    assert torch.equal(parts[0] + parts[1], parts[2])
    assert not torch.equal(parts[0], parts[2])
