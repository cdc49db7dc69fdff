"""SecureNN as published [WGC19], with every erratum of its algorithms closed and the missing refresh added.

Kept for comparison and teaching (``protocol="securenn-paper"``); ``securenn.non_negative`` does the same in three
rounds. L = 2^l, M = L - 1, P2 is the provider. Algorithm numbers are those of the whitepaper of 2019.

Differences from the printed algorithms:
    Algorithm 3 (PrivateCompare)  sign of x - r; refresh by a zero-sharing; one beta, s, rotation per element
    Algorithm 4 (ShareConvert)    theta = beta_0 + beta_1 - alpha + delta + eta - 1 with eta = [x >= r]; r = 0 is exact
    Algorithm 9 (DMaxPool)        both parties refresh the blinded index
P0's halves of what P2 shares come from a stream, so that 488 of the published 664 bytes of a DReLU are sent.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.mpc import odd_ring
from sharetorch.mpc.channel import RING, WORDS, Form
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.arithmetic import bilinear_cost, multiply, refresh
from sharetorch.mpc.protocols.private_compare import ABOVE, ALWAYS, BELOW, private_compare, share_bits
from sharetorch.mpc.protocols.securenn import comparing_bits
from sharetorch.mpc.share import ArithmeticShare

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]


class MaxPooled(NamedTuple):
    """Value and index of a maximum."""

    value: ArithmeticShare
    index: ArithmeticShare  # type: ignore[assignment]


async def share_convert(party: Party, a: Tensor, bits: int) -> U64 | None:
    """Algorithm 4: shares over Z_L, flat, to shares over Z_M. The secret must not be L - 1. None at P2.

    Cost: 4 rounds; 72 bytes an element from each party, 80 from P2.
    """
    count = a.numel()
    if party.is_provider:
        await _convert_at_helper(party, count, bits)
        return None
    own, r, alpha, beta = _blind(party, a, bits)
    party.send(party.provider, "blinded share", own)
    symbols = await share_bits(party, None, count, bits, offline=False)
    delta = await _receive_odd(party, "wrap of blinded", count, bits)
    eta_blind = party.stream(1 - party.rank, "eta").bits(count)
    t, direction = _at_least(r, eta_blind, bits)
    await private_compare(party, symbols, t, direction, count, bits)
    eta = _unblind(party, await _receive_odd(party, "compared", count, bits), eta_blind, bits)
    theta = odd_ring.add(odd_ring.add(delta, eta, bits), beta.astype(np.uint64), bits)
    if party.is_leader:
        theta = odd_ring.subtract(theta, alpha.astype(np.uint64) + np.uint64(1), bits)
    converted = odd_ring.subtract(odd_ring.from_word(a.numpy(), bits), theta, bits)
    return _refresh_odd(party, converted, bits)


def _blind(party: Party, a: Tensor, bits: int) -> tuple[U64, U64, NDArray[np.bool_], NDArray[np.bool_]]:
    """Step 1: a~_j = a_j + r_j, and r, alpha = wrap(r_0, r_1), beta_j = wrap(a_j, r_j)."""
    mask = np.uint64((1 << bits) - 1)
    peer = 1 - party.rank
    parts = [party.stream(peer, f"blind {rank}").words(a.shape).numpy().view(np.uint64) & mask for rank in (0, 1)]
    r = (parts[0] + parts[1]) & mask
    word = a.numpy().view(np.uint64) & mask
    own = (word + parts[party.rank]) & mask
    return own, r, r < parts[0], own < word


def _at_least(r: U64, eta: U8, bits: int) -> tuple[U64, U8]:
    """Thresholds and directions of [x >= r] (eta = 0) and [x < r] (eta = 1); x >= 0 always holds."""
    below = eta == 1
    always = ~below & (r == 0)
    t = np.where(below | always, r, r - np.uint64(1)) & np.uint64((1 << bits) - 1)
    return t, np.select([below, always], [BELOW, ALWAYS], ABOVE).astype(np.uint8)


async def _convert_at_helper(party: Party, count: int, bits: int) -> None:
    words = Form(WORDS, (count,))
    (part0,) = await party.receive(0, "blinded share", words)
    (part1,) = await party.receive(1, "blinded share", words)
    x = (part0 + part1) & np.uint64((1 << bits) - 1)
    await share_bits(party, x, count, bits, offline=False)
    _send_odd(party, "wrap of blinded", (x < part0).astype(np.uint64), bits)
    compared = await private_compare(party, None, None, None, count, bits)
    assert compared is not None
    _send_odd(party, "compared", compared.astype(np.uint64), bits)


def _send_odd(party: Party, label: str, value: U64, bits: int) -> None:
    share0 = party.stream(0, label).odd_ring(value.size, bits)
    party.send(1, label, odd_ring.subtract(value, share0, bits))


async def _receive_odd(party: Party, label: str, count: int, bits: int) -> U64:
    if party.is_leader:
        return party.stream(party.provider, label).odd_ring(count, bits)
    (share,) = await party.receive(party.provider, label, Form(WORDS, (count,)))
    return np.asarray(share, dtype=np.uint64)


def _unblind(party: Party, share: U64, blind: U8, bits: int) -> U64:
    """Step 4: eta = eta' XOR eta'' with eta'' known to both parties."""
    flipped = odd_ring.negate(share, bits)
    if not party.is_leader:
        flipped = odd_ring.add(flipped, np.ones_like(share), bits)
    return np.where(blind == 1, flipped, share)


