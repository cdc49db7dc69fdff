"""Cosine scores against a trusted update, after FLTrust (Cao, Fang, Liu, Gong 2021).

Notation: g the trusted update, public, |g| = G at scale 2^f, 2^(k-1) < G <= 2^k; x_i an update as integers. With
    TS_i = max(0, cos(x_i, g)),      result = sum of TS_i (G / |x_i|) x_i / sum of TS_i,
each client counts by its direction: its length is made that of g.

    1  a_i = <x_i, g / |g|> at scale 2^20, without messages, since g is public; q_i = |x_i|^2 from one masked opening
    2  s_i = 2^k / |x_i| at scale 2^24, from v_i = max(q_i / 4^k, 2^-12): far shorter updates are not blown up further
    3  TS_i = relu(a_i / 2^k) s_i at scale 2^20
    4  c_i = TS_i s_i G / 2^k at scale 2^20; sum of c_i x_i; X is open already
    5  one reciprocal of the sum of TS_i
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sharetorch.fl.aggregation.bounding import ROOT_BITS, require_lengths, scale_bits, squared_lengths
from sharetorch.fl.aggregation.errors import RuleError
from sharetorch.fl.aggregation.limits import Limits
from sharetorch.fl.aggregation.rules import Rule
from sharetorch.fl.aggregation.words import (
    divided_product,
    held,
    inverse_roots,
    quotient,
    quotient_cost,
    rectified,
    shifted,
    spare_shift,
)
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.protocols.arithmetic import bilinear_cost
from sharetorch.mpc.protocols.bilinear import MatrixProduct, Product
from sharetorch.mpc.protocols.functions import inverse_square_root_cost
from sharetorch.mpc.protocols.products import products_cost
from sharetorch.mpc.protocols.selection import Prices
from sharetorch.mpc.protocols.truncation import truncation_cost
from sharetorch.mpc.tensor.shared import SharedTensor

SCORE_BITS = 20
_RATIO_BITS = 10
_FLOOR = 1 << (ROOT_BITS - 12)


@dataclass(frozen=True, eq=False, repr=False)
class Trust(Rule):
    """Updates weighted by their cosine with a trusted one, all at its length.

    Attributes:
        trusted: a public update, shape (d,), not 0: what the driver computed on data of its own.

    Raises:
        RuleError: not one vector of finite numbers, or 0.
    """

    trusted: Tensor
    name: ClassVar[str] = "fltrust"
    bounded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the trusted update."""
        if self.trusted.dim() != 1 or not math.isfinite(self._length) or self._length == 0:
            raise RuleError(
                f"A trusted update of shape {tuple(self.trusted.shape)} must be one vector of finite numbers other "
                "than 0: it gives direction and length."
            )

    def __repr__(self) -> str:
        return f"Trust({len(self.trusted)} coordinates, length {self._length:g})"

    @property
    def _length(self) -> float:
        return float(torch.linalg.vector_norm(self.trusted.to(torch.float64)))

    def _integer_length(self, limits: Limits) -> int:
        return max(1, round(self._length * limits.encoding.unit))

    def require(self, clients: int, dimension: int, limits: Limits) -> None:
        """As ``Rule.require``."""
        super().require(clients, dimension, limits)
        if len(self.trusted) != dimension:
            raise RuleError(f"The trusted update has {len(self.trusted)} coordinates, the updates have {dimension}.")
        length = self._integer_length(limits)
        limits.require(length, "the trusted length")
        require_lengths(limits, dimension, length)
        longest = math.isqrt(dimension * limits.largest**2) + 1
        limits.require(longest << SCORE_BITS, "the product with the trusted update")
        limits.require(2 * clients * ((length << SCORE_BITS) + longest), "the sum of scores times updates")

    def total(self, x: SharedTensor, weights: SharedTensor | None, limits: Limits) -> SharedTensor:
        """Steps 1 to 5."""
        length = self._integer_length(limits)
        k, bits = scale_bits(length), self._bits(len(x))
        shift = spare_shift(bits, k + 1)
        direction = (self.trusted.to(torch.float64) / self._length * 2**SCORE_BITS).round().to(torch.int64)
        along = torch.mm(x, direction.view(-1, 1))
        short = shifted(squared_lengths(x), ROOT_BITS - 2 * k)
        roots = inverse_roots(rectified(short - _FLOOR) + _FLOOR, 1 << ROOT_BITS)
        scores = divided_product(Product(), rectified(shifted(along, -k)), roots, 1 << ROOT_BITS)
        lengths = roots * round(length * 2.0 ** (_RATIO_BITS - k))
        factors = divided_product(Product(), scores, lengths, 1 << (ROOT_BITS + _RATIO_BITS))
        summed = divided_product(MatrixProduct(), factors.view(1, -1), x, 1 << shift)
        return held(quotient(Product(), summed, scores.sum().view(1, 1), bits, shift).view(-1))

    def _bits(self, clients: int) -> int:
        """Bits of the sum of scores."""
        return SCORE_BITS + clients.bit_length()

    def total_cost(self, clients: int, dimension: int, prices: Prices, limits: Limits) -> Cost:
        """Updates are opened once; all but the two products at the end depends on the number of clients alone."""
        n, parties = clients, prices.parties
        k, bits = scale_bits(self._integer_length(limits)), self._bits(clients)
        if spare_shift(bits, k + 1):
            numerators = products_cost(n, dimension, 0, parties)
        else:
            numerators = bilinear_cost(n, dimension, parties)
        cuts = (2 * k > ROOT_BITS) + (k > 0)
        cost = bilinear_cost(n * dimension, n, parties) + inverse_square_root_cost(n, 1 << ROOT_BITS, prices)
        for _ in range(cuts):
            cost += truncation_cost(n, parties)
        for _ in range(2):
            cost += prices.choose(n, 1) + products_cost(2 * n, n, 0, parties)
        return cost + numerators + quotient_cost((1, dimension), bits, prices)
