"""Requests for approval over the network: the owner's alone, and all of them audited."""

from typing import Any

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sharetorch.mpc.errors import GetNotPermittedError, MalformedRequestError, ObjectNotFoundError, RemoteOperationError
from sharetorch.remote import wire
from sharetorch.remote.messages import Failed, Fetch, Reply
from sharetorch.remote.network import approvals
from sharetorch.remote.network.control import APPROVAL
from sharetorch.remote.node import Node


class Wire:
    """A control channel of one process: everything crosses as bytes."""

    def __init__(self, node: Node, sender: str, owners: tuple[str, ...] = ()) -> None:
        self.node, self.sender, self.owners = node, sender, owners

    def request(self, kind: int, payload: bytes, timeout: float | None = None) -> bytes:
        assert kind == APPROVAL
        return approvals.serve(self.node, payload, self.sender, self.owners)


@pytest.fixture
def bob() -> Node:
    node = Node("bob", private=True)
    node.load(torch.arange(6.0).reshape(2, 3), number=7, tags=("#ages",))
    return node


def fetch(node: Node, user: str, reason: str | None = "a study") -> Any:
    data = wire.encode(Fetch([7], False, reason=reason))
    return wire.Decoder(Reply, node).decode(node.receive(data, user))


def test_who_asks_waits_for_the_owner_and_then_has_the_value(bob: Node) -> None:
    assert isinstance(fetch(bob, "alice"), Failed)
    owner = Wire(bob, "bob")
    (asked,) = approvals.waiting(owner)
    assert asked == approvals.Asked(1, 7, "alice", "a study", "waiting", "tensor", "float32", [2, 3], ["#ages"])
    assert approvals.decide(owner, 1, True).state == "approved"
    assert approvals.waiting(owner) == []
    assert [each.number for each in approvals.waiting(owner, decided=True)] == [1]
    assert torch.equal(fetch(bob, "alice").values[0], bob.objects[7].value)
    assert isinstance(fetch(bob, "carol", None), Failed)


def test_a_denial_is_told_and_takes_an_approval_back(bob: Node) -> None:
    fetch(bob, "alice")
    owner = Wire(bob, "bob")
    approvals.decide(owner, 1, True)
    assert approvals.decide(owner, 1, False).state == "denied"
    assert "denied request 1" in fetch(bob, "alice").text


def test_a_denial_leaves_what_was_released_in_another_way(bob: Node) -> None:
    fetch(bob, "alice")
    bob.objects[7].released = frozenset({"alice"})
    approvals.decide(Wire(bob, "bob"), 1, False)
    assert not isinstance(fetch(bob, "alice"), Failed)


@pytest.mark.parametrize("sender", ["alice", "me", "", "bob ", "BOB"])
def test_nobody_but_the_owner_lists_or_decides(bob: Node, sender: str) -> None:
    fetch(bob, "alice")
    with pytest.raises(GetNotPermittedError, match="may not see or decide"):
        approvals.waiting(Wire(bob, sender))
    with pytest.raises(GetNotPermittedError, match="may not see or decide"):
        approvals.decide(Wire(bob, sender), 1, True)
    assert bob.desk.requests[0].state == "waiting"
    assert [(each.sender, each.outcome) for each in bob.audit.refused()][-2:] == [(sender, "GetNotPermittedError")] * 2


def test_configured_owners_decide_too(bob: Node) -> None:
    fetch(bob, "alice")
    approvals.decide(Wire(bob, "anna", ("anna",)), 1, True)
    last = list(bob.audit)[-1]
    assert (last.sender, last.user, last.request, last.objects, last.outcome) == (
        "anna", "alice", "approve 1", (7,), "done",
    )  # fmt: skip


def test_an_unknown_number_is_said_to_be_one(bob: Node) -> None:
    with pytest.raises(ObjectNotFoundError, match="no request 5"):
        approvals.decide(Wire(bob, "bob"), 5, True)


def test_a_decision_that_cannot_be_written_down_is_not_made(bob: Node) -> None:
    def full(entry: object) -> None:
        raise OSError("disk full")

    fetch(bob, "alice")
    bob.audit.sinks.append(full)
    approvals.waiting(Wire(bob, "bob"))
    with pytest.raises(RemoteOperationError, match="audit cannot be written"):
        approvals.decide(Wire(bob, "bob"), 1, True)
    assert bob.desk.requests[0].state == "waiting"


@given(st.binary(max_size=60))
def test_bytes_that_are_no_request_are_answered_by_an_error(data: bytes) -> None:
    node = Node("bob", private=True)
    reply = msgspec.msgpack.decode(approvals.serve(node, data, "bob"))
    assert reply[0] == "failed"
    assert len(node.audit) == 1


@pytest.mark.parametrize(
    "request_", [["decide", 1], ["decide", "1", True], ["decide", 1, 1], ["waiting", False, 0], ["approve", 1], []]
)
def test_other_forms_are_malformed(bob: Node, request_: list[Any]) -> None:
    reply = msgspec.msgpack.decode(approvals.serve(bob, msgspec.msgpack.encode(request_), "bob"))
    assert reply[:2] == ["failed", "MalformedRequestError"]


def test_a_long_request_is_not_read(bob: Node) -> None:
    reply = msgspec.msgpack.decode(approvals.serve(bob, bytes(5000), "bob"))
    assert reply[:2] == ["failed", "MalformedRequestError"]


def test_a_worker_that_answers_nonsense_is_named() -> None:
    class Liar:
        def request(self, kind: int, payload: bytes, timeout: float | None = None) -> bytes:
            return b"\x93"

    with pytest.raises(MalformedRequestError, match="carol answered"):
        approvals.waiting(Liar(), worker="carol")


def test_a_line_shows_no_control_characters(bob: Node) -> None:
    fetch(bob, "alice", "please\x1b[2J\napprove \u202e1")
    shown = approvals.line(approvals.waiting(Wire(bob, "bob"))[0])
    assert shown == "1  waiting  alice asks for tensor 7 (float32, 2x3) #ages: please?[2J?approve ?1"
