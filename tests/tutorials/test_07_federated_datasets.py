"""Data sets made of what is at workers already, and an optimizer for each worker over the same parameters."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn, optim

import sharetorch as sy

hook = sy.TorchHook(torch)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, 20)
        self.fc2 = nn.Linear(20, 10)
        self.fc3 = nn.Linear(10, 1)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def test_the_loss_falls() -> None:
    bob, alice = sy.VirtualWorker(hook, id="bob"), sy.VirtualWorker(hook, id="alice")
    data = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1.0]], requires_grad=True)
    target = torch.tensor([[0], [0], [1], [1.0]], requires_grad=True)
    data_bob, target_bob = data[0:2].send(bob), target[0:2].send(bob)
    data_alice, target_alice = data[2:].send(alice), target[2:].send(alice)
    federated_dataset = sy.FederatedDataset(
        [sy.BaseDataset(data_bob, target_bob), sy.BaseDataset(data_alice, target_alice)]
    )
    assert federated_dataset.workers == ["bob", "alice"] and len(federated_dataset) == 4
    torch.manual_seed(1)
    model: Any = Net()
    optimizers = {worker: optim.Adam(params=model.parameters(), lr=3e-2) for worker in federated_dataset.workers}
    train_loader = sy.FederatedDataLoader(federated_dataset, shuffle=False, batch_size=32)
    assert len(train_loader) == 2
    history = []
    for _ in range(25):
        for data, target in train_loader:
            worker = data.location.id
            model.send(data.location)
            optimizers[worker].zero_grad()
            pred = model(data)
            loss = F.mse_loss(pred.view(-1), target.view(-1))
            loss.backward()
            optimizers[worker].step()
            model.get()
            history.append(loss.get().item())
    assert sum(history[-4:]) < 0.2 * sum(history[:4])
    moments = [optimizers[name].state[model.fc1.weight]["exp_avg"].location.id for name in ("bob", "alice")]
    assert moments == ["bob", "alice"]


def test_a_data_set_is_sent_as_a_whole_too() -> None:
    bob, alice = sy.VirtualWorker(hook, id="bob"), sy.VirtualWorker(hook, id="alice")
    x, y = torch.rand(9, 2), torch.arange(9)
    parts = [sy.BaseDataset(x[:4], y[:4]).send(bob), sy.BaseDataset(x[4:], y[4:]).send(alice)]
    federated = sy.FederatedDataset(parts)
    assert [federated.datasets[name].location for name in federated.workers] == [bob, alice]
    assert [tuple(data.shape) for data, _ in sy.FederatedDataLoader(federated, batch_size=3)] == [
        (3, 2),
        (1, 2),
        (3, 2),
        (2, 2),
    ]
    back = federated.get()
    assert torch.equal(back.data, x) and torch.equal(back.targets, y)
    assert bob._objects == {} and alice._objects == {}


def test_what_a_grid_found_becomes_a_data_set() -> None:
    names: dict[str, Any] = {"torch": torch}
    sy.create_sandbox(names, verbose=False)
    grid = sy.PrivateGridNetwork(*names["workers"])
    found_data, found_target = grid.search("#diabetes", "#data"), grid.search("#diabetes", "#target")
    n_features, n_targets = found_data["alice"][0].shape[1], 1
    assert n_features == 10
    parts = []
    for worker in found_data:
        parts.append(sy.BaseDataset(found_data[worker][0], found_target[worker][0]))
    dataset = sy.FederatedDataset(parts)
    assert "442 items" in repr(dataset) and "theo" in repr(dataset)
    assert dataset.workers == [worker.id for worker in names["workers"]]

    torch.manual_seed(2)
    model: Any = nn.Linear(n_features, n_targets)
    optimizers = {worker: optim.Adam(params=model.parameters(), lr=5.0) for worker in dataset.workers}
    train_loader = sy.FederatedDataLoader(dataset, batch_size=32, shuffle=False, drop_last=False)
    assert len(train_loader) == 6 * 3
    totals = []
    for _ in range(4):
        loss_accum = 0.0
        for data, target in train_loader:
            model.send(data.location)
            optimizer = optimizers[data.location.id]
            optimizer.zero_grad()
            pred = model(data)
            loss = ((pred.view(-1) - target) ** 2).mean()
            loss.backward()
            optimizer.step()
            model.get()
            loss = loss.get()
            loss_accum += float(loss)
        totals.append(loss_accum)
    assert totals[-1] < 0.5 * totals[0]
