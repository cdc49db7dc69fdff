"""``EncryptedLinearRegression`` against least squares in the clear."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression
from torch import Tensor

import sharetorch as st
from sharetorch.nn.linalg import (
    DegreesOfFreedomError,
    EncryptedLinearRegression,
    NotFittedError,
    RegressionDataError,
    SingularDesignError,
)
from tests.nn.linalg.reference import (
    ALICE,
    BOB,
    HONEST,
    PROVIDER,
    correlated,
    least_squares,
    require_close,
    results,
)


def model(**options: Any) -> EncryptedLinearRegression:
    return EncryptedLinearRegression(PROVIDER, HONEST, **options)


def require_fit(x: Tensor, y: Tensor, cuts: list[int], relative: float = 2e-3, intercept: bool = True) -> None:
    fitted = model(fit_intercept=intercept).fit(x.split(cuts), y.split(cuts))
    require_close(results(fitted), least_squares(x, y, intercept), relative)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    x = torch.randn(200, 3, dtype=torch.float64)
    return x, x @ torch.tensor([1.0, -2, 0.1]).double() + 3 + torch.randn(200)


@pytest.mark.parametrize(("scaled", "cuts"), [(True, [200, 200, 42]), (False, [442])])
def test_diabetes_as_scikit_learn_finds_it(scaled: bool, cuts: list[int]) -> None:
    source = load_diabetes(scaled=scaled)
    x, y = torch.tensor(source.data), torch.tensor(source.target)
    fitted = model().fit(x.split(cuts), y.split(cuts))
    known = LinearRegression().fit(source.data, source.target)
    assert np.allclose(fitted.coef.numpy(), known.coef_, rtol=2e-4)
    assert float(fitted.intercept) == pytest.approx(known.intercept_, rel=2e-4)
    require_close(results(fitted), least_squares(x, y), relative=2e-4, pvalue=1e-4)
    assert fitted.dof == 431


def test_columns_of_any_magnitude() -> None:
    units = torch.tensor([1e-3, 1e3, 1.0, 1e-9, 1e9], dtype=torch.float64)
    x = torch.randn(300, 5, dtype=torch.float64)
    y = x.sum(1) + torch.randn(300) + 5
    require_fit(x * units, y * 1e6, [100, 200], relative=2e-4)


@settings(max_examples=5, deadline=None)
@given(some.lists(some.integers(-40, 40), min_size=2, max_size=4), some.integers(-40, 40), some.integers(0, 10**6))
def test_units_do_not_matter(powers: list[int], of_y: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(30, len(powers), dtype=torch.float64, generator=generator)
    y = x.sum(1) + torch.randn(30, generator=generator)
    units = torch.pow(2.0, torch.tensor(powers))
    require_fit(x * units, y * 2.0**of_y, [7, 23], relative=2e-4)


@pytest.mark.parametrize("condition", [100, 1e4, 3e4])
def test_correlated_columns(condition: float) -> None:
    x = correlated(400, 4, condition)
    assert np.linalg.cond(np.corrcoef(x.numpy().T)) > condition / 2
    require_fit(x, x.sum(1) + torch.randn(400), [150, 250], relative=5e-4)


@pytest.mark.parametrize("ratio", [100, 1e4, 3e5])
def test_means_far_from_zero(data: tuple[Tensor, Tensor], ratio: float) -> None:
    x, y = data
    require_fit(x + ratio, y - ratio, [50, 150], relative=5e-4)


@pytest.mark.parametrize("noise", [0.1, 1e-2, 1e-3])
def test_small_residuals(data: tuple[Tensor, Tensor], noise: float) -> None:
    x, _ = data
    y = x.sum(1) + noise * torch.randn(200)
    found, expected = results(model().fit(x.split(100), y.split(100))), least_squares(x, y)
    assert np.allclose(found.se, expected.se, rtol=1e-3)
    assert np.allclose(found.coef, expected.coef, rtol=0, atol=2.0**-19 * float(y.std()))


def test_a_perfect_fit_has_no_error() -> None:
    x = torch.randn(20, 2, dtype=torch.float64)
    fitted = model().fit([x], [x @ torch.tensor([2.0, -3.0]).double() + 1])
    assert fitted.coef.tolist() == pytest.approx([2, -3], rel=1e-5)
    assert float(fitted.intercept) == pytest.approx(1, rel=1e-4)
    assert float(fitted.se_coef.max()) < 1e-4


def test_owners_that_differ_more_than_their_data_vary(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    x[:100] += torch.tensor([50.0, -3, 0]).double()
    require_fit(x, y, [100, 100], relative=5e-4)


@pytest.mark.parametrize("cuts", [[1] * 9, [1, 8], [2, 2, 5]])
def test_owners_with_fewer_rows_than_columns(cuts: list[int]) -> None:
    x = torch.randn(9, 4, dtype=torch.float64)
    require_fit(x, x.sum(1) + torch.randn(9), cuts)


def test_without_intercept(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    require_fit(x, y, [50, 150], intercept=False)
    fitted = model(fit_intercept=False).fit([x], [y])
    assert fitted.intercept is fitted.se_intercept is fitted.pvalue_intercept is None
    assert fitted.dof == 197


@pytest.mark.parametrize("intercept", [True, False])
def test_one_column_and_the_fewest_rows(intercept: bool) -> None:
    x = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)[: 2 + intercept]
    require_fit(x, torch.tensor([1.0, 3.0, 4.0]).double()[: 2 + intercept], [1, 1 + intercept], intercept=intercept)


def test_many_columns() -> None:
    x = torch.randn(200, 18)
    require_fit(x, torch.randn(200), [80, 120])


def test_integers_and_columns_of_y(data: tuple[Tensor, Tensor]) -> None:
    x, y = torch.randint(-5, 6, (40, 2)), torch.randint(0, 2, (40, 1))
    fitted = model().fit([x], [y])
    require_close(results(fitted), least_squares(x, y))


def test_local_fixed_precision_and_gradients(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    fitted = model().fit([x.fix_precision(5)], [y.requires_grad_()])
    require_close(results(fitted), least_squares(x, y.detach()))
    assert not fitted.coef.requires_grad


@pytest.mark.parametrize("precision", [16, 20])
def test_tensors_shared_already(data: tuple[Tensor, Tensor], precision: int) -> None:
    x, y = data
    xs, ys = (
        [part.share(ALICE, BOB, crypto_provider=PROVIDER, precision=precision) for part in whole.split([20, 180])]
        for whole in (x * 3 + 20, y)
    )
    require_close(results(model().fit(xs, ys)), least_squares(x * 3 + 20, y))
    mixed = model().fit([xs[0], x[20:] * 3 + 20], [ys[0], y[20:]])
    require_close(results(mixed), least_squares(x * 3 + 20, y))


def test_linear_dependence_is_the_one_thing_that_is_told(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    constant, dependent = x.clone(), x.clone()
    constant[:, 1] = 7.3
    dependent[:, 2] = x[:, 0] - 2 * x[:, 1]
    for columns, target in ((constant, y), (dependent, y), (torch.zeros_like(x), y), (x, torch.full_like(y, 4))):
        unfit = model()
        with pytest.raises(SingularDesignError, match="linearly dependent"):
            unfit.fit(columns.split(100), target.split(100))
        assert unfit.coef is None
    without = model(fit_intercept=False).fit([constant], [y])
    require_close(results(without), least_squares(constant, y, intercept=False))


@pytest.mark.parametrize(
    ("xs", "ys", "error", "text"),
    [
        ([], [], RegressionDataError, "0 tensors X"),
        ([torch.ones(3, 1)], [], RegressionDataError, "1 tensors X and 0 tensors y"),
        ([torch.ones(3, 1)], [torch.ones(2)], RegressionDataError, "3 rows of X and y of shape"),
        ([torch.ones(3)], [torch.ones(3)], RegressionDataError, r"X of owner 0 has shape \(3,\)"),
        ([torch.tensor(1.0)], [torch.ones(3)], RegressionDataError, "X of owner 0"),
        ([torch.ones(3, 1)], [torch.ones(3, 2)], RegressionDataError, "y of owner 0"),
        ([torch.ones(0, 1)], [torch.ones(0)], RegressionDataError, "0 rows"),
        ([torch.ones(3, 0)], [torch.ones(3)], RegressionDataError, "at least one column"),
        ([torch.ones(3, 1), torch.ones(3, 2)], [torch.ones(3)] * 2, RegressionDataError, r"\[1, 2\] columns"),
        ([torch.ones(1, 1), torch.ones(1, 1)], [torch.ones(1)] * 2, DegreesOfFreedomError, "2 rows in all for 2"),
        ([torch.tensor([[1.0], [math.nan], [2]])], [torch.ones(3)], st.exceptions.NotFiniteError, "X of owner 0"),
        ([torch.ones(3, 1)], [torch.tensor([1, math.inf, 2])], st.exceptions.NotFiniteError, "y of owner 0"),
        ([[1.0, 2.0]], [torch.ones(2)], RegressionDataError, "X of owner 0 is list"),
        ([torch.ones(3, 1, dtype=torch.complex64)], [torch.ones(3)], RegressionDataError, "complex64"),
        ([torch.randn(9, 1) * 1e30], [torch.randn(9)], st.exceptions.NotFiniteError, "infinity"),
    ],
)
def test_data_that_do_not_fit_are_refused(xs: list[Any], ys: list[Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        model().fit(xs, ys)


def test_partly_shared_owners_and_other_parties_are_refused(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    shared = x.share(ALICE, BOB, crypto_provider=PROVIDER, precision=20)
    with pytest.raises(RegressionDataError, match="partly shared"):
        model().fit([shared], [y])
    other = EncryptedLinearRegression(HONEST, BOB)
    with pytest.raises(st.exceptions.MembersError, match="linalg alice"):
        other.fit([shared], [y.share(ALICE, BOB, crypto_provider=PROVIDER, precision=20)])


def test_members_that_form_no_session_are_refused(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    with pytest.raises(st.exceptions.MembersError):
        EncryptedLinearRegression(PROVIDER, PROVIDER).fit([x], [y])
    with pytest.raises(st.exceptions.MembersError):
        model(parties=(ALICE, PROVIDER)).fit([x], [y])


def test_named_parties_hold_the_shares(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    require_close(results(model(parties=(ALICE, BOB)).fit([x], [y])), least_squares(x, y))


@pytest.mark.parametrize("digits", [0, 7, 2.5, True])
def test_digits_the_work_does_not_have_are_refused(digits: Any) -> None:
    with pytest.raises(st.exceptions.EncodingError, match="precision_fractional"):
        model(precision_fractional=digits)


def test_predict(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    fitted = model().fit([x], [y])
    for dtype in (torch.float32, torch.float64):
        found = fitted.predict(x.to(dtype))
        assert found.dtype == dtype
        assert torch.allclose(found, (x @ fitted.coef.double() + fitted.intercept).to(dtype), atol=1e-4)
    with pytest.raises(RegressionDataError, match="fitted to 3 columns"):
        fitted.predict(torch.ones(3, 2))


def test_nothing_before_fit() -> None:
    for call in (lambda: model().predict(torch.ones(2, 2)), model().summary, model().summarize):
        with pytest.raises(NotFittedError, match="fit"):
            call()


def test_summarize_prints_a_table(data: tuple[Tensor, Tensor], capsys: pytest.CaptureFixture[str]) -> None:
    fitted = model().fit([data[0]], [data[1]])
    fitted.summarize()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["coef", "std", "err", "t", "p"]
    assert [line.split()[0] for line in lines[1:5]] == ["intercept", "x1", "x2", "x3"]
    assert float(lines[3].split()[1]) == pytest.approx(float(fitted.coef[1]), rel=1e-4)
    assert lines[5] == "196 degrees of freedom"


def test_precision_of_the_working_steps_is_what_matters_not_the_dtype(data: tuple[Tensor, Tensor]) -> None:
    x, y = data
    require_close(results(model().fit([x.float()], [y.float()])), least_squares(x.float(), y.float()), 2e-4)
