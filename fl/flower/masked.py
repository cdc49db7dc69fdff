"""Masked sums: the ServerApp is the single aggregator, and sees the sum and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
from flwr.app import Message

from sharetorch.fl.flower.grids import Desk
from sharetorch.fl.flower.members import Keys
from sharetorch.fl.flower.records import Order
from sharetorch.fl.flower.results import Result, Task
from sharetorch.fl.masking import Limits, Parameters, Server, Trust, convene, messages
from sharetorch.fl.masking.bounds import choose, required
from sharetorch.fl.masking.enrolment import Enrolment, Signer
from sharetorch.fl.masking.messages import Advertise, Agreement, Masked, Opening, Reveal, Shares
from sharetorch.fl.masking.messages import Message as Masks
from sharetorch.fl.masking.rounds import Round as Agreed
from sharetorch.fl.masking.rounds import Step
from sharetorch.mpc.errors import ConfigurationError, ShareTorchError

A = TypeVar("A", bound=Masks)


class MaskedRounds:
    """Rounds of masks.

    Args:
        keys: certificates of the members.
        convener: who signs documents of rounds.
        limits: of a client's vector.
        trust: how many clients may drop out or work with the server; the clients have their own word on it.
        sparse: whether a client has masks in common with some others only. Whoever convenes rounds could then choose
            them so that they suit it, so the convener must not be the ServerApp's.
        total: whether the sum is wanted, not the mean.
    """

    def __init__(
        self, keys: Keys, convener: Signer, limits: Limits, trust: Trust | None, sparse: bool, total: bool
    ) -> None:
        self._keys = keys
        self._convener = convener
        self._limits = limits
        self._trust = Trust() if trust is None else trust
        self._sparse = sparse
        self._sum = total

    def round(self) -> MaskedRound:
        """See ``Rounds``."""
        return MaskedRound(self._convened, self._sum)

    def _convened(self, ids: Iterable[str], length: int) -> tuple[Opening, Enrolment]:
        enrolment = self._keys.enrolment(ids, self._convener.id)
        opening = convene(
            self._convener, enrolment.clients, length, self._limits, parameters=self._parameters(len(enrolment.clients))
        )
        return opening, enrolment

    def _parameters(self, members: int) -> Parameters:
        if members < 2:
            raise ConfigurationError(
                f"{members} of the nodes can take part; a sum of fewer than 2 updates hides nothing. Their reasons are "
                "in the log; see that more are there."
            )
        return choose(members, self._trust) if self._sparse else required(members, members - 1, self._trust)

    def close(self) -> None:
        """See ``Rounds``."""


class MaskedRound:
    """One round of masks.

    Args:
        convened: makes its document for members and a length.
        total: whether the sum is wanted, not the mean.
    """

    def __init__(self, convened: Callable[[Iterable[str], int], tuple[Opening, Enrolment]], total: bool) -> None:
        self._convened = convened
        self._sum = total
        self._desk: Desk
        self._task: Task
        self._server: Server
        self._agreed: Agreed
        self._nodes: dict[str, int] = {}

    def begin(self, desk: Desk, names: Mapping[int, str], task: Task) -> dict[int, Order]:
        """See ``Round``.

        Raises:
            TooFewSurvivorsError: too few nodes answered.
        """
        self._desk, self._task = desk, task
        self._nodes = {name: node for node, name in names.items()}
        opening, enrolment = self._convened(self._nodes, task.size + len(task.wanted.figures))
        self._server, self._agreed = Server(opening, enrolment), Agreed(opening)
        self._do(Step.ADVERTISE, {name: opening for name in self._nodes}, Advertise, self._server.on_advertise)
        self._do(Step.SHARE, self._server.keys(), Shares, self._server.on_shares)
        return self._orders(Step.MASK, self._server.deliveries(), task)

    def finish(self, replies: Iterable[Message]) -> Result:
        """See ``Round``.

        Raises:
            TooFewSurvivorsError: too few clients were left.
            ForgedMessageError: clients did not keep to the protocol.
            DivisionByZeroError: all weights are 0.
        """
        waiting = [self._nodes[name] for name in self._server.missing]
        self._take(self._desk.answers(replies, waiting), Masked, self._server.on_masked)
        self._do(Step.AGREE, self._server.survivors(), Agreement, self._server.on_agreement)
        self._do(Step.REVEAL, self._server.unmask(), Reveal, self._server.on_reveal)
        found = self._server.result()
        mean, size = found.mean().numpy(), self._task.size
        update = mean[:size] * found.weight if self._sum else mean[:size]
        return Result(np.asarray(update, np.float64), mean[size:], float(found.weight), found.survivors)

    def _do(self, step: Step, sent: Mapping[str, Masks], kind: type[A], take: Callable[[str, A], None]) -> None:
        self._take(self._desk.ask(self._orders(step, sent)), kind, take)

    def _orders(self, step: Step, sent: Mapping[str, Masks], task: Task | None = None) -> dict[int, Order]:
        wanted = None if task is None else task.wanted
        return {
            self._nodes[name]: Order(step.value, messages.encode(message), wanted) for name, message in sent.items()
        }

    def _take(self, answers: Mapping[int, bytes], kind: type[A], take: Callable[[str, Any], None]) -> None:
        document = self._agreed.document
        limit = messages.largest(kind, len(document.members), document.degree, document.length)
        names = {node: name for name, node in self._nodes.items()}
        for node, data in answers.items():
            try:
                take(names[node], messages.decode(data, kind, limit))
            except ShareTorchError as error:
                self._desk.refuse(node, str(error))
