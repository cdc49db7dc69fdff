"""What follows from a sign: ReLU, equality, maxima by a tree, and the way a gradient takes back through the tree.

All functions call the suite through ``party.suite``, so they work with every protocol. ``choose_by_sign`` and its like
make a suite's other primitives out of its comparison, for suites that have nothing better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.cost import Cost
from sharetorch.mpc.errors import ModulusError, ShapeError
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.arithmetic import bilinear_cost
from sharetorch.mpc.ring import Elements
from sharetorch.mpc.share import ArithmeticShare

CountedComparison = Callable[[int], Cost]
"""Declared price of a suite's comparison of so many elements."""


class Chosen(NamedTuple):
    """A comparison's bit, and its products with other numbers."""

    bit: ArithmeticShare
    products: tuple[ArithmeticShare, ...]


class Rectified(NamedTuple):
    """ReLU and the comparison it used, for the backward pass."""

    value: ArithmeticShare
    bit: ArithmeticShare


class TruncatedRelu(NamedTuple):
    """ReLU of a truncated number, the bit [x > 0] it used, and the truncated number itself."""

    value: ArithmeticShare
    bit: ArithmeticShare
    truncated: ArithmeticShare


class Maximum(NamedTuple):
    """A maximum over dimension 0.

    Attributes:
        value: shape of the input without dimension 0.
        index: where it stood, same shape.
        trail: what the suite needs to find the way back: one row per comparison of the tree, or the index.
    """

    value: ArithmeticShare
    index: ArithmeticShare  # type: ignore[assignment]
    trail: ArithmeticShare


async def relu(party: Party, x: ArithmeticShare) -> Rectified:
    """x * [x > 0], and the bit, which is 0 at 0 as the derivative in PyTorch."""
    chosen: Chosen = await party.suite.choose(party, x, (x,), threshold=1)
    return Rectified(chosen.products[0], chosen.bit)


async def equal_zero(party: Party, x: ArithmeticShare) -> ArithmeticShare:
    """[x = 0]."""
    share: ArithmeticShare = await party.suite.equal_zero(party, x)
    return share


async def choose_by_sign(
    party: Party, x: ArithmeticShare, operands: Sequence[ArithmeticShare], threshold: int
) -> Chosen:
    """b = [x >= threshold], then its products with the operands in one round."""
    bit = await party.suite.non_negative(party, _minus_public(party, x, threshold))
    if len(operands) == 1:
        return Chosen(bit, (await party.suite.multiply(party, operands[0], bit),))
    stacked = torch.stack([operand.data for operand in operands])
    products = await party.suite.multiply(party, bit.view(bit.data.expand(stacked.shape)), ArithmeticShare(stacked))
    return Chosen(bit, tuple(ArithmeticShare(product) for product in products.data))


async def at_least_by_sign(party: Party, x: ArithmeticShare, thresholds: Sequence[int]) -> ArithmeticShare:
    """[x >= T] for all T, all comparisons in the same rounds."""
    limits = torch.tensor(thresholds, device=x.data.device).reshape(-1, *[1] * x.data.dim())
    stacked = x.data.unsqueeze(0).expand(len(thresholds), *x.data.shape)
    above = party.ring.reduce(stacked - limits if party.is_leader else stacked.clone())
    share: ArithmeticShare = await party.suite.non_negative(party, ArithmeticShare(above))
    return share


async def equal_zero_by_signs(party: Party, x: ArithmeticShare) -> ArithmeticShare:
    """[x = 0] = [x >= 0] + [-x >= 0] - 1, both comparisons in the same rounds."""
    both = ArithmeticShare(torch.stack([x.data, party.ring.negate(x.data)]))
    signs = await party.suite.non_negative(party, both)
    total = signs.data[0] + signs.data[1]
    return ArithmeticShare(party.ring.reduce(total - 1 if party.is_leader else total))


async def truncated_relu_by_steps(party: Party, x: ArithmeticShare, divisor: int) -> TruncatedRelu:
    """x / divisor, then ReLU; the bit is that of the truncated number."""
    truncated = await party.suite.truncate(party, x, divisor)
    value, bit = await relu(party, truncated)
    return TruncatedRelu(value, bit, truncated)


def _minus_public(party: Party, x: ArithmeticShare, number: int) -> ArithmeticShare:
    if number == 0 or not party.is_leader:
        return x
    return ArithmeticShare(party.ring.subtract(x.data, torch.tensor(number)))


def tree_rows(n: int) -> int:
    """Comparisons of a tree over n elements."""
    return max(n - 1, 0)


