"""Comparison with a dealt mask by one-hot digit tables: exact on the whole of Z_2^l, for any number of parties.

Notation: l ring bits; x = e + r, where r is a mask that the provider knows and e was opened, as for products
(``opening``); T a public threshold; MSB the top bit. With c = T - 1 - e, which is public,
    [x >= T] = MSB(T - 1 - x) = MSB(c - r) = c_top ^ r_top ^ [c mod 2^(l-1) < r mod 2^(l-1)],
where T - 1 - x must not wrap: for T = 0 it never does. All thresholds compare with the same r.

    1  open e = x - r; nothing if x is open already                                                       round 1
    2  r mod 2^(l-1) is cut into digits. For each, the parties hold XOR shares of its one-hot vector; the public digit v
       of c selects p = onehot[v] (equal) and g = XOR of onehot[w], w > v (r's digit is larger)             local
    3  a tree of nodes joins digits, all inputs opened under dealt masks (``radix_tree``)            rounds 2, 3
    4  the result, with c_top, is opened under a random bit alpha as e' = [x >= T] ^ a, a = alpha ^ r_top.
       a is dealt in the ring, and a m for a product with any y that was opened as d = y - m:            round 4
           [x >= T] = e' + (1 - 2e') a,      y [x >= T] = e' (d + m) + (1 - 2e') (d a + a m)

Each opened bit is hidden by a mask bit of its own, drawn once for each element. The provider sees no message. The
family is that of edaBits with inputs of several bits [EGKRS20].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sharetorch.mpc import kernels
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.errors import ModulusError, ShapeError
from sharetorch.mpc.kernels import bit_planes
from sharetorch.mpc.kernels.bit_planes import Planes
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.mask_comparison import Public, correct_products, mask_bits, open_comparison
from sharetorch.mpc.protocols.opening import Operand, masked
from sharetorch.mpc.protocols.planes import DealtPlanes, dealt_bytes, dealt_planes, opened_bytes, random_planes
from sharetorch.mpc.protocols.radix_tree import Tree, tree
from sharetorch.mpc.protocols.selection import Chosen, Prices, TruncatedRelu
from sharetorch.mpc.provider import OneTime, dealt_shares
from sharetorch.mpc.ring import Elements, ring_bits
from sharetorch.mpc.share import ArithmeticShare

Words = NDArray[np.int64]


class Shape(NamedTuple):
    """How a comparison is cut: bits of a digit, and most inputs of a node."""

    width: int
    radix: int


SHORT_DIGITS = Shape(4, 4)
"""Two levels of nodes for 64 bits: 4 rounds, little material."""
LONG_DIGITS = Shape(7, 10)
"""One level of nodes for 64 bits: 3 rounds, fewer bytes between parties, much more material."""


class _Material(NamedTuple):
    """What the provider dealt for a comparison.

    Attributes:
        masks: planes of masks of node inputs, and of alpha.
        words: a for each case, and the dealt products with a, flat: shape (rows, n).
        planes: of one-hot tables, then of products of masks.
    """

    masks: OneTime[Planes]
    words: OneTime[Elements]
    planes: OneTime[DealtPlanes]


def _bits(party: Party) -> int:
    return ring_bits(party.ring, "Comparison by tables")


def _flat(x: Elements) -> Words:
    words: Words = x.contiguous().numpy().reshape(-1)
    return words


def _share(words: Words, shape: Sequence[int]) -> ArithmeticShare:
    return ArithmeticShare(torch.from_numpy(words).reshape(tuple(shape)))


def _nothing(*shape: int) -> ArithmeticShare:
    return ArithmeticShare(torch.empty(shape, dtype=torch.int64, device="meta"))


def _signed(number: int) -> int:
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


# --------------------------------------------------------------------------------------------------------- the material


async def _deal(
    party: Party, shape: Tree, cases: int, count: int, r: Words | None, top: int, rows: int,
    words: Callable[[Words], Words],
) -> _Material:  # fmt: skip
    """Deal tables of r, products of masks, and ``rows`` rows of ring elements computed from the bits a of all cases."""
    drawn = random_planes(party, "comparison masks", count, cases * shape.masks)
    masks = drawn.take() if party.is_provider else bit_planes.NOTHING

    def numbers() -> Elements:
        assert r is not None
        return torch.from_numpy(words(mask_bits(shape, masks, cases, r, top)))

    def correct(tables: Planes, products: Planes, start: int, stop: int) -> None:
        assert r is not None
        bit_planes.deal_tables(r[start:stop], shape.digits, tables, shape.rows)
        correct_products(shape, masks, cases, products, start, stop)

    dealt = await dealt_shares(party, "comparison bit", (rows, count), numbers)
    planes = dealt_planes(party, "digit tables", count, shape.rows, cases * shape.products, correct)
    return _Material(drawn, dealt, planes)


async def _open_result(party: Party, shape: Tree, public: Public, material: _Material) -> Planes:
    """Steps 2 to 4 up to the opened bits e', a plane for each case."""
    planes = material.planes.take()
    return await open_comparison(party, shape, public, material.masks.take(), planes, planes)


