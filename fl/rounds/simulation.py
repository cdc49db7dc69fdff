"""A whole federation in this process: virtual workers with parts of one data set, some of them perhaps Byzantine."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharetorch.fl.aggregation.hidden import HiddenAggregator
from sharetorch.fl.aggregation.limits import Limits
from sharetorch.fl.aggregation.registry import RULES as HIDDEN_RULES
from sharetorch.fl.aggregation.registry import rule as rule_of
from sharetorch.fl.datasets import BaseDataset
from sharetorch.fl.rounds import partition
from sharetorch.fl.rounds.aggregators import RULES
from sharetorch.fl.rounds.attacks import ATTACKS, Byzantine, flipped
from sharetorch.fl.rounds.chance import Chance
from sharetorch.fl.rounds.clients import Client, Steps, WorkerClient
from sharetorch.fl.rounds.evaluation import accuracy_on
from sharetorch.fl.rounds.first_weights import initialise
from sharetorch.fl.rounds.reports import EarlyStop, Listener
from sharetorch.fl.rounds.rounds import Federation, RoundSettings
from sharetorch.fl.rounds.strategies import STRATEGIES
from sharetorch.fl.serving import add_dataset, remove_dataset
from sharetorch.fl.train_config import TrainConfig
from sharetorch.mpc.errors import TrainingError
from sharetorch.remote.worker import VirtualWorker

_KEY = "simulated"
_LARGEST_WEIGHT = 1 << 16
"""Largest number of items by which a hidden update is weighted."""
_SIGN_RATE = 1e-3
"""Learning rate of the server for votes of signs: what a coordinate changes in a round."""


@dataclass(frozen=True)
class Trial:
    """What is simulated.

    Attributes:
        rounds: see ``RoundSettings``, as for sample, deadline and seed.
        clients: how many.
        partition: as ``partition.parse`` takes it.
        rule: a name of ``aggregators.RULES``, or with aggregators of ``aggregation.RULES``; it is told how many clients
            are Byzantine.
        aggregators: among how many updates are split, so that none of them sees one; 0 for plain updates.
        coordinate: largest coordinate of a hidden update.
        clip: largest length of a hidden update (L2); None for no clipping.
        least: fewest clients over whom hidden updates may be aggregated.
        guide_items: items of the server's own, for the rule "fltrust".
        byzantine: part of the clients that attack, at least 0 and below 1; rounded to a number of clients.
        attack: a name of ``attacks.ATTACKS``.
        strength: of the attack.
        model: "auto", or a name of ``MODELS``.
        strategy: a name of ``strategies.STRATEGIES``.
        server_lr: learning rate of the server. If None, FedAvg and FedProx take 1, for "sum" one over the number of
            clients in a round, for "sign-vote" 0.001; the others have their own.
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
    aggregators: int = 0
    coordinate: float = 8.0
    clip: float | None = None
    least: int = 1
    guide_items: int = 100
    byzantine: float = 0.0
    attack: str = "sign-flip"
    strength: float = 10.0
    model: str = "auto"
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
            ("rule", self.rule, HIDDEN_RULES if self.aggregators else RULES), ("attack", self.attack, ATTACKS),
            ("strategy", self.strategy, STRATEGIES), ("model", self.model, ("auto", *MODELS)),
        ):  # fmt: skip
            if value not in known:
                hint = " That is one for hidden updates: set aggregators to 2." if value in HIDDEN_RULES else ""
                raise TrainingError(f"{value!r} is no {name}; there are {', '.join(known)}.{hint}")
        if self.clients < 1 or not 0 <= self.byzantine < 1 or not (self.strength > 0 and math.isfinite(self.strength)):
            raise TrainingError(
                f"{self.clients} clients, {self.byzantine:g} of them Byzantine, strength {self.strength:g}: there must "
                "be at least one client, a part of at least 0 and below 1, and a positive strength."
            )
        checked = self.settings
        if checked.sample is not None and checked.sample > self.clients:
            raise TrainingError(f"{checked.sample} of {self.clients} clients cannot be asked in a round; lower sample.")
        partition.parse(self.partition)
        self._check_hidden()
        needed = {"krum": 2 * self.attackers + 3, "multi-krum": 2 * self.attackers + 3}
        needed["trimmed-mean"] = 2 * self.attackers + 1
        present = self.present
        if present < needed.get(self.rule, 1):
            raise TrainingError(
                f"The rule {self.rule} needs at least {needed[self.rule]} clients in a round to withstand "
                f"{self.attackers}; there are {present}."
            )

    def _check_hidden(self) -> None:
        if self.aggregators in (0, 1) and (self.aggregators or self.clip is not None or self.least > 1):
            raise TrainingError(
                f"{self.aggregators} aggregators, clip {self.clip}, least {self.least}: updates are hidden among two "
                "or more aggregators, and the others are settings of hidden updates."
            )
        if self.guide_items < 1:
            raise TrainingError(f"guide_items is {self.guide_items}; it must be at least 1.")
        if self.aggregators:
            self.limits()

    def limits(self) -> Limits:
        """What clients declare of hidden updates.

        Raises:
            DeclaredLimitsError: a number outside its range.
        """
        weight = _LARGEST_WEIGHT if self.rule == "weighted-mean" else 1
        return Limits(self.coordinate, self.present, weight, least=self.least)

    @property
    def present(self) -> int:
        """Clients in a round."""
        return self.sample or self.clients

    @property
    def server_rate(self) -> float | None:
        """The learning rate of the server; None for the strategy's own."""
        given = {"sum": 1 / self.present, "sign-vote": _SIGN_RATE} if self.strategy in ("fedavg", "fedprox") else {}
        return given.get(self.rule) if self.server_lr is None else self.server_lr

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


