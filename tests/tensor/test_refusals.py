"""What needs a secret in the clear, or has no secure form, raises: naming the operation, the line, a way out."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import sharetorch as st
from tests.tensor.tools import assert_same, eighths, share

X = eighths(3, 4)

REVEALING: dict[str, Callable[[Any], Any]] = {
    "bool": lambda x: bool(x[0, 0]),
    "if": lambda x: 1 if x[0, 0] > 0 else 0,
    "and": lambda x: (x[0, 0] > 0) and True,
    "item": lambda x: x[0, 0].item(),
    "int": lambda x: int(x[0, 0]),
    "float": lambda x: float(x[0, 0]),
    "complex": lambda x: complex(x[0, 0]),
    "index": lambda x: [1, 2, 3][x[0, 0].long()] if False else range(5)[(x[0, 0] > 0)],
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "np.asarray": lambda x: np.asarray(x),
    "np.array": lambda x: np.array(x),
    "numpy function": lambda x: np.sum(x),
    "pickle": lambda x: pickle.dumps(x),
    "torch.save": lambda x: torch.save(x, io.BytesIO()),
    "round": lambda x: round(float(x[0, 0])),
    "format of a number": lambda x: f"{x[0, 0]:.3f}",
    "contains": lambda x: 1.0 in x,
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "is_nonzero": lambda x: torch.is_nonzero(x[0, 0]),
    "nonzero": lambda x: x.nonzero(),
    "where with one argument": lambda x: torch.where(x > 0),
    "masked_select shared": lambda x: x.masked_select(x > 0),
    "index by shared mask": lambda x: x[x > 0],
    "index by shared index": lambda x: x[x.argmax()],
    "plain indexed by shared": lambda x: torch.arange(12)[x.argmax()],
    "assignment by shared mask": lambda x: x.__setitem__(x > 0, 1.0),
    "gather by shared index": lambda x: x.gather(0, x.argmax(0, keepdim=True)),
    "plain gathered by shared": lambda x: torch.ones(3, 4).gather(0, x.argmax(0, keepdim=True)),
    "index_select shared": lambda x: x.index_select(0, x.argmax(0)),
    "unique": lambda x: x.unique(),
    "histogram": lambda x: torch.histc(x),
    "data_ptr": lambda x: x.data_ptr(),
    "storage": lambda x: x.untyped_storage().tolist(),
    "dlpack": lambda x: x.__dlpack__(),
    "share_memory_": lambda x: x.share_memory_(),
    "bincount": lambda x: (x > 0).long().flatten().bincount(),
    "one_hot": lambda x: F.one_hot((x > 0).long()),
    "embedding by shared index": lambda x: F.embedding((x > 0).long(), torch.ones(3, 2)),
}


@pytest.mark.parametrize("name", REVEALING)
def test_revealing_operations_raise(name):
    x = share(X)
    with pytest.raises((st.ShareTorchError, TypeError, RuntimeError)) as caught:
        REVEALING[name](x)
    if not isinstance(caught.value, st.ShareTorchError):
        assert name in ("format of a number", "storage", "numpy function")
    assert_same(x, X)


UNSUPPORTED: dict[str, Callable[[Any], Any]] = {
    "exp": lambda x: x.exp(),
    "log": lambda x: torch.log(x),
    "sigmoid": lambda x: torch.sigmoid(x),
    "tanh": lambda x: x.tanh(),
    "softmax": lambda x: F.softmax(x, 1),
    "log_softmax": lambda x: F.log_softmax(x, 1),
    "gelu": lambda x: F.gelu(x),
    "quantile": lambda x: x.quantile(0.5),
    "short numbers of buckets": lambda x: torch.bucketize(x, torch.arange(3), out_int32=True),
    "sin": lambda x: x.sin(),
    "floor": lambda x: x.floor(),
    "round": lambda x: x.round(),
    "mode": lambda x: x.mode(),
    "inverse": lambda x: x[:, :3].inverse(),
    "svd": lambda x: torch.linalg.svd(x),
    "floor division": lambda x: x // 2,
    "remainder": lambda x: x % 2,
    "power of a secret": lambda x: 2**x,
    "fractional power": lambda x: x**1.3,
    "bitwise and of numbers": lambda x: x.__class__.__and__((x * 8).detach(), 3),
    "shift": lambda x: x << 1,
    "rounding": lambda x: x.long(),
    "interpolate": lambda x: F.interpolate(x[None, None], scale_factor=2, mode="bilinear"),
    "conv_transpose": lambda x: F.conv_transpose2d(x[None, None], torch.ones(1, 1, 2, 2)),
    "conv3d": lambda x: F.conv3d(x[None, None, None], torch.ones(1, 1, 1, 2, 2)),
    "cross_entropy": lambda x: F.cross_entropy(x, torch.tensor([0, 1, 2])),
    "layer_norm": lambda x: F.layer_norm(x, (4,)),
    "random": lambda x: x.normal_(),
    "rand_like": lambda x: torch.rand_like(x),
    "dropout of features": lambda x: F.alpha_dropout(x, training=True),
    "max pool indices": lambda x: F.max_pool2d(x[None, None], 2, return_indices=True),
    "scatter_reduce": lambda x: x.scatter_reduce(0, torch.zeros(3, 4, dtype=torch.int64), x, "amax"),
    "cdist": lambda x: torch.cdist(x, x),
    "erf": lambda x: x.erf(),
    "cummax": lambda x: x.cummax(0),
    "renorm": lambda x: x.renorm(2, 0, 1),
    "fft": lambda x: torch.fft.fft(x),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_operations_name_themselves_and_the_line(name):
    x = share(X)
    with pytest.raises(st.exceptions.UnsupportedOperationError) as caught:
        UNSUPPORTED[name](x)
    message = str(caught.value)
    assert "test_refusals.py, line" in message
    assert any(word in message for word in ("Use", "use", "Compose", "Polynomials", "available", "open", "live"))
    assert_same(x, X)


def test_the_message_of_an_unsupported_operation():
    with pytest.raises(st.exceptions.UnsupportedOperationError) as caught:
        share(X).sigmoid()
    assert "aten.sigmoid.default" in str(caught.value)
    assert "test_refusals.py" in str(caught.value)
    assert "share(X).sigmoid()" in str(caught.value)
    assert "clamp" in str(caught.value)


def test_bool_tells_what_to_do():
    with pytest.raises(ValueError, match=r"x\.get\(\)"):
        bool(share(X).sum())


def test_what_works_although_it_looks_inside():
    x = share(X)
    assert len(x) == 3
    assert [row.shape for row in x] == [torch.Size([4])] * 3
    assert "secret" not in repr(x)
    assert str(x) == repr(x) == f"{x}"
    assert hash(x) == hash(x)
    assert {x: 1}[x] == 1
    assert_same(copy.deepcopy(x), X)
    assert torch.is_tensor(x)
    assert x.nelement() == 12


def test_printing_shows_no_values():
    secret = torch.tensor([12345.0, 54321.0])
    text = repr(share(secret))
    assert "12345" not in text
    assert "54321" not in text
