"""From the updates of a round to one: the interface, and the aggregators of plain updates.

An aggregator of hidden updates has the same three methods, and those of ``Collector``: its clients send their updates
to aggregators on other machines, and none comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from sharetorch.fl.aggregation.invitations import Invitation
from sharetorch.fl.rounds import robust
from sharetorch.mpc.errors import TrainingError


class Aggregator(Protocol):
    """Combines the updates of one round after the other.

    Attributes:
        name: of the rule; a run is only resumed with the same one.
    """

    name: str

    def begin(self, round: int, clients: Sequence[str]) -> None:
        """A round begins, in which these clients are asked; what an unfinished one left is forgotten."""

    def add(self, client: str, update: Tensor, weight: float) -> None:
        """The update of one client: float64, shape (size,). Not every client that was asked gives one."""

    def finish(self) -> Tensor:
        """The combined update, shape (size,); needs at least one."""


@runtime_checkable
class Collector(Aggregator, Protocol):
    """An aggregator to which clients send updates themselves; ``fl.aggregation.HiddenAggregator`` is one.

    Attributes:
        guided: whether each round needs a trusted update, given by ``guide``.
    """

    guided: bool

    def invite(self, clients: Sequence[str], dimension: int) -> Invitation | None:
        """What clients of this round must be told; None if updates come by ``add`` after all."""

    def guide(self, update: Tensor) -> None:
        """The trusted update of this round."""

    def collect(self) -> list[str]:
        """Close the round; ids of the clients whose updates are in the result. ``finish`` gives it."""


class Mean:
    """The mean of the updates, weighted by numbers of items: FedAvg's (McMahan et al. 2017).

    A weight is divided by the sum of weights before anything is multiplied by it, so one client's mean is its update.
    """

    name = "mean"

    def __init__(self) -> None:
        self._given: list[tuple[Tensor, float]] = []

    def begin(self, round: int, clients: Sequence[str]) -> None:
        """See ``Aggregator``."""
        self._given = []

    def add(self, client: str, update: Tensor, weight: float) -> None:
        """See ``Aggregator``."""
        self._given.append((update, weight))

    def finish(self) -> Tensor:
        """See ``Aggregator``.

        Raises:
            TrainingError: no update.
        """
        if not self._given:
            raise TrainingError("No client gave an update; there is nothing to average.")
        given, self._given = self._given, []
        total = sum(weight for _, weight in given)
        mean = torch.zeros_like(given[0][0])
        for update, weight in given:
            mean += update * (weight / total)
        return mean


class Rule:
    """One of the robust rules, on all updates of a round at once.

    Args:
        name: of the rule.
        rule: from updates, shape (n, d), to one, shape (d,).
    """

    def __init__(self, name: str, rule: Callable[[Tensor], Tensor]) -> None:
        self.name = name
        self._rule = rule
        self._given: list[Tensor] = []

    def begin(self, round: int, clients: Sequence[str]) -> None:
        """See ``Aggregator``."""
        self._given = []

    def add(self, client: str, update: Tensor, weight: float) -> None:
        """See ``Aggregator``; the weight is not used."""
        self._given.append(update)

    def finish(self) -> Tensor:
        """See ``Aggregator``.

        Raises:
            TrainingError: too few updates for the rule.
        """
        if not self._given:
            raise TrainingError(f"No client gave an update; the rule {self.name} needs some.")
        given, self._given = self._given, []
        return self._rule(torch.stack(given))


RULES: Mapping[str, Callable[[int], Aggregator]] = {
    "mean": lambda f: Mean(),
    "median": lambda f: Rule("median", robust.coordinate_median),
    "trimmed-mean": lambda f: Rule(f"trimmed-mean {f}", partial(robust.trimmed_mean, f=f)),
    "krum": lambda f: Rule(f"krum {f}", partial(robust.krum, f=f)),
    "multi-krum": lambda f: Rule(f"multi-krum {f}", partial(robust.multi_krum, f=f)),
}
"""Aggregators of plain updates by name, given how many clients may send anything."""
