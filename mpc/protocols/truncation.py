"""Division of shared integers by a public integer d: removing the scale after a product of fixed-point numbers.

``truncate``        masked opening with exact carry [DEK20; EGKRS20, section 5.1]: unbiased, no wrap error. The default.
``truncate_exact``  the same plus the comparison that decides the last unit: floor.
``truncate_local``  each party divides its own share [MZ17]: no messages, and a wrap error now and then. Opt-in.

With l ring bits, B = d * floor(2^(l-2) / d), r uniform, r' = r mod 2^(l-1), t = r div 2^(l-1), m = floor(r' / d):
c = x + B + r is opened; c' = c mod 2^(l-1), c_top the bit above. The carry of (x + B) + r' is u = c_top XOR t, and
    floor((x + B) / d) + v = floor((c' + u 2^(l-1)) / d) - m,     v = [(x + B) mod d + r' mod d >= d].
The first term is public for u = 0 and for u = 1, hence linear in [u]. P(v = 1) = (x mod d) / d: rounding is unbiased.
The precondition is -B <= x < 2^(l-1) - B.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sharetorch.mpc import kernels
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.errors import ModulusError, UnsupportedOperationError
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.arithmetic import multiply
from sharetorch.mpc.protocols.mask_comparison import carry_table, less_than_mask, mask_digits
from sharetorch.mpc.provider import OneTime, dealt_shares, random_shares
from sharetorch.mpc.ring import ring_bits
from sharetorch.mpc.share import ArithmeticShare


class _Ring(NamedTuple):
    bits: int
    half: int
    offset: int


def _ring(party: Party, divisor: int) -> _Ring:
    bits = ring_bits(party.ring, "Truncation")
    _check_divisor(divisor, bits)
    return _Ring(bits, 1 << (bits - 1), divisor * ((1 << (bits - 2)) // divisor))


def check_divisor(party: Party, divisor: int) -> None:
    """Raise ``ModulusError`` for what truncation cannot divide by; 1 fits every ring."""
    if divisor != 1:
        _ring(party, divisor)


def _check_divisor(divisor: int, bits: int) -> None:
    if not 1 <= divisor <= 1 << (bits - 2):
        raise ModulusError(f"Truncation divides by 1 to 2^{bits - 2}, not by {divisor}; choose a divisor in between.")


def _low(x: Tensor, bits: int) -> Tensor:
    """x mod 2^(bits-1), as non-negative words."""
    return x & ((1 << (bits - 1)) - 1)


def _top(x: Tensor, bits: int) -> Tensor:
    return (x >> (bits - 1)) & 1


def split_mask(party: Party, r: Tensor, divisor: int) -> Tensor:
    """m and t of a mask r, stacked: what the provider deals. Shape (2, *r.shape)."""
    bits = _ring(party, divisor).bits
    if divisor & (divisor - 1):
        return torch.stack([_low(r, bits) // divisor, _top(r, bits)])
    dealt = kernels.truncation_mask(r.numpy().reshape(-1), divisor.bit_length() - 1, bits)
    return torch.from_numpy(dealt).reshape(2, *r.shape)


async def _deal_mask(party: Party, r: Tensor, shape: Sequence[int], divisor: int) -> OneTime[Tensor]:
    """Shares of m and t of a mask r that the provider knows, stacked."""
    return await dealt_shares(
        party, "truncated mask and top bit", (2, *shape), lambda: split_mask(party, r, divisor)
    )


async def open_masked(party: Party, *hidden: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Open x + r, several in one round. Gives for each the own share and the sum of the others'."""
    received = await party.exchange("masked value", *hidden)
    return [(own, party.sum(*(fields[i] for fields in received))) for i, own in enumerate(hidden)]