def _refresh_odd(party: Party, share: U64, bits: int) -> U64:
    drawn = party.stream(1 - party.rank, "odd zero").odd_ring(share.size, bits)
    return odd_ring.add(share, drawn, bits) if party.is_leader else odd_ring.subtract(share, drawn, bits)


async def compute_msb(party: Party, y: U64 | None, count: int, bits: int) -> ArithmeticShare:
    """Algorithm 5: the most significant bit of y over Z_M, as shares over Z_L, shape (count,). y is None at P2.

    MSB(y) = LSB(2y) = c[0] XOR x[0] XOR [x > c] for c = 2y + x.

    Cost: 4 rounds; 88 bytes an element from each party, 8 from P2; offline 80.
    """
    if party.is_provider:
        return await _msb_at_helper(party, count, bits)
    assert y is not None
    x = party.stream(party.provider, "odd mask").odd_ring(count, bits)
    symbols = await share_bits(party, None, count, bits, offline=True)
    low = await _receive_word(party, "lowest bit", count)
    own = odd_ring.add(odd_ring.add(y, y, bits), x, bits)
    ((other,),) = await party.exchange("masked number", own)
    c = odd_ring.add(own, other, bits)
    beta = party.stream(1 - party.rank, "beta").bits(count)
    await private_compare(party, symbols, c + beta, np.where(beta, BELOW, ABOVE).astype(np.uint8), count, bits)
    gamma = _flip(party, await _receive_word(party, "compared", count), beta)
    delta = _flip(party, low, (c & np.uint64(1)).astype(np.uint8))
    return await _xor(party, gamma, delta)


async def _msb_at_helper(party: Party, count: int, bits: int) -> ArithmeticShare:
    parts = [party.stream(rank, "odd mask").odd_ring(count, bits) for rank in (0, 1)]
    x = odd_ring.add(parts[0], parts[1], bits)
    await share_bits(party, x, count, bits, offline=True)
    _send_word(party, "lowest bit", (x & np.uint64(1)).astype(np.int64), offline=True)
    compared = await private_compare(party, None, None, None, count, bits)
    assert compared is not None
    _send_word(party, "compared", compared.astype(np.int64), offline=False)
    nothing = torch.empty(count, dtype=torch.int64, device="meta")
    return await _xor(party, nothing, nothing.clone())


def _send_word(party: Party, label: str, value: NDArray[np.int64], *, offline: bool) -> None:
    share0 = party.stream(0, label).uniform(value.shape, party.ring)
    party.send(1, label, party.ring.reduce(torch.from_numpy(value) - share0), offline=offline)


async def _receive_word(party: Party, label: str, count: int) -> Tensor:
    if party.is_leader:
        return torch.as_tensor(party.stream(party.provider, label).uniform((count,), party.ring))
    (share,) = await party.receive(party.provider, label, Form(RING, (count,)))
    return torch.as_tensor(share)


