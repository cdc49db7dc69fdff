"""Protocol suites: what a session's members run for products, truncation and comparison.

A suite is stateless. Everything above it (selection, functions) calls it through ``party.suite``, so a new protocol is
a new suite and nothing else. ``Plaintext`` runs the same programs with one party that holds everything in the clear: it
is the reference the others are tested against, and the arithmetic behind ``fix_precision()``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from sharetorch.mpc.errors import UnsupportedOperationError
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols import arithmetic, fss, pairs, securenn, securenn_paper, selection, tables, truncation
from sharetorch.mpc.protocols.bilinear import BilinearMap, Product
from sharetorch.mpc.share import ArithmeticShare

TRUNCATIONS = {
    "probabilistic": truncation.truncate,
    "exact": truncation.truncate_exact,
    "local": truncation.truncate_local,
}
"""Ways to divide by a public number, by the name users give."""


class Suite(ABC):
    """The primitives of a protocol.

    Attributes:
        name: what users call it.
        truncates_with_relu: whether truncation and ReLU share an opening.
    """

    name: str
    truncates_with_relu = False

    @abstractmethod
    async def non_negative(self, party: Party, x: ArithmeticShare) -> ArithmeticShare:
        """Shares of [x >= 0] as 0 and 1."""

    async def at_least(self, party: Party, x: ArithmeticShare, thresholds: Sequence[int]) -> ArithmeticShare:
        """Shares of [x >= T] for all public thresholds T, shape (thresholds, *shape)."""
        return await selection.at_least_by_sign(party, x, thresholds)

    async def equal_zero(self, party: Party, x: ArithmeticShare) -> ArithmeticShare:
        """Shares of [x = 0] as 0 and 1."""
        return await selection.equal_zero_by_signs(party, x)

    async def choose(
        self, party: Party, x: ArithmeticShare, operands: Sequence[ArithmeticShare], threshold: int = 0
    ) -> selection.Chosen:
        """Shares of [x >= threshold] and of its products with the operands, of which x may be one."""
        return await selection.choose_by_sign(party, x, operands, threshold)

    async def truncated_relu(self, party: Party, x: ArithmeticShare, divisor: int) -> selection.TruncatedRelu:
        """ReLU of x / divisor, its bit [x > 0], and x / divisor, for a divisor that is a power of two."""
        return await selection.truncated_relu_by_steps(party, x, divisor)

    def prices(self, parties: int) -> selection.Prices:
        """Declared prices of these primitives in sessions of so many parties.

        Raises:
            UnsupportedOperationError: there are none.
        """
        raise UnsupportedOperationError(f"The suite {self.name!r} declares no prices.")

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

    def trail_rows(self, shape: Sequence[int]) -> int:
        """Size of dimension 0 of the trail of maxima over dimension 0 of that shape."""
        return selection.tree_rows(shape[0])


class SecureNN(Suite):
    """Comparisons by DReLU* (three rounds). Two parties and the provider."""

    name = "securenn"

    async def non_negative(self, party: Party, x: ArithmeticShare) -> ArithmeticShare:
        """Shares of [x >= 0] as 0 and 1."""
        return await securenn.non_negative(party, x)

    def prices(self, parties: int) -> selection.Prices:
        """Those of the comparison."""
        return selection.prices_by_sign(securenn.non_negative_cost, parties)


class SecureNNPaper(Suite):
    """SecureNN as published: ShareConvert, ComputeMSB, scanning MaxPool, its derivative through the helper."""

    name = "securenn-paper"

    async def non_negative(self, party: Party, x: ArithmeticShare) -> ArithmeticShare:
        """Shares of [x >= 0] as 0 and 1."""
        return await securenn_paper.derivative_of_relu(party, x)

    def prices(self, parties: int) -> selection.Prices:
        """Those of the comparison."""
        return selection.prices_by_sign(securenn_paper.derivative_of_relu_cost, parties)

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

    def trail_rows(self, shape: Sequence[int]) -> int:
        """One row: the index."""
        return 1


class Tables(Suite):
    """Comparisons by digit tables of dealt masks. Any number of parties; exact on the whole ring.

    Args:
        name: what users call it.
        digits: how comparisons are cut.
    """

    truncates_with_relu = True

    def __init__(self, name: str, digits: tables.Shape) -> None:
        self.name = name
        self.digits = digits

    async def non_negative(self, party: Party, x: ArithmeticShare) -> ArithmeticShare:
        """Shares of [x >= 0] as 0 and 1."""
        return (await tables.choose(party, x, (), 0, self.digits)).bit

    async def at_least(self, party: Party, x: ArithmeticShare, thresholds: Sequence[int]) -> ArithmeticShare:
        """All thresholds from one opening and one set of tables."""
        return await tables.at_least(party, x, thresholds, self.digits)

    async def equal_zero(self, party: Party, x: ArithmeticShare) -> ArithmeticShare:
        """Digits of the mask compared for equality."""
        return await tables.equal_zero(party, x, self.digits)

    async def choose(
        self, party: Party, x: ArithmeticShare, operands: Sequence[ArithmeticShare], threshold: int = 0
    ) -> selection.Chosen:
        """Comparison and products in the same rounds."""
        return await tables.choose(party, x, operands, threshold, self.digits)

    async def truncated_relu(self, party: Party, x: ArithmeticShare, divisor: int) -> selection.TruncatedRelu:
        """Truncation and comparison from one opening."""
        return await tables.truncated_relu(party, x, divisor, self.digits)

    def prices(self, parties: int) -> selection.Prices:
        """Those of the tables."""
        return tables.prices(parties, self.digits)

    async def maximum(self, party: Party, x: ArithmeticShare) -> selection.Maximum:
        """By pairs where that pays, by a tree otherwise."""
        found = pairs.maximum_by_pairs if pairs.pays(x.data.shape) else selection.maximum_tree
        return await found(party, x)

    async def route(self, party: Party, gradient: ArithmeticShare, trail: ArithmeticShare, n: int) -> ArithmeticShare:
        """As the maximum of that shape was found."""
        if pairs.pays((n, *gradient.data.shape)):
            return await pairs.route_one_hot(party, gradient, trail)
        return await selection.route_tree(party, gradient, trail, n)

    def trail_rows(self, shape: Sequence[int]) -> int:
        """As many as elements by pairs, one less by a tree."""
        return shape[0] if pairs.pays(shape) else selection.tree_rows(shape[0])


class FSS(Suite):
    """Comparisons by function secret sharing, in one round. Two parties; exact on the whole ring."""

    name = "fss"

    async def non_negative(self, party: Party, x: ArithmeticShare) -> ArithmeticShare:
        """Shares of [x >= 0] as 0 and 1."""
        return await fss.non_negative(party, x)

    async def at_least(self, party: Party, x: ArithmeticShare, thresholds: Sequence[int]) -> ArithmeticShare:
        """All thresholds from one opening and one key."""
        return await fss.at_least(party, x, thresholds)

    async def equal_zero(self, party: Party, x: ArithmeticShare) -> ArithmeticShare:
        """Two comparisons from one opening."""
        return await fss.equal_zero(party, x)

    async def choose(
        self, party: Party, x: ArithmeticShare, operands: Sequence[ArithmeticShare], threshold: int = 0
    ) -> selection.Chosen:
        """Comparison and operands from one opening, products in a second round."""
        return await fss.choose(party, x, operands, threshold)

    def prices(self, parties: int) -> selection.Prices:
        """Those of the keys."""
        return fss.prices()


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


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        SecureNN(),
        SecureNNPaper(),
        Tables("tables", tables.SHORT_DIGITS),
        Tables("tables-wan", tables.LONG_DIGITS),
        FSS(),
        Plaintext(),
    )
}
"""Suites by the name users give as ``protocol=``."""

DEFAULT_SUITE = "tables"
