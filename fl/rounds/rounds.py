"""Federated learning in rounds: ask some clients, combine their updates, step the global model."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharetorch.fl.rounds import checkpoints
from sharetorch.fl.rounds.aggregators import Aggregator, Collector, Mean
from sharetorch.fl.rounds.chance import Chance
from sharetorch.fl.rounds.clients import Client, Steps, Task, Update, Uploaded, WorkerClient
from sharetorch.fl.rounds.reports import EarlyStop, Listener, RoundReport
from sharetorch.fl.rounds.strategies import FedAvg, Strategy
from sharetorch.fl.rounds.threads import Busy
from sharetorch.fl.rounds.vectors import Layout
from sharetorch.fl.structs import set_mode, tensors_of
from sharetorch.fl.train_config import TrainConfig
from sharetorch.mpc.errors import TrainingError

Evaluate = Callable[[Any], Mapping[str, float]]
"""Figures of a model."""


@dataclass(frozen=True)
class RoundSettings:
    """How rounds are run.

    Attributes:
        rounds: how many in all.
        sample: clients asked in each round; all if None.
        deadline: seconds after which a round does without the clients that have not delivered; None waits for all.
        least: updates without which a round cannot be; 0 lets a round without any pass and change nothing.
        parallel: clients that train at the same time, the others wait for their turn; all if None.
        seed: of the clients' choice and of the order of their items.

    Raises:
        TrainingError: a number outside its range.
    """

    rounds: int
    sample: int | None = None
    deadline: float | None = None
    least: int = 1
    parallel: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, lowest in (
            ("rounds", self.rounds, 0), ("sample", self.sample, 1), ("least", self.least, 0),
            ("parallel", self.parallel, 1),
        ):  # fmt: skip
            if value is not None and value < lowest:
                raise TrainingError(f"{name} is {value}; it must be at least {lowest}.")
        if self.deadline is not None and not self.deadline > 0:
            raise TrainingError(f"deadline is {self.deadline}; it must be a positive number of seconds, or None.")


class Federation:
    """A global model, and clients that train it together.

    Clients that raise an error, are late, or deliver something that is no finite update are left out of the round, and
    asked again in a later one. Updates are combined in the order of the clients, so it does not matter who is faster.

    With an aggregator whose members are on other machines updates do not come here: who took part is the set on which
    its members agree, and losses are not known.

    Args:
        model: the global model, here; it is changed in place.
        clients: who takes part.
        settings: how rounds are run.
        strategy: server optimizer; FedAvg if not given.
        aggregator: combines updates; the weighted mean if not given.
        evaluate: gives figures of the global model, in evaluation mode, after each round.
        early_stop: when to stop before all rounds are over.
        checkpoint: file that is written after each round; if it is there, ``run`` goes on from it.
        listeners: told of each round.
        guide: a client of the server's own, whose update each round is the trusted one of the rule "fltrust".

    Attributes:
        model: as given.
        reports: of the rounds so far.

    Raises:
        TrainingError: no client, two with the same id, a larger sample than there are clients, a guide for a rule that
            takes none, or none for one that does.
    """

    def __init__(
        self,
        model: nn.Module,
        clients: Sequence[Client],
        settings: RoundSettings,
        strategy: Strategy | None = None,
        aggregator: Aggregator | None = None,
        evaluate: Evaluate | None = None,
        early_stop: EarlyStop | None = None,
        checkpoint: Path | str | None = None,
        listeners: Sequence[Listener] = (),
        guide: Client | None = None,
    ) -> None:
        ids = [client.id for client in clients]
        if not ids or len(set(ids)) < len(ids):
            raise TrainingError(f"{len(ids)} clients with {len(set(ids))} ids; name one or more, each with its own id.")
        if settings.sample is not None and settings.sample > len(ids):
            raise TrainingError(f"{settings.sample} of {len(ids)} clients cannot be asked in a round; lower sample.")
        self.model = model
        self.reports: list[RoundReport] = []
        self._clients, self._settings = list(clients), settings
        self._strategy: Strategy = strategy or FedAvg()
        self._aggregator: Aggregator = aggregator or Mean()
        self._evaluate, self._early_stop, self._listeners = evaluate, early_stop, list(listeners)
        self._checkpoint = None if checkpoint is None else Path(checkpoint)
        self._layout = Layout(model)
        self._busy = Busy()
        self._guide = guide
        self._collector = aggregator if isinstance(aggregator, Collector) else None
        guided = self._collector is not None and self._collector.guided
        if guided != (guide is not None):
            due = "needs a trusted update each round: guide=" if guided else "takes no guide"
            raise TrainingError(f"The rule {self._aggregator.name} {due}.")

    def fit(self) -> list[RoundReport]:
        """As ``run``, where no event loop runs yet."""
        return asyncio.run(self.run())

    async def run(self) -> list[RoundReport]:
        """Run the rounds that are left.

        Returns:
            The reports of all rounds.

        Raises:
            TrainingError: too few clients delivered, or an aggregator or the early stop cannot do its work.
            CheckpointError: the checkpoint is damaged or of other settings, or cannot be written.
        """
        self._resume()
        try:
            while len(self.reports) < self._settings.rounds and not self._stopped():
                report = await self._round(len(self.reports) + 1)
                self.reports.append(report)
                self._save()
                for listener in self._listeners:
                    listener.report(report)
        finally:
            for listener in self._listeners:
                listener.close()
        return self.reports

    def _stopped(self) -> bool:
        return self._early_stop is not None and self._early_stop.reached(self.reports)

    async def _round(self, number: int) -> RoundReport:
        begin = time.perf_counter()
        asked = self._sample(number)
        names = [client.id for client in asked]
        self._aggregator.begin(number, names)
        tensors = [x.detach().clone() for x in tensors_of(self.model)]
        invitation = None if self._collector is None else self._collector.invite(names, self._layout.size)
        task = Task(number, tensors, self._settings.seed, self._strategy.proximal, invitation)
        await self._ask_guide(task)
        outcomes = await self._outcomes(asked, task)
        updates = {name: found for name, found in outcomes.items() if isinstance(found, Update)}
        left_out = {name: found for name, found in outcomes.items() if isinstance(found, str)}
        self._require_enough(number, len(names) - len(left_out), left_out)
        if len(left_out) < len(names):
            self._collect(number, names, updates, left_out)
            self._step(self._aggregator.finish())
        delivered = [name for name in names if name not in left_out]
        seconds = time.perf_counter() - begin
        return RoundReport(number, names, delivered, left_out, _mean_loss(updates), self._figures(), seconds)

    def _require_enough(self, number: int, count: int, left_out: Mapping[str, str]) -> None:
        if count < self._settings.least:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise TrainingError(
                f"Round {number} has {count} updates and needs {self._settings.least}. Left out: {reasons}. The model "
                "is as it was before the round."
            )

    async def _ask_guide(self, task: Task) -> None:
        """Give the aggregator the trusted update, if it needs one."""
        guide, collector = self._guide, self._collector
        if guide is None or collector is None:
            return
        update = await self._busy.run(f"guide {guide.id}", lambda: guide.train(task._replace(invitation=None)))
        if not isinstance(update, Update) or not self._valid(update):
            raise TrainingError(f"The guide {guide.id} gave no finite update; there is nothing to trust in.")
        collector.guide(update.vector)

    def _collect(
        self, number: int, names: Sequence[str], updates: Mapping[str, Update], left_out: dict[str, str]
    ) -> None:
        """Give the aggregator what is here; where updates are elsewhere, learn whose are in the set."""
        for name, update in updates.items():
            self._aggregator.add(name, update.vector, update.weight)
        if self._collector is None:
            return
        found = self._collector.collect()
        for name in names:
            if name in found:
                left_out.pop(name, None)
            else:
                left_out.setdefault(name, "its update did not reach all aggregators")
        self._require_enough(number, len(found), left_out)

    def _sample(self, number: int) -> list[Client]:
        wanted = self._settings.sample
        if wanted is None:
            return self._clients
        chance = Chance(self._settings.seed, "clients", number)
        return [self._clients[place] for place in chance.chosen(len(self._clients), wanted)]

    async def _outcomes(self, asked: Sequence[Client], task: Task) -> dict[str, Update | Uploaded | str]:
        """For each client, in order, its update or why it has none."""
        slots = asyncio.Semaphore(self._settings.parallel or len(asked))
        deadline = self._settings.deadline
        works = {client.id: asyncio.create_task(self._one(client, task, slots)) for client in asked}
        try:
            await asyncio.wait(works.values(), timeout=deadline)
        finally:
            for work in works.values():
                work.cancel()
        late = f"no update within {deadline:g} s" if deadline is not None else ""
        return {name: work.result() if work.done() else late for name, work in works.items()}

    async def _one(self, client: Client, task: Task, slots: asyncio.Semaphore) -> Update | Uploaded | str:
        if client.id in self._busy:
            return "still at work on an earlier round"
        async with slots:
            try:
                update = await self._busy.run(client.id, lambda: client.train(task))
            except Exception as error:
                return f"{type(error).__name__}: {error}"
        if isinstance(update, Uploaded) == (task.invitation is None):
            return "it gave its update to the wrong side: with aggregators on other machines it goes there, else here"
        return update if self._valid(update) else "what it gave is no finite update with a positive weight"

    def _valid(self, update: Update | Uploaded) -> bool:
        if isinstance(update, Uploaded):
            return True
        vector, weight = update.vector, update.weight
        return (
            vector.shape == (self._layout.size,)
            and vector.dtype is torch.float64
            and bool(vector.isfinite().all())
            and 0 < weight < float("inf")
        )

    def _step(self, combined: Tensor) -> None:
        """Step the parameters by the strategy; buffers, such as running means, take the combined update as it is."""
        now, trained = self._layout.of(self.model), self._layout.trained
        parameters = self._strategy.step(now[:trained], combined[:trained])
        self._layout.load(self.model, torch.cat([parameters, now[trained:] + combined[trained:]]))

    def _figures(self) -> dict[str, float]:
        if self._evaluate is None:
            return {}
        before = self.model.training
        set_mode(self.model, False)
        try:
            return {name: float(value) for name, value in self._evaluate(self.model).items()}
        finally:
            set_mode(self.model, before)

    # ------------------------------------------------------------------------------------------------- checkpoints

    def _described(self) -> dict[str, str]:
        return {
            "clients": json.dumps([client.id for client in self._clients]),
            "model": json.dumps(self._layout.shapes),
            "rule": self._aggregator.name,
            "sample": str(self._settings.sample),
            "seed": str(self._settings.seed),
            **{f"strategy's {name}": str(value) for name, value in self._strategy.settings.items()},
        }

    def _save(self) -> None:
        if self._checkpoint is not None:
            tensors: list[Tensor] = [x.detach() for x in tensors_of(self.model)]
            state = checkpoints.State(self._described(), tensors, self._strategy.state(), self.reports)
            checkpoints.write(self._checkpoint, state)

    def _resume(self) -> None:
        if self._checkpoint is None or self.reports:
            return
        state = checkpoints.read(self._checkpoint)
        if state is None:
            return
        checkpoints.require_same(self._checkpoint, state.settings, self._described())
        with torch.no_grad():
            for mine, kept in zip(tensors_of(self.model), state.tensors, strict=True):
                mine.copy_(kept)
        self._strategy.load_state(state.strategy)
        self.reports = list(state.reports)


def _mean_loss(updates: Mapping[str, Update]) -> float | None:
    total = sum(update.weight for update in updates.values())
    return sum(update.loss * (update.weight / total) for update in updates.values()) if updates else None


def federation(workers: Sequence[Any], dataset_key: str, config: TrainConfig, *args: Any, **options: Any) -> Federation:
    """A federation whose clients are workers, each with a data set of that key.

    Args:
        workers: virtual ones or connections to others; their processes have loaded ``sharetorch.fl.rounds``.
        dataset_key: of the data set at each.
        config: the global model, the loss, and how clients train: epochs, batch size, optimizer.
        args: settings and further arguments of ``Federation``.
        options: likewise.

    Raises:
        TrainingError: no model, no loss, or as ``Federation``.
    """
    config.require_complete()
    steps = Steps(config)
    clients = [WorkerClient(worker, dataset_key, config, steps) for worker in workers]
    return Federation(config.model, clients, *args, **options)
