"""The command table: every operation a driver can ask of the members, by name.

An operation is a coroutine ``operation(party, *shares, **public)`` that each member runs on its own shares. It
returns one share or a tuple of shares, stored under the command's output numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharetorch.mpc import kernels, linear
from sharetorch.mpc.errors import RangeCheckError, UnsupportedOperationError
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols import arithmetic, functions, noise, selection, sorting
from sharetorch.mpc.protocols import products as beaver
from sharetorch.mpc.protocols.bilinear import BilinearMap
from sharetorch.mpc.protocols.opening import masked
from sharetorch.mpc.protocols.products import Term, hidden_product
from sharetorch.mpc.protocols.scaled_truncation import Scaling, truncate_and_scale_hidden
from sharetorch.mpc.ring import Elements
from sharetorch.mpc.share import ArithmeticShare

Result = ArithmeticShare | tuple[ArithmeticShare, ...]
Operation = Callable[..., Coroutine[Any, Any, Result]]

OPERATIONS: dict[str, Operation] = {}
"""Operations by the name commands carry."""


SILENT = frozenset({"local", "combine", "negate", "add_public", "scale"})
"""Operations in which nobody sends, awaits or draws anything."""


def operation(function: Operation) -> Operation:
    """Enter a coroutine into the table under its own name."""
    OPERATIONS[function.__name__] = function
    return function


def find(name: str) -> Operation:
    """The operation of that name.

    Raises:
        UnsupportedOperationError: there is none.
    """
    if name not in OPERATIONS:
        raise UnsupportedOperationError(f"There is no operation {name!r}; members run those of the command table only.")
    return OPERATIONS[name]


@operation
async def local(
    party: Party, *shares: ArithmeticShare, function: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Result:
    """A function of ``linear.FUNCTIONS`` on each member's shares. No messages."""
    bound = linear.bind(function, args, kwargs)
    view = function in linear.VIEWS and party.ring.has_views
    datas = [share.data for share in shares]
    results = bound(*datas) if view else party.ring.linear(bound, *datas)
    if view:
        wrap: Callable[[Any], ArithmeticShare] = shares[0].view
    else:
        wrap = ArithmeticShare
    if isinstance(results, (list, tuple)):
        return tuple(wrap(result) for result in results)
    return wrap(results)


@operation
async def combine(party: Party, x: ArithmeticShare, y: ArithmeticShare, *, a: int = 1, b: int = 1) -> Result:
    """a x + b y for public integers. No messages."""
    return _weighted(party, (x, y), (a, b))


def _weighted(party: Party, shares: Sequence[ArithmeticShare], factors: Sequence[int]) -> ArithmeticShare:
    """Sum of shares times public integers."""
    total: Elements = None
    for share, factor in zip(shares, factors, strict=True):
        term = share.data if factor == 1 else party.ring.mul(share.data, _public(party, torch.tensor(factor)))
        total = term if total is None else party.ring.add(total, term)
    return ArithmeticShare(total) if total is not shares[0].data else shares[0]


@operation
async def negate(party: Party, x: ArithmeticShare) -> Result:
    """-x. No messages."""
    return ArithmeticShare(party.ring.negate(x.data))


@operation
async def constant(party: Party, *, values: Tensor) -> Result:
    """Shares of public integers: the leader holds them, the others zeros. No messages."""
    if party.is_provider:
        return ArithmeticShare(values.to("meta"))
    return ArithmeticShare(party.ring.from_integers(values.clone() if party.is_leader else torch.zeros_like(values)))


@operation
async def add_public(party: Party, x: ArithmeticShare, *, values: Tensor) -> Result:
    """x + public integers, with broadcasting. No messages."""
    added = _public(party, values if party.is_leader or party.is_provider else torch.zeros_like(values))
    return ArithmeticShare(party.ring.add(x.data, added))


@operation
async def scale(party: Party, x: ArithmeticShare, *, values: Tensor) -> Result:
    """x * public integers, with broadcasting. No messages."""
    return ArithmeticShare(party.ring.mul(x.data, _public(party, values)))


