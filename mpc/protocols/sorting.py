"""Sorting over dimension 0, wholly or some ranks of it, and the way a gradient takes back.

Odd-even merge sort [Bat68]: which places are compared, and when, depends on the number of elements alone. Notation:
n elements; an exchange of the places (low, high) of elements x, y is, with the difference d = x - y and one bit,
    b = [d >= 1],      low: x - b d = min(x, y),      high: y + b d = max(x, y),
and the same for the numbers of the places they came from. Pairs of a layer are disjoint, so its exchanges take the same
rounds. The bits are the trail: a gradient goes back by the exchanges in the opposite order, each being its own inverse.

The network is for the next power of two; elements beyond n count as larger than all others and would never move, so
their exchanges are left out. If no rank above k is asked for, sorted runs are cut to the next power of two from k
before they are merged. Exchanges that no wanted rank depends on are left out as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.mpc.cost import Cost
from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols.arithmetic import bilinear_cost
from sharetorch.mpc.protocols.selection import Chosen, Prices, nothing, operands_of, positions
from sharetorch.mpc.ring import Elements
from sharetorch.mpc.share import ArithmeticShare

Places = NDArray[np.int64]


class Layer(NamedTuple):
    """Exchanges of disjoint pairs of places: the smaller element goes to ``lows``, the larger one to ``highs``."""

    lows: Tensor
    highs: Tensor


class Network(NamedTuple):
    """Exchanges that bring elements of wanted ranks to known places.

    Attributes:
        layers: one after the other.
        places: where the wanted elements are at the end; in ascending order unless any order will do.
    """

    layers: tuple[Layer, ...]
    places: Tensor

    @property
    def exchanges(self) -> int:
        """Number of pairs of all layers."""
        return sum(len(layer.lows) for layer in self.layers)


class Sorted(NamedTuple):
    """Elements of wanted ranks over dimension 0.

    Attributes:
        value: shape (ranks, *rest), ascending.
        index: where they stood, same shape.
        trail: the bits of all exchanges, first layer first, shape (exchanges, *rest).
    """

    value: ArithmeticShare
    index: ArithmeticShare  # type: ignore[assignment]
    trail: ArithmeticShare


# ---------------------------------------------------------------------------------------------------------- the network


class _Pass(NamedTuple):
    lows: Places
    highs: Places


@lru_cache(maxsize=32)
def network(n: int, start: int, stop: int, ordered: bool = True) -> Network:
    """The exchanges for the elements of ranks start, ..., stop - 1 of n, rank 0 being the smallest.

    Args:
        n: number of elements.
        start: first wanted rank.
        stop: one more than the last.
        ordered: whether wanted elements must be in order among themselves.

    Raises:
        ShapeError: there are no such ranks.
    """
    if not 0 <= start <= stop <= n:
        raise ShapeError(f"Elements of ranks {start} to {stop} (excluded) of {n} do not exist; ranks go from 0 to n.")
    turned = n - start < stop  # the largest are found as the smallest of a turned order
    first, last = (n - stop, n - start) if turned else (start, stop)
    passes, order = _merge_sort(n, last)
    wanted = order[first:last]
    layers = _layered(_needed(passes, wanted, n, ordered and stop - start > 1), n)
    if turned:
        layers, wanted = [_Pass(highs, lows) for lows, highs in layers], wanted[::-1].copy()
    return Network(
        tuple(Layer(torch.from_numpy(lows), torch.from_numpy(highs)) for lows, highs in layers),
        torch.from_numpy(wanted),
    )


def _merge_sort(n: int, kept: int) -> tuple[list[_Pass], Places]:
    """Passes of odd-even merge sort, and the places of the ``kept`` smallest elements, and some more, in order."""
    width = 1 << max(kept - 1, 0).bit_length()
    runs: Places = np.arange(1 << max(n - 1, 0).bit_length(), dtype=np.int64).reshape(-1, 1)
    passes: list[_Pass] = []
    while len(runs) > 1:
        runs = runs.reshape(len(runs) // 2, -1)
        size = runs.shape[1]
        step = size // 2
        while step:
            columns = np.arange(size - step)
            columns = columns[(columns // step) % 2 == (0 if step == size // 2 else 1)]
            lows, highs = runs[:, columns].reshape(-1), runs[:, columns + step].reshape(-1)
            passes.append(_Pass(lows[highs < n], highs[highs < n]))
            step //= 2
        runs = runs[:, :width]
    return passes, runs[0]


def _needed(passes: Sequence[_Pass], wanted: Places, n: int, ordered: bool) -> list[_Pass]:
    """Exchanges that decide which elements are at the wanted places and, if ordered, in which order."""
    unwanted, any_order, exact = 0, 1, 2
    need = np.full(n, unwanted, np.int8)
    need[wanted] = exact if ordered or len(wanted) == 1 else any_order
    kept: list[_Pass] = []
    for lows, highs in reversed(passes):
        decides = (need[lows] != need[highs]) | (need[lows] == exact)
        kept.append(_Pass(lows[decides], highs[decides]))
        need[kept[-1].lows] = need[kept[-1].highs] = exact
    return kept[::-1]


def _layered(passes: Sequence[_Pass], n: int) -> list[_Pass]:
    """The same exchanges, each in the first layer in which both of its places are ready."""
    ready = np.zeros(n, np.int64)
    layers: list[list[_Pass]] = []
    for lows, highs in passes:
        layer = np.maximum(ready[lows], ready[highs])
        ready[lows] = ready[highs] = layer + 1
        for place in np.unique(layer).tolist():
            if place == len(layers):
                layers.append([])
            layers[place].append(_Pass(lows[layer == place], highs[layer == place]))
    return [_Pass(*(np.concatenate(part) for part in zip(*parts, strict=True))) for parts in layers]


def most_exchanges(n: int) -> int:
    """At least as many exchanges as any network for n elements has, found without making one."""
    levels = max(n - 1, 0).bit_length()
    return n * (levels * (levels + 1) // 2)


# --------------------------------------------------------------------------------------------------------- the protocol


async def sort(
    party: Party, x: ArithmeticShare, start: int, stop: int, *, ordered: bool = True, stable: bool = False
) -> Sorted:
    """Elements of ranks start, ..., stop - 1 over dimension 0, where they stood, and the trail.

    Value and index of a layer are exchanged in one step; in the first layer all indices are public, so only the bit is
    needed for them. With ``stable`` the key m x + index is sorted, m = n | 1, and m divided out again: odd numbers have
    inverses in the ring. Else equal elements come in any order.

    Args:
        party: this member.
        x: integers whose differences are below 2^62, or below 2^61 / m if stable; shape (n, *rest).
        start: first wanted rank; the smallest element has rank 0.
        stop: one more than the last.
        ordered: whether the results are ascending; else in any order.
        stable: whether equal elements keep their order.

    Raises:
        ShapeError: there are no such ranks.

    Cost: ``sort_cost``: per layer, a comparison of its pairs with 2 products of its bit, 1 in the first layer.
    Leaks: nothing.
    """
    n, *rest = x.data.shape
    plan = network(n, start, stop, ordered)
    if party.is_provider:
        return await _provide_sort(party, plan, rest)
    indices = positions(party, x.data)
    rows = torch.stack([_keys(party, x.data, indices) if stable else x.data, indices])
    bits: list[Elements] = []
    for lows, highs in plan.layers:
        differences = party.ring.subtract(rows[:, lows], rows[:, highs])
        operands = operands_of(differences if bits else differences[:1])
        chosen: Chosen = await party.suite.choose(party, operands[0], operands, threshold=1)
        changes = [product.data for product in chosen.products]
        if not bits:
            apart = party.ring.from_integers((lows - highs).reshape(-1, *[1] * len(rest)))
            changes.append(party.ring.mul(chosen.bit.data, apart))
        change = torch.stack(changes)
        rows[:, lows] = party.ring.subtract(rows[:, lows], change)
        rows[:, highs] = party.ring.add(rows[:, highs], change)
        bits.append(chosen.bit.data)
    trail = torch.cat(bits) if bits else x.data[:0]
    value, index = rows[0][plan.places], rows[1][plan.places]
    if stable:
        value = _without_index(party, value, index, n)
    return Sorted(ArithmeticShare(value), ArithmeticShare(index), ArithmeticShare(trail))


async def _provide_sort(party: Party, plan: Network, rest: Sequence[int]) -> Sorted:
    """The provider's part: it deals for each layer."""
    for place, (lows, _) in enumerate(plan.layers):
        operands = operands_of(nothing(2 if place else 1, len(lows), *rest))
        await party.suite.choose(party, operands[0], operands, threshold=1)
    shape = (len(plan.places), *rest)
    return Sorted(
        ArithmeticShare(nothing(*shape)),
        ArithmeticShare(nothing(*shape)),
        ArithmeticShare(nothing(plan.exchanges, *rest)),
    )


