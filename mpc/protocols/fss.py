"""The sign of a shared number in one round by function secret sharing, for two parties and the provider.

Notation: l ring bits; x = e + r, where r is a mask that the provider knows and e was opened, as for products
(``opening``); r_top its top bit, r' its other bits; T a public threshold. With c = T - 1 - e, which is public,
    [x >= T] = top bit of T - 1 - x = top bit of c - r = c_top XOR r_top XOR [c' < r'],
where T - 1 - x must not wrap: for T = 0 it never does.

A distributed comparison function [BCGGIKR21] is a pair of keys, one for each party, of a secret alpha and a payload
beta; from a public number c' each party computes with its key, without a message, a share of beta [c' < alpha].
``kernels.dcf`` makes the keys and evaluates them. Steps:
    0  the provider deals shares of r_top in the ring, and keys for alpha = r', beta = 1 - 2 r_top      offline
    1  open e = x - r; nothing if x is open already                                                     round 1
    2  the keys give shares of (1 - 2 r_top) [c' < r']; with r_top they are shares of b = r_top XOR [c' < r']
    3  [x >= T] = c_top + (1 - 2 c_top) b, linear in shares
One key serves all thresholds: it hides r however often it is evaluated, and shares of results stay shares.

Equality: x = 0 iff r = c with c = -e. With two keys for all l bits, 1 - [x = 0] = [c < r] + [~c < ~r], where ~ flips
all bits. Both are exact for every x. The published comparison [RTPB22] takes x + r as a whole and errs where it wraps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from sharetorch.mpc.channel import WORDS, Form
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.errors import MembersError
from sharetorch.mpc.kernels import dcf
from sharetorch.mpc.kernels.fixed_key import KEY_BYTES, FixedKeyHash
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.arithmetic import multiply
from sharetorch.mpc.protocols.opening import Operand, masked
from sharetorch.mpc.protocols.selection import Chosen, Prices
from sharetorch.mpc.provider import OneTime, dealt_shares
from sharetorch.mpc.ring import WORD_BITS, Elements, ring_bits
from sharetorch.mpc.share import ArithmeticShare

I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]

CHUNK = 1 << 14
"""Elements whose keys are one message of 25 MB, so that parties can use keys while the provider makes the next."""


def comparing_bits(party: Party) -> int:
    """Bits of the ring, after checking that function secret sharing can run.

    Raises:
        MembersError: other than two parties.
        ModulusError: a field.
    """
    if party.parties != 2:
        raise MembersError(
            f"Function secret sharing compares for 2 parties and a provider; this session has {party.parties} "
            'parties. Share with two parties, or with protocol="tables", which serves any number.'
        )
    return ring_bits(party.ring, "Function secret sharing")


async def at_least(party: Party, x: ArithmeticShare, thresholds: Sequence[int]) -> ArithmeticShare:
    """Shares of [x >= T] as integers 0 and 1 for all public thresholds T, shape (thresholds, *shape).

    Args:
        party: this member.
        x: secret integers such that T - 1 - x does not wrap; any for a threshold of 0.
        thresholds: public.

    Cost: ``at_least_cost``: 1 round, 8 bytes an element; offline 1535.75 bytes an element to each party and 8 to P1,
    whatever the number of thresholds.
    Leaks: nothing.
    """
    bits, shape, count = comparing_bits(party), x.data.shape, x.data.numel()
    (public,) = await masked(party, x)
    dealt = await dealt_shares(party, "top bit of the mask", (count,), lambda: _top_bits(public, bits))
    if party.is_provider:
        payload = 1 - 2 * _flat(_top_bits(public, bits))
        deal_keys(party, _unsigned(_flat(public.mask), bits - 1), payload.view(np.uint64), bits - 1)
        return ArithmeticShare(torch.empty((len(thresholds), *shape), dtype=torch.int64, device="meta"))
    limits = np.array([(threshold - 1) % (1 << WORD_BITS) for threshold in thresholds], np.uint64).view(np.int64)
    c = limits[:, None] - _flat(public.opened)
    share = await less_than_secret(party, _unsigned(c, bits - 1), bits - 1)
    share += dealt.take((count,)).numpy()
    top = (c >> (bits - 1)) & 1
    share *= 1 - 2 * top
    if party.is_leader:
        share += top
    return ArithmeticShare(party.ring.reduce(torch.from_numpy(share)).reshape(len(thresholds), *shape))


async def non_negative(party: Party, x: ArithmeticShare) -> ArithmeticShare:
    """Shares of [x >= 0] as integers 0 and 1, same shape, for every x of the ring.

    Cost: ``at_least_cost`` for one threshold.
    Leaks: nothing.
    """
    return ArithmeticShare((await at_least(party, x, (0,))).data[0])


async def choose(
    party: Party, x: ArithmeticShare, operands: Sequence[ArithmeticShare], threshold: int = 0
) -> Chosen:
    """Shares of b = [x >= threshold] and of b y for all operands y, of which x may be one.

    The operands are opened together with x, so that the products need nothing opened but b.

    Args:
        party: this member.
        x: secret integers such that threshold - 1 - x does not wrap; any for a threshold of 0.
        operands: shares of the shape of x.
        threshold: public.

    Cost: ``choose_cost``: 2 rounds, 8 bytes for x and each other operand and 8 for b.
    Leaks: nothing.
    """
    comparing_bits(party)
    await masked(party, x, *operands)
    bit = ArithmeticShare((await at_least(party, x, (threshold,))).data[0])
    return Chosen(bit, tuple([await multiply(party, operand, bit) for operand in operands]))


async def equal_zero(party: Party, x: ArithmeticShare) -> ArithmeticShare:
    """Shares of [x = 0] as integers 0 and 1, same shape, for every x of the ring.

    Cost: ``equal_zero_cost``: 1 round, 8 bytes an element; offline 3120 to each party.
    Leaks: nothing.
    """
    bits, count = comparing_bits(party), x.data.numel()
    (public,) = await masked(party, x)
    if party.is_provider:
        deal_keys(party, _both_ways(_flat(public.mask), bits), np.ones(2 * count, np.uint64), bits)
        return ArithmeticShare(party.ring.empty_meta(x.data))
    points = _both_ways(-_flat(public.opened), bits)
    unequal = (await less_than_secret(party, points[None], bits)).reshape(2, count)
    share = int(party.is_leader) - unequal[0] - unequal[1]
    return ArithmeticShare(party.ring.reduce(torch.from_numpy(share)).reshape(x.data.shape))


def deal_keys(party: Party, alpha: U64, beta: U64, depth: int) -> None:
    """Provider's part of a comparison: send both parties the corrections of new keys for secret alpha and beta.

    Cost: 8 ``dcf.key_words`` bytes to each party, offline.
    """
    roots = [root_seeds(party, rank, len(alpha)).take() for rank in (0, 1)]
    h = _public_hash(party.step)
    for start in range(0, len(alpha), CHUNK):
        part = slice(start, start + CHUNK)
        root0, root1 = (dcf.Seeds(root.low[part], root.high[part]) for root in roots)
        key = dcf.generate(root0, root1, alpha[part], beta[part], depth, h)
        for rank in (0, 1):
            party.send(rank, "comparison keys", key, offline=True)


async def less_than_secret(party: Party, points: U64, depth: int) -> I64:
    """A party's shares, modulo 2^64, of beta [c < alpha] for public c and the alpha and beta of ``deal_keys``.

    Args:
        party: this member, not the provider.
        points: public numbers c below 2^depth, shape (cases, n): all cases use the n keys.
        depth: bits of a number.

    Returns:
        shape (cases, n).
    """
    count = points.shape[1]
    root = root_seeds(party, party.provider, count).take()
    h = _public_hash(party.step)
    shares = np.empty(points.shape, np.uint64)
    for start in range(0, count, CHUNK):
        part = slice(start, min(start + CHUNK, count))
        form = Form(WORDS, (dcf.key_words(part.stop - start, depth),))
        (key,) = await party.receive(party.provider, "comparison keys", form)
        seeds = dcf.Seeds(root.low[part], root.high[part])
        for case, row in enumerate(points):
            shares[case, part] = dcf.evaluate(key, seeds, row[part], depth, party.rank, h)
    return shares.view(np.int64)


def root_seeds(party: Party, peer: int, count: int) -> OneTime[dcf.Seeds]:
    """128 bits an element that one party and the provider know. No bytes."""
    words = party.stream(peer, "root seeds").words((2, count)).numpy().view(np.uint64)
    return OneTime("root seeds", dcf.Seeds(words[0], words[1]))


@lru_cache(maxsize=16)
def _public_hash(operation: int) -> FixedKeyHash:
    """A hash of its own for each operation, so that work on the keys of one is of no use for another's."""
    return FixedKeyHash(hashlib.sha256(b"sharetorch/v1/comparison keys/%d" % operation).digest()[:KEY_BYTES])


