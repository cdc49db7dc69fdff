"""Two owners train copies of a model; a trusted worker averages them."""

from typing import Any

import torch
from torch import nn, optim

import sharetorch as sy

hook = sy.TorchHook(torch)


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    data = torch.randn(24, 2, generator=generator)
    return data, data @ torch.tensor([[0.5], [-1.5]]) + 0.25


def test_models_are_averaged_where_neither_owner_looks() -> None:
    bob, alice = sy.VirtualWorker(hook, id="bob"), sy.VirtualWorker(hook, id="alice")
    secure_worker = sy.VirtualWorker(hook, id="secure_worker")
    bob.add_workers([alice, secure_worker])
    alice.add_workers([bob, secure_worker])
    secure_worker.add_workers([alice, bob])
    data, target = problem()
    bobs_data, bobs_target = data[0:12].send(bob), target[0:12].send(bob)
    alices_data, alices_target = data[12:].send(alice), target[12:].send(alice)

    torch.manual_seed(1)
    model: Any = nn.Linear(2, 1)
    first = ((model(data) - target) ** 2).mean().item()
    for _ in range(5):
        bobs_model = model.copy().send(bob)
        alices_model = model.copy().send(alice)
        bobs_opt = optim.SGD(params=bobs_model.parameters(), lr=0.1)
        alices_opt = optim.SGD(params=alices_model.parameters(), lr=0.1)
        for _ in range(5):
            bobs_opt.zero_grad()
            bobs_loss = ((bobs_model(bobs_data) - bobs_target) ** 2).mean()
            bobs_loss.backward()
            bobs_opt.step()
            bobs_loss = bobs_loss.get().data

            alices_opt.zero_grad()
            alices_loss = ((alices_model(alices_data) - alices_target) ** 2).mean()
            alices_loss.backward()
            alices_opt.step()
            alices_loss = alices_loss.get().data
        assert bobs_model.location is bob and alices_model.location is alice
        alices_model.move(secure_worker)
        bobs_model.move(secure_worker)
        assert alices_model.location is secure_worker and bobs_model.weight.location is secure_worker
        with torch.no_grad():
            model.weight.set_(((alices_model.weight.data + bobs_model.weight.data) / 2).get())
            model.bias.set_(((alices_model.bias.data + bobs_model.bias.data) / 2).get())
        assert float(bobs_loss) < first and float(alices_loss) < first
    assert type(model.weight.data) is torch.Tensor and model.weight.requires_grad
    assert ((model(data) - target) ** 2).mean().item() < 0.05 * first


def test_the_mean_is_right_to_the_last_bit() -> None:
    bob, alice, secure_worker = (sy.VirtualWorker(hook, id=name) for name in ("bob", "alice", "secure_worker"))
    model: Any = nn.Linear(3, 2)
    plain = [model.copy() for _ in range(2)]
    for number, each in enumerate(plain):
        with torch.no_grad():
            each.weight.mul_(number + 2)
    there = [each.copy().send(place) for each, place in zip(plain, (bob, alice), strict=True)]
    for each in there:
        each.move(secure_worker)
    fetched = [place for place in (bob, alice) if any(entry.request == "fetch" for entry in place.audit)]
    assert fetched == [], "the models went to the secure worker without a stop here"
    with torch.no_grad():
        model.weight.set_(((there[0].weight.data + there[1].weight.data) / 2).get())
    assert torch.equal(model.weight, (plain[0].weight + plain[1].weight) / 2)
    assert bob._objects == {} and alice._objects == {}


def test_a_model_says_where_it_is() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    model: Any = nn.Linear(2, 1)
    assert not hasattr(model, "location")
    model.send(bob)
    assert model.location is bob and model.owner is sy.local_worker
    assert model.get() is model
    assert not hasattr(model, "location")
