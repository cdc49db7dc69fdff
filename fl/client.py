"""``FederatedClient``: trains on data sets of its own, in this process, as told by a ``TrainConfig``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sharetorch.fl import training
from sharetorch.fl.datasets import BaseDataset
from sharetorch.fl.federate import gather
from sharetorch.fl.structs import set_mode
from sharetorch.fl.train_config import TrainConfig
from sharetorch.fl.training import Wanted, call_loss
from sharetorch.mpc.errors import FederatedDataError, TrainingError


class FederatedClient:
    """Whoever has data sets, and trains models on them.

    Args:
        datasets: by key.

    Attributes:
        datasets: by key.
        train_config: the settings given last.
        optimizer: of its model; made at the first ``fit``.
    """

    def __init__(self, datasets: dict[str, Any] | None = None) -> None:
        self.datasets: dict[str, Any] = dict(datasets or {})
        self.train_config: TrainConfig | None = None
        self.optimizer: torch.optim.Optimizer | None = None
        self._objects: dict[int, Any] = {}

    def add_dataset(self, dataset: Any, key: str) -> None:
        """Have a data set.

        Raises:
            FederatedDataError: the key is taken.
        """
        if key in self.datasets:
            raise FederatedDataError(f"Key {key!r} already exists in the datasets; remove_dataset({key!r}) first.")
        self.datasets[key] = dataset

    def remove_dataset(self, key: str) -> None:
        """Forget a data set.

        Raises:
            FederatedDataError: there is none of that key.
        """
        self._dataset(key)
        del self.datasets[key]

    def set_obj(self, obj: Any) -> None:
        """Take a ``TrainConfig`` to train by; anything else is held."""
        if isinstance(obj, TrainConfig):
            self.train_config, self.optimizer = obj, None
        else:
            self._objects[getattr(obj, "id", id(obj))] = obj

    def fit(self, dataset_key: str, **_: Any) -> Tensor:
        """Train the model of the ``TrainConfig``, in place.

        Returns:
            The last batch's loss.

        Raises:
            TrainingError: no ``TrainConfig``, or one without a model.
            FederatedDataError: no data set of that key.
        """
        config = self._config()
        dataset = self._dataset(dataset_key)
        if self.optimizer is None:
            self.optimizer = config.settings.make_optimizer(list(config.model.parameters()))
        return training.train(_local_step(config), self.optimizer, dataset, config.settings)

    def evaluate(
        self,
        dataset_key: str,
        return_histograms: bool = False,
        nr_bins: int = -1,
        return_loss: bool = True,
        return_raw_accuracy: bool = True,
        **_: Any,
    ) -> dict[str, Any]:
        """Evaluate the model of the ``TrainConfig``; see ``sharetorch.fl.fitting.evaluate``.

        Raises:
            TrainingError: no ``TrainConfig``, or one without a model.
            FederatedDataError: no data set of that key.
        """
        config = self._config()
        dataset = self._dataset(dataset_key)
        wanted = Wanted(return_loss, return_raw_accuracy, return_histograms, nr_bins)
        before = config.model.training
        set_mode(config.model, False)
        try:
            return training.evaluate(_local_step(config), dataset, config.batch_size, wanted)
        finally:
            set_mode(config.model, before)

    def _config(self) -> TrainConfig:
        if self.train_config is None:
            raise TrainingError(
                "No TrainConfig is defined: give one with set_obj(TrainConfig(model=..., loss_fn=...))."
            )
        self.train_config.require_complete()
        return self.train_config

    def _dataset(self, key: str) -> BaseDataset:
        if key not in self.datasets:
            raise FederatedDataError(
                f"Data set {key!r} is unknown; there are {', '.join(map(repr, self.datasets)) or 'none'}."
            )
        dataset = self.datasets[key]
        return dataset if type(dataset) is BaseDataset else gather(dataset, range(len(dataset)))


def _local_step(config: TrainConfig) -> training.Step:
    def step(data: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        output = config.model(data)
        return call_loss(config.loss_fn, output, targets), output  # type: ignore[arg-type]

    return step
