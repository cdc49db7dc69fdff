"""Updates as integers modulo 2^64, and sums of them as numbers.

A value v with weight q is the integer q round(2^f v); the weight is one more coordinate, the last. With |round(2^f v)|
at most B and q at most Q, the sum of n clients has magnitude n B Q < 2^63 at most: it never wraps around, so the sum
over Z_2^64 is the sum over the integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.mpc.errors import (
    ConfigurationError,
    DivisionByZeroError,
    EncodingRangeError,
    NotFiniteError,
    ShapeError,
    UnsupportedDtypeError,
)

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Limits:
    """What a client may send.

    Attributes:
        value: magnitude of a coordinate, at most.
        weight: of a client, at most; weights are integers, such as numbers of examples.
        fraction_bits: a coordinate is rounded to 2^-fraction_bits.
    """

    value: float
    weight: int = 1
    fraction_bits: int = 16

    @property
    def largest(self) -> int:
        """Magnitude of an encoded value, at most."""
        return math.ceil(self.value * (1 << self.fraction_bits))

    def require_room(self, members: int) -> None:
        """Refuse limits under which a sum could wrap around.

        Raises:
            ConfigurationError: n * largest * weight is not below 2^63, or a limit is none.
        """
        if not (0 < self.value < math.inf and self.weight >= 1 and 0 <= self.fraction_bits <= 62):
            raise ConfigurationError(f"{self} are no limits: value and weight are positive, bits are 0 to 62.")
        require_room(members, self.largest, self.weight)


def require_room(members: int, largest: int, weight: int) -> None:
    """Refuse limits under which a sum could wrap around.

    Raises:
        ConfigurationError: it could.
    """
    if members * largest * weight >= 1 << 63:
        raise ConfigurationError(
            f"{members} clients with values up to {largest} and weights up to {weight} could reach "
            f"2^{(members * largest * weight).bit_length() - 1}, and sums from 2^63 on wrap around. Take fewer "
            "fraction bits, or lower limits."
        )


def encode(update: Tensor | NDArray[Any], weight: int, fraction_bits: int, largest: int, most: int) -> Words:
    """Write a weighted update and its weight.

    Args:
        update: shape (d,), reals or integers.
        weight: an integer in [0, most].
        fraction_bits: digits kept.
        largest: magnitude of an encoded value, at most.
        most: weight, at most.

    Returns:
        Shape (d + 1,).

    Raises:
        EncodingRangeError: a value or the weight is beyond its limit. Nothing is cut off.
        NotFiniteError: NaN or infinity.
        ShapeError: the update is no vector.
        UnsupportedDtypeError: it holds neither reals nor integers, or the weight is no integer.
    """
    values = update.detach().cpu().numpy() if isinstance(update, Tensor) else np.asarray(update)
    if values.ndim != 1:
        raise ShapeError(f"An update of shape {values.shape} is no vector; flatten it first.")
    if isinstance(weight, bool) or not isinstance(weight, int):
        raise UnsupportedDtypeError(f"A weight is an integer, such as a number of examples; got {type(weight)}.")
    if not 0 <= weight <= most:
        raise EncodingRangeError(f"A weight is at least 0 and in this round at most {most}; scale the weights down.")
    words = np.empty(values.size + 1, np.int64)
    words[:-1] = _scaled(values, fraction_bits, largest) * np.int64(weight)
    words[-1] = weight
    return words.view(np.uint64)


def _scaled(values: NDArray[Any], fraction_bits: int, largest: int) -> NDArray[np.int64]:
    if values.dtype.kind in "iu":
        bound = largest >> fraction_bits
        if values.size and (int(values.max()) > bound or int(values.min()) < -bound):
            _refuse(largest, fraction_bits)
        return np.asarray(values.astype(np.int64) << fraction_bits, np.int64)
    if values.dtype.kind != "f":
        raise UnsupportedDtypeError(f"An update of {values.dtype} holds neither reals nor integers.")
    wide = values.astype(np.float64)
    if not np.isfinite(wide).all():
        raise NotFiniteError("The update holds NaN or infinity, which no integer can stand for; clean it first.")
    with np.errstate(over="ignore"):
        scaled = np.rint(wide * 2.0**fraction_bits)
    if scaled.size and float(np.abs(scaled).max()) > largest:
        _refuse(largest, fraction_bits)
    return np.asarray(scaled, np.int64)


def _refuse(largest: int, fraction_bits: int) -> None:
    raise EncodingRangeError(
        f"A coordinate is beyond the limit of this round, a magnitude of {largest / 2**fraction_bits:g}. It is not cut "
        "off; clip the update before, or agree on a higher limit."
    )


@dataclass(frozen=True)
class Aggregate:
    """The result of a round.

    Attributes:
        total: sum of weight * round(2^fraction_bits * value) over the survivors, exactly, shape (d,).
        weight: sum of the weights.
        survivors: whose updates are in it.
        fraction_bits: of the encoding.
    """

    total: NDArray[np.int64]
    weight: int
    survivors: tuple[str, ...]
    fraction_bits: int

    def mean(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """The weighted mean, shape (d,).

        Raises:
            DivisionByZeroError: all weights are 0.
        """
        if self.weight == 0:
            raise DivisionByZeroError(
                f"The weights of all {len(self.survivors)} survivors are 0, so there is no mean. Give a positive one."
            )
        return (torch.from_numpy(self.total).to(torch.float64) / (self.weight * 2.0**self.fraction_bits)).to(dtype)
