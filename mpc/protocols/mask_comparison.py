"""[c < r] for a public c and a mask r that the provider knows: one-hot digit tables and a tree of nodes.

r is cut into digits. For each digit the parties hold XOR shares of its one-hot vector (2^w - 1 dealt bits; the last row
is 1 XOR the others). With the public digit v of c, locally
    p = onehot[v]  (digits equal),    g = XOR of onehot[i], i > v  (digit of r above digit of c).
Nodes join digits (``radix_tree``): all their inputs but the highest g are opened under masks whose products were dealt,
so that what they compute is linear in shares of products of masks. The result is opened under a random bit that was
also dealt in the ring; that converts it. A bit of c may be added to the result, and the test may be for equality.

Tables of one r serve any number of comparisons with it; masks of nodes serve one.
"""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sharetorch.mpc.kernels import bit_planes
from sharetorch.mpc.kernels.bit_planes import Planes
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.planes import DealtPlanes, chunk_sizes, drawn_planes, open_planes, random_planes
from sharetorch.mpc.protocols.radix_tree import Tree, tree
from sharetorch.mpc.provider import OneTime, dealt_shares
from sharetorch.mpc.ring import Elements, PowerRing
from sharetorch.mpc.share import ArithmeticShare

Words = NDArray[np.int64]

DIGITS = 4


class Public(NamedTuple):
    """The public numbers c = offset + sign * w of all cases.

    Attributes:
        words: w, shape (n,), or (cases, n).
        offsets: shape (cases,).
        sign: 1 or -1.
        top: bit of c that is added to the result; -1 for none.
    """

    words: Words
    offsets: Words
    sign: int
    top: int


async def open_comparison(
    party: Party, plan: Tree, public: Public, masks: Planes, tables: DealtPlanes, products: DealtPlanes
) -> Planes:
    """Open the results of comparisons under the last mask of each: a plane for each case.

    Args:
        party: this member, not the provider.
        plan: digits and nodes.
        public: what is compared with r.
        masks: ``plan.masks`` planes for each case.
        tables: their brief planes are ``plan.rows``.
        products: their lasting planes are ``plan.products`` for each case; may be the same as tables.

    Cost: a round for each level of the plan, the last with one bit.
    """
    count, cases, lead = public.words.shape[-1], public.offsets.size, party.is_leader
    sizes, first = chunk_sizes(count), plan.levels[0]
    out = bit_planes.outputs(count, cases, first.opened, first.kept)
    for place, (start, stop) in enumerate(pairwise([0, *accumulate(sizes)])):
        parts = await tables.brief(place)
        bit_planes.leaves(*public, plan.digits, first.slots, parts, plan.rows, masks, out, start, stop, lead=lead)
    for level, following in pairwise(plan.levels):
        seen, held = await open_planes(party, "node inputs", out.opened, count, cases * level.opened), out.kept
        out = bit_planes.outputs(count, cases, following.opened, following.kept)
        for place, (start, stop) in enumerate(pairwise([0, *accumulate(sizes)])):
            bit_planes.nodes(
                count, cases, level.nodes, following.slots, seen, masks, level.first_mask, following.first_mask,
                products.lasting(place), plan.products, held, out, start, stop, lead=lead,
            )  # fmt: skip
    return await open_planes(party, "masked result", out.opened, count, cases)


def mask_bits(plan: Tree, masks: Planes, cases: int, r: Words, top: int) -> Words:
    """The bits that hide the results, at the provider, each with bit ``top`` of r added: shape (cases, n)."""
    return bit_planes.bits_of_planes(masks, plan.masks - 1, cases, r.size, r, top)


def correct_products(plan: Tree, masks: Planes, cases: int, rest: Planes, start: int, stop: int) -> None:
    """Add the products of the masks of some elements to rest."""
    if plan.products:
        size = cases * plan.masks
        chosen = masks[bit_planes.plane_words(start, size) : bit_planes.plane_words(stop, size)]
        bit_planes.deal_products(plan.nodes, chosen, stop - start, cases, rest, plan.products)


# ------------------------------------------------------------------------------------ for the last unit of a truncation


class CarryTable(NamedTuple):
    """XOR shares of the one-hot digits of r, and bits of a digit."""

    onehot: OneTime[DealtPlanes]
    width: int


def mask_digits(divisor: int) -> int:
    """Bits per digit for comparing numbers below ``divisor``."""
    return -(-(divisor - 1).bit_length() // DIGITS)


def _plan(width: int) -> Tree:
    return tree(DIGITS * width, width, DIGITS)


async def carry_table(party: Party, count: int, width: int, r: Words | None) -> CarryTable:
    """Deal the digit tables of r, shape (count,), which only the provider knows.

    Cost: 4 (2^w - 1) bits an element, offline.
    """
    plan = _plan(width)

    def correct(rest: Planes, _: Planes, start: int, stop: int) -> None:
        assert r is not None
        bit_planes.deal_tables(r[start:stop], plan.digits, rest, plan.rows)

    return CarryTable(await drawn_planes(party, "digit table", count, plan.rows, 0, correct), width)


async def less_than_mask(
    party: Party, table: CarryTable, thresholds: Words | None, cases: int, count: int
) -> ArithmeticShare:
    """Shares of [c < r] as ring integers.

    Args:
        party: this member.
        table: the digits of r.
        thresholds: public c, shape (cases, count), at the parties; None at the provider.
        cases: numbers compared with each r.
        count: number of masks r.

    Returns:
        Shares of 0 and 1, shape (cases, count).

    Cost: 2 rounds, 7 bits per comparison to each other party; offline 15 bits and 8 bytes.
    """
    plan = _plan(table.width)
    masks = random_planes(party, "node masks", count, cases * plan.masks).take()

    def correct(_: Planes, rest: Planes, start: int, stop: int) -> None:
        correct_products(plan, masks, cases, rest, start, stop)

    products = await drawn_planes(party, "products of node masks", count, 0, cases * plan.products, correct)

    def numbers() -> Elements:
        return torch.from_numpy(mask_bits(plan, masks, cases, np.zeros(count, np.int64), -1))

    number = await dealt_shares(party, "conversion bit in the ring", (cases, count), numbers)
    if thresholds is None:
        return ArithmeticShare(torch.empty((cases, count), dtype=torch.int64, device="meta"))
    public = Public(np.ascontiguousarray(thresholds), np.zeros(cases, np.int64), 1, -1)
    opened = await open_comparison(party, plan, public, masks, table.onehot.take(), products.take())
    a = number.take((cases, count)).numpy()
    bits = party.ring.bits if isinstance(party.ring, PowerRing) else 64
    return ArithmeticShare(torch.from_numpy(bit_planes.convert_bits(opened, a, bits, lead=party.is_leader)))
