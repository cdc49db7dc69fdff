"""Splitting the items of one data set among clients, evenly or as unevenly as in the field.

Each function gives, for every client, the places of its items in ascending order. Every item has exactly one client,
and the same seed gives the same partition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.fl.rounds.chance import Chance
from sharetorch.mpc.errors import FederatedDataError

Places = list[Tensor]
"""For each client int64 places of items, shape (items of the client,)."""


def iid(items: int, clients: int, seed: int = 0) -> Places:
    """Equal numbers of items, drawn at random; the first clients get one more if the numbers do not divide.

    Raises:
        FederatedDataError: no client, or fewer items than clients.
    """
    _check(items, clients)
    order = Chance(seed, "iid").permutation(items)
    return _places(np.array_split(order, clients))


def dirichlet(labels: Tensor, clients: int, alpha: float, seed: int = 0, least: int = 1) -> Places:
    """Of each label every client has a share drawn from a Dirichlet distribution (Hsu, Qi and Brown 2019).

    Args:
        labels: one whole number for each item, shape (items,).
        clients: how many.
        alpha: the smaller, the fewer labels a client has; above about 100 the shares are nearly equal.
        seed: of the partition.
        least: items every client gets; who would have fewer takes them from who has most.

    Raises:
        FederatedDataError: no client, too few items, labels of another form, or an alpha that is not positive.
    """
    values = _values(labels)
    _check(len(values), clients, least)
    _check_alpha(alpha)
    parts: list[list[int]] = [[] for _ in range(clients)]
    for number, label in enumerate(np.unique(values)):
        chance = Chance(seed, "dirichlet", number)
        order = np.flatnonzero(values == label)
        order = order[chance.permutation(len(order))]
        bounds = np.rint(np.cumsum(chance.proportions(clients, alpha))[:-1] * len(order)).astype(np.int64)
        for part, piece in zip(parts, np.split(order, bounds), strict=True):
            part.extend(piece.tolist())
    return _places(_with_least(parts, least))


def by_shards(labels: Tensor, clients: int, shards: int = 2, seed: int = 0) -> Places:
    """Items in the order of their labels, cut into shards; each client gets as many shards (McMahan et al. 2017).

    Args:
        labels: one whole number for each item, shape (items,).
        clients: how many.
        shards: of one client; about as many labels as it has.
        seed: of the partition.

    Raises:
        FederatedDataError: no client, no shard, labels of another form, or fewer items than shards.
    """
    values = _values(labels)
    if shards < 1:
        raise FederatedDataError(f"{shards} shards for each client; it must be at least 1.")
    _check(len(values), clients, shards)
    chance = Chance(seed, "shards")
    mixed = chance.permutation(len(values))
    ordered = mixed[np.argsort(values[mixed], kind="stable")]
    pieces = np.array_split(ordered, clients * shards)
    turns = chance.permutation(len(pieces)).reshape(clients, shards)
    return _places([np.concatenate([pieces[turn] for turn in row]) for row in turns])


def by_label(labels: Tensor, groups: Sequence[Sequence[int]]) -> Places:
    """Each client gets all items of its labels.

    Args:
        labels: one whole number for each item, shape (items,).
        groups: labels of each client, such as [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]].

    Raises:
        FederatedDataError: a label of two clients, of none, or a client without items.
    """
    values = _values(labels)
    named = [label for group in groups for label in group]
    twice = sorted({label for label in named if named.count(label) > 1})
    if twice:
        raise FederatedDataError(f"Labels {twice} are in two groups; every item has exactly one client.")
    left = sorted(set(np.unique(values).tolist()) - set(named))
    if left:
        raise FederatedDataError(f"Labels {left} are in no group; their items would be nobody's.")
    parts = [np.flatnonzero(np.isin(values, list(group))) for group in groups]
    empty = [place for place, part in enumerate(parts) if not len(part)]
    if empty or not parts:
        raise FederatedDataError(f"The clients at places {empty} of the groups get no item; leave them out.")
    return _places(parts)


def by_quantity(items: int, clients: int, alpha: float = 0.5, seed: int = 0, least: int = 1) -> Places:
    """Items drawn at random, in numbers that follow a Dirichlet distribution: some clients have much, some little.

    Args:
        items: how many there are.
        clients: how many.
        alpha: the smaller, the more unequal.
        seed: of the partition.
        least: items every client gets; who would have fewer takes them from who has most.

    Raises:
        FederatedDataError: no client, too few items, or an alpha that is not positive.
    """
    _check(items, clients, least)
    _check_alpha(alpha)
    chance = Chance(seed, "quantity")
    order = chance.permutation(items)
    bounds = np.rint(np.cumsum(chance.proportions(clients, alpha))[:-1] * items).astype(np.int64)
    return _places(_with_least([part.tolist() for part in np.split(order, bounds)], least))


Partition = Callable[[Tensor, int, int], Places]
"""Of labels, number of clients and seed."""


def parse(text: str) -> Partition:
    """The partition a text names: "iid", "dirichlet:ALPHA", "labels[:SHARDS]" or "quantity[:ALPHA]".

    Raises:
        FederatedDataError: it names none.
    """
    name, _, argument = text.partition(":")
    try:
        if name == "iid" and not argument:
            return lambda labels, clients, seed: iid(len(labels), clients, seed)
        if name == "dirichlet":
            alpha = _check_alpha(float(argument))
            return lambda labels, clients, seed: dirichlet(labels, clients, alpha, seed)
        if name == "labels":
            shards = int(argument or 2)
            return lambda labels, clients, seed: by_shards(labels, clients, shards, seed)
        if name == "quantity":
            spread = _check_alpha(float(argument or 0.5))
            return lambda labels, clients, seed: by_quantity(len(labels), clients, spread, seed)
    except ValueError as error:
        if isinstance(error, FederatedDataError):
            raise
    raise FederatedDataError(
        f"{text!r} is no partition. There are iid, dirichlet:ALPHA such as dirichlet:0.3, labels[:SHARDS] and "
        "quantity[:ALPHA]."
    )


def _check(items: int, clients: int, least: int = 1) -> None:
    if clients < 1:
        raise FederatedDataError(f"{clients} clients; there must be at least one.")
    if least < 0 or items < clients * max(1, least):
        raise FederatedDataError(
            f"{items} items cannot give {clients} clients {max(1, least)} each. Name fewer clients, or use more items."
        )


def _check_alpha(alpha: float) -> float:
    if not (alpha > 0 and math.isfinite(alpha)):
        raise FederatedDataError(f"alpha is {alpha}; it must be a positive number, such as 0.3.")
    return alpha


def _values(labels: Tensor) -> NDArray[np.int64]:
    if labels.dim() != 1 or labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise FederatedDataError(
            f"Labels of shape {tuple(labels.shape)} and {labels.dtype}; a partition by labels needs one whole number "
            "for each item, shape (items,)."
        )
    return np.asarray(labels.cpu().to(torch.int64).numpy())


def _with_least(parts: list[list[int]], least: int) -> list[list[int]]:
    """Let who has fewer take the last items of who has most."""
    for part in parts:
        while len(part) < least:
            part.append(max(parts, key=len).pop())
    return parts


def _places(parts: Sequence[Sequence[int] | NDArray[np.int64]]) -> Places:
    return [torch.tensor(sorted(int(place) for place in part), dtype=torch.int64) for part in parts]