def _flat(x: Elements) -> I64:
    return np.asarray(x.numpy().reshape(-1))


def _top_bits(operand: Operand, bits: int) -> Elements:
    """Top bits of the mask, at the provider."""
    return torch.from_numpy((_flat(operand.mask) >> (bits - 1)) & 1)


def _unsigned(x: I64, bits: int) -> U64:
    """So many low bits, read as unsigned."""
    return x.view(np.uint64) & np.uint64((1 << bits) - 1)


def _both_ways(x: I64, bits: int) -> U64:
    """x and its complement in the ring, read as unsigned, one after the other."""
    words = _unsigned(x, bits)
    return np.concatenate([words, words ^ np.uint64((1 << bits) - 1)])


# Declared prices in Z_2^64, for operands that were not open before.


def _key_bytes(count: int, depth: int) -> int:
    """Bytes of corrections to both parties."""
    return 2 * 8 * dcf.key_words(count, depth)


def at_least_cost(count: int, thresholds: int = 1) -> Cost:
    """Declared price of ``at_least``, and of ``non_negative``."""
    return Cost(rounds=1, party_bytes=8 * count, dealer_bytes=_key_bytes(count, WORD_BITS - 1) + 8 * count)


def choose_cost(count: int, operands: int) -> Cost:
    """Declared price of ``choose`` with so many operands, the first being x."""
    if operands == 0:
        return at_least_cost(count)
    products = Cost(rounds=1, party_bytes=8 * operands * count, dealer_bytes=8 * operands * count)
    return at_least_cost(count) + products


def equal_zero_cost(count: int) -> Cost:
    """Declared price of ``equal_zero``."""
    return Cost(rounds=1, party_bytes=8 * count, dealer_bytes=_key_bytes(2 * count, WORD_BITS))


def prices() -> Prices:
    """Declared prices of a session."""
    return Prices(2, at_least_cost, choose_cost, equal_zero_cost, opens_operand=True, opens_bit=True)
