"""Data sets whose tensors may be anywhere: here, at a worker, or secret-shared; and sets of them at several workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sharetorch.mpc.errors import FederatedDataError, TensorsNotCollocatedException
from sharetorch.remote import labels
from sharetorch.remote.messages import Fetch
from sharetorch.remote.pointer import PointerTensor

DATA_TAG, TARGET_TAG = "#data", "#target"
"""Added to the tags of a data set, so that a search tells its two tensors apart."""


class BaseDataset(Dataset[Any]):
    """Items and their targets as two tensors of any kind: plain, pointers to a worker, fixed-precision or shared.

    Args:
        data: the items along the first axis; a list or array becomes a tensor.
        targets: as many targets along the first axis.
        transform: applied to what is indexed, an item or a slice of items, each time; on pointers it runs at the
            worker.

    Attributes:
        data: see above.
        targets: see above.
        tags: by which the data set is found at a worker.
        description: what it is.
        readers: ids of those who may have what comes of it at a worker; None is everybody.

    Raises:
        FederatedDataError: different numbers of items and targets.
        TensorsNotCollocatedException: items and targets are at different places.
    """

    def __init__(self, data: Any, targets: Any, transform: Callable[[Any], Any] | None = None, **_: Any) -> None:
        self.data = _as_tensor(data)
        self.targets = _as_tensor(targets)
        self._transform = transform
        self.tags: set[str] = set()
        self.description: str | None = None
        self.readers: frozenset[str] | None = None
        self._check()

    def _check(self) -> None:
        if not self.data.dim() or not self.targets.dim() or len(self.data) != len(self.targets):
            raise FederatedDataError(
                f"Items of shape {tuple(self.data.shape)} and targets of shape {tuple(self.targets.shape)}: there "
                "must be one target for each item, along the first axis."
            )
        places = _location(self.data), _location(self.targets)
        if places[0] is not places[1]:
            names = " and ".join("here" if place is None else str(getattr(place, "id", place)) for place in places)
            raise TensorsNotCollocatedException(
                f"Items and targets are at different places ({names}); bring them to one with x.move(worker)."
            )

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        """One item and its target, or as many as the index says."""
        return self.transformed(self.data[index]), self.targets[index]

    def transformed(self, data: Any) -> Any:
        """Items after the transform, if there is one."""
        return data if self._transform is None else self._transform(data)

    def transform(self, transform: Callable[[Any], Any]) -> BaseDataset:
        """Replace all items by the transform of them at once.

        Raises:
            FederatedDataError: it changes the number of items.
        """
        self.data = transform(self.data)
        self._check()
        return self

    @property
    def location(self) -> Any:
        """The worker that holds the tensors; None if they are here."""
        return _location(self.data)

    def send(self, worker: Any, **options: Any) -> BaseDataset:
        """Send both tensors to a worker, with the data set's tags; in place, and the set itself is returned."""
        self._change(
            _labelled(self.data, self._tags(DATA_TAG), self.description).send(worker, **options),
            _labelled(self.targets, self._tags(TARGET_TAG), self.description).send(worker, **options),
        )
        return self

    def get(self, user: str | None = None, reason: str | None = None) -> BaseDataset:
        """Fetch, or open, both tensors in place; the worker forgets them.

        Raises:
            GetNotPermittedError: the worker's policy does not allow it; both tensors then stay where they are.
        """
        if isinstance(self.data, PointerTensor) and isinstance(self.targets, PointerTensor):
            handles = [self.data.handle, self.targets.handle]
            numbers = [handle.number for handle in handles]
            values = handles[0].link.request(Fetch(numbers, True, user, reason)).values
            for handle in handles:
                handle.drop()
            self._change(*values)
            return self
        return self._each("get")

    def fix_precision(self, *args: Any, **options: Any) -> BaseDataset:
        """Write both tensors in fixed point, in place."""
        return self._each("fix_precision", *args, **options)

    fix_prec = fix_precision

    def float_precision(self) -> BaseDataset:
        """Decode both tensors from fixed point, in place."""
        return self._each("float_precision")

    float_prec = float_precision

    def share(self, *workers: Any, **options: Any) -> BaseDataset:
        """Split both tensors into shares, in place; see ``Tensor.share``."""
        return self._each("share", *workers, **options)

    def tag(self, *tags: str) -> BaseDataset:
        """Let the data set be found by these tags; items carry "#data" besides, targets "#target"."""
        self.tags.update(tags)
        if self.location is not None:
            self.data.tag(*self._tags(DATA_TAG))  # type: ignore[attr-defined]
            self.targets.tag(*self._tags(TARGET_TAG))  # type: ignore[attr-defined]
        return self

    def describe(self, text: str) -> BaseDataset:
        """Say what the data set is."""
        self.description = text
        if self.location is not None:
            self.data.describe(text)  # type: ignore[attr-defined]
            self.targets.describe(text)  # type: ignore[attr-defined]
        return self

    @classmethod
    def search(cls, worker: Any, *tags: str) -> BaseDataset:
        """The data set a worker holds under these tags, as pointers; it stays there when they go.

        Raises:
            FederatedDataError: no data set has all these tags, or several have.
        """
        found = [worker.search([*tags, role]) for role in (DATA_TAG, TARGET_TAG)]
        if [len(pointers) for pointers in found] != [1, 1]:
            raise FederatedDataError(
                f"{worker.id} holds {len(found[0])} tensors tagged {' '.join([*tags, DATA_TAG])} and {len(found[1])} "
                "tagged "
                f"{' '.join([*tags, TARGET_TAG])}; a data set has one of each. Tag it with dataset.tag(...) before "
                "sending."
            )
        made = cls(found[0][0], found[1][0])
        made.tags = set(found[0][0].tags) - {DATA_TAG}
        made.description = found[0][0].description
        return made

    def federate(self, workers: Any) -> FederatedDataset:
        """Split the items in equal parts and send one to each worker; see ``federate``."""
        from sharetorch.fl.federate import federate

        return federate(self, workers)

    def _tags(self, role: str) -> tuple[str, ...]:
        return (*sorted(self.tags), role) if self.tags else ()

    def _change(self, data: Any, targets: Any) -> None:
        self.data, self.targets = data, targets

    def _each(self, method: str, *args: Any, **options: Any) -> BaseDataset:
        changed = [getattr(x, method)(*args, **options) for x in (self.data, self.targets)]
        self._change(*changed)
        return self

    def __repr__(self) -> str:
        where = "" if self.location is None else f" at {getattr(self.location, 'id', self.location)}"
        return f"<{type(self).__name__} of {len(self)} items of shape {tuple(self.data.shape[1:])}{where}>"


