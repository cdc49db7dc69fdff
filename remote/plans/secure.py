"""Operations of a graph on shared tensors.

Most aten operations have a secure form of their own. Some have one only as functions of torch (pooling, normalisation
in evaluation mode, products), because that is where models call them; a graph names the operations those come to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own abbreviation
from torch import Tensor

from sharetorch.mpc.tensor.shared import ATEN, RULES, SharedTensor
from sharetorch.remote.operators import Operator


def _batch_norm(x: Tensor, weight: Any, bias: Any, mean: Tensor, var: Tensor, momentum: float, eps: float) -> Any:
    return F.batch_norm(x, mean, var, weight, bias, False, momentum, eps), None, None


def _max_pool(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
) -> Any:
    return F.max_pool2d(x, kernel_size, stride or None, padding, dilation, ceil_mode), None


def _avg_pool(x: Tensor, kernel_size: Any, stride: Any = None, *options: Any, **named: Any) -> Any:
    return F.avg_pool2d(x, kernel_size, stride or None, *options, **named)


FORMS: dict[str, Callable[..., Any]] = {
    "_native_batch_norm_legit_no_training": _batch_norm,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _avg_pool,
    "_adaptive_avg_pool2d": F.adaptive_avg_pool2d,
}
"""Functions that stand for aten operations, by name. Indices of maxima and saved statistics are left out."""


def form_of(operator: Operator, args: list[Any]) -> Callable[..., Any] | None:
    """What to call instead of the aten operation, if an operand is shared; None to call the operation itself."""
    if operator.overload in ATEN or not any(_is_shared(arg) for arg in args):
        return None
    return FORMS.get(operator.base) or RULES.get(getattr(torch, operator.base, None))


def _is_shared(value: Any) -> bool:
    return isinstance(value, SharedTensor) or (isinstance(value, list) and any(map(_is_shared, value)))
