"""In-place sums and products with a factor, the steps of an optimizer: one command and one truncation each."""

from __future__ import annotations

from typing import Any

import torch

from sharetorch.mpc.tensor.arithmetic import combination, is_scalar, multiple
from sharetorch.mpc.tensor.shared import SharedTensor, aten
from sharetorch.mpc.tensor.structural import on_shadows
from sharetorch.mpc.tensor.writing import in_place, write_sum

_aten = torch.ops.aten


@aten(_aten.add_.Tensor)
def add_(func: Any, x: Any, y: Any, alpha: Any = 1) -> Any:
    """x += alpha * y."""
    if not (isinstance(x, SharedTensor) and isinstance(y, SharedTensor)) or x.encoding.integer:
        return in_place(func)(func, x, y, **({} if alpha == 1 else {"alpha": alpha}))
    shadow = on_shadows(_aten.add.Tensor, (x, y), {"alpha": alpha} if alpha != 1 else {})
    write_sum(x, shadow, *combination(x, y, alpha))
    return x


@aten(_aten.sub_.Tensor)
def subtract_(func: Any, x: Any, y: Any, alpha: Any = 1) -> Any:
    """x -= alpha * y."""
    return add_(_aten.add_.Tensor, x, y, -alpha)


@aten(_aten.mul_.Tensor, _aten.mul_.Scalar)
def multiply_(func: Any, x: Any, y: Any) -> Any:
    """x *= y."""
    if not isinstance(x, SharedTensor) or x.encoding.integer or not is_scalar(y):
        return in_place(func)(func, x, y)
    write_sum(x, x.shadow, *multiple(x, y))
    return x
