"""Pointers to pointers: work through a third party that never holds the data."""

from typing import Any

import torch

import sharetorch as sy

hook = sy.TorchHook(torch)


def workers() -> tuple[Any, Any]:
    return sy.VirtualWorker(hook, id="bob"), sy.VirtualWorker(hook, id="alice")


def requests_of(worker: Any, kind: str) -> list[str]:
    """Who sent a worker requests of a kind."""
    return [entry.sender for entry in worker.audit if entry.request == kind]


def test_a_pointer_is_sent_like_a_tensor() -> None:
    bob, alice = workers()
    x: Any = torch.tensor([1, 2, 3, 4])
    x = x.send(bob)
    assert list(bob._objects) == [x.id_at_location] and alice._objects == {}
    x = x.send(alice)
    assert x.location is alice
    (held,) = alice._objects.values()
    assert isinstance(held, sy.PointerTensor) and held.location is bob and held.owner is alice
    assert [value.tolist() for value in bob._objects.values()] == [[1, 2, 3, 4]]

    y = x + x
    assert y.location is alice
    assert sorted(value.tolist() for value in bob._objects.values()) == [[1, 2, 3, 4], [2, 4, 6, 8]]
    assert len(alice._objects) == 2 and all(isinstance(v, sy.PointerTensor) for v in alice._objects.values())
    assert requests_of(bob, "aten.add.Tensor") == ["alice"], "the sum is asked for by alice, not from here"
    assert y.get().get().tolist() == [2, 4, 6, 8]


def test_get_takes_one_step_back() -> None:
    bob, alice = workers()
    x: Any = torch.tensor([1.0, 2, 3, 4, 5])
    x = x.send(bob).send(alice)
    x = x.get()
    assert isinstance(x, sy.PointerTensor) and x.location is bob
    assert len(bob._objects) == 1 and alice._objects == {}
    x = x.get()
    assert x.tolist() == [1, 2, 3, 4, 5] and bob._objects == {}


def test_dropping_the_chain_frees_both_ends() -> None:
    bob, alice = workers()
    x: Any = torch.tensor([1, 2, 3, 4, 5])
    x = x.send(bob).send(alice)
    y = x * 2 + x
    assert len(bob._objects) >= 2 and len(alice._objects) >= 2
    del x, y
    assert bob._objects == {} and alice._objects == {}


def test_move_goes_directly_and_keeps_the_id() -> None:
    bob, alice = workers()
    x: Any = torch.tensor([1, 2, 3, 4, 5])
    x = x.send(bob)
    number, name = x.id_at_location, x.id
    received = len(list(alice.audit))
    x.move(alice)
    assert x.location is alice and (x.id, x.id_at_location) == (name, number)
    assert bob._objects == {} and list(alice._objects) == [number]
    assert [entry.sender for entry in list(alice.audit)[received:] if entry.request == "store"] == ["bob"]
    assert requests_of(bob, "fetch") == []
    assert x.get().tolist() == [1, 2, 3, 4, 5]


def test_move_also_gives_the_pointer() -> None:
    bob, alice = workers()
    x: Any = torch.tensor([1.0, 2.0]).send(bob)
    x = x.move(alice)
    x = (x + x).move(bob)
    assert x.location is bob and alice._objects == {}
    here = x.move(sy.local_worker)
    assert type(here) is torch.Tensor and here.tolist() == [2, 4]


def test_backward_through_a_third_party() -> None:
    bob, alice = workers()
    x: Any = torch.tensor([1.0, 2.0, 3.0], requires_grad=True).send(bob).send(alice)
    (x * x).sum().backward()
    x = x.get().get() if x.grad is None else x
    assert x.grad.get().get().tolist() == [2, 4, 6]


def test_the_third_party_may_be_a_trainer() -> None:
    """Data of bob, reached by way of alice, trains a model that takes the same way."""
    bob, alice = workers()
    torch.manual_seed(3)
    x = torch.randn(20, 2)
    data: Any = x.send(bob).send(alice)
    target: Any = (x @ torch.tensor([[1.0], [-2.0]])).send(bob).send(alice)
    weight: Any = torch.zeros(2, 1).send(bob).send(alice)
    weight.requires_grad_()
    for _ in range(40):
        loss = ((data @ weight - target) ** 2).mean()
        loss.backward()
        with torch.no_grad():
            weight -= 0.2 * weight.grad
            weight.grad.zero_()
    assert torch.allclose(weight.detach().get().get(), torch.tensor([[1.0], [-2.0]]), atol=1e-2)
