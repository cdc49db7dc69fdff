"""Sums and products of shared tensors, with plain tensors and Python numbers too.

Scales: a sum takes the larger scale of its operands. A product has the sum of both scales and is truncated to the
larger one of its operands. A small public factor keeps its digits where the encoding has spare ones, which saves the
truncation for powers of two and keeps small gradients accurate.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.errors import EncodingRangeError
from sharetorch.mpc.fixedpoint import INTEGERS, Encoding, Factor, encode, encode_integers, factor, fixed
from sharetorch.mpc.linear import Slot
from sharetorch.mpc.protocols.bilinear import BilinearMap, Product
from sharetorch.mpc.tensor import pending
from sharetorch.mpc.tensor.constants import constant, known
from sharetorch.mpc.tensor.encodings import collocated, common, result_encoding, to_encoding, truncate_to
from sharetorch.mpc.tensor.location import user_line
from sharetorch.mpc.tensor.shared import Handle, SharedTensor, aten, fresh_shadow
from sharetorch.mpc.tensor.structural import apply_local, on_shadows

_aten = torch.ops.aten
_PRODUCT = Product()
_SLOT = Slot(0)
_DEBUG_BITS = 62
_LARGEST_FACTOR = 1 << 62


class Debug:
    """Whether products are checked for their range, set by ``st.debug()``."""

    enabled = False


def make(session: Any, number: int, encoding: Encoding, like: Tensor) -> SharedTensor:
    """A result of the shape of ``like``; dtype follows the encoding."""
    if encoding.integer:
        dtype = torch.int64
    else:
        dtype = like.dtype if like.dtype.is_floating_point else torch.get_default_dtype()
    if like.dtype != dtype or not like.is_meta or not like.is_contiguous() or like.storage_offset():
        like = torch.empty(like.shape, dtype=dtype, device="meta")
    return SharedTensor(Handle(session, number, encoding), like)


def is_scalar(value: Any) -> bool:
    """Whether a public operand is one number."""
    return isinstance(value, (int, float)) or (
        isinstance(value, Tensor) and not isinstance(value, SharedTensor) and value.dim() == 0
    )


# ---------------------------------------------------------------------------------------------------------------- sums


@aten(_aten.add.Tensor, _aten.add.Scalar)
def add(func: Any, x: Any, y: Any, alpha: Any = 1) -> SharedTensor:
    """x + alpha * y."""
    return _nominal(weighted_sum(func, x, y, alpha))


def _nominal(x: SharedTensor) -> SharedTensor:
    """Without digits beyond those a tensor may carry."""
    return x if x.encoding.integer else truncate_to(x, x.encoding.precision + x.encoding.spare_digits)


def weighted_sum(func: Any, x: Any, y: Any, alpha: Any) -> SharedTensor:
    """x + alpha * y with the digits of alpha, to be truncated once by the caller."""
    shadow = on_shadows(func, (x, y), {"alpha": alpha} if alpha != 1 else {})
    if isinstance(x, SharedTensor) and isinstance(y, SharedTensor):
        (x, y), (a, b), encoding = combination(x, y, alpha)
        (number,) = x.session.command("combine", x.handle.number, y.handle.number, a=a, b=b)
        return make(x.session, number, encoding, shadow)
    y = y if alpha == 1 else y * alpha
    return _add_public(x, y, shadow) if isinstance(x, SharedTensor) else _add_public(y, x, shadow)


class Combination(NamedTuple):
    """A sum of shared tensors times public integers, still to be computed, and its encoding."""

    operands: tuple[SharedTensor, ...]
    factors: tuple[int, ...]
    encoding: Encoding


def combination(x: SharedTensor, y: SharedTensor, alpha: Any) -> Combination:
    """x + alpha * y; up to ``Encoding.sum_digits`` digits, so that values of at least 2^22 fit."""
    collocated(x, y)
    both = common([x.encoding, y.encoding])
    whole = float(alpha).is_integer()
    if not whole and (both.integer or both.base != 2):
        return combination(x, scale(y, alpha), 1)
    x, y = (_real_like(operand, both) for operand in (x, y))
    by = Factor(int(alpha), 0) if whole else factor(float(alpha), both, both.sum_digits - y.encoding.scale)
    target = max(x.encoding.scale, y.encoding.scale + by.digits)
    left, right = (both.base ** (target - digits) for digits in (x.encoding.scale, y.encoding.scale + by.digits))
    check_factor(by.mantissa * right)
    return Combination((x, y), (left, by.mantissa * right), both.at_scale(target))


def multiple(x: SharedTensor, value: Any) -> Combination:
    """x, which holds reals, times a public number, with all digits of the product."""
    by = factor(float(value), x.encoding)
    check_factor(by.mantissa)
    return Combination((x,), (by.mantissa,), x.encoding.at_scale(x.encoding.scale + by.digits))


def _real_like(x: SharedTensor, encoding: Encoding) -> SharedTensor:
    """Integers that are to be added to reals, as reals."""
    return to_encoding(x, encoding) if x.encoding.integer and not encoding.integer else x


@aten(_aten.sub.Tensor, _aten.sub.Scalar)
def subtract(func: Any, x: Any, y: Any, alpha: Any = 1) -> SharedTensor:
    """x - alpha * y."""
    if isinstance(x, SharedTensor) and isinstance(y, SharedTensor):
        return _nominal(weighted_sum(func, x, y, -alpha))
    shadow = on_shadows(func, (x, y), {"alpha": alpha} if alpha != 1 else {})
    if alpha != 1:
        y = y * alpha
    if not isinstance(y, SharedTensor):
        return _add_public(x, -y, shadow)
    return _add_public(negate(_aten.neg.default, y), x, shadow)


@aten(_aten.rsub.Scalar, _aten.rsub.Tensor)
def reversed_subtract(func: Any, x: SharedTensor, y: Any, alpha: Any = 1) -> Any:
    """y - alpha * x."""
    if isinstance(y, SharedTensor):
        return subtract(_aten.sub.Tensor, y, x, alpha)
    shadow = on_shadows(func, (x, y), {} if alpha == 1 else {"alpha": alpha})
    return _add_public(negate(_aten.neg.default, x if alpha == 1 else x * alpha), y, shadow)


@aten(_aten.neg.default)
def negate(func: Any, x: SharedTensor) -> SharedTensor:
    """-x."""
    held = known(x)
    if held is not None:
        return constant(-held, x.shadow, x)
    (number,) = x.session.command("negate", x.handle.number)
    return make(x.session, number, x.encoding, x.shadow)


def _add_public(x: SharedTensor, y: Any, shadow: Tensor) -> SharedTensor:
    plain = y if isinstance(y, Tensor) else torch.tensor(y)
    if plain.dtype.is_floating_point and x.encoding.integer:
        x = to_encoding(x, fixed())
    (number,) = x.session.command("add_public", x.handle.number, values=encode(plain, x.encoding))
    return make(x.session, number, x.encoding, shadow)


def _converted(x: SharedTensor, dtype: Any) -> SharedTensor:
    """The operand in the dtype asked for, or an error if it cannot be."""
    return x if dtype is None or dtype == x.dtype else _aten._to_copy(x, dtype=dtype)


@aten(_aten.sum.default, _aten.sum.dim_IntList)
def total(func: Any, x: SharedTensor, *args: Any, dtype: Any = None) -> SharedTensor:
    """Sum over all or some dimensions."""
    return apply_local(func, _converted(x, dtype), *args)  # type: ignore[no-any-return]


@aten(_aten.nansum.default)
def total_without_nan(func: Any, x: SharedTensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """The sum, since nothing shared is NaN."""
    return apply_local(_aten.sum.dim_IntList, x, dim, keepdim)


@aten(_aten.cumsum.default)
def cumulative(func: Any, x: SharedTensor, dim: int, dtype: Any = None) -> SharedTensor:
    """Cumulative sum along a dimension."""
    return apply_local(func, _converted(x, dtype), dim)  # type: ignore[no-any-return]


@aten(_aten.mean.default, _aten.mean.dim)
def mean(func: Any, x: SharedTensor, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> SharedTensor:
    """Mean over all or some dimensions: a sum and a public factor."""
    x = _converted(x, dtype)
    if dim is None or len(dim) == 0:
        summed, count = apply_local(_aten.sum.default, x), x.numel()
    else:
        summed, count = apply_local(_aten.sum.dim_IntList, x, dim, keepdim), math.prod(x.shape[d] for d in dim)
    real = to_encoding(summed, fixed()) if summed.encoding.integer else summed
    return scale(real, 1 / count if count else math.nan)


# ------------------------------------------------------------------------------------------------------------ products


@aten(_aten.mul.Tensor, _aten.mul.Scalar)
def multiply(func: Any, x: Any, y: Any) -> SharedTensor:
    """x * y elementwise, with broadcasting."""
    if not isinstance(x, SharedTensor):
        x, y = y, x
    if is_scalar(y):
        shadow = on_shadows(func, (x, y), {})
        return typed(scale(x, y), shadow)
    shadow = on_shadows(_aten.mul.Tensor, (x, y), {})
    for one, other in ((x, y), (y, x)):
        value = known(other)
        if value is not None and isinstance(one, SharedTensor) and one.shape == shadow.shape:
            return typed(scale(one, value), shadow)
    return product(_PRODUCT, x, y, shadow)


def typed(x: SharedTensor, shadow: Tensor) -> SharedTensor:
    """The tensor with the dtype PyTorch would give, where the encoding allows it."""
    if x.dtype == shadow.dtype or x.encoding.integer or not shadow.dtype.is_floating_point:
        return x
    return SharedTensor(x.handle, torch.empty(x.shape, dtype=shadow.dtype, device="meta"))


def scale(x: SharedTensor, value: Any) -> SharedTensor:
    """x times a public number: no round for integers, and for powers of two within the spare digits."""
    number = value.item() if isinstance(value, Tensor) else value
    held = known(x)
    if held is not None:
        return constant(held * number, x.shadow, x)
    if isinstance(number, int):
        return _scaled(x, Factor(int(number), 0), x.encoding)
    if x.encoding.integer:
        return _scaled(x, _real_factor(number), fixed())
    by = factor(number, x.encoding)
    carried = x.encoding.scale + by.digits
    result = _scaled(x, by, x.encoding.at_scale(carried))
    kept = x.encoding.scale + (_shrink(number) if by.digits else 0)
    return truncate_to(result, max(x.encoding.scale, min(kept, x.encoding.precision + x.encoding.spare_digits)))


def _real_factor(value: float) -> Factor:
    """A factor at exactly the nominal digits, which makes reals of integers."""
    return Factor(int(encode(torch.tensor(value, dtype=torch.float64), fixed())), fixed().precision)


def _shrink(value: float) -> int:
    """Binary digits by which a factor makes numbers smaller."""
    return max(0, -math.frexp(value)[1] + (1 if abs(math.frexp(value)[0]) == 0.5 else 0)) if value else 0


def _scaled(x: SharedTensor, by: Factor, encoding: Encoding) -> SharedTensor:
    if by.mantissa == 1 and x.encoding.integer == encoding.integer:
        return SharedTensor(_shared_handle(x, encoding), x.shadow.contiguous())
    check_factor(by.mantissa)
    (number,) = x.session.command("scale", x.handle.number, values=torch.tensor(by.mantissa))
    return make(x.session, number, encoding, x.shadow)


def check_factor(factor: int) -> None:
    """Raise ``EncodingRangeError`` if a public factor does not fit the ring."""
    if abs(factor) >= _LARGEST_FACTOR:
        raise EncodingRangeError(
            f"The factor {factor} is outside the range of the ring (below 2^62){user_line()}; scale the data instead."
        )


def _shared_handle(x: SharedTensor, encoding: Encoding) -> Handle:
    """A handle of its own on a copy of the same shares, read in another encoding."""
    (number,) = x.session.command("local", x.handle.number, function=str(_aten.clone.default), args=(_SLOT,), kwargs={})
    return Handle(x.session, number, encoding)


def product(function: BilinearMap, x: Any, y: Any, shadow: Tensor) -> SharedTensor:
    """f(x, y) for two operands of which one may be public, truncated."""
    if isinstance(x, SharedTensor) and isinstance(y, SharedTensor):
        return _private_product(function, x, y, shadow)
    if isinstance(x, SharedTensor):
        return _public_product(function, x, y, shadow, public_first=False)
    return _public_product(function, y, x, shadow, public_first=True)


def layer_product(function: BilinearMap, x: Any, y: Any, shadow: Tensor, bias: Any = None) -> Any:
    """f(x, y) + bias, as layers of networks compute it: waits for the ReLU that often follows (``pending``).

    Args:
        function: the map.
        x: its first operand.
        y: its second operand.
        shadow: shape and dtype of the result.
        bias: broadcast to the result, or None.
    """
    planned = None
    if isinstance(x, SharedTensor) and isinstance(y, SharedTensor) and not Debug.enabled:
        collocated(x, y)
        planned = _plan(x, y)
    if planned is None or planned.divisor == 1 or planned.encoding.truncation != "probabilistic":
        made = product(function, x, y, shadow)
        return made if bias is None else made + bias
    fits = isinstance(bias, SharedTensor) and bias.encoding == planned.encoding
    if fits:
        collocated(x, bias)
    operands = (*planned.operands, bias) if fits else planned.operands
    waits = pending.Product(function, operands, planned.divisor, planned.encoding.truncation)
    made = SharedTensor(pending.PendingHandle(waits, planned.encoding), fresh_shadow(shadow))
    return made if fits or bias is None else made + bias


def gradient_product(function: BilinearMap, x: Any, y: Any, shadow: Tensor) -> SharedTensor:
    """f(x, y), truncated, that waits until somebody needs it: the gradient of weights (``pending.Gradient``)."""
    if not isinstance(x, SharedTensor) or not isinstance(y, SharedTensor) or Debug.enabled:
        return product(function, x, y, shadow)
    session = collocated(x, y)
    planned = _plan(x, y)
    halves = planned.encoding.base == 2 and planned.encoding.truncation == "probabilistic"
    if not halves or planned.divisor == 1 or session.provider is None or session.debug:
        return product(function, x, y, shadow)
    waits = pending.Gradient(function, planned.operands, planned.divisor)
    return SharedTensor(pending.PendingHandle(waits, planned.encoding), fresh_shadow(shadow))


class _Plan(NamedTuple):
    """A product of shared tensors, still to be computed: operands, encoding of the result, divisor."""

    operands: tuple[SharedTensor, SharedTensor]
    encoding: Encoding
    divisor: int


def _plan(x: SharedTensor, y: SharedTensor) -> _Plan:
    x, y = _with_headroom(x, y)
    whole = result_encoding(x.encoding, y.encoding)
    kept = max(x.encoding.scale, y.encoding.scale)
    return _Plan((x, y), whole.at_scale(kept), whole.base ** (whole.scale - kept))


def _private_product(function: BilinearMap, x: SharedTensor, y: SharedTensor, shadow: Tensor) -> SharedTensor:
    session = collocated(x, y)
    (x, y), encoding, divisor = _plan(x, y)
    if Debug.enabled:
        whole = result_encoding(x.encoding, y.encoding)
        (number,) = session.command("bilinear", x.handle.number, y.handle.number, function=function)
        return _truncated(make(session, number, whole, shadow), encoding.scale)
    (number,) = session.command(
        "bilinear",
        x.handle.number,
        y.handle.number,
        function=function,
        divisor=divisor,
        method=encoding.truncation,
    )
    return make(session, number, encoding, shadow)


def _with_headroom(x: SharedTensor, y: SharedTensor) -> tuple[SharedTensor, SharedTensor]:
    """Drop spare digits if the product leaves too few bits for its value: of y first, since x may be a gradient."""
    both = common([x.encoding, y.encoding])
    most = 2 * both.precision + both.spare_digits
    if not both.integer and x.encoding.scale + y.encoding.scale > most:
        y = truncate_to(y, both.precision)
        x = truncate_to(x, most - y.encoding.scale)
    return x, y


def _truncated(x: SharedTensor, scale: int) -> SharedTensor:
    if Debug.enabled:
        (number,) = x.session.command("check_range", x.handle.number, limit_bits=_DEBUG_BITS)
        x.session.free(number)
    return x if x.encoding.integer else truncate_to(x, scale)


def _public_product(
    function: BilinearMap, x: SharedTensor, y: Any, shadow: Tensor, *, public_first: bool
) -> SharedTensor:
    values, digits, encoding = _public_operand(y if isinstance(y, Tensor) else torch.tensor(y), x.encoding)
    (number,) = x.session.command(
        "public_bilinear", x.handle.number, function=function, values=values, public_first=public_first
    )
    result = make(x.session, number, encoding, shadow)
    return _truncated(result, x.encoding.scale if not x.encoding.integer else digits)


def _public_operand(y: Tensor, encoding: Encoding) -> tuple[Tensor, int, Encoding]:
    """Integers for a public tensor, the digits they carry, and the encoding of the product."""
    y = y.detach()
    if not y.dtype.is_floating_point:
        return encode_integers(y), 0, encoding
    real = fixed() if encoding.integer else encoding
    if not encoding.integer and y.numel() and bool(torch.equal(y, y.round())) and float(y.abs().max()) < 2**20:
        return y.to(torch.int64), 0, encoding
    return (
        encode(y, real.at_scale(real.precision)),
        real.precision,
        real.at_scale(real.precision + (0 if encoding.integer else encoding.scale)),
    )


@aten(_aten.addcmul.default)
def add_product(func: Any, c: Any, x: Any, y: Any, *, value: Any = 1) -> Any:
    """c + value * x * y."""
    return c + (x * y if value == 1 else x * y * value)


@aten(_aten.addr.default)
def add_outer(func: Any, c: Any, x: Any, y: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta * c + alpha * x y^T."""
    outer = _aten.mul.Tensor(x.unsqueeze(1), y.unsqueeze(0))
    return (outer if alpha == 1 else outer * alpha) + (c if beta == 1 else c * beta)


@aten(_aten.lerp.Scalar, _aten.lerp.Tensor)
def interpolate(func: Any, x: Any, end: Any, weight: Any) -> Any:
    """x + weight * (end - x)."""
    return x + weight * (end - x)


def integers_like(x: SharedTensor) -> Encoding:
    """Encoding of counts and places that go with ``x``: integers, or fixed point if the user made ``x`` explicit."""
    return replace(x.encoding, scale=x.encoding.precision) if x.encoding.explicit else INTEGERS