@operation
async def public_bilinear(
    party: Party, x: ArithmeticShare, *, function: BilinearMap, values: Tensor, public_first: bool
) -> Result:
    """f(x, public integers), or f(public integers, x). No messages."""
    values = _public(party, values)
    pair = (values, x.data) if public_first else (x.data, values)
    result = function(party.ring, *pair)
    return ArithmeticShare(party.ring.empty_meta(result) if party.is_provider else result)


def _public(party: Party, values: Tensor) -> Elements:
    return values.to("meta") if party.is_provider else party.ring.from_integers(values)


@operation
async def bilinear(
    party: Party,
    x: ArithmeticShare,
    y: ArithmeticShare,
    *bias: ArithmeticShare,
    function: BilinearMap,
    divisor: int = 1,
    method: str = "probabilistic",
) -> Result:
    """f(x, y) / divisor, both secret, and a bias."""
    (result,) = await _products(party, [Term(function, x, y, divisor)], method)
    return _weighted(party, (result, *bias), (1,) * (1 + len(bias)))


@operation
async def rectified_product(
    party: Party, x: ArithmeticShare, y: ArithmeticShare, *bias: ArithmeticShare, function: BilinearMap, divisor: int
) -> Result:
    """ReLU of z = f(x, y) / divisor + bias, its bit, and z: truncation and comparison in the same rounds."""
    whole: ArithmeticShare = await party.suite.bilinear(party, function, x, y)
    found = await party.suite.truncated_relu(
        party, _weighted(party, (whole, *bias), (1, *[divisor] * len(bias))), divisor
    )
    return found.value, found.bit, found.truncated


@operation
async def products(
    party: Party,
    *shares: ArithmeticShare,
    terms: Sequence[tuple[BilinearMap, int, int, int]],
    method: str = "probabilistic",
) -> Result:
    """f(x, y) / divisor for every term (f, place of x among the operands, place of y, divisor), in the same rounds."""
    return tuple(await _products(party, [Term(f, shares[i], shares[j], d) for f, i, j, d in terms], method))


async def _products(party: Party, terms: Sequence[Term], method: str) -> list[ArithmeticShare]:
    """Product and truncation together where both are protocols of their own; one after the other elsewhere."""
    if party.parties > 1 and method == "probabilistic":
        return await beaver.products(party, terms)
    whole = [await party.suite.bilinear(party, term.function, term.x, term.y) for term in terms]
    return [await _divided(party, x, term.divisor, method) for x, term in zip(whole, terms, strict=True)]


async def _divided(party: Party, x: ArithmeticShare, divisor: int, method: str) -> ArithmeticShare:
    """x / divisor; x itself for a divisor of 1."""
    share: ArithmeticShare = x if divisor == 1 else await party.suite.truncate(party, x, divisor, method)
    return share


@operation
async def truncate(party: Party, x: ArithmeticShare, *, divisor: int, method: str) -> Result:
    """x / divisor."""
    share: ArithmeticShare = await party.suite.truncate(party, x, divisor, method)
    return share


@operation
async def non_negative(party: Party, x: ArithmeticShare) -> Result:
    """[x >= 0] as 0 and 1."""
    share: ArithmeticShare = await party.suite.non_negative(party, x)
    return share


@operation
async def equal_zero(party: Party, x: ArithmeticShare) -> Result:
    """[x = 0] as 0 and 1."""
    return await selection.equal_zero(party, x)


@operation
async def relu(party: Party, x: ArithmeticShare) -> Result:
    """x * [x > 0], and the bit."""
    return await selection.relu(party, x)


@operation
async def maximum(party: Party, x: ArithmeticShare) -> Result:
    """Maximum over dimension 0: value, index, trail."""
    found: Result = await party.suite.maximum(party, x)
    return found


@operation
async def route(party: Party, gradient: ArithmeticShare, trail: ArithmeticShare, *, n: int) -> Result:
    """A gradient sent back along the trail of a maximum over n elements."""
    share: ArithmeticShare = await party.suite.route(party, gradient, trail, n)
    return share


