"""What clients declare of their updates before anything is accepted, checked against the ring.

A number v is held as the integer round(v 2^f). Aggregation is exact as long as no integer on the way reaches 2^62.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sharetorch.fl.aggregation.errors import DeclaredLimitsError
from sharetorch.mpc.fixedpoint import DEFAULT_FRACTION_BITS, Encoding, fixed

WORD_BITS = 62
"""Magnitudes stay below 2^62, where comparison and truncation are exact."""


@dataclass(frozen=True)
class Limits:
    """Largest numbers of an aggregation.

    Attributes:
        coordinate: largest magnitude of a coordinate of an update.
        clients: most clients whose updates are taken.
        weight: largest weight, a whole number.
        fraction_bits: digits of a coordinate after the point, in base 2.
        least: fewest clients whose updates may be aggregated: the sum over one client is that client's update. Every
            aggregator checks it before it hands out a share.

    Raises:
        DeclaredLimitsError: a limit is no positive number, more clients are demanded than taken, or the weighted sum of
            all updates could overflow.
        EncodingError: fraction bits that leave no room for products.
    """

    coordinate: float
    clients: int
    weight: int = 1
    fraction_bits: int = DEFAULT_FRACTION_BITS
    least: int = 1

    def __post_init__(self) -> None:
        """Check everything that does not depend on the rule."""
        fixed(self.fraction_bits)
        positive = math.isfinite(self.coordinate) and self.coordinate > 0 and self.clients >= 1 and self.weight >= 1
        if not positive:
            raise DeclaredLimitsError(f"{self} holds a limit that is no positive number; declare what clients send.")
        if not 1 <= self.least <= self.clients:
            raise DeclaredLimitsError(
                f"At least {self.least} of at most {self.clients} clients are demanded; declare 1 to {self.clients}."
            )
        self.require(self.largest * self.clients * self.weight, "the weighted sum of all updates")

    @property
    def encoding(self) -> Encoding:
        """How coordinates are written as integers."""
        return fixed(self.fraction_bits)

    @property
    def largest(self) -> int:
        """The integer of the largest coordinate."""
        return max(1, round(self.coordinate * self.encoding.unit))

    def require(self, magnitude: int, what: str) -> None:
        """Raise unless an integer of this magnitude fits.

        Raises:
            DeclaredLimitsError: it could reach 2^62 and wrap around.
        """
        if magnitude >= 1 << WORD_BITS:
            raise DeclaredLimitsError(
                f"With coordinates up to {self.coordinate:g}, {self.clients} clients, weights up to {self.weight} and "
                f"{self.fraction_bits} fraction bits {what} could reach 2^{magnitude.bit_length() - 1}, beyond the "
                "2^62 up to which results are exact. Declare smaller limits or fewer fraction bits."
            )
