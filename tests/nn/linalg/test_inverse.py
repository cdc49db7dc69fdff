"""``inv_sym`` against torch.linalg.inv."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import Tensor

import sharetorch as st
from sharetorch.mpc.tensor.shared import SharedTensor
from sharetorch.nn.linalg import inv_sym
from tests.nn.linalg.reference import ALICE, BOB, PROVIDER


def positive_definite(p: int, condition: float, seed: int = 0) -> Tensor:
    """Ones on the diagonal, eigenvalues spread evenly over about the condition number."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(p, p, dtype=torch.float64, generator=generator)).Q
    x = q @ torch.diag(torch.logspace(0, -float(torch.tensor(condition).log10()), p, dtype=torch.float64)) @ q.t()
    scale = x.diagonal().rsqrt()
    return x * scale * scale.unsqueeze(1)


def shared(x: Tensor, **options: Any) -> Any:
    return x.share(ALICE, BOB, crypto_provider=PROVIDER, **options)


def relative_error(found: Tensor, x: Tensor) -> float:
    expected = torch.linalg.inv(x)
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("p", "condition"), [(1, 1), (2, 10), (5, 100), (8, 1000), (8, 4000)])
def test_error_is_bounded_by_condition_times_a_unit(p: int, condition: float) -> None:
    x = positive_definite(p, condition)
    found = inv_sym(shared(x, precision=24))
    assert relative_error(found.get(), x) <= max(2, float(torch.linalg.cond(x))) * p * 2.0**-24


def test_units_of_the_matrix_do_not_matter() -> None:
    x = positive_definite(4, 50)
    units = torch.tensor([0.05, 1, 20, 60], dtype=torch.float64)
    found = inv_sym(shared(x * units * units.unsqueeze(1), precision=24)).get() * units * units.unsqueeze(1)
    assert relative_error(found, x) <= 50 * 2.0**-20


@pytest.mark.parametrize("options", [{}, {"precision": 20}])
def test_result_has_the_encoding_of_the_operand(options: dict[str, Any]) -> None:
    x = positive_definite(3, 20).float()
    found = inv_sym(shared(x, **options))
    assert isinstance(found, SharedTensor)
    assert found.encoding == shared(x, **options).encoding
    assert found.dtype == torch.float32
    assert relative_error(found.get(), x) <= 20 * 2.0**-15


def test_tutorial_precision_shared_and_local() -> None:
    x = positive_definite(3, 20).float()
    remote = inv_sym(x.fix_precision(6).share(ALICE, BOB, crypto_provider=PROVIDER))
    local = inv_sym(x.fix_precision(6))
    assert isinstance(local, st.FixedPrecisionTensor)
    for found in (remote.get().float_precision(), local.float_precision()):
        assert relative_error(found, x) <= 1e-4


@settings(max_examples=15, deadline=None)
@given(some.integers(1, 6), some.floats(1, 1000), some.integers(0, 10**6))
def test_local_inverse_times_matrix_is_one(p: int, condition: float, seed: int) -> None:
    x = positive_definite(p, condition, seed)
    found = inv_sym(x.fix_precision(24, base=2)).get()
    assert float((found @ x - torch.eye(p)).abs().max()) <= float(torch.linalg.cond(x)) * p * 2.0**-20


def test_plain_matrix() -> None:
    x = positive_definite(4, 10)
    assert torch.equal(inv_sym(x), torch.linalg.inv(x))


def test_a_matrix_that_is_not_positive_definite_gives_some_bounded_result() -> None:
    x = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    assert bool(torch.isfinite(inv_sym(shared(x)).get()).all())


@pytest.mark.parametrize("x", [torch.ones(2, 3), torch.ones(4), torch.ones(0, 0), 3.0])
def test_other_shapes_are_refused(x: Any) -> None:
    with pytest.raises(st.exceptions.ShapeError, match="square"):
        inv_sym(x)


def test_plain_nan_is_refused() -> None:
    with pytest.raises(st.exceptions.NotFiniteError):
        inv_sym(torch.tensor([[torch.nan]]))
