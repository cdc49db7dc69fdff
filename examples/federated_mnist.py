"""Train a convolutional network on images that stay at two schools.

The training images are split between the workers bob and alice. Batches are pointers: each step of the training,
written as in ordinary PyTorch, runs at the worker that holds the batch, and the model moves on when the next worker's
turn comes. The driver, this script, sees the model and the mean losses, and no image. With --plain the same model is
trained on the same batches here too, and the ratio of the times is printed. With --plan a step is recorded once, and
each batch is then one message to the worker.

    python examples/federated_mnist.py --plain
    python examples/federated_mnist.py --dataset digits --epochs 3 --plan --json results.json
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import common
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sharetorch as st
from sharetorch import fl
from sharetorch.datasets import Dataset
from sharetorch.remote.plans.plan import Plan

SIDE = 28
MEAN, DEVIATION = 0.1307, 0.3081
LOG_EVERY = 30
"""Batches after which a loss is fetched."""


class Net(nn.Module):
    """The tutorials' network for images of 28x28: two convolutions, each with pooling, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(4 * 4 * 50, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logarithms of the probabilities of the ten digits."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.fc1(x.view(-1, 4 * 4 * 50)))
        return F.log_softmax(self.fc2(x), dim=1)


@dataclass
class Run:
    """One training: how good the model became, and what it took."""

    accuracy: float = 0.0
    seconds: float = 0.0
    step_seconds: float = 0.0
    requests: int = 0
    bytes_sent: int = 0
    losses: list[float] = field(default_factory=list)


def main() -> None:
    """Train as the options say, and report."""
    args = parse_options()
    data = prepared(common.load_data(args))
    torch.manual_seed(args.seed)
    model = Net()
    twin = copy.deepcopy(model)
    print(common.describe(data, model, "cnn"), flush=True)
    federated = train_federated(model, data, args)
    plain = train_plain(twin, data, args) if args.plain else None
    report(federated, plain)
    common.write_results(args, data, {"federated": asdict(federated), "plain": asdict(plain) if plain else None})


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train a network on images that stay at two workers.")
    add = parser.add_argument
    add(
        "--dataset",
        choices=("mnist", "digits"),
        default="mnist",
        help="digits: those of scikit-learn, enlarged to 28x28",
    )
    add("--data-dir", type=Path, metavar="DIR", help="folder of MNIST's four files, or one with mnist/ in it")
    add("--epochs", type=common.positive_integer, default=3, metavar="N", help="passes over the training images")
    add("--batch-size", type=common.positive_integer, default=64, metavar="N", help="default: 64")
    add("--lr", type=common.positive_number, default=0.01, metavar="X", help="learning rate (default: 0.01)")
    add("--momentum", type=common.fraction, default=0.5, metavar="X", help="default: 0.5")
    add("--train-items", type=common.positive_integer, metavar="N", help="use the first N training images only")
    add("--test-items", type=common.positive_integer, metavar="N", help="use the first N test images only")
    add("--plan", action="store_true", help="record a step once; each batch is then one message")
    add("--plain", action="store_true", help="train a twin on the same batches here too")
    add("--seed", type=common.seed_number, default=0, metavar="N", help="fixes first weights and order of batches")
    add("--json", type=common.output_file, metavar="FILE", help="write the results there")
    return parser.parse_args()


def prepared(data: Dataset) -> Dataset:
    """Images of 28x28, shifted and scaled as the tutorials do."""

    def change(images: Tensor) -> Tensor:
        if images.shape[-1] != SIDE:
            images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return (images - MEAN) / DEVIATION

    return data._replace(train_images=change(data.train_images), test_images=change(data.test_images))


# At two workers


def train_federated(model: nn.Module, data: Dataset, args: argparse.Namespace) -> Run:
    """Train on batches at bob and alice; the model comes back at the end."""
    bob, alice = (st.VirtualWorker(id=name) for name in ("bob", "alice"))
    dataset = fl.federate(torch.utils.data.TensorDataset(data.train_images, data.train_labels), (bob, alice))
    generator = torch.Generator().manual_seed(args.seed)
    loader = fl.FederatedDataLoader(dataset, batch_size=args.batch_size, shuffle=True, generator=generator)
    links = [st.local_worker.link(worker.id) for worker in (bob, alice)]
    before = [(link.sent, link.bytes_sent) for link in links]
    run = Run()
    with common.measured_plain() as cost:
        steps = planned_steps(model, loader, args) if args.plan else remote_steps(model, loader, args)
        run.losses, run.step_seconds = losses_of(
            steps, len(loader) * args.epochs, "federated", lambda loss: loss.copy().get()
        )
        model.get()
    run.seconds = cost.seconds
    for link, (sent, count) in zip(links, before, strict=True):
        run.requests += link.sent - sent
        run.bytes_sent += link.bytes_sent - count
    run.accuracy = accuracy(model, data)
    return run


def remote_steps(model: nn.Module, loader: Any, args: argparse.Namespace) -> Iterator[Tensor]:
    """Train by pointers, giving a pointer to each loss."""
    optims = fl.Optims(loader.workers, torch.optim.SGD(model.parameters(), lr=args.lr, momentum=args.momentum))
    place = None
    for _ in range(args.epochs):
        for images, labels in loader:
            if images.location is not place:
                place = images.location
                bring(model, place)
            optimizer = optims.get_optim(place)
            optimizer.zero_grad()
            loss = F.nll_loss(model(images), labels)
            loss.backward()
            optimizer.step()
            yield loss.detach()