@operation
async def sort(
    party: Party, x: ArithmeticShare, *, start: int, stop: int, ordered: bool = True, stable: bool = False
) -> Result:
    """Elements of ranks start, ..., stop - 1 over dimension 0: values, indices, trail."""
    return await sorting.sort(party, x, start, stop, ordered=ordered, stable=stable)


@operation
async def unsort(
    party: Party, gradient: ArithmeticShare, trail: ArithmeticShare, *, n: int, start: int, ordered: bool = True
) -> Result:
    """Gradients of sorted elements sent back along the trail to n elements."""
    return await sorting.unsort(party, gradient, trail, n, start, ordered=ordered)


@operation
async def bucketize(party: Party, x: ArithmeticShare, *, thresholds: Tensor) -> Result:
    """How many of the public thresholds each element reaches."""
    return await sorting.bucketize(party, x, thresholds.tolist())


@operation
async def reciprocal(party: Party, x: ArithmeticShare, *, unit: int) -> Result:
    """1 / x."""
    return await functions.reciprocal(party, x, unit)


@operation
async def divide(party: Party, x: ArithmeticShare, y: ArithmeticShare, *, unit: int) -> Result:
    """x / y, both secret."""
    return await functions.divide(party, x, y, unit)


@operation
async def square_root(party: Party, x: ArithmeticShare, *, unit: int) -> Result:
    """sqrt(x)."""
    return await functions.square_root(party, x, unit)


@operation
async def inverse_square_root(party: Party, x: ArithmeticShare, *, unit: int) -> Result:
    """1 / sqrt(x)."""
    return await functions.inverse_square_root(party, x, unit)


@operation
async def refresh(party: Party, x: ArithmeticShare) -> Result:
    """Fresh shares of the same secret. No messages."""
    return arithmetic.refresh(party, x)


@operation
async def add_noise(party: Party, x: ArithmeticShare, *, variance: int, digits: int) -> Result:
    """x + discrete Gaussian noise of variance / 2^digits of each party's own. No messages."""
    return noise.add_noise(party, x, variance, digits)


@operation
async def write(
    party: Party,
    target: ArithmeticShare,
    *sources: ArithmeticShare,
    factors: tuple[int, ...] = (1,),
    divisor: int = 1,
    method: str = "probabilistic",
) -> Result:
    """Replace the contents of ``target`` in place by the sum of factors times sources, divided, with broadcasting."""
    target.write((await _divided(party, _weighted(party, sources, factors), divisor, method)).data)
    return target


@operation
async def write_all(
    party: Party,
    *shares: ArithmeticShare,
    writes: Sequence[tuple[int, Sequence[int], Sequence[int]]],
    divisor: int = 1,
    method: str = "probabilistic",
) -> Result:
    """``write`` for several targets in the same rounds: (place of the target, places of the sources, factors)."""
    sums = [_weighted(party, [shares[k] for k in places], factors) for _, places, factors in writes]
    if divisor != 1:
        sums = await _divided_together(party, sums, divisor, method)
    targets = [shares[target] for target, _, _ in writes]
    for target, total in zip(targets, sums, strict=True):
        target.write(total.data)
    return tuple(targets)


