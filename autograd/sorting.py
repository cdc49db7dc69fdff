"""Order along a dimension: sorted elements, the first of them, single ranks; and numbers of public buckets.

Equal elements come in any order, unless ``stable`` is asked for; values are exact either way. Gradients go back along
the exchanges of the forward pass.
"""

from __future__ import annotations

from typing import Any

import torch

from sharetorch.autograd.engine import apply
from sharetorch.autograd.extremes import Extreme
from sharetorch.mpc.errors import RevealError, ShapeError, UnsupportedOperationError
from sharetorch.mpc.fixedpoint import encode, fixed
from sharetorch.mpc.tensor import comparison
from sharetorch.mpc.tensor.comparison import truth
from sharetorch.mpc.tensor.location import user_line
from sharetorch.mpc.tensor.shared import SharedTensor, rule
from sharetorch.mpc.tensor.structural import on_shadows

_aten = torch.ops.aten


class _Sort(torch.autograd.Function):
    """Elements of ranks start, ..., stop - 1 over dimension 0, and their indices."""

    @staticmethod
    def forward(
        ctx: Any, x: SharedTensor, start: int, stop: int, ordered: bool, stable: bool
    ) -> tuple[SharedTensor, SharedTensor]:
        value, index, trail = comparison.sort(x, start, stop, ordered=ordered, stable=stable)
        ctx.save_for_backward(trail)
        ctx.size, ctx.start, ctx.ordered = x.shape[0], start, ordered
        ctx.mark_non_differentiable(index)
        return value, index

    @staticmethod
    def backward(ctx: Any, gradient: Any, _: Any) -> Any:
        (trail,) = ctx.saved_tensors
        back = comparison.unsort(gradient, trail, ctx.size, ctx.start, ordered=ctx.ordered)
        return back, None, None, None, None


def _ranks(
    x: Any, dim: int, start: int, stop: int, *, descending: bool = False, ordered: bool = True, stable: bool = False
) -> Extreme:
    """Elements of these ranks along a dimension, the largest first if descending, with their indices."""
    if x.dim() == 0:
        only = _ranks(x.reshape(1), 0, start, stop)
        return Extreme(only.values.reshape(()), only.indices.reshape(()))
    rows = x.movedim(dim, 0)
    values, indices = apply(_Sort, -rows if descending else rows, start, stop, ordered, stable)
    values = -values if descending else values
    return Extreme(values.movedim(0, dim), truth(indices.movedim(0, dim), x))


def _length(x: Any, dim: int) -> int:
    """Elements along a dimension; a number has one."""
    if not -max(x.dim(), 1) <= dim < max(x.dim(), 1):
        raise ShapeError(f"Shape {tuple(x.shape)} has no dimension {dim}{user_line()}.")
    return int(x.shape[dim]) if x.dim() else 1


@rule(torch.sort, torch.Tensor.sort)
def sort(input: Any, dim: int = -1, descending: bool = False, *, stable: bool | None = False) -> Extreme:
    """All elements in order along a dimension, and their indices.

    Args:
        input: shared numbers whose differences are below 2^62 as integers.
        dim: along which.
        descending: whether the largest comes first.
        stable: whether equal elements keep their order. Differences must be below 2^61 / (n | 1) then, as integers,
            for n elements along the dimension.
    """
    return _ranks(input, dim, 0, _length(input, dim), descending=descending, stable=bool(stable))


@rule(torch.msort, torch.Tensor.msort)
def sort_rows(input: Any) -> Any:
    """All elements in ascending order along dimension 0."""
    return sort(input, 0).values


@rule(torch.argsort, torch.Tensor.argsort)
def argsort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """Indices that sort along a dimension."""
    with torch.no_grad():
        return sort(input.detach(), dim, descending, stable=stable).indices


