"""``DASH``: the distributed association scan [Blo19].

Columns x_1 ... x_M are each tested alone for association with y, given k permanent covariates C (with a column of ones,
if a constant is wanted). Let Q have orthonormal columns that span C, and a prime mean a vector without its part in that
span, v' = v - Q Q^T v. Regression of y on [x_m, C] has for x_m

    r = x_m' . y' / (|x_m'| |y'|),   coef = r |y'| / |x_m'|,   se = sqrt((1 - r^2) / (n - k - 1)) |y'| / |x_m'|.

So C is decomposed once for all m, and nothing of the size of n is computed in secret: each owner decomposes its own
C_i = Q_i R_i, and shares R_i, Q_i^T x_m, Q_i^T y, and inner products of what is left (``owners.projected_summary``).
The stacked [R_i, Q_i^T X_i, Q_i^T y_i] of all owners has the inner products of all data; Gram-Schmidt of its first k
columns in secret gives Q, and what is left of the others are x_m' and y'. sqrt(1 - r^2) is the length of
x_m' / |x_m'| - r y' / |y'|: nothing is subtracted from 1.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.errors import DegreesOfFreedomError, NotFittedError, RegressionDataError, SingularDesignError
from sharetorch.nn.linalg.floating import release
from sharetorch.nn.linalg.owners import block_of, choose_members, contributions, projected_summary
from sharetorch.nn.linalg.pooling import Pool, pool
from sharetorch.nn.linalg.results import check_digits, table
from sharetorch.nn.linalg.solving import SHORTEST_COLUMN
from sharetorch.nn.linalg.statistics import two_sided_p
from sharetorch.nn.linalg.vectors import BOOST_BITS, gram_schmidt, measure, normalise_columns
from sharetorch.nn.linalg.working import inner


class Scan(NamedTuple):
    """Results in secret.

    Attributes:
        mantissas, exponents: M coefficients, then M standard errors times sqrt(dof).
        valid: bits, shape (M,): columns that are not in the span of C.
        singular: a bit of no dimension: columns of C are dependent, or y is in their span.
    """

    mantissas: Any
    exponents: Any
    valid: Any
    singular: Any


class DASH:
    """Test many columns one by one for association with y, given permanent covariates, over data of several owners.

    Opened are the coefficients and standard errors of all columns, which columns could not be tested, and one bit:
    whether the permanent covariates are linearly independent. Numbers of rows and columns are public.

    Args:
        crypto_provider: worker that deals correlated randomness; none of the parties.
        hbc_worker: honest-but-curious worker that holds the second share of everything.
        precision_fractional: decimal digits asked for, 1 to 6. Work is done with 24 binary digits in any case.
        parties: two workers that hold the shares; if not given, as ``EncryptedLinearRegression`` chooses them.

    Attributes:
        coef, se_coef, pvalue_coef: shape (M,), NaN for columns that could not be tested.
        se, pvalue: the same under their short names.
        dof: degrees of freedom, public.

    Raises:
        EncodingError: more digits than the working precision has.
    """

    def __init__(
        self,
        crypto_provider: Any,
        hbc_worker: Any,
        precision_fractional: int = 6,
        *,
        parties: Sequence[Any] | None = None,
    ) -> None:
        check_digits(precision_fractional)
        self.crypto_provider = crypto_provider
        self.hbc_worker = hbc_worker
        self.precision_fractional = precision_fractional
        self.parties = parties
        self.coef: Any = None
        self.se_coef: Any = None
        self.pvalue_coef: Any = None
        self.dof: int | None = None

    @property
    def se(self) -> Any:
        """Standard errors."""
        return self.se_coef

    @property
    def pvalue(self) -> Any:
        """Probabilities of a coefficient as large by chance."""
        return self.pvalue_coef

    @torch.no_grad()
    def fit(self, X_ptrs: Sequence[Any], C_ptrs: Sequence[Any], y_ptrs: Sequence[Any]) -> DASH:  # noqa: N803
        """Test each column of X.

        Args:
            X_ptrs: one for each owner, shape (n_i, M): pointers, plain tensors (then the driver is the owner), or
                tensors shared already, with columns of root mean square 0.06 to 100.
            C_ptrs: likewise, shape (n_i, k).
            y_ptrs: likewise, shape (n_i,) or (n_i, 1).

        Returns:
            The scan itself.

        Raises:
            RegressionDataError: empty lists, or shapes that do not fit.
            DegreesOfFreedomError: n <= k + 1 rows in all.
            NotFiniteError: NaN or infinity; in remote data it is the owner that refuses.
            SingularDesignError: linearly dependent covariates, or y a combination of them. Only this bit is opened
                then.
            MembersError: the workers cannot form a session.

        Cost: k + 3 inverse square roots one after the other, of M + k + 1 numbers at most; independent of the number of
        rows, unless the data came shared. Owners send about 130 numbers for each column.
        Leaks: to the driver the results to 20 significant bits, which columns C explains, and the bit of
        ``SingularDesignError``; to parties and provider nothing.
        """
        blocks = _blocks(X_ptrs, C_ptrs, y_ptrs)
        counts, k = [block[0].shape[0] for block in blocks], blocks[0][0].shape[1]
        self.dof = _degrees(sum(counts), k)
        members = choose_members(blocks, self.hbc_worker, self.crypto_provider, self.parties)
        parts = contributions(blocks, members, sum(counts), partial(projected_summary, permanent=k), centred=False)
        found = scan(pool(parts, counts), k)
        if bool(found.singular.get()):
            raise SingularDesignError(_SINGULAR)
        self._keep(release(found.mantissas, found.exponents), found.valid.get().bool())
        return self

    def _keep(self, released: Tensor, valid: Tensor) -> None:
        """Set the results."""
        values, errors = released.reshape(2, -1).masked_fill(~valid, math.nan)
        errors = errors.abs() / math.sqrt(self.dof or 1)
        pvalues = two_sided_p(values / errors, self.dof or 1)
        self.coef, self.se_coef, self.pvalue_coef = (
            part.to(torch.get_default_dtype()) for part in (values, errors, pvalues)
        )

    def summary(self) -> str:
        """The results as a table.

        Raises:
            NotFittedError: before ``fit``.
        """
        if self.coef is None:
            raise NotFittedError("The scan has no results yet; call fit(X_ptrs, C_ptrs, y_ptrs) first.")
        names = [f"x{j + 1}" for j in range(len(self.coef))]
        return table(names, (self.coef, self.se_coef, self.pvalue_coef), self.dof or 0)

    def summarize(self) -> None:
        """Print the results as a table."""
        sys.stdout.write(self.summary() + "\n")


_SINGULAR = (
    "The permanent covariates are linearly dependent, or nearly, or y is a combination of them. Which one is not "
    "revealed. Leave covariates out; only one constant column can be among them."
)


def _blocks(xs: Sequence[Any], cs: Sequence[Any], ys: Sequence[Any]) -> list[list[Any]]:
    """The owners' tensors C, X, y, checked.

    Raises:
        RegressionDataError: they do not fit together.
    """
    xs, cs, ys = list(xs), list(cs), list(ys)
    if not xs or not len(xs) == len(cs) == len(ys):
        raise RegressionDataError(
            f"{len(xs)} tensors X, {len(cs)} tensors C and {len(ys)} tensors y; give one of each for every owner."
        )
    blocks = [block_of(each, ("C", "X", "y"), i) for i, each in enumerate(zip(cs, xs, ys, strict=True))]
    widths = [(block[0].shape[1], block[1].shape[1]) for block in blocks]
    if len(set(widths)) > 1:
        raise RegressionDataError(
            f"The owners have {widths} columns of C and X; give all the same columns in the same order."
        )
    return blocks


def _degrees(n: int, k: int) -> int:
    dof = n - k - 1
    if dof < 1:
        raise DegreesOfFreedomError(
            f"{n} rows in all for {k} covariates and the column tested leave {dof} degrees of freedom, and no error "
            "can be estimated; at least one is needed. Add rows or leave out covariates."
        )
    return dof


def scan(pooled: Pool, k: int) -> Scan:
    """Coefficient and standard error of each column between the first k and the last, in secret."""
    columns = normalise_columns(pooled.rows, SHORTEST_COLUMN)
    triangle = gram_schmidt(columns.units, k, units_only=True)
    y, x = measure(triangle.rest[:, -1:]), measure(triangle.rest[:, :-1])
    r = y.unit.t() @ x.unit
    unexplained = x.unit - y.unit @ r
    length_y = inner(columns.units[:, -1:], pooled.rows[:, -1:])
    factors = (x.inverse * y.length) * (columns.inverse[k:-1] * length_y)
    valid = (columns.short[k:-1] + x.short) < 1
    values = r.reshape(-1) * factors * valid
    errors = inner(unexplained, unexplained).sqrt() * factors * valid
    exponents = pooled.exponents[-1:] - pooled.exponents[k:-1] + (x.raised - y.raised) * BOOST_BITS
    exponents = exponents * valid
    singular = (columns.short[:k].sum() + columns.short[-1] + triangle.short.sum() + y.short.sum()) > 0
    return Scan(torch.cat([values, errors]), torch.cat([exponents, exponents]), valid, singular)