def _flip(party: Party, share: Tensor, public: U8) -> Tensor:
    """Share of a shared bit XOR a public one."""
    bit = torch.from_numpy(public.astype(np.int64))
    flipped = (1 - 2 * bit) * share
    return flipped + bit if party.is_leader else flipped


async def _xor(party: Party, gamma: Tensor, delta: Tensor) -> ArithmeticShare:
    both = await multiply(party, ArithmeticShare(gamma), ArithmeticShare(delta))
    return refresh(party, ArithmeticShare(party.ring.reduce(gamma + delta - 2 * both.data)))


async def derivative_of_relu(party: Party, a: ArithmeticShare) -> ArithmeticShare:
    """Algorithm 6: shares of [a >= 0] for |a| < 2^62.

    Cost: 8 rounds; 160 bytes an element from each party, 88 from P2; offline 80.
    """
    bits = comparing_bits(party)
    flat = a.data.reshape(-1)
    doubled = party.ring.reduce(2 * flat)
    msb = await compute_msb(party, await share_convert(party, doubled, bits), flat.numel(), bits)
    one = 1 if party.is_leader else 0
    return ArithmeticShare(party.ring.reduce(one - msb.data).reshape(a.data.shape))


async def select_shares(
    party: Party, alpha: ArithmeticShare, x: ArithmeticShare, y: ArithmeticShare
) -> ArithmeticShare:
    """Algorithm 2: x where alpha = 0, y where alpha = 1.

    Cost: 1 round, 16 bytes an element per party; offline 8.
    """
    difference = ArithmeticShare(party.ring.reduce(y.data - x.data))
    chosen = await multiply(party, alpha, difference)
    return refresh(party, ArithmeticShare(party.ring.reduce(x.data + chosen.data)))


async def relu(party: Party, a: ArithmeticShare) -> ArithmeticShare:
    """Algorithm 7: a * DReLU(a). Cost: 9 rounds; 176 bytes an element from each party, 88 from P2; offline 88."""
    return refresh(party, await multiply(party, a, await derivative_of_relu(party, a)))


async def divide(party: Party, x: ArithmeticShare, y: ArithmeticShare, quotient_bits: int) -> ArithmeticShare:
    """Algorithm 8: floor(x / y * 2^q) for 0 <= x < y and y * 2^q < 2^61, bit by bit.

    Both sides are scaled up instead of shifting y down, so no step truncates.

    Cost: 9 q rounds (a DReLU and a product per bit).
    """
    rest = ArithmeticShare(party.ring.reduce(x.data << quotient_bits)) if not x.data.is_meta else x
    quotient: Tensor = torch.zeros_like(rest.data, memory_format=torch.contiguous_format)
    for i in range(1, quotient_bits + 1):
        step = party.ring.reduce(y.data * (1 << (quotient_bits - i)))
        bit = await derivative_of_relu(party, ArithmeticShare(party.ring.reduce(rest.data - step)))
        taken = await multiply(party, bit, ArithmeticShare(step))
        rest = ArithmeticShare(party.ring.reduce(rest.data - taken.data))
        quotient = party.ring.reduce(quotient + (1 << (quotient_bits - i)) * bit.data)
    return refresh(party, ArithmeticShare(quotient))


async def max_pool(party: Party, x: ArithmeticShare) -> MaxPooled:
    """Algorithm 9: maximum over dimension 0 and its index, by a scan. The first of equal elements wins.

    Cost: 9 (n - 1) rounds.
    """
    if x.data.shape[0] == 0:
        raise ShapeError(f"The maximum over dimension 0 of shape {tuple(x.data.shape)} has no elements to choose from.")
    value = ArithmeticShare(x.data[0].clone())
    index = ArithmeticShare(torch.zeros_like(value.data))
    for i in range(1, x.data.shape[0]):
        candidate = x.data[i]
        keep = await derivative_of_relu(party, ArithmeticShare(party.ring.reduce(value.data - candidate)))
        place = index.data - i if party.is_leader else index.data
        both = ArithmeticShare(torch.stack([party.ring.reduce(value.data - candidate), place]))
        repeated = keep.view(keep.data.expand(both.data.shape))
        kept = await multiply(party, repeated, both)
        value = ArithmeticShare(party.ring.reduce(candidate + kept.data[0]))
        index = ArithmeticShare(party.ring.reduce(kept.data[1] + i) if party.is_leader else kept.data[1])
    return MaxPooled(refresh(party, value), refresh(party, index))