@rule(torch.topk, torch.Tensor.topk)
def topk(input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Extreme:
    """The k largest or smallest elements along a dimension, in order unless not ``sorted``, and their indices."""
    on_shadows(_aten.topk.default, (input, k, dim, largest, sorted), {})
    return _ranks(input, dim, 0, k, descending=largest, ordered=sorted)


def _rank(x: Any, rank: int, dim: int, keepdim: bool) -> Extreme:
    found = _ranks(x, dim, rank, rank + 1)
    return found if keepdim or x.dim() == 0 else Extreme(found.values.squeeze(dim), found.indices.squeeze(dim))


@rule(torch.kthvalue, torch.Tensor.kthvalue)
def kthvalue(input: Any, k: int, dim: int = -1, keepdim: bool = False) -> Extreme:
    """The k-th smallest element along a dimension, k from 1, and its index."""
    on_shadows(_aten.kthvalue.default, (input, k, dim, keepdim), {})
    return _rank(input, k - 1, dim, keepdim)


@rule(torch.median, torch.Tensor.median, torch.nanmedian, torch.Tensor.nanmedian)
def median(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The median of all elements, or medians along a dimension with indices; the smaller of two in the middle."""
    if input.numel() == 0 or (dim is not None and _length(input, dim) == 0):
        raise ShapeError(f"The median of no elements, shape {tuple(input.shape)}, does not exist{user_line()}.")
    if dim is None:
        return _rank(input.reshape(-1), (input.numel() - 1) // 2, 0, False).values
    return _rank(input, (_length(input, dim) - 1) // 2, dim, keepdim)


@rule(torch.bucketize)
def bucketize(input: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    """Numbers of the buckets between public boundaries: how many boundaries are below x, or not above it if ``right``.

    All boundaries are compared from one opening where the protocol can. x and boundaries compare as encoded, as in
    x > boundary.

    Args:
        input: shared numbers.
        boundaries: public, ascending, of one dimension.
        out_int32: must be False; results are shared 64-bit integers.
        right: whether an element equal to a boundary lies above it.

    Raises:
        RevealError: the boundaries are shared.
        ShapeError: they are not of one dimension, or not ascending.
    """
    if out_int32:
        raise UnsupportedOperationError(f"Shared integers have 64 bits{user_line()}; use them without out_int32=True.")
    if isinstance(boundaries, SharedTensor):
        raise RevealError(
            f"Shared boundaries cannot be searched{user_line()}: thresholds are public. Open them with "
            "boundaries.get() if they may be seen, or add up comparisons: (x.unsqueeze(-1) > boundaries).sum(-1)."
        )
    if boundaries.dim() != 1 or bool((boundaries[1:] < boundaries[:-1]).any()):
        raise ShapeError(
            f"Boundaries of shape {tuple(boundaries.shape)} are not ascending in one dimension{user_line()}; sort "
            "them, and search rows with boundaries of their own one by one."
        )
    with torch.no_grad():
        x = input.detach()
        return truth(comparison.bucketize(x, _thresholds(x, boundaries, right)), x)


def _thresholds(x: SharedTensor, boundaries: torch.Tensor, right: bool) -> torch.Tensor:
    """The smallest integer in the encoding of x that lies above each boundary, or on it if ``right``."""
    if x.encoding.integer and boundaries.dtype.is_floating_point:
        boundaries = encode((boundaries.ceil() if right else boundaries.floor()).double(), fixed(0))
    else:
        boundaries = encode(boundaries, x.encoding)
    return boundaries if right else boundaries + 1


@rule(torch.searchsorted)
def searchsorted(
    sorted_sequence: Any,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Any:
    """``bucketize`` with its operands in the other order, a name for the side, and boundaries in a public order."""
    if side is not None:
        if side not in ("left", "right") or (right and side == "left"):
            raise ShapeError(f"side={side!r} with right={right}{user_line()}: give side='left' or side='right' alone.")
        right = side == "right"
    if sorter is not None:
        sorted_sequence = sorted_sequence[sorter]
    return bucketize(input, sorted_sequence, out_int32=out_int32, right=right)
