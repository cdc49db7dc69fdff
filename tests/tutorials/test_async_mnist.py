"""Several workers train at the same time by ``async_fit``, and evaluate on data of their own."""

import asyncio
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import sharetorch as sy
from sharetorch import datasets, exceptions
from sharetorch.frameworks.torch.fl import utils

hook = sy.TorchHook(torch)
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.fc1 = nn.Linear(6 * 3 * 3, 10)

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return F.log_softmax(self.fc1(x.view(-1, 6 * 3 * 3)), dim=1)


def loss_fn(pred: Tensor, target: Tensor) -> Tensor:
    return F.nll_loss(input=pred, target=target)


def ask(worker: Any) -> dict[str, Any]:
    """All a worker can tell of the model last sent to it."""
    told: dict[str, Any] = worker.evaluate(
        dataset_key="testing", return_histograms=True, nr_bins=10, return_loss=True, return_raw_accuracy=True
    )
    return told


async def fit_model_on_worker(worker: Any, traced_model: Any, batch_size: int, max_nr_batches: int) -> Any:
    train_config = sy.TrainConfig(
        model=traced_model,
        loss_fn=torch.jit.script(loss_fn),
        batch_size=batch_size,
        shuffle=True,
        max_nr_batches=max_nr_batches,
        epochs=1,
        optimizer="SGD",
        optimizer_args={"lr": 0.3},
    )
    train_config.send(worker)
    loss = await worker.async_fit(dataset_key="digits", return_ids=[0])
    model = train_config.model_ptr.get().obj
    return worker.id, model, loss


async def one_round(workers: list[Any], model: Any) -> tuple[Any, dict[str, Any]]:
    results = await asyncio.gather(*(fit_model_on_worker(worker, model, 16, 8) for worker in workers))
    models = {name: found for name, found, _ in results}
    return utils.federated_avg(models), {name: loss for name, _, loss in results}


def test_rounds_of_training_and_evaluation() -> None:
    workers = [sy.VirtualWorker(hook, id=name) for name in ("alice", "bob")]
    testing = sy.VirtualWorker(hook, id="testing")
    digits = datasets.load_digits()
    for number, worker in enumerate(workers):
        kept = digits.train_labels % 2 == number  # each knows only every other digit
        worker.add_dataset(sy.BaseDataset(digits.train_images[kept], digits.train_labels[kept]), key="digits")
    testing.add_dataset(sy.BaseDataset(digits.test_images, digits.test_labels), key="testing")

    torch.manual_seed(2)
    model: Any = torch.jit.trace(Net(), torch.zeros(1, 1, 8, 8))

    async def program() -> list[float]:
        nonlocal model
        shares = []
        for _ in range(6):
            model, losses = await one_round(workers, model)
            assert all(loss.item() > 0 for loss in losses.values())
            config = sy.TrainConfig(model=model, loss_fn=torch.jit.script(loss_fn), batch_size=100)
            config.send(testing)
            result = ask(testing)
            assert result["nr_predictions"] == len(digits.test_labels)
            shares.append(result["nr_correct_predictions"] / result["nr_predictions"])
        return shares

    shares = asyncio.run(program())
    assert shares[-1] > 0.5 and shares[-1] > shares[0], "digits no single worker knows all of"


def test_what_evaluate_tells() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    digits = datasets.load_digits()
    bob.add_dataset(sy.BaseDataset(digits.test_images[:50], digits.test_labels[:50]), key="testing")
    torch.manual_seed(3)
    net = Net()
    config = sy.TrainConfig(
        model=torch.jit.trace(net, torch.zeros(1, 1, 8, 8)), loss_fn=torch.jit.script(loss_fn), batch_size=20
    )
    config.send(bob)
    result = ask(bob)
    assert set(result) == {
        "loss",
        "nr_correct_predictions",
        "nr_predictions",
        "histogram_predictions",
        "histogram_target",
    }
    with torch.no_grad():
        pred = net(digits.test_images[:50])
    found = pred.argmax(1)
    assert result["nr_predictions"] == 50
    assert result["nr_correct_predictions"] == (found == digits.test_labels[:50]).sum().item()
    assert float(result["loss"]) == pytest.approx(F.nll_loss(pred, digits.test_labels[:50]).item(), rel=1e-4)
    assert list(result["histogram_predictions"]) == torch.bincount(found, minlength=10).tolist()
    assert list(result["histogram_target"]) == torch.bincount(digits.test_labels[:50], minlength=10).tolist()
    short = bob.evaluate(dataset_key="testing", return_loss=False, return_raw_accuracy=True)
    assert "loss" not in short and "histogram_target" not in short


class Unusual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc1(x.view(-1, 64).clone().resize_([20, 64]))


def test_an_operation_no_worker_runs_is_named_even_if_it_is_inside_torchscript() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    bob.add_dataset(sy.BaseDataset(torch.zeros(20, 1, 8, 8), torch.zeros(20, dtype=torch.long)), key="testing")
    config = sy.TrainConfig(model=torch.jit.script(Unusual()), loss_fn=torch.jit.script(loss_fn), batch_size=20)
    config.send(bob)
    with pytest.raises(exceptions.OperationNotAllowedError, match=r"aten\.resize_"):
        ask(bob)
