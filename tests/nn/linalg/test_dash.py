"""``DASH`` against one regression for each column."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sharetorch as st
from sharetorch.nn.linalg import DASH, DegreesOfFreedomError, NotFittedError, RegressionDataError, SingularDesignError
from tests.nn.linalg.reference import ALICE, BOB, HONEST, PROVIDER, Fit, least_squares, require_close


def scan() -> DASH:
    return DASH(PROVIDER, HONEST)


def one_by_one(x: Tensor, c: Tensor, y: Tensor) -> Fit:
    """The first coefficient of y on [x_m, C], for each m."""
    fits = [least_squares(torch.cat([x[:, m : m + 1], c], 1), y, intercept=False) for m in range(x.shape[1])]
    return Fit(*(np.array([part[0] for part in parts]) for parts in zip(*fits, strict=True)))


def found(done: DASH) -> Fit:
    return Fit(done.coef.double().numpy(), done.se.double().numpy(), done.pvalue.double().numpy())


@pytest.fixture
def data() -> tuple[Tensor, Tensor, Tensor]:
    """Counts 0, 1, 2 of alleles; a constant, age, a principal component; a trait."""
    c = torch.cat([torch.ones(150, 1), 50 + 15 * torch.randn(150, 1), 0.01 * torch.randn(150, 1)], 1).double()
    x = torch.randint(0, 3, (150, 8)).double()
    return x, c, 0.3 * x[:, 0] + 0.02 * c[:, 1] + torch.randn(150)


@pytest.mark.parametrize("cuts", [[150], [50, 70, 30], [1, 2, 147]])
def test_each_column_as_if_alone(data: tuple[Tensor, Tensor, Tensor], cuts: list[int]) -> None:
    x, c, y = data
    done = scan().fit(x.split(cuts), c.split(cuts), y.split(cuts))
    require_close(found(done), one_by_one(x, c, y), relative=5e-4)
    assert done.dof == 146
    assert torch.equal(done.se, done.se_coef)
    assert torch.equal(done.pvalue, done.pvalue_coef)


def test_columns_of_any_magnitude_and_near_the_covariates(data: tuple[Tensor, Tensor, Tensor]) -> None:
    x, c, y = data
    x[:, 1] *= 1e-9
    x[:, 2] = x[:, 2] * 1e9 + 1e11
    x[:, 3] = 0.5 * x[:, 3] + c[:, 1]
    done = scan().fit(x.split(75), c.split(75), y.split(75))
    require_close(found(done), one_by_one(x, c, y), relative=1e-3)


@pytest.mark.parametrize("ratio", [100, 3000])
def test_means_far_from_zero(data: tuple[Tensor, Tensor, Tensor], ratio: float) -> None:
    x, c, y = data
    c[:, 2] = c[:, 2] * 100 + ratio
    x[:, 1] = torch.randn(150) + ratio
    done = scan().fit(x.split(75), c.split(75), y.split(75))
    require_close(found(done), one_by_one(x, c, y), relative=2e-3)


def test_columns_that_cannot_be_tested_are_not_numbers(data: tuple[Tensor, Tensor, Tensor]) -> None:
    x, c, y = data
    x[:, 1], x[:, 2], x[:, 3] = 0, 2, c[:, 1] - 3 * c[:, 2]
    done = scan().fit(x.split(75), c.split(75), y.split(75))
    assert torch.isnan(done.coef).tolist() == [False, True, True, True] + [False] * 4
    assert torch.equal(torch.isnan(done.pvalue), torch.isnan(done.coef))
    kept = ~torch.isnan(done.coef)
    require_close(Fit(*(part[kept.numpy()] for part in found(done))), one_by_one(x[:, kept], c, y))


def test_shared_already(data: tuple[Tensor, Tensor, Tensor]) -> None:
    x, c, y = data
    c[:, 1:] /= torch.tensor([50, 0.01])
    xs, cs, ys = ([part.share(ALICE, BOB, crypto_provider=PROVIDER, precision=20)] for part in (x, c, y))
    require_close(found(scan().fit(xs, cs, ys)), one_by_one(x, c, y))


def test_dependent_covariates_are_refused(data: tuple[Tensor, Tensor, Tensor]) -> None:
    x, c, y = data
    for covariates, target in ((torch.cat([c, c[:, :1]], 1), y), (c, c[:, 1])):
        with pytest.raises(SingularDesignError, match="covariates"):
            scan().fit([x], [covariates], [target])


@pytest.mark.parametrize(
    ("parts", "error", "text"),
    [
        (([], [], []), RegressionDataError, "0 tensors X"),
        (([torch.ones(5, 1)], [], [torch.ones(5)]), RegressionDataError, "0 tensors C"),
        (([torch.ones(4, 1)], [torch.ones(5, 1)], [torch.ones(5)]), RegressionDataError, "5 rows of C and X"),
        (([torch.ones(5)], [torch.ones(5, 1)], [torch.ones(5)]), RegressionDataError, "X of owner 0"),
        (([torch.ones(2, 9)], [torch.ones(2, 1)], [torch.ones(2)]), DegreesOfFreedomError, "2 rows in all for 1"),
        (
            ([torch.ones(5, 1)] * 2, [torch.ones(5, 1), torch.ones(5, 2)], [torch.ones(5)] * 2),
            RegressionDataError,
            r"\(1, 1\), \(2, 1\)",
        ),
        (([torch.full((5, 1), math.nan)], [torch.ones(5, 1)], [torch.ones(5)]), st.exceptions.NotFiniteError, "X of"),
    ],
)
def test_data_that_do_not_fit_are_refused(parts: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        scan().fit(*parts)


def test_summary(data: tuple[Tensor, Tensor, Tensor], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFittedError):
        scan().summary()
    x, c, y = data
    scan().fit([x], [c], [y]).summarize()
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:9]] == [f"x{j}" for j in range(1, 9)]


def test_digits() -> None:
    with pytest.raises(st.exceptions.EncodingError):
        DASH(PROVIDER, HONEST, precision_fractional=9)
