"""Operations that move, pick, repeat or add up elements: each member applies them to its share, without messages.

Views of a shared tensor share its storage at every member, so writing to a view changes the base.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharetorch.mpc import linear
from sharetorch.mpc.errors import ShapeError, ShareTorchError, UnsupportedOperationError
from sharetorch.mpc.fixedpoint import fixed
from sharetorch.mpc.linear import Slot
from sharetorch.mpc.tensor import shared
from sharetorch.mpc.tensor.constants import constant, known
from sharetorch.mpc.tensor.encodings import to_encoding
from sharetorch.mpc.tensor.location import user_line
from sharetorch.mpc.tensor.shared import Handle, SharedTensor, aten, fresh_shadow

_aten = torch.ops.aten

_KEEP_BITS = linear.VIEWS | {
    str(op)
    for op in (
        _aten.clone.default,
        _aten._unsafe_view.default,
        _aten.flip.default,
        _aten.roll.default,
        _aten.index.Tensor,
        _aten.index_select.default,
        _aten.gather.default,
        _aten.repeat.default,
        _aten.tril.default,
        _aten.triu.default,
    )
}
"""Local operations that make bits of bits."""

_KEEP_VALUE = linear.VIEWS | {str(_aten.clone.default), str(_aten._unsafe_view.default)}
"""Local operations whose result holds the number that their operand holds everywhere."""

def on_shadows(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an aten operation on shadows: shapes, strides and dtypes of its result, and torch's own checks."""
    short = _SHORT.get(func)
    if short is not None and kwargs.keys() <= {"alpha"}:
        shadow = short(*args)
        if shadow is not None:
            return shadow
    try:
        return func(*_map(args, _shadow), **{key: _map(value, _shadow) for key, value in kwargs.items()})
    except ShareTorchError:
        raise
    except (RuntimeError, IndexError, ValueError) as error:
        raise ShapeError(f"{func}: {error}{user_line()}") from error


def _elementwise_shadow(x: Any, y: Any, *others: Any) -> Tensor | None:
    """The result's shape and dtype in the frequent cases, without asking torch; None for all others."""
    if others:
        return None
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        return x.shadow if isinstance(x, SharedTensor) and x.dtype.is_floating_point and not _is_complex(y) else None
    if x.dtype != y.dtype and (x.dim() == 0 or y.dim() == 0):
        return None
    dtype = torch.promote_types(x.dtype, y.dtype)
    if isinstance(x, SharedTensor) and x.shape == y.shape and x.dtype == dtype:
        return x.shadow
    try:
        shape = np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        return None
    return torch.empty(shape, dtype=dtype, device="meta")


def _indexed_shadow(x: Any, indices: Any) -> Tensor | None:
    """The same for rows by one index."""
    index = indices[0] if len(indices) == 1 else None
    if not isinstance(index, Tensor) or isinstance(index, SharedTensor) or index.dtype != torch.int64 or x.dim() == 0:
        return None
    return torch.empty(linear.indexed_shape(x.shape, index.shape), dtype=x.dtype, device="meta")


def _summed_shadow(x: Any, dims: Any = None, keepdim: bool = False) -> Tensor | None:
    """The same for sums of reals."""
    shape = linear.summed_shape(x.shape, dims, keepdim) if x.dtype.is_floating_point else None
    return None if shape is None else torch.empty(shape, dtype=x.dtype, device="meta")


def _is_complex(y: Any) -> bool:
    return not isinstance(y, (int, float))


_SHORT: dict[Any, Callable[..., Tensor | None]] = {
    getattr(getattr(_aten, name), overload): _elementwise_shadow
    for name in ("add", "sub", "mul", "ge", "le", "gt", "lt", "eq", "ne")
    for overload in ("Tensor", "Scalar")
}
_SHORT |= {
    _aten.index.Tensor: _indexed_shadow,
    _aten.sum.default: _summed_shadow,
    _aten.sum.dim_IntList: _summed_shadow,
}
"""Operations whose result's shape and dtype are found without asking torch, in the frequent cases."""


def _shadow(x: Any) -> Any:
    if isinstance(x, SharedTensor):
        return x.shadow
    return x.to("meta") if isinstance(x, Tensor) else x


def _map(value: Any, function: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_map(part, function) for part in value)
    return function(value)


def apply_local(func: Any, *args: Any, **kwargs: Any) -> Any:
    """A function of ``linear.FUNCTIONS`` whose first shared operand gives the encoding."""
    args, kwargs = _without_masks(args), dict(kwargs)
    shadows = on_shadows(func, args, kwargs)
    value = known(args[0])
    if value is not None and str(func) in _KEEP_VALUE and isinstance(shadows, Tensor):
        return constant(value, shadows, args[0])
    operands: list[SharedTensor] = []
    slotted = tuple(_map(arg, lambda part: _slot(part, operands)) for arg in args)
    several = isinstance(shadows, (list, tuple))
    if operands[0].session.ahead:
        _check_places(func, args, kwargs)
    name = str(func)
    public = {"function": name, "args": slotted, "kwargs": _without_dtype(kwargs)}
    numbers = _command(operands, len(shadows) if several else 1, public)
    parts = shadows if several else (shadows,)
    made = [_made(operands[0], number, part, name) for number, part in zip(numbers, parts, strict=True)]
    return type(shadows)(made) if several else made[0]


