"""Models as data: stock ones by name, others as graphs; their tensors as bytes; losses by name.

A client builds a stock model by itself. A graph holds operations of the list that workers run for others, with checked
arguments (``fl/graphs.py``); there is one for each size that a batch may have, so that no client has to say how many
items it holds. Nothing that comes by wire is code.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharetorch.fl import graphs
from sharetorch.fl.deployment.messages import Shape
from sharetorch.fl.graphs import StepSource
from sharetorch.fl.rounds.simulation import TutorialNet
from sharetorch.fl.structs import RecordedStep, StepForm, tensors_of
from sharetorch.fl.training import Step, call_loss
from sharetorch.mpc.errors import MalformedRequestError, TrainingError
from sharetorch.remote import wire
from sharetorch.remote.node import Node
from sharetorch.remote.objects import dtype_name

LOSSES: Mapping[str, Callable[..., Tensor]] = {
    "cross_entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "l1": F.l1_loss,
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
}
"""Losses by name."""

STOCK = "cnn, mlp:INPUTS,...,OUTPUTS"
"""Names of stock models, for messages."""
GRAPH_BATCH = 256
"""Largest batch of a model that is sent as graphs: each size up to it has one."""

_MOST_SIZES, _MOST_WIDTH, _CNN_VALUES = 16, 1 << 16, 431_080
_MLP = re.compile(r"mlp:([0-9]{1,6}(?:,[0-9]{1,6})+)")


class Batches(NamedTuple):
    """Of what a model's batches consist.

    Attributes:
        item: shape of one item.
        target: shape of one target.
        item_dtype: name of the items' dtype.
        target_dtype: likewise.
    """

    item: tuple[int, ...]
    target: tuple[int, ...] = ()
    item_dtype: str = "float32"
    target_dtype: str = "int64"


def stock(name: str, most: int = 1 << 40) -> nn.Module:
    """A stock model, its values not yet chosen.

    ``cnn`` is the tutorials' network for images of 28x28. ``mlp:64,32,10`` takes items of 64 numbers in any shape, has
    a hidden layer of 32 with ReLU, and gives 10 numbers for each item; a single one is given without an axis of its
    own.

    Args:
        name: of the model.
        most: values it may have.

    Raises:
        TrainingError: there is none of that name, or it is larger.
    """
    sizes = _sizes(name)
    values = sum((one + 1) * other for one, other in zip(sizes, sizes[1:], strict=False)) if sizes else _CNN_VALUES
    if values > most:
        raise TrainingError(f"The model {name!r} has {values} values; {most} are allowed.")
    if not sizes:
        return TutorialNet()
    layers: list[nn.Module] = [nn.Flatten()]
    for place, (one, other) in enumerate(zip(sizes, sizes[1:], strict=False)):
        layers += [nn.ReLU()] * bool(place) + [nn.Linear(one, other)]
    return nn.Sequential(*layers, *([nn.Flatten(0)] if sizes[-1] == 1 else []))


def _sizes(name: str) -> list[int]:
    """Sizes of a perceptron's layers; none for the network of convolutions."""
    if name == "cnn":
        return []
    found = _MLP.fullmatch(name)
    sizes = [int(size) for size in found[1].split(",")] if found else []
    if not 2 <= len(sizes) <= _MOST_SIZES or not all(1 <= size <= _MOST_WIDTH for size in sizes):
        raise TrainingError(
            f"{name[:80]!r} is no stock model. There are {STOCK}; the latter has 2 to {_MOST_SIZES} sizes from 1 to "
            f"{_MOST_WIDTH}, such as mlp:64,32,10."
        )
    return sizes


