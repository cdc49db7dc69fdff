"""Traced programs with members on other machines: as in one process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import sharetorch as st
from sharetorch.mpc.errors import NetworkError
from sharetorch.remote.network.client import NetworkedWorker
from tests.mpc.test_traced import Training, close, numbers
from tests.network.tools import connected_group

NAMES = ("traced_alice", "traced_bob", "traced_provider")


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NetworkedWorker]]:
    with connected_group(tmp_path_factory.mktemp("traced"), *NAMES) as made:
        yield made


def test_training_goes_on_as_in_the_clear(workers: list[NetworkedWorker]) -> None:
    def share(x: Any) -> Any:
        return x.share(*workers[:2], crypto_provider=workers[2])

    ours, plain = Training(share), Training(lambda model: model)
    step = st.traced(ours.step)
    session: Any = next(ours.model.parameters()).session
    losses: list[tuple[Any, Tensor]] = []
    live, costs = [], []
    for seed in range(10):
        x, y = numbers(4, 6, seed=seed), numbers(4, 3, seed=100 + seed)
        with session.costs.listen() as heard:
            losses.append((step(share(x), share(y)), plain.step(x, y)))
        live.append(session.live - len(losses))
        costs.append((heard.total().rounds, dict(heard.total().online), dict(heard.total().offline)))
    assert all(close(*pair) for pair in losses) and step.repeats == 7
    assert live[-1] == live[-2] == live[-3], "nothing is left behind"
    assert costs[-1] == costs[1], "a repeat costs what a run costs"
    for own, right in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        assert close(own, right.detach())


def test_a_session_that_has_ended(workers: list[NetworkedWorker]) -> None:
    program = st.traced(lambda x: (x * x).relu())
    for _ in range(4):
        x = torch.ones(3).share(*workers[:2], crypto_provider=workers[2])
        assert close(program(x), torch.ones(3))
    assert program.repeats == 2
    x.session.close()
    with pytest.raises(NetworkError):
        program(x).get()
