"""Sign vote (Bernstein, Zhao, Azizzadenesheli, Anandkumar 2019): each coordinate goes where most clients point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sharetorch.fl.aggregation.limits import Limits
from sharetorch.fl.aggregation.rules import Rule
from sharetorch.fl.aggregation.words import held, signs
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.protocols.selection import Prices
from sharetorch.mpc.tensor.shared import SharedTensor


@dataclass(frozen=True)
class SignVote(Rule):
    """The sign of the sum of signs: -1, 0 or 1. Margins are not seen.

    A client has one vote a coordinate whatever it uploads, so no range check is needed.
    """

    name: ClassVar[str] = "sign-vote"

    def total(self, x: SharedTensor, weights: SharedTensor | None, limits: Limits) -> SharedTensor:
        """Signs, their sum, its sign."""
        return held(signs(signs(x).sum(0)) * (1 << limits.fraction_bits))

    def total_cost(self, clients: int, dimension: int, prices: Prices, limits: Limits) -> Cost:
        """Two comparisons of every coordinate with two thresholds."""
        return prices.at_least(clients * dimension, 2) + prices.at_least(dimension, 2)
