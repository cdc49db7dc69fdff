"""Public random numbers from a seed: the same for ever, and distributed as they should be."""

import numpy as np
import pytest

from sharetorch.fl.rounds.chance import Chance


def test_the_same_seed_and_words_give_the_same_numbers() -> None:
    assert Chance(3, "a", 1).permutation(9).tolist() == Chance(3, "a", 1).permutation(9).tolist()
    others = [Chance(4, "a", 1), Chance(3, "a", 2), Chance(3, "b", 1), Chance(3, "a"), Chance(3, "a1")]
    assert len({tuple(chance.permutation(9)) for chance in [Chance(3, "a", 1), *others]}) == 6


def test_numbers_stay_the_same_from_version_to_version() -> None:
    assert Chance(0, "fixed").permutation(8).tolist() == [5, 2, 3, 0, 1, 4, 7, 6]


def test_a_permutation_has_every_number_once() -> None:
    assert sorted(Chance(0, "p").permutation(1000).tolist()) == list(range(1000))
    assert Chance(0, "p").permutation(0).tolist() == []


def test_chosen_are_different_and_in_order() -> None:
    found = Chance(0, "c").chosen(10, 4)
    assert found == sorted(set(found)) and len(found) == 4 and set(found) <= set(range(10))


def test_moments_of_uniform_and_normal_numbers() -> None:
    """Bounds of six standard errors for 10^5 numbers: a false alarm once in 10^8 seeds, and the seed is fixed."""
    uniform, normal = Chance(0, "u").uniform(100_000), Chance(0, "n").normal(100_000)
    assert 0 < uniform.min() and uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 6 * 0.289 / 316
    assert abs(normal.mean()) < 6 / 316 and abs(normal.var() - 1) < 6 * 1.42 / 316


@pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
def test_moments_of_proportions(alpha: float) -> None:
    """Of the symmetric Dirichlet distribution of 4 parts the variance of a part is 3 / (16 (4 alpha + 1))."""
    chance = Chance(0, "d")
    parts = np.stack([chance.proportions(4, alpha) for _ in range(4000)])
    assert np.allclose(parts.sum(axis=1), 1)
    variance = 3 / (16 * (4 * alpha + 1))
    assert np.all(np.abs(parts.mean(axis=0) - 0.25) < 6 * (variance / 4000) ** 0.5)
    assert np.all(np.abs(parts.var(axis=0) / variance - 1) < 0.25)


def test_proportions_for_a_tiny_alpha_are_numbers() -> None:
    parts = Chance(0, "tiny").proportions(10, 1e-4)
    assert np.isfinite(parts).all() and parts.sum() == pytest.approx(1) and parts.max() > 0.99
