"""Rules whose result is differentially private: every update clipped in MPC, summed, with noise that nobody knows.

They are rules as any other of ``fl.aggregation``: for an ``Aggregation``, a ``Treatment`` in any session, a
``HiddenAggregator``. The clip belongs to the rule, so that noise and clip cannot be apart. To clients and aggregators a
round is named after what is computed of the updates: "sum" or "mean".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from sharetorch.fl.aggregation import words
from sharetorch.fl.aggregation.bounding import clip_cost, clip_lengths, require_clipping
from sharetorch.fl.aggregation.limits import Limits
from sharetorch.fl.aggregation.rules import Rule
from sharetorch.fl.privacy.accounting import Step
from sharetorch.fl.privacy.errors import NoiseError
from sharetorch.fl.privacy.mechanism import Noise, sensitivity
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.discrete_gaussian import LARGEST_DEVIATION
from sharetorch.mpc.protocols.noise import noise_cost
from sharetorch.mpc.protocols.selection import Prices
from sharetorch.mpc.tensor.shared import SharedTensor

_DEVIATIONS = 14
"""No integer of the noise is further out, but with probability 2^-128."""


@dataclass(frozen=True)
class PrivateSum(Rule):
    """The sum of clipped updates with discrete Gaussian noise.

    Attributes:
        clip: largest length of an update (L2); longer ones are shortened.
        multiplier: standard deviation of the noise that is sure to remain, over the sensitivity.
        curious: how many aggregators may pool their noise; all but one if None.

    Raises:
        NoiseError: a number outside its range.
    """

    clip: float
    multiplier: float
    curious: int | None = None
    name: ClassVar[str] = "sum"
    bounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise NoiseError(f"clip={self.clip} is no length; give a positive number.")
        Noise(self.multiplier, self.curious)

    @property
    def noise(self) -> Noise:
        """What is added."""
        return Noise(self.multiplier, self.curious)

    def bound(self, limits: Limits) -> int:
        """The clip in units."""
        return round(self.clip * limits.encoding.unit)

    def sensitivity(self, dimension: int, limits: Limits) -> int:
        """Largest length of one update in the sum, in units."""
        return sensitivity(self.bound(limits), dimension)

    def deviation(self, dimension: int, limits: Limits, aggregators: int) -> float:
        """Standard deviation of a coordinate of the opened sum: that of all aggregators' noise together."""
        own = self.noise.own_variance(self.sensitivity(dimension, limits), aggregators)
        return math.sqrt(own * aggregators) / limits.encoding.unit

    def step(self, dimension: int, limits: Limits, aggregators: int, sampling: float = 1.0) -> Step:
        """What one round is for the accountant.

        Args:
            dimension: coordinates of an update.
            limits: of the round.
            aggregators: how many there are.
            sampling: see ``accounting``.
        """
        slack = self.noise.slack(self.sensitivity(dimension, limits), aggregators, dimension)
        return Step(self.multiplier, sampling, 1, slack)

    def require(self, clients: int, dimension: int, limits: Limits) -> None:
        """As ``Rule.require``, with what clipping and noise need.

        Raises:
            NoiseError: more noise than can be drawn.
        """
        super().require(clients, dimension, limits)
        require_clipping(limits, dimension, self.bound(limits))
        largest = self.multiplier * self.sensitivity(dimension, limits)
        if largest >= LARGEST_DEVIATION:
            raise NoiseError(
                f"Noise of standard deviation {largest:.3g} units; {LARGEST_DEVIATION} can be drawn. Use fewer than "
                f"{limits.fraction_bits} fraction bits, or a smaller clip."
            )
        limits.require(clients * limits.largest + _DEVIATIONS * LARGEST_DEVIATION, "the sum of all updates with noise")

    def total(self, x: SharedTensor, weights: SharedTensor | None, limits: Limits) -> SharedTensor:
        """Clip, sum, add noise."""
        total = words.held(clip_lengths(x, self.bound(limits)).sum(0))
        return self.noise(total, self.sensitivity(x.shape[1], limits))

    def total_cost(self, clients: int, dimension: int, prices: Prices, limits: Limits) -> Cost:
        """That of clipping; noise costs nothing."""
        return clip_cost(clients, dimension, self.bound(limits), prices) + noise_cost()


@dataclass(frozen=True)
class PrivateMean(PrivateSum):
    """``PrivateSum`` divided by the number of clients in the set, which is public."""

    name: ClassVar[str] = "mean"

    def divisor(self, clients: int) -> int:
        """The number of clients."""
        return clients
