"""Protocol suites: what a session's members run for products, truncation and comparison.

A suite is stateless. Everything above it (selection, functions) calls it through ``party.suite``, so a new protocol is
a new suite and nothing else. ``Plaintext`` runs the same programs with one party that holds everything in the clear: it
is the reference the others are tested against, and the arithmetic behind ``fix_precision()``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from sharetorch.mpc.errors import UnsupportedOperationError
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols import arithmetic, securenn, securenn_paper, selection, truncation
from sharetorch.mpc.protocols.bilinear import BilinearMap, Product
from sharetorch.mpc.share import ArithmeticShare

TRUNCATIONS = {
    "probabilistic": truncation.truncate,
    "exact": truncation.truncate_exact,
    "local": truncation.truncate_local,
}
"""Ways to divide by a public number, by the name users give."""


class Suite(ABC):
    """The primitives of a protocol."""

    name: str

    @abstractmethod
    async def non_negative(self, party: Party, x: ArithmeticShare) -> ArithmeticShare:
        """Shares of [x >= 0] as 0 and 1."""

    async def bilinear(self, party: Party, f: BilinearMap, x: ArithmeticShare, y: ArithmeticShare) -> ArithmeticShare:
        """Shares of f(x, y)."""
        return await arithmetic.bilinear(party, f, x, y)

    async def multiply(self, party: Party, x: ArithmeticShare, y: ArithmeticShare) -> ArithmeticShare:
        """Shares of x * y elementwise."""
        return await self.bilinear(party, Product(), x, y)

    async def truncate(
        self, party: Party, x: ArithmeticShare, divisor: int, method: str = "probabilistic"
    ) -> ArithmeticShare:
        """Shares of x / divisor by the method of that name."""
        if method not in TRUNCATIONS:
            raise UnsupportedOperationError(f"There is no truncation {method!r}; use one of {', '.join(TRUNCATIONS)}.")
        return await TRUNCATIONS[method](party, x, divisor)

    async def maximum(self, party: Party, x: ArithmeticShare) -> selection.Maximum:
        """Maximum over dimension 0, its first index, and the trail for the way back."""
        return await selection.maximum_tree(party, x)

    async def route(self, party: Party, gradient: ArithmeticShare, trail: ArithmeticShare, n: int) -> ArithmeticShare:
        """Send a gradient back along the trail of a maximum over n elements."""
        return await selection.route_tree(party, gradient, trail, n)

    def trail_rows(self, n: int) -> int:
        """Size of dimension 0 of a trail."""
        return selection.tree_rows(n)


class SecureNN(Suite):
    """Comparisons by DReLU* (three rounds). Two parties and the provider."""

    name = "securenn"

    async def non_negative(self, party: Party, x: ArithmeticShare) -> ArithmeticShare:
        """Shares of [x >= 0] as 0 and 1."""
        return await securenn.non_negative(party, x)


class SecureNNPaper(Suite):
    """SecureNN as published: ShareConvert, ComputeMSB, scanning MaxPool, its derivative through the helper."""

    name = "securenn-paper"

    async def non_negative(self, party: Party, x: ArithmeticShare) -> ArithmeticShare:
        """Shares of [x >= 0] as 0 and 1."""
        return await securenn_paper.derivative_of_relu(party, x)

    async def maximum(self, party: Party, x: ArithmeticShare) -> selection.Maximum:
        """Maximum by a scan; the trail is the index."""
        pooled = await securenn_paper.max_pool(party, x)
        return selection.Maximum(pooled.value, pooled.index, ArithmeticShare(pooled.index.data.unsqueeze(0).clone()))

    async def route(self, party: Party, gradient: ArithmeticShare, trail: ArithmeticShare, n: int) -> ArithmeticShare:
        """Multiply the gradient by the one-hot vector of the index."""
        index = ArithmeticShare(trail.data[0])
        if n & (n - 1) == 0:
            onehot = await securenn_paper.derivative_of_max_pool(party, index, n)
        else:
            onehot = await self._one_hot(party, index, n)
        repeated = gradient.view(gradient.data.unsqueeze(0).expand(onehot.data.shape))
        return await self.multiply(party, onehot, repeated)

    async def _one_hot(self, party: Party, index: ArithmeticShare, n: int) -> ArithmeticShare:
        """One-hot vector for windows the published derivative does not cover, by comparing with every place."""
        places = torch.arange(n, device=index.data.device).reshape(-1, *[1] * index.data.dim())
        stacked = index.data.unsqueeze(0).expand(n, *index.data.shape)
        return await selection.equal_zero(party, ArithmeticShare(stacked - places if party.is_leader else stacked + 0))

    def trail_rows(self, n: int) -> int:
        """One row: the index."""
        return 1


class Plaintext(Suite):
    """Everything in the clear, by one party: the reference."""

    name = "plaintext"

    async def non_negative(self, party: Party, x: ArithmeticShare) -> ArithmeticShare:
        """[x >= 0] as 0 and 1."""
        return ArithmeticShare((x.data >= 0).to(torch.int64))

    async def bilinear(self, party: Party, f: BilinearMap, x: ArithmeticShare, y: ArithmeticShare) -> ArithmeticShare:
        """f(x, y)."""
        return await arithmetic.plain_bilinear(party, f, x, y)

    async def truncate(
        self, party: Party, x: ArithmeticShare, divisor: int, method: str = "probabilistic"
    ) -> ArithmeticShare:
        """x / divisor, nearest for powers of two and toward zero otherwise."""
        return await truncation.plain_truncate(party, x, divisor)


SUITES: dict[str, Suite] = {suite.name: suite for suite in (SecureNN(), SecureNNPaper(), Plaintext())}
"""Suites by the name users give as ``protocol=``."""

DEFAULT_SUITE = SecureNN.name
