"""``EncryptedLinearRegression``: least squares over the data of several owners.

Owners reduce their blocks where the data lie (``owners``); the results are put in common secret units (``pooling``),
the least-squares problem is solved in secret (``solving``), and the statistics are opened (``floating``).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import (
    DegreesOfFreedomError,
    NotFittedError,
    RegressionDataError,
    SingularDesignError,
)
from sharetorch.nn.linalg.floating import release
from sharetorch.nn.linalg.owners import (
    block_of,
    centred_summary,
    choose_members,
    contributions,
    location_of,
    plain_summary,
)
from sharetorch.nn.linalg.pooling import pool
from sharetorch.nn.linalg.results import check_digits, table
from sharetorch.nn.linalg.solving import solve
from sharetorch.nn.linalg.statistics import two_sided_p


class EncryptedLinearRegression:
    """Linear regression by least squares, with standard errors and p-values, over data of several owners.

    Owners reduce their rows to a small matrix where the data lie, in the clear; those matrices are shared, combined and
    solved in secret. Opened are the coefficients, their standard errors, and one bit: whether the columns are linearly
    independent. Numbers of rows and columns are public.

    Args:
        crypto_provider: worker that deals correlated randomness; none of the parties.
        hbc_worker: honest-but-curious worker that holds the second share of everything.
        precision_fractional: decimal digits asked for, 1 to 6. Work is done with 24 binary digits in any case.
        fit_intercept: whether a constant term is fitted; without, data are not centred.
        parties: two workers that hold the shares. If not given: the worker of the first owner that is not
            ``hbc_worker`` (the driver for plain tensors), and ``hbc_worker``. Data that are shared already keep their
            parties.

    Attributes:
        coef, se_coef, pvalue_coef: one-dimensional tensors, one element for each column.
        intercept, se_intercept, pvalue_intercept: numbers of no dimension; None without intercept.
        dof: degrees of freedom, public.

    Raises:
        EncodingError: more digits than the working precision has.
    """

    def __init__(
        self,
        crypto_provider: Any,
        hbc_worker: Any,
        precision_fractional: int = 6,
        fit_intercept: bool = True,
        *,
        parties: Sequence[Any] | None = None,
    ) -> None:
        check_digits(precision_fractional)
        self.crypto_provider = crypto_provider
        self.hbc_worker = hbc_worker
        self.precision_fractional = precision_fractional
        self.fit_intercept = fit_intercept
        self.parties = parties
        self.coef: Any = None
        self.intercept: Any = None
        self.se_coef: Any = None
        self.se_intercept: Any = None
        self.pvalue_coef: Any = None
        self.pvalue_intercept: Any = None
        self.dof: int | None = None

    @torch.no_grad()
    def fit(self, X_ptrs: Sequence[Any], y_ptrs: Sequence[Any]) -> EncryptedLinearRegression:  # noqa: N803
        """Fit y = X coef + intercept.

        Args:
            X_ptrs: one for each owner, shape (n_i, p): pointers, plain tensors (then the driver is the owner), or
                tensors shared already, whose columns must vary by 0.02 to 100 about means below 500.
            y_ptrs: likewise, shape (n_i,) or (n_i, 1).

        Returns:
            The model itself.

        Raises:
            RegressionDataError: empty lists, or shapes that do not fit.
            DegreesOfFreedomError: n <= p + 1 rows in all; n <= p without intercept.
            NotFiniteError: NaN or infinity; in remote data it is the owner that refuses.
            SingularDesignError: linearly dependent columns, a constant column beside the intercept, constant y. Only
                this one bit is opened then.
            MembersError: the workers cannot form a session.

        Cost: for p columns of q owners about p + 4 inverse square roots one after the other, each of 48 comparisons;
        independent of the number of rows, unless the data came shared.
        Leaks: to the driver the results to 20 significant bits (see ``floating.release``) and the bit of
        ``SingularDesignError``; to parties and provider nothing.
        """
        blocks = _blocks(X_ptrs, y_ptrs)
        counts, p = [block[0].shape[0] for block in blocks], blocks[0][0].shape[1]
        self.dof = _degrees(sum(counts), p, self.fit_intercept)
        members = choose_members(blocks, self.hbc_worker, self.crypto_provider, self.parties)
        summarise = centred_summary if self.fit_intercept else plain_summary
        parts = contributions(blocks, members, sum(counts), summarise, self.fit_intercept)
        solution = solve(pool(parts, counts), p)
        if bool(solution.singular.get()):
            raise SingularDesignError(_SINGULAR)
        self._keep(release(solution.mantissas, solution.exponents), p)
        return self

    def _keep(self, released: Tensor, p: int) -> None:
        """Set the results."""
        values, errors = released.reshape(2, -1)
        errors = errors.abs() / math.sqrt(self.dof or 1)
        pvalues = two_sided_p(values / errors, self.dof or 1)
        values, errors, pvalues = (part.to(torch.get_default_dtype()) for part in (values, errors, pvalues))
        self.coef, self.se_coef, self.pvalue_coef = values[:p], errors[:p], pvalues[:p]
        if self.fit_intercept:
            self.intercept, self.se_intercept, self.pvalue_intercept = values[p], errors[p], pvalues[p]

    def predict(self, X: Any) -> Any:  # noqa: N803
        """X coef + intercept, computed where X is.

        Args:
            X: plain tensor or pointer, shape (n, p) and of floating-point dtype. A pointer's worker receives coef.

        Returns:
            Shape (n,), a plain tensor or a pointer.

        Raises:
            NotFittedError: before ``fit``.
            RegressionDataError: another number of columns.
        """
        coef = self._fitted(self.coef)
        if X.dim() != 2 or X.shape[1] != coef.shape[0]:
            raise RegressionDataError(f"X has shape {tuple(X.shape)}; the model was fitted to {coef.shape[0]} columns.")
        coef = coef.to(X.dtype)
        location = location_of(X)
        result = X @ (coef if location is None else coef.send(location))
        return result if self.intercept is None else result + float(self.intercept)

    def summary(self) -> str:
        """The results as a table.

        Raises:
            NotFittedError: before ``fit``.
        """
        self._fitted(self.coef)
        names = [f"x{j + 1}" for j in range(len(self.coef))]
        columns = [self.coef, self.se_coef, self.pvalue_coef]
        if self.intercept is not None:
            names = ["intercept", *names]
            first = (self.intercept, self.se_intercept, self.pvalue_intercept)
            columns = [torch.cat([one.reshape(1), rest]) for one, rest in zip(first, columns, strict=True)]
        return table(names, columns, self.dof or 0)

    def summarize(self) -> None:
        """Print the results as a table."""
        sys.stdout.write(self.summary() + "\n")

    def _fitted(self, value: Any) -> Any:
        if value is None:
            raise NotFittedError("The model has no results yet; call fit(X_ptrs, y_ptrs) first.")
        return value


_SINGULAR = (
    "The columns are linearly dependent, or nearly: one is constant beside the intercept or explained by the others "
    "but for a part of 2^-15, or y is constant. Which one is not revealed. Leave columns out, or fit without intercept."
)


def _blocks(xs: Sequence[Any], ys: Sequence[Any]) -> list[list[Any]]:
    """The owners' tensors, checked.

    Raises:
        RegressionDataError: they do not fit together.
    """
    xs, ys = list(xs), list(ys)
    if not xs or len(xs) != len(ys):
        raise RegressionDataError(f"{len(xs)} tensors X and {len(ys)} tensors y; give one of each for every owner.")
    blocks = [block_of(pair, ("X", "y"), i) for i, pair in enumerate(zip(xs, ys, strict=True))]
    widths = [block[0].shape[1] for block in blocks]
    if len(set(widths)) > 1:
        raise RegressionDataError(f"The owners have {widths} columns; give all the same columns in the same order.")
    return blocks


def _degrees(n: int, p: int, intercept: bool) -> int:
    dof = n - p - intercept
    if dof < 1:
        raise DegreesOfFreedomError(
            f"{n} rows in all for {p + intercept} coefficients leave {dof} degrees of freedom, and no error can be "
            "estimated; at least one is needed. Add rows or leave out columns."
        )
    return dof
