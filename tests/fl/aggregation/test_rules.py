"""Rules against numpy, for up to 20 clients."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import sharetorch as st
from sharetorch.fl.aggregation import RULES, Aggregation, Limits, RuleError, Treatment, rule
from sharetorch.fl.aggregation.bounding import within_range
from sharetorch.fl.aggregation.words import integers, words_of
from sharetorch.mpc import testing
from sharetorch.mpc.errors import PrecisionMismatchError, ShapeError, UnsupportedOperationError
from tests.fl.aggregation import tools
from tests.fl.aggregation.tools import LIMITS, aggregate, shared, updates

UNIT = 2.0**-16
CLIENTS = [1, 2, 3, 5, 10, 20]
settings = pytest.mark.parametrize(("parties", "suite"), [(2, "tables"), (3, "tables"), (2, "fss"), (2, "securenn")])
clients = pytest.mark.parametrize("n", CLIENTS)


def close(found: Tensor, expected: Any, bound: float) -> None:
    assert found.shape == expected.shape
    assert float(np.abs(found.numpy() - np.asarray(expected)).max()) <= bound


@clients
@pytest.mark.parametrize("parties", [2, 3, 5])
def test_sums_are_exact(n: int, parties: int) -> None:
    x = updates(n, 33)
    assert torch.equal(aggregate(x, "sum", parties=parties), x.sum(0))


@clients
@pytest.mark.parametrize("parties", [2, 3])
def test_an_opened_mean_is_the_integer_sum_divided_once(n: int, parties: int) -> None:
    x = updates(n, 33)
    total = (x * 2**16).long().sum(0)
    assert torch.equal(aggregate(x, "mean", parties=parties), total.double() / (n * 2**16))


def test_the_mean_of_long_updates_equals_the_integer_reference() -> None:
    x = updates(20, 10**5)
    total = (x * 2**16).long().sum(0)
    assert torch.equal(aggregate(x, "mean"), total.double() / (20 * 2**16))


@clients
@settings
def test_medians_are_exact(n: int, parties: int, suite: str) -> None:
    x = updates(n, 9)
    close(aggregate(x, "median", parties=parties, suite=suite), np.median(x.numpy(), axis=0), 0)


@pytest.mark.parametrize("n", [3, 4, 7, 10, 20])
@pytest.mark.parametrize("trim", [0.0, 0.1, 0.3, 0.45])
def test_trimmed_means(n: int, trim: float) -> None:
    x, made = updates(n, 9), rule("trimmed-mean", trim=trim)
    close(aggregate(x, made), tools.trimmed(x.numpy(), made.dropped(n)), 1e-12)  # type: ignore[attr-defined]


@settings
def test_trimmed_means_by_every_protocol(parties: int, suite: str) -> None:
    x = updates(10, 9)
    close(aggregate(x, "trimmed-mean", parties=parties, suite=suite), tools.trimmed(x.numpy(), 2), 1e-12)


@pytest.mark.parametrize(("n", "byzantine"), [(3, 0), (5, 1), (10, 2), (20, 6)])
def test_krum_takes_one_update_as_it_is(n: int, byzantine: int) -> None:
    x = updates(n, 12, seed=n)
    close(aggregate(x, rule("krum", byzantine=byzantine)), tools.krum(x.numpy(), byzantine, 1), 0)


@pytest.mark.parametrize(("n", "byzantine", "selected"), [(3, 0, None), (5, 1, 2), (10, 2, None), (20, 6, 5)])
@pytest.mark.parametrize(("parties", "suite"), [(2, "tables"), (3, "tables"), (2, "fss")])
def test_multi_krum(n: int, byzantine: int, selected: int | None, parties: int, suite: str) -> None:
    x = updates(n, 12, seed=n)
    expected = tools.krum(x.numpy(), byzantine, n - byzantine if selected is None else selected)
    made = rule("multi-krum", byzantine=byzantine, selected=selected)
    close(aggregate(x, made, parties=parties, suite=suite), expected, 1e-12)


def test_krum_shrinks_distances_that_would_not_fit() -> None:
    x, limits, made = updates(5, 40) * 128, Limits(2.0**11, 5), rule("krum", byzantine=1)
    assert made._shrink(5, 40, limits) > 1  # type: ignore[attr-defined]
    close(aggregate(x, made, limits=limits), tools.krum(x.numpy(), 1, 1), 0)


def test_equal_updates_have_a_krum() -> None:
    x = torch.ones(5, 3, dtype=torch.float64)
    close(aggregate(x, "krum"), np.ones(3), 0)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
@settings
def test_sign_votes(n: int, parties: int, suite: str) -> None:
    x = updates(n, 40).mul(2).round()
    close(aggregate(x, "sign-vote", parties=parties, suite=suite), np.sign(np.sign(x.numpy()).sum(0)), 0)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
@pytest.mark.parametrize(("parties", "suite"), [(2, "tables"), (3, "tables"), (2, "fss")])
def test_weighted_means(n: int, parties: int, suite: str) -> None:
    x, weights = updates(n, 33), [(37 * i) % 1000 + 1 for i in range(n)]
    found = aggregate(x, "weighted-mean", weights, parties=parties, suite=suite)
    close(found, np.average(x.numpy(), axis=0, weights=weights), 8 * 2.0**-17 + 2 * UNIT)


@pytest.mark.parametrize("weight", [1, 1000, 10**5, 10**6])
def test_weighted_means_with_sums_of_weights_far_below_the_limit(weight: int) -> None:
    x, weights = updates(4, 33), [1, 0, 1, weight]
    limits = Limits(8.0, 20, weight=weight)
    found = aggregate(x, "weighted-mean", weights, limits=limits)
    bits = (20 * weight).bit_length()
    relative = 2.0 ** max(-17, min(bits, 22) - 36)
    close(found, np.average(x.numpy(), axis=0, weights=weights), 8 * relative + 4 * UNIT * max(1, 20 / weight))


def test_all_weights_zero_give_zero() -> None:
    assert aggregate(updates(3, 5), "weighted-mean", [0, 0, 0]).tolist() == [0.0] * 5


@pytest.mark.parametrize("bound", [0.03, 0.3, 1.0, 3.0, 100.0])
@pytest.mark.parametrize(("parties", "suite"), [(2, "tables"), (3, "tables"), (2, "fss")])
def test_clipping(bound: float, parties: int, suite: str) -> None:
    x = updates(6, 50) * torch.tensor([[0.0], [0.001], [0.1], [0.3], [1.0], [3.0]], dtype=torch.float64)
    x = x.clamp(-8, 8).mul(2**16).round() / 2**16
    session = testing.session(parties, suite)
    made = Treatment(rule("sum"), LIMITS, clip=bound)
    for row in range(6):
        found = made.opened(shared(session, x[row : row + 1]))
        expected = tools.clipped(x[row : row + 1].numpy(), bound)[0]
        inside = float(x[row].norm()) <= bound
        close(found, expected, 0 if inside else 2.0**-19 * 8 + UNIT)
        assert float(found.norm()) <= bound * (1 + 2.0**-16) + 50**0.5 * UNIT


def test_far_too_long_updates_are_clipped_to_the_bound_or_to_nothing() -> None:
    session, bound = testing.session(2, "tables"), 2.0**-9
    for size, length in ((1.0, bound), (3.9, bound), (8.0, 0.0)):
        found = Treatment(rule("sum"), LIMITS, clip=bound).opened(shared(session, torch.full((1, 4), size)))
        assert abs(float(found.norm()) - length) <= (2 * UNIT if length else 0)


def test_a_protocol_that_does_not_compare_all_words_cannot_force_a_range() -> None:
    session, limits = testing.session(2, "securenn"), Limits(8.0, 3)
    with pytest.raises(UnsupportedOperationError, match="bounded=False"):
        Aggregation(session, 4, limits, "median")
    with pytest.raises(UnsupportedOperationError, match="2\\^62"):
        Treatment(rule("sum"), limits, bounded=True)(shared(session, updates(3, 4), limits))


@pytest.mark.parametrize(("parties", "suite"), [(2, "tables"), (3, "tables"), (2, "tables-wan"), (2, "fss")])
def test_ranges_hold_for_every_word(parties: int, suite: str) -> None:
    """Also for words near the ends of the ring, which no honest client sends."""
    c, top = 5 << 16, 1 << 63
    inside = [0, 1, -1, c, -c, c - 1, 1 - c]
    outside = [c + 1, -c - 1, 2 * c, top - 1, top - c, top - c - 1, top - 2 * c, -top, -top + 1, -top + c, -top + c + 1]
    values = torch.tensor([*inside, *outside])
    session = testing.session(parties, suite)
    x = integers(session, testing.put_value(session, values), tuple(values.shape))
    found = within_range(x, -c, c).get()
    assert found[: len(inside)].tolist() == inside
    assert bool((found.abs() <= c).all())
    assert found[len(inside) : len(inside) + 3].tolist() == [c, -c, c]


def test_a_client_that_breaks_its_word_cannot_make_the_sum_wrap() -> None:
    limits = Limits(8.0, 3)
    honest, session = updates(2, 4), testing.session(2, "tables")
    words = torch.cat([(honest * 2**16).long(), torch.full((1, 4), (1 << 63) - 1)])
    number = testing.put_value(session, words)
    x = tools.SharedTensor(tools.Handle(session, number, limits.encoding), torch.empty(3, 4, device="meta"))
    found = Treatment(rule("sum"), limits, bounded=True).opened(x)
    assert bool(((found - honest.sum(0)).abs() <= 8).all())


@pytest.mark.parametrize("bounded", [None, True])
def test_weights_are_forced_into_their_range(bounded: bool | None) -> None:
    session, limits = testing.session(2, "tables"), Limits(8.0, 3, weight=10)
    x = updates(3, 4)
    weights = integers(session, testing.put_value(session, [10, -5, 1 << 40]), (3,))
    found = Treatment(rule("weighted-mean"), limits, bounded=bounded).opened(shared(session, x, limits), weights)
    close(found, np.average(x.numpy(), axis=0, weights=[10, 0, 10]), 8 * 2.0**-17 + 2 * UNIT)


@pytest.mark.parametrize("n", [2, 5, 20])
@pytest.mark.parametrize("scale", [0.02, 1.0, 5.0])
@pytest.mark.parametrize(("parties", "suite"), [(2, "tables"), (3, "tables"), (2, "fss")])
def test_cosine_scores(n: int, scale: float, parties: int, suite: str) -> None:
    trusted = updates(1, 60, seed=5)[0] * scale
    x = (0.5 * trusted + updates(n, 60, spread=0.5 * scale)).clamp(-8, 8).mul(2**16).round() / 2**16
    found = aggregate(x, rule("fltrust", trusted=trusted), parties=parties, suite=suite)
    expected = tools.trust(x.numpy(), trusted.numpy())
    close(found, expected, 2e-3 * float(np.abs(expected).max()) + 8 * UNIT)


def test_updates_against_the_trusted_one_count_nothing() -> None:
    trusted = updates(1, 60, seed=5)[0]
    x = torch.stack([trusted, -trusted, -3 * trusted.clamp(-2, 2)])
    close(aggregate(x, rule("fltrust", trusted=trusted)), trusted.numpy(), 1e-3)
    assert float(aggregate(-x[:1], rule("fltrust", trusted=trusted)).abs().max()) == 0


@pytest.mark.parametrize("factor", [0.0, 1e-3, 1e-2])
def test_short_updates_are_not_blown_up(factor: float) -> None:
    trusted = updates(1, 60, seed=5)[0]
    x = torch.stack([trusted, factor * trusted])
    found = aggregate(x, rule("fltrust", trusted=trusted))
    assert float(found.norm()) <= float(trusted.norm()) * 1.01


@pytest.mark.parametrize("name", sorted(set(RULES) - {"weighted-mean", "fltrust"}))
def test_a_result_may_stay_shared(name: str) -> None:
    x = updates(5, 8)
    made = Aggregation(testing.session(2, "tables"), 8, Limits(8.0, 5), name)
    for update in x:
        made.submit(update)
    made.close()
    found = made.result()
    assert found.shape == (8,) and found.dtype == torch.float32
    assert float((found.get().double() - made.open()).abs().max()) <= UNIT


def test_the_global_model_may_stay_shared_between_rounds() -> None:
    model, session = None, testing.session(2, "tables")
    plain = torch.zeros(8, dtype=torch.float64)
    for seed in range(3):
        x = updates(4, 8, seed)
        made = Aggregation(session, 8, Limits(8.0, 4), "median")
        for update in x:
            made.submit(update)
        made.close()
        model = made.result() if model is None else model + made.result()
        plain += torch.from_numpy(np.median(x.numpy(), axis=0))
    assert model is not None
    assert float((model.get().double() - plain).abs().max()) <= 4 * UNIT  # type: ignore[union-attr]


def test_rules_take_tensors_that_clients_shared_themselves() -> None:
    alice, bob, cp = (st.VirtualWorker(id=name) for name in ("alice", "bob", "crypto_provider"))
    x = updates(5, 8)
    parts = [update.float().share(alice, bob, crypto_provider=cp) for update in x]
    found = Treatment(rule("median"), Limits(8.0, 5)).opened(parts)
    close(found, np.median(x.numpy(), axis=0), 0)


def test_aggregators_are_ordinary_workers() -> None:
    alice, bob, cp = (st.VirtualWorker(id=name) for name in ("alice", "bob", "crypto_provider"))
    made = Aggregation.among(alice, bob, crypto_provider=cp, dimension=3, limits=Limits(8.0, 2), rule="mean")
    for update in (torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, -3.0])):
        made.submit(update)
    assert made.close() == 2
    assert made.open().tolist() == [1.5, 2.0, 0.0]


def test_weights_only_where_they_belong() -> None:
    session = testing.session(2, "tables")
    x = shared(session, updates(3, 4))
    with pytest.raises(RuleError, match="needs weights"):
        rule("weighted-mean")(x, limits=LIMITS)
    with pytest.raises(RuleError, match="takes no weights"):
        rule("median")(x, words_of(x)[:, 0], limits=LIMITS)  # type: ignore[arg-type]


def test_updates_of_another_shape_or_scale_are_refused() -> None:
    session = testing.session(2, "tables")
    x = shared(session, updates(3, 4))
    with pytest.raises(ShapeError, match="stack"):
        rule("sum")(x[0], limits=LIMITS)  # type: ignore[arg-type]
    with pytest.raises(PrecisionMismatchError, match="precision=12"):
        rule("sum")(x, limits=Limits(8.0, 3, fraction_bits=12))


def test_rules_have_default_limits() -> None:
    session = testing.session(2, "tables")
    x = updates(3, 4)
    assert torch.equal(rule("sum").opened(shared(session, x)), x.sum(0))
