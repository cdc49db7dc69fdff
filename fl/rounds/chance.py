"""Public random numbers that follow from a seed: who gets which items, who takes part, in which order batches come.

They hide nothing. Each use has a stream of its own, under a key made of the seed and of words that say what it is for,
so a round that is repeated after an interruption draws the same numbers, and clients that run at the same time do not
disturb each other.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray

from sharetorch.mpc.randomness import Stream

_PURPOSE = b"sharetorch/v1/public chance of federated rounds"
Floats = NDArray[np.float64]


class Chance:
    """Random numbers, always the same for the same seed and words.

    Args:
        seed: any integer.
        words: what the numbers are for.
    """

    def __init__(self, seed: int, *words: str | int) -> None:
        text = json.dumps([seed, *words]).encode()
        self._stream = Stream(hashlib.sha256(_PURPOSE + text).digest()[:16])

    def permutation(self, count: int) -> NDArray[np.int64]:
        """The integers below ``count`` in random order."""
        return np.argsort(self._words(count), kind="stable")

    def chosen(self, count: int, wanted: int) -> list[int]:
        """So many of the integers below ``count``, each at most once, in ascending order."""
        return sorted(int(place) for place in self.permutation(count)[:wanted])

    def uniform(self, count: int) -> Floats:
        """Numbers between 0 and 1, both excluded."""
        return ((self._words(count) >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53

    def normal(self, count: int) -> Floats:
        """Standard normal numbers [Box and Muller 1958]."""
        radius, angle = np.sqrt(-2 * np.log(self.uniform(count))), 2 * np.pi * self.uniform(count)
        return np.asarray(radius * np.cos(angle))

    def proportions(self, count: int, alpha: float) -> Floats:
        """One draw of the symmetric Dirichlet distribution: ``count`` numbers that sum to 1.

        They are gamma numbers over their sum. The logarithms are kept: for a small alpha the numbers themselves would
        be zeros.
        """
        logs = np.log(self._gamma(alpha + 1, count)) + np.log(self.uniform(count)) / alpha
        parts = np.exp(logs - logs.max())
        return np.asarray(parts / parts.sum())

    def _gamma(self, shape: float, count: int) -> Floats:
        """Gamma numbers of a shape of at least 1 [Marsaglia and Tsang 2000]."""
        d = shape - 1 / 3
        found = np.empty(0)
        while len(found) < count:
            x, u = self.normal(count), self.uniform(count)
            v = (1 + x / np.sqrt(9 * d)) ** 3
            possible = v > 0
            x, u, v = x[possible], u[possible], v[possible]
            found = np.concatenate([found, (d * v)[np.log(u) < x * x / 2 + d - d * v + d * np.log(v)]])
        return found[:count]

    def _words(self, count: int) -> NDArray[np.uint64]:
        return self._stream.bytes(8 * count).view(np.uint64)
