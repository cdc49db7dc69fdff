"""Pointers to pointers, moves between workers, and pointers to several workers."""

import pytest
import torch

import sharetorch as st
from sharetorch import exceptions

Worker = st.VirtualWorker


def requests(worker: Worker, kind: str) -> list[str]:
    """Ids of who sent the worker requests of a kind."""
    return [entry.sender for entry in worker.audit if entry.request == kind]


def test_a_pointer_can_be_sent_on(alice: Worker, bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0]).send(bob).send(alice)
    assert x.location is alice
    (held,) = alice._objects.values()
    assert isinstance(held, st.PointerTensor) and held.owner is alice and held.location is bob
    y = x + x
    assert y.location is alice and len(bob._objects) == 2
    back = y.get()
    assert isinstance(back, st.PointerTensor) and back.location is bob and back.owner is st.local_worker
    assert back.get().tolist() == [2, 4]


def test_chains_of_any_length(workers: list[Worker]) -> None:
    x = torch.arange(3.0)
    for worker in (*workers, *workers):
        x = x.send(worker)
    y = (x * 2).sum()
    for _ in range(8):
        y = y.get()
    assert y.item() == 6
    for _ in range(8):
        x = x.get()
    assert x.tolist() == [0, 1, 2]
    assert all(worker._objects == {} for worker in workers)


def test_dropping_a_chain_frees_every_link(alice: Worker, bob: Worker) -> None:
    x = torch.ones(2).send(bob).send(alice)
    y = x + 1
    del x, y
    assert alice._objects == {} and bob._objects == {}


def test_backward_through_a_chain(alice: Worker, bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True).send(bob).send(alice)
    (x * x).sum().backward()
    assert x.grad.get().get().tolist() == [2, 4]


def test_remote_get_shortens_a_chain(alice: Worker, bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0]).send(bob).send(alice)
    assert x.remote_get() is x
    assert x.location is alice and bob._objects == {}
    assert x.get().tolist() == [1, 2]
    assert alice._objects == {}


def test_remote_get_needs_a_chain(bob: Worker) -> None:
    with pytest.raises(exceptions.InvalidTensorForRemoteGet, match="bob"):
        torch.ones(1).send(bob).remote_get()


def test_remote_send_lengthens_a_chain(alice: Worker, bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0]).send(bob)
    x.remote_send(alice)
    assert x.location is bob
    assert [value.tolist() for value in alice._objects.values()] == [[1, 2]]
    assert x.get().get().tolist() == [1, 2]
    assert alice._objects == {} and bob._objects == {}


def test_move_goes_straight_from_worker_to_worker(alice: Worker, bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0]).send(bob)
    number = x.id_at_location
    moved = x.move(alice)
    assert moved is x and x.location is alice and x.id_at_location == number
    assert bob._objects == {} and list(alice._objects) == [number]
    assert requests(alice, "store") == ["bob"]
    assert not requests(bob, "fetch")
    assert x.get().tolist() == [1, 2]


def test_move_here_gives_the_tensor(bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0]).send(bob).move(st.local_worker)
    assert type(x) is torch.Tensor and x.tolist() == [1, 2]
    assert bob._objects == {}


def test_move_to_where_it_is_changes_nothing(bob: Worker) -> None:
    x = torch.ones(2).send(bob)
    assert x.move(bob).get().tolist() == [1, 1]


def test_a_local_tensor_moves_by_being_sent(bob: Worker) -> None:
    x = torch.ones(2)
    assert x.move(st.local_worker) is x
    assert x.move(bob).location is bob


def test_a_moved_leaf_takes_its_gradient_along(alice: Worker, bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True).send(bob)
    (3 * x).sum().backward()
    x.move(alice)
    assert x.grad.location is alice and x.grad.get().tolist() == [3, 3]


def test_gradients_flow_back_through_a_move(alice: Worker, bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True).send(bob)
    y = (x * x).move(alice)
    assert y.location is alice
    (y * torch.tensor([3.0, 4.0]).send(alice)).sum().backward()
    assert x.grad.location is bob and x.grad.get().tolist() == [6, 16]


