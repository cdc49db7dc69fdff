"""In-place sums and products with a factor, the steps of an optimizer: one command and one truncation each.

The multi-tensor forms that optimizers have (``torch._foreach_*``) do it for all parameters in the same rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from sharetorch.mpc.tensor import shared
from sharetorch.mpc.tensor.arithmetic import combination, is_scalar, multiple
from sharetorch.mpc.tensor.shared import SharedTensor, aten
from sharetorch.mpc.tensor.structural import on_shadows
from sharetorch.mpc.tensor.writing import Sum, in_place, write_sum, write_sums

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


def _all_real(*lists: Sequence[Any]) -> bool:
    return all(isinstance(x, SharedTensor) and not x.encoding.integer for tensors in lists for x in tensors)


def _apart(targets: Sequence[Any], sources: Sequence[Any]) -> bool:
    """Whether no target shares memory with another one, or with what is added to another one."""
    places = [x.shadow.untyped_storage()._cdata for x in targets]
    if len(set(places)) != len(places):
        return False
    place_of = {place: i for i, place in enumerate(places)}
    return all(place_of.get(y.shadow.untyped_storage()._cdata, i) == i for i, y in enumerate(sources))


@aten(_aten._foreach_add_.List)
def add_all(func: Any, xs: Sequence[Any], ys: Sequence[Any], *, alpha: Any = 1) -> None:
    """x += alpha * y for every pair."""
    if not _all_real(xs, ys) or not _apart(xs, ys):
        _one_by_one(func, xs, ys, alpha=alpha)
        return
    scaled = {} if alpha == 1 else {"alpha": alpha}
    shadows = [on_shadows(_aten.add.Tensor, pair, scaled) for pair in zip(xs, ys, strict=True)]
    sums = zip(xs, shadows, ys, strict=True)
    write_sums([Sum(x, shadow, *combination(x, y, alpha)) for x, shadow, y in sums])
    _changed(xs)


@aten(_aten._foreach_mul_.Scalar)
def multiply_all(func: Any, xs: Sequence[Any], y: Any) -> None:
    """x *= y for every x."""
    if not _all_real(xs) or not _apart(xs, ()):
        _one_by_one(func, xs, y)
        return
    write_sums([Sum(x, x.shadow, *multiple(x, y)) for x in xs])
    _changed(xs)


def _changed(xs: Sequence[Any]) -> None:
    """Tell PyTorch that tensors were changed in place: it counts that for single tensors only."""
    torch.autograd.graph.increment_version(xs)


def _one_by_one(func: Any, *args: Any, **kwargs: Any) -> Any:
    """A multi-tensor operation, tensor by tensor."""
    name, overload = func.__name__.removeprefix("_foreach_").split(".")
    packet = getattr(_aten, name)
    single = getattr(packet, {"List": "Tensor", "ScalarList": "Scalar"}.get(overload, overload), packet)
    listed = [isinstance(arg, (list, tuple)) for arg in args]
    made = [
        single(*(arg[i] if many else arg for arg, many in zip(args, listed, strict=True)), **kwargs)
        for i in range(len(args[0]))
    ]
    if not name.endswith("_"):
        return made
    _changed(args[0])
    return None


def _multi_tensor(func: Any) -> Any:
    """The handler of multi-tensor operations that have none of their own."""
    return _one_by_one if func.__name__.startswith("_foreach_") else None


shared.additions.families.insert(0, _multi_tensor)
