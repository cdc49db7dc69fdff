"""Updates, plain references of the rules, and what was counted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.fl.aggregation import Aggregation, Limits, Rule
from sharetorch.mpc import testing
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.fixedpoint import encode
from sharetorch.mpc.tensor.shared import Handle, SharedTensor
from sharetorch.mpc.virtual import VirtualSession

Array = NDArray[np.float64]
LIMITS = Limits(8.0, 20, weight=1000)


def updates(n: int, d: int, seed: int = 0, spread: float = 1.0) -> Tensor:
    """Public numbers that lie on the grid of the encoding, so that references are exact."""
    drawn = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn * spread).clamp(-8, 8).mul(2**16).round() / 2**16


def shared(session: VirtualSession, x: Tensor, limits: Limits = LIMITS) -> SharedTensor:
    """A matrix of updates under random shares."""
    number = session.distribute(encode(x, limits.encoding))
    return SharedTensor(Handle(session, number, limits.encoding), torch.empty(x.shape, device="meta"))


def counted(session: VirtualSession, program: Callable[[], Any]) -> Cost:
    """What a program cost."""
    with session.costs.listen() as heard:
        program()
    return heard.total().as_cost(len(session.parties))


def aggregate(
    x: Tensor,
    rule: str | Rule,
    weights: list[int] | None = None,
    parties: int = 2,
    suite: str = "tables",
    **options: Any,
) -> Tensor:
    """The opened result of a round in which all clients arrive."""
    limits = options.pop("limits", Limits(8.0, len(x), weight=1000))
    if suite == "securenn":
        options["bounded"] = False
    made = Aggregation(testing.session(parties, suite), x.shape[1], limits, rule, **options)
    for place, update in enumerate(x):
        made.submit(update, None if weights is None else weights[place])
    assert made.close() == len(x)
    return made.open()


# References, from numpy alone.


def trimmed(x: Array, dropped: int) -> Array:
    ordered = np.sort(x, axis=0)
    found: Array = ordered[dropped : len(x) - dropped].mean(0)
    return found


def krum(x: Array, byzantine: int, selected: int) -> Array:
    apart = ((x[:, None] - x[None]) ** 2).sum(-1)
    scores = [np.sort(np.delete(row, i))[: len(x) - byzantine - 2].sum() for i, row in enumerate(apart)]
    found: Array = x[np.argsort(scores, kind="stable")[:selected]].mean(0)
    return found


def clipped(x: Array, bound: float) -> Array:
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    found: Array = x * np.minimum(1, bound / np.maximum(lengths, 1e-12))
    return found


def trust(x: Array, trusted: Array) -> Array:
    length, lengths = np.linalg.norm(trusted), np.linalg.norm(x, axis=1)
    scores = np.maximum(0, x @ trusted / (lengths * length))
    found: Array = (scores * length / lengths) @ x / scores.sum()
    return found
