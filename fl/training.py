"""Settings of a training run, and the loops that train and evaluate: the same here and at a worker."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec
import torch
from torch import Tensor

from sharetorch.fl.datasets import BaseDataset
from sharetorch.mpc.errors import TrainingError

_COMMON = ("lr", "weight_decay", "maximize")
_ADAM = (*_COMMON, "betas", "eps", "amsgrad")

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], tuple[str, ...]]] = {
    "SGD": (torch.optim.SGD, (*_COMMON, "momentum", "dampening", "nesterov")),
    "Adam": (torch.optim.Adam, _ADAM),
    "AdamW": (torch.optim.AdamW, _ADAM),
    "Adagrad": (torch.optim.Adagrad, (*_COMMON, "lr_decay", "initial_accumulator_value", "eps")),
    "Adadelta": (torch.optim.Adadelta, (*_COMMON, "rho", "eps")),
    "Adamax": (torch.optim.Adamax, (*_COMMON, "betas", "eps")),
    "NAdam": (torch.optim.NAdam, (*_COMMON, "betas", "eps", "momentum_decay", "decoupled_weight_decay")),
    "RAdam": (torch.optim.RAdam, (*_COMMON, "betas", "eps", "decoupled_weight_decay")),
    "RMSprop": (torch.optim.RMSprop, (*_COMMON, "alpha", "eps", "momentum", "centered")),
    "Rprop": (torch.optim.Rprop, ("lr", "maximize", "etas", "step_sizes")),
    "ASGD": (torch.optim.ASGD, (*_COMMON, "lambd", "alpha", "t0")),
}
"""Optimizers a worker runs for others, by name, with the arguments it takes."""


class Settings(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """How a model is trained.

    Attributes:
        batch_size: items in a batch; the last one may be smaller.
        epochs: passes over the data.
        optimizer: a name of ``OPTIMIZERS``.
        optimizer_args: its arguments.
        shuffle: whether the items come in a new random order in each epoch.
        max_nr_batches: largest number of batches in one epoch; negative for all.
    """

    batch_size: int = 32
    epochs: int = 1
    optimizer: str = "SGD"
    optimizer_args: dict[str, Any] = {}
    shuffle: bool = True
    max_nr_batches: int = -1

    def check(self) -> None:
        """Check the values.

        Raises:
            TrainingError: one is outside its range, or the optimizer or one of its arguments is unknown.
        """
        for name in ("batch_size", "epochs"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise TrainingError(f"{name} is {value!r}; it must be an integer of at least 1.")
        if self.optimizer not in OPTIMIZERS:
            raise TrainingError(f"{self.optimizer!r} is no optimizer a worker runs; there are {', '.join(OPTIMIZERS)}.")
        known = OPTIMIZERS[self.optimizer][1]
        for name, value in self.optimizer_args.items():
            if name not in known:
                raise TrainingError(f"{self.optimizer} takes no {name!r}; it takes {', '.join(known)}.")
            if not _is_number(value):
                raise TrainingError(f"{name} of {self.optimizer} is {value!r}; it must be a finite number, or several.")

    def make_optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """The optimizer over these parameters.

        Raises:
            TrainingError: torch refuses an argument, or there are no parameters.
        """
        options: dict[str, Any] = {
            name: tuple(value) if isinstance(value, (list, tuple)) else value
            for name, value in self.optimizer_args.items()
        }
        try:
            return OPTIMIZERS[self.optimizer][0](parameters, **options)
        except (ValueError, TypeError) as error:
            raise TrainingError(f"{self.optimizer} cannot be made with {options}: {error}.") from error

    def sizes(self, items: int) -> list[int]:
        """The sizes of batches that occur with so many items."""
        last = items % self.batch_size
        seen = self.max_nr_batches if self.max_nr_batches > 0 else items
        sizes = [self.batch_size] if items >= self.batch_size else []
        return [*sizes, last] if last and seen > items // self.batch_size else sizes

    def batches(self, items: int) -> Iterator[Tensor]:
        """Indices of the batches of one epoch."""
        order = torch.randperm(items) if self.shuffle else torch.arange(items)
        for number, indices in enumerate(order.split(self.batch_size)):
            if 0 < self.max_nr_batches <= number:
                return
            yield indices


def _is_number(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return 0 < len(value) <= 4 and all(_is_number(part) and not isinstance(part, (list, tuple)) for part in value)
    return isinstance(value, (int, float)) and math.isfinite(value)


class Step(Protocol):
    """A model and its loss on one batch."""

    def __call__(self, data: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss, and the model's output."""


