"""Rules of aggregation, and the sums among them: sum, mean, weighted mean.

A rule turns the updates of n clients, shape (n, d), into one vector, shape (d,). What it computes on shares is
``total``, integers, and ``divisor``, a public number that comes last: it is applied after opening where the result is
opened, which is exact and costs nothing, and by one truncation where the result stays shared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sharetorch.fl.aggregation import words
from sharetorch.fl.aggregation.errors import RuleError, TooFewClientsError
from sharetorch.fl.aggregation.limits import Limits
from sharetorch.fl.aggregation.words import quotient, quotient_cost, spare_shift, words_of
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.errors import PrecisionMismatchError, ShapeError
from sharetorch.mpc.protocols.arithmetic import bilinear_cost
from sharetorch.mpc.protocols.bilinear import MatrixProduct, Product
from sharetorch.mpc.protocols.products import products_cost
from sharetorch.mpc.protocols.selection import Prices
from sharetorch.mpc.protocols.truncation import truncation_cost
from sharetorch.mpc.tensor.shared import SharedTensor


class Rule(ABC):
    """What is made of the updates.

    Attributes:
        name: what users call it.
        weighted: whether it needs private weights; the others take none.
        bounded: whether coordinates must lie in their range for the rule to mean anything; sums only need it against
            clients that break their word.
        additive: whether ``total`` is the sum of the updates, which aggregators can take before anything else.
    """

    name: ClassVar[str]
    weighted: ClassVar[bool] = False
    bounded: ClassVar[bool] = False
    additive: ClassVar[bool] = False

    def require(self, clients: int, dimension: int, limits: Limits) -> None:
        """Check whether the rule has a meaning, and its numbers room, for that many updates within these limits.

        Raises:
            TooFewClientsError: it needs more clients.
            DeclaredLimitsError: a number on the way could overflow.
        """
        if clients < self.fewest:
            raise TooFewClientsError(
                f"{self.name} of {clients} update(s) has no meaning; it needs {self.fewest}. Wait for more clients, or "
                "choose another rule."
            )

    @property
    def fewest(self) -> int:
        """How many clients the rule needs at least."""
        return 1

    @abstractmethod
    def total(self, x: SharedTensor, weights: SharedTensor | None, limits: Limits) -> SharedTensor:
        """The result times ``divisor``.

        Args:
            x: updates as integers, shape (n, d).
            weights: integers, shape (n,), for weighted rules.
            limits: largest numbers.

        Returns:
            Integers, shape (d,).
        """

    def divisor(self, clients: int) -> int:
        """By what the total is divided."""
        return 1

    @abstractmethod
    def total_cost(self, clients: int, dimension: int, prices: Prices, limits: Limits) -> Cost:
        """Declared price of ``total`` for updates that were not opened before."""

    def __call__(
        self, updates: SharedTensor, weights: SharedTensor | None = None, *, limits: Limits | None = None
    ) -> SharedTensor:
        """The result, shared. Cost: ``cost``.

        Args:
            updates: shape (n, d), at the scale of the limits.
            weights: shape (n,), shared integers, for weighted rules.
            limits: what clients declared; coordinates up to 8 if not given.

        Returns:
            Shape (d,).

        Raises:
            RuleError: weights for a rule that takes none, or none for one that does.
            TooFewClientsError: as ``require``.
            DeclaredLimitsError: as ``require``.
        """
        limits = _default(updates) if limits is None else limits
        return self.finished(self._total(updates, weights, limits), len(updates), limits)

    def finished(self, total: SharedTensor, clients: int, limits: Limits) -> SharedTensor:
        """The result, shared, from ``total`` of so many clients."""
        return words.reals(words.shrunk(total, self.divisor(clients)), limits.fraction_bits)

    def opened(
        self, updates: SharedTensor, weights: SharedTensor | None = None, *, limits: Limits | None = None
    ) -> Tensor:
        """The result, opened to the caller: ``__call__`` with the division after opening, so exact.

        Returns:
            float64, shape (d,).
        """
        limits = _default(updates) if limits is None else limits
        return self.finished_openly(self._total(updates, weights, limits), len(updates), limits)

    def finished_openly(self, total: SharedTensor, clients: int, limits: Limits) -> Tensor:
        """The result, opened to the caller, from ``total`` of so many clients."""
        integers: Tensor = total.get()
        return torch.from_numpy(integers.numpy() / float(self.divisor(clients) * 2**limits.fraction_bits))

    def _total(self, updates: SharedTensor, weights: SharedTensor | None, limits: Limits) -> SharedTensor:
        if updates.dim() != 2:
            raise ShapeError(f"Updates have shape (clients, coordinates), not {tuple(updates.shape)}; stack them.")
        if updates.encoding.base != 2 or updates.encoding.scale != limits.fraction_bits:
            raise PrecisionMismatchError(
                f"Updates carry {updates.encoding.scale} digits in base {updates.encoding.base}, the limits say "
                f"{limits.fraction_bits} bits; share with precision={limits.fraction_bits}."
            )
        if (weights is not None) != self.weighted:
            raise RuleError(f"{self.name} {'needs' if self.weighted else 'takes no'} weights.")
        self.require(updates.shape[0], updates.shape[1], limits)
        return self.total(words_of(updates), weights, limits)

    def cost(
        self, clients: int, dimension: int, prices: Prices, limits: Limits, *, opened: bool = False
    ) -> Cost:
        """Declared price: of ``opened`` with what goes to the driver, else of the call."""
        total = self.total_cost(clients, dimension, prices, limits)
        if opened:
            return total + Cost(rounds=1, party_bytes=8 * dimension)
        return total if self.divisor(clients) == 1 else total + truncation_cost(dimension, prices.parties)


def _default(updates: SharedTensor) -> Limits:
    return Limits(8.0, max(len(updates), 1), fraction_bits=updates.encoding.precision)


@dataclass(frozen=True)
class Sum(Rule):
    """The sum. No messages."""

    name: ClassVar[str] = "sum"
    additive: ClassVar[bool] = True

    def total(self, x: SharedTensor, weights: SharedTensor | None, limits: Limits) -> SharedTensor:
        """Sum of the rows."""
        return words.held(x.sum(0))

    def total_cost(self, clients: int, dimension: int, prices: Prices, limits: Limits) -> Cost:
        """Nothing."""
        return Cost()


@dataclass(frozen=True)
class Mean(Sum):
    """The mean: the sum, divided by the public number of clients."""

    name: ClassVar[str] = "mean"

    def divisor(self, clients: int) -> int:
        """The number of clients."""
        return clients


@dataclass(frozen=True)
class WeightedMean(Rule):
    """sum of w_i x_i / sum of w_i for secret weights: neither weights nor their sum are seen.

    Error: relative 2^-17 while the largest sum of weights is below 2^18 (``words.quotient``); if 2^s of room is missing
    for the product with the reciprocal, 2^s / sum of w_i units more.
    """

    name: ClassVar[str] = "weighted-mean"
    weighted: ClassVar[bool] = True

    def total(self, x: SharedTensor, weights: SharedTensor | None, limits: Limits) -> SharedTensor:
        """One product for numerators, one reciprocal of the sum of weights, one product."""
        assert weights is not None
        bits, shift = self._sizes(limits)
        summed = words.divided_product(MatrixProduct(), weights.view(1, -1), x, 1 << shift)
        return words.held(quotient(Product(), summed, weights.sum().view(1, 1), bits, shift).view(-1))

    def _sizes(self, limits: Limits) -> tuple[int, int]:
        bits = (limits.clients * limits.weight).bit_length()
        return bits, spare_shift(bits, limits.largest.bit_length())

    def total_cost(self, clients: int, dimension: int, prices: Prices, limits: Limits) -> Cost:
        """Updates and weights are opened under masks once."""
        bits, shift = self._sizes(limits)
        opened, parties = clients * dimension + clients, prices.parties
        if shift:
            numerators = products_cost(opened, dimension, 0, parties)
        else:
            numerators = bilinear_cost(opened, dimension, parties)
        return numerators + quotient_cost((1, dimension), bits, prices)
