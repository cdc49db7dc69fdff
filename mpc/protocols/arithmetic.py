"""Beaver multiplication for any bilinear map, and what follows from it.

Notation of [Bea91]: x, y secret; a, b masks; c = f(a, b) dealt; e = x - a and f = y - b opened.
    f(x, y) = f(e, b) + f(x, f) + c
Each party j computes [z]_j = f(e, [b]_j) + f([x]_j, f) + [c]_j, all alike. With [a] in place of [x] one party would
have to add f(e, f), with the sign +; the whitepaper's Algorithm 1 mixes the two forms [WGC19]. Since [c] is fresh, so
is the result.
"""

from __future__ import annotations

from sharetorch.mpc.cost import Cost
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.bilinear import BilinearMap, Product
from sharetorch.mpc.protocols.opening import Operand, masked
from sharetorch.mpc.provider import dealt_shares
from sharetorch.mpc.share import ArithmeticShare

_PRODUCT = Product()


async def bilinear(party: Party, function: BilinearMap, x: ArithmeticShare, y: ArithmeticShare) -> ArithmeticShare:
    """Shares of f(x, y), for any number of parties. x and y may be the same share.

    Cost: 1 round, each operand that was not open before to each other party (8 bytes an element);
    0 rounds if both were. Offline: one element per element of the result.
    Leaks: shapes.
    """
    left, right = await masked(party, x, y)
    return await multiply_opened(party, function, left, right)


async def multiply_opened(party: Party, function: BilinearMap, left: Operand, right: Operand) -> ArithmeticShare:
    """``bilinear`` after its operands were opened. No rounds."""
    if party.is_provider:
        product = function(party.ring, left.mask, right.mask)
        await dealt_shares(party, "product of masks", product.shape, lambda: product)
        return ArithmeticShare(party.ring.empty_meta(product))
    shape = function.shape(tuple(left.mask.shape), tuple(right.mask.shape))
    product = (await dealt_shares(party, "product of masks", shape, lambda: None)).take(shape)
    return ArithmeticShare(function.combine(party.ring, left.opened, right.opened, left.share, right.mask, product))


async def multiply(party: Party, x: ArithmeticShare, y: ArithmeticShare) -> ArithmeticShare:
    """Shares of x * y elementwise, with broadcasting.

    Cost: 1 round, 16 bytes an element per party and peer (8 if x is y); offline 8.
    """
    return await bilinear(party, _PRODUCT, x, y)


async def plain_bilinear(
    party: Party, function: BilinearMap, x: ArithmeticShare, y: ArithmeticShare
) -> ArithmeticShare:
    """The same map where the one party holds everything in the clear: the plaintext reference."""
    return ArithmeticShare(function(party.ring, x.data, y.data))


def refresh(party: Party, x: ArithmeticShare) -> ArithmeticShare:
    """Fresh shares of the same secret by a zero-sharing. No messages."""
    if party.is_provider or party.parties == 1:
        return ArithmeticShare(x.data + 0 if party.is_provider else x.data.clone())
    return ArithmeticShare(party.ring.add_into(x.data, party.zero_share(x.data.shape)))


def bilinear_cost(opened: int, result: int, parties: int, element_bytes: int = 8) -> Cost:
    """Declared price of ``bilinear`` with ``opened`` elements still to open and ``result`` elements coming out."""
    return Cost(
        rounds=1 if opened else 0,
        party_bytes=opened * element_bytes * (parties - 1),
        dealer_bytes=result * element_bytes,
    )
