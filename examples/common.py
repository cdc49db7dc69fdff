"""What the example scripts share: options, data, models, the training loop, measuring and reporting.

The training loop and the evaluation are ordinary PyTorch. They get plain or secret-shared tensors and models, and a
function ``reveal`` that opens a result: nothing for plain tensors, ``Tensor.get`` for shared ones.
"""

import argparse
import json
import math
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

import sharetorch as st
from sharetorch import datasets
from sharetorch.datasets import Dataset

PROTOCOLS = ("tables", "tables-wan", "fss", "securenn", "securenn-paper")
LOSS_SCALE = 2.0
"""Factor of the squared error. A power of two costs nothing on shared numbers; 2 suits the default learning rate."""
LOSS_WINDOW = 10
"""Batches whose mean loss is opened together: the driver learns this mean, and no loss of a single batch."""
EVALUATION_BATCH = 250
BATCH_SIZES = {"mnist": 128, "digits": 16}
"""Batch size for each data set, unless one is asked for."""

Reveal = Callable[[Tensor], Tensor]


def reveal_plain(value: Tensor) -> Tensor:
    """Give a plain tensor as it is."""
    return value


def reveal_shared(value: Tensor) -> Tensor:
    """Open a shared tensor to the driver."""
    return value.get()  # type: ignore[attr-defined,no-any-return]


# Options


