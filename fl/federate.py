"""Splitting a data set among workers: each gets one part of the items."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, TensorDataset, default_collate

from sharetorch.fl.datasets import BaseDataset, FederatedDataset
from sharetorch.mpc.errors import FederatedDataError
from sharetorch.remote import labels
from sharetorch.remote.node import Node


def federate(dataset: Dataset[Any], workers: Any) -> FederatedDataset:
    """Split a data set in parts of equal size, in order, and send one part to each worker.

    The first workers get one item more if the number of items is no multiple of theirs. Items pass through the data
    set's own transforms here, before they are sent.

    Args:
        dataset: anything with ``len`` and an index that gives an item and its target: tensors, arrays or numbers that
            can be stacked.
        workers: where the parts go, one or several.

    Returns:
        One data set for each worker, in their order.

    Raises:
        FederatedDataError: more workers than items, no worker, one twice, or items that are no pairs that can be
            stacked.
    """
    places = [workers] if isinstance(workers, Node) else list(workers)
    _check_workers(places)
    total = _length(dataset)
    if len(places) > total:
        raise FederatedDataError(
            f"{total} items cannot be split among {len(places)} workers: some would get none. Name at most {total} "
            "workers."
        )
    bounds = [place * (total // len(places)) + min(place, total % len(places)) for place in range(len(places) + 1)]
    parts = [gather(dataset, range(start, end)) for start, end in zip(bounds, bounds[1:], strict=False)]
    return FederatedDataset([part.send(worker) for part, worker in zip(parts, places, strict=True)])


def gather(dataset: Dataset[Any], places: range) -> BaseDataset:
    """Items of a data set, stacked.

    Raises:
        FederatedDataError: items that are no pairs that can be stacked.
    """
    plain = _tensors(dataset)
    if plain is not None:
        data, targets = (_piece(x, places) for x in plain)
        return BaseDataset(data, targets)
    items = [_pair(dataset, place) for place in places]
    try:
        data, targets = default_collate(items)
    except (TypeError, RuntimeError, ValueError) as error:
        raise FederatedDataError(
            f"The items of this {type(dataset).__name__} cannot be stacked: {error}. Give the data set a transform "
            "that makes tensors of one shape of them, such as torchvision.transforms.ToTensor()."
        ) from error
    if not isinstance(data, Tensor) or not isinstance(targets, Tensor):
        raise FederatedDataError(
            f"Items of this {type(dataset).__name__} stack to a {type(data).__name__} and a "
            f"{type(targets).__name__}; both "
            "must be tensors, arrays or numbers."
        )
    if isinstance(dataset, BaseDataset):
        data, targets = _like(data, dataset.data), _like(targets, dataset.targets)
    return BaseDataset(data, targets)


def _check_workers(places: list[Any]) -> None:
    if not places:
        raise FederatedDataError("federate() needs workers: dataset.federate((bob, alice)).")
    names = [getattr(worker, "id", worker) for worker in places]
    if len(set(names)) < len(names):
        raise FederatedDataError(f"One part for each worker, but one is named twice: {', '.join(map(str, names))}.")


def _length(dataset: Any) -> int:
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise FederatedDataError(
            f"A {type(dataset).__name__} has no length and index, so it cannot be split; collect its items first: "
            "BaseDataset(torch.stack(...), torch.tensor(...))."
        )
    if isinstance(dataset, BaseDataset) and dataset.location is not None:
        raise FederatedDataError(f"This data set is at {dataset.location.id} already; dataset.get() fetches it.")
    return len(dataset)


def _tensors(dataset: Any) -> tuple[Tensor, Tensor] | None:
    """Items and targets as they are held, if nothing changes them on the way out."""
    if type(dataset) is TensorDataset and len(dataset.tensors) == 2:
        return dataset.tensors
    if type(dataset) is BaseDataset and dataset._transform is None:
        return dataset.data, dataset.targets
    return None


def _piece(x: Tensor, places: range) -> Tensor:
    return _like(x.detach()[places.start : places.stop], x)


def _like(piece: Tensor, x: Tensor) -> Tensor:
    """A tensor with the label of the one it was made from."""
    label = labels.of(x)
    if label.readers is not None:
        piece = labels.restrict(piece, label.readers)
    labels.tag(piece, *label.tags)
    described: Tensor = piece if label.description is None else labels.describe(piece, label.description)
    return described


def _pair(dataset: Any, place: int) -> tuple[Any, Any]:
    item = dataset[place]
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        found = f"{len(item)} parts" if isinstance(item, (tuple, list)) else f"a {type(item).__name__}"
        raise FederatedDataError(
            f"Item {place} of this {type(dataset).__name__} is {found}; an item must be a pair of data and target."
        )
    data, target = item
    return _storable(data), _storable(target)


def _storable(value: Any) -> Any:
    """A tensor without its graph, or a number or array as it is."""
    return value.detach() if isinstance(value, torch.Tensor) else value