def planned_steps(model: nn.Module, loader: Any, args: argparse.Namespace) -> Iterator[Tensor]:
    """Train by a recorded step, one message for each batch, giving a pointer to each loss.

    The plan's state, weights and momentum, comes back and goes out again when the next worker's turn comes.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=args.momentum)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = F.nll_loss(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    plan = Plan("step", step)
    plan.build(args_shape=[(-1, 1, SIDE, SIDE), (-1,)], dtypes=[torch.float32, torch.int64])
    pointer = None
    for _ in range(args.epochs):
        for images, labels in loader:
            if pointer is None or images.location is not pointer.location:
                if pointer is not None:
                    plan.load_state(pointer.get().named_state())
                pointer = plan.send(images.location)
            yield pointer(images, labels)
    if pointer is not None:
        plan.load_state(pointer.get().named_state())


def bring(model: Any, worker: Any) -> None:
    """Let the model be at a worker: sent from here, or straight from the worker that has it."""
    if hasattr(model, "location"):
        model.move(worker)
    else:
        model.send(worker)


# Here


def train_plain(model: nn.Module, data: Dataset, args: argparse.Namespace) -> Run:
    """Train on the same batches in the same order, here."""
    run = Run()
    half = -(-len(data.train_labels) // 2)
    steps = -(-half // args.batch_size) - (-(len(data.train_labels) - half) // args.batch_size)
    with common.measured_plain() as cost:
        run.losses, run.step_seconds = losses_of(
            plain_steps(model, data, half, args), steps * args.epochs, "plaintext", lambda loss: loss
        )
    run.seconds = cost.seconds
    run.accuracy = accuracy(model, data)
    return run


def plain_steps(model: nn.Module, data: Dataset, half: int, args: argparse.Namespace) -> Iterator[Tensor]:
    """Train on bob's half, then on alice's, giving each loss; an optimizer for each, but for plans."""
    generator = torch.Generator().manual_seed(args.seed)
    sgd = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=args.momentum)
    optims = fl.Optims(["bob", "alice"], sgd)
    parts = [(name, x) for name, x in zip(("bob", "alice"), halves(data, half), strict=True)]
    for _ in range(args.epochs):
        for name, (images, labels) in parts:
            optimizer = sgd if args.plan else optims.get_optim(name)
            for places in torch.randperm(len(labels), generator=generator).split(args.batch_size):
                optimizer.zero_grad()
                loss = F.nll_loss(model(images[places]), labels[places])
                loss.backward()
                optimizer.step()
                yield loss.detach()


def halves(data: Dataset, half: int) -> list[tuple[Tensor, Tensor]]:
    """Images and labels of the first half, and of the second."""
    return [(data.train_images[part], data.train_labels[part]) for part in (slice(0, half), slice(half, None))]


# Both


def losses_of(
    steps: Iterable[Any], count: int, label: str, reveal: Callable[[Any], Tensor]
) -> tuple[list[float], float]:
    """Do all steps, with a progress bar.

    Returns:
        One loss in LOG_EVERY, and the median time of a step in seconds.
    """
    losses: list[float] = []
    times: list[float] = []
    bar = common.progress(range(count), label)
    start = time.perf_counter()
    for _, (number, loss) in zip(bar, enumerate(steps), strict=True):
        times.append(time.perf_counter() - start)
        if number % LOG_EVERY == 0 or number == count - 1:
            losses.append(float(reveal(loss)))
            bar.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
        start = time.perf_counter()
    return losses, statistics.median(times)


@torch.no_grad()
def accuracy(model: nn.Module, data: Dataset) -> float:
    """Share of the test images that the model, which is here, labels rightly."""
    model.eval()
    correct = sum(
        int((model(images).argmax(dim=1) == labels).sum())
        for images, labels in zip(data.test_images.split(1000), data.test_labels.split(1000), strict=True)
    )
    model.train()
    return correct / len(data.test_labels)


def report(federated: Run, plain: Run | None) -> None:
    """Print the figures, side by side if there is a twin."""
    figures: dict[str, Callable[[Run], str]] = {
        "first loss": lambda run: f"{run.losses[0]:.4f}",
        "last loss": lambda run: f"{run.losses[-1]:.4f}",
        "test accuracy": lambda run: f"{100 * run.accuracy:.2f} %",
        "training time": lambda run: f"{run.seconds:.2f} s",
        "median time of a step": lambda run: f"{1000 * run.step_seconds:.1f} ms",
    }
    print(f"\n{'':<30}{'federated':>14}" + (f"{'plaintext':>14}" if plain else ""))
    for title, show in figures.items():
        print(f"{title:<30}{show(federated):>14}" + (f"{show(plain):>14}" if plain else ""))
    print(f"{federated.requests:,} requests to the workers, {common.size(federated.bytes_sent)} sent")
    if plain:
        print(f"a federated step takes {federated.step_seconds / plain.step_seconds:.2f}x the plaintext time")


if __name__ == "__main__":
    sys.exit(common.run_script(main))
