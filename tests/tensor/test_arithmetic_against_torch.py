"""Arithmetic with shared, plain and Python operands, against torch, within stated bounds.

Inputs are multiples of 1/8, so that sums and products are exact; where a bound is not 0 it is stated in units of 2^-16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.tensor.tools import UNIT, assert_same, eighths, has_shared, integers, share

X, Y = eighths(3, 4), eighths(3, 4, seed=1)
ROW, COLUMN, SCALAR = eighths(4, seed=2), eighths(3, 1, seed=3), torch.tensor(1.5)
N, J = integers(3, 4), integers(3, 4, seed=1)

Case = Callable[[Any, Any], Any]
ELEMENTWISE: dict[str, Case] = {
    "+": lambda x, y: x + y,
    "-": lambda x, y: x - y,
    "*": lambda x, y: x * y,
    "add alpha": lambda x, y: torch.add(x, y, alpha=2),
    "sub alpha": lambda x, y: torch.sub(x, y, alpha=3),
    "subtract": lambda x, y: torch.subtract(x, y),
    "multiply": lambda x, y: torch.multiply(x, y),
}
OPERANDS = {
    "same shape": (X, Y),
    "row": (X, ROW),
    "column": (X, COLUMN),
    "outer": (ROW, COLUMN),
    "0-d": (X, SCALAR),
    "integers": (N, J),
    "reals and integers": (X, J),
    "integers and reals": (N, Y),
    "booleans": (X > 0, J),
    "transposed": (X.t(), Y.t()),
    "empty": (torch.zeros(0, 4), ROW),
}


@pytest.mark.parametrize("op", ELEMENTWISE)
@pytest.mark.parametrize("operands", OPERANDS)
@pytest.mark.parametrize("which", ["both shared", "left shared", "right shared"])
def test_elementwise(op, operands, which):
    x, y = OPERANDS[operands]
    if op in ("-", "sub alpha", "subtract") and torch.bool in (x.dtype, y.dtype):
        pytest.skip("torch has no subtraction of booleans")
    expected = ELEMENTWISE[op](x, y)
    actual = ELEMENTWISE[op](share(x) if which != "right shared" else x, share(y) if which != "left shared" else y)
    assert has_shared(actual)
    assert_same(actual, expected)


NUMBERS = [0, 1, -3, 2.0, 0.5, -0.25, True]
WITH_NUMBER: dict[str, Case] = {
    **{name: ELEMENTWISE[name] for name in ("+", "-", "*")},
    "reversed +": lambda x, n: n + x,
    "reversed -": lambda x, n: n - x,
    "reversed *": lambda x, n: n * x,
    "rsub": lambda x, n: torch.rsub(x, n),
}


@pytest.mark.parametrize("op", WITH_NUMBER)
@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("x", [X, N], ids=["reals", "integers"])
def test_with_number(op, number, x):
    if number is True and op in ("-", "reversed -", "rsub"):
        number = 1
    assert_same(WITH_NUMBER[op](share(x), number), WITH_NUMBER[op](x, number))


# Units of 2^-16: the factor is rounded to 16 significant bits and the product truncated.
@pytest.mark.parametrize("number", [0.1, -1 / 3, 1e-3, 3.14159, 127.7])
def test_with_number_that_is_rounded(number):
    bound = (1 + abs(number) * 4) * UNIT
    assert_same(share(X) * number, X * number, bound)
    assert_same(number * share(X), X * number, bound)
    assert_same(share(X) + number, X + number, UNIT)
    assert_same(number - share(X), number - X, UNIT)
    assert_same(share(N) * number, N * number, 9 * UNIT)
    assert_same(share(X) / number, X / number, (1 + 4 / abs(number)) * UNIT)


@pytest.mark.parametrize("seed", range(3))
def test_products_of_any_reals(seed):
    """Both operands rounded by half a unit, the product by one."""
    generator = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(50, generator=generator) * 3 for _ in range(2))
    bound = float(x.abs().max() + y.abs().max()) / 2 * UNIT + 1.01 * UNIT
    assert_same(share(x) * share(y), x * y, bound)
    assert_same(share(x) * y, x * y, bound)
    assert_same(x * share(y), x * y, bound)


UNARY: dict[str, tuple[Callable[[Any], Any], float]] = {
    "square": (lambda x: x.square(), 0),
    "** 2": (lambda x: x**2, 0),
    "** 3": (lambda x: x**3, 1),
    "** 0": (lambda x: x**0, 0),
    "** 1": (lambda x: x**1, 0),
    "** 2.0": (lambda x: torch.pow(x, 2.0), 0),
    "** 5": (lambda x: (x / 4) ** 5, 8),
    "mean": (lambda x: x.mean(), 3),
    "mean dims": (lambda x: x.mean((0, 1)), 3),
    "mean keepdim": (lambda x: x.mean(0, keepdim=True), 3),
    "var": (lambda x: x.var(), 8),
    "var dim": (lambda x: x.var(1), 8),
    "var biased": (lambda x: x.var(0, unbiased=False), 8),
    "var correction": (lambda x: torch.var(x, dim=0, correction=0, keepdim=True), 8),
    "var_mean": (lambda x: torch.var_mean(x, dim=0), 8),
    "std": (lambda x: x.std(), 4),
    "std dim": (lambda x: x.std(1, keepdim=True), 4),
    "prod": (lambda x: x[:, :3].prod(1), 4),
    "prod all": (lambda x: (x / 2).prod(), 200),
    "prod keepdim": (lambda x: x[:, :2].prod(1, keepdim=True), 1),
    "reciprocal": (lambda x: (x.abs() + 1).reciprocal(), 2),
    "1 / x": (lambda x: 1 / (x.abs() + 1), 2),
    "3 / x": (lambda x: 3 / (x - 5), 6),
    "** -1": (lambda x: (x - 5) ** -1, 2),
    "sqrt": (lambda x: x.abs().sqrt(), 2),
    "** 0.5": (lambda x: x.abs() ** 0.5, 2),
    "rsqrt": (lambda x: (x.abs() + 0.5).rsqrt(), 2),
    "/ 4": (lambda x: x / 4, 0),
    "/ 3": (lambda x: x / 3, 2),
    "div method": (lambda x: x.div(8), 0),
    "true_divide": (lambda x: torch.true_divide(x, 2), 0),
    "/ plain": (lambda x: x / (Y.abs() + 1), 4),
    "/ row": (lambda x: x / torch.tensor([1.0, 2.0, 4.0, 8.0]), 1),
    "plain / x": (lambda x: Y / (x.abs() + 1), 6),
    "norm by sqrt": (lambda x: (x * x).sum().sqrt(), 3),
    "lerp": (lambda x: torch.lerp(x, x * 2, 0.5), 0),
    "addcmul": (lambda x: torch.addcmul(x, x, x, value=0.5), 1),
    "addcdiv": (lambda x: torch.addcdiv(x, x, x.abs() + 1, value=0.5), 6),
    "dist": (lambda x: ((x - Y) ** 2).mean(), 8),
    "cumprod": (lambda x: x[:, :3].cumprod(1), 4),
    "logical": (lambda x: x * (x > 0), 0),
    "softsign": (lambda x: x / (1 + x.abs()), 6),
    "sum of x / sum": (lambda x: x.abs() / x.abs().sum(1, keepdim=True), 6),
    "double negative": (lambda x: x.neg().neg(), 0),
    "float_power": (lambda x: x * x * x, 1),
    "dot": (lambda x: x[0].dot(x[1]), 1),
    "inner": (lambda x: torch.inner(x, x), 1),
    "outer": (lambda x: torch.outer(x[0], x[1]), 0),
    "ger": (lambda x: torch.ger(x[0], x[:, 0]), 0),
    "vdot": (lambda x: torch.vdot(x[0], x[1]), 1),
    "kron": (lambda x: torch.kron(x, x[:2, :2]), 0),
    "cov by hand": (lambda x: (x - x.mean(0)).t() @ (x - x.mean(0)) / 2, 40),
}


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one(name):
    function, units = UNARY[name]
    actual = function(share(X))
    assert has_shared(actual)
    assert_same(actual, function(X), units * UNIT)


A, B, V = eighths(3, 4), eighths(4, 5, seed=1), eighths(4, seed=2)
BATCH, BATCH2 = eighths(2, 3, 4, seed=3), eighths(2, 4, 5, seed=4)
BIAS = eighths(5, seed=5)

PRODUCTS: dict[str, tuple[Case, Any, Any]] = {
    "@": (lambda x, y: x @ y, A, B),
    "mm": (lambda x, y: torch.mm(x, y), A, B),
    "matmul": (lambda x, y: torch.matmul(x, y), A, B),
    "matmul method": (lambda x, y: x.matmul(y), A, B),
    "matrix @ vector": (lambda x, y: x @ y, A, V),
    "vector @ matrix": (lambda x, y: x @ y, V, B),
    "vector @ vector": (lambda x, y: x @ y, V, V * 2),
    "mv": (lambda x, y: x.mv(y), A, V),
    "dot": (lambda x, y: x.dot(y), V, V / 2),
    "bmm": (lambda x, y: torch.bmm(x, y), BATCH, BATCH2),
    "batch @ batch": (lambda x, y: x @ y, BATCH, BATCH2),
    "batch @ matrix": (lambda x, y: x @ y, BATCH, B),
    "matrix @ batch": (lambda x, y: x @ y, A, BATCH2),
    "batch @ vector": (lambda x, y: x @ y, BATCH, V),
    "4-d @": (lambda x, y: x @ y, eighths(2, 3, 2, 4), eighths(3, 4, 2, seed=9)),
    "transposed @": (lambda x, y: x.t() @ y.t(), eighths(4, 3), eighths(5, 4, seed=1)),
    "einsum matmul": (lambda x, y: torch.einsum("ij,jk->ik", x, y), A, B),
    "einsum outer": (lambda x, y: torch.einsum("i,j->ij", x, y), V, BIAS),
    "einsum trace": (lambda x, y: torch.einsum("bij,bjk->", x, y), BATCH, BATCH2),
    "einsum batch": (lambda x, y: torch.einsum("bij,bjk->bik", x, y), BATCH, BATCH2),
    "einsum elementwise": (lambda x, y: torch.einsum("ij,ij->ij", x, y), A, A / 2),
    "einsum list": (lambda x, y: torch.einsum("...ij,jk->...ik", [x, y]), BATCH, B),
    "tensordot": (lambda x, y: torch.tensordot(x, y, dims=1), A, B),
    "tensordot dims": (lambda x, y: torch.tensordot(x, y, dims=([1, 2], [1, 0])), BATCH, eighths(4, 3, 2, seed=8)),
    "outer": (lambda x, y: torch.outer(x, y), V, BIAS),
    "linear": (lambda x, y: F.linear(x, y.t()), A, B),
    "linear bias": (lambda x, y: F.linear(x, y.t(), BIAS), A, B),
    "linear 3-d": (lambda x, y: F.linear(x, y.t(), BIAS), BATCH, B),
    "linear vector": (lambda x, y: F.linear(x, y.t(), BIAS), V, B),
    "addmm": (lambda x, y: torch.addmm(BIAS, x, y, beta=2, alpha=0.5), A, B),
    "baddbmm": (lambda x, y: torch.baddbmm(BIAS, x, y), BATCH, BATCH2),
    "addmv": (lambda x, y: torch.addmv(torch.ones(3), x, y), A, V),
    "addbmm": (lambda x, y: torch.addbmm(BIAS, x, y), BATCH, BATCH2),
    "addr": (lambda x, y: torch.addr(torch.ones(4, 5), x, y), V, BIAS),
    "chain": (lambda x, y: torch.linalg.multi_dot([x, y, y.t() / 8]), A, B),
    "chain_matmul": (lambda x, y: (x @ y) @ (y.t() / 8), A, B),
    "bilinear by einsum": (lambda x, y: torch.einsum("bi,ij,bj->b", x, y[:, :4], x), A, B),
    "linalg.vecdot": (lambda x, y: torch.linalg.vecdot(x, y), A, A / 4),
    "cross by hand": (lambda x, y: x[:, 0] * y[1, :3] - x[:, 1] * y[0, :3], A, B),
}


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize("which", ["both shared", "left shared", "right shared"])
def test_products(name, which):
    """Exact but for truncation, at most 2 units an operation."""
    function, x, y = PRODUCTS[name]
    actual = function(share(x) if which != "right shared" else x, share(y) if which != "left shared" else y)
    assert has_shared(actual)
    assert_same(actual, function(x, y), 8 * UNIT)


def test_matmul_of_integers_is_exact():
    x, y = integers(4, 6, limit=10**6), integers(6, 3, seed=1, limit=10**6)
    assert_same(share(x) @ share(y), x @ y)
    assert_same(share(x) @ y, x @ y)
    assert_same(x @ share(y), x @ y)


CONVOLUTIONS: dict[str, tuple[Callable[..., Any], tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "1d": (F.conv1d, (2, 3, 8), (4, 3, 3), {}),
    "1d stride padding": (F.conv1d, (2, 3, 8), (4, 3, 3), {"stride": 2, "padding": 1}),
    "1d single": (F.conv1d, (3, 8), (4, 3, 3), {}),
    "2d": (F.conv2d, (2, 3, 6, 5), (4, 3, 3, 2), {}),
    "2d stride": (F.conv2d, (2, 3, 6, 6), (4, 3, 3, 3), {"stride": (2, 1)}),
    "2d padding": (F.conv2d, (1, 2, 5, 5), (3, 2, 3, 3), {"padding": (1, 2)}),
    "2d same": (F.conv2d, (1, 2, 5, 5), (3, 2, 3, 3), {"padding": "same"}),
    "2d valid": (F.conv2d, (1, 2, 5, 5), (3, 2, 3, 3), {"padding": "valid"}),
    "2d dilation": (F.conv2d, (1, 2, 7, 7), (3, 2, 3, 3), {"dilation": 2}),
    "2d groups": (F.conv2d, (1, 4, 5, 5), (6, 2, 3, 3), {"groups": 2}),
    "2d depthwise": (F.conv2d, (1, 3, 5, 5), (3, 1, 3, 3), {"groups": 3, "padding": 1}),
    "2d 1x1": (F.conv2d, (2, 3, 4, 4), (5, 3, 1, 1), {}),
    "2d single": (F.conv2d, (3, 4, 4), (5, 3, 2, 2), {}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("which", ["both shared", "left shared", "right shared"])
def test_convolutions(name, which):
    function, image, kernel, options = CONVOLUTIONS[name]
    x, w, b = eighths(*image), eighths(*kernel, seed=1, limit=1), eighths(kernel[0], seed=2)
    actual = function(
        share(x) if which != "right shared" else x, share(w) if which != "left shared" else w, b, **options
    )
    assert_same(actual, function(x, w, b, **options), 2 * UNIT)
    assert_same(function(share(x), share(w), share(b), **options), function(x, w, b, **options), 2 * UNIT)
    assert_same(function(share(x), w, **options), function(x, w, **options), 2 * UNIT)
