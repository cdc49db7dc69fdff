"""Maxima by comparing every pair at once: few rounds, for few elements.

A tree over n elements compares ceil(log2 n) times in turn. Here all n (n - 1) / 2 pairs are compared in the rounds of
one comparison. An element that beats all others is the maximum, so a second comparison, of the numbers of wins with
n - 1, gives the one-hot vector of its place. It is the trail for the way back.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from sharetorch.mpc.cost import Cost
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.arithmetic import bilinear_cost
from sharetorch.mpc.protocols.selection import Maximum, Prices, level_sizes, nothing
from sharetorch.mpc.ring import Elements, ring_bits
from sharetorch.mpc.share import ArithmeticShare

_LEVELS = 3
"""A tree of fewer levels takes no more rounds than this."""
_MOST = 1 << 13
"""With more pairs, what they cost outweighs the rounds saved."""


def pays(shape: Sequence[int]) -> bool:
    """Whether maxima over dimension 0 of such a share are found by pairs rather than by a tree."""
    n, count = shape[0], prod(shape[1:])
    return len(level_sizes(n)) >= _LEVELS and n * (n - 1) // 2 * count <= _MOST


async def maximum_by_pairs(party: Party, x: ArithmeticShare) -> Maximum:
    """Maximum over dimension 0; the first of equal elements wins.

    The bits b_ij = [x_i >= x_j] for i < j count the wins w_i = sum_{j > i} b_ij + sum_{j < i} (1 - b_ji). Then
    e_i = [w_i >= n - 1] is 1 at one place, and sum e_i x_i and sum e_i i are the maximum and its index.

    Args:
        party: this member.
        x: at least one element along dimension 0, with differences that do not wrap.

    Returns:
        Value, index, and e as the trail, shape (n, *rest).

    Cost: ``maximum_by_pairs_cost``: the rounds of two comparisons, n (n - 1) / 2 of them for each maximum, then n.
    Leaks: nothing.
    """
    ring_bits(party.ring, "Comparison")
    n, *rest = x.data.shape
    if party.is_provider:
        bits = await party.suite.non_negative(party, ArithmeticShare(nothing(n * (n - 1) // 2, *rest)))
        short = ArithmeticShare(nothing(n, *rest))
    else:
        first, second = _pairs(n)
        differences = party.ring.subtract(x.data[first], x.data[second])
        bits = await party.suite.non_negative(party, ArithmeticShare(differences))
        short = ArithmeticShare(_wins_short(party, bits.data, first, second, n))
    chosen = await party.suite.choose(party, short, (short, x), threshold=0)
    if party.is_provider:
        return Maximum(*(ArithmeticShare(nothing(*shape)) for shape in (rest, rest, [n, *rest])))
    places = torch.arange(n).reshape(-1, *[1] * len(rest))
    value, index = (party.ring.reduce(part.sum(0)) for part in (chosen.products[1].data, chosen.bit.data * places))
    return Maximum(ArithmeticShare(value), ArithmeticShare(index), chosen.bit)


@functools.lru_cache(maxsize=64)
def _pairs(n: int) -> tuple[Tensor, Tensor]:
    """Places of the first and of the second element of every pair."""
    first, second = torch.triu_indices(n, n, offset=1)
    return first, second


def _wins_short(party: Party, bits: Elements, first: Elements, second: Elements, n: int) -> Elements:
    """w_i - (n - 1): wins that each element lacks, as a number that is not positive."""
    wins = torch.zeros((n, *bits.shape[1:]), dtype=torch.int64)
    wins.index_add_(0, first, bits)
    wins.index_add_(0, second, -bits)
    if party.is_leader:
        wins += (torch.arange(n) - (n - 1)).reshape(-1, *[1] * (wins.dim() - 1))
    return party.ring.reduce(wins)


async def route_one_hot(party: Party, gradient: ArithmeticShare, trail: ArithmeticShare) -> ArithmeticShare:
    """Send a gradient back to the place at which the trail is 1; all others get 0. Shape of the trail.

    Cost: ``route_one_hot_cost``: one round.
    """
    repeated = gradient.view(gradient.data.unsqueeze(0).expand(trail.data.shape))
    share: ArithmeticShare = await party.suite.multiply(party, trail, repeated)
    return share


def maximum_by_pairs_cost(n: int, count: int, prices: Prices) -> Cost:
    """Declared price of ``maximum_by_pairs`` for ``count`` maxima over n elements, where tables compare."""
    return prices.choose(n * (n - 1) // 2 * count, 0) + prices.choose(n * count, 2)


def route_one_hot_cost(n: int, count: int, parties: int = 2) -> Cost:
    """Declared price of ``route_one_hot`` for ``count`` gradients over n elements."""
    return bilinear_cost((n + 1) * count, n * count, parties)
