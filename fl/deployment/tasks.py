"""What a server asks its clients for, and what a client allows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sharetorch.fl.deployment import models
from sharetorch.fl.deployment.errors import TaskRefusedError
from sharetorch.fl.deployment.messages import VERSION, Task
from sharetorch.fl.deployment.models import Batches
from sharetorch.fl.masking import Limits
from sharetorch.fl.rounds.first_weights import initialise
from sharetorch.fl.rounds.strategies import Strategy
from sharetorch.fl.training import Settings
from sharetorch.mpc.errors import ShareTorchError, TrainingError


@dataclass(frozen=True)
class Learning:
    """What is learned, and how.

    Attributes:
        model: name of a stock model, or a module whose values are those to begin with; it is changed in place.
        loss: name of a loss; for a module any function of output and targets.
        batches: of what a module's batches consist; a stock model says so itself.
        settings: how a client trains.
        seed: of a stock model's first values and of the order of items.
        clip: length that each update is scaled down to where it is longer; 0 for none.
        largest: magnitude of a coordinate of an update, at most; a client whose update is beyond it sits out.
        weight: of a client, at most; weights are numbers of items, and who has more counts as much.
        fraction_bits: of the updates' encoding.

    Raises:
        TrainingError: a number is outside its range, or a name is none.
    """

    model: str | nn.Module
    loss: Any = "cross_entropy"
    batches: Batches | None = None
    settings: Settings = field(default_factory=Settings)
    seed: int = 0
    clip: float = 0.0
    largest: float = 256.0
    weight: int = 1 << 20
    fraction_bits: int = 20

    def __post_init__(self) -> None:
        self.settings.check()
        if not (0 <= self.clip < math.inf and 0 < self.largest <= 1e9):
            raise TrainingError(
                f"clip {self.clip:g} and largest {self.largest:g}: the first is at least 0, the second above 0 and at "
                "most 1e9."
            )
        if isinstance(self.model, nn.Module) and self.batches is None:
            raise TrainingError("A module is recorded for its batches: give batches=Batches(item=(1, 28, 28)), say.")
        if isinstance(self.model, str) and self.loss not in models.LOSSES:
            raise TrainingError(f"{self.loss!r} is no loss of a stock model; there are {', '.join(models.LOSSES)}.")

    @property
    def limits(self) -> Limits:
        """Of a client's update."""
        return Limits(self.largest, self.weight, self.fraction_bits)

    def begun(self) -> nn.Module:
        """The model to begin with."""
        if isinstance(self.model, nn.Module):
            return self.model
        model = models.stock(self.model)
        initialise(model, self.seed)
        return model

    def task(self, model: nn.Module, strategy: Strategy) -> Task:
        """What clients are told.

        Raises:
            TrainingError: a module cannot be recorded.
        """
        named = isinstance(self.model, str)
        graphs = b"" if self.batches is None else self._graphs(model, self.batches)
        return Task(
            VERSION, str(self.model) if named else "", str(self.loss) if named else "", b"" if named else graphs,
            models.shapes_of(model), len(list(model.parameters())), self.settings, self.seed, strategy.proximal,
            self.clip, self.largest, self.weight, self.fraction_bits,
        )  # fmt: skip

    def _graphs(self, model: nn.Module, batches: Batches) -> bytes:
        return models.recorded(model, self.loss, batches, self.settings.batch_size)


@dataclass(frozen=True)
class Allowance:
    """What a client lets be done with its data.

    Attributes:
        epochs: passes over its items in a round, at most.
        items: items it trains on in a round, at most, all epochs together.
        least: clients in a sum, at least.
        corrupt: share of the other clients that may work with the server; sums are safe against so many.
        graphs: whether models may come as graphs; else only stock models are trained.
        bytes: of a model, at most.
    """

    epochs: int = 10
    items: int = 10_000_000
    least: int = 2
    corrupt: float = 0.1
    graphs: bool = False
    bytes: int = 1 << 30

    def __post_init__(self) -> None:
        for name, value, lowest in (
            ("epochs", self.epochs, 1), ("items", self.items, 1), ("least", self.least, 2), ("bytes", self.bytes, 1),
        ):  # fmt: skip
            if value < lowest:
                raise TrainingError(f"{name} of an allowance is {value}; it is at least {lowest}.")
        if not 0 <= self.corrupt < 1:
            raise TrainingError(f"corrupt is {self.corrupt:g}; it is a share of the clients, at least 0 and below 1.")

    def require(self, task: Task, items: int) -> None:
        """Refuse a task that asks for more.

        Args:
            task: what is asked.
            items: of the client.

        Raises:
            TaskRefusedError: it does.
        """
        if task.version != VERSION:
            raise TaskRefusedError(
                f"The server speaks version {task.version} of these messages, this client version {VERSION}. Install "
                "the same version of ShareTorch on both machines."
            )
        try:
            task.settings.check()
            size = models.bytes_of(task.shapes)
        except ShareTorchError as error:
            raise TaskRefusedError(f"The server's task does not hold: {error}") from error
        settings = task.settings
        epoch = min(items, settings.max_nr_batches * settings.batch_size) if settings.max_nr_batches > 0 else items
        _require("epochs in a round", settings.epochs, self.epochs, "epochs")
        _require("items in a round, all epochs together", settings.epochs * epoch, self.items, "items")
        _require("bytes of a model", size, self.bytes, "bytes")
        if not task.model and not self.graphs:
            raise TaskRefusedError(
                "The server's model comes as graphs, and this client trains stock models only. Allow graphs if you "
                "trust whoever wrote the model to learn nothing from a sum of updates that you would keep."
            )


def _require(what: str, asked: int, allowed: int, name: str) -> None:
    if asked > allowed:
        raise TaskRefusedError(
            f"The server asks for {asked} {what}, and this client allows {allowed}. Raise its allowance of {name}, or "
            "ask whoever runs the server for less."
        )
