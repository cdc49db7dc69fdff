"""Rules on shared vectors: equal to the plain rules, whoever drops out; aggregators open results alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict

from sharetorch.fl.aggregation import DeclaredLimitsError, TooFewClientsError, UploadError, rule
from sharetorch.fl.aggregation.invitations import CONFIRM, SETTLE, Invitation
from sharetorch.fl.flower import Aggregators, InServerApp, LostRoundError, secure_mod, uploading
from sharetorch.fl.flower.records import RECORD, Order, carried, order_in, read, write
from sharetorch.fl.flower.shared import NetworkedRound
from sharetorch.fl.masking import Limits, RequestRefusedError
from sharetorch.fl.rounds import robust
from sharetorch.mpc.errors import ConfigurationError, NetworkError, ReleaseRefusedError
from sharetorch.remote.worker import known_workers
from tests.fl.flower.federations import LocalGrid, client_app, model, updates
from tests.fl.flower.tools import moved, simulated, stacked, strategy, weighted_mean
from tests.network.tools import make_keys, start_group

UNIT = 2.0**-16


def reference(name: str, x: Any) -> Any:
    """A plain rule."""
    rows = torch.from_numpy(x)
    plain = {
        "median": lambda: robust.coordinate_median(rows),
        "trimmed-mean": lambda: robust.trimmed_mean(rows, 1),
        "krum": lambda: robust.krum(rows, 1),
        "mean": lambda: rows.mean(0),
        "sum": lambda: rows.sum(0),
    }
    return plain[name]().numpy()


RULES = {
    "median": rule("median"), "trimmed-mean": rule("trimmed-mean", trim=0.2), "krum": rule("krum", byzantine=1),
    "mean": rule("mean"), "sum": rule("sum"),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_rules_equal_the_plain_ones(name: str) -> None:
    found = moved(strategy(rule=RULES[name], aggregators=InServerApp()), simulated(5))
    assert np.abs(found - reference(name, stacked(range(5)))).max() <= 8 * UNIT


def test_private_weights() -> None:
    limits = Limits(2.0, 100)
    made = strategy(aggregators=InServerApp(3), limits=limits, train_metrics={"loss": 10.0})
    grid = simulated(4)
    assert np.abs(moved(made, grid) - weighted_mean(range(4))).max() <= 1e-3


def test_figures_are_means() -> None:
    figures = {"train_metrics": {"loss": 8.0}, "evaluate_metrics": {"accuracy": 1.0}}
    made = strategy(rule="median", aggregators=InServerApp(), **figures)
    result = made.start(simulated(3), model(), num_rounds=1)
    assert abs(result.train_metrics_clientapp[1]["loss"] - 1.5) < 1e-4
    assert abs(result.evaluate_metrics_clientapp[1]["accuracy"] - 0.1) < 1e-4


def test_clients_that_drop_out_are_not_in_the_result() -> None:
    """Step 1 is hello, step 2 the work."""
    for step in (1, 2):
        grid = simulated(5, lost=lambda here, node, step=step: node in (2, 4) and here >= step)  # type: ignore[misc]
        found = moved(strategy(rule="median", aggregators=InServerApp()), grid)
        assert np.abs(found - reference("median", stacked([0, 2, 4]))).max() <= 4 * UNIT


@pytest.mark.parametrize("step", [1, 2])
def test_a_result_of_few_is_not_opened(step: int) -> None:
    grid = simulated(5, lost=lambda here, node: node > 2 and here >= step)
    with pytest.raises((LostRoundError, TooFewClientsError), match="tell"):
        moved(strategy(rule="median", aggregators=InServerApp()), grid)
    grid = simulated(5, lost=lambda here, node: node > 2 and here >= step)
    found = moved(strategy(rule="median", aggregators=InServerApp(), least=2), grid)
    assert np.abs(found - reference("median", stacked([0, 1]))).max() <= 4 * UNIT


def test_too_few_for_the_rule() -> None:
    with pytest.raises(TooFewClientsError):
        moved(strategy(rule=RULES["krum"], aggregators=InServerApp()), simulated(4))


def test_least_is_a_number_of_clients() -> None:
    with pytest.raises(ConfigurationError, match="least 0"):
        strategy(rule="median", aggregators=InServerApp(), least=0)


def test_limits_without_room() -> None:
    with pytest.raises(DeclaredLimitsError):
        strategy(rule="median", aggregators=InServerApp(), limits=Limits(2.0**60))


@pytest.mark.parametrize(
    ("parties", "provider", "match"),
    [
        (("alice@h:1",), "cp@h:3", "at least two"),
        (("alice@h:1", "bob"), "cp@h:3", "host:port"),
        (("alice@h:1", "bob@h:2"), "bob@h:2", "twice"),
        (("alice@h:1", "bob@h"), "cp@h:3", "no address"),
    ],
)
def test_bad_aggregators(parties: tuple[str, ...], provider: str, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        Aggregators(*parties, provider=provider)


# ------------------------------------------------------------------------------------------- workers as aggregators

NAMES = ("flower_alice", "flower_bob", "flower_provider")
CLINICS = 5


class Workers:
    """Aggregators as processes, and keys of everybody."""

    def __init__(self, folder: Path) -> None:
        self.keys = make_keys(folder, *NAMES, "server", *(f"clinic_{i}" for i in range(CLINICS)))
        self.group = start_group(NAMES, self.keys, sessions=True)
        self.addresses = [f"{each.id}@127.0.0.1:{each.address[1]}" for each in self.group.values()]

    def aggregators(self) -> Aggregators:
        *parties, provider = self.addresses
        return Aggregators(*parties, provider=provider)

    def grid(self, **further: Any) -> LocalGrid:
        usual = {"sharetorch-aggregators": ",".join(self.addresses[:2]), "sharetorch-rules": "median, krum"}
        configs = [
            {"partition-id": i, "sharetorch-keys": str(self.keys), "sharetorch-id": f"clinic_{i}", **usual, **further}
            for i in range(CLINICS)
        ]
        return LocalGrid(client_app(secure_mod), configs)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    made = Workers(tmp_path_factory.mktemp("flower"))
    yield made
    for process in made.group.values():
        process.stop()
    assert not {*known_workers()} & {*NAMES}


@pytest.mark.parametrize("name", ["median", "krum"])
def test_a_rule_among_workers(workers: Workers, name: str) -> None:
    grid = workers.grid()
    made = strategy(keys=workers.keys, rule=RULES[name], aggregators=workers.aggregators(), train_metrics={"loss": 8.0})
    found = moved(made, grid, rounds=2)
    expected = reference(name, stacked(range(CLINICS))) + reference(name, stacked(range(CLINICS), 2))
    assert np.abs(found - expected).max() <= 8 * UNIT
    assert grid.errors == []


def test_private_weights_among_workers(workers: Workers) -> None:
    made = strategy(keys=workers.keys, aggregators=workers.aggregators(), limits=Limits(2.0, 100))
    assert np.abs(moved(made, workers.grid()) - weighted_mean(range(CLINICS))).max() <= 1e-3


def test_the_server_sees_that_a_client_has_delivered_and_nothing_else(workers: Workers) -> None:
    grid = workers.grid()
    moved(strategy(keys=workers.keys, rule="median", aggregators=workers.aggregators()), grid)
    assert {node: b"|".join(seen) for node, seen in grid.seen.items()} == {
        node: f"clinic_{node - 1}|".encode() for node in range(1, CLINICS + 1)
    }


def test_clients_that_die_at_work_are_not_in_the_result(workers: Workers) -> None:
    grid = workers.grid()

    def update(partition: int, round: int) -> Any:
        if partition == 3:
            raise RuntimeError("This client dies while it trains.")
        return updates(partition, round)

    grid.app = client_app(secure_mod, update=update)
    found = moved(strategy(keys=workers.keys, rule="median", aggregators=workers.aggregators()), grid)
    assert np.abs(found - reference("median", stacked([0, 1, 2, 4]))).max() <= 4 * UNIT


def test_a_client_that_reaches_one_aggregator_only_is_not_in_the_result(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring, brought = uploading._bring, []

    def some(way: Any, piece: Any) -> None:
        brought.append(way.id)
        if len(brought) == 4:
            raise ConnectionError("This client dies between its two uploads.")
        bring(way, piece)

    monkeypatch.setattr(uploading, "_bring", some)
    grid = workers.grid()
    found = moved(strategy(keys=workers.keys, rule="median", aggregators=workers.aggregators()), grid)
    (dead,) = (node for node, seen in grid.seen.items() if len(seen) == 1)
    rest = [i for i in range(CLINICS) if i != dead - 1]
    assert np.abs(found - reference("median", stacked(rest))).max() <= 4 * UNIT


def curious(opened: list[BaseException]) -> Any:
    """A ServerApp that commands another program than its rule: it opens less than all clients together."""

    def finish(self: Any, replies: Any) -> Any:
        self._everywhere(SETTLE, self.invitation.round)
        count = len(self._everywhere(CONFIRM, self.invitation.round)[0])
        x = self._taken(0, [count, self.invitation.dimension])
        for part in (x, x[0], x[:2].sum(0), x[:, :1], (x * torch.arange(count).view(-1, 1)).sum(0)):
            with pytest.raises(ReleaseRefusedError) as refusal:
                part.get()
            opened.append(refusal.value)
        raise LostRoundError("The planted round ends here.")

    return finish


def test_a_curious_server_opens_sums_of_all_and_nothing_else(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By rules that add up all clients alike; others need to be named in a node's configuration."""
    refused: list[BaseException] = []
    monkeypatch.setattr(NetworkedRound, "finish", curious(refused))
    with pytest.raises(LostRoundError):
        moved(strategy(keys=workers.keys, rule="mean", aggregators=workers.aggregators()), workers.grid())
    assert len(refused) == 5