class FederatedDataset(Dataset[Any]):
    """Data sets at several workers, one at each.

    Args:
        datasets: what ``BaseDataset.send`` or ``BaseDataset(pointer, pointer)`` gives.

    Attributes:
        datasets: by id of the worker, in the order given.

    Raises:
        FederatedDataError: none, one that is not at a worker, or two at the same worker.
    """

    def __init__(self, datasets: Sequence[BaseDataset]) -> None:
        if not datasets:
            raise FederatedDataError("A federated data set needs at least one data set that is at a worker.")
        self.datasets: dict[str, BaseDataset] = {}
        for place, dataset in enumerate(datasets):
            name = getattr(dataset.location, "id", None)
            if name is None:
                raise FederatedDataError(f"Data set {place} is not at one worker; send it with dataset.send(worker).")
            if name in self.datasets:
                raise FederatedDataError(f"Two data sets are at {name}; join them with torch.cat first.")
            self.datasets[name] = dataset

    @property
    def workers(self) -> list[str]:
        """Ids of the workers, in order."""
        return list(self.datasets)

    def __len__(self) -> int:
        return sum(len(dataset) for dataset in self.datasets.values())

    def __getitem__(self, worker: Any) -> BaseDataset:
        """The data set at a worker, given the worker or its id.

        Raises:
            KeyError: there is none at that worker.
        """
        name = getattr(worker, "id", worker)
        if name not in self.datasets:
            raise KeyError(f"No data set at {name!r}; there are some at {', '.join(self.datasets)}.")
        return self.datasets[name]

    def get_dataset(self, worker: Any) -> BaseDataset:
        """Fetch the data set of one worker; it no longer belongs to this one."""
        dataset = self[worker].get()
        del self.datasets[getattr(worker, "id", worker)]
        return dataset

    def get(self, user: str | None = None, reason: str | None = None) -> BaseDataset:
        """Fetch all data sets as one, in the order of the workers.

        Raises:
            GetNotPermittedError: the policy of a worker does not allow it.
        """
        parts = [dataset.get(user, reason) for dataset in self.datasets.values()]
        return BaseDataset(torch.cat([part.data for part in parts]), torch.cat([part.targets for part in parts]))

    @classmethod
    def search(cls, workers: Iterable[Any], *tags: str) -> FederatedDataset:
        """The data sets that workers hold under these tags.

        Raises:
            FederatedDataError: a worker holds none, or several.
        """
        return cls([BaseDataset.search(worker, *tags) for worker in workers])

    def federate(self, workers: Iterable[Any]) -> FederatedDataset:
        """Refuse: the data is at workers already.

        Raises:
            FederatedDataError: always.
        """
        raise FederatedDataError(f"This data set is spread over {', '.join(self.workers)} already.")

    def __repr__(self) -> str:
        return f"<FederatedDataset of {len(self)} items at {', '.join(self.workers)}>"


def _as_tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(value)


def _location(x: Any) -> Any:
    return getattr(x, "location", None)


def _labelled(x: Any, tags: tuple[str, ...], description: str | None) -> Any:
    """A tensor with further tags, without changing the one given."""
    if not tags and description is None:
        return x
    known = labels.of(x)
    alias = x.detach()
    if known.readers is not None:
        alias = labels.restrict(alias, known.readers)
    text = description if description is not None else known.description
    labels.tag(alias, *known.tags, *tags)
    return alias if text is None else labels.describe(alias, text)
