"""Noise between processes: each member draws in its own, and the driver's randomness has no part in it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch

import sharetorch as st
from sharetorch.fl.aggregation import Limits, Treatment
from sharetorch.fl.aggregation.words import words_of
from sharetorch.fl.privacy import PrivateMean, noised
from sharetorch.mpc import randomness
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.errors import EncodingRangeError, NetworkError
from sharetorch.remote.network.control import Control
from tests.fl.aggregation.tools import updates
from tests.fl.privacy.tools import require_discrete_gaussian
from tests.network.tools import connected_group

NAMES = ("alice", "bob", "crypto_provider")
LIMITS = Limits(8.0, 5)
COUNT = 1 << 15


@pytest.fixture(scope="module")
def networked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """Two parties and a provider, each a process, connected."""
    with connected_group(tmp_path_factory.mktemp("keys"), *NAMES) as made:
        yield made


def shared(workers: list[Any], x: torch.Tensor) -> Any:
    return x.float().share(*workers[:2], crypto_provider=workers[2])


def test_noise_of_both_members_is_in_what_is_opened(networked: list[Any]) -> None:
    zeros = shared(networked, torch.zeros(COUNT))
    found = words_of(noised(zeros, Fraction(1 << 40, 3))).get().numpy()
    require_discrete_gaussian(found, 2 * Fraction(1 << 40, 3))


def test_the_driver_decides_nothing_but_the_variance(networked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With all randomness of the driver fixed, and the same commands, noise is another one every time."""
    zeros = shared(networked, torch.zeros(50))
    sent: list[bytes] = []
    post = Control.post

    def listen(self: Control, kind: int, message: bytes) -> None:
        sent.append(bytes(message))
        post(self, kind, message)

    monkeypatch.setattr(Control, "post", listen)
    monkeypatch.setattr(randomness, "system_entropy", lambda count: bytes(count))
    monkeypatch.setattr(randomness.os, "urandom", lambda count: bytes(count))
    found = [noised(zeros, Fraction(1 << 30)).get() for _ in range(2)]
    assert not torch.equal(*found)
    commands = [message for message in sent if b"add_noise" in message]
    assert len(commands) == 2 * 3
    assert all(len(message) < 120 for message in commands)


def test_private_means_of_both_runtimes(networked: list[Any]) -> None:
    rule = PrivateMean(clip=1.0, multiplier=0.001)
    x = updates(5, 6)
    results: list[tuple[torch.Tensor, Cost]] = []
    for workers in (networked, [st.VirtualWorker(id=f"private {name}") for name in NAMES]):
        parts = [shared(workers, update) for update in x]
        with parts[0].session.costs.listen() as heard:
            found = Treatment(rule, LIMITS).opened(parts)
        results.append((found, heard.total().as_cost(2)))
    (one, cost), (other, same) = results
    assert cost == same
    expected = (x * (1 / x.norm(dim=1, keepdim=True)).clamp(max=1)).mean(0)
    for found in (one, other):
        assert float((found - expected).abs().max()) < 8 * rule.deviation(6, LIMITS, 2)
    assert not torch.equal(one, other)


def test_a_variance_that_is_none_is_refused_by_the_members(networked: list[Any]) -> None:
    x = shared(networked, torch.zeros(3))
    with pytest.raises((EncodingRangeError, NetworkError), match="Noise of variance"):
        x.session.command("add_noise", x.handle.number, variance=-5, digits=3)
        x.session.sync()
