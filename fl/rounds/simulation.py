"""A whole federation in this process: virtual workers with parts of one data set, some of them perhaps Byzantine."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharetorch.fl.datasets import BaseDataset
from sharetorch.fl.rounds import partition
from sharetorch.fl.rounds.aggregators import RULES
from sharetorch.fl.rounds.attacks import ATTACKS, Byzantine, flipped
from sharetorch.fl.rounds.chance import Chance
from sharetorch.fl.rounds.clients import Client, Steps, WorkerClient
from sharetorch.fl.rounds.evaluation import accuracy_on
from sharetorch.fl.rounds.reports import EarlyStop, Listener
from sharetorch.fl.rounds.rounds import Federation, RoundSettings
from sharetorch.fl.rounds.strategies import STRATEGIES
from sharetorch.fl.serving import add_dataset, remove_dataset
from sharetorch.fl.train_config import TrainConfig
from sharetorch.mpc.errors import TrainingError
from sharetorch.remote.worker import VirtualWorker

_KEY = "simulated"


@dataclass(frozen=True)
class Trial:
    """What is simulated.

    Attributes:
        rounds: see ``RoundSettings``, as for sample, deadline and seed.
        clients: how many.
        partition: as ``partition.parse`` takes it.
        rule: a name of ``aggregators.RULES``; it is told how many clients are Byzantine.
        byzantine: part of the clients that attack, at least 0 and below 1; rounded to a number of clients.
        attack: a name of ``attacks.ATTACKS``.
        strength: of the attack.
        strategy: a name of ``strategies.STRATEGIES``.
        server_lr: learning rate of the server; the strategy's own if None.
        mu: of FedProx.
        local_epochs: passes of a client over its data in a round.
        batch_size: of clients.
        lr: learning rate of clients, who use SGD.
        parallel: clients that train at the same time; as many as there are processors if None.

    Raises:
        TrainingError: a name that is none, or a number outside its range.
        FederatedDataError: a partition that is none.
    """

    rounds: int = 30
    clients: int = 20
    partition: str = "iid"
    rule: str = "mean"
    byzantine: float = 0.0
    attack: str = "sign-flip"
    strength: float = 10.0
    strategy: str = "fedavg"
    server_lr: float | None = None
    mu: float = 0.01
    local_epochs: int = 1
    batch_size: int = 32
    lr: float = 0.1
    sample: int | None = None
    deadline: float | None = None
    seed: int = 0
    parallel: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("rule", self.rule, RULES), ("attack", self.attack, ATTACKS), ("strategy", self.strategy, STRATEGIES),
        ):  # fmt: skip
            if value not in known:
                raise TrainingError(f"{value!r} is no {name}; there are {', '.join(known)}.")
        if self.clients < 1 or not 0 <= self.byzantine < 1 or not (self.strength > 0 and math.isfinite(self.strength)):
            raise TrainingError(
                f"{self.clients} clients, {self.byzantine:g} of them Byzantine, strength {self.strength:g}: there must "
                "be at least one client, a part of at least 0 and below 1, and a positive strength."
            )
        checked = self.settings
        if checked.sample is not None and checked.sample > self.clients:
            raise TrainingError(f"{checked.sample} of {self.clients} clients cannot be asked in a round; lower sample.")
        partition.parse(self.partition)
        needed = {"krum": 2 * self.attackers + 3, "multi-krum": 2 * self.attackers + 3}
        needed["trimmed-mean"] = 2 * self.attackers + 1
        present = self.sample or self.clients
        if present < needed.get(self.rule, 1):
            raise TrainingError(
                f"The rule {self.rule} needs at least {needed[self.rule]} clients in a round to withstand "
                f"{self.attackers}; there are {present}."
            )

    @property
    def attackers(self) -> int:
        """How many clients are Byzantine."""
        return round(self.byzantine * self.clients)

    @property
    def settings(self) -> RoundSettings:
        """How rounds are run: one without finite updates passes, for that is how a mean collapses."""
        parallel = self.parallel or os.cpu_count() or 1
        return RoundSettings(self.rounds, self.sample, self.deadline, 0, parallel, self.seed)


@dataclass(frozen=True)
class Items:
    """What is learned, and on what it is tried.

    Attributes:
        train: items, shape (n, ...).
        train_labels: classes, int64, shape (n,).
        test: likewise.
        test_labels: likewise.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


class TutorialNet(nn.Module):
    """The tutorials' network for images of 28x28: two convolutions, each with pooling, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the ten digits."""
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))  # type: ignore[no-any-return]


def model_for(items: Items, seed: int) -> nn.Module:
    """The tutorials' network for images of 28x28, else one hidden layer of 32; its values follow from the seed."""
    shape = items.train.shape[1:]
    if tuple(shape) == (1, 28, 28):
        model: nn.Module = TutorialNet()
    else:
        model = nn.Sequential(nn.Flatten(), nn.Linear(shape.numel(), 32), nn.ReLU(), nn.Linear(32, 10))
    for name, part in model.named_modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            _initialise(part, Chance(seed, "model", name))
    return model


def _initialise(part: nn.Linear | nn.Conv2d, chance: Chance) -> None:
    """Torch's own choice for these layers: uniform numbers up to one over the square root of the inputs of a unit."""
    bound = part.weight[0].numel() ** -0.5
    with torch.no_grad():
        for x in part.parameters():
            x.copy_(torch.from_numpy((2 * chance.uniform(x.numel()) - 1) * bound).reshape(x.shape))


def simulated(
    trial: Trial,
    items: Items,
    early_stop: EarlyStop | None = None,
    checkpoint: Path | None = None,
    listeners: Sequence[Listener] = (),
) -> Federation:
    """A federation as a trial says, to be run with ``fit``; its metrics are "accuracy" and "test_loss".

    Raises:
        FederatedDataError: the items cannot be split as the trial says.
        TrainingError: a setting is wrong.
    """
    model = model_for(items, trial.seed)
    config = TrainConfig(
        model, F.cross_entropy, trial.batch_size, trial.local_epochs, optimizer_args={"lr": trial.lr}
    )
    return Federation(
        model,
        _clients(trial, items, config),
        trial.settings,
        STRATEGIES[trial.strategy](trial.server_lr, trial.mu),
        RULES[trial.rule](trial.attackers),
        accuracy_on(items.test, items.test_labels),
        early_stop,
        checkpoint,
        listeners,
    )


def _clients(trial: Trial, items: Items, config: TrainConfig) -> list[Client]:
    places = partition.parse(trial.partition)(items.train_labels, trial.clients, trial.seed)
    bad = set(Chance(trial.seed, "byzantine").chosen(trial.clients, trial.attackers))
    classes = int(items.train_labels.max()) + 1
    steps, clients = Steps(config), list[Client]()
    for number, part in enumerate(places):
        labels = items.train_labels[part]
        if number in bad and trial.attack == "label-flip":
            labels = flipped(labels, classes)
        worker = VirtualWorker(id=f"simulated_{number}")
        if _KEY in worker.datasets:
            remove_dataset(worker, _KEY)
        add_dataset(worker, BaseDataset(items.train[part], labels), _KEY)
        client = WorkerClient(worker, _KEY, config, steps)
        clients.append(Byzantine(client, trial.attack, trial.strength) if number in bad else client)
    return clients
