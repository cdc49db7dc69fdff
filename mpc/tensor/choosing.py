"""Functions that choose by a comparison, as PyTorch's own compositions and in-place forms call them."""

from __future__ import annotations

from typing import Any

import torch

from sharetorch.mpc.tensor.comparison import difference, non_negative, rectify, truth
from sharetorch.mpc.tensor.shared import SharedTensor, aten
from sharetorch.mpc.tensor.structural import on_shadows

_aten = torch.ops.aten


@aten(_aten.relu.default)
def relu(func: Any, x: SharedTensor) -> SharedTensor:
    """max(x, 0)."""
    return rectify(x).value


@aten(_aten.maximum.default, _aten.fmax.default, _aten.clamp_min.default, _aten.clamp_min.Tensor)
def maximum(func: Any, x: Any, y: Any) -> Any:
    """y + relu(x - y)."""
    on_shadows(func, (x, y), {})
    return y + rectify(difference(x, y)).value


@aten(_aten.minimum.default, _aten.fmin.default, _aten.clamp_max.default, _aten.clamp_max.Tensor)
def minimum(func: Any, x: Any, y: Any) -> Any:
    """y - relu(y - x)."""
    on_shadows(func, (x, y), {})
    return y - rectify(difference(y, x)).value


@aten(_aten.clamp.default, _aten.clamp.Tensor)
def clamp(func: Any, x: Any, lowest: Any = None, highest: Any = None) -> Any:
    """x clipped from below, above or both."""
    if lowest is not None:
        x = maximum(_aten.clamp_min.Tensor if isinstance(lowest, torch.Tensor) else _aten.clamp_min.default, x, lowest)
    if highest is None:
        return x
    return minimum(_aten.clamp_max.Tensor if isinstance(highest, torch.Tensor) else _aten.clamp_max.default, x, highest)


@aten(_aten.hardtanh.default)
def hardtanh(func: Any, x: SharedTensor, lowest: float = -1.0, highest: float = 1.0) -> Any:
    """x clipped to [lowest, highest]."""
    return clamp(func, x, lowest, highest)


@aten(_aten.abs.default)
def absolute(func: Any, x: SharedTensor) -> Any:
    """x (2 [x >= 0] - 1)."""
    return x * (2 * non_negative(x) - 1)


@aten(_aten.sign.default, _aten.sgn.default)
def sign(func: Any, x: SharedTensor) -> Any:
    """[x >= 0] - [-x >= 0], both comparisons in the same rounds."""
    bits = non_negative(_aten.stack([x, -x]))
    return _aten._to_copy(truth(_aten.sub(bits[0], bits[1]), x), dtype=x.dtype)
