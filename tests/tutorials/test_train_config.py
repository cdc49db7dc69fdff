"""TrainConfig: a worker trains on its own data set when told by one line."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sharetorch as sy

hook = sy.TorchHook(torch)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, 6)
        self.fc2 = nn.Linear(6, 1)

    def forward(self, x: Any) -> Any:
        return self.fc2(torch.nn.functional.relu(self.fc1(x)))


def data() -> tuple[Tensor, Tensor]:
    return torch.tensor([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0], [0.0], [1.0], [0.0]])


def squared(target: Tensor, pred: Tensor) -> Tensor:
    return ((target.view(pred.shape).float() - pred.float()) ** 2).mean()


def expected(model: nn.Module, epochs: int, rate: float) -> Tensor:
    """The last loss of the same program here, in one batch."""
    x, y = data()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = ((y - model(x)) ** 2).mean()
        loss.backward()
        optimizer.step()
    return loss.detach()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_worker_trains_a_traced_model_on_its_own_data() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    bob.add_dataset(sy.BaseDataset(*data()), key="gates")
    model = Net()
    plain = copy.deepcopy(model)
    config = sy.TrainConfig(
        model=torch.jit.trace(model, data()[0]),
        loss_fn=torch.jit.script(squared),
        batch_size=4,
        optimizer="SGD",
        optimizer_args={"lr": 0.2},
        epochs=3,
        shuffle=False,
    )
    config.send(bob)
    losses = [bob.fit(dataset_key="gates").item() for _ in range(4)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == pytest.approx(expected(plain, 12, 0.2).item(), rel=1e-5)

    trained = config.model_ptr.get()
    x, y = data()
    assert torch.allclose(trained(x), plain(x), atol=1e-6)  # the notebook calls the result
    assert torch.allclose(trained.obj(x), plain(x), atol=1e-6)  # their tests ask for .obj


def test_a_module_and_a_function_as_they_are() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    bob.add_dataset(sy.BaseDataset(*data()), key="gates")
    model = Net()
    plain = copy.deepcopy(model)
    config = sy.TrainConfig(
        model, nn.functional.mse_loss, batch_size=2, shuffle=False, max_nr_batches=1, optimizer_args={"lr": 0.1}
    )
    config.send(bob)
    loss = bob.fit("gates")
    x, y = data()
    assert loss.item() == pytest.approx(((plain(x[:2]) - y[:2]) ** 2).mean().item(), rel=1e-5)


def test_how_it_prints() -> None:
    config = sy.TrainConfig(model=Net(), loss_fn=squared, batch_size=2, optimizer_args={"lr": 0.1})
    assert repr(config) == (
        f"<TrainConfig id:{config.id} owner:me epochs: 1 batch_size: 2 optimizer_args: {{'lr': 0.1}}>"
    )


def test_what_is_missing_is_named() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    bob.add_dataset(sy.BaseDataset(*data()), key="gates")
    with pytest.raises(ValueError, match="TrainConfig"):
        bob.fit(dataset_key="gates")
    with pytest.raises(ValueError, match="gates"):
        bob.add_dataset(sy.BaseDataset(*data()), key="gates")
    config = sy.TrainConfig(model=Net(), loss_fn=squared, batch_size=2)
    config.send(bob)
    with pytest.raises(ValueError, match="other"):
        bob.fit(dataset_key="other")
    bob.remove_dataset("gates")
    with pytest.raises(ValueError, match="gates"):
        bob.fit(dataset_key="gates")
