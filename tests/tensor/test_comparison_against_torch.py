"""Comparisons, extremes, clamps and pooling against torch. Values compared are exact, so results are too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sharetorch import ShareTorchError
from tests.tensor.tools import UNIT, assert_same, eighths, has_shared, integers, opened, share

X, Y = eighths(3, 4, limit=1), eighths(3, 4, seed=1, limit=1)
N, J = integers(3, 4, limit=2), integers(3, 4, seed=1, limit=2)
Case = Callable[[Any, Any], Any]

COMPARISONS: dict[str, Case] = {
    ">": lambda x, y: x > y,
    ">=": lambda x, y: x >= y,
    "<": lambda x, y: x < y,
    "<=": lambda x, y: x <= y,
    "==": lambda x, y: x == y,
    "!=": lambda x, y: x != y,
    "gt": lambda x, y: torch.gt(x, y),
    "greater_equal": lambda x, y: torch.greater_equal(x, y),
    "less": lambda x, y: torch.less(x, y),
    "le": lambda x, y: torch.le(x, y),
    "eq": lambda x, y: torch.eq(x, y),
    "not_equal": lambda x, y: torch.not_equal(x, y),
}
PAIRS = {
    "reals": (X, Y),
    "integers": (N, J),
    "mixed": (X, J),
    "row": (X, Y[0]),
    "0-d": (X, torch.tensor(0.25)),
    "number": (X, 0.25),
    "whole number": (X, 0),
    "integer number": (N, 1),
    "half of integers": (N, 0.5),
}


@pytest.mark.parametrize("op", COMPARISONS)
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("which", ["both shared", "left shared", "right shared"])
def test_comparisons(op, pair, which):
    x, y = PAIRS[pair]
    if not isinstance(y, torch.Tensor):
        if which == "both shared":
            y = torch.full_like(x, y, dtype=None if isinstance(y, int) else torch.float32)
        elif which == "right shared":
            x, y = y, x
            if op not in (">", ">=", "<", "<=", "==", "!="):
                return
    expected = COMPARISONS[op](x, y).long()
    actual = COMPARISONS[op](share(x) if which != "right shared" else x, share(y) if which != "left shared" else y)
    assert has_shared(actual)
    assert_same(actual, expected)


LOGIC: dict[str, Case] = {
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "~": lambda a, b: ~a,
    "logical_and": lambda a, b: torch.logical_and(a, b),
    "logical_or": lambda a, b: torch.logical_or(a, b),
    "logical_xor": lambda a, b: torch.logical_xor(a, b),
    "logical_not": lambda a, b: torch.logical_not(a),
}


@pytest.mark.parametrize("name", LOGIC)
@pytest.mark.parametrize("public", ["none", "right", "left"])
def test_logic_of_comparisons(name, public):
    a, b = X > 0, Y > 0
    expected = LOGIC[name](a, b).long()
    if public == "left" and name in ("~", "logical_not"):
        return
    actual = LOGIC[name](a if public == "left" else share(X) > 0, b if public == "right" else share(Y) > 0)
    assert_same(actual, expected)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "relu": lambda x: x.relu(),
    "torch.relu": lambda x: torch.relu(x),
    "F.relu": lambda x: F.relu(x),
    "relu6": lambda x: F.relu6(x * 8),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.25),
    "hardtanh": lambda x: F.hardtanh(x * 2),
    "threshold": lambda x: F.threshold(x, 0.5, -1.0),
    "sign": lambda x: x.sign(),
    "sgn": lambda x: x.sgn(),
    "abs": lambda x: x.abs(),
    "builtin abs": lambda x: abs(x),
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp min": lambda x: x.clamp(min=0.25),
    "clamp max": lambda x: torch.clamp(x, max=0.25),
    "clamp tensors": lambda x: x.clamp(torch.tensor(-0.5), torch.tensor(0.5)),
    "clip": lambda x: x.clip(-0.5, 0.5),
    "clamp_min": lambda x: x.clamp_min(0.0),
    "max": lambda x: x.max(),
    "max dim": lambda x: x.max(1),
    "max keepdim": lambda x: torch.max(x, dim=0, keepdim=True),
    "max negative dim": lambda x: x.max(-1, keepdim=True),
    "min": lambda x: x.min(),
    "min dim": lambda x: x.min(0),
    "amax": lambda x: x.amax(1),
    "amax dims": lambda x: x.amax((0, 1)),
    "amax keepdim": lambda x: x.amax(0, keepdim=True),
    "amin": lambda x: x.amin(1),
    "aminmax": lambda x: list(torch.aminmax(x)),
    "argmax": lambda x: x.argmax(),
    "argmax dim": lambda x: x.argmax(dim=1),
    "argmax keepdim": lambda x: x.argmax(1, keepdim=True),
    "argmin": lambda x: x.argmin(),
    "argmin dim": lambda x: torch.argmin(x, dim=0),
    "maximum": lambda x: torch.maximum(x, Y),
    "maximum of views": lambda x: torch.maximum(x[0], x[1]),
    "fmax": lambda x: torch.fmax(x, Y),
    "minimum": lambda x: x.minimum(Y),
    "max of two": lambda x: torch.max(x, Y),
    "where shared": lambda x: torch.where(x > 0, x, Y),
    "where numbers": lambda x: torch.where(x > 0, 2.0, -x),
    "where both numbers": lambda x: torch.where(x > 0, 2.0, -1.0),
    "where method": lambda x: x.where(x > 0, Y),
    "masked_fill shared": lambda x: x.masked_fill(x > 0, 0.5),
    "count": lambda x: (x > 0).sum(),
    "mean of bits": lambda x: (x > 0).float().mean(),
    "count_nonzero": lambda x: (x != 0).sum(),
    "any": lambda x: (x > 0).any().long(),
    "all": lambda x: (x > -2).all().long(),
    "any dim": lambda x: (x > 0.5).any(1).long(),
    "isclose by hand": lambda x: ((x - Y).abs() <= 0.5).long(),
    "heaviside": lambda x: (x >= 0).float(),
    "hinge": lambda x: (1 - x * Y).clamp(min=0).mean(),
    "l1 loss": lambda x: F.l1_loss(x, Y),
    "nonnegative": lambda x: x.ge(0).long(),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    actual = FUNCTIONS[name](share(X))
    assert has_shared(actual)
    expected = FUNCTIONS[name](X)
    assert_same(actual, expected, 2 * UNIT if "mean" in name or name in ("hinge", "l1 loss") else 0)


@pytest.mark.parametrize(
    "name", ["relu", "sign", "abs", "max", "max dim", "min dim", "argmax dim", "argmin", "count", "amax"]
)
def test_functions_of_integers(name):
    assert_same(FUNCTIONS[name](share(N)), FUNCTIONS[name](N))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_first_of_equals_wins(count):
    ones = torch.ones(count)
    values, indices = share(ones).max(0)
    assert_same(values, torch.tensor(1.0))
    assert_same(indices, torch.tensor(0))
    assert_same(share(ones).argmin(), torch.tensor(0))


DISTINCT = (torch.randperm(24, generator=torch.Generator().manual_seed(2)).reshape(2, 3, 4) - 11) / 8
ORDERS: dict[str, Callable[[Any], Any]] = {
    "sort": lambda x: x.sort(),
    "sort dim": lambda x: torch.sort(x, 0),
    "sort negative dim": lambda x: x.sort(-2),
    "sort descending": lambda x: x.sort(1, descending=True),
    "sort stable": lambda x: x.sort(stable=True),
    "msort": lambda x: x.msort(),
    "argsort": lambda x: x.argsort(),
    "argsort dim descending": lambda x: torch.argsort(x, 1, True),
    "argsort stable": lambda x: x.argsort(dim=0, stable=True),
    "topk": lambda x: x.topk(2),
    "topk smallest": lambda x: torch.topk(x, 2, 1, largest=False),
    "topk none": lambda x: x.topk(0),
    "topk all": lambda x: x.topk(4, sorted=True),
    "topk of one": lambda x: x.topk(1, 0),
    "kthvalue": lambda x: x.kthvalue(3),
    "kthvalue keepdim": lambda x: torch.kthvalue(x, 1, 1, keepdim=True),
    "median": lambda x: x.median(),
    "median dim": lambda x: x.median(1),
    "median keepdim": lambda x: torch.median(x, -1, keepdim=True),
    "nanmedian": lambda x: x.nanmedian(),
    "number": lambda x: [*x[0, 0, 0].sort(), *x[0, 0, 0].topk(1), *x[0, 0, 0].median(0), x[0, 0, 0].argsort()],
    "of a view": lambda x: x.transpose(0, 2)[1:, ::2].sort(1),
    "none": lambda x: x[:, :0].sort(1),
    "none beside": lambda x: x[:0].sort(1),
}


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize("kind", ["reals", "integers"])
def test_orders(name, kind):
    x = DISTINCT if kind == "reals" else (DISTINCT * 8).long()
    actual = ORDERS[name](share(x))
    assert has_shared(actual)
    assert_same(actual, ORDERS[name](x))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("descending", [False, True])
def test_orders_of_equal_elements(size, descending):
    x = eighths(size, 6, limit=1)
    values, indices = share(x).sort(0, descending)
    assert_same(values, x.sort(0, descending).values)
    assert_same(x.gather(0, opened(indices)), opened(values))
    options = {"dim": 0, "descending": descending, "stable": True}
    assert_same(share(x).sort(**options), x.sort(**options))
    for k in {0, size // 2, size}:
        values, indices = share(x).topk(k, 0, descending, sorted=False)
        assert_same(opened(values).sort(0, descending).values, x.topk(k, 0, descending).values)
        assert_same(x.gather(0, opened(indices)), opened(values))


BOUNDARIES = torch.tensor([-0.5, 0.0, 0.0, 0.25, 0.7])


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("boundaries", [BOUNDARIES, BOUNDARIES[:0], BOUNDARIES.double(), torch.tensor([-1, 0, 1])])
@pytest.mark.parametrize("kind", ["reals", "integers", "number"])
def test_buckets(kind, boundaries, right):
    x = {"reals": X, "integers": N, "number": X[0, 0]}[kind]
    expected = torch.bucketize(x, boundaries, right=right)
    assert_same(torch.bucketize(share(x), boundaries, right=right), expected)
    assert_same(torch.searchsorted(boundaries, share(x), right=right), expected)
    assert_same(torch.searchsorted(boundaries, share(x), side="right" if right else "left"), expected)


def test_buckets_compare_as_comparisons_do():
    x, boundaries = torch.tensor([0.1, 0.3, 0.7, 1.0]), torch.tensor([0.1, 0.3, 0.7])
    for shared in (share(x), share(x.fix_precision())):
        expected = (shared.unsqueeze(-1) > boundaries).sum(-1)
        assert_same(torch.bucketize(shared, boundaries).decrypt(), expected.decrypt())


def test_boundaries_in_a_public_order():
    order = torch.tensor([2, 0, 1])
    sequence = torch.tensor([0.0, 0.5, -0.5])
    expected = torch.searchsorted(sequence, X, sorter=order)
    assert_same(torch.searchsorted(sequence, share(X), sorter=order), expected)


WRONG_ORDERS: dict[str, Callable[[Any], Any]] = {
    "sort": lambda x: x.sort(2),
    "argsort": lambda x: x.argsort(-3),
    "topk": lambda x: x.topk(5),
    "topk dim": lambda x: x.topk(1, 2),
    "kthvalue": lambda x: x.kthvalue(0),
    "kthvalue beyond": lambda x: x.kthvalue(5),
    "median dim": lambda x: x.median(2),
    "median of nothing": lambda x: x[:0].median(),
    "median along nothing": lambda x: x[:0].median(0),
    "boundaries of two dimensions": lambda x: torch.bucketize(x, torch.zeros(1, 3)),
    "boundaries out of order": lambda x: torch.bucketize(x, torch.tensor([1.0, 0.0])),
    "two sides": lambda x: torch.searchsorted(BOUNDARIES, x, right=True, side="left"),
    "boundaries that are not finite": lambda x: torch.bucketize(x, torch.tensor([float("inf")])),
    "shared boundaries": lambda x: torch.bucketize(x, x[0]),
    "boundaries shared alone": lambda x: torch.bucketize(X, x[0]),
}


@pytest.mark.parametrize("name", WRONG_ORDERS)
def test_wrong_arguments_of_orders_are_refused(name):
    with pytest.raises(ShareTorchError):
        WRONG_ORDERS[name](share(X))


IMAGE = eighths(2, 3, 6, 6)
LINE = eighths(2, 3, 8)
POOLS: dict[str, tuple[Callable[[Any], Any], torch.Tensor]] = {
    "max 2": (lambda x: F.max_pool2d(x, 2), IMAGE),
    "max 3 stride 2": (lambda x: F.max_pool2d(x, 3, 2), IMAGE),
    "max padding": (lambda x: F.max_pool2d(x, 3, 2, 1), IMAGE),
    "max dilation": (lambda x: F.max_pool2d(x, 2, 1, 0, 2), IMAGE),
    "max rectangle": (lambda x: F.max_pool2d(x, (2, 3), (1, 3)), IMAGE),
    "max single": (lambda x: F.max_pool2d(x, 2), IMAGE[0]),
    "max 1d": (lambda x: F.max_pool1d(x, 3, 2), LINE),
    "avg 2": (lambda x: F.avg_pool2d(x, 2), IMAGE),
    "avg 3 stride 2": (lambda x: F.avg_pool2d(x, 3, 2), IMAGE),
    "avg padding": (lambda x: F.avg_pool2d(x, 3, 2, 1), IMAGE),
    "avg not include": (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), IMAGE),
    "avg divisor": (lambda x: F.avg_pool2d(x, 2, divisor_override=3), IMAGE),
    "avg 1d": (lambda x: F.avg_pool1d(x, 2), LINE),
    "avg 1d padding": (lambda x: F.avg_pool1d(x, 3, 2, 1, count_include_pad=False), LINE),
    "adaptive avg 1": (lambda x: F.adaptive_avg_pool2d(x, 1), IMAGE),
    "adaptive avg even": (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), IMAGE),
    "adaptive avg uneven": (lambda x: F.adaptive_avg_pool2d(x, (4, 5)), IMAGE),
    "adaptive avg None": (lambda x: F.adaptive_avg_pool2d(x, (None, 2)), IMAGE),
    "adaptive avg 1d": (lambda x: F.adaptive_avg_pool1d(x, 3), LINE),
    "adaptive max": (lambda x: F.adaptive_max_pool2d(x, (4, 3)), IMAGE),
    "adaptive max 1d": (lambda x: F.adaptive_max_pool1d(x, 3), LINE),
    "lp by hand": (lambda x: F.avg_pool2d(x * x, 2), IMAGE),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools(name):
    function, x = POOLS[name]
    assert_same(function(share(x)), function(x), 0 if name.startswith(("max", "adaptive max")) else 6 * UNIT)
