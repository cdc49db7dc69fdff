"""First weights of a model from a seed, the same on every machine."""

from __future__ import annotations

import torch
from torch import nn

from sharetorch.fl.rounds.chance import Chance


def initialise(model: nn.Module, seed: int) -> None:
    """Torch's own choice for linear layers and convolutions: uniform up to one over the square root of a unit's inputs.

    Args:
        model: changed in place; other layers stay as they are.
        seed: of public random numbers.
    """
    for name, part in model.named_modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            bound, chance = part.weight[0].numel() ** -0.5, Chance(seed, "model", name)
            with torch.no_grad():
                for x in part.parameters():
                    x.copy_(torch.from_numpy((2 * chance.uniform(x.numel()) - 1) * bound).reshape(x.shape))
