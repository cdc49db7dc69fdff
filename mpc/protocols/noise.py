"""Noise that nobody knows: every party adds integers of its own to its share.

x is shared among N parties. Party j draws e_j from a stream that it makes of its operating system's entropy for this
one operation, and adds it to its share: afterwards the shares are of x + e_0 + ... + e_{N-1}. No message is sent, and
nothing that anybody else gives decides what is drawn: neither the driver, whose command holds the variance and no more,
nor the provider, nor a pair secret. The same command twice draws twice.

Whoever knows t of the e_j and is shown the result can take them off; the other N - t remain. So for a variance s that
is to remain against any t parties together, each draws with s / (N - t). What sums of discrete Gaussians are: Kairouz,
Liu, Steinke 2021, and docs/protocols/differential-privacy.md.
"""

from __future__ import annotations

from fractions import Fraction

import torch

from sharetorch.mpc.cost import Cost
from sharetorch.mpc.discrete_gaussian import NUMERATOR_BITS, discrete_gaussian
from sharetorch.mpc.errors import EncodingRangeError
from sharetorch.mpc.party import Party
from sharetorch.mpc.randomness import fresh_stream
from sharetorch.mpc.share import ArithmeticShare


def add_noise(party: Party, x: ArithmeticShare, variance: int, digits: int) -> ArithmeticShare:
    """Shares of x + e_0 + ... + e_{N-1}, the e_j independent discrete Gaussians, one for each element and party.

    Args:
        party: this member.
        x: any shape.
        variance: of each party's noise, times 2^digits; public.
        digits: see above.

    Raises:
        EncodingRangeError: a variance that is not positive, or of 2^56 and more.

    Cost: ``noise_cost``: no messages.
    Leaks: nothing; the variance is public.
    """
    parameter = _checked(variance, digits)
    if party.is_provider:
        return ArithmeticShare(party.ring.empty_meta(x.data))
    drawn = discrete_gaussian(parameter).draw(fresh_stream(), x.data.numel())
    own = party.ring.from_integers(torch.from_numpy(drawn).view(x.data.shape))
    return ArithmeticShare(party.ring.add(x.data, own))


def _checked(variance: int, digits: int) -> Fraction:
    if type(variance) is not int or type(digits) is not int or not 0 <= digits <= NUMERATOR_BITS:
        raise EncodingRangeError(
            f"Noise of variance {variance!r} / 2^{digits!r}: both are integers, the second one from 0 to "
            f"{NUMERATOR_BITS}. Write a variance with discrete_gaussian.as_integers."
        )
    return Fraction(variance, 1 << digits)


def noise_cost() -> Cost:
    """Declared price of ``add_noise``: nothing."""
    return Cost()
