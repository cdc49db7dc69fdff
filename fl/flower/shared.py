"""Rules on shared vectors: several aggregators hold shares, and the result alone is opened.

``Aggregators`` are ShareTorch workers on machines of their own. Nodes bring them their pieces themselves; aggregators
agree among each other on what they received (``fl.aggregation.collecting``). The ServerApp commands their session: it
sees the result and who takes part. ``InServerApp`` is for simulations: all aggregators are in the ServerApp's process,
to which nodes of a simulation send all pieces.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from flwr.app import Message
from torch import Tensor

from sharetorch.fl.aggregation import (
    Aggregation,
    AggregationError,
    Limits,
    Mean,
    Piece,
    Rule,
    Treatment,
    UploadSetError,
)
from sharetorch.fl.aggregation.collecting import depositor
from sharetorch.fl.aggregation.hidden import together
from sharetorch.fl.aggregation.invitations import BEGIN, CONFIRM, SETTLE, UPLOAD, Invitation, ask
from sharetorch.fl.aggregation.uploads import ID_BYTES
from sharetorch.fl.aggregation.words import integers, reals
from sharetorch.fl.flower.errors import LostRoundError
from sharetorch.fl.flower.grids import Desk
from sharetorch.fl.flower.members import addresses
from sharetorch.fl.flower.records import PIECES, Order, Uploads, read_pieces, write
from sharetorch.fl.flower.results import Result, Task
from sharetorch.fl.masking.encoding import Limits as Declared
from sharetorch.mpc.errors import ConfigurationError, ShareTorchError
from sharetorch.mpc.network.identity import Identity
from sharetorch.mpc.randomness import system_entropy
from sharetorch.mpc.session import new_id
from sharetorch.mpc.tensor.shared import SharedTensor
from sharetorch.mpc.tensor.sharing import session_for
from sharetorch.remote.network.client import NetworkedWorker
from sharetorch.remote.sessions.driver import NetworkedSession
from sharetorch.remote.worker import VirtualWorker, local


class Aggregators:
    """Aggregators on machines of their own.

    Args:
        parties: two or more workers that hold shares, "alice@host:port"; nodes must have the same, in this order.
        provider: the worker that deals correlated randomness, likewise.
        protocol: how comparisons are made, as for ``share``.

    Raises:
        ConfigurationError: an address is none, or there are too few.
    """

    def __init__(self, *parties: str, provider: str, protocol: str | None = None) -> None:
        self.addresses = addresses(",".join((*parties, provider)))
        self.protocol = protocol
        if len(self.addresses) != len(parties) + 1 or len(parties) < 2:
            raise ConfigurationError(
                f"{len(parties)} aggregators and a provider are named; at least two are needed, and the provider is "
                "none of them: one alone would see all updates."
            )


class InServerApp:
    """Aggregators in the ServerApp's own process, which therefore could put all shares together: for simulations.

    Args:
        parties: how many.
        protocol: how comparisons are made, as for ``share``.
    """

    def __init__(self, parties: int = 2, protocol: str | None = None) -> None:
        self.parties = parties
        self.protocol = protocol


class Rules:
    """What is done with vectors.

    Args:
        rule: on the updates.
        declared: largest numbers of a client.
        clip: largest length of an update; longer ones are shortened.
        bounded: as for ``Aggregation``.
        least: fewest clients in a result.
    """

    def __init__(self, rule: Rule, declared: Declared, clip: float | None, bounded: bool | None, least: int) -> None:
        self.rule = rule
        self.declared = declared
        self.clip = clip
        self.bounded = bounded
        self.least = least

    def said(self, clients: int) -> tuple[float, int, int, int, int]:
        """Largest numbers of so many clients, as messages hold them.

        Raises:
            LostRoundError: there are fewer than a result must have.
        """
        if clients < self.least:
            raise LostRoundError(
                f"{clients} node(s) can take part in this round, and a result of fewer than {self.least} is not "
                "opened: it would tell too much of each. The log says why others cannot; see that more are there."
            )
        return self.declared.value, clients, self.declared.weight, self.declared.fraction_bits, self.least

    def limits(self, clients: int) -> Limits:
        """Largest numbers of so many clients."""
        return Limits(*self.said(clients))

    def of(self, task: Task) -> Rule:
        """The rule by which vectors are taken: figures alone are averaged."""
        return self.rule if task.size else Mean()

    def update(self, clients: int) -> Treatment:
        """What is done with updates."""
        return Treatment(self.rule, self.limits(clients), self.clip, self.bounded)

    def figures(self, clients: int) -> Treatment:
        """What is done with figures: their mean, each in its range."""
        return Treatment(Mean(), self.limits(clients), None, True)


class NetworkedRounds:
    """Rounds with aggregators on machines of their own.

    Args:
        aggregators: their addresses.
        identity: of the ServerApp, as workers and nodes know it.
        rules: what is done.
    """

    def __init__(self, aggregators: Aggregators, identity: Identity, rules: Rules) -> None:
        self._aggregators = aggregators
        self._identity = identity
        self._rules = rules
        self._workers: list[NetworkedWorker] = []

    def round(self) -> NetworkedRound:
        """See ``Rounds``.

        Raises:
            NetworkError: an aggregator cannot be reached, or refuses.
        """
        if not self._workers or not all(worker.connected for worker in self._workers):
            self.close()
            for name, address in self._aggregators.addresses.items():
                self._workers.append(NetworkedWorker(address, name, self._identity).connect())
        *parties, provider = self._workers
        session = session_for(parties, provider, None, self._aggregators.protocol)
        assert isinstance(session, NetworkedSession)
        session.sync()
        return NetworkedRound(session, parties, self._rules)

    def close(self) -> None:
        """See ``Rounds``."""
        for worker in self._workers:
            worker.close()
        self._workers = []


class NetworkedRound:
    """One round in a session of workers.

    Args:
        session: of the aggregators.
        parties: its parties.
        rules: what is done.
    """

    def __init__(self, session: NetworkedSession, parties: Sequence[NetworkedWorker], rules: Rules) -> None:
        self._session = session
        self._parties = parties
        self._rules = rules

    def begin(self, desk: Desk, names: Mapping[int, str], task: Task) -> dict[int, Order]:
        """See ``Round``.

        Raises:
            LostRoundError, TooFewClientsError: too few nodes.
            DeclaredLimitsError: with so many nodes a number could overflow.
            NetworkError: an aggregator is lost.
        """
        self._desk, self._names, self._task = desk, names, task
        treatment = self._rules.update(len(names))
        treatment.require_session(self._session)
        if task.size:
            treatment.require(len(names), task.size)
        self.invitation = Invitation(
            self._session.id, (new_id(), new_id()), system_entropy(ID_BYTES), [each.id for each in self._parties],
            list(names.values()), task.size + len(task.wanted.figures), self._rules.of(task).name,
            self._rules.said(len(names)),
        )  # fmt: skip
        self._everywhere(BEGIN, self.invitation)
        return {node: Order(UPLOAD, write(self.invitation), task.wanted) for node in names}

    def finish(self, replies: Iterable[Message]) -> Result:
        """See ``Round``.

        Raises:
            TooFewClientsError: too few delivered.
            UploadSetError: the aggregators do not agree; nothing was computed.
            NetworkError: an aggregator is lost; nothing was opened.
        """
        self._desk.answers(replies, self._names)
        self._everywhere(SETTLE, self.invitation.round)
        first, *others = self._everywhere(CONFIRM, self.invitation.round)
        if any(names != first for names in others):
            raise UploadSetError("The aggregators name different clients for the same uploads. Repeat the round.")
        size, x = self._task.size, self._taken(0, [len(first), self.invitation.dimension])
        weights = self._taken(1, [len(first)]) if self._rules.of(self._task).weighted else None
        update = self._opened(x[:, :size], self._rules.update(len(first)), weights)
        figures = self._opened(x[:, size:], self._rules.figures(len(first)))
        return _result(update, figures, first)

    def _everywhere(self, step: str, *given: Any) -> list[list[Any]]:
        """Ask all aggregators at the same time."""
        return together([partial(ask, each.link_from(local()), step, *given) for each in self._parties])

    def _taken(self, place: int, shape: list[int]) -> Any:
        """What the aggregators handed to their session, as integers of it."""
        number = self.invitation.numbers[place]
        self._session.expect(depositor(self.invitation.round), number, shape)
        return integers(self._session, number, tuple(shape))

    def _opened(self, part: Any, treatment: Treatment, weights: SharedTensor | None = None) -> Tensor:
        if not part.shape[1]:
            return torch.zeros(0)
        return treatment.opened(reals(part, self._rules.declared.fraction_bits), weights)


class LocalRounds:
    """Rounds with aggregators in this process.

    Args:
        aggregators: how many.
        rules: what is done.
    """

    def __init__(self, aggregators: InServerApp, rules: Rules) -> None:
        self._rules = rules
        self._protocol = aggregators.protocol
        run = next(_runs)
        self._workers = [VirtualWorker(id=f"flower_{run}_aggregator_{rank}") for rank in range(aggregators.parties)]
        self._provider = VirtualWorker(id=f"flower_{run}_provider")

    def round(self) -> LocalRound:
        """See ``Rounds``."""
        return LocalRound(self._aggregation, self._rules)

    def _aggregation(self, dimension: int, treatment: Treatment) -> Aggregation:
        return Aggregation.among(
            *self._workers, crypto_provider=self._provider, dimension=dimension, limits=treatment.limits,
            rule=treatment.rule, clip=treatment.clip, bounded=treatment.bounded, protocol=self._protocol,
        )  # fmt: skip

    def close(self) -> None:
        """See ``Rounds``."""
        for worker in (*self._workers, self._provider):
            worker.remove_worker_from_local_worker_registry()


_runs = itertools.count(1)


class LocalRound:
    """One round among workers of this process.

    Args:
        aggregation: makes one for a dimension and a treatment.
        rules: what is done.
    """

    def __init__(self, aggregation: Callable[[int, Treatment], Aggregation], rules: Rules) -> None:
        self._make = aggregation
        self._rules = rules
        self._parts: list[Aggregation | None] = []

    def begin(self, desk: Desk, names: Mapping[int, str], task: Task) -> dict[int, Order]:
        """See ``Round``.

        Raises:
            LostRoundError: too few nodes.
        """
        self._desk, self._names = desk, names
        sizes = (task.size, len(task.wanted.figures))
        said = self._rules.said(len(names))
        treatments = (self._rules.update(len(names)), self._rules.figures(len(names)))
        self._parts = [
            self._make(size, treatment) if size else None for size, treatment in zip(sizes, treatments, strict=True)
        ]
        rounds = [b"" if part is None else part.terms.round for part in self._parts]
        parties = next(part.terms.aggregators for part in self._parts if part is not None)
        data = write(Uploads(rounds, parties, said, self._rules.of(task).weighted))
        return {node: Order(PIECES, data, task.wanted) for node in names}

    def finish(self, replies: Iterable[Message]) -> Result:
        """See ``Round``.

        Raises:
            TooFewClientsError: too few delivered.
        """
        here = []
        for node, data in self._desk.answers(replies, self._names).items():
            try:
                self._receive(data)
                here.append(self._names[node])
            except ShareTorchError as error:
                self._desk.refuse(node, str(error))
        update, figures = (self._opened(part) for part in self._parts)
        return _result(update, figures, here)

    def _receive(self, data: bytes) -> None:
        uploads = read_pieces(data)
        if len(uploads) != len(self._parts):
            raise AggregationError(f"A client sent {len(uploads)} uploads where {len(self._parts)} are due.")
        for part, pieces in zip(self._parts, uploads, strict=True):
            if part is not None:
                for piece in pieces:
                    part.receive(Piece(part.terms.round, piece.upload, piece.rank, piece.seeded, piece.contents))

    def _opened(self, part: Aggregation | None) -> Tensor:
        if part is None:
            return torch.zeros(0)
        part.close()
        return part.open()


def _result(update: Tensor, figures: Tensor, clients: Sequence[str]) -> Result:
    found = [np.asarray(part.to(torch.float64).numpy()) for part in (update, figures)]
    return Result(found[0], found[1], float(len(clients)), tuple(clients))
