"""Least squares in the clear, and workers and data for the tests."""

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats
from torch import Tensor

import sharetorch as st

ALICE, BOB, HONEST, PROVIDER = (
    st.VirtualWorker(id=f"linalg {name}") for name in ("alice", "bob", "honest", "provider")
)


class Fit(NamedTuple):
    """Coefficients (the intercept last), standard errors, p-values."""

    coef: Any
    se: Any
    pvalue: Any


def least_squares(x: Tensor, y: Tensor, intercept: bool = True) -> Fit:
    """By numpy's QR, with columns of length 1."""
    columns = x.double().numpy()
    target = y.double().reshape(-1).numpy()
    if intercept:
        columns = np.concatenate([columns, np.ones((len(columns), 1))], 1)
    lengths = np.sqrt((columns**2).sum(0))
    q, r = np.linalg.qr(columns / lengths)
    coef = np.linalg.solve(r, q.T @ target) / lengths
    residual, dof = target - columns @ coef, len(columns) - columns.shape[1]
    se = np.sqrt(residual @ residual / dof * (np.linalg.inv(r) ** 2).sum(1)) / lengths
    return Fit(coef, se, 2 * stats.t.sf(np.abs(coef / se), dof))


def results(model: Any) -> Fit:
    """What a model released, in the order of ``least_squares``."""
    parts = [(model.coef, model.intercept), (model.se_coef, model.se_intercept)]
    parts.append((model.pvalue_coef, model.pvalue_intercept))
    joined = [coef if one is None else torch.cat([coef, one.reshape(1)]) for coef, one in parts]
    return Fit(*(part.double().numpy() for part in joined))


def require_close(found: Fit, expected: Fit, relative: float = 2e-3, pvalue: float = 1e-3) -> None:
    """Coefficients and errors within a relative bound (coefficients near zero: of the error), p-values absolutely."""
    bound = relative * np.maximum(np.abs(expected.coef), expected.se)
    assert (np.abs(found.coef - expected.coef) <= bound).all(), (found.coef, expected.coef)
    assert (np.abs(found.se - expected.se) <= relative * expected.se).all(), (found.se, expected.se)
    assert (np.abs(found.pvalue - expected.pvalue) <= pvalue).all(), (found.pvalue, expected.pvalue)


def correlated(n: int, p: int, condition: float) -> Tensor:
    """Columns whose matrix of correlations has about this condition number; float64, shape (n, p)."""
    x = torch.randn(n, p, dtype=torch.float64)
    x[:, -1] = x[:, 0] + x[:, -1] * (4 / condition) ** 0.5
    return x
