"""What a round gives, and who runs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from flwr.app import Message

from sharetorch.fl.flower.grids import Desk
from sharetorch.fl.flower.records import Order, Wanted
from sharetorch.fl.flower.vectors import Vector


class Task(NamedTuple):
    """What is aggregated in a round.

    Attributes:
        wanted: of each client.
        size: coordinates of the update; 0 if there is none.
    """

    wanted: Wanted
    size: int


class Result(NamedTuple):
    """What a round gives.

    Attributes:
        update: by the rule, shape (size,).
        figures: their means, as coordinates.
        weight: sum of the weights; the number of clients if it is not seen.
        clients: whose vectors are in it.
    """

    update: Vector
    figures: Vector
    weight: float
    clients: tuple[str, ...]


class Round(Protocol):
    """One round, from the nodes that are asked to the result."""

    def begin(self, desk: Desk, names: Mapping[int, str], task: Task) -> dict[int, Order]:
        """Do what comes before the clients' work.

        Args:
            desk: asks nodes.
            names: of the nodes.
            task: what is aggregated.

        Returns:
            The order that goes with the work, by node; nodes that are out of the round have none.
        """

    def finish(self, replies: Iterable[Message]) -> Result:
        """Do what comes after it."""


class Rounds(Protocol):
    """Where vectors are aggregated."""

    def round(self) -> Round:
        """A new round."""

    def close(self) -> None:
        """Let go of connections and workers."""
