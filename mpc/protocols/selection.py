"""What follows from a sign: ReLU, equality, maxima by a tree, and the way a gradient takes back through the tree.

All functions call the comparison through ``party.suite``, so they work with every protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from sharetorch.mpc.cost import Cost
from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.arithmetic import bilinear_cost
from sharetorch.mpc.ring import Elements
from sharetorch.mpc.share import ArithmeticShare

CountedComparison = Callable[[int], Cost]
"""Declared price of a suite's comparison of so many elements."""


class Rectified(NamedTuple):
    """ReLU and the comparison it used, for the backward pass."""

    value: ArithmeticShare
    bit: ArithmeticShare


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
    """x * [x > 0], and the bit. One comparison and one product.

    [x > 0] = 1 - [-x >= 0], so that the derivative at 0 is 0, as in PyTorch.
    """
    below = await party.suite.non_negative(party, ArithmeticShare(party.ring.negate(x.data)))
    above = party.ring.negate(below.data)
    bit = ArithmeticShare(party.ring.add(above, torch.tensor(1)) if party.is_leader else above)
    return Rectified(await party.suite.multiply(party, x, bit), bit)


async def equal_zero(party: Party, x: ArithmeticShare) -> ArithmeticShare:
    """[x = 0] = [x >= 0] + [-x >= 0] - 1, both comparisons in the same rounds."""
    both = ArithmeticShare(torch.stack([x.data, party.ring.negate(x.data)]))
    signs = await party.suite.non_negative(party, both)
    total = signs.data[0] + signs.data[1]
    return ArithmeticShare(party.ring.reduce(total - 1 if party.is_leader else total))


def tree_rows(n: int) -> int:
    """Comparisons of a tree over n elements."""
    return max(n - 1, 0)


async def maximum_tree(party: Party, x: ArithmeticShare) -> Maximum:
    """Maximum over dimension 0 by ceil(log2 n) levels of pairwise comparisons; the first of equal elements wins.

    Neighbours are paired, so that order is kept, and the left one stays if it is at least as large. Value and index of
    a level are selected in one round. The trail holds the bits of all levels, lowest first, shape (n - 1, *rest).

    Cost: per level, a comparison of floor(n / 2) elements and one round of 2 floor(n / 2) products.
    """
    if x.data.shape[0] == 0:
        raise ShapeError(f"The maximum over dimension 0 of shape {tuple(x.data.shape)} has no elements to choose from.")
    value, index = x.data, _positions(party, x.data)
    bits: list[Elements] = []
    while value.shape[0] > 1:
        pairs = value.shape[0] // 2
        left, right, odd = value[0 : 2 * pairs : 2], value[1 : 2 * pairs : 2], value[2 * pairs :]
        place_left, place_right = index[0 : 2 * pairs : 2], index[1 : 2 * pairs : 2]
        difference = party.ring.subtract(left, right)
        bit = await party.suite.non_negative(party, ArithmeticShare(difference))
        chosen = await _choose(party, bit, torch.stack([difference, party.ring.subtract(place_left, place_right)]))
        value = torch.cat([party.ring.add(right, chosen.data[0]), odd])
        index = torch.cat([party.ring.add(place_right, chosen.data[1]), index[2 * pairs :]])
        bits.append(bit.data)
    trail = torch.cat(bits) if bits else x.data[:0]
    return Maximum(ArithmeticShare(value[0]), ArithmeticShare(index[0]), ArithmeticShare(trail))


async def _choose(party: Party, bit: ArithmeticShare, differences: Elements) -> ArithmeticShare:
    repeated = bit.view(bit.data.expand(differences.shape))
    product: ArithmeticShare = await party.suite.multiply(party, repeated, ArithmeticShare(differences))
    return product


def _positions(party: Party, like: Elements) -> Elements:
    """Shares of 0, 1, 2, ... along dimension 0: public, so the leader holds them."""
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


def relu_cost(count: int, comparison: CountedComparison) -> Cost:
    """Declared price of ``relu``."""
    return comparison(count) + bilinear_cost(2 * count, count, 2)


def equal_zero_cost(count: int, comparison: CountedComparison) -> Cost:
    """Declared price of ``equal_zero``."""
    return comparison(2 * count)


def level_sizes(n: int) -> list[int]:
    """Comparisons per level of a tree over n elements, lowest level first."""
    sizes: list[int] = []
    while n > 1:
        sizes.append(n // 2)
        n = (n + 1) // 2
    return sizes


def maximum_tree_cost(n: int, count: int, comparison: CountedComparison) -> Cost:
    """Declared price of ``maximum_tree`` for ``count`` maxima over n elements."""
    total = Cost()
    for pairs in level_sizes(n):
        total += comparison(pairs * count) + bilinear_cost(3 * pairs * count, 2 * pairs * count, 2)
    return total


def route_tree_cost(n: int, count: int) -> Cost:
    """Declared price of ``route_tree`` for ``count`` gradients over n elements."""
    total = Cost()
    for pairs in level_sizes(n):
        total += bilinear_cost(2 * pairs * count, pairs * count, 2)
    return total
