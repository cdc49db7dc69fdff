"""Private aggregation for ``fl.rounds``: one sum of hidden updates with noise after the other, within a budget."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sharetorch.fl.aggregation.errors import UploadError
from sharetorch.fl.aggregation.hidden import HiddenAggregator
from sharetorch.fl.aggregation.invitations import Invitation
from sharetorch.fl.aggregation.limits import Limits
from sharetorch.fl.privacy.errors import LedgerRewoundError
from sharetorch.fl.privacy.ledger import Budget
from sharetorch.fl.privacy.rules import PrivateSum
from sharetorch.mpc.session import Member


class PrivateAggregator:
    """A ``HiddenAggregator`` with a private rule, that asks a budget before a client is asked for anything.

    A round is spent when it begins, and again if it is repeated: after a crash nobody knows what was opened.

    Args:
        aggregators: two or more workers, all of this process or all on other machines; who holds shares and draws
            noise.
        crypto_provider: who deals correlated randomness.
        limits: what clients declare.
        rule: clip and noise.
        dimension: coordinates of an update: ``Layout(model).size``.
        budget: what may be spent.
        sampling: probability with which each client takes part by a secret coin of its own; see ``accounting``. A
            choice of clients that the server makes is none.
        protocol: as for ``share``.

    Attributes:
        name: of rule and treatment.
        step: what each round is for the accountant.
        guided: no; see ``fl.rounds.aggregators.Collector``.

    Raises:
        NoiseError: no aggregator's noise would be left, or more noise than can be drawn.
        AccountingError: a sampling probability that is none.
        DeclaredLimitsError: a number could overflow.
    """

    guided = False

    def __init__(
        self,
        *aggregators: Member,
        crypto_provider: Member,
        limits: Limits,
        rule: PrivateSum,
        dimension: int,
        budget: Budget,
        sampling: float = 1.0,
        protocol: str | None = None,
    ) -> None:
        rule.require(limits.clients, dimension, limits)
        self.step = rule.step(dimension, limits, len(aggregators), sampling)
        self.step.require()
        self._hidden = HiddenAggregator(
            *aggregators, crypto_provider=crypto_provider, limits=limits, rule=rule, protocol=protocol
        )
        self._dimension, self._budget = dimension, budget
        self.name = f"{self._hidden.name}, sampling {sampling:g}"

    def begin(self, round: int, clients: Sequence[str]) -> None:
        """Spend the round's part of the budget, before any client is asked.

        Args:
            round: its number.
            clients: who is asked.

        Raises:
            BudgetExceededError: it would be too much; the round does not begin.
            LedgerRewoundError: rounds before this one are not in the ledger.
            LedgerError: the ledger cannot be written.
        """
        if round > self._budget.rounds + 1:
            raise LedgerRewoundError(
                f"Round {round} is about to begin, and the ledger {self._budget.path} ends with round "
                f"{self._budget.rounds}: it is not this federation's, or an old copy. Put the newest one there."
            )
        self._budget.spend(self.step, round)
        self._hidden.begin(round, clients)

    def add(self, client: str, update: Tensor, weight: float) -> None:
        """See ``HiddenAggregator``; the weight is not used.

        Raises:
            UploadError: an update of another size than the budget was asked for.
        """
        self._require_dimension(update.numel())
        self._hidden.add(client, update, weight)

    def invite(self, clients: Sequence[str], dimension: int) -> Invitation | None:
        """See ``HiddenAggregator``.

        Raises:
            UploadError: updates of another size than the budget was asked for.
        """
        self._require_dimension(dimension)
        return self._hidden.invite(clients, dimension)

    def _require_dimension(self, dimension: int) -> None:
        if dimension != self._dimension:
            raise UploadError(
                f"Updates of {dimension} coordinates where noise for {self._dimension} is accounted for; give "
                "dimension=Layout(model).size."
            )

    def guide(self, update: Tensor) -> None:
        """See ``HiddenAggregator``; no private rule needs one."""
        self._hidden.guide(update)

    def collect(self) -> list[str]:
        """See ``HiddenAggregator``."""
        return self._hidden.collect()

    def finish(self) -> Tensor:
        """See ``HiddenAggregator``."""
        return self._hidden.finish()