def remove_mask(party: Party, own: Tensor, others: Tensor, parts: Tensor, divisor: int) -> Tensor:
    """Share of floor(x / d) + v, after x + r was opened.

    Args:
        party: this member.
        own: its share of x + r.
        others: the sum of the others'.
        parts: its shares of m and t, shape (2, *own.shape).
        divisor: d.
    """
    bits, _, offset = _ring(party, divisor)
    if divisor & (divisor - 1):
        return _remove(party, own + others + offset, parts, divisor)
    m, t = (part.numpy().reshape(-1) for part in parts)
    mine, theirs = (part.contiguous().numpy().reshape(-1) for part in (own, others))
    y = kernels.truncation_combine(mine, theirs, m, t, divisor.bit_length() - 1, bits, leader=party.is_leader)
    return torch.from_numpy(y).reshape(own.shape)


def _remove(party: Party, c: Tensor, parts: Tensor, divisor: int) -> Tensor:
    """``remove_mask`` for any divisor; c = x + B + r, parts m and t."""
    bits, half, offset = _ring(party, divisor)
    c_low = _low(c, bits)
    quotient = c_low // divisor
    step = half // divisor + ((c_low - quotient * divisor + half % divisor) >= divisor).to(torch.int64)
    share = _carry(party, c, parts[1], bits) * step - parts[0]
    share = share + quotient - offset // divisor if party.is_leader else share
    return torch.as_tensor(party.ring.reduce(share))


def _carry(party: Party, c: Tensor, t: Tensor, bits: int) -> Tensor:
    """Share of u = c_top XOR t."""
    c_top = _top(c, bits)
    u = (1 - 2 * c_top) * t
    return u + c_top if party.is_leader else u


async def truncate(party: Party, x: ArithmeticShare, divisor: int) -> ArithmeticShare:
    """Shares of x / d, rounded up or down at random so that the mean is exact. Any number of parties.

    Args:
        party: this member.
        x: secret integers with -B <= x < 2^63 - B, where B is the largest multiple of d up to 2^62.
        divisor: public, 1 <= d <= 2^62.

    Returns:
        floor(x / d) or floor(x / d) + 1, the latter with probability (x mod d) / d. Never a wrap error.

    Cost: 1 round, 8 bytes an element to each other party; offline 16.
    Leaks: nothing; the rounding is a function of x and of public c, so open the exact form where that matters.
    """
    _ring(party, divisor)
    shape = x.data.shape
    r = random_shares(party, "truncation mask", shape).take(shape)
    dealt = await _deal_mask(party, r, shape, divisor)
    if party.is_provider:
        return ArithmeticShare(torch.empty_like(x.data, memory_format=torch.contiguous_format))
    ((own, others),) = await open_masked(party, party.ring.add_into(x.data, r))
    return ArithmeticShare(remove_mask(party, own, others, dealt.take((2, *shape)), divisor))


async def truncate_exact(party: Party, x: ArithmeticShare, divisor: int) -> ArithmeticShare:
    """Shares of floor(x / d), exactly. Any number of parties.

    The error v of ``truncate`` is the comparison [(c' + u 2^(l-1)) mod d < r' mod d] of a public with a dealt number.
    For d a power of two the left side does not depend on u; otherwise both cases are compared and u selects.

    Cost: 3 rounds, 8 bytes and 7 bits an element to each other party for d a power of two, else 4 rounds,
    24 bytes and 14 bits.
    """
    bits, half, offset = _ring(party, divisor)
    shape, count = tuple(x.data.shape), x.data.numel()
    cases = 1 if half % divisor == 0 else 2
    r = random_shares(party, "truncation mask", shape).take(shape)
    dealt = await _deal_mask(party, r, shape, divisor)
    flat_r = (_low(r, bits) % divisor).numpy().reshape(-1) if party.is_provider else None
    table = await carry_table(party, count, mask_digits(divisor), flat_r)
    if party.is_provider:
        v = await less_than_mask(party, table, None, cases, count)
        selected = v.view(v.data[0]) if cases == 1 else await _select(party, v, None)
        return ArithmeticShare(torch.empty(shape, dtype=torch.int64, device="meta") + 0 * selected.data.reshape(shape))
    ((own, others),) = await open_masked(party, party.ring.add_into(x.data, r))
    c, parts = own + others + offset, dealt.take((2, *shape))
    low = _low(c, bits).reshape(-1)
    both = [(low % divisor + case * (half % divisor)) % divisor for case in range(cases)]
    v = await less_than_mask(party, table, np.stack([case.numpy() for case in both]), cases, count)
    if cases == 1:
        error = v.data[0]
    else:
        u = ArithmeticShare(party.ring.reduce(_carry(party, c, parts[1], bits)).reshape(-1))
        error = (await _select(party, v, u)).data
    return ArithmeticShare(party.ring.reduce(_remove(party, c, parts, divisor) - error.reshape(shape)))


