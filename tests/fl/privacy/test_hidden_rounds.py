"""Private rounds between machines: clients upload straight to aggregators, each of which draws noise of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sharetorch.fl.aggregation import RULES, Limits
from sharetorch.fl.privacy import Budget, BudgetExceededError, PrivateAggregator, PrivateMean, epsilon
from sharetorch.fl.rounds import Federation, allow_hidden
from tests.fl.aggregation.tools import clipped
from tests.fl.rounds.hidden_net import AGGREGATORS, CLIENTS, DRIVER, PROVIDER, Net, federated, network, point
from tests.fl.rounds.test_hidden_rounds import trained_alone
from tests.fl.rounds.tools import vector

DELTA = 1e-5
D = 6


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """Four clients, two aggregators, a provider."""
    with network(tmp_path_factory.mktemp("keys"), private=True) as made:
        for name in CLIENTS:
            allow_hidden(made.nodes[name], "toy", users=[DRIVER], aggregators=AGGREGATORS, least=1, rules=RULES)
        yield made


def private(net: Net, budget: Budget, multiplier: float, rounds: int) -> Federation:
    aggregator = PrivateAggregator(
        *(net.workers[name] for name in AGGREGATORS),
        crypto_provider=net.workers[PROVIDER],
        limits=Limits(4.0, len(CLIENTS), 100),
        rule=PrivateMean(clip=0.5, multiplier=multiplier),
        dimension=D,
        budget=budget,
    )
    return federated(net.clients, aggregator, rounds)


def test_the_model_gets_the_clipped_mean_with_noise(kept: Net, tmp_path: Path) -> None:
    with Budget(tmp_path / "budget", "trial", 1e12, DELTA) as budget:
        made = private(kept, budget, 0.002, 1)
        updates, _ = trained_alone(point())
        reports = made.fit()
    assert reports[0].delivered == list(CLIENTS)
    assert reports[0].loss is None
    moved = vector(made.model) - vector(point())
    expected = torch.from_numpy(clipped(updates.numpy(), 0.5).mean(0))
    deviation = 0.5 * 0.002 * 2**0.5 / len(CLIENTS)
    assert 0 < float((moved - expected).abs().max()) < 9 * deviation + 1e-4


def test_the_round_beyond_the_budget_reaches_no_client(kept: Net, tmp_path: Path) -> None:
    with Budget(tmp_path / "budget", "trial", 4.0, DELTA) as budget:
        made = private(kept, budget, 2.5, 9)
        with pytest.raises(BudgetExceededError):
            made.fit()
        done = len(made.reports)
        assert 0 < done == budget.rounds < 9
        assert budget.spent == epsilon([made._aggregator.step] * done, DELTA)  # type: ignore[attr-defined]
        kept.heard.clear()
        with pytest.raises(BudgetExceededError):
            made.fit()
        assert kept.heard == []
