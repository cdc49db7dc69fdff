"""What a pointer is and does: sending, fetching, deletion, what it prints, what it refuses."""

import copy
import gc
import pickle
from typing import Any

import pytest
import torch

import sharetorch as st
from sharetorch import exceptions

Worker = st.VirtualWorker


def test_send_and_get_give_the_tensor_back(bob: Worker) -> None:
    x = torch.tensor([[1.5, -2.0], [0.0, 7.25]])
    pointer = x.send(bob)
    assert isinstance(pointer, st.PointerTensor)
    assert pointer.location is bob
    assert pointer.owner is st.local_worker
    assert pointer.shape == x.shape and pointer.dtype == x.dtype
    assert torch.equal(bob._objects[pointer.id_at_location], x)
    assert torch.equal(pointer.get(), x)
    assert bob._objects == {}


@pytest.mark.parametrize(
    "dtype",
    [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16]
    + [torch.float32, torch.float64, torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64],
)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)])
def test_every_dtype_and_shape_survives_the_way(bob: Worker, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.randint(0, 2, shape).to(dtype)
    back = x.send(bob).get()
    assert back.dtype == dtype and back.shape == x.shape
    assert torch.equal(back.to(torch.complex128), x.to(torch.complex128))


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.t(),
        lambda x: x[:, 1:],
        lambda x: x[::2].flip(0),
        lambda x: x.expand(2, 4, 6),
        lambda x: torch.complex(x, -x).conj(),
        lambda x: torch._neg_view(x),
    ],
)
def test_views_are_sent_as_what_they_show(bob: Worker, make: Any) -> None:
    view = make(torch.arange(24.0).reshape(4, 6))
    assert torch.equal(view.send(bob).get(), view)


def test_the_sent_tensor_is_a_copy(bob: Worker) -> None:
    x = torch.ones(3)
    pointer = x.send(bob)
    x += 1
    assert pointer.get().tolist() == [1, 1, 1]


def test_what_is_fetched_is_a_copy(bob: Worker) -> None:
    pointer = torch.ones(3).send(bob)
    view = pointer[:2]
    fetched = pointer.get()
    fetched += 1
    assert view.get().tolist() == [1, 1]


def test_results_stay_at_the_worker(bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0]).send(bob)
    y = torch.add(x, x) * 3 - x / 2
    assert isinstance(y, st.PointerTensor) and y.location is bob
    assert y.get().tolist() == [5.5, 11.0]


def test_objects_go_with_their_pointers(bob: Worker) -> None:
    x = torch.ones(2).send(bob)
    y = x + x
    assert len(bob._objects) == 2
    del x
    assert len(bob._objects) == 1
    y = y * 2
    assert len(bob._objects) == 1
    assert y.get().tolist() == [4, 4]
    assert len(bob._objects) == 0


def test_many_deletions_all_arrive(bob: Worker) -> None:
    pointers = [torch.ones(1).send(bob) for _ in range(100)]
    assert len(bob._objects) == 100
    del pointers
    gc.collect()
    assert len(bob._objects) == 0


@pytest.mark.parametrize("off", ["keyword", "attribute", "property", "short"])
def test_garbage_collection_can_be_turned_off(bob: Worker, off: str) -> None:
    x = torch.ones(2).send(bob, garbage_collect_data=off != "keyword")
    if off == "attribute":
        x.garbage_collection = False
    if off == "short":
        x.gc = False
    if off == "property":
        x = x.disable_gc
    assert not x.garbage_collection
    number = x.id_at_location
    del x
    assert number in bob._objects


def test_sending_twice_makes_two_objects(bob: Worker) -> None:
    x = torch.ones(2)
    first, second = x.send(bob), x.send(bob)
    assert first.id_at_location != second.id_at_location
    del first
    assert second.get().tolist() == [1, 1]


def test_copies_are_new_objects(bob: Worker) -> None:
    x = torch.ones(2).send(bob)
    y, z, w = x.copy(), x.clone(), copy.deepcopy(x)
    x += 1
    assert [p.get().tolist() for p in (x, y, z, w)] == [[2, 2], [1, 1], [1, 1], [1, 1]]


