"""The public shape of a comparison by digits: how a number is cut, and the tree of nodes above its digits.

A number of so many bits is cut into digits of w bits, the lowest first; the highest may be shorter. For comparing, each
digit gives g (secret digit larger) and p (digits equal); a node joins up to ``radix`` neighbours,
    g = g_{k-1} ^ p_{k-1} (g_{k-2} ^ p_{k-2} (... g_0)),    p = p_{k-1} ... p_0,
where the lowest node of a level need not give p. For equality there is p only. Neighbours are spread evenly, so that no
node has one input. The highest g of a node needs no mask: the result is linear in it. What each level opens and what is
dealt for it follows, see ``kernels.bit_planes``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharetorch.mpc.kernels.bit_planes import UNUSED

Numbers = NDArray[np.int64]


class Level(NamedTuple):
    """One round of the tree.

    Attributes:
        slots: where g and p of each input go: place among what is opened, -1 - place among what is kept, or unused.
        nodes: for each node k, whether it gives g and p, first mask of the level, first product; the last level of all,
            which only converts the result, has none.
        opened: planes opened for each comparison.
        kept: planes kept for each comparison.
        first_mask: place of the level's masks among those of a comparison.
    """

    slots: Numbers
    nodes: Numbers
    opened: int
    kept: int
    first_mask: int


@dataclass(frozen=True)
class Tree:
    """A comparison's digits and levels.

    Attributes:
        digits: lowest bit and width of each digit.
        levels: the rounds, and last of all the conversion of the result.
        nodes: those of all levels, with places of masks counted from a comparison's first.
        rows: planes of the one-hot tables, without the last row of each.
        masks: planes of masks of a comparison, the one that hides the result included.
        products: planes of products of masks of a comparison.
    """

    digits: Numbers
    levels: tuple[Level, ...]
    nodes: Numbers
    rows: int
    masks: int
    products: int


def node_products(k: int, with_g: bool, with_p: bool) -> int:
    """Products of masks that are dealt for a node of k inputs: of sets of p's, of sets and a g, of sets and p_0."""
    generating = sum((1 << (k - 1 - i)) - 1 for i in range(k - 1)) if with_g else 0
    return (1 << (k - 1)) - k + generating + ((1 << (k - 1)) - 1 if with_p else 0)


@cache
def tree(bits: int, width: int, radix: int, equality: bool = False) -> Tree:
    """The tree for numbers of so many bits.

    Args:
        bits: of the numbers.
        width: bits of a digit.
        radix: most inputs of a node, at least 3.
        equality: whether only [equal] is wanted.
    """
    digits = np.array([(low, min(width, bits - low)) for low in range(0, bits, width)], np.int64).reshape(-1, 2)
    levels: list[Level] = []
    every: list[tuple[int, ...]] = []
    inputs, mask, product = len(digits), 0, 0
    while inputs > 1:
        sizes = _groups(inputs, radix)
        nodes: list[tuple[int, ...]] = []
        slots: list[tuple[int, int]] = []
        opened = 0
        for place, k in enumerate(sizes):
            with_p = equality or place > 0
            nodes.append((k, int(not equality), int(with_p), opened, product))
            slots += _input_slots(k, place, opened, not equality, with_p)
            opened += (k - 1) * (1 if equality else 2) + int(with_p)
            product += node_products(k, not equality, with_p)
        levels.append(Level(_table(slots, 2), _table(nodes, 5), opened, 0 if equality else len(sizes), mask))
        every += [(*node[:3], mask + node[3], node[4]) for node in nodes]
        inputs, mask = len(sizes), mask + opened
    result = (UNUSED, 0) if equality else (0, UNUSED)
    levels.append(Level(_table([result], 2), _table([], 5), 1, 0, mask))
    rows = sum((1 << int(size)) - 1 for size in digits[:, 1])
    return Tree(digits, tuple(levels), _table(every, 5), rows, mask + 1, product)


def _table(rows: list[tuple[int, ...]] | list[tuple[int, int]], columns: int) -> Numbers:
    return np.array(rows, np.int64).reshape(-1, columns)


def _groups(inputs: int, radix: int) -> list[int]:
    """Sizes of as few groups as possible, differing by one at most."""
    groups = -(-inputs // radix)
    return [inputs // groups + int(place < inputs % groups) for place in range(groups)]


def _input_slots(k: int, node: int, opened: int, with_g: bool, with_p: bool) -> list[tuple[int, int]]:
    """Slots of the k inputs of a node whose first mask has the place ``opened``, lowest input first.

    Masks are ordered p_{k-1} ... p_1, g_0 ... g_{k-2}, p_0.
    """
    slots = []
    for i in range(k):
        g = (-1 - node if i == k - 1 else opened + k - 1 + i) if with_g else UNUSED
        p = opened + k - 1 - i if i > 0 else UNUSED
        if i == 0 and with_p:
            p = opened + (2 * k - 2 if with_g else k - 1)
        slots.append((g, p))
    return slots
