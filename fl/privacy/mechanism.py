"""How much noise: from a bound on updates to the variance that each aggregator draws with.

Notation: f fraction bits, B = round(C 2^f) the clip in units, d coordinates, z the multiplier, S aggregators of whom t
are curious together. After clipping in MPC the integers of an update have length at most

    D = B + ceil(B / 256) + ceil(sqrt(d)),

the second term for the error of the factor, which is relative 2^-20 for updates near the bound and grows to 2^-11 for
those 2^13 times as long, the third for the rounding of each coordinate. So what remains is to have standard deviation
z D, and each aggregator draws with variance (z D)^2 / (S - t). All numbers are rational.

**Sums of discrete Gaussians** are not discrete Gaussians. With h = S - t of variance s each, the probability of every
integer is within exp(tau) of that of one of variance h s,

    tau = 10 sum over k = 1, ..., h - 1 of exp(-2 pi^2 s k / (k + 1))

(Kairouz, Liu, Steinke 2021, Theorem 1 with gamma = 1), for s from 1 / 4 on; ``slack`` is tau d. It is 0 for h = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch

from sharetorch.fl.privacy.errors import NoiseError
from sharetorch.mpc.discrete_gaussian import LARGEST_DEVIATION, as_integers
from sharetorch.mpc.tensor.shared import Handle, SharedTensor

_FACTOR_ERROR = 256
_LEAST_VARIANCE = 0.25


@dataclass(frozen=True)
class Noise:
    """How much noise there is on a sum.

    Attributes:
        multiplier: standard deviation of what remains, over the sensitivity.
        curious: how many aggregators may pool what they drew; all but one if None.

    Raises:
        NoiseError: a multiplier that is not positive, or a negative number of aggregators.
    """

    multiplier: float
    curious: int | None = None

    def __post_init__(self) -> None:
        """Check both."""
        if not (math.isfinite(self.multiplier) and self.multiplier > 0):
            raise NoiseError(f"A noise multiplier of {self.multiplier} gives no privacy; give a positive number.")
        if self.curious is not None and self.curious < 0:
            raise NoiseError(f"curious is {self.curious}; it is a number of aggregators.")

    def honest(self, aggregators: int) -> int:
        """How many aggregators' noise must suffice.

        Raises:
            NoiseError: none would be left.
        """
        curious = aggregators - 1 if self.curious is None else self.curious
        if curious >= aggregators:
            raise NoiseError(
                f"{curious} of {aggregators} aggregators may pool what they drew: nobody's noise remains. Lower "
                "curious, or take more aggregators."
            )
        return aggregators - curious

    def own_variance(self, sensitivity: int, aggregators: int) -> Fraction:
        """Of each aggregator's noise, in units squared.

        Args:
            sensitivity: in units.
            aggregators: how many draw.

        Raises:
            NoiseError: more than can be drawn.
        """
        found = (Fraction(self.multiplier) * sensitivity) ** 2 / self.honest(aggregators)
        if found >= LARGEST_DEVIATION**2:
            raise NoiseError(
                f"Noise of {self.multiplier:g} times {sensitivity} units, beyond the {LARGEST_DEVIATION} that can be "
                "drawn. Use fewer fraction bits, or a smaller clip."
            )
        return found

    def slack(self, sensitivity: int, aggregators: int, dimension: int) -> float:
        """What the accountant is told of the noise being a sum; see ``accounting.Step``.

        Raises:
            NoiseError: noise so narrow that there is no bound.
        """
        variance = float(self.own_variance(sensitivity, aggregators))
        if self.honest(aggregators) > 1 and variance < _LEAST_VARIANCE:
            raise NoiseError(
                f"Each aggregator's noise has variance {variance:.2g} in units, and sums of noise narrower than "
                f"{_LEAST_VARIANCE} have no bound. Use more fraction bits, a larger multiplier, or curious=None."
            )
        terms = (math.exp(-2 * math.pi**2 * variance * k / (k + 1)) for k in range(1, self.honest(aggregators)))
        return 10 * sum(terms) * dimension

    def __call__(self, x: SharedTensor, sensitivity: int) -> SharedTensor:
        """A shared tensor with noise. Cost: no messages."""
        return noised(x, self.own_variance(sensitivity, len(x.session.parties)))


def sensitivity(bound: int, dimension: int) -> int:
    """Largest length of a clipped update, in units: D of the module's docstring.

    Args:
        bound: B.
        dimension: d.
    """
    return bound + -(-bound // _FACTOR_ERROR) + math.isqrt(dimension) + 1


def noised(x: SharedTensor, variance: Fraction) -> SharedTensor:
    """x with the noise of every party: each draws an integer of this variance for each element, in units.

    Args:
        x: numbers or integers of any session.
        variance: of each party's own, in units squared.

    Raises:
        EncodingRangeError: it cannot be drawn.

    Cost: ``noise_cost``: no messages.
    """
    numerator, digits = as_integers(variance)
    (number,) = x.session.command("add_noise", x.handle.number, variance=numerator, digits=digits)
    shadow = torch.empty(tuple(x.shape), dtype=x.dtype, device="meta")
    return SharedTensor(Handle(x.session, number, x.encoding), shadow)
