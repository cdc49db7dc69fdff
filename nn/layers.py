"""Layers under the names of the tutorials, and one that torch.nn writes in a way shared tensors cannot follow.

``Conv2d`` and ``AvgPool2d`` are torch.nn's own classes: they run on shared, remote and plain tensors as they are.
"""

from __future__ import annotations

from typing import Any

from torch import nn

Conv2d = nn.Conv2d
AvgPool2d = nn.AvgPool2d


class Hardsigmoid(nn.Module):
    """min(max(x / 6 + 1/2, 0), 1), as ``torch.nn.Hardsigmoid``, composed of operations that shared tensors have.

    Cost on shared tensors: one truncation and two comparisons with their products, one after the other.
    """

    def forward(self, input: Any) -> Any:
        """The value for each element."""
        return (input * (1 / 6) + 0.5).clamp(0, 1)