async def derivative_of_max_pool(party: Party, index: ArithmeticShare, n: int) -> ArithmeticShare:
    """Algorithm 10: the one-hot vector of an index in [0, n), n a power of two; shape (n, *index).

    P0 and P1 blind the index by a common r in Z_L, P2 shares the unit vector of (index + r) mod n, they rotate it back.

    Cost: 2 rounds; 8 bytes an index from each party, 8 n from P2.

    Raises:
        ShapeError: n is no power of two, so that reducing mod n would not agree with the ring.
    """
    if n < 1 or n & (n - 1):
        raise ShapeError(f"The published derivative of max pooling needs a window of 2^k elements, not {n}.")
    shape = index.data.shape
    count = index.data.numel()
    if party.is_provider:
        await _unit_vectors_at_helper(party, count, n)
        return ArithmeticShare(torch.empty((n, *shape), dtype=torch.int64, device="meta"))
    # r covers the whole ring: with r in [0, n) the helper would see index + r without the reduction mod n.
    r = party.stream(1 - party.rank, "index rotation").uniform((count,), party.ring)
    blinded = index.data.reshape(-1) + party.zero_share((count,))
    party.send(party.provider, "blinded index", party.ring.reduce(blinded + r if party.is_leader else blinded))
    unit = await _receive_word(party, "unit vectors", n * count)
    places = (torch.arange(n)[:, None] + r[None, :]) & (n - 1)
    return ArithmeticShare(torch.gather(unit.reshape(n, count), 0, places).reshape(n, *shape))


async def _unit_vectors_at_helper(party: Party, count: int, n: int) -> None:
    (part0,) = await party.receive(0, "blinded index", Form(RING, (count,)))
    (part1,) = await party.receive(1, "blinded index", Form(RING, (count,)))
    k = (part0 + part1) & (n - 1)
    unit = (torch.arange(n)[:, None] == k[None, :]).to(torch.int64)
    _send_word(party, "unit vectors", unit.reshape(-1).numpy(), offline=False)


def share_convert_cost(count: int) -> Cost:
    """Declared price of ``share_convert``: 224 bytes an element in all."""
    return Cost(rounds=4, party_bytes=72 * count, helper_bytes=80 * count)


def compute_msb_cost(count: int) -> Cost:
    """Declared price of ``compute_msb``: 264 bytes an element in all."""
    return Cost(rounds=4, party_bytes=88 * count, helper_bytes=8 * count, dealer_bytes=80 * count)


def derivative_of_relu_cost(count: int) -> Cost:
    """Declared price of ``derivative_of_relu``: 488 bytes an element in all."""
    return share_convert_cost(count) + compute_msb_cost(count)


def select_shares_cost(count: int) -> Cost:
    """Declared price of ``select_shares``."""
    return bilinear_cost(2 * count, count, 2)


def relu_cost(count: int) -> Cost:
    """Declared price of ``relu``."""
    return derivative_of_relu_cost(count) + bilinear_cost(2 * count, count, 2)


def divide_cost(count: int, quotient_bits: int) -> Cost:
    """Declared price of ``divide``."""
    total = Cost()
    for _ in range(quotient_bits):
        total += derivative_of_relu_cost(count) + bilinear_cost(2 * count, count, 2)
    return total


def max_pool_cost(n: int, count: int) -> Cost:
    """Declared price of ``max_pool`` for ``count`` maxima over n elements."""
    total = Cost()
    for _ in range(n - 1):
        total += derivative_of_relu_cost(count) + bilinear_cost(3 * count, 2 * count, 2)
    return total


def derivative_of_max_pool_cost(n: int, count: int) -> Cost:
    """Declared price of ``derivative_of_max_pool`` for ``count`` indices below n."""
    return Cost(rounds=2, party_bytes=8 * count, helper_bytes=8 * n * count)