def positive_integer(text: str) -> int:
    """Read an option that must be an integer from 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def positive_number(text: str) -> float:
    """Read an option that must be a finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def fraction(text: str) -> float:
    """Read an option that must be at least 0 and below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in 0 <= x < 1")
    return value


def seed_number(text: str) -> int:
    """Read a seed: an integer from 0 to 2**63 - 1."""
    value = int(text)
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"{value} is not in 0 <= seed < 2**63")
    return value


def output_file(text: str) -> Path:
    """Read the name of a file to be written; a missing folder is noticed now, not after the training."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: not a file in an existing folder")
    return path


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that all scripts have."""
    add = parser.add_argument
    add("--dataset", choices=("mnist", "digits"), default="mnist", help="digits: the 8x8 images of scikit-learn")
    add("--data-dir", type=Path, metavar="DIR", help="folder of MNIST's four files, or one with mnist/ in it")
    add("--model", choices=("mlp", "cnn"), default="mlp")
    add("--epochs", type=positive_integer, default=1, metavar="N", help="passes over the training images")
    add("--batch-size", type=positive_integer, metavar="N", help="default: 128 for MNIST, 16 for the digits")
    add("--lr", type=positive_number, default=0.05, metavar="X", help="learning rate (default: 0.05)")
    add("--momentum", type=fraction, default=0.9, metavar="X", help="default: 0.9")
    add("--train-items", type=positive_integer, metavar="N", help="use the first N training images only")
    add("--test-items", type=positive_integer, metavar="N", help="use the first N test images only")
    add("--protocol", choices=PROTOCOLS, default=PROTOCOLS[0], help="how comparisons are computed")
    add("--precision-bits", type=positive_integer, default=16, metavar="N", help="bits after the binary point")
    add("--seed", type=seed_number, default=0, metavar="N", help="fixes first weights and order of batches")
    add("--parties", type=Path, metavar="FILE", help="group file of workers on other machines; see sharetorch up")
    add("--json", type=output_file, metavar="FILE", help="write the results there")


def run_script(main: Callable[[], None]) -> int:
    """Run a script; give its exit status. Errors of ShareTorch are shown without a traceback."""
    try:
        main()
    except (st.ShareTorchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


# Data and models


def load_data(args: argparse.Namespace) -> Dataset:
    """Load the data set asked for, cut to the numbers of items asked for; settle the batch size if it was left open."""
    data = datasets.load(args.dataset, args.data_dir)
    args.batch_size = args.batch_size or BATCH_SIZES[data.name]
    if data.notice:
        print(f"Note: {data.notice}", file=sys.stderr)
    train, test = slice(args.train_items), slice(args.test_items)
    return data._replace(
        train_images=data.train_images[train],
        train_labels=data.train_labels[train],
        test_images=data.test_images[test],
        test_labels=data.test_labels[test],
    )


def make_model(kind: str, side: int) -> nn.Module:
    """Make a fresh model for square images, given its kind and the images' side.

    Max pooling stands before ReLU: the result is the same, and ReLU sees a quarter of the numbers.
    """
    if kind == "mlp":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(side * side, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
        )
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(8, 16, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16 * (side // 4) ** 2, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def describe(data: Dataset, model: nn.Module, kind: str) -> str:
    """Say in one line what is trained on what."""
    side = data.train_images.shape[-1]
    items = f"{len(data.train_labels):,} training and {len(data.test_labels):,} test images of {side}x{side}"
    return f"{data.name}: {items}; {kind} of {sum(p.numel() for p in model.parameters()):,} parameters"


def one_hot(labels: Tensor) -> Tensor:
    """Give labels as rows of one 1 and nine 0."""
    return nn.functional.one_hot(labels, 10).to(torch.float32)


# Parties


class Parties(NamedTuple):
    """Who computes, and how.

    Attributes:
        alice: first party.
        bob: second party.
        provider: the crypto provider, which deals correlated randomness and helps with comparisons.
        protocol: name of the protocol.
        precision_bits: bits after the binary point.
    """

    alice: Any
    bob: Any
    provider: Any
    protocol: str
    precision_bits: int

    @classmethod
    def start(cls, args: argparse.Namespace) -> "Parties":
        """Start two parties and a crypto provider in this process, or connect to those of a group file."""
        if args.parties is None:
            alice, bob, provider = (st.VirtualWorker(id=name) for name in ("alice", "bob", "crypto_provider"))
        else:
            (alice, bob, *_), provider = st.load_group(args.parties).connect()
        return cls(alice, bob, provider, args.protocol, args.precision_bits)

    @property
    def spread(self) -> bool:
        """Whether every member has several processes, each of which computes a part of a batch."""
        return min(getattr(member, "lanes", 1) for member in (self.alice, self.bob, self.provider)) > 1

    def share(self, value: Any) -> Any:
        """Share a tensor or a model between the two parties; integers stay integers."""
        options = {"crypto_provider": self.provider, "protocol": self.protocol}
        if isinstance(value, nn.Module) or value.is_floating_point():
            options["precision"] = self.precision_bits
        return value.share(self.alice, self.bob, **options)

    def __str__(self) -> str:
        return (
            f"{self.alice.id} and {self.bob.id} hold the shares, {self.provider.id} deals; "
            f"protocol {self.protocol}, {self.precision_bits} fraction bits"
        )


# Training and evaluation, on plain and on shared tensors


def epochs_of_batches(items: int, args: argparse.Namespace) -> list[tuple[Tensor, ...]]:
    """Draw the order of the items in each epoch, cut into batches of indices."""
    generator = torch.Generator().manual_seed(args.seed)
    return [torch.randperm(items, generator=generator).split(args.batch_size) for _ in range(args.epochs)]


def make_optimizer(model: nn.Module, args: argparse.Namespace) -> torch.optim.Optimizer:
    """Make PyTorch's own SGD for a plain or a shared model."""
    return torch.optim.SGD(model.parameters(), lr=args.lr, momentum=args.momentum)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error, summed over the classes, mean over the batch, times LOSS_SCALE."""
    return ((outputs - targets) ** 2).sum() * (LOSS_SCALE / len(targets))


def training_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[Tensor, Tensor], Tensor]:
    """A function that trains on one batch and gives its loss."""

    def step(images: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = squared_error(model(images), targets)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def train(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    epochs: Sequence[Sequence[Tensor]],
    args: argparse.Namespace,
    reveal: Reveal,
    label: str,
    *,
    traced: bool = False,
) -> list[float]:
    """Train a plain or shared model, with a progress bar.

    Args:
        model: what to train.
        images: all of them.
        targets: likewise.
        epochs: rows of the batches of each epoch.
        args: options.
        reveal: opens a result.
        label: for the progress bar.
        traced: whether steps are repeated from the commands of the first ones.

    Returns:
        Mean losses, one for each LOSS_WINDOW batches.
    """
    step = training_step(model, make_optimizer(model, args))
    if traced:
        step = st.traced(step)
    model.train()
    losses: list[float] = []
    for number, batches in enumerate(epochs, start=1):
        bar = progress(batches, f"{label}, epoch {number}/{len(epochs)}")
        window: list[Tensor] = []
        for batch in bar:
            window.append(step(images[batch], targets[batch]))
            if len(window) == LOSS_WINDOW:
                losses.append(open_mean(window, reveal))
                bar.set_postfix(loss=f"{losses[-1]:.4f}", refresh=False)
                window.clear()
        if window:
            losses.append(open_mean(window, reveal))
    return losses


def open_mean(values: Sequence[Tensor], reveal: Reveal) -> float:
    """Open the mean of several scalars: one opening, and only the mean is learnt."""
    return float(reveal(torch.stack(tuple(values)).sum())) / len(values)


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, reveal: Reveal, label: str) -> float:
    """Share of images that a plain or shared model labels rightly; only this number is opened."""
    model.eval()
    items = len(labels)
    correct = []
    for start in progress(range(0, items, EVALUATION_BATCH), label):
        part = slice(start, start + EVALUATION_BATCH)
        correct.append((model(images[part]).argmax(dim=1) == labels[part]).sum())
    return float(reveal(torch.stack(correct).sum())) / items


def progress(steps: Any, label: str) -> Any:
    """Show a progress bar; in a log file it moves rarely."""
    interval = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(steps, desc=label, mininterval=interval, dynamic_ncols=True)


# Measuring and reporting


@dataclass
class Cost:
    """What a piece of work took.

    Attributes:
        seconds: wall-clock time.
        rounds: rounds of communication between the parties.
        bytes_sent: bytes sent online, for each party by its id.
        provider_bytes: bytes the crypto provider dealt.
    """

    seconds: float = 0.0
    rounds: int = 0
    bytes_sent: dict[str, int] = field(default_factory=dict)
    provider_bytes: int = 0


@contextmanager
def measured_plain() -> Iterator[Cost]:
    """Measure the time of plain computation."""
    cost = Cost()
    start = time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - start


@contextmanager
def measured_shared() -> Iterator[Cost]:
    """Measure time and communication of computation on shared tensors."""
    with measured_plain() as cost, st.profile() as profile:
        yield cost
    cost.rounds = profile.rounds
    cost.bytes_sent = dict(profile.bytes_sent)
    cost.provider_bytes = profile.provider_bytes


def communication(title: str, cost: Cost) -> str:
    """Say in one line what was communicated."""
    sent = ", ".join(f"{member} {size(count)}" for member, count in cost.bytes_sent.items() if count)
    return f"{title}: {cost.rounds:,} rounds; sent by {sent}; dealt {size(cost.provider_bytes)}"


def size(count: float) -> str:
    """Write a number of bytes in the unit that suits it."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def table(rows: Sequence[tuple[str, str, str | None]]) -> str:
    """Lay out rows of a title, the figure on shares, and the figure in plaintext if there is one."""
    plain = any(row[2] is not None for row in rows)
    lines = [f"{'':<30}{'encrypted':>14}" + (f"{'plaintext':>14}" if plain else "")]
    lines += [f"{title:<30}{shared:>14}" + (f"{other or '':>14}" if plain else "") for title, shared, other in rows]
    return "\n".join(lines)


def peak_memory() -> int:
    """Largest memory this process had so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def write_results(args: argparse.Namespace, data: Dataset, results: Mapping[str, Any]) -> None:
    """Write results as JSON with what is needed to repeat them, if a file was asked for."""
    if args.json is None:
        return
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    record = {
        "settings": settings,
        "data": {"name": data.name, "train": len(data.train_labels), "test": len(data.test_labels)},
        "versions": {"sharetorch": st.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": {"processor": platform.machine(), "system": platform.system(), "threads": torch.get_num_threads()},
        **{name: asdict(value) if isinstance(value, Cost) else value for name, value in results.items()},
        "peak_memory": peak_memory(),
    }
    args.json.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