# ---------------------------------------------------------------------------------------------------------- comparisons


async def choose(
    party: Party, x: ArithmeticShare, operands: Sequence[ArithmeticShare], threshold: int, digits: Shape
) -> Chosen:
    """Shares of b = [x >= threshold] and of b y for all operands y, of which x may be one.

    Args:
        party: this member.
        x: secret integers such that threshold - 1 - x does not wrap; any for a threshold of 0.
        operands: shares of the shape of x.
        threshold: public.
        digits: how the comparison is cut.

    Cost: ``choose_cost``: 4 rounds for short digits, 3 for long ones; x and the operands opened, and 34 or 25 bits.
    Leaks: nothing.
    """
    bits, shape, count = _bits(party), tuple(x.data.shape), x.data.numel()
    for operand in operands:
        if tuple(operand.data.shape) != shape:
            raise ShapeError(f"A bit of shape {shape} multiplies shares of its shape, not {tuple(operand.data.shape)}.")
    plan = tree(bits - 1, *digits)
    public, *others = await _open(party, x, *operands)
    provided = party.is_provider
    r = _flat(public.mask) if provided else None
    factors = [_flat(other.mask) for other in others] if provided else []

    def multiplied(a: Words) -> Words:
        rows = np.empty((1 + len(others), count), np.int64)
        rows[0] = a[0]
        for row, factor in zip(rows[1:], factors, strict=True):
            np.multiply(a[0], factor, out=row)
        return rows

    material = await _deal(party, plan, 1, count, r, bits - 1, 1 + len(others), multiplied)
    if provided:
        return Chosen(_nothing(*shape), tuple(_nothing(*shape) for _ in operands))
    compared = Public(_flat(public.opened), np.array([_signed(threshold - 1)], np.int64), -1, bits - 1)
    opened = await _open_result(party, plan, compared, material)
    words = material.words.take((1 + len(others), count)).numpy()
    bit = _share(bit_planes.convert_bits(opened, words[:1], bits, lead=party.is_leader), shape)
    products = (_product(party, opened, other, words[0], am) for other, am in zip(others, words[1:], strict=True))
    return Chosen(bit, tuple(_share(product, shape) for product in products))


async def _open(party: Party, *shares: ArithmeticShare) -> list[Operand]:
    """Open what is not open yet; views that make up one tensor as this tensor, under one mask."""
    distinct = {id(share): share for share in shares}
    root = shares[0].root
    sizes = [share.data.numel() for share in distinct.values() if share.root is root]
    if len(sizes) > 1 and sum(sizes) == root.data.numel():
        await masked(party, shares[0].view(root.data))
    opened = dict(zip(distinct, await masked(party, *distinct.values()), strict=True))
    return [opened[id(share)] for share in shares]


def _product(party: Party, opened: Planes, operand: Operand, a: Words, am: Words) -> Words:
    d, m = _flat(operand.opened), _flat(operand.mask)
    return bit_planes.choose_words(opened, d, m, a, am, _bits(party), lead=party.is_leader)


async def at_least(party: Party, x: ArithmeticShare, thresholds: Sequence[int], digits: Shape) -> ArithmeticShare:
    """Shares of [x >= T] for all public thresholds T, shape (thresholds, *shape), from one opening and set of tables.

    Args:
        party: this member.
        x: secret integers such that T - 1 - x does not wrap.
        thresholds: public.
        digits: how the comparison is cut.

    Cost: ``at_least_cost``: 4 rounds for short digits; 8 bytes an element, and 34 bits for each threshold.
    Leaks: nothing.
    """
    bits, shape, count, cases = _bits(party), tuple(x.data.shape), x.data.numel(), len(thresholds)
    (public,) = await masked(party, x)
    plan = tree(bits - 1, *digits)
    r = _flat(public.mask) if party.is_provider else None
    material = await _deal(party, plan, cases, count, r, bits - 1, cases, lambda a: a)
    if party.is_provider:
        return _nothing(cases, *shape)
    offsets = np.array([_signed(threshold - 1) for threshold in thresholds], np.int64)
    opened = await _open_result(party, plan, Public(_flat(public.opened), offsets, -1, bits - 1), material)
    a = material.words.take((cases, count)).numpy()
    return _share(bit_planes.convert_bits(opened, a, bits, lead=party.is_leader), (cases, *shape))


async def equal_zero(party: Party, x: ArithmeticShare, digits: Shape) -> ArithmeticShare:
    """Shares of [x = 0] = [r = -e], the AND of the equalities of all digits.

    Cost: ``equal_zero_cost``: 4 rounds for short digits; 8 bytes and 21 bits an element.
    Leaks: nothing.
    """
    bits, shape, count = _bits(party), tuple(x.data.shape), x.data.numel()
    (public,) = await masked(party, x)
    plan = tree(bits, *digits, equality=True)
    r = _flat(public.mask) if party.is_provider else None
    material = await _deal(party, plan, 1, count, r, -1, 1, lambda a: a)
    if party.is_provider:
        return _nothing(*shape)
    compared = Public(_flat(public.opened), np.zeros(1, np.int64), -1, -1)
    opened = await _open_result(party, plan, compared, material)
    a = material.words.take((1, count)).numpy()
    return _share(bit_planes.convert_bits(opened, a, bits, lead=party.is_leader), shape)


