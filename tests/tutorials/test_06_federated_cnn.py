"""A convolutional network learns from images at two workers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset

import sharetorch as sy
from sharetorch import datasets

hook = sy.TorchHook(torch)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, 1)
        self.conv2 = nn.Conv2d(6, 12, 3, 1)
        self.fc1 = nn.Linear(12 * 2 * 2, 24)
        self.fc2 = nn.Linear(24, 10)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = F.max_pool2d(x, 2, 2)
        x = x.view(-1, 12 * 2 * 2)
        x = F.relu(self.fc1(x))
        return F.log_softmax(self.fc2(x), dim=1)


def train(model: Any, device: Any, loader: Any, optimizer: Any, losses: list[float]) -> None:
    model.train()
    for batch_idx, (data, target) in enumerate(loader):
        model.send(data.location)
        data, target = data.to(device), target.to(device)
        optimizer.zero_grad()
        output = model(data)
        loss = F.nll_loss(output, target)
        loss.backward()
        optimizer.step()
        model.get()
        if batch_idx % 5 == 0:
            loss = loss.get()
            losses.append(loss.item())


def test(model: Any, device: Any, loader: Any) -> float:
    model.eval()
    test_loss, correct = 0.0, 0
    with torch.no_grad():
        for data, target in loader:
            data, target = data.to(device), target.to(device)
            output = model(data)
            test_loss += F.nll_loss(output, target, reduction="sum").item()
            pred = output.argmax(1, keepdim=True)
            correct += pred.eq(target.view_as(pred)).sum().item()
    return correct / len(loader.dataset)


test.__test__ = False


def test_digits_are_learnt() -> None:
    bob, alice = sy.VirtualWorker(hook, id="bob"), sy.VirtualWorker(hook, id="alice")
    torch.manual_seed(1)
    device, kwargs = torch.device("cpu"), {"num_workers": 1, "pin_memory": True}
    digits = datasets.load_digits()
    dataset: Any = TensorDataset(digits.train_images[:600], digits.train_labels[:600])
    federated_train_loader = sy.FederatedDataLoader(
        dataset.federate((bob, alice)), batch_size=8, shuffle=True, **kwargs
    )
    test_loader = DataLoader(TensorDataset(digits.test_images, digits.test_labels), batch_size=100, shuffle=True)
    model: Any = Net().to(device)
    optimizer = optim.SGD(model.parameters(), lr=0.2)
    before = test(model, device, test_loader)
    losses: list[float] = []
    for _ in range(5):
        train(model, device, federated_train_loader, optimizer, losses)
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    assert test(model, device, test_loader) > max(0.7, before)
    assert not any(param.grad is not None and hasattr(param.grad, "location") for param in model.parameters())


def test_the_images_stay_where_they_are() -> None:
    bob, alice = sy.VirtualWorker(hook, id="bob"), sy.VirtualWorker(hook, id="alice")
    digits = datasets.load_digits()
    dataset: Any = TensorDataset(digits.train_images[:40], digits.train_labels[:40])
    loader = sy.FederatedDataLoader(dataset.federate((bob, alice)), batch_size=8)
    model: Any = Net()
    train(model, torch.device("cpu"), loader, optim.SGD(model.parameters(), lr=0.01), [])
    weights = sum(param.numel() for param in model.parameters())
    sizes = {tuple(value.shape) for worker in (bob, alice) for value in worker._objects.values()}
    assert sizes == {(20, 1, 8, 8), (20,)}
    for worker in (bob, alice):
        back = sy.local_worker.link(worker.id).bytes_received
        batches = 3
        assert back < 2 * batches * 4 * weights + 60_000, "the model and its gradient come back, and nothing large"


@pytest.mark.parametrize(("items", "batch_size"), [(20, 8), (20, 5), (7, 3), (8, 64)])
def test_the_loader_counts_batches_and_takes_the_workers_in_turn(items: int, batch_size: int) -> None:
    bob, alice = sy.VirtualWorker(hook, id="bob"), sy.VirtualWorker(hook, id="alice")
    dataset: Any = TensorDataset(torch.arange(items), torch.arange(items))
    federated = dataset.federate((bob, alice))
    loader = sy.FederatedDataLoader(federated, batch_size=batch_size, shuffle=True, drop_last=False, num_workers=3)
    sizes = [len(federated["bob"]), len(federated["alice"])]
    expected = [-(-size // batch_size) for size in sizes]
    places = [data.location.id for data, _ in loader]
    assert len(loader) == len(places) == sum(expected)
    assert places == ["bob"] * expected[0] + ["alice"] * expected[1]
    seen: list[int] = []
    for data, target in loader:
        assert data.location is target.location
        rows: Tensor = data.get()
        assert torch.equal(rows, target.get())
        seen += rows.tolist()
    assert sorted(seen) == list(range(items))


def test_a_pointer_stays_on_the_cpu_and_the_loss_is_fetched() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    x: Any = torch.rand(3, 4).send(bob)
    y: Any = torch.tensor([0, 3, 1]).send(bob)
    assert x.to(torch.device("cpu")).location is bob and x.to("cpu").location is bob
    loss = F.nll_loss(F.log_softmax(x, dim=1), y)
    with pytest.raises(RuntimeError, match="get"):
        loss.item()
    assert loss.get().item() > 0
