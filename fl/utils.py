"""Small things that federated programs share: averaging models, counting, and data to try things on."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sharetorch.fl.loader import FederatedDataLoader
from sharetorch.mpc.errors import FederatedDataError, TrainingError


def federated_avg(models: Mapping[Any, nn.Module]) -> nn.Module:
    """The mean of models of the same structure.

    Args:
        models: by worker; all here, all at one worker, or all shared among the same parties.

    Returns:
        A new model. Buffers of integers, which count batches, are those of the first model.

    Raises:
        TrainingError: no model, or models of different structure.
    """
    if not models:
        raise TrainingError("federated_avg() needs at least one model.")
    first, *others = models.values()
    mean = copy.deepcopy(first)
    with torch.no_grad():
        for parts in _together(mean, others):
            if parts[0].dtype.is_floating_point:
                parts[0].copy_(sum(parts[1:], parts[0]) / len(parts))
    return mean


def add_model(dst_model: nn.Module, src_model: nn.Module) -> nn.Module:
    """Add the second model's parameters and buffers to the first's, in place.

    Returns:
        The first model.

    Raises:
        TrainingError: models of different structure.
    """
    with torch.no_grad():
        for mine, theirs in _together(dst_model, [src_model]):
            mine.add_(theirs)
    return dst_model


def scale_model(model: nn.Module, scale: float) -> nn.Module:
    """Multiply all parameters, and buffers of real numbers, in place.

    Returns:
        The model.
    """
    with torch.no_grad():
        for (tensor,) in _together(model, []):
            if tensor.dtype.is_floating_point:
                tensor.mul_(scale)
    return model


def _together(model: nn.Module, others: Iterable[nn.Module]) -> list[tuple[Tensor, ...]]:
    """The same parameter or buffer of each model."""
    all_named = [dict([*each.named_parameters(), *each.named_buffers()]) for each in (model, *others)]
    for named in all_named[1:]:
        if {name: tuple(x.shape) for name, x in named.items()} != {
            name: tuple(x.shape) for name, x in all_named[0].items()
        }:
            raise TrainingError("The models differ in names or shapes of their parameters, so they cannot be combined.")
    return [tuple(named[name] for named in all_named) for name in all_named[0]]


def accuracy(pred_softmax: Tensor, target: Tensor) -> Tensor:
    """Share of rows whose largest entry is at the target's place.

    Args:
        pred_softmax: scores, shape (batch, classes).
        target: classes, shape (batch,), or (batch, 1).
    """
    predictions = pred_softmax.argmax(dim=1)
    return (predictions == target.reshape(-1)).float().mean()


def extract_batches_per_worker(federated_train_loader: FederatedDataLoader) -> dict[Any, list[tuple[Any, Any]]]:
    """All batches of a loader that takes the workers in turns, by worker."""
    datasets = federated_train_loader.federated_dataset.datasets
    batches: dict[Any, list[tuple[Any, Any]]] = {dataset.location: [] for dataset in datasets.values()}
    for data, target in federated_train_loader:
        batches[data.location].append((data, target))
    return batches


def create_gaussian_mixture_toy_data(nr_samples: int = 100) -> tuple[Tensor, Tensor]:
    """Points of the plane from two clouds, half of them around (-1, -1), half around (1, 1), from torch's generator.

    Returns:
        Points, float32, shape (n, 2), and the cloud each is from, int64, shape (n,), in random order.
    """
    target = torch.arange(nr_samples) % 2
    target = target[torch.randperm(nr_samples)]
    points = torch.randn(nr_samples, 2) * 0.5 + (2.0 * target - 1).unsqueeze(1)
    return points, target


def iris_data_partial() -> tuple[Tensor, Tensor]:
    """Thirty iris flowers, the first ten of each of the three kinds.

    Returns:
        Four measures in cm, float32, shape (30, 4), and the kind, int64, shape (30,).

    Raises:
        FederatedDataError: scikit-learn, with which they come, is not installed.
    """
    try:
        from sklearn.datasets import load_iris
    except ImportError as error:
        raise FederatedDataError(
            "The iris data comes with scikit-learn: pip install 'sharetorch[examples]'."
        ) from error
    measures, kinds = load_iris(return_X_y=True)
    places = [kind * 50 + place for kind in range(3) for place in range(10)]
    return torch.from_numpy(measures[places]).float(), torch.from_numpy(kinds[places]).long()
