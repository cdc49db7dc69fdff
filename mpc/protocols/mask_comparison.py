"""[c < r] for a public c and a mask r that the provider dealt: one-hot digit tables and one radix-4 node.

r is cut into four digits of w bits, highest last. For each digit the parties hold XOR shares of its one-hot vector
(2^w - 1 dealt bits; the last row is 1 XOR the others). With the public digit v of c, locally
    p_k = onehot_k[v]  (digits equal),    g_k = XOR_{i > v} onehot_k[i]  (digit of r above digit of c).
Then [c < r] = g3 ^ p3 g2 ^ p3 p2 g1 ^ p3 p2 p1 g0. All bits but g3 are opened under masks whose products were dealt, so
the monomials are linear in shares of products of masks. A dealt random bit, known both as XOR shares and in the ring,
converts the result.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sharetorch.mpc.party import Party
from sharetorch.mpc.provider import OneTime, dealt_bits, dealt_shares, random_bits
from sharetorch.mpc.share import ArithmeticShare

Bits = NDArray[np.uint8]

DIGITS = 4
_INPUTS = ("p3", "p2", "p1", "g2", "g1", "g0")
_MONOMIALS = (("p3", "g2"), ("p3", "p2", "g1"), ("p3", "p2", "p1", "g0"))


def _mask_products() -> tuple[tuple[str, ...], ...]:
    found: list[tuple[str, ...]] = []
    for monomial in _MONOMIALS:
        for size in range(2, len(monomial) + 1):
            found.extend(subset for subset in combinations(monomial, size) if subset not in found)
    return tuple(found)


_PRODUCTS = _mask_products()
"""Products of masks the provider deals: 15 bits per comparison."""


class CarryTable(NamedTuple):
    """XOR shares of the one-hot digits of r: shape (count, 4, 2^w), and w."""

    onehot: OneTime[Bits]
    width: int


def mask_digits(divisor: int) -> int:
    """Bits per digit for comparing numbers below ``divisor``."""
    return -(-(divisor - 1).bit_length() // DIGITS)


async def carry_table(party: Party, count: int, width: int, r: NDArray[np.int64] | None) -> CarryTable:
    """Deal the digit tables of r, shape (count,), which only the provider knows.

    Cost: 4 (2^w - 1) bits an element, offline.
    """
    rows = (1 << width) - 1
    dealt = await dealt_bits(party, "digit table", (count, DIGITS, rows), lambda: _one_hot(r, width)[..., :rows])
    return CarryTable(dealt, width)


def _one_hot(r: NDArray[np.int64] | None, width: int) -> Bits:
    assert r is not None
    shifts = width * np.arange(DIGITS)
    digits = (r[:, None] >> shifts) & ((1 << width) - 1)
    return np.asarray(digits[..., None] == np.arange(1 << width), dtype=np.uint8)


async def less_than_mask(
    party: Party, table: CarryTable, thresholds: NDArray[np.int64] | None, cases: int, count: int
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
    masks = random_bits(party, "node masks", (cases, count, len(_INPUTS))).take()
    products = await dealt_bits(
        party, "products of node masks", (cases, count, len(_PRODUCTS)), lambda: _multiply_masks(masks)
    )
    bit = random_bits(party, "conversion bit", (cases, count)).take()
    number = await dealt_shares(party, "conversion bit in the ring", (cases, count), lambda: _as_ring(bit))
    if thresholds is None:
        return ArithmeticShare(torch.empty((cases, count), dtype=torch.int64, device="meta"))
    leaves = _leaves(party, table, thresholds)
    less = await _node(party, leaves, masks, products.take())
    opened = _as_ring(await party.open_bits("converted bit", less ^ bit))
    share = (1 - 2 * opened) * number.take()
    return ArithmeticShare(party.ring.reduce(share + opened if party.is_leader else share))


def _as_ring(bits: Bits) -> torch.Tensor:
    return torch.from_numpy(bits.astype(np.int64))


def _leaves(party: Party, table: CarryTable, thresholds: NDArray[np.int64]) -> dict[str, Bits]:
    """XOR shares of g_k and p_k, each of shape (cases, count)."""
    dealt = table.onehot.take()
    last = np.bitwise_xor.reduce(dealt, axis=-1, keepdims=True)
    onehot = np.concatenate([dealt, last ^ np.uint8(party.is_leader)], axis=-1)
    above = np.bitwise_xor.accumulate(onehot[..., ::-1], axis=-1)[..., ::-1] ^ onehot
    leaves: dict[str, Bits] = {}
    elements = np.arange(onehot.shape[0])
    for k in range(DIGITS):
        digit = (thresholds >> (k * table.width)) & ((1 << table.width) - 1)
        leaves[f"p{k}"] = onehot[elements, k, digit]
        leaves[f"g{k}"] = above[elements, k, digit]
    return leaves


async def _node(party: Party, leaves: dict[str, Bits], masks: Bits, products: Bits) -> Bits:
    """XOR share of g3 ^ p3 g2 ^ p3 p2 g1 ^ p3 p2 p1 g0."""
    inputs = np.stack([leaves[name] for name in _INPUTS], axis=-1)
    opened = await party.open_bits("masked node inputs", inputs ^ masks)
    public = {name: opened[..., i] for i, name in enumerate(_INPUTS)}
    shared: dict[tuple[str, ...], Bits] = {(name,): masks[..., i] for i, name in enumerate(_INPUTS)}
    shared.update({subset: products[..., i] for i, subset in enumerate(_PRODUCTS)})
    total = leaves["g3"]
    for monomial in _MONOMIALS:
        total = total ^ _monomial(party, monomial, public, shared)
    return total


def _monomial(
    party: Party, names: tuple[str, ...], public: dict[str, Bits], shared: dict[tuple[str, ...], Bits]
) -> Bits:
    """prod b = XOR over subsets T of (prod outside T of opened bits) * (product of the masks in T)."""
    total = np.zeros_like(public[names[0]])
    for size in range(len(names) + 1):
        for subset in combinations(names, size):
            term = shared[subset] if subset else np.full_like(total, party.is_leader)
            for name in names:
                if name not in subset:
                    term = term & public[name]
            total = total ^ term
    return total


def _multiply_masks(masks: Bits) -> Bits:
    place = {name: i for i, name in enumerate(_INPUTS)}
    return np.stack([np.bitwise_and.reduce(masks[..., [place[n] for n in s]], axis=-1) for s in _PRODUCTS], axis=-1)
