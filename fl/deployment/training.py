"""From the model that a round begins with to an update, at a client."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sharetorch.fl.datasets import BaseDataset
from sharetorch.fl.deployment import models
from sharetorch.fl.deployment.errors import TaskRefusedError
from sharetorch.fl.deployment.messages import Task, Train
from sharetorch.fl.deployment.models import GraphSteps, Shell
from sharetorch.fl.deployment.tasks import Allowance
from sharetorch.fl.rounds import local
from sharetorch.fl.rounds.chance import Chance
from sharetorch.fl.rounds.vectors import Layout
from sharetorch.fl.structs import set_mode, tensors_of
from sharetorch.fl.training import batch_of
from sharetorch.mpc.errors import FederatedDataError, RemoteError, TrainingError
from sharetorch.remote.node import Limits, Node


class Result(NamedTuple):
    """What is summed.

    Attributes:
        vector: trained minus sent, in the order of ``Layout``, then the mean loss: float64, shape (size + 1,).
        weight: number of items, or the most that counts.
    """

    vector: Tensor
    weight: int


class Trainee:
    """A client's model, and how it trains.

    Args:
        task: what it was asked for.
        allowance: what it allows.
        dataset: its items, here.
        id: its name, which is one of the words for which the order of items is drawn.

    Attributes:
        length: coordinates of the vector.
        model: with the values of the last round.

    Raises:
        TaskRefusedError: the task asks for more than is allowed, or for what there is not.
        FederatedDataError: there are no items.
    """

    def __init__(self, task: Task, allowance: Allowance, dataset: BaseDataset, id: str) -> None:
        if not len(dataset):
            raise FederatedDataError("The data has no items to train on.")
        allowance.require(task, len(dataset))
        self.task = task
        self._dataset, self._id = dataset, id
        try:
            self.model = self._model(task, allowance)
            if models.shapes_of(self.model) != task.shapes:
                raise TrainingError(f"the tensors of the model {task.model!r} have other shapes here than there")
            set_mode(self.model, True)
            layout = Layout(self.model)
            task.settings.make_optimizer([x for x in self.model.parameters() if x.requires_grad])
        except (TrainingError, RemoteError, RuntimeError) as error:
            raise TaskRefusedError(f"The server's model cannot be trained here: {error}") from error
        self._layout = layout
        self.length = layout.size + 1
        self._require_fit()

    def _model(self, task: Task, allowance: Allowance) -> nn.Module:
        if task.model:
            model = models.stock(task.model, allowance.bytes // 4)
            self._step = models.stock_step(model, task.loss)
            return model
        node = Node(self._id, True, Limits(object_bytes=allowance.bytes, store_bytes=4 * allowance.bytes))
        shell = Shell(task.shapes, task.parameters)
        self._step = GraphSteps(task.graphs, node).step(tensors_of(shell))
        return shell

    def _require_fit(self) -> None:
        """Try model and loss on a batch of each size; a text that torch gives might quote a value."""
        for size in self.task.settings.sizes(len(self._dataset)):
            data, targets = batch_of(self._dataset, torch.arange(size))
            try:
                with torch.no_grad():
                    self._step(data, targets)
            except (RuntimeError, ValueError, TypeError, IndexError) as error:
                raise FederatedDataError(
                    f"A batch of {size} items of shape {tuple(data.shape[1:])}, {data.dtype}, with targets of shape "
                    f"{tuple(targets.shape[1:])}, {targets.dtype}, does not fit the server's model "
                    f"{self.task.model or 'of graphs'} with its loss {self.task.loss} ({type(error).__name__}). "
                    "Compare shapes, and labels with the classes that the model knows."
                ) from None

    def train(self, order: Train) -> Result:
        """Train; runs in a thread.

        Raises:
            MalformedRequestError: the model's values do not fit it.
            TrainingError: the data do not fit the model.
        """
        task = self.task
        models.unpack(self.model, order.tensors)
        before = self._layout.of(self.model)
        trained = [x for x in self.model.parameters() if x.requires_grad]
        chance = Chance(task.seed, order.round, self._id)
        loss = local.train(self._step, trained, self._dataset, task.settings, chance, task.proximal)
        update = self._layout.of(self.model) - before
        length = float(update.norm())
        if task.clip and length > task.clip:
            update *= task.clip / length
        last = torch.tensor([loss], dtype=torch.float64).clamp(-task.largest, task.largest)
        return Result(torch.cat([update, last]), min(len(self._dataset), task.weight))
