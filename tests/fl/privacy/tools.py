"""Tests of distributions: integers against the probabilities that a discrete Gaussian gives them.

Each statistic fails a right sampler with a probability below 1e-6; streams replay fixed keys unless the noise is drawn
by members themselves, so a test that passed passes always but where members draw.
"""

from __future__ import annotations

import inspect
import textwrap
from fractions import Fraction
from math import erf, sqrt
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.mpc.views import limit

DEVIATE = 5.5
"""A normal deviate beyond it comes once in 2.6e7."""
_LEAST = 20.0
_FINE = 64
_MANY = 50.0
"""Expected counts from which on a count is near enough to a normal number."""

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


def probabilities(parameter: float) -> tuple[Integers, Floats]:
    """The integers that matter, and what each comes with; for standard deviations up to some thousand."""
    reach = int(12 * sqrt(parameter)) + 3
    x = np.arange(-reach, reach + 1)
    weights = np.exp(-(x.astype(float) ** 2) / (2 * parameter))
    return x, weights / weights.sum()


def require_discrete_gaussian(drawn: Integers, parameter: Fraction | float) -> None:
    """Chi-square of values, moments, tails, and of the last bits."""
    s = float(parameter)
    if s < 4096:
        x, p = probabilities(s)
        _require_counts(drawn, x, p)
        _require_moments(drawn, [float((p * x.astype(float) ** k).sum()) for k in range(9)])
    else:
        deviation = sqrt(s)
        edges = np.unique(np.round(np.linspace(-5, 5, 161) * deviation)) + 0.5
        below = np.array([0.5 + 0.5 * erf(edge / deviation / sqrt(2)) for edge in edges])
        counts = np.bincount(np.searchsorted(edges, drawn), minlength=len(edges) + 1)
        _chi_square(counts, np.diff(below, prepend=0, append=1))
        for reach in (2, 3, 3.7):
            edge = int(reach * deviation) + 0.5
            expected = len(drawn) * (1 - erf(edge / sqrt(2 * s)))
            out = int((abs(drawn) > edge).sum())
            if expected < _MANY:
                break
            assert abs(out - expected) <= DEVIATE * sqrt(expected), f"{out} beyond {reach} instead of {expected:.0f}"
        _require_moments(drawn / deviation, [1, 0, 1, 0, 3, 0, 15, 0, 105])
        _chi_square(np.bincount(drawn & (_FINE - 1), minlength=_FINE), np.full(_FINE, 1 / _FINE))
        if s > 1 << 30:
            _chi_square(np.bincount((drawn >> 6) & (_FINE - 1), minlength=_FINE), np.full(_FINE, 1 / _FINE))


def _require_counts(drawn: Integers, x: Integers, p: Floats) -> None:
    assert np.abs(drawn).max() <= x[-1], "a value that never comes"
    _chi_square(np.bincount(drawn - x[0], minlength=len(x)), p)


def _chi_square(counts: NDArray[Any], p: Floats) -> None:
    """Against these probabilities; rare values count together."""
    expected = p * counts.sum()
    rare = expected < _LEAST
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 1:
        assert counts[-1] <= 15, f"{counts[-1]} values that hardly ever come"
        counts, expected = counts[:-1], expected[:-1]
    statistic = float(((counts - expected) ** 2 / expected).sum())
    allowed = limit(max(1, len(counts) - 1))
    assert statistic <= allowed, f"other frequencies: chi-square {statistic:.0f} > {allowed:.0f}"


def _require_moments(drawn: NDArray[Any], moments: list[float]) -> None:
    values = drawn.astype(float)
    for k in range(1, 5):
        spread = sqrt(max(moments[2 * k] - moments[k] ** 2, 1e-12) / len(values))
        deviate = abs(float((values**k).mean()) - moments[k]) / spread
        assert deviate <= DEVIATE, f"moment {k} is off by {deviate:.1f} standard deviations"


def require_independent(one: Integers, other: Integers) -> None:
    """No correlation, and no equal runs."""
    x, y = one.astype(float), other.astype(float)
    spread = sqrt(len(x)) * sqrt(float((x**2).mean()) * float((y**2).mean()))
    deviate = abs(float((x * y).sum())) / spread
    assert deviate <= DEVIATE, f"correlated: {deviate:.1f} standard deviations"


def plant_method(monkeypatch: pytest.MonkeyPatch, kind: type, method: str, correct: str, wrong: str) -> None:
    """As ``mutation.plant``, for a method."""
    module = inspect.getmodule(kind)
    assert isinstance(module, ModuleType)
    source = textwrap.dedent(inspect.getsource(getattr(kind, method)))
    assert source.count(correct) == 1, f"{method} holds {correct!r} {source.count(correct)} times, not once"
    scratch: dict[str, Any] = {}
    exec(compile("from __future__ import annotations\n" + source.replace(correct, wrong), "<mutant>", "exec"),
         module.__dict__, scratch)  # fmt: skip
    monkeypatch.setattr(kind, method, scratch[method])
