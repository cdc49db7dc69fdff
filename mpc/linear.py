"""Local operations: PyTorch functions that are linear over the integers, applied by every member to its own share.

Only the functions listed here can be named in a command. *Views* share storage with their operand, as in PyTorch; all
others give fresh storage. Operands stand in the arguments as ``Slot``s; everything else is public.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sharetorch.mpc.errors import UnsupportedOperationError
from sharetorch.mpc.protocols.bilinear import Geometry, patches, scatter_patches

_aten = torch.ops.aten


@dataclass(frozen=True)
class Slot:
    """Place of an operand in the arguments of a local operation."""

    number: int


VIEWS: frozenset[str] = frozenset(
    str(op)
    for op in (
        _aten.view.default,
        _aten.t.default,
        _aten.transpose.int,
        _aten.permute.default,
        _aten.expand.default,
        _aten.squeeze.default,
        _aten.squeeze.dim,
        _aten.squeeze.dims,
        _aten.unsqueeze.default,
        _aten.slice.Tensor,
        _aten.select.int,
        _aten.split.Tensor,
        _aten.split_with_sizes.default,
        _aten.unbind.int,
        _aten.diagonal.default,
        _aten.as_strided.default,
        _aten.unfold.default,
        _aten.alias.default,
        _aten.detach.default,
        _aten._reshape_alias.default,
    )
)

_COPIES: frozenset[str] = frozenset(
    str(op)
    for op in (
        _aten.clone.default,
        _aten._unsafe_view.default,
        _aten.add.Tensor,
        _aten.sub.Tensor,
        _aten.neg.default,
        _aten.sum.default,
        _aten.sum.dim_IntList,
        _aten.cumsum.default,
        _aten.flip.default,
        _aten.roll.default,
        _aten.constant_pad_nd.default,
        _aten.cat.default,
        _aten.stack.default,
        _aten.index.Tensor,
        _aten.index_select.default,
        _aten.gather.default,
        _aten.index_put.default,
        _aten.index_add.default,
        _aten.index_copy.default,
        _aten.scatter.src,
        _aten.scatter_add.default,
        _aten.select_scatter.default,
        _aten.slice_scatter.default,
        _aten.diagonal_scatter.default,
        _aten.as_strided_scatter.default,
        _aten.select_backward.default,
        _aten.slice_backward.default,
        _aten.diagonal_backward.default,
        _aten.unfold_backward.default,
        _aten.tril.default,
        _aten.triu.default,
        _aten.trace.default,
        _aten.repeat.default,
        _aten.where.self,
        _aten.diag_embed.default,
        _aten.rot90.default,
        _aten.diagonal_copy.default,
        _aten.pixel_shuffle.default,
        _aten.pixel_unshuffle.default,
    )
)

FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""Every local operation by the name commands use."""


class Window:
    """A local operation of our own: gathering pooling windows, or adding them back."""

    def __init__(self, name: str, function: Callable[[Tensor, Geometry], Tensor]) -> None:
        self._name = name
        self._function = function

    def __str__(self) -> str:
        return self._name

    def __call__(self, x: Tensor, geometry: Geometry) -> Tensor:
        """Gather or scatter."""
        return self._function(x, geometry)


def _gather_windows(x: Tensor, g: Geometry) -> Tensor:
    """(batch, channels, *space) -> (taps, batch, channels, *positions)."""
    taps = torch.Size(g.window).numel()
    gathered = patches(x, g).reshape(g.groups, taps, g.image[0], *g.space)
    return gathered.permute(1, 2, 0, *range(3, gathered.dim()))


def _scatter_windows(windows: Tensor, g: Geometry) -> Tensor:
    """The transpose of gathering."""
    columns = windows.permute(2, 0, 1, *range(3, windows.dim()))
    return scatter_patches(columns.reshape(g.groups, windows.shape[0], -1), g, g.image[0])


GATHER_WINDOWS = Window("gather_windows", _gather_windows)
SCATTER_WINDOWS = Window("scatter_windows", _scatter_windows)


def indexed_shape(x: Sequence[int], index: Sequence[int]) -> tuple[int, ...]:
    """Shape of rows of a tensor by one index of places, from both shapes."""
    return (*index, *x[1:])


def summed_shape(x: Sequence[int], dims: Sequence[int] | None, keepdim: bool) -> tuple[int, ...] | None:
    """Shape of sums of a tensor over these dimensions, over all if there are none; None if torch refuses them."""
    count = len(x)
    if any(not -count <= dim < count for dim in dims or ()):
        return None
    gone = {dim % count for dim in dims} if dims else set(range(count))
    if dims and len(gone) != len(dims):
        return None
    return tuple(1 if dim in gone else size for dim, size in enumerate(x) if keepdim or dim not in gone)


def _index(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """``aten.index``; rows by one index are copied whole, as numpy does it, and not element by element."""
    first = indices[0]
    if first is None or len(indices) > 1 or first.dtype != torch.int64 or x.dim() == 0:
        return torch.as_tensor(_aten.index.Tensor(x, indices))
    if x.is_meta:
        return torch.empty(indexed_shape(x.shape, first.shape), dtype=x.dtype, device="meta")
    if x.device.type != "cpu" or first.device.type != "cpu":
        return torch.as_tensor(_aten.index.Tensor(x, indices))
    return torch.from_numpy(np.asarray(x.numpy()[first.numpy()]))


def _sum(x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, **options: Any) -> Tensor:
    """``aten.sum`` over some dimensions; of shapes alone without asking torch, which takes its time."""
    shape = summed_shape(x.shape, dims, keepdim) if x.is_meta and not options else None
    if shape is None:
        return torch.as_tensor(_aten.sum.dim_IntList(x, dims, keepdim, **options))
    return torch.empty(shape, dtype=x.dtype, device="meta")


def _register() -> None:
    for name in VIEWS | _COPIES:
        _, packet, overload = name.split(".")
        FUNCTIONS[name] = getattr(getattr(_aten, packet), overload)
    FUNCTIONS.update({str(window): window for window in (GATHER_WINDOWS, SCATTER_WINDOWS)})
    FUNCTIONS.update({str(_aten.index.Tensor): _index, str(_aten.sum.default): _sum, str(_aten.sum.dim_IntList): _sum})


_register()


def is_linear(name: str) -> bool:
    """Whether a function may be applied to each share by itself."""
    return name in FUNCTIONS


def bind(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Callable[..., Any]:
    """The function with its public arguments, waiting for the operands' elements.

    Raises:
        UnsupportedOperationError: the name is not in the table.
    """
    if name not in FUNCTIONS:
        raise UnsupportedOperationError(f"{name!r} is no local operation of shared tensors.")
    function = FUNCTIONS[name]

    def apply(*operands: Tensor) -> Any:
        device = operands[0].device
        filled = [_fill(arg, operands, device) for arg in args]
        return function(*filled, **{key: _fill(value, operands, device) for key, value in kwargs.items()})

    return apply


def _fill(arg: Any, operands: Sequence[Tensor], device: torch.device) -> Any:
    if isinstance(arg, Slot):
        return operands[arg.number]
    if isinstance(arg, Tensor):
        return arg.to(device) if arg.device != device else arg
    if isinstance(arg, (list, tuple)):
        return type(arg)(_fill(part, operands, device) for part in arg)
    return arg
