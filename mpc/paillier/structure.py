"""Operations that move, pick, repeat or join ciphertexts.

The aten operation itself runs on a tensor of places instead of the ciphertexts, so shapes, indices and orders are
torch's own. Place 0 is a zero without noise; padding and the empty half of a triangle come from it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import ShapeError, ShareTorchError, UnsupportedOperationError
from sharetorch.mpc.paillier import ciphertexts
from sharetorch.mpc.paillier.arithmetic import at_unit, require_same_key
from sharetorch.mpc.paillier.ciphertexts import ZERO, Cell
from sharetorch.mpc.paillier.encoding import common_unit
from sharetorch.mpc.paillier.tensor import (
    PaillierTensor,
    aten,
    derived,
    holds_encrypted,
    on_meta,
    unsupported,
)
from sharetorch.mpc.tensor.location import user_line

_aten = torch.ops.aten

_IGNORED = ("dtype", "memory_format", "layout", "device", "pin_memory")


def places_of(x: PaillierTensor, start: int = 1) -> Tensor:
    """Where each element stands in a list of ciphertexts: ``start`` and following."""
    return torch.arange(start, start + x.numel()).reshape(x.shape)


def _apply(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    kwargs = {name: value for name, value in kwargs.items() if name not in _IGNORED}
    try:
        return func(*args, **kwargs)
    except ShareTorchError:
        raise
    except (RuntimeError, IndexError, ValueError) as error:
        raise ShapeError(f"{func}: {error}{user_line()}") from error


def pick(x: PaillierTensor, pool: list[Cell], places: Any) -> Any:
    """Tensors of the ciphertexts at these places, encoded like ``x``."""
    if isinstance(places, (list, tuple)):
        return type(places)(pick(x, pool, part) for part in places)
    cells = [pool[place] for place in places.reshape(-1).tolist()]
    like = torch.empty(places.shape, dtype=x.dtype, device="meta")
    return derived(x, like, cells, x.content.bound, x.content.scale)


@aten(
    _aten.view.default,
    _aten._unsafe_view.default,
    _aten.reshape.default,
    _aten.t.default,
    _aten.transpose.int,
    _aten.permute.default,
    _aten.expand.default,
    _aten.squeeze.default,
    _aten.squeeze.dim,
    _aten.squeeze.dims,
    _aten.unsqueeze.default,
    _aten.select.int,
    _aten.slice.Tensor,
    _aten.index.Tensor,
    _aten.index_select.default,
    _aten.gather.default,
    _aten.take.default,
    _aten.split.Tensor,
    _aten.split_with_sizes.default,
    _aten.unbind.int,
    _aten.repeat.default,
    _aten.flip.default,
    _aten.roll.default,
    _aten.diagonal.default,
    _aten.unfold.default,
    _aten.tril.default,
    _aten.triu.default,
)
def move(func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation that moves the elements of its first operand; all other operands are public."""
    if not isinstance(x, PaillierTensor) or holds_encrypted(args) or holds_encrypted(list(kwargs.values())):
        raise UnsupportedOperationError(
            f"{func} with an encrypted index has no form{user_line()}: which elements are touched would show. Use a "
            "public index."
        )
    places = _apply(func, (places_of(x), *args), kwargs)
    return pick(x, [ZERO, *x.content.cells], places)


@aten(_aten.squeeze_.default, _aten.squeeze_.dim, _aten.squeeze_.dims, _aten.unsqueeze_.default)
def resize(func: Any, x: PaillierTensor, *args: Any) -> PaillierTensor:
    """Drop or add dimensions of size 1 in place, as torch does inside its matrix products."""
    with torch.utils._mode_utils.no_dispatch():
        _apply(func, (x, *args), {})
    return x


@aten(_aten.constant_pad_nd.default)
def pad(func: Any, x: Any, padding: list[int], value: Any = 0) -> Any:
    """Pad with zeros."""
    if value != 0:
        raise UnsupportedOperationError(f"{func} pads encrypted tensors with 0 only{user_line()}, not with {value!r}.")
    return move(func, x, padding, 0)


