"""DReLU*: the sign of a shared number in three rounds, for two parties and the provider.

SecureNN's ComputeMSB [WGC19, Algorithm 5] works over Z_M, M = 2^l - 1, and its ShareConvert brings shares there.
Conversion is not needed for a sign: if 2a - 1 = s_0 + s_1 mod L, then s_0 + s_1 mod M exceeds it by 0 or 1 if it is
positive, by 1 or 2 if it is negative, and by 1 if it is -1. 2a - 1 is odd, so the result is negative for a < 0 only;
|a| <= 2^(l-2) - 1. The steps, with x a mask the provider dealt over Z_M:
    1  y_0 = (2 a_0 - 1 mod L) mod M,  y_1 = (2 a_1 mod L) mod M                       local
    2  open c = 2y + x mod M                                                          round 1
    3  PrivateCompare: P2 learns beta' = beta XOR [x > c]                             round 2
    4  P2 shares mu = beta' XOR x[0]                                                  round 3
    5  MSB(y) = LSB(2y) = mu XOR (beta XOR c[0]), linear in the shares of mu; DReLU = 1 - MSB, refreshed
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.mpc import odd_ring
from sharetorch.mpc.channel import RING, Form
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.errors import MembersError
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.private_compare import ABOVE, BELOW, private_compare, share_bits
from sharetorch.mpc.ring import ring_bits
from sharetorch.mpc.share import ArithmeticShare

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]


def comparing_bits(party: Party) -> int:
    """Bits of the ring, after checking that SecureNN can run.

    Raises:
        MembersError: other than two parties.
        ModulusError: a field.
    """
    if party.parties != 2:
        raise MembersError(
            f"SecureNN compares for 2 parties and a provider; this session has {party.parties} parties. "
            "Share with two parties to compare, or use linear operations and products only."
        )
    return ring_bits(party.ring, "SecureNN")


async def non_negative(party: Party, a: ArithmeticShare) -> ArithmeticShare:
    """Shares of [a >= 0] as integers 0 and 1, same shape.

    Args:
        party: this member.
        a: secret integers with |a| < 2^62.

    Cost: 3 rounds; 72 bytes an element from each party (8 to its peer, 64 to the provider), 8 from the provider to
    P1; offline 64.
    Leaks: nothing.
    """
    bits = comparing_bits(party)
    count = a.data.numel()
    mask, symbols = await _deal_mask(party, count, bits)
    if party.is_provider:
        compared = await private_compare(party, None, None, None, count, bits)
        assert mask is not None and compared is not None
        _share_flag(party, compared ^ (mask & np.uint64(1)).astype(np.uint8))
        return ArithmeticShare(torch.empty(a.data.shape, dtype=torch.int64, device="meta"))
    assert mask is not None
    y = embed(a.data.reshape(-1), party.rank, bits)
    c = await _open_odd(party, odd_ring.add(odd_ring.add(y, y, bits), mask, bits), bits)
    beta = party.stream(1 - party.rank, "beta").bits(count)
    await private_compare(party, symbols, c + beta, np.where(beta, BELOW, ABOVE).astype(np.uint8), count, bits)
    mu = await _receive_flag(party, count)
    flip = torch.from_numpy((beta ^ (c & np.uint64(1)).astype(np.uint8)).astype(np.int64))
    share = -(1 - 2 * flip) * mu
    if party.is_leader:
        share += 1 - flip
    share += party.zero_share(share.shape)
    return ArithmeticShare(party.ring.reduce(share).reshape(a.data.shape))


def embed(a: Tensor, rank: int, bits: int) -> U64:
    """Step 1: a party's share of 2a - 1, read in Z_M."""
    doubled = 2 * a - 1 if rank == 0 else 2 * a
    return odd_ring.from_word(doubled.numpy(), bits)


async def _deal_mask(party: Party, count: int, bits: int) -> tuple[U64 | None, U8 | None]:
    """The mask x over Z_M: its share (all of it at the provider) and the shares of its bits."""
    if not party.is_provider:
        share = party.stream(party.provider, "odd mask").odd_ring(count, bits)
        return share, await share_bits(party, None, count, bits, offline=True)
    parts = [party.stream(rank, "odd mask").odd_ring(count, bits) for rank in (0, 1)]
    x = odd_ring.add(parts[0], parts[1], bits)
    await share_bits(party, x, count, bits, offline=True)
    return x, None


async def _open_odd(party: Party, own: U64, bits: int) -> U64:
    ((other,),) = await party.exchange("masked sign", own)
    return odd_ring.add(own, other, bits)


def _share_flag(party: Party, flag: U8) -> None:
    """Step 4 at the provider: additive shares of a bit; P0's comes from its stream."""
    share0 = party.stream(0, "flag").uniform(flag.shape, party.ring)
    party.send(1, "flag", party.ring.reduce(torch.from_numpy(flag.astype(np.int64)) - share0))


async def _receive_flag(party: Party, count: int) -> Tensor:
    if party.is_leader:
        return torch.as_tensor(party.stream(party.provider, "flag").uniform((count,), party.ring))
    (share,) = await party.receive(party.provider, "flag", Form(RING, (count,)))
    return torch.as_tensor(share)


def non_negative_cost(count: int) -> Cost:
    """Declared price of ``non_negative``: 216 bytes an element in all."""
    return Cost(rounds=3, party_bytes=72 * count, helper_bytes=8 * count, dealer_bytes=64 * count)
