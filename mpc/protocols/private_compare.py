"""PrivateCompare [WGC19, Algorithm 3], with its errata closed: compare a bitwise-shared secret with a public number.

P0 and P1 hold shares mod p = 67 of the l bits of x, most significant first; both know t and a direction per element;
P2, the provider, dealt the bits and learns one bit per element: whether the comparison holds. With w_i = x_i XOR t_i:
    direction ABOVE   x > t    c_i = t_i - x_i + 1 + sum of w_k over higher k
    direction BELOW   x < t    c_i = x_i - t_i + 1 + sum of w_k over higher k
    direction ALWAYS           one c_i = 0, all others 1 (for the threshold no word can express)
At most one c_i is 0, and one is iff the comparison holds. The whitepaper prints the opposite sign of x - t.

P2 dealt the shares of x, so what it receives must not be a function of them: d_i = s_i c_i is refreshed with a sharing
of zero, z_i, that P2 does not know. Without it the ratio of the two shares of d_i gives x away (``tests`` hold the
attack). A uniform rotation per element hides the place of the zero: the other d_i are uniform and independent already.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.mpc import kernels
from sharetorch.mpc.channel import BYTES, Form
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.kernels import reference
from sharetorch.mpc.party import Party

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]

P = 67
ABOVE, BELOW, ALWAYS = 0, 1, 2


async def share_bits(party: Party, x: U64 | None, count: int, bits: int, *, offline: bool) -> U8 | None:
    """P2 shares the bits of x mod 67. Gives each party its symbols, shape (count * bits,) in the kernels' layout.

    Cost: ``bits`` bytes an element from P2 to P1; P0 expands its share from a stream.
    """
    if party.is_provider:
        assert x is not None
        share0 = party.stream(0, "bit shares").residues(count * bits, P)
        party.send(1, "bit shares", _share_bits(x, share0, bits), offline=offline)
        return None
    if party.is_leader:
        return party.stream(party.provider, "bit shares").residues(count * bits, P)
    (share1,) = await party.receive(party.provider, "bit shares", Form(BYTES, (count * bits,)))
    return np.asarray(share1, dtype=np.uint8)


async def private_compare(
    party: Party, x: U8 | None, t: U64 | None, direction: U8 | None, count: int, bits: int
) -> U8 | None:
    """Tell P2, and nobody else, for each element whether x compares with t as ``direction`` says.

    Args:
        party: this member.
        x: this party's symbols of the bits of x; None at P2.
        t: public to P0 and P1, shape (count,); None at P2.
        direction: ABOVE, BELOW or ALWAYS per element, shape (count,), secret from P2; None at P2.
        count: number of comparisons.
        bits: l.

    Returns:
        zeros and ones, shape (count,), at P2; None elsewhere.

    Cost: 1 round; l bytes an element from each of P0 and P1 to P2.
    Leaks: nothing; P2 learns the bit, which callers blind by the direction.
    """
    if party.is_provider:
        symbols = Form(BYTES, (count * bits,))
        (d0,) = await party.receive(0, "masked comparison", symbols)
        (d1,) = await party.receive(1, "masked comparison", symbols)
        return _find_zero(d0, d1, bits)
    assert x is not None and t is not None and direction is not None
    peer = 1 - party.rank
    s = party.stream(peer, "scale").nonzero_residues(count * bits, P)
    z = party.stream(peer, "refresh").residues(count * bits, P)
    rotation = party.stream(peer, "rotation").below(bits, count)
    d = _mask_symbols(x, t, direction, s, z, rotation, party.rank, bits)
    party.send(party.provider, "masked comparison", d)
    return None


def private_compare_cost(count: int, bits: int = 64) -> Cost:
    """Declared price of ``private_compare``."""
    return Cost(rounds=1, party_bytes=bits * count)


# The kernels know words of 64 bits; the small rings that tests visit whole go through their plain reference.


def _share_bits(x: U64, share0: U8, bits: int) -> U8:
    if bits == 64:
        return kernels.share_bits(x, share0)
    return _flat(reference.share_bits(_words(x), _rows(share0, bits), bits))


def _mask_symbols(x: U8, t: U64, direction: U8, s: U8, z: U8, rotation: U8, rank: int, bits: int) -> U8:
    if bits == 64:
        return kernels.mask_symbols(x, t, direction, s, z, rotation, rank)
    rows = [_rows(symbols, bits) for symbols in (x, s, z)]
    places = torch.from_numpy(rotation)
    return _flat(
        reference.mask_symbols(rows[0], _words(t), torch.from_numpy(direction), rows[1], rows[2], places, rank, bits)
    )


def _find_zero(d0: U8, d1: U8, bits: int) -> U8:
    if bits == 64:
        return kernels.find_zero(d0, d1)
    return np.asarray(reference.find_zero(_rows(d0, bits), _rows(d1, bits)).numpy(), dtype=np.uint8)


def _words(x: U64) -> Tensor:
    return torch.from_numpy(x.astype(np.int64))


def _rows(symbols: U8, bits: int) -> Tensor:
    return torch.from_numpy(symbols).reshape(-1, bits)


def _flat(symbols: Tensor) -> U8:
    return np.asarray(symbols.reshape(-1).numpy(), dtype=np.uint8)
