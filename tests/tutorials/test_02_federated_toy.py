"""A model travels between two owners of data, and each owner's optimizer keeps a state of its own."""

from typing import Any

import pytest
import torch
from torch import nn, optim

import sharetorch as sy
from sharetorch.federated.floptimizer import Optims

hook = sy.TorchHook(torch)


def rows() -> tuple[Any, Any]:
    """The second number decides, in six rows."""
    data = torch.tensor([[0.0, 1], [1, 0], [0, 0], [1, 1], [0.5, 1], [0.5, 0]], requires_grad=True)
    return data, torch.tensor([[1.0], [0], [0], [1], [1], [0]], requires_grad=True)


def parts(bob: Any, alice: Any) -> list[tuple[Any, Any]]:
    data, target = rows()
    data_bob, target_bob = data[0:3], target[0:3]
    data_alice, target_alice = data[3:], target[3:]
    return [(data_bob.send(bob), target_bob.send(bob)), (data_alice.send(alice), target_alice.send(alice))]


def test_the_loss_falls() -> None:
    bob, alice = sy.VirtualWorker(hook, id="bob"), sy.VirtualWorker(hook, id="alice")
    torch.manual_seed(0)
    model: Any = nn.Linear(2, 1)
    optims = Optims(["bob", "alice"], optim=optim.Adam(params=model.parameters(), lr=0.1))
    history = []
    for _ in range(15):
        for data, target in parts(bob, alice):
            model.send(data.location)
            assert model.weight.location is data.location
            opt = optims.get_optim(data.location.id)
            opt.zero_grad()
            pred = model(data)
            loss = ((pred - target) ** 2).sum()
            loss.backward()
            opt.step()
            model.get()
            assert type(model.weight.data) is torch.Tensor
            history.append(loss.get().data.item())
    assert sum(history[-2:]) < 0.2 * sum(history[:2])
    del data, target, pred, loss
    # Adam's moments of two parameters are at each worker, and nothing else.
    assert [len(worker._objects) for worker in (bob, alice)] == [4, 4]


def test_it_is_the_same_program_as_without_workers() -> None:
    bob, alice = sy.VirtualWorker(hook, id="bob"), sy.VirtualWorker(hook, id="alice")
    model: Any = nn.Linear(2, 1)
    plain: Any = model.copy()
    remote_opts = Optims(workers=["bob", "alice"], optim=optim.Adam(params=model.parameters(), lr=0.05))
    plain_opts = [optim.Adam(plain.parameters(), lr=0.05) for _ in range(2)]
    data, target = rows()
    here = [(data[:3].detach(), target[:3].detach()), (data[3:].detach(), target[3:].detach())]
    for _ in range(4):
        for (x, y), plain_opt, (x_ptr, y_ptr) in zip(here, plain_opts, parts(bob, alice), strict=True):
            plain_opt.zero_grad()
            expected = ((plain(x) - y) ** 2).sum()
            expected.backward()
            plain_opt.step()

            model.send(x_ptr.location)
            opt = remote_opts.get_optim(x_ptr.location.id)
            opt.zero_grad()
            loss = ((model(x_ptr) - y_ptr) ** 2).sum()
            loss.backward()
            opt.step()
            model.get()
            assert loss.get().item() == pytest.approx(expected.item(), rel=1e-5)
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_one_state_per_worker() -> None:
    bob, alice = sy.VirtualWorker(hook, id="bob"), sy.VirtualWorker(hook, id="alice")
    model: Any = nn.Linear(2, 1)
    optims = Optims(["bob", "alice"], optim=optim.Adam(params=model.parameters(), lr=0.1))
    for data, target in parts(bob, alice)[:1] * 3 + parts(bob, alice)[1:]:
        model.send(data.location)
        opt = optims.get_optim(data.location.id)
        opt.zero_grad()
        ((model(data) - target) ** 2).sum().backward()
        opt.step()
        model.get()
    steps = [optims.get_optim(name).state[model.weight]["step"].item() for name in ("bob", "alice")]
    assert steps == [3, 1]
    places = [optims.get_optim(name).state[model.weight]["exp_avg"].location.id for name in ("bob", "alice")]
    assert places == ["bob", "alice"]
    with pytest.raises(ValueError, match="carol"):
        optims.get_optim("carol")


def test_the_rows_sent_are_copies() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    data, _ = rows()
    part = data[0:2].send(bob)
    assert data.requires_grad and torch.equal(part.get().detach(), data[0:2].detach())
    assert bob._objects == {}
