"""What steps cost together, by opacus' accountant of Rényi differential privacy.

**Adjacency.** A step is a sum of clipped contributions with Gaussian noise of ``multiplier`` times its sensitivity. Two
inputs are neighbours if they differ in *one contribution being there or not* (add or remove). For rounds the number of
clients is public, so "not there" means a zero in its place, with the same sensitivity. With ``substitute`` neighbours
differ in one contribution by another one: twice the sensitivity, half the multiplier.

**Discrete noise.** opacus' formulas are those of continuous Gaussian noise on real vectors. For noise on integers and
integer contributions they hold as well: without sampling at every order (Canonne, Kamath, Steinke 2020); with sampling
at orders that are whole numbers, where the moment is a sum of terms exp((j^2 - j) |c|^2 / (2 s)) that come of shifting
the noise by whole multiples of the contribution c, and so by points of the lattice. So with sampling whole orders are
used and no others. Sums of several parties' noise are within exp(slack) of such noise, in each direction: 2 slack are
added to epsilon, and delta is divided by exp(slack) before.

**Sampling** amplifies only if every contribution takes part by a secret coin of its own (Poisson), and against those
only who do not see who took part.
"""

from __future__ import annotations

import importlib
import math
import threading
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from sharetorch.fl.privacy.errors import AccountingError, MissingExtraError

WHOLE_ORDERS = (*range(2, 65), *range(72, 129, 8), *range(144, 257, 16), *range(288, 513, 32))
_FRACTIONS = tuple(1 + tenth / 10 for tenth in range(1, 100))
ORDERS = tuple(sorted({*map(float, WHOLE_ORDERS), *_FRACTIONS}))
"""Orders for steps without sampling."""
_MOST_SLACK = 1.0
_MOST_NOISE = 1e6
_turn = threading.Lock()


class Step(NamedTuple):
    """What is accounted for.

    Attributes:
        multiplier: standard deviation of the noise over the sensitivity.
        sampling: probability with which each contribution takes part; 1 for all.
        times: how many such steps.
        slack: by which the logarithm of a probability may differ from that of one Gaussian noise, in each step.
        substitute: whether neighbours differ by a contribution replaced, instead of one there or not.
    """

    multiplier: float
    sampling: float = 1.0
    times: int = 1
    slack: float = 0.0
    substitute: bool = False

    def require(self) -> None:
        """Raise unless there is a bound for the step.

        Raises:
            AccountingError: a number outside its range, or substitution with sampling.
        """
        fine = (
            math.isfinite(self.multiplier) and self.multiplier > 0 and 0 < self.sampling <= 1
            and self.times >= 1 and math.isfinite(self.slack) and self.slack >= 0
        )  # fmt: skip
        if not fine:
            raise AccountingError(
                f"{self} cannot be accounted for: the multiplier must be positive, sampling above 0 and at most 1, "
                "times at least 1, slack not negative."
            )
        if self.substitute and self.sampling < 1:
            raise AccountingError(
                f"The accountant has no bound for neighbours by substitution with sampling {self.sampling:g}. Account "
                "for add or remove, or let all take part."
            )


def opacus(part: str) -> Any:
    """A part of opacus.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(f"opacus.{part}")
    except ImportError as error:
        raise MissingExtraError(
            f"Accounts of privacy and training with noise need the package opacus ({error}): "
            "pip install 'sharetorch[dp]'."
        ) from error


def epsilon(steps: Sequence[Step], delta: float) -> float:
    """The epsilon of all steps together, for this delta.

    Raises:
        AccountingError: a step without a bound, or a delta that is none.
        MissingExtraError: opacus is not installed.
    """
    if not 0 < delta < 1:
        raise AccountingError(f"delta is {delta:g}; it lies between 0 and 1, well below one over the contributions.")
    accountant = opacus("accountants").RDPAccountant()
    counts: dict[tuple[float, float], int] = {}
    for step in steps:
        step.require()
        kind = (step.multiplier / 2 if step.substitute else step.multiplier, step.sampling)
        counts[kind] = counts.get(kind, 0) + step.times
    accountant.history = [(*kind, count) for kind, count in counts.items()]
    if not counts:
        return 0.0
    sampled = any(step.sampling < 1 for step in steps)
    slack = sum(step.slack * step.times for step in steps)
    if slack > _MOST_SLACK:
        raise AccountingError(
            f"Sums of the parties' noise may differ from Gaussian noise by a factor of exp({slack:.2g}), for each "
            "party's own is hardly wider than an integer. Use more fraction bits."
        )
    orders = list(WHOLE_ORDERS if sampled else ORDERS)
    with _turn, warnings.catch_warnings():  # what it changes is common to all threads
        warnings.filterwarnings("ignore", "Optimal order is the", UserWarning)
        try:
            found = float(accountant.get_epsilon(delta * math.exp(-slack), alphas=orders))
        except ArithmeticError:  # so little noise that its square is 0, or a moment no number
            return math.inf
    return max(0.0, found) + 2 * slack


def multiplier_for(allowed: float, delta: float, times: int, sampling: float = 1.0, slack: float = 0.0) -> float:
    """The least multiplier with which so many steps stay within a budget, up to a thousandth of it.

    Args:
        allowed: epsilon of all steps together.
        delta: for which epsilon is meant.
        times: how many steps.
        sampling: as for ``Step``.
        slack: as for ``Step``.

    Raises:
        AccountingError: no multiplier below a million will do, or a number outside its range.
        MissingExtraError: opacus is not installed.
    """
    low, high = 0.0, 1.0
    while not epsilon([Step(high, sampling, times, slack)], delta) <= allowed:
        low, high = high, 2 * high
        if high > _MOST_NOISE:
            raise AccountingError(f"No noise makes {times} steps cost epsilon {allowed:g} or less at delta {delta:g}.")
    while high - low > high / 2000:
        middle = (low + high) / 2
        if epsilon([Step(middle, sampling, times, slack)], delta) <= allowed:
            high = middle
        else:
            low = middle
    return high
