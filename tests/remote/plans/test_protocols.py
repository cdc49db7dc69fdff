"""Protocols: plans one after the other, here or conducted by a worker; and functions of roles."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import sharetorch as st
from sharetorch.exceptions import GetNotPermittedError, MembersError, PlanError
from sharetorch.remote.plans import Plan, PointerProtocol, Protocol, Role, func2plan, func2protocol

Worker = st.VirtualWorker


@pytest.fixture
def protocol() -> Protocol:
    def plan() -> Plan:
        @func2plan(args_shape=[(1,)])
        def increment(x: torch.Tensor) -> torch.Tensor:
            return x + 1

        return increment

    return Protocol([("worker1", plan()), ("worker2", plan()), ("worker3", plan())])


def test_plans_run_one_after_the_other(protocol: Protocol, alice: Worker, bob: Worker, carol: Worker) -> None:
    assert not protocol.workers_resolved and "resolved" not in repr(protocol)
    assert protocol.deploy(alice, bob, carol) is protocol
    lines = repr(protocol).splitlines()
    assert lines[0] == f"<Protocol id:{protocol.id} owner:me resolved>"
    assert [line.split(":")[0] for line in lines[1:]] == [" - alice", " - bob", " - carol"]
    result = protocol.run(torch.tensor([1.0]))
    assert result.location is carol
    assert [len(worker) for worker in (alice, bob, carol)] == [1, 1, 2], "nothing is left behind on the way"
    assert result.get().tolist() == [4.0]
    x = torch.tensor([5.0]).send(bob)
    assert protocol.run(x).get().tolist() == [8.0]
    assert x.get().tolist() == [5.0]


def test_names_that_occur_twice_are_one_worker(alice: Worker, bob: Worker) -> None:
    plan = Plan("double", lambda x: x * 2).build(torch.ones(1))
    protocol = Protocol([("a", plan), ("b", plan), ("a", plan)]).deploy(alice, bob)
    assert protocol.run(torch.ones(1)).location is alice


def test_a_worker_conducts(protocol: Protocol, alice: Worker, bob: Worker, carol: Worker, james: Worker) -> None:
    protocol.deploy(alice, bob, carol).tag("my_protocol").send(james)
    assert protocol.location is james and "owner:james resolved" in repr(protocol)
    for x in (torch.tensor([1.0]), torch.tensor([1.0]).send(bob)):
        with pytest.raises(RuntimeError, match="The protocol is at james"):
            protocol.run(x)
    result = protocol.run(torch.tensor([1.0]).send(james))
    assert result.location is james and result.handle.kind == "pointer"
    assert result.get().get().tolist() == [4.0]
    (found,) = st.local_worker.request_search(["my_protocol"], location=james)
    assert isinstance(found, PointerProtocol)
    assert found.run(torch.tensor([2.0]).send(james)).get().get().tolist() == [5.0]
    back = protocol.get()
    assert back is protocol and back.location is None and len(james) == 0
    assert back.run(torch.tensor([1.0])).get().tolist() == [4.0]


def test_a_protocol_is_fetched_and_deployed(
    protocol: Protocol, alice: Worker, bob: Worker, carol: Worker, james: Worker
) -> None:
    protocol.tag("shared").describe("adds 3").send(james)
    with pytest.raises(PlanError, match=r"deploy\(alice, bob"):
        protocol.run(torch.tensor([1.0]).send(james))
    (found,) = james.search("shared")
    fetched = found.get()
    assert fetched.tags == {"shared"} and fetched.description == "adds 3"
    assert fetched.deploy(alice, bob, carol).run(torch.tensor([1.0])).get().tolist() == [4.0]


def test_wrong_numbers_of_workers(protocol: Protocol, alice: Worker, bob: Worker, carol: Worker) -> None:
    with pytest.raises(RuntimeError, match="2 workers for 3 names"):
        protocol.deploy(alice, bob)
    with pytest.raises(RuntimeError, match="at no workers yet"):
        protocol.run(torch.tensor([1.0]))
    protocol.deploy(alice, bob, carol)
    with pytest.raises(RuntimeError, match="at workers already"):
        protocol.deploy(alice, bob, carol)


def test_what_is_no_protocol() -> None:
    for plans in ([("a", 1)], ["a"], [(1, Plan("f", lambda x: x))]):
        with pytest.raises(PlanError, match="pairs"):
            Protocol(plans)


def test_data_stays_as_secret_as_it_was(
    protocol: Protocol, alice: Worker, bob: Worker, carol: Worker, james: Worker
) -> None:
    protocol.deploy(alice, bob, carol).send(james)
    x: Any = torch.tensor([1.0])
    with pytest.raises(GetNotPermittedError, match="alice may not have"):
        protocol.run(x.private_tensor(allowed_users=["owner"]).send(james))
    allowed = x.private_tensor(allowed_users=["owner", "alice", "bob", "carol", "james"]).send(james)
    result = protocol.run(allowed)
    with pytest.raises(GetNotPermittedError):
        result.get()
    assert result.get(user="owner").get(user="owner").tolist() == [4.0]


@func2protocol(roles=["alice", "bob"], args_shape={"alice": ((1,),)}, states={"alice": (torch.tensor([5.0]),)})
def exchange(alice: Any, bob: Any) -> Any:
    (kept,) = alice.load_state()
    x = alice.torch.tensor([1.0])
    there = x.send(bob.worker) * 2
    ones = bob.torch.ones(2)
    return x, torch.add(there.get(), kept), ones + 1 - ones[0]


def test_roles_have_actions() -> None:
    assert exchange.is_built and list(exchange.roles) == ["alice", "bob"]
    assert all(isinstance(role, Role) for role in exchange.roles.values())
    assert [action.name for action in exchange.roles["alice"].actions] == [
        "torch.tensor",
        "send",
        "__mul__",
        "get",
        "torch.add",
    ]
    assert [place.child.item() for place in exchange.roles["alice"].state.state_placeholders] == [5.0]
    copied = exchange.copy()
    assert copied.name == exchange.name and copied.is_built and list(copied.roles) == ["alice", "bob"]


def test_roles_run_here_and_at_workers(alice: Worker, bob: Worker) -> None:
    here = exchange()
    assert [result.tolist() for result in here["alice"]] == [[1.0], [7.0]]
    assert [result.tolist() for result in here["bob"]] == [[1.0, 1.0]]
    there = exchange(alice=alice, bob=bob)
    assert [result.location for result in (*there["alice"], *there["bob"])] == [alice, alice, bob]
    assert [result.get().tolist() for result in (*there["alice"], *there["bob"])] == [[1.0], [7.0], [1.0, 1.0]]
    copied = exchange.copy()
    copied.forward = None
    assert copied()["alice"][1].tolist() == [7.0]


def test_wrong_roles(alice: Worker) -> None:
    with pytest.raises(MembersError, match="One worker for each role"):
        exchange(alice=alice)
    with pytest.raises(MembersError):
        func2protocol(roles=["a", "a"])(lambda a: a)
    with pytest.raises(PlanError, match="if"):
        func2protocol(roles=["a"])(lambda a: a.torch.ones(1) if a.torch.ones(1) > 0 else a.torch.ones(1))
    with pytest.raises(PlanError, match="must give tensors"):
        func2protocol(roles=["a"])(lambda a: 1)
    with pytest.raises(AttributeError, match="cannot make a tensor"):
        func2protocol(roles=["a"])(lambda a: a.torch.load("x"))
