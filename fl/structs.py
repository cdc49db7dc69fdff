"""What crosses a wire for training at a worker: a model's tensors, settings, and recorded steps."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from sharetorch.fl.training import Settings
from sharetorch.mpc.errors import MalformedRequestError, TrainingError
from sharetorch.remote import wire
from sharetorch.remote.objects import KINDS
from sharetorch.remote.plans.graph import Graph
from sharetorch.remote.plans.plan import Plan

MODEL_EXTENSION, CONFIG_EXTENSION = 21, 22


class ModelState:
    """A model's tensors at a worker: its structure stays with the driver, and comes as graphs.

    Args:
        tensors: parameters, then buffers.
        trainable: which of them the optimizer changes.
    """

    __slots__ = ("tensors", "trainable")

    def __init__(self, tensors: list[Tensor], trainable: list[bool]) -> None:
        self.tensors = tensors
        self.trainable = trainable

    @classmethod
    def of(cls, model: Any) -> ModelState:
        """The tensors of a model that is here.

        Raises:
            TrainingError: they are elsewhere, or there are none to be found.
        """
        tensors = tensors_of(model)
        for tensor in tensors:
            if type(tensor) not in (Tensor, nn.Parameter):
                raise TrainingError(
                    f"The model's tensors must be here; one is a {type(tensor).__name__}. Fetch it with model.get()."
                )
        buffers = {id(buffer) for buffer in model.buffers()}
        return cls([x.detach() for x in tensors], [x.requires_grad and id(x) not in buffers for x in tensors])

    def load_into(self, model: Any) -> Any:
        """A copy of the model with these tensors."""
        trained = copy.deepcopy(model)
        with torch.no_grad():
            for mine, theirs in zip(tensors_of(trained), self.tensors, strict=True):
                mine.copy_(theirs)
        return trained


class RemoteConfig:
    """Training settings at a worker.

    Args:
        model: number of the model there.
        settings: how to train.

    Attributes:
        steps: checked graphs, by the bytes of the form they were recorded for.
        optimizer: of this model, made at the first training; its state stays here.
    """

    __slots__ = ("model", "optimizer", "settings", "steps")

    def __init__(self, model: int, settings: Settings) -> None:
        self.model = model
        self.settings = settings
        self.steps: dict[bytes, Any] = {}
        self.optimizer: torch.optim.Optimizer | None = None


class StepForm(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """For which batches a step is recorded.

    Attributes:
        training: whether the model is in training mode.
        data: shape and name of the dtype of a batch.
        targets: likewise.
    """

    training: bool
    data: tuple[list[int], str]
    targets: tuple[list[int], str]

    def key(self) -> bytes:
        """The form as bytes, to look it up by."""
        return msgspec.msgpack.encode(self)


class RecordedStep(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The graph of a step.

    Attributes:
        form: for which batches.
        graph: inputs are data and targets; state is the model's tensors and the constants; gives loss and output.
        constants: further tensors it needs.
    """

    form: StepForm
    graph: Graph
    constants: list[Any]


def tensors_of(model: Any) -> list[Tensor]:
    """A model's parameters, then its buffers; of a built plan its state.

    Raises:
        TrainingError: it has none to be found.
    """
    if isinstance(model, Plan) and model.is_built:
        return list(model.state)
    if not isinstance(model, nn.Module):
        raise TrainingError(
            f"A {type(model).__name__} is no model to train; give a module, a TorchScript module or a plan. Of an "
            "exported program, give program.module()."
        )
    return [*model.parameters(), *model.buffers()]


def set_mode(model: nn.Module, training: bool) -> None:
    """Put a model and its parts in training or evaluation mode; exported ones have none and stay as they are."""
    try:
        model.train(training)
    except NotImplementedError:
        return


def _pack_state(state: ModelState) -> bytes:
    return wire.encode([state.tensors, state.trainable])


def _unpack_state(data: bytes, node: Any) -> ModelState:
    tensors, trainable = wire.Decoder(tuple[list[Any], list[bool]], node).decode(data)
    if len(tensors) != len(trainable) or not all(type(tensor) is Tensor for tensor in tensors):
        raise MalformedRequestError("A model is plain tensors, each with a mark whether it is trained.")
    if any(marked and not tensor.dtype.is_floating_point for tensor, marked in zip(tensors, trainable, strict=True)):
        raise MalformedRequestError("Only tensors of real numbers can be trained.")
    return ModelState(tensors, trainable)


def _pack_config(config: RemoteConfig) -> bytes:
    return wire.encode([config.model, config.settings])


def _unpack_config(data: bytes, node: Any) -> RemoteConfig:
    number, settings = wire.Decoder(tuple[int, Settings], node).decode(data)
    settings.check()
    return RemoteConfig(number, settings)


wire.register(MODEL_EXTENSION, ModelState, _pack_state, _unpack_state)
wire.register(CONFIG_EXTENSION, RemoteConfig, _pack_config, _unpack_config)
KINDS[ModelState] = "model"
KINDS[RemoteConfig] = "config"
