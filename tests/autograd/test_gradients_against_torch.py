"""Gradients of every operation against torch, for shared and mixed operands; bounds in units of 2^-16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.autograd.tools import check_gradients
from tests.tensor.tools import UNIT, eighths

X, Y, ROW, COLUMN = eighths(3, 4), eighths(3, 4, seed=1), eighths(4, seed=2), eighths(3, 1, seed=3)
POSITIVE = eighths(3, 4, seed=4).abs() + 0.5
NOT_ZERO = X + 1 / 16  # no element 0: torch's choice of a subgradient there is its own
DISTINCT = (torch.randperm(12, generator=torch.Generator().manual_seed(5)).reshape(3, 4) - 6) / 4.0
_MASK = Y > 0
_PLACES = torch.tensor([[0, 2, 1, 0], [1, 1, 2, 2]])

ONE: dict[str, tuple[Callable[[Any], Any], torch.Tensor, float]] = {
    "neg": (lambda x: -x, X, 0),
    "x + 1": (lambda x: x + 1, X, 0),
    "2 - x": (lambda x: 2 - x, X, 0),
    "0.3 x": (lambda x: 0.3 * x, X, 1),
    "x / 4": (lambda x: x / 4, X, 0),
    "x * x": (lambda x: x * x, X, 0),
    "** 2": (lambda x: x**2, X, 0),
    "** 3": (lambda x: x**3, X, 4),
    "square": (lambda x: x.square(), X, 0),
    "sum": (lambda x: x.sum(), X, 0),
    "sum dim": (lambda x: x.sum(1), X, 0),
    "sum keepdim": (lambda x: x.sum((0, 1), keepdim=True), X, 0),
    "mean": (lambda x: x.mean(), X, 1),
    "mean dim": (lambda x: x.mean(0), X, 2),
    "var": (lambda x: x.var(), X, 4),
    "var dim": (lambda x: x.var(1, unbiased=False), X, 4),
    "std": (lambda x: x.std(0), X, 16),
    "cumsum": (lambda x: x.cumsum(1), X, 0),
    "prod": (lambda x: x[:, :3].prod(1), X, 30),
    "cumprod": (lambda x: x[:, :3].cumprod(1), X, 60),
    "view": (lambda x: x.view(2, 6), X, 0),
    "reshape": (lambda x: x.t().reshape(2, 6), X, 0),
    "permute": (lambda x: x.permute(1, 0), X, 0),
    "transpose": (lambda x: x.T, X, 0),
    "expand": (lambda x: x.unsqueeze(0).expand(2, -1, -1), X, 0),
    "repeat": (lambda x: x.repeat(2, 2), X, 0),
    "repeat_interleave": (lambda x: x.repeat_interleave(2, 0), X, 0),
    "squeeze": (lambda x: x.unsqueeze(1).squeeze(), X, 0),
    "flatten": (lambda x: x.flatten(), X, 0),
    "unflatten": (lambda x: x.unflatten(1, (2, 2)), X, 0),
    "cat": (lambda x: torch.cat([x, x * 2, x[:1]]), X, 0),
    "cat plain": (lambda x: torch.cat([x, Y]), X, 0),
    "stack": (lambda x: torch.stack([x, x * 2], 1), X, 0),
    "split": (lambda x: x.split(3, 1), X, 0),
    "chunk": (lambda x: x.chunk(2, 1)[1], X, 0),
    "unbind": (lambda x: x.unbind(0), X, 0),
    "iteration": (lambda x: [row * 2 for row in x], X, 0),
    "pad": (lambda x: F.pad(x, (1, 2)), X, 0),
    "pad value": (lambda x: F.pad(x, (1, 2), value=3.0), X, 0),
    "pad reflect": (lambda x: F.pad(x[None], (1, 2), mode="reflect"), X, 0),
    "interpolate": (lambda x: F.interpolate(x[None], scale_factor=2), X, 0),
    "F.unfold": (lambda x: F.unfold(x[None, None], (2, 2)), X, 0),
    "F.fold": (lambda x: F.fold(x.reshape(1, 4, 3), (2, 4), (2, 2)), X, 0),
    "pixel_shuffle": (lambda x: F.pixel_shuffle(x.reshape(1, 4, 3, 1), 2), X, 0),
    "roll": (lambda x: x.roll(1, 1), X, 0),
    "flip": (lambda x: x.flip(0), X, 0),
    "rot90": (lambda x: x.rot90(), X, 0),
    "tril": (lambda x: x.tril(), X, 0),
    "triu": (lambda x: x.triu(1), X, 0),
    "diagonal": (lambda x: x.diagonal(), X, 0),
    "diag": (lambda x: x.diag(), X, 0),
    "diag_embed": (lambda x: x.diag_embed(), X, 0),
    "trace": (lambda x: x[:, :3].trace(), X, 0),
    "gather": (lambda x: x.gather(0, _PLACES), X, 0),
    "take": (lambda x: x.take(torch.tensor([0, 11, 5, 5])), X, 0),
    "take_along_dim": (lambda x: x.take_along_dim(_PLACES, 0), X, 0),
    "index_select": (lambda x: x.index_select(1, torch.tensor([3, 0, 0])), X, 0),
    "narrow": (lambda x: x.narrow(1, 1, 2), X, 0),
    "select": (lambda x: x.select(1, 2), X, 0),
    "unfold": (lambda x: x.unfold(1, 2, 1), X, 0),
    "as_strided": (lambda x: x.as_strided((2, 2), (4, 1), 1), X, 0),
    "x[i]": (lambda x: x[1], X, 0),
    "x[a:b]": (lambda x: x[1:, ::2], X, 0),
    "x[None]": (lambda x: x[None, ..., 1], X, 0),
    "x[tensor]": (lambda x: x[torch.tensor([2, 0, 2])], X, 0),
    "x[tensor, tensor]": (lambda x: x[torch.tensor([0, 0]), torch.tensor([3, 3])], X, 0),
    "x[mask]": (lambda x: x[_MASK], X, 0),
    "masked_select": (lambda x: x.masked_select(_MASK), X, 0),
    "masked_fill": (lambda x: x.masked_fill(_MASK, 2.0), X, 0),
    "where public": (lambda x: torch.where(_MASK, x, x * 2), X, 0),
    "where number": (lambda x: torch.where(_MASK, x, 1.0), X, 0),
    "index_add": (lambda x: x.index_add(0, torch.tensor([0, 0]), x[:2]), X, 0),
    "index_copy": (lambda x: x.index_copy(0, torch.tensor([2, 0]), x[:2]), X, 0),
    "index_fill": (lambda x: x.index_fill(0, torch.tensor([2, 0]), 1.0), X, 0),
    "scatter": (lambda x: x.scatter(0, _PLACES[:1], x[:1] * 2), X, 0),
    "scatter_add": (lambda x: x.scatter_add(0, _PLACES, x[:2]), X, 0),
    "select_scatter": (lambda x: x.select_scatter(x[0], 0, 2), X, 0),
    "slice_scatter": (lambda x: x.slice_scatter(x[:2] * 2, 0, 1, 3), X, 0),
    "clone": (lambda x: x.clone(), X, 0),
    "contiguous": (lambda x: x.t().contiguous(), X, 0),
    "double": (lambda x: x.double(), X, 0),
    "copy": (lambda x: x.copy() if hasattr(x, "handle") else x.clone(), X, 0),
    "refresh": (lambda x: x.refresh() if hasattr(x, "handle") else x, X, 0),
    "relu": (lambda x: x.relu(), X, 0),
    "relu6": (lambda x: F.relu6(x * 4), NOT_ZERO, 0),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.25), NOT_ZERO, 0),
    "hardtanh": (lambda x: F.hardtanh(x), NOT_ZERO, 0),
    "threshold": (lambda x: F.threshold(x, 0.5, 2.0), X, 0),
    "abs": (lambda x: x.abs(), NOT_ZERO, 0),
    "sign": (lambda x: x.sign() * x, NOT_ZERO, 0),
    "clamp": (lambda x: x.clamp(-1, 1), NOT_ZERO, 0),
    "clamp_min": (lambda x: x.clamp_min(0.5), NOT_ZERO, 0),
    "maximum": (lambda x: torch.maximum(x, Y), NOT_ZERO, 0),
    "where shared": (lambda x: torch.where(x > 0, x * 2, -x), NOT_ZERO, 0),
    "masked_fill shared": (lambda x: x.masked_fill(x.detach() > 0, 1.0), NOT_ZERO, 0),
    "bits as weights": (lambda x: x * (x > 0), NOT_ZERO, 0),
    "max": (lambda x: x.max(), DISTINCT, 0),
    "max dim": (lambda x: x.max(1), DISTINCT, 0),
    "max keepdim": (lambda x: x.max(0, keepdim=True), DISTINCT, 0),
    "min": (lambda x: x.min(), DISTINCT, 0),
    "min dim": (lambda x: x.min(1).values, DISTINCT, 0),
    "amax": (lambda x: x.amax((0, 1)), DISTINCT, 0),
    "amin": (lambda x: x.amin(0), DISTINCT, 0),
    "sort": (lambda x: x.sort(1), DISTINCT, 0),
    "sort descending": (lambda x: x.sort(0, descending=True).values, DISTINCT, 0),
    "sort stable": (lambda x: x.sort(stable=True), X, 0),
    "msort": (lambda x: x.msort(), DISTINCT, 0),
    "topk": (lambda x: x.topk(2, 1), DISTINCT, 0),
    "topk smallest": (lambda x: x.topk(2, 0, largest=False).values, DISTINCT, 0),
    "topk in any order": (lambda x: x.topk(3, 1, sorted=False).values.sum(1), DISTINCT, 0),
    "kthvalue": (lambda x: x.kthvalue(3), DISTINCT, 0),
    "kthvalue keepdim": (lambda x: x.kthvalue(1, 0, keepdim=True), DISTINCT, 0),
    "median": (lambda x: x.median(), DISTINCT, 0),
    "median dim": (lambda x: x.median(1), DISTINCT, 0),
    "trimmed mean": (lambda x: x.sort(1).values[:, 1:3].mean(1), DISTINCT, 2),
    "reciprocal": (lambda x: x.reciprocal(), POSITIVE, 20),
    "1 / x": (lambda x: 1 / x, POSITIVE, 20),
    "** -1": (lambda x: x**-1, POSITIVE, 20),
    "x / plain": (lambda x: x / POSITIVE, X, 3),
    "plain / x": (lambda x: Y / x, POSITIVE, 60),
    "x / x": (lambda x: x / (x + 1), POSITIVE, 20),
    "sqrt": (lambda x: x.sqrt(), POSITIVE, 6),
    "** 0.5": (lambda x: x**0.5, POSITIVE, 6),
    "rsqrt": (lambda x: x.rsqrt(), POSITIVE, 20),
    "** -2": (lambda x: x**-2, POSITIVE, 60),
    "** 1.5": (lambda x: x**1.5, POSITIVE, 10),
    "norm": (lambda x: x.norm(), POSITIVE, 10),
    "norm 1": (lambda x: x.norm(1), NOT_ZERO, 2),
    "lerp": (lambda x: torch.lerp(x, x * 2, 0.25), X, 0),
    "addcmul": (lambda x: torch.addcmul(x, x, x, value=0.5), X, 2),
    "addcdiv": (lambda x: torch.addcdiv(x, x, x + 1, value=0.5), POSITIVE, 20),
    "mse_loss": (lambda x: F.mse_loss(x, Y), X, 3),
    "mse_loss sum": (lambda x: F.mse_loss(x, Y, reduction="sum"), X, 0),
    "l1_loss": (lambda x: F.l1_loss(x, Y + 1 / 16), X, 2),
    "einsum": (lambda x: torch.einsum("ij,kj->ik", x, x), X, 2),
    "dot of rows": (lambda x: x[0].dot(x[1]), X, 2),
    "assignment into new": (lambda x: _assigned(x), X, 0),
    "in place": (lambda x: _changed(x), X, 2),
    "view of view changed": (lambda x: _changed_through_view(x), X, 0),
    "outer": (lambda x: torch.outer(x[0], x[1]), X, 2),
    "kron": (lambda x: torch.kron(x[:2, :2], x[1:, 1:]), X, 2),
    "block_diag": (lambda x: torch.block_diag(x, x * 2), X, 0),
    "tile": (lambda x: x.tile(2, 1), X, 0),
    "diff": (lambda x: x.diff(), X, 0),
    "movedim": (lambda x: x[None].movedim(0, 2), X, 0),
}


def _assigned(x: Any) -> Any:
    made = torch.zeros_like(x)
    made[1:] = x[:-1] * 2
    made[0, 1] = x[2, 3]
    made[:, 0] += x[:, 1]
    return made


def _changed(x: Any) -> Any:
    y = x * 2
    y += 1
    y *= x
    y[0] = 0
    y.sub_(x, alpha=2)
    return y


def _changed_through_view(x: Any) -> Any:
    y = x * 1
    y.t()[1] *= 3
    y.view(-1)[5] = 1.0
    return y


@pytest.mark.parametrize("name", ONE)
def test_one_operand(name):
    function, x, units = ONE[name]
    check_gradients(function, [x], [True], units * UNIT)


A, B, V = eighths(3, 4), eighths(4, 5, seed=1), eighths(4, seed=2)
BATCH, BATCH2, BIAS = eighths(2, 3, 4, seed=3), eighths(2, 4, 5, seed=4), eighths(5, seed=5)
IMAGE, KERNEL, LINE, TAPS = (
    eighths(2, 3, 5, 5),
    eighths(4, 3, 3, 3, seed=1, limit=1),
    eighths(2, 3, 8),
    eighths(4, 3, 3, seed=1),
)
DEEP, BY_CHANNEL = eighths(2, 4, 5, 5), eighths(4, 1, 3, 3, seed=1, limit=1)

TWO: dict[str, tuple[Callable[[Any, Any], Any], torch.Tensor, torch.Tensor, float]] = {
    "+": (lambda x, y: x + y, X, Y, 0),
    "+ row": (lambda x, y: x + y, X, ROW, 0),
    "- column": (lambda x, y: x - y, X, COLUMN, 0),
    "add alpha": (lambda x, y: torch.add(x, y, alpha=0.5), X, Y, 0),
    "*": (lambda x, y: x * y, X, Y, 0),
    "* row": (lambda x, y: x * y, X, ROW, 0),
    "* column": (lambda x, y: y * x, X, COLUMN, 0),
    "outer *": (lambda x, y: x * y, ROW, COLUMN, 0),
    "* 0-d": (lambda x, y: x * y, X, torch.tensor(1.5), 0),
    "/": (lambda x, y: x / y, X, POSITIVE, 60),
    "/ row": (lambda x, y: x / y, X, POSITIVE[0], 100),
    "/ 0-d": (lambda x, y: x / y, X, torch.tensor(1.5), 100),
    "@": (lambda x, y: x @ y, A, B, 2),
    "mm": (lambda x, y: torch.mm(x, y), A, B, 2),
    "matrix @ vector": (lambda x, y: x @ y, A, V, 2),
    "vector @ matrix": (lambda x, y: x @ y, V, B, 2),
    "vector @ vector": (lambda x, y: x @ y, V, V * 2, 2),
    "batch @ batch": (lambda x, y: x @ y, BATCH, BATCH2, 2),
    "batch @ matrix": (lambda x, y: x @ y, BATCH, B, 2),
    "batch @ vector": (lambda x, y: x @ y, BATCH, V, 2),
    "einsum": (lambda x, y: torch.einsum("bij,bjk->bik", x, y), BATCH, BATCH2, 2),
    "tensordot": (lambda x, y: torch.tensordot(x, y, 1), A, B, 2),
    "linear": (lambda x, y: F.linear(x, y.t(), BIAS), BATCH, B, 2),
    "addmm": (lambda x, y: torch.addmm(BIAS, x, y, beta=2, alpha=0.5), A, B, 2),
    "conv2d": (lambda x, y: F.conv2d(x, y, padding=1), IMAGE, KERNEL, 2),
    "conv2d stride": (lambda x, y: F.conv2d(x, y, stride=2), IMAGE, KERNEL, 2),
    "conv2d dilation": (lambda x, y: F.conv2d(x, y, dilation=2, padding=(1, 2)), IMAGE, KERNEL, 2),
    "conv2d groups": (lambda x, y: F.conv2d(x, y, groups=4), DEEP, BY_CHANNEL, 2),
    "conv1d": (lambda x, y: F.conv1d(x, y, padding=1, stride=2), LINE, TAPS, 2),
    "maximum": (lambda x, y: torch.maximum(x, y + 1 / 16), X, Y, 0),
    "minimum": (lambda x, y: torch.minimum(x, y + 1 / 16), X, Y, 0),
    "max of two": (lambda x, y: torch.max(x, y + 1 / 16), X, Y, 0),
    "where": (lambda x, y: torch.where(_MASK, x, y), X, Y, 0),
    "where by shared": (lambda x, y: torch.where(x > 0, x, y), NOT_ZERO, Y, 0),
    "cat": (lambda x, y: torch.cat([x, y, x]), X, Y, 0),
    "stack": (lambda x, y: torch.stack([x, y]), X, Y, 0),
    "index_add": (lambda x, y: x.index_add(0, torch.tensor([1, 1, 0]), y), X, Y, 0),
    "index_put": (lambda x, y: x.index_put((torch.tensor([1]),), y[0]), X, Y, 0),
    "scatter_add": (lambda x, y: x.scatter_add(0, _PLACES, y), X, Y[:2], 0),
    "masked_scatter": (lambda x, y: x.masked_scatter(_MASK, y), X, Y, 0),
    "assignment": (lambda x, y: _assigned_from(x, y), X, Y, 0),
    "lerp": (lambda x, y: torch.lerp(x, y, 0.25), X, Y, 0),
    "mse": (lambda x, y: F.mse_loss(x, y), X, Y, 3),
    "squared error": (lambda x, y: ((x - y) ** 2).sum(), X, Y, 0),
    "addcmul": (lambda x, y: torch.addcmul(x, x, y), X, Y, 2),
    "polynomial": (lambda x, y: x * y + x**2 - 3 * y, X, Y, 2),
    "used twice": (lambda x, y: (x * y) * (x * y), X, Y / 4, 30),
}


def _assigned_from(x: Any, y: Any) -> Any:
    made = x * 1
    made[1] = y[0]
    made[:, 2] = y[:, 3] * 2
    made[_MASK] = 0.0
    return made


@pytest.mark.parametrize("name", TWO)
@pytest.mark.parametrize("shared", [[True, True], [True, False], [False, True]], ids=["both", "left", "right"])
def test_two_operands(name, shared):
    if name == "assignment" and shared == [False, True]:
        pytest.skip("a secret cannot be written into a plain tensor")
    function, x, y, units = TWO[name]
    check_gradients(function, [x, y], shared, units * UNIT)


POOL_INPUT = torch.randperm(2 * 2 * 6 * 6, generator=torch.Generator().manual_seed(3)).reshape(2, 2, 6, 6) / 8.0 - 9
POOL_LINE = POOL_INPUT.reshape(2, 4, 18)
POOLS: dict[str, tuple[Callable[[Any], Any], torch.Tensor]] = {
    "max 2": (lambda x: F.max_pool2d(x, 2), POOL_INPUT),
    "max overlapping": (lambda x: F.max_pool2d(x, 3, 2, 1), POOL_INPUT),
    "max dilation": (lambda x: F.max_pool2d(x, 2, 1, 0, 2), POOL_INPUT),
    "max 1d": (lambda x: F.max_pool1d(x, 3, 2), POOL_LINE),
    "avg 2": (lambda x: F.avg_pool2d(x, 2), POOL_INPUT),
    "avg overlapping": (lambda x: F.avg_pool2d(x, 3, 2, 1), POOL_INPUT),
    "avg not include": (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), POOL_INPUT),
    "avg 1d": (lambda x: F.avg_pool1d(x, 2), POOL_LINE),
    "adaptive avg": (lambda x: F.adaptive_avg_pool2d(x, 1), POOL_INPUT),
    "adaptive avg uneven": (lambda x: F.adaptive_avg_pool2d(x, (4, 5)), POOL_INPUT),
    "adaptive max": (lambda x: F.adaptive_max_pool2d(x, (2, 4)), POOL_INPUT),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools(name):
    function, x = POOLS[name]
    check_gradients(function, [x], [True], 0 if name.startswith(("max", "adaptive max")) else 5 * UNIT)
