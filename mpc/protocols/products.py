"""Several products, each divided by a public number, in the same rounds.

Beaver's product [Bea91] wants shares of c = f(a, b), a truncation [DEK20] a mask r that the provider knows. Together
they need neither: w is uniform, all parties' shares come out of streams, and the provider takes r = w - c. Then
    f(e, b) + f(x, f) + w = f(x, y) + r
is what the truncation opens, and nothing is dealt but m and t of r. r is as uniform as w, and independent of a and b.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sharetorch.mpc.cost import Cost
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.arithmetic import multiply_opened
from sharetorch.mpc.protocols.bilinear import BilinearMap
from sharetorch.mpc.protocols.opening import Operand, masked
from sharetorch.mpc.protocols.truncation import check_divisor, open_masked, remove_mask, split_mask
from sharetorch.mpc.provider import dealt_shares, random_shares
from sharetorch.mpc.share import ArithmeticShare


class Term(NamedTuple):
    """function(x, y) / divisor, still to be computed."""

    function: BilinearMap
    x: ArithmeticShare
    y: ArithmeticShare
    divisor: int = 1


def hidden_product(party: Party, function: BilinearMap, left: Operand, right: Operand, w: Tensor) -> Tensor:
    """f(x, y) + r at a party, which a truncation opens, and r at the provider; in the memory of w where it can be.

    Args:
        party: this member.
        function: f.
        left: x, opened.
        right: y, opened.
        w: shares of a uniform tensor in the shape of the result, given up; at the provider that tensor.
    """
    if not party.is_provider:
        made = function.combine(party.ring, left.opened, right.opened, left.share, right.mask, w)
        return torch.as_tensor(made)
    product = function(party.ring, left.mask, right.mask)
    np.subtract(w.numpy(), product.numpy(), out=w.numpy())
    return torch.as_tensor(party.ring.reduce(w))


async def products(party: Party, terms: Sequence[Term]) -> list[ArithmeticShare]:
    """Shares of function(x, y) / divisor for every term, rounded at random as by ``truncate``. Any number of parties.

    Args:
        party: this member.
        terms: what to compute; operands may occur in several, and before truncation every result must lie within
            2^62 in magnitude.

    Cost: 1 round for operands that were not open before, each to each other party, and 1 for results that are divided,
    8 bytes an element. Offline 16 bytes an element of those, 8 of others.
    Leaks: nothing; shapes are public.
    """
    for term in terms:
        check_divisor(party, term.divisor)
    operands = await masked(party, *(operand for term in terms for operand in (term.x, term.y)))
    pairs = list(zip(operands[::2], operands[1::2], strict=True))
    both = list(zip(terms, pairs, strict=True))
    whole = [await multiply_opened(party, term.function, *pair) for term, pair in both if term.divisor == 1]
    if len(whole) == len(terms):
        return whole
    divided = iter(await _divided(party, [opened for opened in both if opened[0].divisor != 1]))
    rest = iter(whole)
    return [next(rest if term.divisor == 1 else divided) for term in terms]


async def _divided(party: Party, opened: Sequence[tuple[Term, tuple[Operand, Operand]]]) -> list[ArithmeticShare]:
    """The terms that are divided: their masks lie behind one another in one vector."""
    terms = [term for term, _ in opened]
    shapes = [term.function.shape(tuple(x.mask.shape), tuple(y.mask.shape)) for term, (x, y) in opened]
    sizes = [prod(shape) for shape in shapes]
    w = random_shares(party, "masked product", (sum(sizes),)).take((sum(sizes),))
    parts = [part.view(shape) for part, shape in zip(w.split_with_sizes(sizes), shapes, strict=True)]
    hidden = [
        hidden_product(party, term.function, *pair, part) for (term, pair), part in zip(opened, parts, strict=True)
    ]
    form = (2, sum(sizes))
    dealt = await dealt_shares(party, "truncated mask and top bit", form, lambda: _split(party, terms, hidden))
    if party.is_provider:
        return [ArithmeticShare(party.ring.empty_meta(r)) for r in hidden]
    sums = await open_masked(party, *hidden)
    corrections = dealt.take(form).split_with_sizes(sizes, dim=1)
    return [
        ArithmeticShare(remove_mask(party, own, others, part.reshape(2, *own.shape), term.divisor))
        for term, (own, others), part in zip(terms, sums, corrections, strict=True)
    ]


def _split(party: Party, terms: Sequence[Term], masks: Sequence[Tensor]) -> Tensor:
    """m and t of all masks, one behind the other."""
    parts = [split_mask(party, r, term.divisor).reshape(2, -1) for term, r in zip(terms, masks, strict=True)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def products_cost(opened: int, divided: int, whole: int, parties: int) -> Cost:
    """Declared price of ``products``: elements still to open, of results that are divided, and of others."""
    return Cost(
        rounds=bool(opened) + bool(divided),
        party_bytes=8 * (opened + divided) * (parties - 1),
        dealer_bytes=16 * divided + 8 * whole,
    )
