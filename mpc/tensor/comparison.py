"""Comparisons and what is made of them.

Results are bits: integers 0 and 1, or reals if an operand is of explicit precision.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.fixedpoint import INTEGERS
from sharetorch.mpc.protocols import sorting
from sharetorch.mpc.tensor import pending
from sharetorch.mpc.tensor.arithmetic import integers_like, make
from sharetorch.mpc.tensor.encodings import to_encoding
from sharetorch.mpc.tensor.shared import Handle, SharedTensor, aten, fresh_shadow
from sharetorch.mpc.tensor.structural import on_shadows

_aten = torch.ops.aten


class Rectified(NamedTuple):
    """ReLU and its bit."""

    value: SharedTensor
    bit: SharedTensor


class Extreme(NamedTuple):
    """Maximum over dimension 0: value, place, trail for the gradient."""

    value: SharedTensor
    place: SharedTensor
    trail: SharedTensor


class Sorted(NamedTuple):
    """Elements of some ranks over dimension 0: values, places, trail for the gradient."""

    value: SharedTensor
    place: SharedTensor
    trail: SharedTensor


def difference(x: Any, y: Any) -> SharedTensor:
    """X - y as a shared tensor; x itself if y is the number 0."""
    if isinstance(x, SharedTensor) and isinstance(y, (int, float)) and y == 0:
        return x
    result: SharedTensor = _number(x) - _number(y)
    return result


def _number(x: Any) -> Any:
    """A public boolean tensor as integers."""
    return x.to(torch.int64) if isinstance(x, torch.Tensor) and x.dtype == torch.bool else x


def negated(x: Any) -> SharedTensor:
    """-x."""
    result: SharedTensor = -x
    return result


def non_negative(x: SharedTensor) -> SharedTensor:
    """[x >= 0] as integers."""
    (number,) = x.session.command("non_negative", x.handle.number)
    return _bits(make(x.session, number, INTEGERS, x.shadow))


def equal_zero(x: SharedTensor) -> SharedTensor:
    """[x = 0] as integers."""
    (number,) = x.session.command("equal_zero", x.handle.number)
    return _bits(make(x.session, number, INTEGERS, x.shadow))


def _bits(x: SharedTensor) -> SharedTensor:
    x.bits = True
    return x


def opposite(bit: Any) -> SharedTensor:
    """1 - bit."""
    return _bits(1 - bit)


def rectify(x: SharedTensor) -> Rectified:
    """ReLU with the bit it used. It waits for a maximum that may go before it (``pending``)."""
    value, bit = pending.rectified(x)
    counts = torch.empty(x.shape, dtype=torch.int64, device="meta")
    return Rectified(SharedTensor(value, fresh_shadow(x.shadow)), _bits(SharedTensor(bit, counts)))


def maximum(x: SharedTensor) -> Extreme:
    """Maximum over dimension 0, where it stands (first of equals), and the trail."""
    value, index, trail = x.session.command("maximum", x.handle.number, outputs=3)
    shadow = x.shadow[0]
    rows = x.session.suite.trail_rows(x.shape)
    return Extreme(
        make(x.session, value, x.encoding, shadow),
        make(x.session, index, INTEGERS, shadow),
        make(x.session, trail, INTEGERS, torch.empty((rows, *shadow.shape), device="meta")),
    )


def route(gradient: SharedTensor, trail: SharedTensor, n: int) -> SharedTensor:
    """Send a gradient back to where a maximum over n elements came from; shape (n, *gradient)."""
    (number,) = gradient.session.command("route", gradient.handle.number, trail.handle.number, n=n)
    shadow = torch.empty((n, *gradient.shape), dtype=gradient.dtype, device="meta")
    return SharedTensor(Handle(gradient.session, number, gradient.encoding), shadow)


def sort(x: SharedTensor, start: int, stop: int, *, ordered: bool = True, stable: bool = False) -> Sorted:
    """Elements of ranks start, ..., stop - 1 over dimension 0, ascending if ``ordered``, and where they stood."""
    exchanges = sorting.network(x.shape[0], start, stop, ordered).exchanges
    value, place, trail = x.session.command(
        "sort", x.handle.number, outputs=3, start=start, stop=stop, ordered=ordered, stable=stable
    )
    shadow = x.shadow[start:stop]
    return Sorted(
        make(x.session, value, x.encoding, shadow),
        make(x.session, place, INTEGERS, shadow),
        make(x.session, trail, INTEGERS, torch.empty((exchanges, *x.shape[1:]), device="meta")),
    )


def unsort(gradient: SharedTensor, trail: SharedTensor, n: int, start: int, *, ordered: bool = True) -> SharedTensor:
    """Send gradients back to where elements of ranks start and following came from; shape (n, *rest)."""
    (number,) = gradient.session.command(
        "unsort", gradient.handle.number, trail.handle.number, n=n, start=start, ordered=ordered
    )
    shadow = torch.empty((n, *gradient.shape[1:]), dtype=gradient.dtype, device="meta")
    return SharedTensor(Handle(gradient.session, number, gradient.encoding), shadow)


def bucketize(x: SharedTensor, thresholds: Tensor) -> SharedTensor:
    """How many thresholds, integers in the encoding of x, each element reaches."""
    (number,) = x.session.command("bucketize", x.handle.number, thresholds=thresholds)
    return make(x.session, number, INTEGERS, x.shadow)


def truth(bit: SharedTensor, like: SharedTensor) -> SharedTensor:
    """A bit or place in the form in which comparisons of ``like`` give it."""
    result = to_encoding(bit, integers_like(like))
    result.bits = bit.bits
    return result


def _operand(x: Any, y: Any) -> SharedTensor:
    return x if isinstance(x, SharedTensor) else y


@aten(_aten.ge.Tensor, _aten.ge.Scalar)
def greater_equal(func: Any, x: Any, y: Any) -> SharedTensor:
    """[x >= y]."""
    on_shadows(func, (x, y), {})
    return truth(non_negative(difference(x, y)), _operand(x, y))


@aten(_aten.le.Tensor, _aten.le.Scalar)
def less_equal(func: Any, x: Any, y: Any) -> SharedTensor:
    """[x <= y]."""
    on_shadows(func, (x, y), {})
    return truth(non_negative(negated(difference(x, y))), _operand(x, y))


@aten(_aten.lt.Tensor, _aten.lt.Scalar)
def less(func: Any, x: Any, y: Any) -> SharedTensor:
    """[x < y]."""
    on_shadows(func, (x, y), {})
    return truth(opposite(non_negative(difference(x, y))), _operand(x, y))


@aten(_aten.gt.Tensor, _aten.gt.Scalar)
def greater(func: Any, x: Any, y: Any) -> SharedTensor:
    """[x > y]."""
    on_shadows(func, (x, y), {})
    return truth(opposite(non_negative(negated(difference(x, y)))), _operand(x, y))


@aten(_aten.eq.Tensor, _aten.eq.Scalar)
def equal(func: Any, x: Any, y: Any) -> SharedTensor:
    """[x = y]."""
    on_shadows(func, (x, y), {})
    return truth(equal_zero(difference(x, y)), _operand(x, y))


@aten(_aten.ne.Tensor, _aten.ne.Scalar)
def not_equal(func: Any, x: Any, y: Any) -> SharedTensor:
    """[x != y]."""
    on_shadows(func, (x, y), {})
    return truth(opposite(equal_zero(difference(x, y))), _operand(x, y))