@operation
async def descend(
    party: Party,
    *shares: ArithmeticShare,
    steps: Sequence[tuple[int, Sequence[int], Sequence[int], int]],
    scaling: tuple[int, int, int],
    products: Sequence[tuple[int, BilinearMap, int, int]] = (),
) -> Result:
    """Two ``write`` after one another from one opening, for several pairs of targets: what momentum does.

    Args:
        party: this member.
        shares: objects.
        steps: (place of the first target, places of sources, factors, place of the second target). The first target
            becomes the sum of factors times sources, and of products, divided by 2^s; to the second one is added what
            the first one has become, times a / 2^digits. A first target of -1 is a new object.
        scaling: s, a, digits.
        products: (number of a step, f, place of x, place of y): f(x, y) is part of that step's sum. Gradients of
            weights are such products: nothing but the sum is truncated.
    """
    sizes = [shares[second if first < 0 else first].data.numel() for first, _, _, second in steps]
    made_of = {int(number) for number, _, _, _ in products}
    if not all(places or number in made_of for number, (_, places, _, _) in enumerate(steps)):
        raise UnsupportedOperationError("A step adds up at least one operand or product.")
    operands = await masked(party, *(shares[k] for _, _, x, y in products for k in (x, y)))
    factors = list(zip(operands[::2], operands[1::2], strict=True))

    def hide(mask: Tensor) -> None:
        parts = mask.split_with_sizes(sizes)
        for (number, function, _, _), pair in zip(products, factors, strict=True):
            part = parts[int(number)].view(function.shape(*(tuple(operand.mask.shape) for operand in pair)))
            made = hidden_product(party, function, *pair, part)
            if made.data_ptr() != part.data_ptr():
                np.copyto(part.numpy(), made.numpy())
        if not party.is_provider:
            for part, (_, places, by, _) in zip(parts, steps, strict=True):
                _add_weighted(part, party, [shares[k] for k in places], by)

    found = await truncate_and_scale_hidden(party, sum(sizes), hide, Scaling(*map(int, scaling)))
    written: list[ArithmeticShare] = []
    for (first, _, _, second), y, z in zip(steps, *(part.data.split_with_sizes(sizes) for part in found), strict=True):
        if first < 0:
            made = _alone(y).view(shares[second].data.shape)
            written.append(ArithmeticShare(made))
        else:
            shares[first].write(y.view(shares[first].data.shape))
            written.append(shares[first])
        shares[second].add(z.view(shares[second].data.shape))
        written.append(shares[second])
    return tuple(written)


def _alone(part: Tensor) -> Tensor:
    """A part of a vector as a tensor that begins where its storage begins, without a copy."""
    return torch.empty_like(part) if part.is_meta else torch.from_numpy(part.numpy())


def _add_weighted(out: Tensor, party: Party, shares: Sequence[ArithmeticShare], factors: Sequence[int]) -> None:
    """Add a sum of shares times public integers, its elements in order, to ``out``, shape (n,)."""
    parts = [share.data for share in shares]
    if 1 <= len(parts) <= 2 and all(part.is_contiguous() and part.numel() == out.numel() for part in parts):
        (x, y), (a, b) = (*parts, parts[0])[:2], (*factors, 0)[:2]
        kernels.add_weighted(x.numpy().reshape(-1), y.numpy().reshape(-1), int(a), int(b), out.numpy())
    elif parts:
        party.ring.add_into(_weighted(party, shares, factors).data.reshape(-1), out)


async def _divided_together(
    party: Party, parts: Sequence[ArithmeticShare], divisor: int, method: str
) -> list[ArithmeticShare]:
    """x / divisor for several x at once, laid behind one another."""
    shapes = [part.data.shape for part in parts]
    sizes = [prod(shape) for shape in shapes]
    if party.is_provider:
        flat = torch.empty(sum(sizes), dtype=torch.int64, device="meta")
    else:
        flat = torch.from_numpy(np.concatenate([part.data.numpy().reshape(-1) for part in parts]))
    divided = (await _divided(party, ArithmeticShare(flat), divisor, method)).data
    return [ArithmeticShare(x.view(shape)) for x, shape in zip(divided.split(sizes), shapes, strict=True)]


@operation
async def check_range(party: Party, x: ArithmeticShare, *, limit_bits: int) -> Result:
    """Debug only: raise if |x| >= 2^limit_bits, after opening x to the parties."""
    if not party.is_provider:
        (opened,) = await party.open("range check", [x.data.clone()]) if party.parties > 1 else [x.data]
        signed = party.ring.to_signed(opened)
        largest = max(int(signed.max()), -int(signed.min())) if signed.numel() else 0
        if largest >= 1 << limit_bits:
            raise RangeCheckError(
                f"A result of magnitude 2^{largest.bit_length() - 1} or more exceeds the 2^{limit_bits} up to which "
                "truncation and comparison are exact; scale the data down or use fewer fraction bits."
            )
    return x
