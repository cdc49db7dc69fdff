"""Dropout: which elements are dropped is public, drawn by the driver, so it costs a public product only."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from sharetorch.mpc.errors import ShareTorchError
from sharetorch.mpc.tensor.shared import rule


def _drop(x: Any, p: float, training: bool, shape: Any) -> Any:
    if not 0 <= p <= 1:
        raise ShareTorchError(f"The probability of dropout is {p}, not between 0 and 1.")
    if not training or p == 0:
        return x
    if p == 1:
        return x * 0
    keep = torch.bernoulli(torch.full(shape, 1 - p)) / (1 - p)
    return x * keep


@rule(F.dropout, torch.dropout)
def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Zero elements with probability p and scale the rest by 1 / (1 - p)."""
    result = _drop(input, p, training, input.shape)
    return input.copy_(result) if inplace else result


@rule(F.dropout1d, F.dropout2d)
def dropout_channels(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Zero whole channels with probability p."""
    result = _drop(input, p, training, (*input.shape[:2], *[1] * (input.dim() - 2)))
    return input.copy_(result) if inplace else result
