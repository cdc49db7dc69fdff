"""Batch normalisation by the inverse root of the variance. Running statistics are updated in shares."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from sharetorch.autograd.engine import is_shared
from sharetorch.mpc.errors import MismatchError, ShapeError
from sharetorch.mpc.tensor.location import user_line
from sharetorch.mpc.tensor.shared import rule


@rule(F.batch_norm, torch.batch_norm)
def batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    """Normalise each channel by its batch's statistics (training) or by the running ones."""
    dims = (0, *range(2, input.dim()))
    shape = (1, -1, *[1] * (input.dim() - 2))
    count = input.numel() // max(1, input.shape[1])
    if training or running_mean is None:
        if count < 2:
            raise ShapeError(
                f"Batch statistics need more than one value per channel, shape {tuple(input.shape)}{user_line()}."
            )
        mean = input.mean(dims)
        centred = input - mean.reshape(shape)
        var = (centred * centred).mean(dims)
        _update(running_mean, running_var, mean, var, momentum, count)
    else:
        centred = input - running_mean.reshape(shape)
        var = running_var
    factor = torch.rsqrt(var + eps)
    factor = factor if weight is None else factor * weight
    result = centred * factor.reshape(shape)
    return result if bias is None else result + bias.reshape(shape)


def _update(running_mean: Any, running_var: Any, mean: Any, var: Any, momentum: float, count: int) -> None:
    if running_mean is None:
        return
    if is_shared(mean) and not is_shared(running_mean):
        raise MismatchError(
            f"Statistics of shared data cannot go into the public buffers of this layer{user_line()}: share the model, "
            "or set track_running_stats=False."
        )
    with torch.no_grad():
        running_mean.copy_(running_mean * (1 - momentum) + mean.detach() * momentum)
        running_var.copy_(running_var * (1 - momentum) + var.detach() * (momentum * count / (count - 1)))
