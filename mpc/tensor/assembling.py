"""Operations that put several tensors into one: joining, writing at public places, padding, choosing; constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import ShapeError, UnsupportedOperationError
from sharetorch.mpc.tensor import shared
from sharetorch.mpc.tensor.encodings import align, as_shared
from sharetorch.mpc.tensor.location import user_line
from sharetorch.mpc.tensor.shared import SharedTensor, aten
from sharetorch.mpc.tensor.structural import apply_local, on_shadows, public_places

_aten = torch.ops.aten


@aten(
    _aten.zeros_like.default,
    _aten.ones_like.default,
    _aten.full_like.default,
    _aten.empty_like.default,
    _aten.new_zeros.default,
    _aten.new_ones.default,
    _aten.new_full.default,
    _aten.new_empty.default,
    _aten.new_empty_strided.default,
)
def constant_like(func: Any, x: SharedTensor, *args: Any, **kwargs: Any) -> SharedTensor:
    """Shares of a public constant at the same members, in the same encoding. No messages."""
    kwargs = {key: value for key, value in kwargs.items() if key in ("dtype",)}
    shadow = on_shadows(func, (x, *args), kwargs)
    name = func.__name__.split(".")[0]
    value = args[-1] if "full" in name else 1 if "ones" in name else 0
    plain = torch.full(shadow.shape, value, dtype=shadow.dtype)
    encoding = x.encoding if shadow.dtype.is_floating_point != x.encoding.integer else None
    return as_shared(plain, x, encoding)


@aten(_aten.cat.default, _aten.stack.default)
def join(func: Any, tensors: Sequence[Any], dim: int = 0) -> SharedTensor:
    """Join shared and plain tensors; plain ones become public constants."""
    joined: SharedTensor = apply_local(func, list(align(*tensors)), dim)
    joined.bits = all(isinstance(part, SharedTensor) and part.bits for part in tensors)
    return joined


@aten(_aten.block_diag.default)
def block_diagonal(func: Any, tensors: Sequence[Any]) -> Any:
    """Matrices along the diagonal of a larger one."""
    parts = [part if part.dim() == 2 else part.reshape(1, -1) for part in align(*tensors)]
    width, left, rows = sum(part.shape[1] for part in parts), 0, []
    for part in parts:
        rows.append(_aten.constant_pad_nd(part, [left, width - left - part.shape[1]]))
        left += part.shape[1]
    return _aten.cat(rows)


_SOURCES = {
    _aten.index_put.default: 1,
    _aten.scatter.src: 2,
    _aten.scatter_add.default: 2,
    _aten.index_add.default: 2,
    _aten.index_copy.default: 2,
    _aten.select_scatter.default: 0,
    _aten.slice_scatter.default: 0,
    _aten.diagonal_scatter.default: 0,
    _aten.as_strided_scatter.default: 0,
}
"""Where the source stands among the arguments that follow the target."""


@aten(*_SOURCES)
def put(func: Any, x: Any, *args: Any, alpha: Any = 1, **kwargs: Any) -> SharedTensor:
    """Write or add at public places: base and source brought to one encoding."""
    place = _SOURCES[func]
    public_places(func, *args[:place], *args[place + 1 :])
    x, source = align(x, args[place] if alpha == 1 else args[place] * alpha)
    return apply_local(func, x, *args[:place], source, *args[place + 1 :], **kwargs)  # type: ignore[no-any-return]


@aten(_aten.scatter.value)
def scatter_value(func: Any, x: Any, dim: int, index: Tensor, value: Any) -> Any:
    """Write one number at public places."""
    public_places(func, index)
    return put(_aten.scatter.src, x, dim, index, torch.full(index.shape, value))


@aten(_aten.index_fill.int_Scalar, _aten.index_fill.int_Tensor)
def index_fill(func: Any, x: Any, dim: int, index: Tensor, value: Any) -> Any:
    """Write one number to public rows."""
    public_places(func, index)
    shape = list(x.shape)
    shape[dim] = index.numel()
    return put(_aten.index_copy.default, x, dim, index, torch.as_tensor(value).expand(shape))


@aten(_aten._index_put_impl.default, _aten._unsafe_index_put.default)
def index_put(func: Any, x: Any, indices: Any, values: Any, accumulate: bool = False, unsafe: bool = False) -> Any:
    """The form of index_put that backward passes use."""
    return put(_aten.index_put.default, x, indices, values, accumulate)


@aten(_aten.masked_scatter.default)
def masked_scatter(func: Any, x: Any, mask: Tensor, source: Any) -> Any:
    """Write elements of the source, one after the other, to the places of a public mask."""
    public_places(func, mask)
    places = list(mask.expand(x.shape).nonzero(as_tuple=True))
    return put(_aten.index_put.default, x, places, _aten.reshape(source, [-1])[: places[0].numel()])


@aten(_aten.masked_select.default)
def masked_select(func: Any, x: Any, mask: Tensor) -> SharedTensor:
    """The elements at the places of a public mask."""
    public_places(func, mask)
    shape = torch.broadcast_shapes(x.shape, mask.shape)
    return apply_local(_aten.index.Tensor, x.expand(shape), [mask.expand(shape)])  # type: ignore[no-any-return]


@aten(_aten.masked_scatter_backward.default)
def masked_scatter_backward(func: Any, gradient: Any, mask: Tensor, sizes: Sequence[int]) -> Any:
    """The gradient of the source: what went to the places of the mask, then zeros."""
    gone = masked_select(func, gradient, mask)
    return _aten.view(_aten.constant_pad_nd(gone, [0, torch.Size(sizes).numel() - gone.numel()]), sizes)


@aten(_aten.constant_pad_nd.default)
def pad(func: Any, x: SharedTensor, pad: Sequence[int], value: Any = 0) -> SharedTensor:
    """Pad with a public constant."""
    padded: SharedTensor = apply_local(func, x, pad, 0)
    if not value:
        return padded
    frame = func(torch.zeros(x.shape, dtype=x.dtype), pad, value)
    result: SharedTensor = padded + frame
    return result


@aten(_aten.where.self)
def choose(func: Any, condition: Any, x: Any, y: Any) -> Any:
    """X where the condition holds, else y: local for a public condition, a product for a shared one."""
    try:
        torch.broadcast_shapes(condition.shape, x.shape, y.shape)
    except RuntimeError as error:
        raise ShapeError(f"where: {error}{user_line()}") from error
    if isinstance(condition, SharedTensor):
        bits = condition if condition.bits else _aten.ne(condition, 0)
        return y + bits * (x - y)
    x, y = align(x, y)
    return apply_local(func, condition.to(torch.bool), x, y)


@aten(_aten.masked_fill.Scalar, _aten.masked_fill.Tensor)
def masked_fill(func: Any, x: Any, mask: Any, value: Any) -> Any:
    """Write a value where a public or shared mask holds."""
    filling = value if isinstance(value, Tensor) else torch.tensor(value, dtype=x.dtype)
    return choose(_aten.where.self, mask, filling, x)


@aten(_aten._local_scalar_dense.default)
def scalar(func: Any, x: SharedTensor) -> Any:
    """Refused: the value is secret."""
    return shared.refuse("x.item()", "open the tensor with x.get().item() if it may be seen")


@aten(_aten.nonzero.default, _aten.nonzero_numpy.default)
def places_of_nonzero(func: Any, x: SharedTensor) -> Any:
    """Refused: how many there are is secret."""
    raise UnsupportedOperationError(
        f"nonzero would reveal which elements are 0{user_line()}; keep the mask x != 0 and multiply by it."
    )