def test_gradients_flow_back_to_the_origin_if_asked(bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    (x.send(bob, requires_grad=True) * 5).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [5, 5]


def test_several_workers_hold_copies(alice: Worker, bob: Worker) -> None:
    x = torch.tensor([1, 2, 3]).send(alice, bob)
    assert isinstance(x, st.MultiPointerTensor)
    assert [worker.id for worker in x.location] == ["alice", "bob"]
    y = x + x
    assert [value.tolist() for value in y.get()] == [[2, 4, 6], [2, 4, 6]]
    assert x.get(sum_results=True).tolist() == [2, 4, 6]
    del y
    assert alice._objects == {} and bob._objects == {}


def test_pointers_to_several_workers_combine(alice: Worker, bob: Worker) -> None:
    x = st.combine_pointers(torch.tensor([1.0]).send(alice), torch.tensor([2.0]).send(bob))
    x += 1
    values, places = torch.stack([x, x * 2]).max(dim=0)
    assert values.get(sum_results=True).tolist() == [10]
    assert places.get(sum_results=True).tolist() == [2]
    assert x.t().shape == x.shape and "alice" in repr(x) and "bob" in repr(x)


def test_autograd_runs_at_every_worker(alice: Worker, bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True).send(alice, bob)
    (x**2).sum().backward()
    assert [grad.tolist() for grad in x.grad.get()] == [[2, 4], [2, 4]]


def test_what_does_not_combine(alice: Worker, bob: Worker) -> None:
    with pytest.raises(exceptions.MembersError, match="alice, alice"):
        st.combine_pointers(torch.ones(1).send(alice), torch.ones(1).send(alice))
    with pytest.raises(exceptions.MembersError, match="same shape"):
        st.combine_pointers(torch.ones(1).send(alice), torch.ones(2).send(bob))
    with pytest.raises(exceptions.MembersError):
        st.combine_pointers()
    x = torch.ones(2).send(alice, bob)
    with pytest.raises(exceptions.TensorsNotCollocatedException, match="bob, alice"):
        x + torch.ones(2).send(bob, alice)
    with pytest.raises(exceptions.TensorsNotCollocatedException):
        x + torch.ones(2)
    with pytest.raises(RuntimeError):
        bool(x.sum() > 0)


def test_sharing_from_a_worker_sends_shares_straight_to_the_parties(
    alice: Worker, bob: Worker, carol: Worker, james: Worker
) -> None:
    x = torch.tensor([0.5, -1.25]).send(carol)
    pointer = x.fix_precision().share(alice, bob, crypto_provider=james)
    assert isinstance(pointer, st.PointerTensor) and pointer.location is carol
    shared = pointer.get()
    assert isinstance(shared, st.SharedTensor)
    assert "fetch" not in {entry.request for entry in carol.audit if entry.objects == (x.id_at_location,)}
    assert (shared + shared).get().float_precision().tolist() == [1, -2.5]
    del pointer
    assert shared.get().float_precision().tolist() == [0.5, -1.25]
    del shared
    assert len(alice.store) == len(bob.store) == 0


def test_fixed_precision_at_a_worker(bob: Worker) -> None:
    x = torch.tensor([0.5, -1.25]).send(bob)
    fixed = x.fix_precision(precision_fractional=2)
    product = fixed * fixed
    assert product.get().float_precision().tolist() == pytest.approx([0.25, 1.56])
    assert fixed.float_precision().get().tolist() == [0.5, -1.25]
    x.fix_precision_()
    assert isinstance(x.get(), st.FixedPrecisionTensor)


def test_fixed_precision_and_shares_through_a_chain(alice: Worker, bob: Worker, carol: Worker, james: Worker) -> None:
    x = torch.tensor([0.5, -1.25]).send(bob).send(carol)
    shared = x.fix_precision().share(alice, bob, crypto_provider=james).get()
    while isinstance(shared, st.PointerTensor):
        shared = shared.get()
    assert shared.get().float_precision().tolist() == [0.5, -1.25]


def test_a_shared_handle_can_be_sent_and_comes_back(alice: Worker, bob: Worker, carol: Worker, james: Worker) -> None:
    x = torch.tensor([0.5, -1.25]).share(alice, bob, crypto_provider=james).send(carol)
    assert x.location is carol and x.shape == (2,)
    assert (x + x).get().get().tolist() == [1, -2.5]
    assert x.get().get().tolist() == [0.5, -1.25]


def test_encrypt_on_a_pointer(alice: Worker, bob: Worker, carol: Worker, james: Worker) -> None:
    x = torch.tensor([0.5, -1.25]).send(carol)
    secret = x.encrypt(workers=[alice, bob], crypto_provider=james, precision_fractional=4).get()
    assert secret.decrypt().tolist() == [0.5, -1.25]
