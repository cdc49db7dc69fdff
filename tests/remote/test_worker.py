"""What a worker is for its user: its store, its registry, its factories, its delays."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch

import sharetorch as sy
from sharetorch.exceptions import ObjectNotFoundError, WorkerNotFoundException

Worker = sy.VirtualWorker


class OtherWorker(sy.VirtualWorker):
    """A worker of another kind."""


def test_what_prints(bob: Worker) -> None:
    assert repr(bob) == "<VirtualWorker id:bob #objects:0>"
    x, y = torch.ones(1).send(bob), torch.ones(2).send(bob)
    assert str(bob) == "<VirtualWorker id:bob #objects:2>"
    assert len(bob) == 2 and x.id in bob and y.id in bob
    del x
    assert repr(bob) == "<VirtualWorker id:bob #objects:1>"


def test_the_store_has_three_names(bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0]).send(bob)
    for store in (bob._objects, bob._tensors, bob.object_store._objects):
        assert list(store) == [x.id_at_location]
        assert store[x.id_at_location].tolist() == [1.0, 2.0]


def test_clear_objects_gives_the_worker(bob: Worker) -> None:
    x = torch.ones(1).send(bob)
    assert bob.clear_objects() is bob
    assert len(bob) == 0
    with pytest.raises(ObjectNotFoundError, match="bob has no object"):
        x.get()
    assert bob.object_store.clear_objects() is bob


def test_a_known_id_is_the_same_store(bob: Worker) -> None:
    x = torch.ones(1).send(bob)
    again = Worker(sy.hook, id="bob")
    assert again is bob and again == bob
    assert x.id in again._objects
    assert Worker(id="bob", data=[torch.zeros(1)]) is bob
    assert len(bob) == 2


def test_another_kind_of_worker_with_a_known_id(bob: Worker) -> None:
    with pytest.raises(RuntimeError, match="'bob' is the id of a VirtualWorker already"):
        OtherWorker(id="bob")
    other = OtherWorker(id="other kind")
    with pytest.raises(RuntimeError, match="OtherWorker"):
        Worker(id="other kind")
    assert OtherWorker(id="other kind") is other


def test_ids_may_be_numbers_or_left_out() -> None:
    assert Worker(id=7).id == "7"
    first, second = Worker(), Worker()
    assert first.id != second.id and first != second


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="no option colour"):
        Worker(id="painted", colour="red")
    assert Worker(sy.hook, id="quiet", verbose=False, log_msgs=True, auto_add=True).id == "quiet"


def test_get_worker(bob: Worker, alice: Worker) -> None:
    assert alice.get_worker("bob") is bob
    assert alice.get_worker(bob) is bob
    assert sy.local_worker.get_worker("me") is sy.local_worker
    with pytest.raises(WorkerNotFoundException, match="alice knows no worker 'nobody'"):
        alice.get_worker("nobody", fail_hard=True)
    with pytest.warns(UserWarning, match="knows no worker 'nobody'"):
        assert alice.get_worker("nobody") == "nobody"
    assert alice.add_worker(bob) is alice
    assert alice.add_workers([bob]) is alice


def test_names_become_free() -> None:
    first = Worker(id="passing")
    first.remove_worker_from_local_worker_registry()
    second = Worker(id="passing")
    assert second is not first
    second.remove_worker_from_local_worker_registry()
    with pytest.raises(WorkerNotFoundException):
        torch.ones(1).send("passing")


# ------------------------------------------------------------------------------------------------ objects of its own


def test_objects_of_its_own(bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0])
    bob.register_obj(x)
    assert x.id in bob._objects
    assert bob.get_obj(x.id).tolist() == [1.0, 2.0]
    assert bob.get_obj(x.id).id == x.id
    y = torch.tensor([3.0])
    bob.set_obj(y, 1234)
    assert y.id == 1234
    assert bob.get_obj(1234).tolist() == [3.0]
    with pytest.raises(ObjectNotFoundError, match="bob has no object 99"):
        bob.get_obj(99)


def test_a_taken_number_is_not_given_twice(bob: Worker) -> None:
    x = torch.tensor([1.0])
    bob.register_obj(x)
    y = bob.register_obj(x)
    assert len(bob) == 2
    assert y.id == x.id


def test_data_from_the_start(bob: Worker) -> None:
    data = (torch.tensor([1.0]).tag("#a").describe("one"), torch.tensor([2.0]))
    worker = Worker(id="with data", data=data)
    assert sorted(worker._objects) == sorted(x.id for x in data)
    (found,) = worker.search("#a")
    assert found.description == "one"
    assert torch.equal(found.fetched(), data[0])


def test_request_obj_fetches_from_another_worker(alice: Worker, bob: Worker) -> None:
    x = torch.tensor([5.0]).send(bob)
    assert alice.request_obj(x.id, bob).tolist() == [5.0]
    assert x.id in bob._objects
    with pytest.raises(ObjectNotFoundError):
        alice.request_obj(99, bob)


def test_send_by_the_worker(bob: Worker) -> None:
    x = sy.local_worker.send(torch.tensor([5.0]), bob)
    assert x.location is bob
    assert x.get().tolist() == [5.0]


def test_a_client_worker_holds_nothing() -> None:
    client = Worker(id="client", is_client_worker=True)
    x = torch.tensor([1.0])
    assert client.register_obj(x) is x
    client.load_data([x])
    assert client._objects == {}
    with client.registration_enabled():
        client.register_obj(x)
    assert list(client._objects) == [x.id]
    assert client.is_client_worker
    client.is_client_worker = False
    client.register_obj(torch.tensor([2.0]))
    assert len(client) == 2


def test_the_local_worker_is_a_client() -> None:
    me = sy.local_worker
    assert me.id == "me" and me.is_client_worker
    before = len(me)
    me.register_obj(torch.ones(1))
    assert len(me) == before
    with pytest.raises(RuntimeError), me.registration_enabled():
        raise RuntimeError
    assert me.is_client_worker


# ---------------------------------------------------------------------------------------------------------- factories


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda t: t.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])),
        (lambda t: t.zeros(2, 3), torch.zeros(2, 3)),
        (lambda t: t.ones((2,), dtype=torch.int64), torch.ones(2, dtype=torch.int64)),
        (lambda t: t.full((2,), 7.5), torch.full((2,), 7.5)),
        (lambda t: t.arange(4), torch.arange(4)),
        (lambda t: t.eye(2), torch.eye(2)),
    ],
)
def test_tensors_are_made_there(bob: Worker, make: Any, expected: torch.Tensor) -> None:
    x = make(bob.remote.torch)
    assert x.location is bob
    assert x.id_at_location in bob._objects
    made = x.get()
    assert torch.equal(made, expected) and made.dtype == expected.dtype


def test_random_tensors_are_made_there(bob: Worker) -> None:
    x = bob.remote.torch.rand(3, 2, requires_grad=True)
    assert x.shape == (3, 2) and x.requires_grad
    assert bool(((x.get() >= 0) & (x.shape[0] == 3)).all())
    assert bob.remote.torch.randn(4).get().shape == (4,)


@pytest.mark.parametrize("name", ["nothing", "save", "load", "add", "_C"])
def test_what_makes_no_tensor(bob: Worker, name: str) -> None:
    with pytest.raises(AttributeError, match=f"torch.{name} cannot make a tensor at a worker"):
        getattr(bob.remote.torch, name)
    assert not hasattr(bob.remote.torch, name)


# -------------------------------------------------------------------------------------------------------------- delays


@pytest.mark.parametrize("who", ["worker", "owner"])
def test_messages_can_be_delayed(bob: Worker, who: str) -> None:
    slow = bob if who == "worker" else sy.local_worker
    slow.message_pending_time = 0.05
    try:
        start = time.perf_counter()
        x = torch.ones(1).send(bob)
        assert 0.05 <= time.perf_counter() - start < 1
        start = time.perf_counter()
        x.get()
        assert time.perf_counter() - start >= 0.05
    finally:
        del slow.message_pending_time
    start = time.perf_counter()
    torch.ones(1).send(bob)
    assert time.perf_counter() - start < 0.05
