"""SplitNN 1 to 3: a network cut between workers; activations go forward and gradients back, from worker to worker."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn, optim

import sharetorch as sy

hook = sy.TorchHook(torch)


class SplitNN:
    """Segments of a network, each at its worker with an optimizer of its own."""

    def __init__(self, models: list[nn.Module], optimizers: list[optim.Optimizer]) -> None:
        self.models, self.optimizers = models, optimizers
        self.outputs: list[Any] = []
        self.inputs: list[Any] = []

    def forward(self, x: Any) -> Any:
        self.outputs, self.inputs = [], []
        for model in self.models:
            if self.outputs:
                x = self.outputs[-1].detach()
                if x.location is not model.location:
                    x = x.move(model.location)
                x = x.requires_grad_()
                self.inputs.append(x)
            self.outputs.append(model(x))
        return self.outputs[-1]

    def backward(self) -> None:
        for below, received in zip(self.outputs[-2::-1], self.inputs[::-1], strict=True):
            gradient = received.grad.copy()
            if gradient.location is not below.location:
                gradient = gradient.move(below.location)
            below.backward(gradient)

    def zero_grads(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()


def segments() -> list[nn.Module]:
    return [
        nn.Sequential(nn.Linear(8, 10), nn.ReLU()),
        nn.Sequential(nn.Linear(10, 6), nn.ReLU()),
        nn.Sequential(nn.Linear(6, 3), nn.LogSoftmax(dim=1)),
    ]


def problem(n: int = 30) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 8)
    return x, x[:, :3].argmax(dim=1)


def test_three_segments_at_three_workers(assert_same_models: Callable[..., None]) -> None:
    alice, claire, bob = (sy.VirtualWorker(hook, id=name) for name in ("alice", "claire", "bob"))
    x, y = problem()
    models = segments()
    whole = nn.Sequential(*models).copy()
    optimizers = [optim.SGD(model.parameters(), lr=0.3) for model in models]
    for model, location in zip(models, (alice, claire, bob), strict=True):
        model.send(location)
    assert [model.location.id for model in models] == ["alice", "claire", "bob"]
    split = SplitNN(models, optimizers)
    data, target = x.send(models[0].location), y.send(models[-1].location)

    plain = optim.SGD(whole.parameters(), lr=0.3)
    losses = []
    for _ in range(12):
        split.zero_grads()
        pred = split.forward(data)
        loss = nn.functional.nll_loss(pred, target)
        loss.backward()
        split.backward()
        split.step()
        losses.append(loss.get().item())
        assert split.inputs[0].grad.location is claire and split.inputs[1].grad.location is bob
        assert data.grad is None

        plain.zero_grad()
        expected = nn.functional.nll_loss(whole(x), y)
        expected.backward()
        plain.step()
        assert losses[-1] == expected.item()
    assert losses[-1] < losses[0]
    for model in models:
        model.get()
    assert_same_models(nn.Sequential(*models), whole)


def test_several_owners_of_rows_share_the_upper_half(assert_same_models: Callable[..., None]) -> None:
    """SplitNN 2 and 3: each owner has a lower half of its own; the losses are added where the upper half is."""
    alice, bob, server = (sy.VirtualWorker(hook, id=name) for name in ("alice", "bob", "server"))
    x, y = problem(40)
    lower, upper = [nn.Sequential(nn.Linear(8, 5), nn.Tanh()) for _ in range(2)], nn.Linear(5, 3)
    plain_lower, plain_upper = [half.copy() for half in lower], upper.copy()
    for half, owner in zip(lower, (alice, bob), strict=True):
        half.send(owner)
    upper.send(server)
    optimizers = [optim.Adam(half.parameters(), lr=0.01) for half in (*lower, upper)]
    plain = [optim.Adam(half.parameters(), lr=0.01) for half in (*plain_lower, plain_upper)]
    rows = [slice(0, 20), slice(20, 40)]
    data = [x[part].send(owner) for part, owner in zip(rows, (alice, bob), strict=True)]
    target = [y[part].send(server) for part in rows]

    for _ in range(5):
        for optimizer in (*optimizers, *plain):
            optimizer.zero_grad()
        activations = [half(part) for half, part in zip(lower, data, strict=True)]
        received = [a.detach().move(upper.location).requires_grad_() for a in activations]
        losses = [nn.functional.cross_entropy(upper(r), t) for r, t in zip(received, target, strict=True)]
        total: Any = sum(losses)
        total.backward()
        for a, r in zip(activations, received, strict=True):
            a.backward(r.grad.copy().move(a.location))
        expected: Any = sum(
            nn.functional.cross_entropy(plain_upper(half(x[part])), y[part])
            for half, part in zip(plain_lower, rows, strict=True)
        )
        expected.backward()
        for optimizer in (*optimizers, *plain):
            optimizer.step()
        assert total.get().item() == expected.item()
    assert_same_models(nn.Sequential(*lower, upper.get()).get(), nn.Sequential(*plain_lower, plain_upper))


def test_owners_of_columns_send_halves_of_the_activations() -> None:
    """Vertical split: two owners have different columns of the same rows."""
    alice, bob, server = (sy.VirtualWorker(hook, id=name) for name in ("alice", "bob", "server"))
    x, y = problem(40)
    left, right, upper = nn.Linear(4, 6).send(alice), nn.Linear(4, 6).send(bob), nn.Linear(12, 3).send(server)
    optimizers = [optim.SGD(model.parameters(), lr=0.5) for model in (left, right, upper)]
    columns = [x[:, :4].send(alice), x[:, 4:].send(bob)]
    target = y.send(server)
    losses = []
    for _ in range(25):
        for optimizer in optimizers:
            optimizer.zero_grad()
        activations = [torch.relu(model(part)) for model, part in zip((left, right), columns, strict=True)]
        received = [a.detach().move(server).requires_grad_() for a in activations]
        loss = nn.functional.cross_entropy(upper(torch.cat(received, dim=1)), target)
        loss.backward()
        for a, r in zip(activations, received, strict=True):
            a.backward(r.grad.copy().move(a.location))
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.get().item())
    assert losses[-1] < losses[0] / 2
