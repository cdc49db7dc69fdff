"""Training at a worker in the same process, beside the same training here; every loss is bit-equal."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sharetorch as st

BATCH = 64
STEPS = 5
"""In succession, as in training: each finds the caches as the one before left them."""


class Digits(nn.Module):
    """The convolutional network of the tutorials on federated learning."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        return functional.log_softmax(self.fc2(functional.relu(self.fc1(x.flatten(1)))), dim=1)


def several(losses: Iterator[Tensor]) -> Tensor:
    """The loss after some more steps."""
    return [next(losses) for _ in range(STEPS)][-1]


def steps(place: Callable[[Any], Any], batch: int) -> Iterator[Tensor]:
    """Train without end on one batch, where ``place`` puts data and model."""
    torch.manual_seed(0)
    model, inputs, targets = Digits(), torch.randn(batch, 1, 28, 28), torch.randint(0, 10, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)
    model, inputs, targets = place(model), place(inputs), place(targets)
    while True:
        optimizer.zero_grad()
        loss = functional.nll_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        yield loss.detach()


@pytest.fixture
def bob() -> st.VirtualWorker:
    """A worker of this process."""
    return st.VirtualWorker(id="bench bob").clear_objects()


def test_training_step_at_a_worker(bench: Any, bob: st.VirtualWorker) -> None:
    batch = bench.size(BATCH)
    remote, plain, right = steps(lambda x: x.send(bob), batch), steps(lambda x: x, batch), steps(lambda x: x, batch)
    bench(
        f"CNN (20, 50, 500) at a worker: {STEPS} training steps, batch {batch}",
        lambda: several(remote),
        lambda: several(plain),
        expected=lambda number: several(right),
    )


def test_planned_training_step_at_a_worker(bench: Any, bob: st.VirtualWorker) -> None:
    batch = bench.size(BATCH)
    remote, plain, right = planned(bob, batch), steps(lambda x: x, batch), steps(lambda x: x, batch)
    remote = in_one_message(bob, remote)
    bench(
        f"CNN (20, 50, 500) at a worker: {STEPS} training steps as a plan, one message each, batch {batch}",
        lambda: several(remote),
        lambda: several(plain),
        expected=lambda number: several(right),
    )


def planned(worker: Any, batch: int) -> Iterator[Tensor]:
    """The training of ``steps`` at a worker, each step a plan."""
    torch.manual_seed(0)
    model, inputs, targets = Digits(), torch.randn(batch, 1, 28, 28), torch.randint(0, 10, (batch,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.5)

    @st.func2plan()
    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = functional.nll_loss(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    step.build(inputs, targets)
    there, x, y = step.send(worker), inputs.send(worker), targets.send(worker)
    while True:
        yield there(x, y)


def in_one_message(bob: st.VirtualWorker, losses: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same losses; each comes by one message to the worker."""
    sent = None
    for loss in losses:
        assert sent is None or bob.audit.total == sent + 1
        yield loss
        sent = bob.audit.total


def test_operation_at_a_worker(bench: Any, bob: st.VirtualWorker) -> None:
    x = bench.reals(4)
    bench("sum of two vectors of 4 at a worker", lambda a: a + a, lambda a: a + a, x, share=lambda a: a.send(bob))
