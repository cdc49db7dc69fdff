"""``qr``: Q is orthogonal, R triangular, and their product the matrix."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor

import sharetorch as st
from sharetorch.nn.linalg import qr
from tests.nn.linalg.reference import ALICE, BOB, PROVIDER


def require_decomposition(q: Tensor, r: Tensor, x: Tensor, mode: str, bound: float) -> None:
    expected = torch.linalg.qr(x, mode=mode)
    assert q.shape == expected.Q.shape
    assert r.shape == expected.R.shape
    assert float((q.t() @ q - torch.eye(q.shape[1])).abs().max()) <= bound
    assert float((q @ r - x).abs().max()) <= bound * max(1.0, float(x.abs().max()))
    assert bool((r.tril(-1) == 0).all())


@pytest.mark.parametrize("mode", ["reduced", "complete"])
@pytest.mark.parametrize("shape", [(5, 3), (3, 3), (2, 4), (1, 1), (4, 1), (1, 3)])
def test_shapes(shape: tuple[int, int], mode: str) -> None:
    x = torch.randn(shape, dtype=torch.float64) * 5
    q, r = qr(x.share(ALICE, BOB, crypto_provider=PROVIDER, precision=24), mode=mode)
    require_decomposition(q.get(), r.get(), x, mode, 2.0**-18)


@pytest.mark.parametrize("mode", ["reduced", "complete"])
def test_zero_and_dependent_columns(mode: str) -> None:
    x = torch.randn(5, 4, dtype=torch.float64)
    x[:, 0] = 0
    x[:, 2] = -2 * x[:, 1]
    q, r = qr(x.share(ALICE, BOB, crypto_provider=PROVIDER, precision=24), mode=mode)
    require_decomposition(q.get(), r.get(), x, mode, 2.0**-14)


@settings(max_examples=15, deadline=None)
@given(some.integers(1, 5), some.integers(1, 4), some.floats(-6, 4), some.integers(0, 10**6))
def test_any_scale_within_the_range(m: int, n: int, power: float, seed: int) -> None:
    x = torch.randn(m, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2.0**power
    q, r = qr(x.fix_precision(24, base=2))
    require_decomposition(q.get(), r.get(), x, "reduced", 2.0**-14)


def test_a_norm_factor_extends_the_range() -> None:
    x = torch.randn(4, 3, dtype=torch.float64) * 2000
    q, r = qr(x.share(ALICE, BOB, crypto_provider=PROVIDER, precision=16), norm_factor=1000.0)
    require_decomposition(q.get(), r.get(), x, "reduced", 1e-4)


def test_local_tutorial_precision_keeps_its_kind() -> None:
    x = torch.randn(4, 3)
    q, r = qr(x.fix_precision(5))
    assert isinstance(q, st.FixedPrecisionTensor)
    require_decomposition(q.float_precision(), r.float_precision(), x, "reduced", 1e-3)


def test_plain() -> None:
    x = torch.randn(4, 3)
    q, r = qr(x)
    require_decomposition(q, r, x, "reduced", 1e-5)


@pytest.mark.parametrize("x", [torch.ones(3), torch.ones(0, 2), "x"])
def test_other_shapes_are_refused(x: Any) -> None:
    with pytest.raises(st.exceptions.ShapeError, match="matrix"):
        qr(x)


def test_other_settings_are_refused() -> None:
    with pytest.raises(st.exceptions.UnsupportedOperationError, match="'r'"):
        qr(torch.ones(2, 2), mode="r")
    for factor in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(st.exceptions.DivisionByZeroError):
            qr(torch.ones(2, 2), norm_factor=factor)
