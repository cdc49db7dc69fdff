"""Hidden updates in federated rounds: the aggregator that ``fl.rounds`` asks for, one ``Aggregation`` a round."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sharetorch.fl.aggregation.aggregation import Aggregation
from sharetorch.fl.aggregation.errors import TooFewClientsError
from sharetorch.fl.aggregation.limits import Limits
from sharetorch.fl.aggregation.registry import rule as rule_of
from sharetorch.fl.aggregation.rules import Rule
from sharetorch.fl.aggregation.treatment import Treatment
from sharetorch.mpc.session import Member


class HiddenAggregator:
    """Combines the updates of one round after the other; nobody sees one.

    Args:
        aggregators: two or more workers; who holds shares.
        crypto_provider: who deals correlated randomness.
        limits: what clients declare. A client forces its coordinates into the declared range before it splits them.
        rule: a rule, or the name of one without parameters. Only weighted ones use numbers of items.
        clip: largest length of an update (L2).
        bounded: as for ``Aggregation``.
        protocol: as for ``share``.

    Attributes:
        name: of rule and treatment.
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
        made = rule_of(rule) if isinstance(rule, str) else rule
        self._treatment = Treatment(made, limits, clip, bounded)
        self._members, self._provider, self._protocol = aggregators, crypto_provider, protocol
        self._round: Aggregation | None = None
        self.name = f"hidden {made!r}, clip {clip}, in range {self._treatment.in_range}"

    def begin(self, round: int, clients: Sequence[str]) -> None:
        """A round begins; what an unfinished one left is forgotten.

        Args:
            round: its number.
            clients: who is asked.
        """
        self._round = None

    def add(self, client: str, update: Tensor, weight: float) -> None:
        """Split the update of one client as the client would, and hand the pieces to the aggregators.

        Args:
            client: its name; not sent.
            update: shape (d,).
            weight: number of items.

        Raises:
            NotFiniteError: NaN or infinity.
            UploadError: more clients than declared, or another size than the first one's.
        """
        treatment, limits = self._treatment, self._treatment.limits
        if self._round is None:
            self._round = Aggregation.among(
                *self._members,
                crypto_provider=self._provider,
                dimension=update.numel(),
                limits=limits,
                rule=treatment.rule,
                clip=treatment.clip,
                bounded=treatment.bounded,
                protocol=self._protocol,
            )
        items = min(round(weight), limits.weight) if treatment.rule.weighted else None
        self._round.submit(update.clamp(-limits.coordinate, limits.coordinate), items)

    def finish(self) -> Tensor:
        """The combined update, opened: float64, shape (d,).

        Raises:
            TooFewClientsError: the rule needs more updates.
        """
        if self._round is None:
            raise TooFewClientsError(f"No client gave an update; {self._treatment.rule.name} needs some.")
        made, self._round = self._round, None
        made.close()
        return made.open()