def refusals(workers: Workers, grid: LocalGrid, **options: Any) -> str:
    """What nodes say of a round in which none takes part."""
    given = {"keys": workers.keys, "rule": "median", "aggregators": workers.aggregators(), **options}
    with pytest.raises(TooFewClientsError):
        moved(strategy(**given), grid)
    assert len(grid.errors) == CLINICS and {type(error) for error in grid.errors} == {RequestRefusedError}
    return str(grid.errors[0])


@pytest.mark.parametrize(
    "aggregators", ["", "flower_bob@127.0.0.1:1,flower_alice@127.0.0.1:2", "flower_alice@127.0.0.1:1"]
)
def test_nodes_give_shares_to_their_own_aggregators_only(workers: Workers, aggregators: str) -> None:
    said = refusals(workers, workers.grid(**{"sharetorch-aggregators": aggregators}))
    assert "sharetorch-aggregators" in said


def test_nodes_allow_rules_that_cannot_be_counted_by_name_only(workers: Workers) -> None:
    grid = workers.grid()
    for context in grid.contexts.values():
        del context.node_config["sharetorch-rules"]
    assert "sharetorch-rules" in refusals(workers, grid)
    moved(strategy(keys=workers.keys, rule="mean", aggregators=workers.aggregators()), grid)


