"""Hidden updates in federated rounds: the aggregator that ``fl.rounds`` asks for, one round after the other.

With aggregators of this process (virtual workers) ``add`` splits updates as their clients would. With aggregators on
other machines clients do it themselves: ``invite`` says what they must know, their workers send shares straight to the
aggregators, and what comes here is the opened result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from sharetorch.fl.aggregation.aggregation import Aggregation
from sharetorch.fl.aggregation.collecting import depositor
from sharetorch.fl.aggregation.errors import (
    DeclaredLimitsError,
    RuleError,
    TooFewClientsError,
    UploadError,
    UploadSetError,
)
from sharetorch.fl.aggregation.invitations import BEGIN, CONFIRM, SETTLE, Invitation, ask
from sharetorch.fl.aggregation.limits import Limits
from sharetorch.fl.aggregation.registry import rule as rule_of
from sharetorch.fl.aggregation.rules import Rule
from sharetorch.fl.aggregation.treatment import Treatment
from sharetorch.fl.aggregation.trust import Trust
from sharetorch.fl.aggregation.uploads import ID_BYTES
from sharetorch.fl.aggregation.words import integers
from sharetorch.mpc.randomness import system_entropy
from sharetorch.mpc.session import Member, Session, new_id
from sharetorch.mpc.tensor.shared import Handle, SharedTensor
from sharetorch.mpc.tensor.sharing import session_for
from sharetorch.remote.sessions.driver import NetworkedSession
from sharetorch.remote.worker import local

R = TypeVar("R")


class HiddenAggregator:
    """Combines the updates of one round after the other; nobody sees one.

    Args:
        aggregators: two or more workers, all of this process or all on other machines; who holds shares.
        crypto_provider: who deals correlated randomness.
        limits: what clients declare. A client forces its coordinates into the declared range before it splits them.
        rule: a rule, or the name of one without parameters; "fltrust" takes the trusted update of each round by
            ``guide``. Only weighted ones use numbers of items.
        clip: largest length of an update (L2).
        bounded: as for ``Aggregation``.
        protocol: as for ``share``.

    Attributes:
        name: of rule and treatment.
        guided: whether each round needs a trusted update.
    """

    def __init__(
        self,
        *aggregators: Member,
        crypto_provider: Member,
        limits: Limits,
        rule: str | Rule = "mean",
        clip: float | None = None,
        bounded: bool | None = None,
        protocol: str | None = None,
    ) -> None:
        self.guided = rule == Trust.name
        first: Rule = Trust(torch.ones(1)) if self.guided else rule_of(rule) if isinstance(rule, str) else rule
        self._treatment = Treatment(first, limits, clip, bounded)
        self._members, self._provider, self._protocol = aggregators, crypto_provider, protocol
        self._round: Aggregation | None = None
        self._names: list[str] = []
        self._guide: Tensor | None = None
        self._invitation: Invitation | None = None
        self._collected: tuple[SharedTensor, SharedTensor | None] | None = None
        said = Trust.name if self.guided else repr(first)
        self.name = f"hidden {said}, clip {clip}, in range {self._treatment.in_range}"

    @property
    def treatment(self) -> Treatment:
        """What is done with the updates of this round; its ``cost`` is the declared price.

        Raises:
            RuleError: the rule needs a trusted update, and this round has none.
        """
        if not self.guided:
            return self._treatment
        if self._guide is None:
            raise RuleError("The rule 'fltrust' needs the trusted update of the round; give it with guide().")
        old = self._treatment
        return Treatment(Trust(self._guide), old.limits, old.clip, old.bounded)

    def begin(self, round: int, clients: Sequence[str]) -> None:
        """A round begins; what an unfinished one left is forgotten.

        Args:
            round: its number.
            clients: who is asked.
        """
        self._round = self._invitation = self._collected = self._guide = None
        self._names = []

    def guide(self, update: Tensor) -> None:
        """The trusted update of this round, which is public; for the rule "fltrust"."""
        self._guide = update

    # -------------------------------------------------------------------------------------- aggregators of this process

    def add(self, client: str, update: Tensor, weight: float) -> None:
        """Split the update of one client as the client would, and hand the pieces to the aggregators.

        Args:
            client: its name; not sent.
            update: shape (d,).
            weight: number of items.

        Raises:
            NotFiniteError: NaN or infinity.
            UploadError: more clients than declared, another size than the first one's, or the aggregators are on other
                machines.
        """
        if self._invitation is not None:
            raise UploadError(
                f"The update of {client} is here, and the aggregators are on other machines: clients send them their "
                "shares themselves. Use clients that are workers, as federation(workers, ...) makes them."
            )
        treatment, limits = self._treatment, self._treatment.limits
        if self._round is None:
            self._round = Aggregation.among(
                *self._members,
                crypto_provider=self._provider,
                dimension=update.numel(),
                limits=limits,
                rule=self.treatment.rule,
                clip=treatment.clip,
                bounded=treatment.bounded,
                protocol=self._protocol,
            )
        items = min(round(weight), limits.weight) if treatment.rule.weighted else None
        self._round.submit(update.clamp(-limits.coordinate, limits.coordinate), items)
        self._names.append(client)

    # ------------------------------------------------------------------------------------ aggregators on other machines

    def invite(self, clients: Sequence[str], dimension: int) -> Invitation | None:
        """Tell the aggregators of a round; what this gives is for the clients. None if updates come by ``add``.

        Args:
            clients: ids of the workers that are asked.
            dimension: coordinates of an update.

        Raises:
            TooFewClientsError: fewer than the limits demand.
            DeclaredLimitsError: more than the limits declare, or a number could overflow within the limits.
            NetworkError: an aggregator cannot be reached.
        """
        session = session_for(self._members, self._provider, None, self._protocol)
        if not isinstance(session, NetworkedSession):
            return None
        treatment, limits = self._treatment, self._treatment.limits
        if len(clients) < limits.least:
            raise TooFewClientsError(f"{len(clients)} clients are asked, and at least {limits.least} are demanded.")
        if len(clients) > limits.clients:
            raise DeclaredLimitsError(
                f"{len(clients)} clients are asked, and the limits declare {limits.clients}: the others' updates "
                "would be "
                "refused. Declare more clients, or sample fewer."
            )
        if not self.guided:
            treatment.require(limits.clients, dimension)
        treatment.require_session(session)
        said = (limits.coordinate, limits.clients, limits.weight, limits.fraction_bits, limits.least)
        made = Invitation(
            session.id, (new_id(), new_id()), system_entropy(ID_BYTES), [member.id for member in self._members],
            list(clients), dimension, treatment.rule.name, said,
        )  # fmt: skip
        self._everywhere(BEGIN, made)
        self._invitation = made
        return made

    def collect(self) -> list[str]:
        """Close the round: aggregators agree on the received set.

        Returns:
            Names of the clients whose updates are in it.

        Raises:
            TooFewClientsError: fewer than the limits demand; nothing was computed.
            UploadSetError: the aggregators do not agree; nothing was computed.
            NetworkError: an aggregator is lost; nothing was computed.
        """
        if self._invitation is None:
            if self._round is None:
                raise TooFewClientsError(f"No client gave an update; {self._treatment.rule.name} needs some.")
            self._round.close()
            return self._names
        self._everywhere(SETTLE, self._invitation.round)
        first, *others = self._everywhere(CONFIRM, self._invitation.round)
        if any(names != first for names in others):
            raise UploadSetError("The aggregators name different clients for the same uploads. Repeat the round.")
        self._collected = self._taken(self._invitation, len(first))
        return first

    def _everywhere(self, step: str, *given: Any) -> list[list[Any]]:
        """Ask all aggregators at the same time."""
        return together([partial(ask, local().link(member.id), step, *given) for member in self._members])

    def _taken(self, invitation: Invitation, count: int) -> tuple[SharedTensor, SharedTensor | None]:
        """What the aggregators handed to their session, as tensors of it."""
        session = self._session
        shape, encoding = (count, invitation.dimension), self._treatment.limits.encoding
        numbers, owner = invitation.numbers, depositor(invitation.round)
        session.expect(owner, numbers[0], list(shape))
        updates = SharedTensor(Handle(session, numbers[0], encoding), torch.empty(shape, device="meta"))
        if not self._treatment.rule.weighted:
            return updates, None
        session.expect(owner, numbers[1], [count])
        return updates, integers(session, numbers[1], (count,))

    @property
    def _session(self) -> NetworkedSession:
        session: Session = session_for(self._members, self._provider, None, self._protocol)
        if not isinstance(session, NetworkedSession) or self._invitation is None:
            raise UploadSetError("No round is under way; begin() one first.")
        if session.id != self._invitation.session:
            raise UploadSetError(
                "The session in which this round began has ended, and its shares with it. Nothing was opened; repeat "
                "the round."
            )
        return session

    def finish(self) -> Tensor:
        """The combined update, opened: float64, shape (d,). Closes the round if that was not done.

        Raises:
            TooFewClientsError: the limits or the rule demand more updates.
            NetworkError: an aggregator is lost; nothing was opened.
        """
        if self._collected is None and not (self._round is not None and self._round.closed):
            self.collect()
        if self._collected is not None:
            collected, self._collected, self._invitation = self._collected, None, None
            return self.treatment.opened(*collected)
        made, self._round = self._round, None
        if made is None:
            raise TooFewClientsError(f"No client gave an update; {self._treatment.rule.name} needs some.")
        return made.open()


def together(works: Iterable[Callable[[], R]]) -> list[R]:
    """Do works at the same time, and wait for all of them.

    Raises:
        Exception: what the first of those raised that raised something.
    """
    jobs = list(works)
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(job) for job in jobs]
    return [future.result() for future in futures]
