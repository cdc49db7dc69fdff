"""``TrainConfig``: a model, a loss and how to train, sent to a worker once and run there on its data by one message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sharetorch.fl.graphs import StepSource
from sharetorch.fl.pointers import ConfigPointer, ModelPointer
from sharetorch.fl.structs import ModelState, RemoteConfig
from sharetorch.fl.training import Settings
from sharetorch.mpc.errors import TrainingError
from sharetorch.mpc.session import new_id
from sharetorch.remote.messages import Meta, Store
from sharetorch.remote.requests import Handle
from sharetorch.remote.worker import local


class TrainConfig:
    """A model, a loss and how to train it, for a worker that has the data.

    ``config.send(bob)`` sends the model's tensors and the settings; ``bob.fit(dataset_key="mnist")`` then trains there.
    Model and loss are recorded as graphs of tensor operations the first time they meet data of a shape; their Python
    code never leaves this process. The optimizer's state stays at the worker between calls of ``fit``.

    Args:
        model: a module, a TorchScript module or a plan, whose parameters are here.
        loss_fn: of (output, targets), or of arguments called ``pred`` and ``target``; gives a number.
        batch_size: items in a batch.
        epochs: passes over the data in one ``fit``.
        optimizer: name of one of torch's optimizers, see ``sharetorch.fl.training.OPTIMIZERS``.
        optimizer_args: its arguments; {"lr": 0.1} if not given.
        shuffle: whether the items come in a new random order in each epoch.
        max_nr_batches: largest number of batches in one epoch; negative for all.
        id: a number of its own if not given.
        owner: accepted for the tutorials' sake.

    Raises:
        TrainingError: a setting outside its range.
    """

    def __init__(
        self,
        model: Any = None,
        loss_fn: Callable[..., Any] | None = None,
        batch_size: int = 32,
        epochs: int = 1,
        optimizer: str = "SGD",
        optimizer_args: dict[str, Any] | None = None,
        shuffle: bool = True,
        max_nr_batches: int = -1,
        id: int | None = None,
        owner: Any = None,
    ) -> None:
        self.model = model
        self.loss_fn = loss_fn
        self.id = new_id() if id is None else id
        self.owner = local() if owner is None else owner
        arguments = {"lr": 0.1} if optimizer_args is None else dict(optimizer_args)
        self.settings = Settings(batch_size, epochs, optimizer, arguments, shuffle, max_nr_batches)
        self.settings.check()
        self.model_ptr: ModelPointer | None = None
        self._sent: dict[str, ConfigPointer] = {}

    batch_size = property(lambda self: self.settings.batch_size, doc="Items in a batch.")
    epochs = property(lambda self: self.settings.epochs, doc="Passes over the data in one fit.")
    optimizer = property(lambda self: self.settings.optimizer, doc="Name of the optimizer.")
    optimizer_args = property(lambda self: self.settings.optimizer_args, doc="Arguments of the optimizer.")
    shuffle = property(lambda self: self.settings.shuffle, doc="Whether each epoch has a new random order.")
    max_nr_batches = property(lambda self: self.settings.max_nr_batches, doc="Largest number of batches in an epoch.")

    def require_complete(self) -> None:
        """Check that there is something to train.

        Raises:
            TrainingError: no model or no loss.
        """
        if self.model is None or self.loss_fn is None:
            missing = "model" if self.model is None else "loss_fn"
            raise TrainingError(f"This TrainConfig has no {missing}: TrainConfig(model=..., loss_fn=..., ...).")

    def send(self, *workers: Any) -> Any:
        """Send model and settings to workers; each trains a model of its own. A second time replaces what was sent.

        Returns:
            A pointer to the settings; a list of them for several workers.

        Raises:
            TrainingError: no model, no loss, no worker, or a model whose tensors are not here.
        """
        self.require_complete()
        if not workers:
            raise TrainingError("send() needs a worker: config.send(bob).")
        pointers = [self._send_one(worker) for worker in workers]
        self.model_ptr = pointers[-1].model
        return pointers[0] if len(pointers) == 1 else pointers

    def _send_one(self, worker: Any) -> ConfigPointer:
        link = local().link(getattr(worker, "id", worker))
        numbers = [new_id(), new_id()]
        link.request(Store([ModelState.of(self.model), RemoteConfig(numbers[0], self.settings)], numbers))
        model = ModelPointer(Handle(link, Meta(numbers[0], "model")), self.model)
        pointer = ConfigPointer(Handle(link, Meta(numbers[1], "config")), model, StepSource(self.model, self.loss_fn))
        self._sent[link.worker.id] = pointer
        return pointer

    def __repr__(self) -> str:
        return (
            f"<TrainConfig id:{self.id} owner:{self.owner.id} epochs: {self.epochs} batch_size: {self.batch_size} "
            f"optimizer_args: {self.optimizer_args}>"
        )