def test_in_place_forms_change_what_the_name_means(bob: Worker) -> None:
    x = torch.ones(2)
    number = id(x)
    x.send_(bob)
    assert isinstance(x, st.PointerTensor) and id(x) == number
    x.get_()
    assert type(x) is torch.Tensor and id(x) == number and x.tolist() == [1, 1]
    assert bob._objects == {}


def test_a_fetched_object_is_gone(bob: Worker) -> None:
    x = torch.ones(2).send(bob)
    x.get()
    with pytest.raises(exceptions.ObjectNotFoundError, match="bob"):
        x + x
    with pytest.raises(exceptions.ObjectNotFoundError):
        x.get()


def test_operands_at_two_workers_are_refused_with_both_named(alice: Worker, bob: Worker) -> None:
    with pytest.raises(exceptions.TensorsNotCollocatedException, match="alice and bob"):
        torch.ones(2).send(alice) + torch.ones(2).send(bob)
    with pytest.raises(exceptions.TensorsNotCollocatedException, match=r"alice.*here"):
        torch.ones(2).send(alice) + torch.ones(2)
    with pytest.raises(exceptions.TensorsNotCollocatedException, match="here"):
        torch.ones(2) * torch.ones(2).send(alice)
    with pytest.raises(exceptions.TensorsNotCollocatedException, match=r"alice.*here"):
        torch.cat([torch.ones(2).send(alice), torch.ones(2)])


@pytest.mark.parametrize("ask", [lambda x: x.item(), bool, float, int, lambda x: x.tolist(), lambda x: x.numpy()])
def test_values_are_not_read_by_the_way(bob: Worker, ask: Any) -> None:
    with pytest.raises((RuntimeError, TypeError)):
        ask(torch.ones(1).send(bob))


def test_pickling_is_refused(bob: Worker) -> None:
    with pytest.raises(exceptions.RevealError, match="at a worker"):
        pickle.dumps(torch.ones(1).send(bob))


def test_torch_errors_arrive_as_they_are(bob: Worker) -> None:
    x = torch.ones(2, 3).send(bob)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        x @ x
    with pytest.raises(IndexError):
        x[5]
    with pytest.raises(IndexError):
        x.sum(4)


def test_several_results(bob: Worker) -> None:
    x = torch.tensor([[3.0, 1.0, 2.0], [6.0, 5.0, 4.0]])
    p = x.send(bob)
    values, places = p.max(dim=1)
    assert torch.equal(values.get(), x.max(dim=1).values)
    assert torch.equal(places.get(), x.max(dim=1).indices)
    assert [part.get().tolist() for part in p.split(2, dim=1)] == [part.tolist() for part in x.split(2, dim=1)]
    ordered, order = p.sort(dim=1)
    assert torch.equal(ordered.get(), x.sort(dim=1).values)
    assert [row.get().tolist() for row in p] == x.tolist()


def test_views_share_memory_as_they_do_locally(bob: Worker) -> None:
    x, local = torch.zeros(3, 4).send(bob), torch.zeros(3, 4)
    for base in (x, local):
        base[1].add_(2)
        base.t()[0].fill_(5)
        base.view(-1)[7:9].mul_(3)
    assert torch.equal(x.get(), local)


def test_methods_that_change_shape_in_place(bob: Worker) -> None:
    x = torch.arange(6.0).reshape(2, 1, 3).send(bob)
    x.squeeze_(1)
    assert x.shape == (2, 3)
    x.t_()
    assert x.shape == (3, 2)
    x.unsqueeze_(0)
    assert x.shape == (1, 3, 2)
    assert torch.equal(x.get(), torch.arange(6.0).reshape(2, 3).t()[None])


def test_set_takes_another_tensor_over(bob: Worker) -> None:
    x, y = torch.zeros(2).send(bob), torch.arange(3.0).send(bob)
    x.set_(y)
    assert x.shape == (3,)
    assert x.get().tolist() == [0, 1, 2]


