"""Protocols: plans at several workers, one after the other."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import sharetorch as sy

hook = sy.TorchHook(torch)


@pytest.fixture(autouse=True)
def the_local_worker_holds_objects() -> Iterator[None]:
    """A line of the tutorial, taken back afterwards."""
    hook.local_worker.is_client_worker = False
    yield
    hook.local_worker.is_client_worker = True


@pytest.fixture
def protocol() -> Any:
    """Three workers add one each."""

    @sy.func2plan(args_shape=[(1,)])
    def inc1(x: Any) -> Any:
        return x + 1

    @sy.func2plan(args_shape=[(1,)])
    def inc2(x: Any) -> Any:
        return x + 1

    @sy.func2plan(args_shape=[(1,)])
    def inc3(x: Any) -> Any:
        return x + 1

    return sy.Protocol([("worker1", inc1), ("worker2", inc2), ("worker3", inc3)])


def three() -> tuple[Any, Any, Any]:
    return tuple(sy.VirtualWorker(hook, id=name) for name in ("alice", "bob", "charlie"))


def test_deploy_and_run(protocol: Any) -> None:
    alice, bob, charlie = three()
    assert "resolved" not in repr(protocol)
    workers = alice, bob, charlie
    protocol.deploy(*workers)
    lines = repr(protocol).splitlines()
    assert lines[0] == f"<Protocol id:{protocol.id} owner:me resolved>"
    assert [any(worker.id in line for line in lines[1:]) for worker in workers] == [True] * 3 and len(lines) == 4

    x = torch.tensor([1.0])
    ptr = protocol.run(x)
    assert ptr.location is charlie
    assert ptr.get().tolist() == [4.0]
    assert protocol.run(torch.tensor([-2.5])).get().tolist() == [0.5]


def test_data_goes_from_worker_to_worker(protocol: Any) -> None:
    alice, bob, charlie = three()
    protocol.deploy(alice, bob, charlie)
    ptr = protocol.run(torch.tensor([1.0]))
    assert not [entry for worker in (alice, bob) for entry in worker.audit if entry.request == "fetch"]
    assert "alice" in {entry.sender for entry in bob.audit if entry.request == "store"}
    assert "bob" in {entry.sender for entry in charlie.audit if entry.request == "store"}
    assert ptr.get().tolist() == [4.0]


def test_another_worker_conducts(protocol: Any) -> None:
    alice, bob, charlie = three()
    james = sy.VirtualWorker(hook, id="james")
    protocol.deploy(alice, bob, charlie)
    protocol.send(james)
    assert protocol.location is james and "owner:james" in repr(protocol)

    x: Any = torch.tensor([1.0]).send(james)
    ptr = protocol.run(x)
    assert ptr.location is james
    ptr = ptr.get()
    assert ptr.location is charlie
    assert ptr.get().tolist() == [4.0]

    with pytest.raises(RuntimeError, match="james"):
        protocol.run(torch.tensor([1.0]))


def test_a_protocol_is_searched_fetched_and_deployed(protocol: Any) -> None:
    alice, bob, charlie = three()
    james = sy.VirtualWorker(hook, id="james")
    me = hook.local_worker
    protocol.tag("my_protocol")
    protocol.send(james)
    found = me.request_search(["my_protocol"], location=james)
    assert len(found) == 1
    ptr_protocol = found[0]
    assert isinstance(ptr_protocol, sy.PointerProtocol) and ptr_protocol.location is james
    protocol_back = ptr_protocol.get()
    assert isinstance(protocol_back, sy.Protocol)
    protocol_back.deploy(alice, bob, charlie)
    assert protocol_back.run(torch.tensor([1.0])).get().tolist() == [4.0]


def test_a_protocol_is_fetched_by_its_number(protocol: Any) -> None:
    alice, bob, charlie = three()
    james = sy.VirtualWorker(hook, id="james")
    protocol.tag("numbered").send(james)
    (ptr_protocol,) = james.search(["numbered"])
    fetched = hook.local_worker.fetch_protocol(ptr_protocol.id_at_location, james, copy=True)
    assert fetched.deploy(alice, bob, charlie).run(torch.tensor([1.0])).get().tolist() == [4.0]


def test_get_brings_a_protocol_back(protocol: Any) -> None:
    alice, bob, charlie = three()
    james = sy.VirtualWorker(hook, id="james")
    protocol.send(james)
    assert protocol.get() is protocol and protocol.location is None
    assert james._objects == {}
    protocol.deploy(alice, bob, charlie)
    assert protocol.run(torch.tensor([1.0])).get().tolist() == [4.0]


def test_too_few_workers(protocol: Any) -> None:
    alice, bob, _ = three()
    with pytest.raises(RuntimeError, match="2 workers for 3 names"):
        protocol.deploy(alice, bob)


def test_one_name_is_one_worker() -> None:
    alice, bob, _ = three()
    plans = [sy.Plan(name, lambda x: x * 2, args_shape=[(1,)]) for name in ("a", "b", "c")]
    protocol: Any = sy.Protocol([("one", plans[0]), ("two", plans[1]), ("one", plans[2])]).deploy(alice, bob)
    ptr = protocol.run(torch.tensor([1.0]))
    assert ptr.location is alice and ptr.get().tolist() == [8.0]


def test_roles() -> None:
    """The later form: one function for all roles."""
    alice, bob, _ = three()

    @sy.func2protocol(roles=["alice", "bob"])
    def exchange(alice: Any, bob: Any) -> Any:
        ours = alice.torch.tensor([1.0, 2.0])
        theirs = bob.torch.tensor([3.0, 4.0])
        return ours.send(bob.worker) * theirs

    here = exchange()
    there = exchange(alice=alice, bob=bob)
    assert [[value.tolist() for value in values] for values in here.values()] == [[[3.0, 8.0]]]
    (result,) = [value for values in there.values() for value in values]
    assert result.location is bob and result.get().tolist() == [3.0, 8.0]
