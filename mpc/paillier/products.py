"""Sums, means, matrix products and convolutions with public operands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import ShapeError, UnsupportedDtypeError, UnsupportedOperationError
from sharetorch.mpc.paillier import structure
from sharetorch.mpc.paillier.arithmetic import add, no_product
from sharetorch.mpc.paillier.ciphertexts import ZERO, Cell, Combination
from sharetorch.mpc.paillier.encoding import Operand, operand
from sharetorch.mpc.paillier.tensor import PaillierTensor, aten, derived, on_meta, require_room
from sharetorch.mpc.tensor.location import user_line

_aten = torch.ops.aten


@aten(_aten.sum.default, _aten.sum.dim_IntList)
def sum_over(
    func: Any, x: PaillierTensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> PaillierTensor:
    """Sums over some dimensions or all."""
    return _summed(func, x, dim, keepdim, dtype)


@aten(_aten.mean.default, _aten.mean.dim)
def mean_over(
    func: Any, x: PaillierTensor, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> PaillierTensor:
    """Means over some dimensions or all; exact, as the number of elements becomes part of the unit."""
    summed = _summed(func, x, dim, keepdim, dtype)
    if not summed.numel():
        return summed
    count = x.numel() // summed.numel()
    if not count:
        raise ShapeError(f"{func}: the mean of no elements is undefined{user_line()}.")
    scale = summed.content.scale
    return derived(summed, summed, summed.content.cells, summed.content.bound, scale.with_unit(scale.unit * count))


def _summed(func: Any, x: PaillierTensor, dim: Any, keepdim: bool, dtype: Any) -> PaillierTensor:
    x = x if dtype is None else x.to(dtype)  # type: ignore[assignment]
    dims = [dim] if isinstance(dim, int) else dim
    if x.dtype == torch.int64 and func in (_aten.mean.default, _aten.mean.dim):
        raise UnsupportedDtypeError(f"{func} of integers is no integer{user_line()}. Use x.float().mean().")
    like = on_meta(func, (x,) if func in (_aten.sum.default, _aten.mean.default) else (x, dims, keepdim), {})
    return structure.total(x, dims, keepdim, like)


class Factors:
    """The columns of a public matrix, prepared to be combined with many rows of ciphertexts.

    Attributes:
        unit: what stands for 1 in them.
        dtype: of the matrix.
        growth: largest sum of absolute values in a column, by which bounds grow.
        columns: the number of columns.
        combine: combinations of a row.
    """

    def __init__(self, matrix: Tensor, encoded: Operand) -> None:
        count, self.columns = matrix.shape
        columns = [encoded.integers[column :: self.columns] for column in range(self.columns)] if count else []
        self.unit = encoded.unit
        self.dtype = matrix.dtype
        self.growth = max((sum(map(abs, column)) for column in columns), default=0)
        self.combine = Combination(columns)


def combined(x: PaillierTensor, rows: Sequence[Sequence[Cell]], factors: Factors) -> list[list[Cell]]:
    """Every row of ciphertexts combined with every column of factors."""
    require_room(x.content.bound * factors.growth, x.content.key)
    if not rows or not rows[0] or not factors.columns:
        return [[ZERO] * factors.columns for _ in rows]
    return [factors.combine(row, x.content.key) for row in rows]


def _factors(x: PaillierTensor, matrix: Tensor) -> Factors:
    matrix = matrix.detach().contiguous()
    return Factors(matrix, operand(matrix, x.content.scale))


def _result(x: PaillierTensor, like: Tensor, cells: Sequence[Cell], factors: Factors) -> PaillierTensor:
    scale = x.content.scale
    like = torch.empty(like.shape, dtype=torch.promote_types(x.dtype, factors.dtype), device="meta")
    return derived(x, like, cells, x.content.bound * factors.growth, scale.with_unit(scale.unit * factors.unit))


def require_one_public(func: Any, x: Any, y: Any) -> None:
    """Raise if both operands of a product are encrypted.

    Raises:
        CiphertextProductError: they are.
    """
    if isinstance(x, PaillierTensor) and isinstance(y, PaillierTensor):
        raise no_product(func)


@aten(_aten.mm.default)
def matrix_product(func: Any, x: Any, y: Any) -> Any:
    """The matrix product of an encrypted and a public matrix, in either order."""
    require_one_public(func, x, y)
    like = on_meta(func, (x, y), {})
    if isinstance(y, PaillierTensor):
        return matrix_product(func, y.t(), x.t()).t()
    factors, (rows, length) = _factors(x, y), x.shape
    taken = [x.content.cells[row * length : (row + 1) * length] for row in range(rows)]
    cells = [cell for row in combined(x, taken, factors) for cell in row]
    return _result(x, like, cells, factors)


@aten(_aten.mv.default)
def matrix_vector(func: Any, x: Any, y: Any) -> Any:
    """A matrix times a vector."""
    require_one_public(func, x, y)
    on_meta(func, (x, y), {})
    return matrix_product(_aten.mm.default, x, y.unsqueeze(1)).squeeze(1)


@aten(_aten.dot.default, _aten.vdot.default)
def dot(func: Any, x: Any, y: Any) -> Any:
    """The inner product of two vectors."""
    require_one_public(func, x, y)
    on_meta(func, (x, y), {})
    return matrix_product(_aten.mm.default, x.unsqueeze(0), y.unsqueeze(1)).reshape(())


@aten(_aten.bmm.default)
def batch_product(func: Any, x: Any, y: Any) -> Any:
    """Matrix products of two stacks of matrices."""
    require_one_public(func, x, y)
    like = on_meta(func, (x, y), {})
    made = [matrix_product(_aten.mm.default, a, b) for a, b in zip(x.unbind(), y.unbind(), strict=True)]
    if made:
        return torch.stack(made)
    encrypted = x if isinstance(x, PaillierTensor) else y
    return derived(encrypted, like, [], 0, encrypted.content.scale)


def _in_type(x: PaillierTensor, like: Tensor) -> PaillierTensor:
    """Real numbers in the floating point type of ``like``."""
    real = x.dtype.is_floating_point and like.dtype.is_floating_point
    return PaillierTensor(x.content, x.shape, like.dtype if real else x.dtype)


def _plus_bias(like: Tensor, bias: Any, product: Any, beta: Any, alpha: Any) -> PaillierTensor:
    product = product if alpha == 1 else product * alpha
    if beta == 0:
        return product  # type: ignore[no-any-return]
    summed = add(_aten.add.Tensor, product, bias if beta == 1 else bias * beta)
    return _in_type(summed, like)


def _product(func: Any, x: Any, y: Any) -> Any:
    if isinstance(x, PaillierTensor) or isinstance(y, PaillierTensor):
        return func(x, y)
    return func(x.double(), y.double()) if x.dtype.is_floating_point else func(x, y)


@aten(_aten.addmm.default)
def add_matrix_product(func: Any, bias: Any, x: Any, y: Any, *, beta: Any = 1, alpha: Any = 1) -> PaillierTensor:
    """Beta bias + alpha x @ y."""
    like = on_meta(func, (bias, x, y), {"beta": beta, "alpha": alpha})
    return _plus_bias(like, bias, _product(_aten.mm.default, x, y), beta, alpha)


@aten(_aten.addmv.default)
def add_matrix_vector(func: Any, bias: Any, x: Any, y: Any, *, beta: Any = 1, alpha: Any = 1) -> PaillierTensor:
    """Beta bias + alpha x @ y for a vector y."""
    like = on_meta(func, (bias, x, y), {"beta": beta, "alpha": alpha})
    return _plus_bias(like, bias, _product(_aten.mv.default, x, y), beta, alpha)


@aten(_aten.baddbmm.default)
def add_batch_product(func: Any, bias: Any, x: Any, y: Any, *, beta: Any = 1, alpha: Any = 1) -> PaillierTensor:
    """Beta bias + alpha x @ y for stacks of matrices."""
    like = on_meta(func, (bias, x, y), {"beta": beta, "alpha": alpha})
    return _plus_bias(like, bias, _product(_aten.bmm.default, x, y), beta, alpha)


@aten(_aten.convolution.default)
def convolve(
    func: Any,
    x: Any,
    weight: Any,
    bias: Any,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> PaillierTensor:
    """Convolution of encrypted signals or images with a public kernel; the bias may be either.

    Raises:
        UnsupportedOperationError: the kernel is encrypted, or the convolution is transposed or has three dimensions.
    """
    like = on_meta(func, (x, weight, bias, stride, padding, dilation, transposed, output_padding, groups), {})
    if transposed or not isinstance(x, PaillierTensor) or isinstance(weight, PaillierTensor) or weight.dim() > 4:
        raise UnsupportedOperationError(
            f"{func} has a form for encrypted images or signals with a public kernel only, not transposed, in one or "
            f"two dimensions{user_line()}."
        )
    stride, padding, dilation = list(stride), list(padding), list(dilation)
    if weight.dim() == 3:
        stride, padding, dilation = [1, *stride], [0, *padding], [1, *dilation]
        x, weight = x.unsqueeze(2), weight.unsqueeze(2)
    places = structure.patch_places(x, list(weight.shape[2:]), dilation, padding, stride)
    product: PaillierTensor = _convolved(x, weight, places, groups, like)
    if bias is None:
        return product
    return _in_type(add(_aten.add.Tensor, product, bias.reshape(-1, *[1] * (like.dim() - 2))), like)


def _convolved(x: PaillierTensor, weight: Tensor, places: Tensor, groups: int, like: Tensor) -> Any:
    """Patches, shape (images, channels * kernel, positions), times kernels, group by group."""
    pool = [ZERO, *x.content.cells]
    parts = []
    for kernel, patch in zip(weight.chunk(groups), places.chunk(groups, 1), strict=True):
        factors = _factors(x, kernel.flatten(1).t())
        rows = [[pool[place] for place in row] for row in patch.transpose(1, 2).flatten(0, 1).tolist()]
        cells = [cell for row in combined(x, rows, factors) for cell in row]
        shape = (patch.shape[0], patch.shape[2], kernel.shape[0])
        parts.append(_result(x, torch.empty(shape, dtype=like.dtype, device="meta"), cells, factors))
    joined: Any = parts[0] if groups == 1 else torch.cat(parts, 2)  # type: ignore[arg-type]
    return joined.transpose(1, 2).reshape(like.shape)
