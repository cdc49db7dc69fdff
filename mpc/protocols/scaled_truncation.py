"""x / d and then a (x / d) / e for public numbers, from one opening: momentum and step of an optimizer.

``truncate`` opens c = x + B + r and gives y = p(c) - m + u 2^(l-1) / d, where p is public, m a function of the mask r
and u a bit that is linear in t [DEK20]. All three are integers, so a y / e is, up to the rounding of its parts,
    floor(a p / e) - floor(a m / e) + u a 2^(l-1) / (d e).
Only floor(a m / e) must be dealt in addition. It is a function of r, hence as hidden as r, and m is uniform, hence
rounding is unbiased: the difference of both floors is floor of the difference, or one more, in proportion to the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc import kernels
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.errors import ModulusError
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.truncation import open_masked
from sharetorch.mpc.provider import dealt_shares, random_shares
from sharetorch.mpc.ring import ring_bits
from sharetorch.mpc.share import ArithmeticShare


class Scaling(NamedTuple):
    """By what to divide, and what to make of the quotient.

    Attributes:
        fraction_bits: s; d = 2^s.
        factor: a, of either sign.
        digits: e = 2^digits.
    """

    fraction_bits: int
    factor: int
    digits: int

    def fits(self, bits: int) -> bool:
        """Whether a ring of so many bits holds all that is computed on the way."""
        within = self.fraction_bits >= 0 <= self.digits and self.fraction_bits + self.digits <= bits - 2
        return within and self.digits + self.factor.bit_length() <= bits - 2


class Scaled(NamedTuple):
    """x / d, and a (x / d) / e."""

    quotient: ArithmeticShare
    scaled: ArithmeticShare


async def truncate_and_scale(party: Party, x: ArithmeticShare, by: Scaling) -> Scaled:
    """Shares of y = x / d as ``truncate`` gives it, and of a y / e. Any number of parties.

    Args:
        party: this member.
        x: secret integers with -2^62 <= x < 2^62, shape (n,); a y within the ring.
        by: d, a and e.

    Returns:
        y, rounded up or down at random so that the mean is exact, and likewise a y / e; shapes (n,).

    Raises:
        ModulusError: a field, or numbers that do not fit.

    Cost: ``truncate_and_scale_cost``: 1 round, 8 bytes an element to each other party; offline 24.
    Leaks: nothing, as for ``truncate``.
    """

    def hide(mask: Tensor) -> None:
        if not party.is_provider:
            party.ring.add_into(x.data, mask)

    return await truncate_and_scale_hidden(party, x.data.numel(), hide, by)


async def truncate_and_scale_hidden(party: Party, count: int, hide: Callable[[Tensor], None], by: Scaling) -> Scaled:
    """As ``truncate_and_scale``, of an x that its caller hides.

    Args:
        party: this member.
        count: n.
        hide: gets this member's part of a uniform vector w and changes it in place: to its share of x + r at a party,
            to r at the provider. Where x is a sum of shares, they are added, and r is w. Where products f(u, v) are
            part of x, their last step begins with w, and r is w less f of their masks, as in ``products``.
        by: d, a and e.
    """
    bits = ring_bits(party.ring, "Truncation")
    if not by.fits(bits):
        raise ModulusError(f"{by} does not fit a ring of {bits} bits. Truncate and scale one after the other.")
    hidden = random_shares(party, "truncation mask", (count,)).take((count,))
    hide(hidden)

    def split() -> Tensor:
        return torch.from_numpy(kernels.scaled_truncation_mask(hidden.numpy(), *by, bits)).view(3, count)

    dealt = await dealt_shares(party, "truncated mask, top bit and scaled mask", (3, count), split)
    if party.is_provider:
        empty = (torch.empty(count, dtype=torch.int64, device="meta") for _ in range(2))
        return Scaled(*(ArithmeticShare(part) for part in empty))
    ((own, others),) = await open_masked(party, hidden)
    parts = dealt.take((3, count)).reshape(-1).numpy()
    made = kernels.scaled_truncation(own.numpy(), others.numpy(), parts, *by, bits, leader=party.is_leader)
    return Scaled(*(ArithmeticShare(torch.from_numpy(part)) for part in made.reshape(2, count)))


def truncate_and_scale_cost(count: int, parties: int) -> Cost:
    """Declared price of ``truncate_and_scale``."""
    return Cost(rounds=1, party_bytes=8 * count * (parties - 1), dealer_bytes=24 * count)
