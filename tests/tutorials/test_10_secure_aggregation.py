"""Part 10: models trained at two workers, averaged in shares, so that nobody sees anybody's model."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

import sharetorch as sy

hook = sy.TorchHook(torch)

ROUNDS = 4


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(3, 6)
        self.out = nn.Linear(6, 1)

    def forward(self, x: Any) -> Any:
        return self.out(F.relu(self.hidden(x.view(-1, 3))))


def houses(n: int) -> tuple[Tensor, Tensor]:
    features = torch.randn(n, 3)
    return features, features @ torch.tensor([[0.5], [-0.25], [1.0]]) + 0.5


def one_pass(model: nn.Module, optimizer: optim.Optimizer, x: Any, y: Any) -> Any:
    optimizer.zero_grad()
    loss = F.mse_loss(model(x).view(-1), y.view(-1))
    loss.backward()
    optimizer.step()
    return loss


def test_two_models_are_averaged_in_shares(assert_close: Callable[..., None]) -> None:
    bob, alice, james = (sy.VirtualWorker(hook, id=name) for name in ("bob", "alice", "james"))
    homes = [bob, alice]
    parts = [houses(40), houses(40)]
    data = [(x.send(worker), y.send(worker)) for worker, (x, y) in zip(homes, parts, strict=True)]
    start = Net()
    models, mirrors = [start.copy(), start.copy()], [start.copy(), start.copy()]
    params = [list(model.parameters()) for model in models]
    optimizers = [optim.SGD(p, lr=0.05) for p in params]
    mirror_optimizers = [optim.SGD(model.parameters(), lr=0.05) for model in mirrors]
    losses = []

    for _ in range(ROUNDS):
        for place, worker in enumerate(homes):
            models[place].send(worker)
            for _ in range(8):
                loss = one_pass(models[place], optimizers[place], *data[place])
                one_pass(mirrors[place], mirror_optimizers[place], *parts[place])
            losses.append(loss.get().item())

        new_params = []
        for index in range(len(params[0])):
            shares = [
                own[index].copy().fix_precision().share(bob, alice, crypto_provider=james).get() for own in params
            ]
            assert all(isinstance(share, sy.AdditiveSharingTensor) for share in shares)
            new_params.append((shares[0] + shares[1]).get().float_precision() / 2)

        with torch.no_grad():
            for model in params:
                for param in model:
                    param *= 0
            for model in models:
                assert model.hidden.weight.count_nonzero().get().item() == 0
                model.get()
            for own in params:
                for param, new in zip(own, new_params, strict=True):
                    param.set_(new)
            for pair in zip(*(mirror.parameters() for mirror in mirrors), strict=True):
                mean = (pair[0] + pair[1]) / 2
                for param in pair:
                    param.copy_(mean)

    assert max(losses[-2:]) < min(losses[:2]) / 2
    for one, other in zip(models[0].parameters(), mirrors[0].parameters(), strict=True):
        assert_close(one, other, 0.02)  # three decimals, cut in each of the rounds


def test_the_averaging_party_sees_shares_only() -> None:
    bob, alice, james = (sy.VirtualWorker(hook, id=name) for name in ("bob", "alice", "james"))
    weight = torch.tensor([0.5, -1.5], requires_grad=True).send(bob)
    handle = weight.copy().fix_precision().share(bob, alice, crypto_provider=james)
    assert isinstance(handle, sy.PointerTensor) and handle.location is bob
    shared = handle.get()
    (part,) = alice._objects.values()
    assert part.dtype == torch.int64 and part.tolist() != [500, -1500]
    assert shared.get().float_precision().tolist() == [0.5, -1.5]
    assert weight.get().tolist() == [0.5, -1.5]
