"""Operations that move, pick, repeat and add up, against torch: exact values, shapes and kinds of number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import sharetorch as st
from tests.tensor.tools import assert_same, eighths, has_shared, integers, share

Case = Callable[[Any], Any]
_PLACES = torch.tensor([[0, 2, 1, 0], [1, 1, 2, 2]])
_MASK = torch.tensor([[True, False, True, False], [False, True, True, False], [True, True, False, False]])

ON_3_BY_4: dict[str, Case] = {
    "view": lambda x: x.view(2, 6),
    "view -1": lambda x: x.view(-1),
    "view_as": lambda x: x.view_as(torch.zeros(4, 3)),
    "reshape": lambda x: x.reshape(4, 3),
    "reshape transposed": lambda x: x.t().reshape(2, 6),
    "reshape_as": lambda x: x.reshape_as(torch.zeros(12)),
    "t": lambda x: x.t(),
    "T": lambda x: x.T,
    "mT": lambda x: x.mT,
    "adjoint": lambda x: x.adjoint(),
    "transpose": lambda x: x.transpose(0, -1),
    "swapaxes": lambda x: x.swapaxes(0, 1),
    "swapdims": lambda x: x.swapdims(0, 1),
    "permute": lambda x: x.permute(1, 0),
    "torch.permute": lambda x: torch.permute(x, (1, 0)),
    "movedim": lambda x: x.movedim(0, 1),
    "moveaxis": lambda x: torch.moveaxis(x, 1, 0),
    "contiguous": lambda x: x.t().contiguous(),
    "clone": lambda x: x.clone(),
    "expand": lambda x: x.unsqueeze(0).expand(2, -1, -1),
    "expand_as": lambda x: x.expand_as(torch.zeros(2, 3, 4)),
    "broadcast_to": lambda x: torch.broadcast_to(x, (2, 3, 4)),
    "repeat": lambda x: x.repeat(2, 1, 3),
    "tile": lambda x: x.tile(2, 2),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=1),
    "repeat_interleave flat": lambda x: x.repeat_interleave(3),
    "repeat_interleave counts": lambda x: x.repeat_interleave(torch.tensor([1, 0, 2]), dim=0),
    "squeeze": lambda x: x.unsqueeze(0).unsqueeze(2).squeeze(),
    "squeeze dim": lambda x: x.unsqueeze(1).squeeze(1),
    "squeeze dims": lambda x: x.reshape(1, 3, 1, 4).squeeze((0, 2)),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "flatten": lambda x: x.flatten(),
    "flatten some": lambda x: x.reshape(3, 2, 2).flatten(1),
    "ravel": lambda x: x.ravel(),
    "unflatten": lambda x: x.unflatten(1, (2, 2)),
    "cat": lambda x: torch.cat([x, x * 2], dim=1),
    "concat": lambda x: torch.concat([x, x]),
    "cat plain": lambda x: torch.cat([x, torch.ones(1, 4).to(x.dtype)]),
    "cat plain first": lambda x: torch.cat([torch.ones(1, 4).to(x.dtype), x]),
    "stack": lambda x: torch.stack([x, x + 1], dim=1),
    "stack plain": lambda x: torch.stack([torch.ones(3, 4).to(x.dtype), x]),
    "hstack": lambda x: torch.hstack([x, x]),
    "vstack": lambda x: torch.vstack([x, x]),
    "dstack": lambda x: torch.dstack([x, x]),
    "column_stack": lambda x: torch.column_stack([x, x[:, 0]]),
    "split": lambda x: x.split(3, dim=1),
    "split sizes": lambda x: torch.split(x, [1, 3], dim=1),
    "chunk": lambda x: x.chunk(2),
    "tensor_split": lambda x: x.tensor_split(3, dim=1),
    "tensor_split places": lambda x: torch.tensor_split(x, (1, 3), dim=1),
    "hsplit": lambda x: x.hsplit(2),
    "vsplit": lambda x: x.vsplit(3),
    "unbind": lambda x: x.unbind(1),
    "iteration": lambda x: list(x),
    "len": lambda x: len(x),
    "pad": lambda x: F.pad(x, (1, 2, 0, 1)),
    "pad negative": lambda x: F.pad(x, (-1, 2)),
    "pad value": lambda x: F.pad(x, (1, 1), value=3),
    "roll": lambda x: x.roll(1),
    "roll dims": lambda x: x.roll((1, -1), (0, 1)),
    "flip": lambda x: x.flip(0, 1),
    "fliplr": lambda x: x.fliplr(),
    "flipud": lambda x: x.flipud(),
    "rot90": lambda x: x.rot90(1, (0, 1)),
    "gather": lambda x: x.gather(0, _PLACES),
    "index_select": lambda x: x.index_select(1, torch.tensor([3, 0, 0])),
    "take_along_dim": lambda x: x.take_along_dim(_PLACES, 0),
    "take": lambda x: x.take(torch.tensor([[0, 11], [5, 5]])),
    "narrow": lambda x: x.narrow(1, 1, 2),
    "select": lambda x: x.select(1, -1),
    "tril": lambda x: x.tril(),
    "triu": lambda x: x.triu(1),
    "diagonal": lambda x: x.diagonal(1),
    "diag": lambda x: x.diag(),
    "diag of vector": lambda x: x[0].diag(),
    "diag_embed": lambda x: x.diag_embed(),
    "diagflat": lambda x: x[0].diagflat(),
    "trace": lambda x: x.trace(),
    "unfold": lambda x: x.unfold(1, 2, 1),
    "as_strided": lambda x: x.as_strided((2, 2), (4, 1), 1),
    "movedim view of view": lambda x: x.t()[1:].reshape(3, 3)[:, ::2],
    "x[i]": lambda x: x[1],
    "x[-1]": lambda x: x[-1],
    "x[i, j]": lambda x: x[1, 2],
    "x[a:b]": lambda x: x[1:3],
    "x[::2]": lambda x: x[:, ::2],
    "x[None]": lambda x: x[None, :, None],
    "x[...]": lambda x: x[..., 1],
    "x[tensor]": lambda x: x[torch.tensor([2, 0])],
    "x[list]": lambda x: x[[0, 2]],
    "x[tensor, tensor]": lambda x: x[torch.tensor([0, 1]), torch.tensor([3, 2])],
    "x[:, tensor]": lambda x: x[:, torch.tensor([3, 0, 0])],
    "x[mask]": lambda x: x[_MASK],
    "x[row mask]": lambda x: x[torch.tensor([True, False, True])],
    "x[:, column mask]": lambda x: x[:, torch.tensor([True, False, True, True])],
    "x[0-d tensor]": lambda x: x[torch.tensor(1)],
    "x[True]": lambda x: x[True],
    "x[range]": lambda x: x[range(2)],
    "masked_select": lambda x: x.masked_select(_MASK),
    "index_add": lambda x: x.index_add(0, torch.tensor([0, 2]), x[:2]),
    "index_copy": lambda x: x.index_copy(0, torch.tensor([2, 0]), x[:2]),
    "index_fill": lambda x: x.index_fill(1, torch.tensor([0, 3]), 2),
    "index_put": lambda x: x.index_put((torch.tensor([0, 1]), torch.tensor([1, 1])), x[0, :2]),
    "scatter": lambda x: x.scatter(0, _PLACES, x),
    "scatter value": lambda x: x.scatter(0, _PLACES, 2),
    "scatter_add": lambda x: x.scatter_add(0, _PLACES, x),
    "select_scatter": lambda x: x.select_scatter(x[0], 0, 2),
    "slice_scatter": lambda x: x.slice_scatter(x[:2], 0, 1, 3),
    "diagonal_scatter": lambda x: x.diagonal_scatter(x[0, :3]),
    "masked_fill": lambda x: x.masked_fill(_MASK, 2),
    "masked_scatter": lambda x: x.masked_scatter(_MASK, x),
    "where public": lambda x: torch.where(_MASK, x, x * 2),
    "where method": lambda x: x.where(_MASK, x * 2),
    "where plain": lambda x: torch.where(_MASK, x, torch.ones(3, 4).to(x.dtype)),
    "where number": lambda x: torch.where(_MASK, x, 0),
    "sum": lambda x: x.sum(),
    "sum dim": lambda x: x.sum(1),
    "sum dims": lambda x: x.sum((0, 1)),
    "sum keepdim": lambda x: x.sum(0, keepdim=True),
    "nansum": lambda x: x.nansum(),
    "sum_to_size": lambda x: x.sum_to_size(1, 4),
    "cumsum": lambda x: x.cumsum(1),
    "diff": lambda x: x.diff(dim=1),
    "atleast_3d": lambda x: torch.atleast_3d(x),
    "block_diag": lambda x: torch.block_diag(x, x),
    "broadcast_tensors": lambda x: torch.broadcast_tensors(x, x[0]),
    "swap by unpacking": lambda x: [row for row in x][::-1],
    "zeros_like": lambda x: torch.zeros_like(x),
    "ones_like": lambda x: torch.ones_like(x),
    "full_like": lambda x: torch.full_like(x, 2),
    "new_zeros": lambda x: x.new_zeros(2, 2),
    "new_ones": lambda x: x.new_ones(3),
    "new_full": lambda x: x.new_full((2,), 3),
    "detach": lambda x: x.detach(),
    "data": lambda x: x.data,
    "numel": lambda x: [x.numel(), x.nelement(), torch.numel(x)],
    "dim": lambda x: [x.dim(), x.ndim, x.ndimension()],
    "size": lambda x: [list(x.size()), x.size(1), list(x.shape), list(x.stride()), x.storage_offset()],
    "is_contiguous": lambda x: [x.is_contiguous(), x.t().is_contiguous()],
    "kinds": lambda x: [x.is_floating_point(), x.is_complex(), x.is_signed(), x.dtype, str(x.device), x.is_leaf],
    "neg": lambda x: -x,
    "pos": lambda x: +x,
    "positive": lambda x: x.positive(),
    "real": lambda x: x.real,
    "conj": lambda x: x.conj(),
    "cpu": lambda x: x.cpu(),
    "to cpu": lambda x: x.to("cpu"),
    "type_as": lambda x: x.type_as(x),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x.reshape(1, 12, 1, 1)[:, :8], 2),
    "upsample": lambda x: x.repeat_interleave(2, 0).repeat_interleave(2, 1),
    "cross-section": lambda x: x.view(3, 2, 2)[:, 0, ::1].t(),
}

ON_REALS: dict[str, Case] = {
    "F.fold": lambda x: F.fold(x.reshape(1, 4, 3), (2, 4), (2, 2)),
    "F.unfold": lambda x: F.unfold(x.reshape(1, 1, 3, 4), (2, 2)),
    "pad reflect": lambda x: F.pad(x.reshape(1, 3, 4), (1, 2), mode="reflect"),
    "pad replicate": lambda x: F.pad(x.reshape(1, 3, 4), (1, 2), mode="replicate"),
    "pad circular": lambda x: F.pad(x.reshape(1, 3, 4), (1, 2), mode="circular"),
    "pad reflect 2d": lambda x: F.pad(x.reshape(1, 1, 3, 4), (1, 1, 2, 2), mode="reflect"),
    "float": lambda x: x.float(),
    "double": lambda x: x.double(),
    "to dtype": lambda x: x.to(torch.float64),
    "mean of powers of two": lambda x: x.mean(1),
    "interpolate nearest": lambda x: F.interpolate(x.reshape(1, 3, 4), scale_factor=2),
}

ON_INTEGERS: dict[str, Case] = {
    "long": lambda x: x.long(),
    "to float": lambda x: x.float(),
    "to double": lambda x: x.to(torch.float64),
}


def _check(case: Case, x: torch.Tensor) -> None:
    expected = case(x)
    actual = case(share(x))
    assert_same(actual, expected)
    parts = expected if isinstance(expected, (tuple, list)) else [expected]
    assert has_shared(actual) == any(isinstance(part, torch.Tensor) for part in parts)


@pytest.mark.parametrize("name", [*ON_3_BY_4, *ON_REALS])
def test_on_reals(name):
    _check({**ON_3_BY_4, **ON_REALS}[name], eighths(3, 4))


@pytest.mark.parametrize("name", [*ON_3_BY_4, *ON_INTEGERS])
def test_on_integers(name):
    _check({**ON_3_BY_4, **ON_INTEGERS}[name], integers(3, 4))


@pytest.mark.parametrize("name", ["view", "sum dim", "cat", "flip", "reshape", "x[None]", "neg", "T", "pad"])
def test_on_views_that_are_not_contiguous(name):
    case = ON_3_BY_4[name]
    if name == "view":
        with pytest.raises(st.exceptions.ShapeError, match="reshape"):
            case(share(eighths(4, 3)).t())
        return
    x = eighths(4, 3)
    assert_same(case(share(x).t()), case(x.t()))


EMPTY: dict[str, Case] = {
    "sum": lambda x: x.sum(),
    "sum dim": lambda x: x.sum(0),
    "add": lambda x: x + x,
    "mul": lambda x: x * x,
    "mul number": lambda x: x * 1.3,
    "matmul": lambda x: x.t() @ x,
    "matmul other": lambda x: x @ x.t(),
    "compare": lambda x: (x > 0).to(x.dtype),
    "relu": lambda x: x.relu(),
    "abs": lambda x: x.abs(),
    "cat": lambda x: torch.cat([x, x + 1]),
    "reshape": lambda x: x.reshape(3, 0),
    "index": lambda x: x[:, 0],
    "div": lambda x: x / 3,
    "div shared": lambda x: x / (x + 1),
    "sqrt": lambda x: x.sqrt(),
    "prod": lambda x: x.prod(),
}


@pytest.mark.parametrize("name", EMPTY)
def test_empty(name):
    _check(EMPTY[name], torch.zeros(0, 3))


ZERO_DIM: dict[str, Case] = {
    "add": lambda x: x + x,
    "mul": lambda x: x * x,
    "mul 0-d plain": lambda x: x * torch.tensor(2.0),
    "matmul by scaling": lambda x: x * torch.ones(3),
    "sum": lambda x: x.sum(),
    "mean": lambda x: x.mean(),
    "reshape": lambda x: x.reshape(1),
    "unsqueeze": lambda x: x.unsqueeze(0),
    "expand": lambda x: x.expand(3),
    "relu": lambda x: x.relu(),
    "abs": lambda x: x.abs(),
    "compare": lambda x: (x > 0).to(x.dtype),
    "max": lambda x: x.max(),
    "argmax": lambda x: x.argmax(),
    "stack": lambda x: torch.stack([x, x]),
    "x[...]": lambda x: x[...],
    "x[None]": lambda x: x[None],
    "square": lambda x: x**2,
}


@pytest.mark.parametrize("name", ZERO_DIM)
def test_zero_dim(name):
    _check(ZERO_DIM[name], torch.tensor(-1.5))