def stock_step(model: nn.Module, loss: str) -> Step:
    """A stock model and its loss on one batch.

    Raises:
        TrainingError: there is no loss of that name.
    """
    if loss not in LOSSES:
        raise TrainingError(f"{loss[:80]!r} is no loss; there are {', '.join(LOSSES)}.")

    def step(data: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        output = model(data)
        found: Tensor = call_loss(LOSSES[loss], output, targets)
        return found, output

    return step


# ------------------------------------------------------------------------------------------------------------- graphs


def recorded(model: nn.Module, loss: Any, batches: Batches, largest: int) -> bytes:
    """A model and its loss as graphs, for batches of each size up to the largest.

    Sizes that the model cannot take, such as 1 for batch norm, have none.

    Raises:
        TrainingError: they cannot be recorded, or the batches are too large.
    """
    if largest > GRAPH_BATCH:
        raise TrainingError(
            f"A batch of {largest}: a model that is sent as graphs takes up to {GRAPH_BATCH}, for each size of a "
            "client's last batch has a graph of its own. Take smaller batches, or a stock model."
        )
    source = StepSource(model, loss)
    forms = [
        StepForm(True, ([size, *batches.item], batches.item_dtype), ([size, *batches.target], batches.target_dtype))
        for size in range(1, largest + 1)
    ]
    found = [source.step(forms[-1])]
    for form in forms[:-1]:
        with contextlib.suppress(RuntimeError, ValueError):
            found.append(source.step(form))
    return wire.encode(found)


class GraphSteps:
    """Graphs that came by wire, checked.

    Args:
        data: as ``recorded`` gave them.
        node: whose limits hold.

    Raises:
        RemoteError: they are not as documented, or hold an operation that is not on the list.
    """

    def __init__(self, data: bytes, node: Node) -> None:
        found: list[RecordedStep] = wire.Decoder(list[RecordedStep], node).decode(data)
        if not found or not all(type(x) is Tensor for step in found for x in step.constants):
            raise MalformedRequestError("A model comes as one graph or more, whose constants are plain tensors.")
        self._steps = {step.form.key(): graphs.Step(step.graph, step.constants, node) for step in found}

    def step(self, tensors: Sequence[Tensor]) -> Step:
        """Model and loss on one batch."""

        def step(data: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            forms = (([*x.shape], dtype_name(x.dtype)) for x in (data, targets))
            graph = self._steps.get(StepForm(True, *forms).key())
            if graph is None:
                raise TrainingError(
                    f"The model takes no batches of shape {tuple(data.shape)}, {data.dtype}, with targets of shape "
                    f"{tuple(targets.shape)}, {targets.dtype}. Give the data the form the federation learns from."
                )
            results = graph.run([data, targets], tensors)
            if not isinstance(results, tuple) or len(results) != 2 or results[0].numel() != 1:
                raise MalformedRequestError("A step gives two tensors, a loss of one number and an output.")
            return results[0].reshape(()), results[1]

        return step


class Shell(nn.Module):
    """The tensors of a model whose structure comes as graphs.

    Args:
        shapes: of its tensors.
        parameters: how many of them, the first ones, are parameters.

    Raises:
        MalformedRequestError: there is no such model.
    """

    def __init__(self, shapes: Sequence[Shape], parameters: int) -> None:
        super().__init__()
        for place, shape in enumerate(shapes):
            if shape.dtype not in wire.DTYPES:
                raise MalformedRequestError(f"{shape.dtype[:80]!r} is no dtype of a model.")
            x = torch.zeros(shape.sizes, dtype=wire.DTYPES[shape.dtype])
            if shape.trained and (place >= parameters or not x.dtype.is_floating_point):
                raise MalformedRequestError("Only parameters of real numbers can be trained.")
            if place < parameters:
                self.register_parameter(f"parameter_{place}", nn.Parameter(x, requires_grad=shape.trained))
            else:
                self.register_buffer(f"buffer_{place}", x)


# ------------------------------------------------------------------------------------------------------------ tensors


def shapes_of(model: nn.Module) -> list[Shape]:
    """The form of a model's tensors, parameters then buffers."""
    marks = [x.requires_grad for x in model.parameters()]
    found = tensors_of(model)
    marks += [False] * (len(found) - len(marks))
    return [Shape(dtype_name(x.dtype), list(x.shape), mark) for x, mark in zip(found, marks, strict=True)]


def bytes_of(shapes: Sequence[Shape]) -> int:
    """Bytes of tensors of these shapes.

    Raises:
        MalformedRequestError: a dtype is none.
    """
    if not all(shape.dtype in wire.DTYPES for shape in shapes):
        raise MalformedRequestError("A tensor of the model has a dtype that is none.")
    return sum(math.prod(shape.sizes) * wire.DTYPES[shape.dtype].itemsize for shape in shapes)


def packed(model: nn.Module) -> bytes:
    """A model's tensors, one after the other."""
    parts = [x.detach().cpu().contiguous().reshape(-1) for x in tensors_of(model)]
    return b"".join(x.view(torch.uint8).numpy().tobytes() for x in parts if x.numel())


def unpack(model: nn.Module, data: bytes) -> None:
    """Give a model the values that ``packed`` gave.

    Raises:
        MalformedRequestError: there are more or fewer.
    """
    tensors = tensors_of(model)
    due = sum(x.numel() * x.element_size() for x in tensors)
    if len(data) != due:
        raise MalformedRequestError(f"{len(data)} bytes came for a model of {due}.")
    place = 0
    with torch.no_grad():
        for x in tensors:
            size = x.numel() * x.element_size()
            if size:
                x.copy_(torch.frombuffer(bytearray(data[place : place + size]), dtype=x.dtype).reshape(x.shape))
            place += size
