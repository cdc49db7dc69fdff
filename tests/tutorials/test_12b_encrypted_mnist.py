"""Part 12bis: digits in shares, a network of three layers trained and tested on them."""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor, optim

import sharetorch as sy
from sharetorch import datasets

hook = sy.TorchHook(torch)

BATCH, EPOCHS, TRAIN_ITEMS, TEST_ITEMS = 64, 10, 640, 128
PRECISION = 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 48)
        self.fc2 = nn.Linear(48, 24)
        self.fc3 = nn.Linear(24, 10)

    def forward(self, x: Any) -> Any:
        x = x.view(-1, 64)
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def one_hot_of(index: Tensor) -> Tensor:
    rows = torch.zeros(len(index), 10)
    return rows.scatter(1, index.view(-1, 1), 1.0)


def test_ten_epochs_reach_three_quarters() -> None:
    workers = [sy.VirtualWorker(hook, id=name) for name in ("alice", "bob")]
    crypto_provider = sy.VirtualWorker(hook, id="crypto_provider")

    def secret_share(tensor: Tensor) -> Any:
        return tensor.fix_precision(precision_fractional=PRECISION).share(
            *workers, crypto_provider=crypto_provider, requires_grad=True
        )

    digits = datasets.load_digits()
    train_loader = [
        (secret_share(x), secret_share(one_hot_of(y)))
        for x, y in zip(
            digits.train_images[:TRAIN_ITEMS].split(BATCH), digits.train_labels[:TRAIN_ITEMS].split(BATCH), strict=True
        )
    ]
    test_loader = [
        (secret_share(x), secret_share(y.float()))
        for x, y in zip(
            digits.test_images[:TEST_ITEMS].split(BATCH), digits.test_labels[:TEST_ITEMS].split(BATCH), strict=True
        )
    ]

    torch.manual_seed(2)
    model = Net().fix_precision(precision_fractional=PRECISION)
    model = model.share(*workers, crypto_provider=crypto_provider, requires_grad=True)
    optimizer = optim.SGD(model.parameters(), lr=0.1).fix_precision()
    losses = []
    for _ in range(EPOCHS):
        model.train()
        for data, target in train_loader:
            optimizer.zero_grad()
            output = model(data)
            loss = ((output - target) ** 2).sum().refresh() / BATCH
            loss.backward()
            optimizer.step()
        losses.append(loss.get().float_precision().item())

    model.eval()
    correct: Any = 0
    with torch.no_grad():
        for data, target in test_loader:
            pred = model(data).argmax(dim=1)
            correct = correct + pred.eq(target.view_as(pred)).sum()
    right = correct.get().float_precision().item()
    assert losses[-1] < 0.75 * losses[0]
    assert right / TEST_ITEMS > 0.75
    assert "FixedPrecisionTensor>[AdditiveSharingTensor]" in str(model.fc3.bias)
    assert "-> [PointerTensor | me:" in str(model.fc3.bias)
