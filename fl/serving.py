"""How a node trains and evaluates on its own data sets for others, and who may have what comes of it.

A model trained on data may hold all of it, and so may a loss or a histogram made by a graph that somebody else wrote.
So results are as secret as the data set: its readers are those its owner names with ``users``, or those of its tensors.
At a private worker, where neither says anything, they are nobody but the owner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import msgspec
from torch import Tensor

from sharetorch.fl import training
from sharetorch.fl.datasets import BaseDataset
from sharetorch.fl.federate import gather
from sharetorch.fl.graphs import Step
from sharetorch.fl.structs import ModelState, RecordedStep, RemoteConfig, StepForm
from sharetorch.fl.training import Settings, Wanted
from sharetorch.mpc.errors import (
    FederatedDataError,
    GetNotPermittedError,
    MalformedRequestError,
    RemoteOperationError,
    ShareTorchError,
    TrainingError,
)
from sharetorch.remote import labels
from sharetorch.remote.access import askers, may_read, usable
from sharetorch.remote.audit import Call
from sharetorch.remote.messages import Evaluate, Train, Values
from sharetorch.remote.node import Node, handles
from sharetorch.remote.objects import Readers, Record, dtype_name

R = TypeVar("R")


def add_dataset(node: Node, dataset: Any, key: str, users: Iterable[str] | None = None) -> None:
    """Let a node have a data set that others may train and evaluate on; for the node's own side.

    Args:
        node: the worker.
        dataset: items and targets: a ``BaseDataset``, or anything ``federate`` takes.
        key: by which it is named in ``fit`` and ``evaluate``.
        users: ids of those who may have trained models, losses and figures; by default everybody, and nobody but the
            owner if the worker is private. Users of tensors marked with ``private_tensor`` are the most there can be.

    Raises:
        FederatedDataError: the key is taken, or the data cannot be stacked.
    """
    if key in node.datasets:
        raise FederatedDataError(
            f"{node.id} has a data set {key!r} already; remove_dataset({key!r}) it, or choose another key."
        )
    held = _held(node, dataset)
    readers = Readers(None if users is None else frozenset({*users, node.id}))
    if users is None and node.private:
        readers.narrow(frozenset({node.id}))
    for tensor in (held.data, held.targets):
        readers.narrow(labels.of(tensor).readers)
    held.readers = readers.names
    node.datasets[key] = held


def remove_dataset(node: Node, key: str) -> None:
    """Let a node forget a data set; for the node's own side.

    Raises:
        FederatedDataError: there is none of that key.
    """
    find_dataset(node, key)
    del node.datasets[key]


def _held(node: Node, dataset: Any) -> BaseDataset:
    if isinstance(dataset, BaseDataset) and dataset.location is not None:
        if dataset.location is not node:
            raise FederatedDataError(
                f"This data set is at {dataset.location.id}, not at {node.id}; move it there first."
            )
        return BaseDataset(_own(node, dataset.data), _own(node, dataset.targets))
    return gather(dataset, range(len(dataset)))


def _own(node: Node, pointer: Any) -> Tensor:
    record = node.objects[pointer.id_at_location]
    names = record.readers.names
    value: Tensor = record.value.detach().view(record.value.shape)
    return value if names is None else labels.restrict(value, names | record.released)


def find_dataset(node: Any, key: str) -> BaseDataset:
    """A data set by its key.

    Raises:
        FederatedDataError: there is none of that key.
    """
    if key not in node.datasets:
        known = ", ".join(map(repr, node.datasets)) or "none"
        raise FederatedDataError(f"{node.id} has no data set {str(key)[:80]!r}; its data sets: {known}.")
    dataset: BaseDataset = node.datasets[key]
    return dataset


class Job(NamedTuple):
    """A model, how to train it, and on what.

    Attributes:
        node: the worker.
        config: the settings.
        model: the model.
        records: the objects that are settings and model.
        dataset: the data.
        askers: who asks and on whose behalf: all must be allowed to have what comes of it.
    """

    node: Node
    config: RemoteConfig
    model: ModelState
    records: tuple[Record, ...]
    dataset: BaseDataset
    askers: tuple[str, ...]

    @property
    def hidden(self) -> bool:
        """Whether whoever asks may not have what comes of data and model."""
        readers = self.dataset.readers
        allowed = readers is None or readers.issuperset(self.askers)
        return not allowed or not all(may_read(record, name) for record in self.records for name in self.askers)

    def narrow(self) -> None:
        """Let model and settings be as secret as the data set: graphs may keep data in either."""
        for record in self.records:
            record.readers.narrow(self.dataset.readers)

    def forms(self, settings: Settings, mode: bool) -> list[StepForm]:
        """Forms of the batches that will occur."""
        data, targets = self.dataset.data, self.dataset.targets
        return [
            StepForm(mode, *(([size, *x.shape[1:]], dtype_name(x.dtype)) for x in (data, targets)))
            for size in settings.sizes(len(self.dataset))
        ]

    def missing(self, forms: list[StepForm]) -> list[StepForm]:
        """Forms for which no graph has come."""
        return [form for form in forms if form.key() not in self.config.steps]

    def step(self, mode: bool) -> training.Step:
        """Model and loss on one batch."""

        def step(data: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            shapes = (([*x.shape], dtype_name(x.dtype)) for x in (data, targets))
            results = self.config.steps[StepForm(mode, *shapes).key()].run([data, targets], self.model.tensors)
            return _two(results)

        return step

    def run(self, work: Callable[[], R]) -> R:
        """Do the work; an error's text, which may quote values, stays here if the caller may not have them."""
        try:
            return work()
        except ShareTorchError:
            raise
        except Exception as error:
            if not self.hidden:
                raise
            raise RemoteOperationError(
                f"The work failed at {self.node.id} with a {type(error).__name__}; its text stays there, for it may "
                "quote values you may not read."
            ) from None


