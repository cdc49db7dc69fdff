"""Training and evaluation at a worker, as the driver asks for them."""

from __future__ import annotations

import asyncio
from typing import Any

from torch import Tensor

from sharetorch.fl.pointers import ConfigPointer, latest
from sharetorch.fl.training import Wanted
from sharetorch.mpc.errors import TrainingError
from sharetorch.remote.worker import local


def _config_at(worker: Any) -> ConfigPointer:
    """The settings last sent to a worker from here.

    Raises:
        TrainingError: none were, or their ``TrainConfig`` is gone.
    """
    pointer = latest.get((local().id, worker.id))
    if pointer is None:
        raise TrainingError(
            f"{worker.id} has no TrainConfig. Make one with TrainConfig(model=..., loss_fn=..., ...), send it with "
            f"config.send({worker.id}), and keep it in a variable."
        )
    return pointer


def fit(worker: Any, dataset_key: str, return_ids: Any = None, user: str | None = None, **_: Any) -> Tensor | None:
    """Let a worker train the model of the ``TrainConfig`` last sent to it on one of its own data sets, in one message.

    Args:
        worker: where data and model are.
        dataset_key: which data set.
        return_ids: accepted for the tutorials' sake.
        user: on whose behalf, where the worker's policy asks.

    Returns:
        The last batch's loss; None if the worker's policy does not let the caller have results.

    Raises:
        TrainingError: no ``TrainConfig`` was sent.
        FederatedDataError: the worker has no data set of that key.
    """
    return _config_at(worker).fit(dataset_key, user)


async def async_fit(worker: Any, dataset_key: str, return_ids: Any = None, user: str | None = None, **_: Any) -> Any:
    """As ``fit``, in a thread of its own: several workers train at the same time."""
    return await asyncio.to_thread(_config_at(worker).fit, dataset_key, user)


def evaluate(
    worker: Any,
    dataset_key: str,
    return_histograms: bool = False,
    nr_bins: int = -1,
    return_loss: bool = True,
    return_raw_accuracy: bool = True,
    user: str | None = None,
) -> dict[str, Any]:
    """Let a worker evaluate the model of the ``TrainConfig`` last sent to it on one of its own data sets.

    The model is in evaluation mode.

    Args:
        worker: where data and model are.
        dataset_key: which data set.
        return_histograms: whether to count how often each class is predicted, and is the target.
        nr_bins: number of classes to count; as many as the model's output has, if not positive.
        return_loss: whether to give the mean loss over the items; the loss function must be a mean over the batch.
        return_raw_accuracy: whether to count right predictions.
        user: on whose behalf, where the worker's policy asks.

    Returns:
        "loss", "nr_correct_predictions", "nr_predictions", "histogram_predictions", "histogram_target", as asked for.

    Raises:
        TrainingError: no ``TrainConfig`` was sent.
        FederatedDataError: the worker has no data set of that key.
        GetNotPermittedError: the worker's policy does not let the caller have results.
    """
    wanted = Wanted(return_loss, return_raw_accuracy, return_histograms, nr_bins)
    return _config_at(worker).evaluate(dataset_key, wanted, user)
