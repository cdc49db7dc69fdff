"""Clients of rounds: whoever gets parameters and gives an update."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple, Protocol

import msgspec
from torch import Tensor

from sharetorch.fl.aggregation.invitations import Invitation
from sharetorch.fl.graphs import StepSource
from sharetorch.fl.pointers import ConfigPointer
from sharetorch.fl.rounds.serving import HIDDEN, INVITATION, PREPARE, ROUND, UPLOADED, RoundOrder
from sharetorch.fl.rounds.vectors import Layout
from sharetorch.fl.structs import RecordedStep, StepForm
from sharetorch.fl.train_config import TrainConfig
from sharetorch.mpc.errors import TrainingError
from sharetorch.remote.messages import Train


class Task(NamedTuple):
    """What a client is asked in a round.

    Attributes:
        round: number of the round, from 1.
        tensors: of the global model, parameters then buffers; not to be changed.
        seed: of the federation.
        proximal: mu of FedProx; 0 for none.
        invitation: to a round of hidden updates, whose aggregators are on other machines; None otherwise.
    """

    round: int
    tensors: list[Tensor]
    seed: int
    proximal: float
    invitation: Invitation | None = None


class Update(NamedTuple):
    """What a client gives in a round.

    Attributes:
        vector: trained minus sent, in the order of ``Layout``; float64, shape (size,).
        weight: number of items it was trained on, or any other positive weight.
        loss: mean over these items, during the training.
    """

    vector: Tensor
    weight: float
    loss: float


class Uploaded(NamedTuple):
    """A client's update is with the aggregators; nobody here knows anything of it."""


class Client(Protocol):
    """Whoever trains on data of its own.

    Attributes:
        id: its name; no two clients have the same.
    """

    id: str

    def train(self, task: Task) -> Update | Uploaded:
        """Train from the parameters of a task; called in a thread, and never twice at the same time.

        With an invitation the update goes to the aggregators, in shares, and ``Uploaded`` is what comes of it.
        """


class Steps:
    """Model and loss, recorded once for all clients of a federation.

    Args:
        config: with model and loss.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._source = StepSource(config.model, config.loss_fn)
        self._recorded: dict[bytes, RecordedStep] = {}
        self._turn = threading.Lock()

    def step(self, form: StepForm) -> RecordedStep:
        """The graph for batches of one form."""
        with self._turn:
            key = form.key()
            if key not in self._recorded:
                self._recorded[key] = self._source.step(form)
            return self._recorded[key]


class WorkerClient:
    """A worker with a data set of its own, in this process or another.

    The settings and the recorded model go to it before its first round, by three requests. Each round is one more: the
    parameters there, the trained ones back.

    Args:
        worker: where the data is; it has loaded ``sharetorch.fl.rounds``.
        dataset_key: which data set.
        config: model, loss and how to train; the model's parameters are not changed.
        steps: of the same config, in common with its other clients.
    """

    def __init__(self, worker: Any, dataset_key: str, config: TrainConfig, steps: Steps | None = None) -> None:
        self.id = str(worker.id)
        self._worker = worker
        self._key = dataset_key
        self._config = config
        self._steps = steps or Steps(config)
        self._layout = Layout(config.model)
        self._pointer: ConfigPointer | None = None
        self._items = 0

    def train(self, task: Task) -> Update | Uploaded:
        """Let the worker train; see ``Client``.

        Raises:
            TrainingError: the worker knows nothing of rounds.
            FederatedDataError: it has no data set of that key.
            GetNotPermittedError: its policy does not let us have what comes of the data, hidden or not.
            NetworkError: it cannot be reached.
        """
        hidden = task.invitation is not None
        known = self._pointer if hidden or self._items else None
        pointer = known or self._prepared(hidden)
        order = RoundOrder(task.tensors, (task.seed, task.round, self.id), task.proximal)
        if hidden:
            (said, *_) = self._ask(pointer, {ROUND: order, INVITATION: task.invitation})
            if said != UPLOADED:
                raise TrainingError(f"{self.id} does not know hidden updates. Install the same version there.")
            return Uploaded()
        values = self._ask(pointer, {ROUND: order})
        loss, _, tensors = self._three(values)
        before, after = self._layout.vector(task.tensors), self._layout.vector(tensors)
        return Update(after - before, float(self._items), float(loss))

    def _prepared(self, hidden: bool = False) -> ConfigPointer:
        pointer: ConfigPointer = self._config.send(self._worker)
        kind = HIDDEN if hidden else True
        self._items, missing = self._ask(pointer, {PREPARE: kind})
        forms = msgspec.convert(missing, list[StepForm])
        if forms:
            self._ask(pointer, {PREPARE: kind, "steps": [self._steps.step(form) for form in forms]})
        self._pointer = pointer
        return pointer

    def _ask(self, pointer: ConfigPointer, options: dict[str, Any]) -> list[Any]:
        values: list[Any] = pointer.handle.link.request(Train(pointer.handle.number, self._key, options)).values
        return values

    def _three(self, values: list[Any]) -> list[Any]:
        if len(values) != 3 or not isinstance(values[2], list):
            raise TrainingError(f"{self.id} does not know rounds. Let its process `import sharetorch.fl.rounds`.")
        return values

    def __repr__(self) -> str:
        return f"<WorkerClient at {self.id}, data set {self._key!r}>"