def _check_places(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    """Let torch check public indices now: shadows have no elements to miss, and members would fail later."""
    if not any(isinstance(part, Tensor) and not isinstance(part, SharedTensor) for part in _parts(args)):
        return
    try:
        func(*_map(args, _stand_in), **kwargs)
    except (RuntimeError, IndexError) as error:
        raise ShapeError(f"{func}: {error}{user_line()}") from error


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _parts(part)
    else:
        yield value


def _stand_in(x: Any) -> Any:
    """A tensor of the same shape whose elements are all one byte."""
    return torch.zeros((), dtype=torch.int8).expand(x.shape) if isinstance(x, SharedTensor) else x


def _command(operands: list[SharedTensor], outputs: int, public: dict[str, Any]) -> tuple[int, ...]:
    try:
        return operands[0].session.command(
            "local", *(operand.handle.number for operand in operands), outputs=outputs, **public
        )
    except ShareTorchError:
        raise
    except (RuntimeError, IndexError) as error:
        raise ShapeError(f"{public['function']}: {error}{user_line()}") from error


def _made(x: SharedTensor, number: int, shadow: Tensor, name: str) -> SharedTensor:
    """A result of a local operation on ``x``; views keep the strides of their shadow."""
    view = name in linear.VIEWS
    result = SharedTensor(Handle(x.session, number, x.encoding), shadow if view else fresh_shadow(shadow))
    if x.bits:
        if view:
            result.mark = x.mark
        elif name in _KEEP_BITS:
            result.bits = True
    return result


def _slot(x: Any, operands: list[SharedTensor]) -> Any:
    if not isinstance(x, SharedTensor):
        return x
    operands.append(x)
    return Slot(len(operands) - 1)


def _without_dtype(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in kwargs.items() if key not in ("dtype", "memory_format")}


def _without_masks(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Replace public boolean index tensors by the places where they hold, which have a shape."""
    return tuple(_expand_masks(arg) if isinstance(arg, list) else arg for arg in args)


def _expand_masks(indices: list[Any]) -> list[Any]:
    expanded: list[Any] = []
    for index in indices:
        if (
            isinstance(index, Tensor)
            and not isinstance(index, SharedTensor)
            and index.dtype in (torch.bool, torch.uint8)
        ):
            expanded.extend(index.nonzero(as_tuple=True))
        else:
            expanded.append(index)
    return expanded


def public_places(func: Any, *places: Any) -> None:
    """Raise if an index or a mask is shared.

    Raises:
        UnsupportedOperationError: it is.
    """
    for place in places:
        if isinstance(place, (list, tuple)):
            public_places(func, *place)
        elif isinstance(place, SharedTensor):
            raise UnsupportedOperationError(
                f"{func} with a shared index or mask has no secure form{user_line()}: which elements are touched would "
                "show. For a mask use torch.where(mask, x, y) or multiply by it; for an index multiply by "
                "(torch.arange(n) == index[..., None]) and sum."
            )


def local_of_first(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """A local operation with one operand, first; all else is public.

    Raises:
        UnsupportedOperationError: something else is shared, as an index or a mask.
    """
    for arg in args:
        if isinstance(arg, (SharedTensor, list, tuple)):
            public_places(func, arg)
    if not isinstance(x, SharedTensor):
        public_places(func, *kwargs.values())
    return apply_local(func, x, *args, **kwargs)


def local_family(func: Any) -> Any:
    """The handler of an operation that is local without more ado, or None."""
    return local_of_first if linear.is_linear(str(func)) else None


shared.additions.families.append(local_family)


@aten(_aten.detach.default, _aten.alias.default, _aten.lift_fresh.default)
def alias(func: Any, x: SharedTensor) -> SharedTensor:
    """The same object under another tensor."""
    same = SharedTensor(x.handle, x.shadow)
    same.mark = x.mark
    return same


@aten(_aten.clone.default)
def clone(func: Any, x: SharedTensor, *, memory_format: Any = None) -> SharedTensor:
    """A copy with shares of its own."""
    return apply_local(func, x)  # type: ignore[no-any-return]


@aten(_aten._to_copy.default)
def to_copy(func: Any, x: SharedTensor, *, dtype: Any = None, device: Any = None, **kwargs: Any) -> Any:
    """Change the logical dtype; integers become reals by a local product, bits of numbers by a comparison with 0."""
    if device is not None and torch.device(device).type not in ("cpu", "meta"):
        raise UnsupportedOperationError(f"Shared tensors live on the CPU, not on {device}{user_line()}.")
    dtype = x.dtype if dtype is None else dtype
    if dtype == torch.bool and not x.bits:
        return _aten.ne(x, 0)
    if x.encoding.integer and dtype.is_floating_point:
        real = to_encoding(x, fixed())
        return SharedTensor(real.handle, real.shadow.to(dtype))
    _check_conversion(x, dtype)
    copied = clone(_aten.clone.default, x)
    if not dtype.is_floating_point or copied.dtype == dtype:
        return copied
    return SharedTensor(copied.handle, copied.shadow.to(dtype))


def _check_conversion(x: SharedTensor, dtype: torch.dtype) -> None:
    if dtype.is_complex:
        raise UnsupportedOperationError(f"Shared tensors hold no complex numbers{user_line()}.")
    if not x.encoding.integer and not dtype.is_floating_point and not x.bits:
        raise UnsupportedOperationError(
            f"Rounding shared reals to {dtype} would need an exact comparison{user_line()}; open the tensor with "
            "x.get() and convert that, or keep reals."
        )
    if dtype in (torch.int8, torch.uint8, torch.int16) and not x.bits:
        raise UnsupportedOperationError(
            f"Shared integers have 64 bits and do not wrap at {dtype}{user_line()}; use int64."
        )
