"""Clients and models for the tests of rounds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sharetorch.fl.rounds import RoundReport, Task, Update
from sharetorch.fl.rounds.vectors import Layout


class Steady:
    """Always gives the same update, after some seconds; raises in some rounds."""

    def __init__(
        self, id: str, update: Sequence[float], weight: float = 1.0, seconds: float = 0.0, fails: Sequence[int] = ()
    ) -> None:
        self.id = id
        self.vector = torch.tensor(update, dtype=torch.float64)
        self.weight, self.seconds, self.fails = weight, seconds, fails
        self.asked: list[int] = []

    def train(self, task: Task) -> Update:
        self.asked.append(task.round)
        time.sleep(self.seconds)
        if task.round in self.fails:
            raise ConnectionError(f"{self.id} is gone")
        return Update(self.vector, self.weight, float(self.weight))


class Point(nn.Module):
    """A model of a few numbers, all zero."""

    def __init__(self, count: int = 2) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(count))


def without_seconds(reports: Sequence[RoundReport]) -> list[tuple[Any, ...]]:
    return [(r.round, r.asked, r.delivered, r.left_out, r.loss, r.metrics) for r in reports]


def vector(model: nn.Module) -> Tensor:
    return Layout(model).of(model)


def mlp(inputs: int = 2, outputs: int = 2) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))
