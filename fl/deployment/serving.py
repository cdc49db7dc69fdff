"""The server of a federation: asks clients that are there, sums their updates under masks, steps the global model.

It sees who takes part and when each leaves, the sums, and nothing smaller. What it needs to go on is in a file after
each round; a server that was killed goes on from there, and repeats the round it was in with new masks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import torch
from torch import nn

from sharetorch.fl.deployment import models
from sharetorch.fl.deployment.errors import TooFewClientsError
from sharetorch.fl.deployment.hall import Hall, Visitor
from sharetorch.fl.deployment.lines import Door
from sharetorch.fl.deployment.messages import MOST_MEMBERS, Finished
from sharetorch.fl.deployment.roll import Authority, Roll
from sharetorch.fl.deployment.storage import Storage
from sharetorch.fl.deployment.sums import Attempt
from sharetorch.fl.deployment.tasks import Learning
from sharetorch.fl.masking import Aggregate, Trust
from sharetorch.fl.masking.errors import MaskingError
from sharetorch.fl.masking.messages import Masked, largest
from sharetorch.fl.rounds import checkpoints
from sharetorch.fl.rounds.chance import Chance
from sharetorch.fl.rounds.reports import EarlyStop, Listener, RoundReport
from sharetorch.fl.rounds.rounds import Evaluate
from sharetorch.fl.rounds.strategies import FedAvg, Strategy
from sharetorch.fl.rounds.vectors import Layout
from sharetorch.fl.structs import set_mode, tensors_of
from sharetorch.mpc.errors import TrainingError
from sharetorch.mpc.network.identity import Identity
from sharetorch.remote.network.acceptor import Tell, silent
from sharetorch.remote.network.settings import Address, NetworkSettings

_ROOM = 1 << 20


@dataclass(frozen=True)
class Serving:
    """How rounds are run.

    Attributes:
        rounds: how many in all.
        least: clients in a sum, at least; a round waits until so many are there.
        sample: clients asked in a round; all who are there if None, and 256 at most.
        deadline: seconds for training; who is late is left out.
        step_seconds: for each of the five steps of a sum.
        attempts: at one round, before the server gives up.
        patience: seconds to wait for enough clients; None waits for ever.
        pause: seconds to wait for more when there are enough, after there were not.
        linger: seconds in which clients of the last round that have lost the connection may still come for the result.
        corrupt: share of the clients that may work with the server without a sum showing more than it should.

    Raises:
        TrainingError: a number outside its range.
    """

    rounds: int
    least: int = 2
    sample: int | None = None
    deadline: float = 600.0
    step_seconds: float = 60.0
    attempts: int = 3
    patience: float | None = None
    pause: float = 2.0
    linger: float = 5.0
    corrupt: float = 0.1

    def __post_init__(self) -> None:
        for name, value, lowest in (
            ("rounds", self.rounds, 0), ("least", self.least, 2), ("sample", self.sample, self.least),
            ("attempts", self.attempts, 1), ("pause", self.pause, 0), ("linger", self.linger, 0),
        ):  # fmt: skip
            if value is not None and not value >= lowest:
                raise TrainingError(f"{name} is {value:g}; it is at least {lowest}.")
        for name, seconds in (
            ("deadline", self.deadline), ("step_seconds", self.step_seconds), ("patience", self.patience),
        ):  # fmt: skip
            if seconds is not None and not seconds > 0:
                raise TrainingError(f"{name} is {seconds:g}; it is a positive number of seconds.")
        if max(self.least, self.sample or 0) > MOST_MEMBERS:
            raise TrainingError(f"A sum has {MOST_MEMBERS} clients at most; lower least and sample.")
        Trust(corrupt=self.corrupt)


class Served(NamedTuple):
    """A federation that is over.

    Attributes:
        model: the global model.
        reports: of its rounds.
    """

    model: nn.Module
    reports: list[RoundReport]


async def serve(
    learning: Learning,
    serving: Serving,
    identity: Identity,
    authority: Path | str,
    enrolled: Path | str,
    state: Path | str,
    listen: str = "127.0.0.1:0",
    strategy: Strategy | None = None,
    evaluate: Evaluate | None = None,
    early_stop: EarlyStop | None = None,
    listeners: Sequence[Listener] = (),
    network: NetworkSettings | None = None,
    tell: Tell = silent,
    opened: Callable[[Address], None] = lambda address: None,
    recorded: Callable[[list[RoundReport]], None] = lambda reports: None,
) -> Served:
    """Run a federation.

    Args:
        learning: what is learned.
        serving: how rounds are run.
        identity: the server's keys.
        authority: file of the certificate of the group's authority.
        enrolled: folder or file that lists the clients, see ``Roll``; read anew before each round.
        state: folder for checkpoint and ledger; if they are there, the federation goes on from them.
        listen: address to listen at; port 0 takes a free one.
        strategy: server optimizer; FedAvg if not given.
        evaluate: gives figures of the global model, in evaluation mode, after each round.
        early_stop: when to stop before all rounds are over.
        listeners: told of each round.
        network: deadlines and limits of connections.
        tell: hears events.
        opened: called with the address once clients can connect.
        recorded: called with the reports of all rounds after each, and when the federation goes on.

    Raises:
        TooFewClientsError: not enough clients came in time, or trained.
        MaskingError: no attempt at a round gave a sum.
        CheckpointError: the checkpoint is damaged or of other settings, or cannot be written.
        ConfigurationError: the list of clients or the folder for the state cannot be used.
        WorkerUnreachableError: the address cannot be used.
    """
    storage = Storage(state)
    roll = Roll(enrolled, Authority(authority))
    roll.read()
    with storage.held():
        watch = _Watch(evaluate, early_stop, listeners, recorded)
        run = _Run(learning, serving, identity, storage, strategy or FedAvg(), watch, tell)
        return await run.all(roll, Address.parse(listen, listening=True), network or NetworkSettings(), opened)


class _Watch(NamedTuple):
    """Who looks on; see ``serve``."""

    evaluate: Evaluate | None
    early_stop: EarlyStop | None
    listeners: Sequence[Listener]
    recorded: Callable[[list[RoundReport]], None]


class _Run:
    """A federation while it runs."""

    _hall: Hall

    def __init__(
        self,
        learning: Learning,
        serving: Serving,
        identity: Identity,
        storage: Storage,
        strategy: Strategy,
        watch: _Watch,
        tell: Tell,
    ) -> None:
        self._learning, self._serving, self._identity = learning, serving, identity
        self._storage, self._strategy, self._watch, self._tell = storage, strategy, watch, tell
        self._model = learning.begun()
        self._layout = Layout(self._model)
        self._task = learning.task(self._model, strategy)
        self._trust = Trust(corrupt=serving.corrupt)
        self._reports: list[RoundReport] = []
        learning.limits.require_room(serving.sample or MOST_MEMBERS)

    async def all(
        self, roll: Roll, address: Address, network: NetworkSettings, opened: Callable[[Address], None]
    ) -> Served:
        """Run the rounds that are left."""
        self._resume()
        words = self._layout.size + 2
        network = msgspec.structs.replace(
            network,
            max_message_bytes=largest(Masked, MOST_MEMBERS, MOST_MEMBERS - 1, words) + _ROOM,
            queue_bytes=max(network.queue_bytes, 2 * len(self._packed()) + len(self._task.graphs) + _ROOM),
        )
        self._hall = Hall(roll, self._task, network, self._tell)
        door = Door(self._identity, address, network, self._hall.arrive, self._tell)
        try:
            door.open()
            opened(door.address)
            while len(self._reports) < self._serving.rounds and not self._stopped():
                self._close_round(await self._round(len(self._reports) + 1))
            await self._send_home()
        finally:
            door.close()
            self._hall.close()
            await self._hall.wait(lambda: not self._hall.count, 1.0)
            for listener in self._watch.listeners:
                listener.close()
        return Served(self._model, self._reports)

    def _packed(self) -> bytes:
        return models.packed(self._model)

    def _stopped(self) -> bool:
        stop = self._watch.early_stop
        return stop is not None and stop.reached(self._reports)

    # ---------------------------------------------------------------------------------------------------------- rounds

    async def _round(self, number: int) -> RoundReport:
        """Run a round, a second time if it must be."""
        failure: Exception = TooFewClientsError(f"Round {number} had no attempt.")
        for attempt in range(1, self._serving.attempts + 1):
            asked = self._sample(number, await self._enough())
            begin = time.perf_counter()
            names = [visitor.id for visitor in asked]
            self._tell("info", "round begins", round=number, attempt=attempt, clients=len(asked))
            course = self._hall.asker = Attempt(self._hall, asked, number, attempt, self._tell)
            try:
                await course.train(self._packed(), self._serving.deadline)
                total = await course.total(
                    self._identity, self._storage.ledger, self._layout.size + 1, self._learning.limits,
                    self._serving.least, self._trust, self._serving.step_seconds,
                )  # fmt: skip
            except (MaskingError, TooFewClientsError) as error:
                failure, name = error, type(error).__name__
                self._tell("warning", "no sum", round=number, attempt=attempt, error=name, reason=str(error))
                continue
            finally:
                self._hall.asker = None
            loss = self._step(total)
            seconds = time.perf_counter() - begin
            return RoundReport(number, names, list(total.survivors), course.left_out, loss, self._figures(), seconds)
        raise failure

    async def _enough(self) -> list[Visitor]:
        """The clients that are there, once there are enough.

        Raises:
            TooFewClientsError: too few have come in time.
        """
        serving = self._serving
        if len(self._hall.ready()) < serving.least:
            self._tell("info", "waiting for clients", there=len(self._hall.ready()), needed=serving.least)
            if not await self._hall.wait(lambda: len(self._hall.ready()) >= serving.least, serving.patience):
                raise TooFewClientsError(
                    f"{len(self._hall.ready())} clients are there after {serving.patience:g} s, and a sum needs "
                    f"{serving.least}. Start the federation again with the same state when there are more."
                )
            await self._hall.wait(lambda: False, serving.pause)
        found = self._hall.ready()
        return found if len(found) >= serving.least else await self._enough()

    def _sample(self, number: int, there: Sequence[Visitor]) -> list[Visitor]:
        wanted = min(self._serving.sample or len(there), MOST_MEMBERS)
        if wanted >= len(there):
            return list(there)
        chance = Chance(self._learning.seed, "clients", number)
        return [there[place] for place in chance.chosen(len(there), wanted)]

    def _step(self, total: Aggregate) -> float:
        """Step the parameters by the strategy, let buffers take the mean as it is; gives the mean loss."""
        combined = total.mean()
        now, trained, size = self._layout.of(self._model), self._layout.trained, self._layout.size
        parameters = self._strategy.step(now[:trained], combined[:trained])
        self._layout.load(self._model, torch.cat([parameters, now[trained:] + combined[trained:size]]))
        return float(combined[size])

    def _figures(self) -> dict[str, float]:
        if self._watch.evaluate is None:
            return {}
        before = self._model.training
        set_mode(self._model, False)
        try:
            return {name: float(value) for name, value in self._watch.evaluate(self._model).items()}
        finally:
            set_mode(self._model, before)

    def _close_round(self, report: RoundReport) -> None:
        self._reports.append(report)
        tensors = [x.detach() for x in tensors_of(self._model)]
        state = checkpoints.State(self._described(), tensors, self._strategy.state(), self._reports)
        checkpoints.write(self._storage.checkpoint, state)
        self._watch.recorded(self._reports)
        figures = {"loss": report.loss, **report.metrics}
        self._tell("info", "round over", round=report.round, summed=len(report.delivered), **figures)
        for listener in self._watch.listeners:
            listener.report(report)

    async def _send_home(self) -> None:
        """Tell the clients of the last round that it was."""
        last = set(self._reports[-1].asked) if self._reports else set()
        self._tell("info", "finished", rounds=len(self._reports))
        self._hall.send_home(Finished(len(self._reports), self._packed()))
        await self._hall.wait(lambda: self._hall.told >= last and not self._hall.count, self._serving.linger)

    # ----------------------------------------------------------------------------------------------------- checkpoints

    def _described(self) -> dict[str, str]:
        """On what the result depends."""
        task = msgspec.to_builtins({**msgspec.structs.asdict(self._task), "graphs": len(self._task.graphs)})
        return {
            **{name: json.dumps(value) for name, value in task.items()},
            "sample": str(self._serving.sample),
            **{f"strategy's {name}": str(value) for name, value in self._strategy.settings.items()},
        }

    def _resume(self) -> None:
        state = checkpoints.read(self._storage.checkpoint)
        if state is None:
            return
        checkpoints.require_same(self._storage.checkpoint, state.settings, self._described())
        with torch.no_grad():
            for mine, kept in zip(tensors_of(self._model), state.tensors, strict=True):
                mine.copy_(kept)
        self._strategy.load_state(state.strategy)
        self._reports = list(state.reports)
        self._watch.recorded(self._reports)
        self._tell("info", "resumed", rounds=len(self._reports))
