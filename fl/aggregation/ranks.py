"""Rules that take the middle of every coordinate: median and trimmed mean.

The network of ``mpc/protocols/sorting.py`` for the wanted ranks, in any order among themselves, without the places the
elements came from. An exchange of x and y with s = relu(x - y) is
    low: x - s = min(x, y),      high: y + s = max(x, y),
one comparison with one product. Exchanges of a layer go together.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from sharetorch.fl.aggregation.errors import RuleError
from sharetorch.fl.aggregation.limits import Limits
from sharetorch.fl.aggregation.rules import Rule
from sharetorch.fl.aggregation.words import held, rectified
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.protocols.selection import Prices
from sharetorch.mpc.protocols.sorting import network
from sharetorch.mpc.tensor.shared import SharedTensor


def sum_of_ranks(x: SharedTensor, start: int, stop: int) -> SharedTensor:
    """The sum, over dimension 0, of the elements of ranks start, ..., stop - 1, rank 0 being the smallest.

    Args:
        x: integers whose differences are below 2^62, shape (n, d).
        start: first wanted rank.
        stop: one more than the last.

    Cost: ``ranks_cost``. Leaks: nothing: what is compared depends on n alone.
    """
    plan = network(len(x), start, stop, ordered=False)
    for lows, highs in plan.layers:
        low, high = x[lows], x[highs]
        swap = rectified(low - high)
        x = held(x.index_copy(0, lows, low - swap).index_copy(0, highs, high + swap))
    return held(x[plan.places].sum(0))


def ranks_cost(clients: int, dimension: int, start: int, stop: int, prices: Prices) -> Cost:
    """Declared price of ``sum_of_ranks``."""
    total = Cost()
    for layer in network(clients, start, stop, ordered=False).layers:
        total += prices.choose(len(layer.lows) * dimension, 1)
    return total


class _Middle(Rule):
    """The mean of the elements that are left when as many are dropped on either side."""

    bounded: ClassVar[bool] = True

    @abstractmethod
    def dropped(self, clients: int) -> int:
        """How many are dropped on either side."""

    def total(self, x: SharedTensor, weights: SharedTensor | None, limits: Limits) -> SharedTensor:
        """Sum of the middle ranks."""
        dropped = self.dropped(len(x))
        return sum_of_ranks(x, dropped, len(x) - dropped)

    def divisor(self, clients: int) -> int:
        """How many are left."""
        return clients - 2 * self.dropped(clients)

    def total_cost(self, clients: int, dimension: int, prices: Prices, limits: Limits) -> Cost:
        """A network for the middle ranks."""
        dropped = self.dropped(clients)
        return ranks_cost(clients, dimension, dropped, clients - dropped, prices)


@dataclass(frozen=True)
class Median(_Middle):
    """The coordinate-wise median; for an even number of clients the mean of the two in the middle, as numpy's."""

    name: ClassVar[str] = "median"

    def dropped(self, clients: int) -> int:
        """All but the one or two in the middle."""
        return (clients - 1) // 2


@dataclass(frozen=True)
class TrimmedMean(_Middle):
    """The coordinate-wise mean without the largest and the smallest elements.

    Attributes:
        trim: which part of the clients is dropped on either side, at least 0 and below 1/2; rounded up, but something
            is left.

    Raises:
        RuleError: another part.
    """

    trim: float = 0.2
    name: ClassVar[str] = "trimmed-mean"

    def __post_init__(self) -> None:
        """Check the part."""
        if not 0 <= self.trim < 0.5:
            raise RuleError(f"trim={self.trim}: on either side a part of at least 0 and below 1/2 can be dropped.")

    @property
    def fewest(self) -> int:
        """3, if any are to be dropped."""
        return 3 if self.trim else 1

    def dropped(self, clients: int) -> int:
        """The part of the clients, rounded up; one or two are left at least."""
        return min(math.ceil(self.trim * clients - 1e-9), (clients - 1) // 2)
