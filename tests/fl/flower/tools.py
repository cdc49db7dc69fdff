"""Settings and reference results of the tests of one process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from flwr.serverapp.strategy import FedAvg

from sharetorch.fl.flower import SIMULATED, SecureStrategy, simulated_mod
from tests.fl.flower.federations import LocalGrid, client_app, examples, flat, model, updates

Vector = np.ndarray[Any, Any]


def simulated(count: int, size: int = 6, **options: Any) -> LocalGrid:
    """A simulation."""
    configs: list[Mapping[str, Any]] = [{"partition-id": i, "num-partitions": count} for i in range(count)]
    return LocalGrid(client_app(simulated_mod, update=lambda i, r: updates(i, r, size)), configs, **options)


def strategy(**options: Any) -> SecureStrategy:
    """A strategy in a simulation; a step that somebody does not answer is over soon."""
    return SecureStrategy(options.pop("plain", FedAvg()), **{"keys": SIMULATED, "timeout": 0.2, **options})


def moved(strategy: SecureStrategy, grid: LocalGrid, rounds: int = 1, size: int = 6) -> Vector:
    """By what a run changed the model."""
    arrays = strategy.start(grid, model(size), num_rounds=rounds).arrays
    return flat(arrays) - flat(model(size))


def stacked(partitions: Iterable[int], round: int = 1, size: int = 6) -> Vector:
    """Updates of clients as rows."""
    return np.array([updates(i, round, size) for i in partitions])


def weighted_mean(partitions: Iterable[int], round: int = 1, size: int = 6) -> Vector:
    """The weighted mean of clients' updates."""
    found = list(partitions)
    weights = np.array([examples(i) for i in found], np.float64)
    mean: Vector = weights @ stacked(found, round, size) / weights.sum()
    return mean
