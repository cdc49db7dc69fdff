"""Gradients of a function on shared and on plain tensors, side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import sharetorch as st
from tests.tensor.tools import assert_same, share


def flat(result: Any) -> list[Any]:
    """The tensors of a result that can have gradients."""
    if hasattr(result, "values") and hasattr(result, "indices") and not isinstance(result, Tensor):
        return [result.values]
    if isinstance(result, (tuple, list)):
        return [part for one in result for part in flat(one)]
    return [result] if isinstance(result, Tensor) and result.requires_grad else []


def weighted(result: Any) -> Any:
    """A number that depends on every element of a result, each with a weight of its own, exact in 16 bits."""
    total: Any = 0
    for part in flat(result):
        weights = (torch.arange(part.numel()) % 7 - 3).reshape(part.shape).float() / 4 + 0.125
        total = total + (part * weights).sum()
    return total


def gradients(function: Callable[..., Any], operands: list[Any]) -> list[Any]:
    """Gradients of the weighted result for all operands that require them."""
    weighted(function(*operands)).backward()
    return [operand.grad for operand in operands if isinstance(operand, Tensor) and operand.requires_grad]


def check_gradients(function: Callable[..., Any], operands: list[Tensor], shared: list[bool], bound: float) -> None:
    """Gradients for all operands, shared and public, agree with torch's within ``bound`` and are shared."""
    plain = [x.clone().requires_grad_(True) for x in operands]
    ours = [
        (share(x) if secret else x.clone()).requires_grad_(True) for x, secret in zip(operands, shared, strict=True)
    ]
    expected, actual = gradients(function, plain), gradients(function, ours)
    for one, other in zip(actual, expected, strict=True):
        assert isinstance(one, st.SharedTensor), "a gradient is missing or in the clear"
        assert_same(one, other, bound)
