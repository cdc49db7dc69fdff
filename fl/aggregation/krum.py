"""Krum and Multi-Krum (Blanchard, El Mhamdi, Guerraoui, Stainer 2017): updates that have others near by.

Notation: n clients, of which f may be Byzantine; X updates as integers, G = X X^T, D_ij = G_ii + G_jj - 2 G_ij the
squared distances. The score of client i is the sum of its n - f - 2 smallest distances to others; Krum takes the update
of smallest score, Multi-Krum the mean of the m of smallest score.

    1  X is opened under a mask once: it serves G and the selection                                      1 round
    2  smallest k of some numbers: all pairs are compared at once, each number's rank is its number of lost comparisons,
       and [rank < k] is one more comparison. Of equal numbers the one of lower place goes first
    3  scores = sum of bits times distances; the m smallest of them; their bits times X

A comparison of all pairs needs more of them than a network, but two steps instead of one for each layer, and they are
few: (n - 1)(n - 2) / 2 for each client, whatever d is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sharetorch.fl.aggregation.errors import RuleError
from sharetorch.fl.aggregation.limits import WORD_BITS, Limits
from sharetorch.fl.aggregation.rules import Rule
from sharetorch.fl.aggregation.words import held, non_negative, shrunk, sign_cost
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.protocols.arithmetic import bilinear_cost
from sharetorch.mpc.protocols.selection import Prices
from sharetorch.mpc.protocols.truncation import truncation_cost
from sharetorch.mpc.tensor.shared import SharedTensor


def smallest(x: SharedTensor, k: int) -> SharedTensor:
    """Bits of the k smallest over dimension 0, shape (n, m). Cost: ``smallest_cost``. Leaks: nothing.

    Args:
        x: integers whose differences are below 2^62, shape (n, m).
        k: how many.
    """
    n = len(x)
    first, second = torch.triu_indices(n, n, 1)
    won = non_negative(x[second] - x[first])
    lost = torch.zeros((n, len(first)), dtype=torch.int64)
    lost[second, torch.arange(len(first))] = 1
    lost[first, torch.arange(len(first))] = -1
    against = torch.arange(n - 1, -1, -1).view(n, 1)
    return non_negative((k - 1) - (torch.mm(lost, won) + against))


def smallest_cost(n: int, columns: int, prices: Prices) -> Cost:
    """Declared price of ``smallest``."""
    return sign_cost(n * (n - 1) // 2 * columns, prices) + sign_cost(n * columns, prices)


def distances(x: SharedTensor) -> SharedTensor:
    """Squared distances of each row to all others in order, shape (n - 1, n). Price: ``bilinear_cost(n d, n n)``."""
    n = len(x)
    products = torch.mm(x, x.t())
    squares = products.diagonal()
    all_pairs = squares.view(n, 1) + squares.view(1, n) - 2 * products
    return held(all_pairs.reshape(-1)[_others(n)])


def _others(n: int) -> Tensor:
    """Places of D_ij, j other than i, in the flat matrix; shape (n - 1, n), i along the last axis."""
    others = torch.arange(n - 1).view(-1, 1)
    clients = torch.arange(n).view(1, -1)
    return clients * n + others + (others >= clients).to(torch.int64)


@dataclass(frozen=True)
class MultiKrum(Rule):
    """The mean of the m updates that lie nearest to their neighbours.

    Attributes:
        byzantine: f, how many clients may send anything.
        selected: m; n - f if None.

    Raises:
        RuleError: a negative number, or nothing selected.
    """

    byzantine: int = 0
    selected: int | None = None
    name: ClassVar[str] = "multi-krum"
    bounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.byzantine < 0 or (self.selected is not None and self.selected < 1):
            raise RuleError(f"{self}: byzantine counts clients from 0 on, selected from 1 on.")

    @property
    def fewest(self) -> int:
        """2 f + 3, and as many as are selected."""
        return max(2 * self.byzantine + 3, self.selected or 1)

    def require(self, clients: int, dimension: int, limits: Limits) -> None:
        """As ``Rule.require``: G must not overflow; sums of distances are shrunk until they fit."""
        super().require(clients, dimension, limits)
        limits.require(4 * dimension * limits.largest**2, f"the squared distance of {dimension} coordinates")

    def divisor(self, clients: int) -> int:
        """m."""
        return clients - self.byzantine if self.selected is None else self.selected

    def total(self, x: SharedTensor, weights: SharedTensor | None, limits: Limits) -> SharedTensor:
        """Sum of the selected updates."""
        n = len(x)
        apart = shrunk(distances(x), self._shrink(n, x.shape[1], limits))
        near = smallest(apart, n - self.byzantine - 2)
        scores = held((near * apart).sum(0).view(n, 1))
        chosen = smallest(scores, self.divisor(n))
        return held(torch.mm(chosen.view(1, n), x).view(-1))

    def _shrink(self, clients: int, dimension: int, limits: Limits) -> int:
        """A power of two after which scores stay below 2^61."""
        largest = clients * (4 * dimension * limits.largest**2)
        return 1 << max(0, largest.bit_length() - WORD_BITS + 1)

    def total_cost(self, clients: int, dimension: int, prices: Prices, limits: Limits) -> Cost:
        """Updates are opened once; all else depends on the number of clients alone."""
        n, parties = clients, prices.parties
        pairs = n * (n - 1)
        shrinking = truncation_cost(pairs, parties) if self._shrink(n, dimension, limits) > 1 else Cost()
        return (
            bilinear_cost(n * dimension, n * n, parties)
            + shrinking
            + smallest_cost(n - 1, n, prices)
            + bilinear_cost(2 * pairs, pairs, parties)
            + smallest_cost(n, 1, prices)
            + bilinear_cost(n, dimension, parties)
        )


@dataclass(frozen=True)
class Krum(MultiKrum):
    """The one update that lies nearest to its neighbours.

    Attributes:
        byzantine: f, how many clients may send anything.
        selected: 1.
    """

    selected: int | None = 1
    name: ClassVar[str] = "krum"