def test_nodes_say_how_many_clients_a_result_has(workers: Workers) -> None:
    assert "least=" in refusals(workers, workers.grid(), least=2)
    assert "least=" in refusals(workers, workers.grid(**{"sharetorch-fewest": 5}))


def test_helpers_are_no_clients(workers: Workers) -> None:
    """Whoever computes a result knows its own update, and so more of the others'."""
    message, node = ordered(workers)
    with pytest.raises(RequestRefusedError, match="no clients"):
        told(workers, message, node, clients=[f"clinic_{node - 1}", "flower_alice", "clinic_9"])


def test_what_is_said_to_a_node_alone_is_refused_by_aggregators(workers: Workers) -> None:
    """A ServerApp that names a client who is none, or another rule, gets no upload."""
    message, node = ordered(workers)
    with pytest.raises(UploadError, match="told of no such round"):
        told(workers, message, node, rule="sum")


def test_a_round_for_others_is_refused(workers: Workers) -> None:
    message, node = ordered(workers)
    with pytest.raises(RequestRefusedError, match="not for"):
        told(workers, message, node, clients=["clinic_7", "clinic_8", "clinic_9"])


def ordered(workers: Workers) -> tuple[Message, int]:
    """An honest order to train and upload."""
    made = strategy(keys=workers.keys, rule="mean", aggregators=workers.aggregators())
    try:
        message = next(iter(made.configure_train(1, model(), ConfigRecord(), workers.grid())))
    finally:
        made.close()
    return message, message.metadata.dst_node_id


def told(workers: Workers, message: Message, node: int, **changed: Any) -> Any:
    """What a node does with a changed order."""
    order = order_in(message)
    assert order is not None
    invitation = msgspec.structs.replace(read(order.message, Invitation), **changed)
    content = RecordDict({**message.content})
    content[RECORD] = carried(write(Order("upload", write(invitation), order.wanted)))
    grid = workers.grid()
    return grid.app(Message(content, dst_node_id=node, message_type="train"), grid.contexts[node])


def test_an_aggregator_that_is_not_there(workers: Workers) -> None:
    addresses = Aggregators(workers.addresses[0], "flower_bob@127.0.0.1:9", provider=workers.addresses[2])
    with pytest.raises(NetworkError):
        moved(strategy(keys=workers.keys, rule="median", aggregators=addresses), workers.grid())

