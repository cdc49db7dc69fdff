"""Label private images with a private model.

The owner of a model trains it in the clear, on data of their own, and shares it; the owner of the images shares these.
The parties compute on shares; the labels go to the driver, who acts for the owner of the images here. Neither owner
sees the other's secret. With --plain the driver also opens the logits, to compare them with plaintext.

    python examples/private_inference.py --plain
    python examples/encrypted_mnist.py --save weights.pt && python examples/private_inference.py --weights weights.pt
"""

import argparse
import copy
import pickle
import sys
from dataclasses import dataclass, field
from pathlib import Path

import common
import torch
from common import Cost, Parties
from torch import Tensor, nn

from sharetorch.datasets import DataError, Dataset


@dataclass
class Answer:
    """What came out for the images, and what it took."""

    labels: Tensor
    cost: Cost
    logits: Tensor | None = None


@dataclass
class Comparison:
    """How far the encrypted answer is from plaintext."""

    largest_logit_error: float
    different_labels: int
    ties: int = field(metadata={"help": "different labels whose logits differ by less than twice the largest error"})
    accuracy: float
    seconds: float


def main() -> None:
    """Train or load a model, label the test images on shares, and report."""
    args = parse_options()
    data = common.load_data(args)
    parties = Parties.start(args)
    torch.manual_seed(args.seed)
    model = common.make_model(args.model, data.train_images.shape[-1])
    print(f"{common.describe(data, model, args.model)}\n{parties}", flush=True)
    if args.weights is not None:
        load_weights(model, args.weights)
    else:
        train_in_the_clear(model, data, args)
    twin = copy.deepcopy(model)

    answer = infer(parties.share(model), parties.share(data.test_images), args)
    right = (answer.labels == data.test_labels).float().mean().item()
    comparison = compare(answer, twin, data, args.batch_size) if args.plain else None
    report(answer, right, comparison)
    results = {"accuracy": right, "encrypted": answer.cost, "plain": vars(comparison) if comparison else None}
    common.write_results(args, data, results)


def parse_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Label secret-shared images with a secret-shared model.")
    common.add_common_options(parser)
    parser.add_argument("--plain", action="store_true", help="compare with plaintext; this opens the logits")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="a trained model, instead of training one now")
    return parser.parse_args()


def load_weights(model: nn.Module, path: Path) -> None:
    """Read weights that encrypted_mnist.py saved."""
    try:
        model.load_state_dict(torch.load(path, weights_only=True))
    except (RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise DataError(f"{path} does not hold weights of this model and image size: {error}") from error


def train_in_the_clear(model: nn.Module, data: Dataset, args: argparse.Namespace) -> None:
    """Train as the model's owner would, before anything is shared."""
    epochs = common.epochs_of_batches(len(data.train_labels), args)
    targets = common.one_hot(data.train_labels)
    common.train(model, data.train_images, targets, epochs, args, common.reveal_plain, "in the clear")


@torch.no_grad()
def infer(model: nn.Module, images: Tensor, args: argparse.Namespace) -> Answer:
    """Label shared images with a shared model, batch by batch; only labels are opened.

    The logits are opened as well if ``args.plain`` is set, outside of what is measured.
    """
    model.eval()
    kept, labels = [], []
    with common.measured_shared() as cost:
        for start in common.progress(range(0, len(images), args.batch_size), "encrypted"):
            logits = model(images[start : start + args.batch_size])
            labels.append(logits.argmax(dim=1).get())
            if args.plain:
                kept.append(logits)
    opened = torch.cat([logits.get() for logits in kept]) if kept else None
    return Answer(torch.cat(labels), cost, opened)


@torch.no_grad()
def compare(answer: Answer, model: nn.Module, data: Dataset, batch_size: int) -> Comparison:
    """Compare with the same model in plaintext."""
    assert answer.logits is not None
    model.eval()
    with common.measured_plain() as cost:
        logits = torch.cat([model(images) for images in data.test_images.split(batch_size)])
    labels = logits.argmax(dim=1)
    error = (answer.logits - logits).abs().max().item()
    different = (labels != answer.labels).nonzero().flatten()
    gaps = logits[different, labels[different]] - logits[different, answer.labels[different]]
    return Comparison(
        largest_logit_error=error,
        different_labels=len(different),
        ties=int((gaps <= 2 * error).sum()),
        accuracy=(labels == data.test_labels).float().mean().item(),
        seconds=cost.seconds,
    )


def report(answer: Answer, right: float, comparison: Comparison | None) -> None:
    """Print the figures."""
    items = len(answer.labels)
    sent = sum(answer.cost.bytes_sent.values()) / items
    rows: list[tuple[str, str, str | None]] = [
        ("accuracy", f"{100 * right:.2f} %", f"{100 * comparison.accuracy:.2f} %" if comparison else None),
        (
            "time for an image",
            f"{1000 * answer.cost.seconds / items:.3f} ms",
            f"{1000 * comparison.seconds / items:.3f} ms" if comparison else None,
        ),
        ("bytes for an image", common.size(sent), None),
    ]
    print()
    print(common.table(rows))
    print(common.communication(f"{items:,} images", answer.cost))
    if comparison:
        print(
            f"largest difference of a logit: {comparison.largest_logit_error:.2e}; "
            f"different labels: {comparison.different_labels}, of them ties within this difference: {comparison.ties}"
        )
    print(f"peak memory: {common.size(common.peak_memory())}")


if __name__ == "__main__":
    sys.exit(common.run_script(main))
