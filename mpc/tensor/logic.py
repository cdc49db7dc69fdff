"""Logic on bits. What is not known to hold bits is first compared with 0, as torch's logical functions do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import UnsupportedOperationError
from sharetorch.mpc.tensor.comparison import opposite
from sharetorch.mpc.tensor.location import user_line
from sharetorch.mpc.tensor.shared import SharedTensor, aten

_aten = torch.ops.aten


def bits_of(x: Any) -> Any:
    """[x != 0], as integers 0 and 1 if x is public."""
    if isinstance(x, SharedTensor):
        return x if x.bits else _aten.ne(x, 0)
    return (x != 0).to(torch.int64) if isinstance(x, Tensor) else int(bool(x))


def _only_bits(func: Any, x: Any) -> Any:
    """A bit, or an error: bitwise functions of numbers would need all their bits."""
    if isinstance(x, SharedTensor):
        known = x.bits
    else:
        known = isinstance(x, bool) or (isinstance(x, Tensor) and x.dtype == torch.bool)
    if not known:
        raise UnsupportedOperationError(
            f"{func} of numbers has no secure form{user_line()}; it works on results of comparisons and shared "
            "booleans. Use logical_and, logical_or, logical_not, or compare with 0 first."
        )
    return bits_of(x)


def _known(x: Any) -> Any:
    x.bits = True
    return x


@aten(_aten.logical_not.default)
def logical_not(func: Any, x: SharedTensor) -> Any:
    """[x = 0]."""
    return opposite(x) if x.bits else _aten.eq(x, 0)


@aten(_aten.bitwise_not.default)
def bitwise_not(func: Any, x: SharedTensor) -> Any:
    """1 - x for bits."""
    return opposite(_only_bits(func, x))


def _conjunction(x: Any, y: Any) -> Any:
    return _known(x * y)


def _disjunction(x: Any, y: Any) -> Any:
    return _known(x + y - x * y)


def _exclusion(x: Any, y: Any) -> Any:
    return _known(x + y - 2 * (x * y))


@aten(_aten.logical_and.default)
def logical_and(func: Any, x: Any, y: Any) -> Any:
    """x * y for bits."""
    return _conjunction(bits_of(x), bits_of(y))


@aten(_aten.bitwise_and.Tensor, _aten.bitwise_and.Scalar)
def bitwise_and(func: Any, x: Any, y: Any) -> Any:
    """x * y for bits."""
    return _conjunction(_only_bits(func, x), _only_bits(func, y))


@aten(_aten.logical_or.default)
def logical_or(func: Any, x: Any, y: Any) -> Any:
    """x + y - x y for bits."""
    return _disjunction(bits_of(x), bits_of(y))


@aten(_aten.bitwise_or.Tensor, _aten.bitwise_or.Scalar)
def bitwise_or(func: Any, x: Any, y: Any) -> Any:
    """x + y - x y for bits."""
    return _disjunction(_only_bits(func, x), _only_bits(func, y))


@aten(_aten.logical_xor.default)
def logical_xor(func: Any, x: Any, y: Any) -> Any:
    """x + y - 2 x y for bits."""
    return _exclusion(bits_of(x), bits_of(y))


@aten(_aten.bitwise_xor.Tensor, _aten.bitwise_xor.Scalar)
def bitwise_xor(func: Any, x: Any, y: Any) -> Any:
    """x + y - 2 x y for bits."""
    return _exclusion(_only_bits(func, x), _only_bits(func, y))


@aten(_aten.any.default, _aten.any.dim, _aten.any.dims)
def any_of(func: Any, x: SharedTensor, dim: Any = None, keepdim: bool = False) -> Any:
    """Whether some element differs from 0."""
    return _aten.gt(_count(bits_of(x), dim, keepdim), 0)


@aten(_aten.all.default, _aten.all.dim, _aten.all.dims)
def all_of(func: Any, x: SharedTensor, dim: Any = None, keepdim: bool = False) -> Any:
    """Whether no element is 0."""
    return _aten.eq(_count(opposite(bits_of(x)), dim, keepdim), 0)


@aten(_aten.count_nonzero.default, _aten.count_nonzero.dim_IntList)
def count_nonzero(func: Any, x: SharedTensor, dim: Any = None) -> Any:
    """How many elements differ from 0."""
    return _count(bits_of(x), dim, False)


def _count(bits: Any, dim: Any, keepdim: bool) -> Any:
    dims = list(range(bits.dim())) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    return _aten.sum(bits, dims, keepdim)
