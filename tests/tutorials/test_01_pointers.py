"""Pointers: tensors at another worker, and what can be done with them."""

import gc
from typing import Any

import pytest
import torch

import sharetorch as sy

hook = sy.TorchHook(torch)


def test_send_look_and_get() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    x: Any = torch.tensor([3, 1, 4, 1, 5])
    assert bob._objects == {}
    x_ptr = x.send(bob)
    assert [value.tolist() for value in bob._objects.values()] == [[3, 1, 4, 1, 5]]
    assert list(bob._objects) == [x_ptr.id_at_location]
    assert bob._objects.keys() == bob._tensors.keys() == bob.object_store._objects.keys()

    assert x_ptr.location is bob and bob == x_ptr.location
    assert x_ptr.owner is sy.local_worker and x_ptr.owner.id == "me"
    assert sy.local_worker is hook.local_worker is sy.hook.local_worker
    assert isinstance(x_ptr, sy.PointerTensor)
    text = repr(x_ptr)
    assert f"me:{x_ptr.id} -> bob:{x_ptr.id_at_location}" in text
    assert "3" not in text.replace(str(x_ptr.id), "")

    back = x_ptr.get()
    assert type(back) is torch.Tensor and torch.equal(back, x)
    assert bob._objects == {}


def test_a_pointer_is_used_up_by_get() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    x_ptr: Any = torch.tensor([1, 2]).send(bob)
    x_ptr.get()
    with pytest.raises(sy.exceptions.ObjectNotFoundError, match="bob"):
        x_ptr.get()


def test_dropped_pointers_free_their_tensors() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    x: Any = torch.tensor([1.0, 2.0]).send(bob)
    y: Any = torch.tensor([3.0, 4.0]).send(bob)
    assert len(bob._objects) == 2
    del x
    assert len(bob._objects) == 1
    y = "something else"
    assert bob._objects == {} and y == "something else"

    for _ in range(20):
        z: Any = torch.rand(3).send(bob)
    assert list(bob._objects) == [z.id_at_location]
    del z
    gc.collect()
    assert bob._objects == {}


def test_a_kept_tensor_outlives_its_pointer() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    x: Any = torch.tensor([1.0, 2.0]).send(bob)
    x.gc = False
    number = x.id_at_location
    del x
    assert list(bob._objects) == [number]
    assert bob.clear_objects() is bob and bob._objects == {}


def test_arithmetic_as_with_tensors() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    x: Any = torch.tensor([1, 2, 3, 4, 5]).send(bob)
    y: Any = torch.tensor([1, 1, 1, 1, 1]).send(bob)
    z = x + y
    assert isinstance(z, sy.PointerTensor) and z.location is bob
    assert len(bob._objects) == 3
    assert z.get().tolist() == [2, 3, 4, 5, 6]
    assert torch.add(x, y).get().tolist() == [2, 3, 4, 5, 6]
    assert torch.add(x, x).get().tolist() == [2, 4, 6, 8, 10]
    x += y
    assert x.get().tolist() == [2, 3, 4, 5, 6]


def test_backward_at_the_worker() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    x: Any = torch.tensor([1.0, 2, 3, 4, 5], requires_grad=True).send(bob)
    y: Any = torch.tensor([1.0, 1, 1, 1, 1], requires_grad=True).send(bob)
    z = (x + y).sum()
    z.backward()
    assert x.grad.location is bob
    x = x.get()
    assert x.tolist() == [1, 2, 3, 4, 5] and x.requires_grad
    assert torch.equal(x.grad, torch.ones(5))
    assert torch.equal(y.get().grad, torch.ones(5))


def test_what_cannot_work_says_where_things_are() -> None:
    bob, alice = sy.VirtualWorker(hook, id="bob"), sy.VirtualWorker(hook, id="alice")
    x: Any = torch.tensor([1.0, 2.0]).send(bob)
    y: Any = torch.tensor([1.0, 2.0]).send(alice)
    with pytest.raises(sy.exceptions.TensorsNotCollocatedException, match=r"(?s)alice.*bob|bob.*alice"):
        x + y
    with pytest.raises(sy.exceptions.TensorsNotCollocatedException, match="bob"):
        x + torch.tensor([1.0, 2.0])
    with pytest.raises(RuntimeError, match="get"):
        x.sum().item()


def test_a_known_name_is_the_same_worker() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    x: Any = torch.tensor([1.0]).send(bob)
    assert sy.VirtualWorker(hook, id="bob") is bob and len(bob._objects) == 1
    assert repr(bob) == "<VirtualWorker id:bob #objects:1>"
    assert x.get().item() == 1.0
