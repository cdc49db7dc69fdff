"""Part 12: data, targets and model in shares, and a stock optimizer that trains them."""

import copy
from typing import Any

import torch
from torch import nn, optim

import sharetorch as sy

hook = sy.TorchHook(torch)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, 3)
        self.fc2 = nn.Linear(3, 1)

    def forward(self, x: Any) -> Any:
        return self.fc2(torch.relu(self.fc1(x)))


def train(model: nn.Module, optimizer: optim.Optimizer, data: Any, target: Any, steps: int) -> list[Any]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        pred = model(data)
        loss = ((pred - target) ** 2).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss)
    return losses


def test_everything_in_shares_learns_what_the_plain_program_learns() -> None:
    alice, bob, james = (sy.VirtualWorker(hook, id=name) for name in ("alice", "bob", "james"))
    data = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    target = torch.tensor([[1.0], [1], [0], [0]])
    torch.manual_seed(2)
    model = Net()
    plain = copy.deepcopy(model)
    expected = [loss.item() for loss in train(plain, optim.SGD(plain.parameters(), lr=0.05), data, target, 15)]

    data = data.fix_precision().share(bob, alice, crypto_provider=james, requires_grad=True)
    target = target.fix_precision().share(bob, alice, crypto_provider=james, requires_grad=True)
    model = model.fix_precision().share(bob, alice, crypto_provider=james, requires_grad=True)
    opt = optim.SGD(params=model.parameters(), lr=0.05).fix_precision()
    losses = [loss.get().float_precision().item() for loss in train(model, opt, data, target, 15)]

    assert losses[-1] < losses[0] / 3
    assert max(abs(one - other) for one, other in zip(losses, expected, strict=True)) < 0.03
    assert repr(data).startswith("AutogradTensor>FixedPrecisionTensor>[AdditiveSharingTensor]")
    assert data.grad is not None and isinstance(model.fc1.weight.grad, sy.AdditiveSharingTensor)
    model.get().float_precision()
    assert (model(torch.eye(2)) - plain(torch.eye(2))).abs().max() < 0.03


def test_only_what_is_fetched_is_seen() -> None:
    alice, bob, james = (sy.VirtualWorker(hook, id=name) for name in ("alice", "bob", "james"))
    x = torch.tensor([[1.0, 2.0]]).fix_precision().share(bob, alice, crypto_provider=james, requires_grad=True)
    weight = torch.tensor([[0.5], [0.25]]).fix_precision().share(bob, alice, crypto_provider=james, requires_grad=True)
    loss = ((x @ weight) ** 2).sum()
    loss.backward()
    assert loss.get().float_precision().item() == 1.0
    assert weight.grad.get().float_precision().tolist() == [[2.0], [4.0]]
    assert x.grad.copy().get().float_precision().tolist() == [[1.0, 0.5]]
