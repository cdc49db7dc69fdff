"""Part 11: a trained model and the images of somebody else, both in shares."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn, optim

import sharetorch as sy
from sharetorch import datasets

hook = sy.TorchHook(torch)

BATCH = 60


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        x = x.view(-1, 64)
        x = F.relu(self.fc1(x))
        return self.fc2(x)


@pytest.fixture(scope="module")
def trained() -> tuple[Net, Tensor, Tensor]:
    """A model trained in the clear, as its owner would, and images it has not seen."""
    torch.manual_seed(1)
    data, model = datasets.load_digits(), Net()
    optimizer = optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(6):
        for x, y in zip(data.train_images.split(64), data.train_labels.split(64), strict=True):
            optimizer.zero_grad()
            F.nll_loss(F.log_softmax(model(x), dim=1), y).backward()
            optimizer.step()
    return model, data.test_images[: 2 * BATCH], data.test_labels[: 2 * BATCH]


@pytest.mark.parametrize("options", [{}, {"protocol": "snn"}], ids=["4", "9"])
@pytest.mark.parametrize("targets", ["integers", "fixed precision"])
def test_the_number_of_right_answers(
    trained: tuple[Net, Tensor, Tensor], targets: str, options: dict[str, str]
) -> None:
    alice, bob, crypto_provider = (sy.VirtualWorker(hook, id=name) for name in ("alice", "bob", "crypto_provider"))
    model, images, labels = copy.deepcopy(trained[0]), trained[1], trained[2]
    expected = (model(images).argmax(dim=1) == labels).sum().item()

    private_loader = []
    for data, target in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        target = target.fix_precision() if targets == "fixed precision" else target
        private_loader.append(
            (
                data.fix_precision().share(alice, bob, crypto_provider=crypto_provider, **options),
                target.share(alice, bob, crypto_provider=crypto_provider, **options),
            )
        )
    model.fix_precision().share(alice, bob, crypto_provider=crypto_provider, **options)

    model.eval()
    n_correct: Any = 0
    with torch.no_grad():
        for data, target in private_loader:
            output = model(data)
            pred = output.argmax(dim=1)
            n_correct = n_correct + pred.eq(target.view_as(pred)).sum()
        shown = n_correct.copy().get().float_precision().long().item()
    assert abs(shown - expected) <= 1  # three decimals may turn a close call
    assert shown > 0.85 * len(labels)
    assert n_correct.get().float_precision().item() == shown


def test_logits_are_those_of_the_plain_model(trained: tuple[Net, Tensor, Tensor]) -> None:
    alice, bob, crypto_provider = (sy.VirtualWorker(hook, id=name) for name in ("alice", "bob", "crypto_provider"))
    model, images = copy.deepcopy(trained[0]), trained[1][:10]
    with torch.no_grad():
        plain = model(images)
    model.fix_precision(precision_fractional=5).share(alice, bob, crypto_provider=crypto_provider)
    data = images.fix_precision(precision_fractional=5).share(alice, bob, crypto_provider=crypto_provider)
    assert (model(data).get().float_precision() - plain).abs().max() < 2e-3
    assert "AdditiveSharingTensor" in repr(model.fc2.bias)
    assert not any("tensor(" in line for line in repr(model.fc1.weight).splitlines())


def test_an_output_that_is_kept_stands_in_the_way_and_nothing_is_half_shared(
    trained: tuple[Net, Tensor, Tensor],
) -> None:
    alice, bob, crypto_provider = (sy.VirtualWorker(hook, id=name) for name in ("alice", "bob", "crypto_provider"))
    model, images = copy.deepcopy(trained[0]), trained[1][:10]
    model.zero_grad()
    kept = model(images)
    with pytest.raises(sy.ShareTorchError, match="nothing is changed"):
        model.share(alice, bob, crypto_provider=crypto_provider)
    assert not any(isinstance(p, sy.AdditiveSharingTensor) for p in model.parameters())
    kept.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    del kept
    model.share(alice, bob, crypto_provider=crypto_provider)
    assert all(isinstance(p, sy.AdditiveSharingTensor) for p in model.parameters())
