"""Robust rules on plain updates: the reference definitions, with which the rules on hidden updates must agree.

Updates are rows: x of shape (n, d), one row for each client. None of the rules weighs a client by what it says of the
number of its items, for that may be a lie too. f is the number of clients that may send anything.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sharetorch.mpc.errors import TrainingError


def coordinate_median(x: Tensor) -> Tensor:
    """The median of each coordinate (Yin et al. 2018); of an even number of rows the mean of the middle two.

    Raises:
        TrainingError: no row.
    """
    n = _rows(x)
    ordered = x.sort(dim=0).values
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def trimmed_mean(x: Tensor, f: int) -> Tensor:
    """The mean of each coordinate without its f smallest and f largest values (Yin et al. 2018).

    Raises:
        TrainingError: nothing would be left.
    """
    n = _rows(x)
    if not 0 <= 2 * f < n:
        raise TrainingError(f"A mean trimmed by {f} on both sides needs more than {2 * f} updates; there are {n}.")
    return x.sort(dim=0).values[f : n - f].mean(dim=0)


def krum_scores(x: Tensor, f: int) -> Tensor:
    """The sum of squared distances of each row from the n - f - 2 others nearest to it (Blanchard et al. 2017).

    Returns:
        Shape (n,).

    Raises:
        TrainingError: n is less than 2 f + 3.
    """
    n = _rows(x)
    if f < 0 or n < 2 * f + 3:
        raise TrainingError(
            f"Krum needs at least 2 f + 3 = {2 * f + 3} updates to withstand f = {f}; there are {n}. Use more clients, "
            "or the median."
        )
    distances = torch.stack([(x - row).square().sum(dim=1) for row in x])
    distances.fill_diagonal_(torch.inf)
    return distances.sort(dim=1).values[:, : n - f - 2].sum(dim=1)


def krum(x: Tensor, f: int) -> Tensor:
    """The row with the lowest score, the first of equal ones.

    Raises:
        TrainingError: n is less than 2 f + 3.
    """
    return x[int(krum_scores(x, f).argmin())]


def multi_krum(x: Tensor, f: int, chosen: int | None = None) -> Tensor:
    """The mean of the rows with the lowest scores.

    Args:
        x: updates, shape (n, d).
        f: how many of them may be anything.
        chosen: how many rows are taken; n - f - 2 if not given.

    Raises:
        TrainingError: n is less than 2 f + 3, or too many or no rows are to be taken.
    """
    n = _rows(x)
    scores = krum_scores(x, f)
    m = n - f - 2 if chosen is None else chosen
    if not 1 <= m <= n - f:
        raise TrainingError(f"Multi-Krum takes 1 to n - f = {n - f} updates, not {m}.")
    return x[scores.argsort(stable=True)[:m]].mean(dim=0)


def _rows(x: Tensor) -> int:
    if x.dim() != 2 or not len(x):
        raise TrainingError(f"Updates of shape {tuple(x.shape)}; a rule needs at least one row, shape (n, d).")
    return len(x)