def test_indexing_by_pointers_and_writing_by_index(bob: Worker) -> None:
    x, i = torch.arange(5.0).send(bob), torch.tensor([3, 1]).send(bob)
    assert x[i].get().tolist() == [3, 1]
    x[i] = x[i] * 10
    assert x.get().tolist() == [0, 10, 2, 30, 4]


def test_numbers_are_written_by_index(bob: Worker) -> None:
    x, local = torch.arange(6.0).reshape(2, 3).send(bob), torch.arange(6.0).reshape(2, 3)
    for t in (x, local):
        t[0] = 5
        t[t > 4] = -1.5
        t[:, 1] = 7
    assert torch.equal(x.get(), local)


def test_random_operations_run_at_the_worker(bob: Worker) -> None:
    x = torch.ones(1000).send(bob)
    torch.manual_seed(3)
    remote = torch.nn.functional.dropout(x, 0.5)
    torch.manual_seed(3)
    local = torch.nn.functional.dropout(torch.ones(1000), 0.5)
    assert torch.equal(remote.get(), local)


def test_empty_memory_holds_nothing_of_others(bob: Worker) -> None:
    for _ in range(20):
        torch.full((10_000,), 3.25).send(bob).get()
        assert torch.empty_like(torch.ones(10_000).send(bob)).get().count_nonzero() == 0
        assert bob.remote.torch.empty(10_000).get().count_nonzero() == 0
        assert torch.ones(1).send(bob).new_empty(10_000).get().count_nonzero() == 0


def test_tags_description_and_what_is_printed(bob: Worker) -> None:
    x = torch.ones(2, 3).tag("#a", "#b").describe("first line\nsecond line").send(bob)
    assert x.tags == {"#a", "#b"}
    text = repr(x)
    head, *rest = text.split("\n")
    assert head == f"[PointerTensor | me:{x.id} -> bob:{x.id_at_location}]"
    assert rest == ["\tTags: #a #b ", "\tShape: torch.Size([2, 3])", "\tDescription: first line..."]
    x.tag("#c").describe("new")
    (found,) = bob.search("#c")
    assert found.tags == {"#a", "#b", "#c"} and found.description == "new"


def test_a_parameter_prints_what_it_is(bob: Worker) -> None:
    p = torch.nn.Parameter(torch.ones(2).send(bob))
    assert repr(p).startswith("Parameter>AutogradTensor>[PointerTensor | me:")


def test_send_refuses_what_is_no_worker() -> None:
    with pytest.raises(exceptions.MembersError, match="42"):
        torch.ones(2).send(42)
    with pytest.raises(exceptions.MembersError, match="needs a worker"):
        torch.ones(2).send()
    with pytest.raises(exceptions.WorkerNotFoundException, match="nobody"):
        torch.ones(2).send("nobody")


@pytest.mark.parametrize("make", [lambda: torch.ones(3).to_sparse(), lambda: torch.empty(3, device="meta")])
def test_send_refuses_tensors_without_a_form_on_the_wire(bob: Worker, make: Any) -> None:
    with pytest.raises(exceptions.UnsupportedDtypeError):
        make().send(bob)
    assert bob._objects == {}


def test_tensors_made_at_the_worker(bob: Worker) -> None:
    make = bob.remote.torch
    assert make.zeros(2, 3).get().tolist() == [[0] * 3] * 2
    assert make.tensor([1, 2]).get().tolist() == [1, 2]
    assert make.arange(4).location is bob
    torch.manual_seed(4)
    remote = make.randn(5, requires_grad=True)
    torch.manual_seed(4)
    assert remote.requires_grad and torch.equal(remote.get(), torch.randn(5))
    with pytest.raises(AttributeError, match="load"):
        make.load("x")


def test_devices(bob: Worker) -> None:
    x = torch.ones(2).send(bob)
    assert x.to("cpu") is x
    assert x.to(torch.float64).get().dtype == torch.float64
    with pytest.raises((exceptions.ShareTorchError, RuntimeError, AssertionError)):
        x.to("cuda")
