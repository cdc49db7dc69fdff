"""``FederatedDataLoader``: batches of data that stay at their workers.

A batch is a pair of pointers. The worker cuts its tensors into batches in one request for each tensor and epoch; in
random order, the order is drawn here and sent once, and each batch is one indexing request for each tensor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sharetorch.fl.datasets import BaseDataset, FederatedDataset
from sharetorch.mpc.errors import FederatedDataError

Batch = tuple[Any, Any]

IGNORED = {
    "num_workers", "pin_memory", "pin_memory_device", "timeout", "worker_init_fn", "multiprocessing_context",
    "prefetch_factor", "persistent_workers", "in_order",
}  # fmt: skip
"""Options of torch's loader that say how processes fetch data; nothing is fetched here."""


class Batches(dict[Any, Batch]):
    """One batch from each of several workers, by worker; the id of a worker finds its batch too."""

    def __missing__(self, key: Any) -> Batch:
        for worker, batch in self.items():
            if worker.id == key:
                return batch
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or any(worker.id == key for worker in self)


class FederatedDataLoader:
    """Gives batches of a federated data set, each at one worker.

    A loop over the loader takes the workers one after the other, always in the same order. With several iterators, or
    one for each worker, every step gives a dictionary with one batch from each of several workers.

    Args:
        federated_dataset: data at workers.
        batch_size: items in a batch.
        shuffle: whether the items of each worker come in a new random order in each loop, from torch's generator.
        num_iterators: how many workers give a batch in one step; at most one less than there are workers, for the next
            worker steps in when one has no batch left.
        drop_last: whether to leave out a worker's last batch if it is smaller.
        collate_fn: must be None: batches are made at the workers.
        iter_per_worker: whether every worker gives a batch in every step.
        generator: draws the order instead of torch's own generator.
        partial_steps: whether to go on, with fewer workers, when too few have a batch left for a full step. By
            default the loop ends then, as in the tutorials: what is left of the larger data sets is not seen in this
            loop.
        options: options of ``torch.utils.data.DataLoader`` that say how data is fetched; without effect.

    Attributes:
        workers: ids of the workers, in order.

    Raises:
        FederatedDataError: a batch size or number of iterators below 1, or no federated data set.
        TypeError: an option that has no meaning here.
    """

    def __init__(
        self,
        federated_dataset: FederatedDataset,
        batch_size: int = 8,
        shuffle: bool = False,
        num_iterators: int = 1,
        drop_last: bool = False,
        collate_fn: None = None,
        iter_per_worker: bool = False,
        *,
        generator: torch.Generator | None = None,
        partial_steps: bool = False,
        **options: Any,
    ) -> None:
        _check(federated_dataset, batch_size, num_iterators, collate_fn, options)
        self.federated_dataset = federated_dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.iter_per_worker = iter_per_worker
        self.num_iterators = max(1, min(num_iterators, len(self.workers) - 1))
        self.generator = generator
        self.partial_steps = partial_steps
        self._running: Iterator[Any] | None = None

    @property
    def workers(self) -> list[str]:
        """Ids of the workers, in order."""
        return self.federated_dataset.workers

    def __len__(self) -> int:
        """Steps of one loop: ceil(items / batch_size), summed over the workers if they take turns."""
        counts = [self._batches_of(len(dataset)) for dataset in self.federated_dataset.datasets.values()]
        if self._lanes() == 1 and not self.iter_per_worker:
            return sum(counts)
        steps = 0
        left = _Queue(counts, self._lanes(), self.partial_steps)
        while left.step():
            steps += 1
        return steps

    def _batches_of(self, items: int) -> int:
        return items // self.batch_size if self.drop_last else -(-items // self.batch_size)

    def _lanes(self) -> int:
        return len(self.workers) if self.iter_per_worker else self.num_iterators

    def __iter__(self) -> Iterator[Any]:
        """Start a loop; ``next(loader)`` continues the one started last."""
        single = self._lanes() == 1 and not self.iter_per_worker
        self._running = self._one_after_the_other() if single else self._side_by_side()
        return self._running

    def __next__(self) -> Any:
        if self._running is None:
            iter(self)
        assert self._running is not None
        return next(self._running)

    def _one_after_the_other(self) -> Iterator[Batch]:
        for dataset in self.federated_dataset.datasets.values():
            yield from self._batches(dataset)

    def _side_by_side(self) -> Iterator[Batches]:
        parts = list(self.federated_dataset.datasets.values())
        iterators = [self._batches(part) for part in parts]
        left = _Queue([self._batches_of(len(part)) for part in parts], self._lanes(), self.partial_steps)
        while places := left.step():
            yield Batches({parts[place].location: next(iterators[place]) for place in places})

    def _batches(self, dataset: BaseDataset) -> Iterator[Batch]:
        """The batches of one worker."""
        count = self._batches_of(len(dataset))
        pieces = self._in_random_order(dataset) if self.shuffle else self._in_order(dataset)
        for _ in range(count):
            data, targets = next(pieces)
            yield dataset.transformed(data), targets
            del data, targets

    @torch.no_grad()
    def _in_order(self, dataset: BaseDataset) -> Iterator[Batch]:
        return zip(dataset.data.split(self.batch_size), dataset.targets.split(self.batch_size), strict=True)

    def _in_random_order(self, dataset: BaseDataset) -> Iterator[Batch]:
        order: Any = torch.randperm(len(dataset), generator=self.generator)
        for places in _sent(order, dataset).split(self.batch_size):
            with torch.no_grad():
                batch = dataset.data.index_select(0, places), dataset.targets.index_select(0, places)
            yield batch
            del batch

    def __repr__(self) -> str:
        return (
            f"<FederatedDataLoader of {len(self.federated_dataset)} items at {', '.join(self.workers)}, "
            f"batch_size={self.batch_size}, shuffle={self.shuffle}>"
        )


class _Queue:
    """Which workers give a batch in the next step: a new one steps in for one that ended."""

    def __init__(self, counts: list[int], lanes: int, partial: bool) -> None:
        self._left = list(counts)
        self._lanes = lanes
        self._partial = partial

    def step(self) -> list[int]:
        """Places of the workers; empty at the end."""
        places = [place for place, left in enumerate(self._left) if left][: self._lanes]
        if len(places) < self._lanes and not self._partial:
            return []
        for place in places:
            self._left[place] -= 1
        return places


def _sent(order: Any, dataset: BaseDataset) -> Tensor:
    return order.send(dataset.location)  # type: ignore[no-any-return]


def _check(dataset: Any, batch_size: int, num_iterators: int, collate_fn: Any, options: dict[str, Any]) -> None:
    if not isinstance(dataset, FederatedDataset):
        raise FederatedDataError(
            f"A {type(dataset).__name__} is no federated data set; make one with dataset.federate((bob, alice)), or "
            "use torch.utils.data.DataLoader for local data."
        )
    for name, value in (("batch_size", batch_size), ("num_iterators", num_iterators)):
        if not isinstance(value, int) or value < 1:
            raise FederatedDataError(f"{name} is {value!r}; it must be an integer of at least 1.")
    unknown = sorted(set(options) - IGNORED)
    if collate_fn is not None:
        unknown.append("collate_fn")
    if unknown:
        raise TypeError(
            f"FederatedDataLoader cannot take {', '.join(unknown)}: batches are cut at the workers, without code "
            "from here."
        )
