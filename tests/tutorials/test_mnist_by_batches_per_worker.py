"""One batch from every worker in each step, and the mean of the models: the parallel federated MNIST program.

The workers of the tutorial are reached over websockets; here they are in this process, and the program is the same.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn, optim
from torch.utils.data import TensorDataset

import sharetorch as sy
from sharetorch import datasets
from sharetorch.frameworks.torch.fl import utils
from sharetorch.workers.virtual import VirtualWorker

hook = sy.TorchHook(torch)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.fc1 = nn.Linear(6 * 3 * 3, 10)

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return F.log_softmax(self.fc1(x.view(-1, 6 * 3 * 3)), dim=1)


def digits_loader(workers: Any, items: int, batch_size: int) -> sy.FederatedDataLoader:
    digits = datasets.load_digits()
    dataset: Any = TensorDataset(digits.train_images[:items], digits.train_labels[:items])
    return sy.FederatedDataLoader(
        dataset.federate(tuple(workers)), batch_size=batch_size, shuffle=True, iter_per_worker=True
    )


def three_workers() -> list[Any]:
    return [VirtualWorker(hook=hook, id=name, verbose=False) for name in ("alice", "bob", "charlie")]


def test_every_step_has_a_batch_of_every_worker() -> None:
    workers = three_workers()
    loader = digits_loader(workers, items=30, batch_size=4)
    assert loader.workers == ["alice", "bob", "charlie"]
    places = [loader.federated_dataset.datasets[name].location for name in loader.workers]
    assert places == workers
    data_iter = iter(loader)
    steps = 0
    while True:
        try:
            batches = next(data_iter)
        except StopIteration:
            break
        steps += 1
        assert isinstance(batches, dict) and list(batches) == workers
        for worker, (data, target) in batches.items():
            assert data.location is worker and target.location is worker
            assert batches[worker][0] is data
    assert steps == len(loader) == 3


def train_on_batches(worker: Any, batches: list[Any], model_in: Any, lr: float) -> tuple[Any, float]:
    model = model_in.copy()
    optimizer = optim.SGD(model.parameters(), lr=lr)
    model.train()
    model.send(worker)
    loss_local = 0.0
    for data, target in batches:
        optimizer.zero_grad()
        loss = F.nll_loss(model(data), target)
        loss.backward()
        optimizer.step()
        loss_local = loss.get().item()
    model.get()
    return model, loss_local


def get_next_batches(data_iter: Any, workers: list[Any], nr_batches: int) -> dict[Any, list[Any]]:
    batches: dict[Any, list[Any]] = {worker: [] for worker in workers}
    try:
        for _ in range(nr_batches):
            for worker, batch in next(data_iter).items():
                batches[worker].append(batch)
    except StopIteration:
        pass
    return batches


def test_digits_are_learnt_in_parallel() -> None:
    workers = three_workers()
    loader = digits_loader(workers, items=600, batch_size=10)
    digits = datasets.load_digits()
    torch.manual_seed(5)
    model: Any = Net()
    shares = []
    for _ in range(4):
        data_iter = iter(loader)
        while True:
            batches = get_next_batches(data_iter, workers, nr_batches=5)
            if not any(batches.values()):
                break
            models, losses = {}, {}
            for worker in batches:
                models[worker], losses[worker] = train_on_batches(worker, batches[worker], model, lr=0.3)
            model = utils.federated_avg(models)
            assert all(loss > 0 for loss in losses.values())
        with torch.no_grad():
            shares.append(utils.accuracy(model(digits.test_images), digits.test_labels).item())
    assert shares[-1] > 0.7
    assert type(model.fc1.weight.data) is torch.Tensor


def test_the_mean_of_models() -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    mean = utils.federated_avg({"alice": first, "bob": second})
    assert mean is not first and mean is not second
    assert torch.allclose(mean.weight, (first.weight + second.weight) / 2)
    one = utils.federated_avg({"alice": first})
    assert torch.equal(one.weight, first.weight)
    bob = sy.VirtualWorker(hook, id="bob")
    there = utils.federated_avg({"a": first.copy().send(bob), "b": second.copy().send(bob)})
    assert there.weight.location is bob
    assert torch.allclose(there.get().weight, mean.weight)
    with pytest.raises(ValueError, match="at least one"):
        utils.federated_avg({})