async def truncated_relu(party: Party, x: ArithmeticShare, divisor: int, digits: Shape) -> TruncatedRelu:
    """Shares of y = x / divisor as ``truncation.truncate`` gives it, b = [x > 0], and b y, from one opening.

    -x is truncated, since its public part is a number minus r; with m and t as there, a, a m and a t are dealt as well.

    Args:
        party: this member.
        x: secret integers with -2^62 < x <= 2^62.
        divisor: a power of two, at most 2^62.
        digits: how the comparison is cut.

    Returns:
        y is floor(x / divisor) or one more, x / divisor on average.

    Raises:
        ModulusError: another divisor.

    Cost: ``truncated_relu_cost``: 4 rounds for short digits, 8 bytes and 34 bits an element.
    Leaks: nothing, as for ``truncation.truncate``.
    """
    bits, shape, count = _bits(party), tuple(x.data.shape), x.data.numel()
    if divisor & (divisor - 1) or not 1 <= divisor <= 1 << (bits - 2):
        raise ModulusError(
            f"Truncation and comparison from one opening divide by powers of two up to 2^{bits - 2}, not by {divisor}; "
            "truncate first."
        )
    fraction_bits = divisor.bit_length() - 1
    (public,) = await masked(party, x)
    plan = tree(bits - 1, *digits)
    r = _flat(public.mask) if party.is_provider else None

    def multiplied(a: Words) -> Words:
        assert r is not None
        split = kernels.truncation_mask(r, fraction_bits, bits).reshape(2, count)
        return np.concatenate([a, split, a * split])

    material = await _deal(party, plan, 1, count, r, bits - 1, 5, multiplied)
    if party.is_provider:
        return TruncatedRelu(_nothing(*shape), _nothing(*shape), _nothing(*shape))
    d = _flat(public.opened)
    opened = await _open_result(party, plan, Public(d, np.zeros(1, np.int64), -1, bits - 1), material)
    dealt, lead = material.words.take((5, count)).numpy(), party.is_leader
    bit = bit_planes.convert_bits(opened, dealt[:1], bits, lead=lead)
    truncated, value = bit_planes.truncate_and_choose(opened, d, dealt.reshape(-1), fraction_bits, bits, lead=lead)
    return TruncatedRelu(_share(value, shape), _share(bit, shape), _share(truncated, shape))


# -------------------------------------------------------------------------------- declared prices, for rings of 64 bits


def _tree_cost(plan: Tree, count: int, cases: int, parties: int) -> Cost:
    """What tables and tree cost, without the opening of x and what is dealt in the ring."""
    sent = sum(opened_bytes(count, cases * level.opened) for level in plan.levels)
    dealt = dealt_bytes(count, plan.rows, cases * plan.products)
    return Cost(rounds=len(plan.levels), party_bytes=sent * (parties - 1), dealer_bytes=dealt)


def at_least_cost(count: int, thresholds: int, parties: int, digits: Shape = SHORT_DIGITS) -> Cost:
    """Declared price of ``at_least`` for an operand that was not open before."""
    opening = Cost(rounds=1, party_bytes=8 * count * (parties - 1), dealer_bytes=8 * count * thresholds)
    return opening + _tree_cost(tree(63, *digits), count, thresholds, parties)


def choose_cost(count: int, operands: int, parties: int, digits: Shape = SHORT_DIGITS) -> Cost:
    """Declared price of ``choose`` with so many operands, the first being x, none open before."""
    words = max(1, operands)
    opening = Cost(rounds=1, party_bytes=8 * words * count * (parties - 1), dealer_bytes=8 * (1 + operands) * count)
    return opening + _tree_cost(tree(63, *digits), count, 1, parties)


def truncated_relu_cost(count: int, parties: int, digits: Shape = SHORT_DIGITS) -> Cost:
    """Declared price of ``truncated_relu``."""
    opening = Cost(rounds=1, party_bytes=8 * count * (parties - 1), dealer_bytes=40 * count)
    return opening + _tree_cost(tree(63, *digits), count, 1, parties)


def equal_zero_cost(count: int, parties: int, digits: Shape = SHORT_DIGITS) -> Cost:
    """Declared price of ``equal_zero``."""
    opening = Cost(rounds=1, party_bytes=8 * count * (parties - 1), dealer_bytes=8 * count)
    return opening + _tree_cost(tree(64, *digits, equality=True), count, 1, parties)


def prices(parties: int, digits: Shape = SHORT_DIGITS) -> Prices:
    """Declared prices in sessions of so many parties."""
    return Prices(
        parties,
        lambda count, thresholds: at_least_cost(count, thresholds, parties, digits),
        lambda count, operands: choose_cost(count, operands, parties, digits),
        lambda count: equal_zero_cost(count, parties, digits),
        opens_operand=True,
        opens_bit=False,
    )
