"""The tutorials' programs on workers of other processes: same results as with workers of this one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn, optim

import sharetorch as st
from sharetorch.mpc.errors import (
    GetNotPermittedError,
    LimitExceededError,
    ObjectNotFoundError,
    TensorsNotCollocatedException,
    WorkerNotFoundException,
)
from sharetorch.remote.links import NetworkLink
from tests.network.tools import until

Worker = Any


def steps(worker: Worker) -> Callable[[], int]:
    """Counts the requests sent to a worker since."""
    before = worker.control.sent
    return lambda: worker.control.sent - before


# ------------------------------------------------------------------------------------------------ row 01: pointers


def test_pointers(bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    pointer = x.send(bob)
    assert pointer.location is bob and pointer.owner is st.local_worker
    assert list(bob._objects) == [pointer.id_at_location]
    assert repr(pointer) == f"[PointerTensor | me:{pointer.id} -> bob:{pointer.id}]"
    total = pointer + torch.add(pointer, pointer)
    assert total.get().tolist() == [3, 6, 9]
    assert pointer.get().tolist() == [1, 2, 3]
    assert bob._objects == {} and bob.objects_count_remote() == 0


def test_gradients(bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True).send(bob)
    y = torch.tensor([3.0, 4.0], requires_grad=True).send(bob)
    (x + y).sum().backward()
    fetched = x.get()
    assert fetched.grad is not None and fetched.grad.tolist() == [1, 1]
    assert y.get().grad.tolist() == [1, 1]


def test_dropped_pointers_free_their_objects_by_themselves(bob: Worker, group: Any) -> None:
    x = torch.ones(2).send(bob)
    y = x + 1
    assert bob.objects_count_remote() == 2
    del x, y
    other = group["bob"].connect("me")
    assert other is bob
    link: NetworkLink = bob.link_from(st.local_worker)
    assert until(lambda: link._gone.empty(), 5)  # nothing was asked: the deletions went by themselves
    assert bob.objects_count_remote() == 0


def test_errors_are_those_of_local_tensors(bob: Worker, alice: Worker) -> None:
    x = torch.ones(2).send(bob)
    with pytest.raises(RuntimeError, match="must match"):
        x + torch.ones(3).send(bob)
    with pytest.raises(TensorsNotCollocatedException, match="bob and alice"):
        x + torch.ones(2).send(alice)
    y = x.get()
    with pytest.raises(ObjectNotFoundError, match="bob has no object"):
        x.get()
    assert y.tolist() == [1, 1]


def test_factories(bob: Worker) -> None:
    assert bob.remote.torch.zeros(2, 3).get().shape == (2, 3)
    assert bob.remote.torch.tensor([1, 2]).get().tolist() == [1, 2]


def test_several_workers(alice: Worker, bob: Worker) -> None:
    x = torch.tensor([1, 2, 3]).send(alice, bob)
    assert [value.tolist() for value in (x + x).get()] == [[2, 4, 6], [2, 4, 6]]


# -------------------------------------------------------------------------------------- row 02: federated learning


def toy() -> tuple[torch.Tensor, torch.Tensor, nn.Module]:
    torch.manual_seed(1)
    data = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    target = torch.tensor([[0.0], [0], [1], [1]])
    return data, target, nn.Linear(2, 1)


def federated(workers: list[Any]) -> tuple[list[float], list[torch.Tensor]]:
    """The toy example of federated learning, at any two workers."""
    data, target, model = toy()
    parts = [
        (data[place : place + 2].send(worker), target[place : place + 2].send(worker))
        for place, worker in zip((0, 2), workers, strict=True)
    ]
    optimizers = st.federated.floptimizer.Optims(  # type: ignore[attr-defined]
        [worker.id for worker in workers], optim=optim.Adam(model.parameters(), lr=0.1)
    )
    losses = []
    for _ in range(5):
        for inputs, targets in parts:
            optimizer = optimizers.get_optim(inputs.location.id)
            model.send(inputs.location)
            optimizer.zero_grad()
            loss = ((model(inputs) - targets) ** 2).sum()
            loss.backward()
            optimizer.step()
            model.get()
            losses.append(loss.get().item())
    return losses, [parameter.data.clone() for parameter in model.parameters()]


def test_federated_learning(alice: Worker, bob: Worker) -> None:
    here = federated([st.VirtualWorker(id="federated 1"), st.VirtualWorker(id="federated 2")])
    there = federated([alice, bob])
    assert there[0] == here[0] and there[0][-1] < there[0][0]
    assert all(torch.equal(*pair) for pair in zip(here[1], there[1], strict=True))


# ------------------------------------------------------------------------- row 03: pointers to pointers, and moves


def test_a_pointer_to_a_pointer(alice: Worker, bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0]).send(bob).send(alice)
    assert x.location is alice
    y = x + x
    assert y.location is alice
    back = y.get()
    assert isinstance(back, st.PointerTensor) and back.location is bob and back.owner is st.local_worker
    assert (back * 3).get().tolist() == [6, 12]
    assert back.get().tolist() == [2, 4]
    assert x.get().get().tolist() == [1, 2]


def test_dropping_a_chain_frees_every_link(alice: Worker, bob: Worker) -> None:
    x = torch.ones(2).send(bob).send(alice)
    y = x + 1
    del x, y
    assert until(lambda: alice.objects_count_remote() == bob.objects_count_remote() == 0)


def test_gradients_through_a_chain(alice: Worker, bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True).send(bob).send(alice)
    (x * x).sum().backward()
    assert x.grad.get().get().tolist() == [2, 4]


def test_chains_that_visit_workers_again(workers: list[Worker]) -> None:
    """Every worker waits for the next one, which needs it again before it can answer."""
    x = torch.arange(3.0)
    for worker in (*workers, *workers, *workers):
        x = x.send(worker)
    y = (x * 2).sum()
    for _ in range(9):
        y = y.get()
    assert y.item() == 6


def test_chains_of_several_drivers_at_once_do_not_wait_for_one_another(workers: list[Worker], group: Any) -> None:
    alice, bob, _ = workers
    x = torch.ones(2).send(bob).send(alice)
    y = torch.ones(2).send(alice).send(bob)
    results: dict[str, Any] = {}

    def run(name: str, pointer: Any) -> None:
        for _ in range(30):
            pointer = pointer + 1
        results[name] = pointer.get().get().tolist()

    threads = [threading.Thread(target=run, args=entry) for entry in (("x", x), ("y", y))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {"x": [31, 31], "y": [31, 31]}


def test_remote_get_and_remote_send(alice: Worker, bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0]).send(bob).send(alice)
    assert x.remote_get() is x
    assert x.location is alice and x.get().tolist() == [1, 2]


def test_a_move_goes_straight_from_worker_to_worker(alice: Worker, bob: Worker) -> None:
    x = torch.arange(10_000.0).send(bob)
    number = x.id_at_location
    received = bob.link_from(st.local_worker).bytes_received, alice.link_from(st.local_worker).bytes_sent
    assert x.move(alice) is x
    assert x.location is alice and x.id_at_location == number
    assert bob.link_from(st.local_worker).bytes_received - received[0] < 1000
    assert alice.link_from(st.local_worker).bytes_sent - received[1] < 1000
    assert bob.objects_count_remote() == 0
    assert x.get().sum().item() == 49_995_000


def test_gradients_flow_back_through_a_move(alice: Worker, bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True).send(bob)
    y = (x * x).move(alice)
    (y * torch.tensor([3.0, 4.0]).send(alice)).sum().backward()
    assert x.grad.location is bob and x.grad.get().tolist() == [6, 16]


def test_moves_ask_the_policy_of_a_tensor(alice: Worker, bob: Worker) -> None:
    x = torch.ones(2).private_tensor(allowed_users=["carol"]).send(bob)
    with pytest.raises(GetNotPermittedError, match="alice may not have"):
        x.move(alice)
    with pytest.raises(GetNotPermittedError, match="cannot be handed to alice"):
        x.send(alice)


def test_a_worker_nobody_told_of(bob: Worker) -> None:
    x = torch.ones(2).send(bob)
    with pytest.raises(WorkerNotFoundException):
        x.move(st.VirtualWorker(id="only here"))


# --------------------------------------------------------------------------------------------------- row 08: plans


def test_plans_take_one_round_trip(bob: Worker) -> None:
    @st.func2plan(args_shape=[(2,)])
    def plan(x: torch.Tensor) -> torch.Tensor:
        return (x * 2 + 1).relu().sum()

    pointer = plan.send(bob)
    x = torch.tensor([1.0, -3.0]).send(bob)
    sent = steps(bob)
    y = pointer(x)
    assert sent() == 1
    assert y.get().item() == 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def trained(worker: Any) -> tuple[list[float], list[torch.Tensor], list[int]]:
    """Training by a plan of the whole step; also how many requests each step takes."""
    torch.manual_seed(3)
    model = Net()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    @st.func2plan(args_shape=[(-1, 4), (-1, 1)])
    def plan(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss

    x, y = torch.randn(16, 4), torch.randn(16, 1)
    there = plan.send(worker)
    inputs = x.send(worker), y.send(worker)
    losses, counts = [], []
    for _ in range(6):
        before = worker.control.sent if hasattr(worker, "control") else 0
        loss = there(*inputs)
        counts.append(worker.control.sent - before if hasattr(worker, "control") else 1)
        losses.append(loss)
    return [loss.get().item() for loss in losses], list(there.get().state), counts


def test_a_step_of_training_is_one_round_trip(bob: Worker) -> None:
    here, there = trained(st.VirtualWorker(id="plans here")), trained(bob)
    assert there[0] == here[0] and there[0][-1] < there[0][0]
    assert all(torch.equal(*pair) for pair in zip(here[1], there[1], strict=True))
    assert there[2] == [1] * 6


def test_a_plan_is_fetched(bob: Worker) -> None:
    @st.func2plan(args_shape=[(2,)])
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    pointer = double.send(bob)
    fetched = st.local_worker.fetch_plan(pointer.id_at_location, bob)
    assert fetched(torch.tensor([1.0, 2.0])).tolist() == [2, 4]


# --------------------------------------------------------------------------------- split learning, search, limits


def test_split_learning(alice: Worker, bob: Worker) -> None:
    def run(first: Any, second: Any) -> tuple[list[float], list[torch.Tensor]]:
        torch.manual_seed(5)
        bottom, top = nn.Linear(4, 6), nn.Linear(6, 1)
        x, y = torch.randn(8, 4).send(first), torch.randn(8, 1).send(second)
        bottom.send(first)
        top.send(second)
        optimizers = [optim.SGD(part.parameters(), lr=0.05) for part in (bottom, top)]
        losses = []
        for _ in range(4):
            for optimizer in optimizers:
                optimizer.zero_grad()
            hidden = torch.tanh(bottom(x))
            loss = ((top(hidden.move(second, requires_grad=True)) - y) ** 2).mean()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            losses.append(loss.get().item())
        return losses, [parameter.data for parameter in (*bottom.get().parameters(), *top.get().parameters())]

    here = run(st.VirtualWorker(id="split 1"), st.VirtualWorker(id="split 2"))
    there = run(alice, bob)
    assert there[0] == here[0] and there[0][-1] < there[0][0]
    assert all(torch.equal(*pair) for pair in zip(here[1], there[1], strict=True))


def test_search(workers: list[Worker]) -> None:
    alice, bob, carol = workers
    x = torch.tensor([5.0]).tag("#mine", "#numbers").describe("mine").send(bob)
    (found,) = bob.search(["#mine"])
    assert found.location is bob and found.id == x.id and found.description == "mine"
    assert len(bob.search("#numbers")) == 2 and len(alice.search("#numbers")) == 1
    grid = st.PrivateGridNetwork(alice, bob, carol)
    assert {name: len(pointers) for name, pointers in grid.search("#numbers").items()} == {
        "alice": 1, "bob": 2, "carol": 1,
    }  # fmt: skip
    assert set(grid.search("#mine")) == {"bob"}


def test_what_is_the_workers_own_is_computed_with_but_not_fetched(bob: Worker, alice: Worker) -> None:
    (own,) = bob.search("#own")
    mean = own.mean()
    for pointer in (own, mean):
        with pytest.raises(GetNotPermittedError):
            pointer.get()
    with pytest.raises(GetNotPermittedError):
        own.move(alice)
    with pytest.raises(GetNotPermittedError):
        own.get(user="bob")


def test_what_belongs_to_others_does_not_exist(bob: Worker, group: Any) -> None:
    x = torch.tensor([1.0]).tag("#ours").send(bob)
    other = group["bob"].connect("mallory")
    try:
        assert other.search("#ours") == [] and other.objects_count_remote() == 0
        assert other.search(x.id) == []
        other.clear_objects()
        with pytest.raises(ObjectNotFoundError):
            st.local_worker.request_obj(x.id, other)
    finally:
        other.close()
    assert x.get().tolist() == [1]


def test_objects_of_others_cannot_be_planted(bob: Worker, group: Any) -> None:
    from sharetorch.remote.messages import Store

    other = group["bob"].connect("mallory")
    try:
        with pytest.raises(GetNotPermittedError, match="mallory may not put objects of me's"):
            other.link_from(st.local_worker).request(Store([torch.ones(1)], [], ["#planted"], owner="me"))
    finally:
        other.close()
    assert bob.search("#planted") == []


def test_lists(bob: Worker) -> None:
    x = torch.zeros(2, 3).tag("#zeros").send(bob)
    assert bob.list_objects_remote() == str({x.id: "tensor float32[2, 3] #zeros"}) == bob.list_tensors_remote()
    assert bob.objects_count_remote() == bob.tensors_count_remote() == len(bob) == 1
    assert bob.clear_objects() is bob
    assert bob.objects_count_remote() == 0


def test_fitting_at_a_worker(bob: Worker) -> None:
    """``TrainConfig`` travels; the data sets are the worker's own, and it has none of this key."""
    torch.manual_seed(1)
    config = st.TrainConfig(model=nn.Linear(2, 1), loss_fn=nn.functional.mse_loss, batch_size=2)
    pointer = config.send(bob)
    assert pointer is not None
    with pytest.raises(st.exceptions.FederatedDataError, match="nothing"):
        bob.fit(dataset_key="nothing")


def test_large_tensors_travel_in_parts(bob: Worker) -> None:
    x = torch.arange(5_000_000)
    pointer = x.send(bob)
    assert torch.equal(pointer.get(), x)


def test_what_is_too_large_is_refused_before_it_is_sent(group: Any, names: None) -> None:
    from sharetorch.remote.network.settings import NetworkSettings

    worker = group["bob"].connect("carol", NetworkSettings(max_message_bytes=1 << 16))
    try:
        with pytest.raises(LimitExceededError, match="bob takes 65536"):
            torch.zeros(1 << 16).send(worker)
        assert torch.ones(2).send(worker).get().tolist() == [1, 1]
    finally:
        worker.close()
