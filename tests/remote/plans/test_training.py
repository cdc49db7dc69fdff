"""Whole training steps as plans: one message each, and the weights of local training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import sharetorch as st
from sharetorch.exceptions import PlanError
from sharetorch.remote.plans import Plan, func2plan

Worker = st.VirtualWorker
STEPS = 20

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.05),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
}


def _network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def _step(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[Tensor, Tensor], Tensor]:
    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    return step


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_at_a_worker_equal_local_ones_bit_for_bit(name: str, bob: Worker) -> None:
    model = _network()
    twin = copy.deepcopy(model)
    local_step = _step(twin, OPTIMIZERS[name](twin.parameters()))
    optimizer = OPTIMIZERS[name](model.parameters())
    plan = func2plan(args_shape=[(-1, 4), (-1,)], dtypes=["float32", "int64"])(_step(model, optimizer))
    pointer = plan.send(bob)
    batches = [(torch.randn(rows, 4), torch.randint(3, (rows,))) for rows in (16, 16, 5)]
    sent = [(x.send(bob), y.send(bob)) for x, y in batches]
    link = pointer.handle.link
    before = link.sent
    losses = [pointer(*sent[turn % 3]) for turn in range(STEPS)]
    assert link.sent - before == STEPS, "one message for each step"
    expected = [local_step(*batches[turn % 3]) for turn in range(STEPS)]
    assert [loss.get().item() for loss in losses] == [loss.item() for loss in expected]
    trained = pointer.get()
    for key, value in twin.state_dict().items():
        assert torch.equal(trained.named_state()[f"model.{key}"], value), key
        assert not torch.equal(model.state_dict()[key], value), "the model here is as it was"
    plan.load_state(trained.named_state())
    assert all(torch.equal(model.state_dict()[key], value) for key, value in twin.state_dict().items())


def test_training_goes_on_where_it_stopped(bob: Worker, alice: Worker) -> None:
    model = _network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    plan = func2plan(args_shape=[(-1, 4), (-1,)], dtypes=["float32", "int64"])(_step(model, optimizer))
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    first = plan.send(bob)
    first(x.send(bob), y.send(bob))
    moved = first.move(alice)
    assert moved.location is alice
    moved(x.send(alice), y.send(alice))
    fetched = moved.get()
    fetched(x, y)  # a fetched plan trains here too
    for _ in range(3):
        plan(x, y)
    for name, tensor in plan.named_state().items():
        assert torch.equal(tensor, fetched.named_state()[name]), name


def test_a_plan_trains_the_users_own_model_here() -> None:
    model = _network()
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    plan = Plan("step", _step(model, optimizer)).build(x, y)
    local = _step(twin, torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9))
    for _ in range(2):
        plan(x, y)
        local(x, y)
    _step(model, optimizer)(x, y)  # an ordinary step goes on with the same momentum
    local(x, y)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))


def test_gradients_as_results(bob: Worker) -> None:
    model = _network()

    def gradients(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))

    x, y = torch.randn(5, 4), torch.randint(3, (5,))
    plan = Plan("gradients", gradients).build(x, y, flexible=True)
    there = plan.send(bob)(x.send(bob), y.send(bob))
    assert isinstance(there, tuple)
    for pointer, expected in zip(there, gradients(x, y), strict=True):
        assert torch.equal(pointer.get(), expected)


def test_buffers_are_trained_with_the_rest(bob: Worker) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    pointer = Plan("step", _step(model, optimizer)).build(x, y, flexible=True).send(bob)
    local = _step(twin, torch.optim.SGD(twin.parameters(), lr=0.1))
    for _ in range(3):
        pointer(x.send(bob), y.send(bob))
        local(x, y)
    trained = pointer.get().named_state()
    for key, value in twin.state_dict().items():
        assert torch.equal(trained[f"model.{key}"], value), key


def test_state_written_by_hand(bob: Worker) -> None:
    total = torch.zeros(2)

    @func2plan(args_shape=[(2,)])
    def add(x: Tensor) -> Tensor:
        total.add_(x)
        return total * 1

    pointer = add.send(bob)
    x = torch.tensor([1.0, 2.0]).send(bob)
    assert [pointer(x).get().tolist() for _ in range(3)] == [[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]
    assert total.tolist() == [0.0, 0.0]
    assert pointer.fetched().named_state()["total"].tolist() == [3.0, 6.0]
    assert pointer(x).get().tolist() == [4.0, 8.0], "fetched() leaves the plan there"


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
        lambda p: torch.optim.Rprop(p),
        lambda p: torch.optim.NAdam(p),
    ],
)
def test_optimizers_whose_first_step_differs_need_one_before(make: Any) -> None:
    model = _network()
    optimizer = make(model.parameters())
    x, y = torch.randn(6, 4), torch.randint(3, (6,))
    with pytest.raises(PlanError, match="one step before build"):
        Plan("step", _step(model, optimizer)).build(x, y)
    step = _step(model, optimizer)
    step(x, y)
    twin = copy.deepcopy(model)
    plan = Plan("step", step).build(x, y)
    other = make(twin.parameters())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    plan(x, y)
    _step(twin, other)(x, y)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin.parameters(), strict=True))
