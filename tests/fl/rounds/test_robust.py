"""The reference rules against independent definitions."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sharetorch.fl.rounds import RULES, Mean, robust
from sharetorch.mpc.errors import TrainingError


@st.composite
def updates(draw: st.DrawFn, least: int = 1) -> Tensor:
    n, d = draw(st.integers(least, 12)), draw(st.integers(1, 5))
    numbers = st.floats(-100, 100, allow_nan=False, width=32)
    return torch.tensor(draw(st.lists(numbers, min_size=n * d, max_size=n * d)), dtype=torch.float64).reshape(n, d)


@given(x=updates())
def test_the_median_is_numpys(x: Tensor) -> None:
    assert np.array_equal(robust.coordinate_median(x).numpy(), np.median(x.numpy(), axis=0))


@given(x=updates(), f=st.integers(0, 6))
def test_the_trimmed_mean_is_that_of_what_is_left(x: Tensor, f: int) -> None:
    if 2 * f >= len(x):
        with pytest.raises(TrainingError, match=f"needs more than {2 * f} updates; there are {len(x)}"):
            robust.trimmed_mean(x, f)
        return
    expected = [np.mean(sorted(column)[f : len(x) - f]) for column in x.T.tolist()]
    assert np.allclose(robust.trimmed_mean(x, f).numpy(), expected, atol=1e-9)


def krum_by_hand(x: Tensor, f: int) -> list[float]:
    """Scores as the paper writes them."""
    rows = x.tolist()
    scores = []
    for i in range(len(rows)):
        others = [row for place, row in enumerate(rows) if place != i]
        distances = [sum((a - b) ** 2 for a, b in zip(rows[i], row, strict=True)) for row in others]
        scores.append(sum(sorted(distances)[: len(rows) - f - 2]))
    return scores


@given(x=updates(least=5), f=st.integers(0, 4))
def test_scores_of_krum(x: Tensor, f: int) -> None:
    if len(x) < 2 * f + 3:
        with pytest.raises(TrainingError, match=rf"2 f \+ 3 = {2 * f + 3} updates"):
            robust.krum(x, f)
        return
    scores = krum_by_hand(x, f)
    assert np.allclose(robust.krum_scores(x, f).numpy(), scores, rtol=1e-9, atol=1e-9)
    assert any(torch.equal(robust.krum(x, f), row) for row in x)


def test_krum_takes_the_first_of_equal_ones_and_multi_krum_their_mean() -> None:
    x = torch.tensor([[9.0], [1.0], [1.0], [1.0], [2.0]], dtype=torch.float64)
    assert robust.krum(x, 1).tolist() == [1.0]
    assert robust.multi_krum(x, 1, 2).tolist() == [1.0]
    assert robust.multi_krum(x, 0, 5).tolist() == [x.mean().item()]
    assert robust.multi_krum(x, 1).tolist() == [1.0], "n - f - 2 = 2 rows by default"
    with pytest.raises(TrainingError, match="takes 1 to n - f = 4 updates, not 5"):
        robust.multi_krum(x, 1, 5)


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "krum", "multi-krum"])
def test_no_f_of_n_rows_move_a_rule_far(rule: str) -> None:
    """Two of nine rows are anything; what comes out stays near the seven others, wherever the two stand."""
    honest = torch.linspace(-0.1, 0.1, 7, dtype=torch.float64).unsqueeze(1).expand(7, 3)
    for places in combinations(range(9), 2):
        x = torch.full((9, 3), 1e6, dtype=torch.float64)
        x[[place for place in range(9) if place not in places]] = honest
        aggregator = RULES[rule](2)
        aggregator.begin(1, [])
        for row in x:
            aggregator.add("", row, 1.0)
        assert aggregator.finish().abs().max() <= 0.1


def test_the_mean_is_weighted_and_of_one_client_exact() -> None:
    mean = Mean()
    mean.begin(1, ["a", "b"])
    mean.add("a", torch.tensor([1.0, 0.0], dtype=torch.float64), 3)
    mean.add("b", torch.tensor([0.0, 8.0], dtype=torch.float64), 1)
    assert mean.finish().tolist() == [0.75, 2.0]
    mean.begin(2, ["a"])
    x = torch.linspace(0, 1, 1001, dtype=torch.float64)
    mean.add("a", x, 49.0)
    assert torch.equal(mean.finish(), x)


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_begins_anew_and_needs_updates(rule: str) -> None:
    aggregator = RULES[rule](0)
    aggregator.begin(1, ["a"])
    aggregator.add("a", torch.ones(1, dtype=torch.float64), 1.0)
    aggregator.begin(2, ["a"])
    with pytest.raises(TrainingError, match="No client gave an update"):
        aggregator.finish()


def test_updates_that_are_no_rows() -> None:
    with pytest.raises(TrainingError, match=r"shape \(0, 3\)"):
        robust.coordinate_median(torch.zeros(0, 3))
