"""From shared updates to one shared vector: range, length, rule. Works on tensors of any session."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sharetorch.fl.aggregation import words
from sharetorch.fl.aggregation.bounding import (
    clip_cost,
    clip_lengths,
    range_cost,
    require_clipping,
    require_whole_ring,
    within_range,
)
from sharetorch.fl.aggregation.errors import DeclaredLimitsError
from sharetorch.fl.aggregation.limits import Limits
from sharetorch.fl.aggregation.rules import Rule
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.protocols.selection import Prices
from sharetorch.mpc.session import Session
from sharetorch.mpc.tensor.shared import SharedTensor


@dataclass(frozen=True)
class Treatment:
    """What is done with updates.

    Attributes:
        rule: what is made of them.
        limits: what clients declared.
        clip: largest length of an update (L2); None for no clipping.
        bounded: whether coordinates and weights are forced into the declared range; None: weights always, coordinates
            if the rule or ``clip`` needs it.

    Raises:
        DeclaredLimitsError: the length is no positive number.
    """

    rule: Rule
    limits: Limits
    clip: float | None = None
    bounded: bool | None = None

    def __post_init__(self) -> None:
        """Check the length."""
        if self.clip is not None:
            if not math.isfinite(self.clip):
                raise DeclaredLimitsError(f"clip={self.clip} is no length; give a positive number.")
            require_clipping(self.limits, 1, self._length)

    @property
    def _length(self) -> int:
        return 0 if self.clip is None else round(self.clip * 2**self.limits.fraction_bits)

    @property
    def in_range(self) -> bool:
        """Whether coordinates are forced into the declared range."""
        return (self.rule.bounded or self.clip is not None) if self.bounded is None else self.bounded

    @property
    def weights_in_range(self) -> bool:
        """Whether weights are forced into the declared range."""
        return self.rule.weighted and self.bounded is not False

    @property
    def additive(self) -> bool:
        """Whether the result comes of the sum of the updates as they are."""
        return self.rule.additive and not self.in_range and self.clip is None

    def require_session(self, session: Session) -> None:
        """Raise ``UnsupportedOperationError`` if the session cannot force into a range what is to be."""
        if self.in_range or self.weights_in_range:
            require_whole_ring(session)

    def require(self, clients: int, dimension: int) -> None:
        """As ``Rule.require``, with what clipping needs."""
        if self.clip is not None:
            require_clipping(self.limits, dimension, self._length)
        self.rule.require(clients, dimension, self.limits)

    def __call__(
        self, updates: SharedTensor | Sequence[SharedTensor], weights: SharedTensor | None = None
    ) -> SharedTensor:
        """The result, shared.

        Args:
            updates: shape (n, d), or n of shape (d,), for example contributed by their owners.
            weights: shared integers, shape (n,), for weighted rules.
        """
        return self.rule(*self._bounded(updates, weights), limits=self.limits)

    def opened(
        self, updates: SharedTensor | Sequence[SharedTensor], weights: SharedTensor | None = None
    ) -> Tensor:
        """The result, opened to the caller: float64. Arguments as for a call."""
        return self.rule.opened(*self._bounded(updates, weights), limits=self.limits)

    def _bounded(
        self, updates: SharedTensor | Sequence[SharedTensor], weights: SharedTensor | None
    ) -> tuple[SharedTensor, SharedTensor | None]:
        given = updates if isinstance(updates, SharedTensor) else words.held(torch.stack(list(updates)))
        if given.dim() != 2:
            raise ShapeError(f"Updates have shape (clients, coordinates), not {tuple(given.shape)}; stack them.")
        self.require(given.shape[0], given.shape[1])
        self.require_session(given.session)
        if self.weights_in_range and weights is not None:
            weights = within_range(weights, 0, self.limits.weight)
        if self.in_range:
            x = within_range(words.words_of(given), -self.limits.largest, self.limits.largest)
            given = words.reals(x, self.limits.fraction_bits)
        if self.clip is not None:
            given = words.reals(clip_lengths(words.words_of(given), self._length), self.limits.fraction_bits)
        return given, weights

    def cost(self, clients: int, dimension: int, prices: Prices, *, opened: bool = False) -> Cost:
        """Declared price, of ``opened`` with what goes to the driver, else of a call."""
        total = self.rule.cost(clients, dimension, prices, self.limits, opened=opened)
        if self.clip is not None:
            total = clip_cost(clients, dimension, self._length, prices) + total
        if self.weights_in_range:
            total = range_cost(clients, prices) + total
        return range_cost(clients * dimension, prices) + total if self.in_range else total
