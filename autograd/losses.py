"""Losses. Squared error keeps its difference, opened for the square, so the backward pass sends nothing for it."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from sharetorch.mpc.errors import UnsupportedOperationError
from sharetorch.mpc.tensor.comparison import difference
from sharetorch.mpc.tensor.location import user_line
from sharetorch.mpc.tensor.shared import rule

_REDUCTIONS = ("mean", "sum", "none")


def _reduce(losses: Any, reduction: str) -> Any:
    if reduction not in _REDUCTIONS:
        raise UnsupportedOperationError(f"reduction={reduction!r} is not one of {', '.join(_REDUCTIONS)}{user_line()}.")
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.mean()


def _legacy(size_average: Any, reduce: Any, reduction: str) -> str:
    if reduce is False:
        return "none"
    return "sum" if size_average is False else reduction


@rule(F.mse_loss)
def mse_loss(
    input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean", weight: Any = None
) -> Any:
    """Squared error."""
    distance = difference(input, target)
    squared = distance * distance
    return _reduce(squared if weight is None else squared * weight, _legacy(size_average, reduce, reduction))


@rule(F.l1_loss)
def l1_loss(
    input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean", weight: Any = None
) -> Any:
    """Absolute error."""
    distance = torch.abs(difference(input, target))
    return _reduce(distance if weight is None else distance * weight, _legacy(size_average, reduce, reduction))


@rule(F.cross_entropy, F.nll_loss, F.binary_cross_entropy, F.binary_cross_entropy_with_logits)
def needs_logarithm(*args: Any, **kwargs: Any) -> Any:
    """Refused: these losses need exponentials and logarithms."""
    raise UnsupportedOperationError(
        f"This loss needs exp and log, which have no secure form yet{user_line()}. Use squared error on one-hot labels "
        "(nn.MSELoss)."
    )
