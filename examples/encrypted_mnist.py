"""Train a neural network on secret-shared images and labels, and test it there.

Two parties, alice and bob, hold shares of the images, the labels and the model; a crypto provider deals correlated
randomness. Nobody sees an image, a label or a weight. The driver, this script, learns the mean loss of every ten
batches and the accuracy; with --save the model's owner gets the trained weights as well. All members run in this
process here, or with --parties as processes of their own; where these have several ranks, each computes a part of the
batch. With --plain the same model is trained in plaintext too, from the same weights on the same batches.

    python examples/encrypted_mnist.py --plain
    python examples/encrypted_mnist.py --parties group.toml
    python examples/encrypted_mnist.py --dataset digits --model cnn --epochs 5 --json results.json
"""

import argparse
import copy
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import common
import torch
from common import Cost, Parties
from torch import nn

import sharetorch as st
from sharetorch.datasets import Dataset


@dataclass
class Run:
    """One training: how good the model became, and what sharing model and data, training and testing took."""

    accuracy: float
    losses: list[float]
    sharing: Cost
    training: Cost
    test: Cost


def main() -> None:
    """Train as the options say, and report."""
    args = parse_options()
    data = common.load_data(args)
    parties = Parties.start(args)
    torch.manual_seed(args.seed)
    model = common.make_model(args.model, data.train_images.shape[-1])
    twin = copy.deepcopy(model)
    print(f"{common.describe(data, model, args.model)}\n{parties}", flush=True)

    encrypted = train_encrypted(model, data, parties, args)
    plain = train_plain(twin, data, args) if args.plain else None
    report(encrypted, plain)
    if args.save is not None:
        save(model, args)
    results = {"encrypted": asdict(encrypted), "plain": asdict(plain) if plain else None}
    common.write_results(args, data, results)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train on secret-shared images and labels.")
    common.add_common_options(parser)
    parser.add_argument("--plain", action="store_true", help="train a plaintext twin too")
    parser.add_argument("--save", type=common.output_file, metavar="FILE", help="decrypt the trained model into FILE")
    return parser.parse_args()


def train_encrypted(model: nn.Module, data: Dataset, parties: Parties, args: argparse.Namespace) -> Run:
    """Share model and data, train and test on shares. The model stays shared."""
    epochs = common.epochs_of_batches(len(data.train_labels), args)
    with common.measured_shared() as sharing:
        parties.share(model)
        images, targets = parties.share(data.train_images), parties.share(common.one_hot(data.train_labels))
    network = st.DataParallel(model)
    with common.measured_shared() as training:
        losses = common.train(
            network, images, targets, epochs, args, common.reveal_shared, "encrypted", traced=not parties.spread
        )
    del images, targets
    with common.measured_shared() as test:
        images, labels = parties.share(data.test_images), parties.share(data.test_labels)
        accuracy = common.accuracy(network, images, labels, common.reveal_shared, "encrypted test")
    return Run(accuracy, losses, sharing, training, test)


def train_plain(model: nn.Module, data: Dataset, args: argparse.Namespace) -> Run:
    """Do the same in plaintext."""
    epochs = common.epochs_of_batches(len(data.train_labels), args)
    targets = common.one_hot(data.train_labels)
    with common.measured_plain() as training:
        losses = common.train(model, data.train_images, targets, epochs, args, common.reveal_plain, "plaintext")
    with common.measured_plain() as test:
        accuracy = common.accuracy(model, data.test_images, data.test_labels, common.reveal_plain, "plaintext test")
    return Run(accuracy, losses, Cost(), training, test)


def report(encrypted: Run, plain: Run | None) -> None:
    """Print the figures, side by side if there is a plaintext twin."""
    figures: dict[str, Callable[[Run], str]] = {
        "first loss": lambda run: f"{run.losses[0]:.4f}",
        "last loss": lambda run: f"{run.losses[-1]:.4f}",
        "test accuracy": lambda run: f"{100 * run.accuracy:.2f} %",
        "time to share model and data": lambda run: f"{run.sharing.seconds:.2f} s",
        "training time": lambda run: f"{run.training.seconds:.2f} s",
        "test time": lambda run: f"{run.test.seconds:.2f} s",
    }
    print()
    print(common.table([(title, show(encrypted), show(plain) if plain else None) for title, show in figures.items()]))
    for title, cost in (("training", encrypted.training), ("test", encrypted.test)):
        print(common.communication(title, cost))
    if plain:
        print(f"training on shares takes {encrypted.training.seconds / plain.training.seconds:.0f}x the plaintext time")
    print(f"peak memory: {common.size(common.peak_memory())}")


def save(model: nn.Module, args: argparse.Namespace) -> None:
    """Decrypt the model for its owner, and write its weights as plain tensors."""
    model.get()  # type: ignore[operator]
    torch.save({name: value.detach().clone() for name, value in model.state_dict().items()}, args.save)
    print(f"trained weights are in {args.save}")


if __name__ == "__main__":
    sys.exit(common.run_script(main))