def _hidden_layer(shape: torch.Size) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(shape.numel(), 32), nn.ReLU(), nn.Linear(32, 10))


def _network(shape: torch.Size) -> nn.Module:
    if tuple(shape) != (1, 28, 28):
        raise TrainingError(f"The tutorials' network takes images of shape (1, 28, 28), not {tuple(shape)}; use mlp.")
    return TutorialNet()


MODELS: Mapping[str, Callable[[torch.Size], nn.Module]] = {"cnn": _network, "mlp": _hidden_layer}
"""Models by name, given the shape of an item: the tutorials' network, and one hidden layer of 32."""


def model_for(items: Items, seed: int, kind: str = "auto") -> nn.Module:
    """A model whose values follow from the seed.

    Args:
        items: what it is for.
        seed: of its values.
        kind: a name of ``MODELS``; "auto" is the tutorials' network for images of 28x28, else the hidden layer.

    Raises:
        TrainingError: the model does not take such items.
    """
    shape = items.train.shape[1:]
    model = MODELS[("cnn" if tuple(shape) == (1, 28, 28) else "mlp") if kind == "auto" else kind](shape)
    initialise(model, seed)
    return model


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
    model = model_for(items, trial.seed, trial.model)
    config = TrainConfig(
        model, F.cross_entropy, trial.batch_size, trial.local_epochs, optimizer_args={"lr": trial.lr}
    )
    return Federation(
        model,
        _clients(trial, items, config),
        trial.settings,
        STRATEGIES[trial.strategy](trial.server_rate, trial.mu),
        _hidden(trial) if trial.aggregators else RULES[trial.rule](trial.attackers),
        accuracy_on(items.test, items.test_labels),
        early_stop,
        checkpoint,
        listeners,
        _guide(trial, items, config) if trial.rule == "fltrust" else None,
    )


def _hidden(trial: Trial) -> HiddenAggregator:
    """The rule on hidden updates, among virtual aggregators."""
    f = trial.attackers
    given: dict[str, Any] = {"krum": {"byzantine": f}, "multi-krum": {"byzantine": f}}
    given["trimmed-mean"] = {"trim": f / trial.present}
    made = trial.rule if trial.rule == "fltrust" else rule_of(trial.rule, **given.get(trial.rule, {}))
    names = [f"simulated_aggregator_{number}" for number in range(trial.aggregators)]
    provider = VirtualWorker(id="simulated_provider")
    return HiddenAggregator(
        *(VirtualWorker(id=name) for name in names), crypto_provider=provider, limits=trial.limits(), rule=made,
        clip=trial.clip,
    )  # fmt: skip


def _guide(trial: Trial, items: Items, config: TrainConfig) -> Client:
    """The server with items of its own, drawn from the training items."""
    wanted = min(trial.guide_items, len(items.train))
    places = torch.tensor(Chance(trial.seed, "guide").chosen(len(items.train), wanted))
    return _client("simulated_guide", items.train[places], items.train_labels[places], config, Steps(config))


def _client(id: str, data: Tensor, labels: Tensor, config: TrainConfig, steps: Steps) -> WorkerClient:
    worker = VirtualWorker(id=id)
    if _KEY in worker.datasets:
        remove_dataset(worker, _KEY)
    add_dataset(worker, BaseDataset(data, labels), _KEY)
    return WorkerClient(worker, _KEY, config, steps)


def _clients(trial: Trial, items: Items, config: TrainConfig) -> list[Client]:
    places = partition.parse(trial.partition)(items.train_labels, trial.clients, trial.seed)
    bad = set(Chance(trial.seed, "byzantine").chosen(trial.clients, trial.attackers))
    classes = int(items.train_labels.max()) + 1
    steps, clients = Steps(config), list[Client]()
    for number, part in enumerate(places):
        labels = items.train_labels[part]
        if number in bad and trial.attack == "label-flip":
            labels = flipped(labels, classes)
        client = _client(f"simulated_{number}", items.train[part], labels, config, steps)
        clients.append(Byzantine(client, trial.attack, trial.strength) if number in bad else client)
    return clients