@aten(_aten.cat.default, _aten.stack.default)
def join(func: Any, tensors: list[Any], *args: Any, **kwargs: Any) -> Any:
    """Encrypted tensors one after the other, brought to one unit."""
    encrypted = [x for x in tensors if isinstance(x, PaillierTensor)]
    if len(encrypted) != len(tensors):
        raise UnsupportedOperationError(
            f"{func} would join encrypted and plain tensors{user_line()}. Encrypt the plain ones first, under the "
            "same public key."
        )
    like = on_meta(func, (tensors, *args), kwargs)
    scale, unit = encrypted[0].content.scale, 1
    for x in encrypted:
        require_same_key(encrypted[0], x)
        scale, unit = scale.finer(x.content.scale), common_unit(unit, x.content.scale.unit)
    encrypted = [at_unit(x, unit) for x in encrypted]
    pool: list[Cell] = [ZERO]
    places = []
    for x in encrypted:
        places.append(places_of(x, len(pool)))
        pool.extend(x.content.cells)
    cells = [pool[place] for place in _apply(func, (places, *args), kwargs).reshape(-1).tolist()]
    bound = max(x.content.bound for x in encrypted)
    return derived(encrypted[0], like, cells, bound, scale.with_unit(unit))


@aten(
    _aten.detach.default, _aten.alias.default, _aten.clone.default, _aten.lift_fresh.default, _aten.contiguous.default
)
def same(func: Any, x: PaillierTensor, **kwargs: Any) -> PaillierTensor:
    """The same ciphertexts."""
    return PaillierTensor(x.content, x.shape, x.dtype)


@aten(_aten._to_copy.default)
def convert(func: Any, x: PaillierTensor, *, dtype: torch.dtype | None = None, **kwargs: Any) -> PaillierTensor:
    """Another logical dtype: integers to floats, or floats to floats."""
    wanted = x.dtype if dtype is None else dtype
    device = torch.device(kwargs.get("device") or "cpu")
    widening = wanted in (torch.float32, torch.float64) or wanted == x.dtype
    if not widening or device.type != "cpu":
        raise UnsupportedOperationError(
            f"An encrypted {x.dtype} tensor cannot become {wanted} on {device}{user_line()}: ciphertexts are integers "
            "on the CPU, and only the holder of the private key can round or cut off digits. Use float(), double() "
            "or decrypt first."
        )
    return PaillierTensor(x.content, x.shape, wanted)


@aten(_aten.im2col.default)
def patches(func: Any, x: Any, *args: Any) -> Any:
    """Sliding blocks, as of ``torch.nn.functional.unfold``."""
    if not isinstance(x, PaillierTensor):
        raise unsupported(func)
    return pick(x, [ZERO, *x.content.cells], patch_places(x, *args))


def patch_places(x: PaillierTensor, *args: Any) -> Tensor:
    """Places of the elements in sliding blocks; floating point holds them exactly up to 2^53."""
    blocks: Tensor = _apply(_aten.im2col.default, (places_of(x).double(), *args), {})
    return blocks.long()


def total(x: PaillierTensor, dims: list[int] | None, keepdim: bool, like: Tensor) -> PaillierTensor:
    """Sums over dimensions; ``like`` has the shape of the result."""
    axes = sorted({dim % x.dim() for dim in dims}) if dims and x.dim() else list(range(x.dim()))
    kept = [dim for dim in range(x.dim()) if dim not in axes]
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    rows = places_of(x, 0).permute([*kept, *axes]).reshape(like.numel(), count).tolist()
    key, cells = x.content.key, x.content.cells
    sums = [ciphertexts.total([cells[place] for place in row], key) for row in rows]
    return derived(x, like, sums, x.content.bound * count, x.content.scale)