def _two(results: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(results, tuple) or len(results) != 2 or not all(isinstance(x, Tensor) for x in results):
        raise MalformedRequestError("A step gives two tensors, loss and output.")
    if results[0].numel() != 1:
        raise MalformedRequestError("A step's loss is one number.")
    return results[0].reshape(()), results[1]


def job_of(node: Node, request: Train | Evaluate, call: Call) -> Job:
    """What a request asks for, with the graphs it brings kept."""
    call.user = request.options.get("user")
    settings = usable(node, request.config, call)
    config = settings.value
    if not isinstance(config, RemoteConfig):
        raise MalformedRequestError(f"Object {request.config} is no training settings; send a TrainConfig.")
    record = usable(node, config.model, call)
    if not isinstance(record.value, ModelState):
        raise MalformedRequestError(f"Object {config.model} is no model of a TrainConfig.")
    dataset = find_dataset(node, request.dataset)
    job = Job(node, config, record.value, (settings, record), dataset, askers(node, call))
    for step in msgspec.convert(request.options.get("steps", []), list[RecordedStep]):
        if not all(type(tensor) is Tensor for tensor in step.constants):
            raise MalformedRequestError("Constants of a step are plain tensors.")
        config.steps[step.form.key()] = Step(step.graph, step.constants, node)
    return job


@handles(Train)
def serve_training(node: Node, request: Train, call: Call) -> Values:
    """Serve ``Train``."""
    job = job_of(node, request, call)
    missing = job.missing(job.forms(job.config.settings, True))
    if missing:
        return Values([None, missing])
    job.narrow()
    optimizer = _optimizer(job)
    loss = job.run(lambda: training.train(job.step(True), optimizer, job.dataset, job.config.settings))
    return Values([None if job.hidden else loss, []])


def _optimizer(job: Job) -> Any:
    if job.config.optimizer is None:
        trained = [
            tensor.requires_grad_()
            for tensor, marked in zip(job.model.tensors, job.model.trainable, strict=True)
            if marked
        ]
        if not trained:
            raise TrainingError("The model has no parameter that requires a gradient: nothing would be trained.")
        job.config.optimizer = job.config.settings.make_optimizer(trained)
    return job.config.optimizer


@handles(Evaluate)
def serve_evaluation(node: Node, request: Evaluate, call: Call) -> Values:
    """Serve ``Evaluate``."""
    job = job_of(node, request, call)
    if job.hidden:
        raise GetNotPermittedError(
            f"{job.askers[0]} may not have figures computed from data set {request.dataset!r} of {node.id}. Its owner "
            "can allow it with add_dataset(..., users=[...])."
        )
    wanted = msgspec.convert(request.options.get("wanted", []), Wanted)
    settings = Settings(job.config.settings.batch_size)
    missing = job.missing(job.forms(settings, False))
    if missing:
        return Values([None, missing])
    job.narrow()
    return Values([job.run(lambda: training.evaluate(job.step(False), job.dataset, settings.batch_size, wanted)), []])