async def _select(party: Party, v: ArithmeticShare, u: ArithmeticShare | None) -> ArithmeticShare:
    """v[0] + u (v[1] - v[0])."""
    difference = ArithmeticShare(party.ring.reduce(v.data[1] - v.data[0]))
    u = ArithmeticShare(torch.empty_like(difference.data)) if u is None else u
    chosen = await multiply(party, u, difference)
    return ArithmeticShare(party.ring.reduce(v.data[0] + chosen.data))


async def truncate_local(party: Party, x: ArithmeticShare, divisor: int) -> ArithmeticShare:
    """Shares of x / d up to one unit, each party dividing its own share [MZ17, section 4.1]. Two parties only.

    Fails with probability about |x| / 2^64 per element, by an error of 2^64 / d: at 16 fraction bits a product of
    magnitude 16 is destroyed once in 2.7e8 times, one of 4096 once in 10^6. Not for training.

    Cost: none.
    """
    if party.parties != 2:
        raise UnsupportedOperationError(
            f"Local truncation works for 2 parties, not for {party.parties}: the sum of {party.parties} shares wraps "
            "for a quarter of all elements or more. Use the default truncation."
        )
    _ring(party, divisor)
    if party.is_provider:
        return ArithmeticShare(torch.empty_like(x.data, memory_format=torch.contiguous_format))
    if party.is_leader:
        return ArithmeticShare(torch.div(x.data, divisor, rounding_mode="floor"))
    return ArithmeticShare(-torch.div(-x.data, divisor, rounding_mode="floor"))


async def plain_truncate(party: Party, x: ArithmeticShare, divisor: int) -> ArithmeticShare:
    """The plaintext reference: nearest for powers of two, toward zero otherwise (the tutorials' base 10)."""
    if divisor & (divisor - 1) == 0:
        return ArithmeticShare((x.data + divisor // 2) >> (divisor.bit_length() - 1))
    return ArithmeticShare(torch.div(x.data, divisor, rounding_mode="trunc"))


def truncation_cost(count: int, parties: int) -> Cost:
    """Declared price of ``truncate``."""
    return Cost(rounds=1, party_bytes=8 * count * (parties - 1), dealer_bytes=16 * count)


def exact_truncation_cost(count: int, parties: int, divisor: int) -> Cost:
    """Declared price of ``truncate_exact`` (a power of two needs one comparison, other divisors two and a product)."""
    cases = 1 if divisor & (divisor - 1) == 0 else 2
    width = mask_digits(divisor)
    node, last = (-(-6 * count * cases // 8)), (-(-count * cases // 8))
    table = -(-count * 4 * ((1 << width) - 1) // 8)
    products = -(-15 * count * cases // 8)
    cost = Cost(
        rounds=3,
        party_bytes=(8 * count + node + last) * (parties - 1),
        dealer_bytes=16 * count + table + products + 8 * count * cases,
    )
    if cases == 2:
        cost += Cost(rounds=1, party_bytes=16 * count * (parties - 1), dealer_bytes=8 * count)
    return cost
