"""The same rules on updates that are shared in a session between processes: equal results, rounds and bytes."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import sharetorch as st
from sharetorch.fl.aggregation import Aggregation, Limits, Rule, Treatment, rule
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.errors import UnsupportedOperationError
from tests.fl.aggregation.tools import updates
from tests.network.tools import connected_group

NAMES = ("alice", "bob", "crypto_provider")
LIMITS = Limits(8.0, 5)


@pytest.fixture(scope="module")
def networked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """Two parties and a provider, each a process, connected."""
    with connected_group(tmp_path_factory.mktemp("keys"), *NAMES) as made:
        yield made


def run(workers: list[Any], made: Rule, **options: Any) -> tuple[torch.Tensor, Cost]:
    """The opened result and its cost."""
    treatment = Treatment(made, LIMITS, **options)
    parts = [update.float().share(*workers[:2], crypto_provider=workers[2]) for update in updates(5, 6)]
    session = parts[0].session
    with session.costs.listen() as heard:
        found = treatment.opened(parts)
    return found, heard.total().as_cost(2)


@pytest.mark.parametrize(
    ("made", "options"),
    [
        (rule("mean"), {}),
        (rule("mean"), {"clip": 1.0}),
        (rule("median"), {}),
        (rule("krum", byzantine=1), {}),
        (rule("sign-vote"), {}),
        (rule("fltrust", trusted=torch.ones(6)), {}),
    ],
    ids=lambda part: getattr(part, "name", None),
)
def test_both_runtimes_agree(networked: list[Any], made: Rule, options: dict[str, Any]) -> None:
    virtual = [st.VirtualWorker(id=f"aggregating {name}") for name in NAMES]
    (found, cost), (expected, other) = run(networked, made, **options), run(virtual, made, **options)
    assert cost == other
    assert float((found - expected).abs().max()) <= (0 if not options and made.name != "fltrust" else 1e-3)


def test_uploads_do_not_go_through_the_driver_of_a_networked_session(networked: list[Any]) -> None:
    session = torch.zeros(1).share(*networked[:2], crypto_provider=networked[2]).session
    with pytest.raises(UnsupportedOperationError, match="Treatment"):
        Aggregation(session, 6, LIMITS)