async def maximum_tree(party: Party, x: ArithmeticShare) -> Maximum:
    """Maximum over dimension 0 by ceil(log2 n) levels of pairwise comparisons; the first of equal elements wins.

    Neighbours are paired, so that order is kept, and the left one stays if it is at least as large. Value and index of
    a level are selected in one step; on the lowest level left and right are neighbours, so only the bit is needed for
    the index. The trail holds the bits of all levels, lowest first, shape (n - 1, *rest).

    Cost: per level, a comparison of floor(n / 2) elements with 2 products of its bit, 1 on the lowest level.
    """
    if x.data.shape[0] == 0:
        raise ShapeError(f"The maximum over dimension 0 of shape {tuple(x.data.shape)} has no elements to choose from.")
    if party.is_provider:
        return await _provide_maximum(party, x)
    rows = torch.stack([x.data, positions(party, x.data)])
    bits: list[Elements] = []
    while rows.shape[1] > 1:
        pairs = rows.shape[1] // 2
        left, right, odd = rows[:, 0 : 2 * pairs : 2], rows[:, 1 : 2 * pairs : 2], rows[:, 2 * pairs :]
        operands = operands_of(party.ring.subtract(left, right) if bits else party.ring.subtract(left[:1], right[:1]))
        chosen: Chosen = await party.suite.choose(party, operands[0], operands)
        changes = [product.data for product in chosen.products]
        if not bits:
            changes.append(party.ring.negate(chosen.bit.data))
        rows = party.ring.add(right, torch.stack(changes))
        if odd.shape[1]:
            rows = torch.cat([rows, odd], dim=1)
        bits.append(chosen.bit.data)
    trail = torch.cat(bits) if bits else x.data[:0]
    value, index = rows[:, 0]
    return Maximum(ArithmeticShare(value), ArithmeticShare(index), ArithmeticShare(trail))


def operands_of(differences: Elements) -> list[ArithmeticShare]:
    """Differences of values, and of places if they are there, as views of one share."""
    whole = ArithmeticShare(differences)
    return [whole.view(part) for part in whole.data]


async def _provide_maximum(party: Party, x: ArithmeticShare) -> Maximum:
    """The provider's part: it deals for each level."""
    n, *rest = x.data.shape
    for level, pairs in enumerate(level_sizes(n)):
        operands = operands_of(nothing(2 if level else 1, pairs, *rest))
        await party.suite.choose(party, operands[0], operands)
    return Maximum(
        ArithmeticShare(nothing(*rest)),
        ArithmeticShare(nothing(*rest)),
        ArithmeticShare(nothing(tree_rows(n), *rest)),
    )


def nothing(*shape: int) -> Elements:
    """What the provider holds of a share of that shape."""
    return torch.empty(shape, dtype=torch.int64, device="meta")


def positions(party: Party, like: Elements) -> Elements:
    """Shares of 0, 1, 2, ... along dimension 0: public, so the leader holds them.

    Raises:
        ModulusError: elements of a field beyond 64 bits, which no suite compares.
    """
    if not isinstance(like, Tensor):
        raise ModulusError(f"Comparison works in Z_2^64, not in {party.ring!r}: share without field=.")
    places = torch.zeros(like.shape, dtype=torch.int64, device=like.device)
    if party.is_leader:
        places += torch.arange(like.shape[0]).reshape(-1, *[1] * (like.dim() - 1))
    return places


async def route_tree(party: Party, gradient: ArithmeticShare, trail: ArithmeticShare, n: int) -> ArithmeticShare:
    """Send a gradient from the maximum back to the element it came from; all others get 0. Shape (n, *rest).

    From the root down, each node passes bit * g to its left child and the rest to its right one.

    Cost: one round and floor(size / 2) products per level.
    """
    sizes = [n]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    flowing = gradient.data.unsqueeze(0)
    end = trail.data.shape[0]
    for size in reversed(sizes[:-1]):
        pairs = size // 2
        bits = trail.view(trail.data[end - pairs : end])
        end -= pairs
        left = await party.suite.multiply(party, bits, ArithmeticShare(flowing[:pairs]))
        right = party.ring.subtract(flowing[:pairs], left.data)
        both = torch.stack([left.data, right], dim=1).reshape(2 * pairs, *flowing.shape[1:])
        flowing = torch.cat([both, flowing[pairs:]])
    return ArithmeticShare(flowing)


# Declared prices, for operands that were not opened before.


@dataclass(frozen=True)
class Prices:
    """Declared prices of a suite's primitives in sessions of so many parties.

    Attributes:
        parties: number of parties.
        at_least: of elements and thresholds.
        choose: of elements and operands, the first of which is what is compared.
        equal_zero: of elements.
        opens_operand: whether a comparison leaves what it compared open, so that a product with it need not.
        opens_bit: whether ``choose`` leaves its bit open.
    """

    parties: int
    at_least: Callable[[int, int], Cost]
    choose: Callable[[int, int], Cost]
    equal_zero: Callable[[int], Cost]
    opens_operand: bool
    opens_bit: bool


def prices_by_sign(comparison: CountedComparison, parties: int = 2) -> Prices:
    """Prices of a suite that has a comparison and nothing else."""
    return Prices(
        parties,
        lambda count, thresholds: comparison(thresholds * count),
        lambda count, operands: (
            comparison(count) + bilinear_cost((1 + operands) * count, operands * count, parties)
        ),
        lambda count: comparison(2 * count),
        opens_operand=False,
        opens_bit=True,
    )


def level_sizes(n: int) -> list[int]:
    """Comparisons per level of a tree over n elements, lowest level first."""
    sizes: list[int] = []
    while n > 1:
        sizes.append(n // 2)
        n = (n + 1) // 2
    return sizes


def maximum_tree_cost(n: int, count: int, prices: Prices) -> Cost:
    """Declared price of ``maximum_tree`` for ``count`` maxima over n elements."""
    total = Cost()
    for level, pairs in enumerate(level_sizes(n)):
        total += prices.choose(pairs * count, 2 if level else 1)
    return total


def route_tree_cost(n: int, count: int, parties: int = 2) -> Cost:
    """Declared price of ``route_tree`` for ``count`` gradients over n elements."""
    total = Cost()
    for pairs in level_sizes(n):
        total += bilinear_cost(2 * pairs * count, pairs * count, parties)
    return total