def batch_of(dataset: BaseDataset, indices: Tensor) -> tuple[Tensor, Tensor]:
    """A batch in memory of its own: a step that writes in place cannot change the data set."""
    return dataset.data.index_select(0, indices), dataset.targets.index_select(0, indices)


def train(step: Step, optimizer: torch.optim.Optimizer, dataset: BaseDataset, settings: Settings) -> Tensor:
    """Train on a data set.

    Returns:
        The loss of the last batch, without its graph.
    """
    loss = torch.zeros(())
    for _ in range(settings.epochs):
        for indices in settings.batches(len(dataset)):
            optimizer.zero_grad()
            with torch.enable_grad():
                loss, _ = step(*batch_of(dataset, indices))
                loss.backward()
            optimizer.step()
    return loss.detach()


class Wanted(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """Which figures an evaluation gives.

    Attributes:
        loss: mean over the items.
        accuracy: numbers of right predictions and of predictions.
        histograms: how often each class is predicted, and is the target.
        bins: number of classes counted; as many as the model's output has, if not positive.
    """

    loss: bool = True
    accuracy: bool = True
    histograms: bool = False
    bins: int = -1


@torch.no_grad()
def evaluate(step: Step, dataset: BaseDataset, batch_size: int, wanted: Wanted) -> dict[str, Any]:
    """Evaluate on a data set.

    Returns:
        Of what is wanted: "loss" (float), "nr_correct_predictions", "nr_predictions" (int), "histogram_predictions",
        "histogram_target" (int64, shape (bins,)).

    Raises:
        TrainingError: predictions are asked for and the output is not of shape (batch, classes).
    """
    counts = _Counts(wanted)
    total = 0.0
    for indices in torch.arange(len(dataset)).split(batch_size):
        data, targets = batch_of(dataset, indices)
        loss, output = step(data, targets)
        total += float(loss) * len(indices) if wanted.loss else 0.0
        if wanted.accuracy or wanted.histograms:
            counts.add(output, targets)
    figures: dict[str, Any] = {"loss": total / max(1, len(dataset))} if wanted.loss else {}
    return figures | counts.figures()


class _Counts:
    """Right predictions, and how often each class occurs."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self.correct = self.seen = 0
        self.predicted: Tensor | None = None
        self.target: Tensor | None = None

    def add(self, output: Tensor, targets: Tensor) -> None:
        """Count one batch."""
        if output.dim() != 2 or targets.numel() != len(output):
            raise TrainingError(
                f"Predictions need an output of shape (batch, classes) and one target for each; these have shapes "
                f"{tuple(output.shape)} and {tuple(targets.shape)}. Evaluate with return_raw_accuracy=False, "
                "return_histograms=False."
            )
        predictions, labels = output.argmax(dim=1), targets.reshape(-1).long()
        self.correct += int((predictions == labels).sum())
        self.seen += len(labels)
        if self._wanted.histograms:
            bins = self._wanted.bins if self._wanted.bins > 0 else output.shape[1]
            self.predicted = _added(self.predicted, predictions, bins)
            self.target = _added(self.target, labels, bins)

    def figures(self) -> dict[str, Any]:
        """Of what is wanted."""
        figures: dict[str, Any] = {}
        if self._wanted.accuracy:
            figures |= {"nr_correct_predictions": self.correct, "nr_predictions": self.seen}
        if self._wanted.histograms:
            figures |= {"histogram_predictions": self.predicted, "histogram_target": self.target}
        return figures


def _added(histogram: Tensor | None, classes: Tensor, bins: int) -> Tensor:
    counted = torch.bincount(classes[(classes >= 0) & (classes < bins)], minlength=bins)
    return counted if histogram is None else histogram + counted


def call_loss(loss: Callable[..., Any], output: Tensor, targets: Tensor) -> Any:
    """The loss; a function with arguments called ``pred`` and ``target`` gets them by name, any other in this order."""
    return loss(pred=output, target=targets) if {"pred", "target"} <= _argument_names(loss) else loss(output, targets)


def _argument_names(function: Any) -> set[str]:
    schema = getattr(function, "schema", None)
    if schema is not None and hasattr(schema, "arguments"):
        return {argument.name for argument in schema.arguments}
    code = getattr(function, "__code__", None)
    return set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]) if code is not None else set()