def _keys(party: Party, x: Elements, indices: Elements) -> Elements:
    """m x + index, all different."""
    return party.ring.add(party.ring.mul(x, party.ring.from_integers(torch.tensor(len(x) | 1))), indices)


def _without_index(party: Party, keys: Elements, indices: Elements, n: int) -> Elements:
    """(key - index) / m."""
    modulus = party.ring.modulus
    inverse = pow(n | 1, -1, modulus)
    signed = torch.tensor(inverse - modulus if inverse >= modulus // 2 else inverse)
    return party.ring.mul(party.ring.subtract(keys, indices), party.ring.from_integers(signed))


async def unsort(
    party: Party, gradient: ArithmeticShare, trail: ArithmeticShare, n: int, start: int, *, ordered: bool = True
) -> ArithmeticShare:
    """Send the gradients of sorted elements back to where the elements came from; all others get 0.

    Backwards through the network: where an exchange swapped its elements, their gradients are swapped.

    Args:
        party: this member.
        gradient: of the elements of ranks start and following, shape (ranks, *rest).
        trail: of ``sort``.
        n: number of elements sorted.
        start: as for ``sort``.
        ordered: as for ``sort``.

    Returns:
        Shape (n, *rest).

    Raises:
        ShapeError: the trail is not of such a sort.

    Cost: ``unsort_cost``: one round per layer, one product per exchange.
    Leaks: nothing.
    """
    ranks, *rest = gradient.data.shape
    plan = network(n, start, start + ranks, ordered)
    if tuple(trail.data.shape) != (plan.exchanges, *rest):
        raise ShapeError(
            f"A trail of shape {tuple(trail.data.shape)} does not belong to {ranks} of {n} elements of shape "
            f"{tuple(rest)}, which leave ({plan.exchanges}, ...)."
        )
    flowing = torch.zeros((n, *rest), dtype=torch.int64, device=gradient.data.device)
    if not party.is_provider:
        flowing[plan.places] = gradient.data
    end = plan.exchanges
    for lows, highs in reversed(plan.layers):
        bits = trail.view(trail.data[end - len(lows) : end])
        end -= len(lows)
        if party.is_provider:
            await party.suite.multiply(party, bits, ArithmeticShare(nothing(len(lows), *rest)))
            continue
        difference = ArithmeticShare(party.ring.subtract(flowing[lows], flowing[highs]))
        change = (await party.suite.multiply(party, bits, difference)).data
        flowing[lows] = party.ring.subtract(flowing[lows], change)
        flowing[highs] = party.ring.add(flowing[highs], change)
    return ArithmeticShare(flowing)


async def bucketize(party: Party, x: ArithmeticShare, thresholds: Sequence[int]) -> ArithmeticShare:
    """Shares of how many public thresholds T have x >= T. The number of the bucket if they are in order.

    Cost: that of the suite's ``at_least``; nothing without thresholds.
    Leaks: nothing.
    """
    if not thresholds:
        return ArithmeticShare(party.ring.subtract(x.data, x.data))
    bits: ArithmeticShare = await party.suite.at_least(party, x, thresholds)
    return ArithmeticShare(party.ring.linear(lambda rows: rows.sum(0), bits.data))


# Declared prices, for operands that were not opened before.


def sort_cost(n: int, start: int, stop: int, count: int, prices: Prices, *, ordered: bool = True) -> Cost:
    """Declared price of ``sort`` for ``count`` columns of n elements."""
    total = Cost()
    for place, layer in enumerate(network(n, start, stop, ordered).layers):
        total += prices.choose(len(layer.lows) * count, 2 if place else 1)
    return total


def unsort_cost(n: int, start: int, stop: int, count: int, parties: int = 2, *, ordered: bool = True) -> Cost:
    """Declared price of ``unsort`` for ``count`` columns of stop - start gradients."""
    total = Cost()
    for layer in network(n, start, stop, ordered).layers:
        total += bilinear_cost(2 * len(layer.lows) * count, len(layer.lows) * count, parties)
    return total
