"""Integers from a discrete Gaussian distribution: x with probability proportional to exp(-x^2 / (2 s)), s rational.

No floating-point number takes part. Tables hold probabilities to 128 bits, from decimal numbers of 90 digits; a
probability p is met by a uniform number u below p, of which 64 bits are drawn, and 64 more where those are equal.

With K = 2^k, the largest k >= 0 such that 64 K^2 <= s:

1. a >= 0 with probability proportional to exp(-(K a)^2 / (2 s)), by comparison with all entries of a table.
2. b uniform in [0, K), and a uniform sign.
3. Keep with probability exp(-t / (2 s)) for t = 2 K a b + b^2, which makes it exp(-(K a + b)^2 / (2 s)) in all. The
   exponential is the product over the bits of t, and each factor a trial of its own, made even where the bit is 0.
4. Drop half of the zeros, which have two signs. Draw others for what was not kept, a few in a hundred.

**Distance.** At most 216 entries and 59 factors, each off by at most 2^-128, and what lies beyond the table's end: in
statistical distance an integer is within 2^-118 of the distribution. **Time.** Which entries are looked at, and how
many trials are made, does not depend on the integers that are kept; only numbers that agree in 64 bits take another
way, once in 2^56.

Discrete Gaussians, their privacy and exact samplers: Canonne, Kamath, Steinke 2020. Steps 1-3 with trials by bits:
Ducas, Durmus, Lepoint, Lyubashevsky 2013, section 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sharetorch.mpc.errors import EncodingRangeError
from sharetorch.mpc.randomness import Stream

LARGEST_DEVIATION = 1 << 28
"""Standard deviations stay below this."""
TABLE_BITS = 128
NUMERATOR_BITS = 62
_DIGITS = 90
_ROOM = 64
_CHUNK = 1 << 14
_WORD = 1 << 64

Words = NDArray[np.uint64]
Integers = NDArray[np.int64]


class Thresholds:
    """Probabilities to 128 bits, against which uniform numbers are compared.

    Args:
        values: probabilities times 2^128, rounded down, each below 2^128, ascending.
    """

    def __init__(self, values: Sequence[int]) -> None:
        self._values = list(values)
        self._high = [np.uint64(value >> 64) for value in values]

    def __len__(self) -> int:
        return len(self._values)

    def reached(self, stream: Stream, count: int) -> NDArray[np.uint8]:
        """For each of ``count`` uniform numbers, how many probabilities it reaches, at most 255."""
        drawn = stream.bytes(8 * count).view(np.uint64)
        found, equal = np.zeros(count, np.uint8), np.zeros(count, np.bool_)
        flag = np.empty(count, np.bool_)
        for high in self._high:
            np.greater_equal(drawn, high, out=flag)
            found += flag
            np.equal(drawn, high, out=flag)
            equal |= flag
        for place in np.flatnonzero(equal):
            low = int.from_bytes(stream.bytes(8).tobytes(), "little")
            whole = int(drawn[place]) << 64 | low
            found[place] = sum(whole >= value for value in self._values)
        return found


class DiscreteGaussian:
    """The distribution of a variance parameter s: for s of 1 and more its variance, up to a relative 10^-6.

    Args:
        parameter: s, positive.

    Raises:
        EncodingRangeError: s is not positive, or 2^56 and more.
    """

    def __init__(self, parameter: Fraction) -> None:
        if not 0 < parameter < LARGEST_DEVIATION**2:
            raise EncodingRangeError(
                f"Noise of variance {float(parameter):g} in units of the ring cannot be drawn: it must be positive and "
                f"its standard deviation below {LARGEST_DEVIATION}. Use fewer fraction bits, or less noise."
            )
        self.parameter = parameter
        self._k = max(0, (int(parameter / _ROOM).bit_length() - 1) // 2)
        with localcontext() as context:
            context.prec = _DIGITS
            rate = Decimal(parameter.denominator) / (2 * Decimal(parameter.numerator))
            weights = _weights(rate * 4**self._k)
            self._coarse = Thresholds(_cumulated(weights))
            step = (1 << self._k) - 1
            most = 2 * (len(weights) - 1) * step * (step + 1) + step * step
            self._factors = [Thresholds([_scaled((-rate * 2**i).exp())]) for i in range(most.bit_length())]

    def draw(self, stream: Stream, count: int) -> Integers:
        """So many independent integers."""
        found = np.empty(count, np.int64)
        place = 0
        while place < count:
            kept = self._candidates(stream, min(_CHUNK, count - place + count // 8 + 16))
            part = kept[: count - place]
            found[place : place + len(part)] = part
            place += len(part)
        return found

    def _candidates(self, stream: Stream, count: int) -> Integers:
        """What is kept of ``count`` candidates."""
        a = self._coarse.reached(stream, count).astype(np.int64)
        rest = stream.bytes(8 * count).view(np.uint64)
        b = (rest & np.uint64((1 << self._k) - 1)).astype(np.int64)
        negative = (rest >> np.uint64(63)).astype(np.bool_)
        size = (a << self._k) + b
        t = ((a * b) << (self._k + 1)) + b * b
        kept = ~(negative & (size == 0))
        for i, factor in enumerate(self._factors):
            failed = factor.reached(stream, count).view(np.bool_)
            kept &= ~(failed & ((t >> i) & 1).astype(np.bool_))
        integers: Integers = np.where(negative, -size, size)[kept]
        return integers


def _weights(rate: Decimal) -> list[Decimal]:
    """exp(-rate a^2) for a = 0, 1, ..., down to 2^-128 of the first."""
    smallest, found = Decimal(2) ** -TABLE_BITS, [Decimal(1)]
    while found[-1] > smallest:
        found.append((-rate * len(found) ** 2).exp())
    return found


def _cumulated(weights: Sequence[Decimal]) -> list[int]:
    total, sofar, found = sum(weights), Decimal(0), []
    for weight in weights[:-1]:
        sofar += weight
        found.append(_scaled(sofar / total))
    return found


def _scaled(probability: Decimal) -> int:
    return min(int(probability * 2**TABLE_BITS), (1 << TABLE_BITS) - 1)


@lru_cache(maxsize=16)
def discrete_gaussian(parameter: Fraction) -> DiscreteGaussian:
    """The distribution of a parameter, with its tables made once."""
    return DiscreteGaussian(parameter)


def as_integers(parameter: Fraction) -> tuple[int, int]:
    """n and e with n / 2^e the least such number from the parameter on, n of at most 62 bits: as commands carry it."""
    digits = NUMERATOR_BITS - 1 - (parameter.numerator // parameter.denominator).bit_length()
    return -((-parameter.numerator << digits) // parameter.denominator), digits
