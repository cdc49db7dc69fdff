"""Federated rounds with private aggregation: the budget comes first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sharetorch as st
from sharetorch.fl.aggregation import Limits, UploadError
from sharetorch.fl.privacy import (
    AccountingError,
    Budget,
    BudgetExceededError,
    LedgerRewoundError,
    NoiseError,
    PrivateAggregator,
    PrivateMean,
    epsilon,
)
from sharetorch.fl.rounds import Federation, RoundSettings, Task, Update

DELTA = 1e-5
D = 6


class Drawn:
    """A client whose update is always the same; it counts how often it is asked."""

    def __init__(self, id: str, value: float) -> None:
        self.id, self._value, self.asked = id, value, 0

    def train(self, task: Task) -> Update:
        self.asked += 1
        return Update(torch.full((D,), self._value, dtype=torch.float64), 3.0, 0.5)


def aggregator(budget: Budget, **options: Any) -> PrivateAggregator:
    members = [st.VirtualWorker(id=f"private {name}") for name in ("alice", "bob", "crypto_provider")]
    return PrivateAggregator(
        *members[:2],
        crypto_provider=members[2],
        limits=Limits(8.0, 4),
        budget=budget,
        **{"rule": PrivateMean(clip=1.0, multiplier=2.0), "dimension": D, **options},
    )


def federation(clients: list[Any], private: PrivateAggregator, rounds: int, **options: Any) -> Federation:
    torch.manual_seed(0)
    return Federation(nn.Linear(2, 2), clients, RoundSettings(rounds), aggregator=private, **options)


def test_rounds_within_the_budget_run_and_the_next_one_does_not_begin(tmp_path: Path) -> None:
    clients = [Drawn("a", 0.1), Drawn("b", 0.2), Drawn("c", -0.3)]
    with Budget(tmp_path / "budget", "trial", 7.0, DELTA) as budget:
        private = aggregator(budget)
        made = federation(clients, private, 50)
        with pytest.raises(BudgetExceededError, match="trial has spent epsilon"):
            made.fit()
        assert len(made.reports) == budget.rounds > 3
        assert [client.asked for client in clients] == [budget.rounds] * 3
        assert budget.spent == epsilon([private.step] * budget.rounds, DELTA) <= 7.0
        assert budget.after(private.step) > 7.0


def test_a_round_that_is_repeated_is_spent_again(tmp_path: Path) -> None:
    with Budget(tmp_path / "budget", "trial", 20.0, DELTA) as budget:
        private = aggregator(budget)
        for round in (1, 2, 2):
            private.begin(round, ["a"])
        assert budget.rounds == 2
        assert budget.spent == epsilon([private.step] * 3, DELTA)


def test_going_on_with_a_ledger_that_lacks_rounds_is_refused(tmp_path: Path) -> None:
    clients = [Drawn("a", 0.1), Drawn("b", 0.2)]
    with Budget(tmp_path / "budget", "trial", 20.0, DELTA) as budget:
        federation(clients, aggregator(budget), 2, checkpoint=tmp_path / "state").fit()
        going_on = federation(clients, aggregator(budget), 3, checkpoint=tmp_path / "state")
        assert len(going_on.fit()) == 3
    with Budget(tmp_path / "new", "trial", 20.0, DELTA) as budget:
        late = federation(clients, aggregator(budget), 4, checkpoint=tmp_path / "state")
        with pytest.raises(LedgerRewoundError, match="Round 4 is about to begin"):
            late.fit()


def test_what_cannot_be_is_refused_before_anything_is_spent(tmp_path: Path) -> None:
    with Budget(tmp_path / "budget", "trial", 20.0, DELTA) as budget:
        with pytest.raises(NoiseError, match="nobody's noise remains"):
            aggregator(budget, rule=PrivateMean(1.0, 2.0, curious=2))
        with pytest.raises(NoiseError, match="can be drawn"):
            aggregator(budget, rule=PrivateMean(1.0, 20000.0))
        with pytest.raises(AccountingError, match="sampling"):
            aggregator(budget, sampling=0.0)
        assert budget.spent == 0.0


def test_updates_of_another_size_have_no_noise_accounted_for(tmp_path: Path) -> None:
    with Budget(tmp_path / "budget", "trial", 20.0, DELTA) as budget:
        private = aggregator(budget)
        private.begin(1, ["a"])
        with pytest.raises(UploadError, match="noise for 6 is accounted for"):
            private.add("a", torch.zeros(7, dtype=torch.float64), 1.0)
