"""``st.profile()``: what it adds up is what sessions count, and nothing of it stays behind."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.optim import optimizer as steps

import sharetorch as st
from sharetorch.mpc import virtual
from sharetorch.mpc.cost import Cost
from sharetorch.mpc.errors import ShareTorchError
from sharetorch.mpc.protocols.suite import SUITES
from sharetorch.mpc.timing import Stopwatch
from sharetorch.profile_totals import FIGURES, Totals
from tests.tensor.tools import ALICE, BOB, CAROL, PROVIDER, eighths, share


def network() -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    return model.share(ALICE, BOB, crypto_provider=PROVIDER, protocol="securenn")


def data() -> Any:
    return share(eighths(3, 5), protocol="securenn")


def added(rows: list[Any]) -> Totals:
    total = Totals()
    for row in rows:
        total.add(row.totals)
    return total


def counts(totals: Totals) -> dict[str, Any]:
    return {name: value for name in FIGURES if isinstance(value := getattr(totals, name), int)}


def train(model: Any, x: Any, optimizer: Any) -> None:
    optimizer.zero_grad()
    (model(x) ** 2).mean().backward()
    optimizer.step()


def test_totals_are_what_the_session_counts() -> None:
    model, x = network(), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    with x.session.costs.listen() as heard, st.profile() as p:
        train(model, x, optimizer)
        model(x).detach().get()
    total = heard.total()
    assert (p.rounds, p.totals.calls) == (total.rounds, total.operations)
    assert p.bytes_sent == {name: total.sent_by(rank) for rank, name in x.session.names().items()}
    assert p.provider_bytes == sum(total.offline.values())
    assert {row.name: row.totals.rounds for row in p.rows()} == {
        name: record.traffic.rounds for name, record in heard.by_operation.items()
    }
    assert p.seconds == pytest.approx(sum(record.seconds for record in heard.by_operation.values()))


@pytest.mark.parametrize("by", ["operation", "module", "line", "session"])
def test_every_operation_is_in_one_row(by: str) -> None:
    model, x = network(), data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    with st.profile() as p:
        train(model, x, optimizer)
    for depth in (None, 1, 2):
        total = added(p.rows(by, depth=depth))
        assert counts(total) == counts(p.totals)
        assert total.correlations == p.totals.correlations
        assert total.online == pytest.approx(p.totals.online)


def test_layers_cost_what_protocols_declare() -> None:
    model, x = network(), data()
    with st.profile() as p, torch.no_grad():
        model(x)
    row = {row.name: row.totals for row in p.rows("module")}
    linear, relu = row["Sequential.0 (Linear)"], row["Sequential.1 (ReLU)"]
    opened, made = 3 * 5 + 5 * 4, 3 * 4
    assert (linear.rounds, linear.party_bytes) == (2, 8 * (opened + made))
    declared = SUITES["securenn"].prices(2).choose(made, 1)
    assert Cost(relu.rounds, relu.party_bytes, relu.helper_bytes, relu.dealer_bytes) == declared


def test_time_is_that_of_members_and_what_is_dealt_is_apart() -> None:
    x = share(eighths(4, 4))
    with st.profile() as p:
        x @ x
    total = p.totals
    assert 0 < total.online and 0 < total.offline
    assert total.online + total.offline <= total.seconds <= p.elapsed
    assert total.elapsed <= total.online + total.waiting
    with st.profile() as p:
        x + x
    assert p.totals.waiting == 0


def test_correlations_are_counted_by_kind() -> None:
    x = share(torch.arange(6).reshape(2, 3), protocol="securenn")
    with st.profile() as p:
        x * x
    assert p.totals.correlations == {"triples": 6}
    y = share(eighths(2, 3), protocol="securenn")
    with st.profile() as p:
        y / 3
    assert p.totals.correlations == {"truncation pairs": 6}


def test_sharing_and_opening_count_too() -> None:
    with st.profile() as p:
        share(torch.ones(3)).get()
    row = {row.name: row.totals for row in p.rows()}
    assert row["share"].driver_bytes == 2 * 3 * 8
    assert row["share"].busiest_bytes == 2 * 3 * 8
    assert row["get"].party_bytes == 3 * 8


def test_estimates_follow_their_formula() -> None:
    x = share(eighths(4, 4))
    with st.profile() as p:
        x @ x
    total = p.totals
    estimate = p.estimate(latency_seconds=0.5, bandwidth_bytes_per_s=100.0)
    assert estimate.computing == total.elapsed
    assert estimate.latency == 0.5 * p.rounds
    assert estimate.transfer == total.party_bytes / 100
    assert estimate.preparing == total.offline + p.provider_bytes / 100
    assert estimate.online == estimate.computing + estimate.latency + estimate.transfer
    assert estimate.total == estimate.online + estimate.preparing


def test_several_sessions_and_those_that_begin_inside() -> None:
    workers = [st.VirtualWorker(id=f"profiled {name}") for name in ("one", "two", "three")]
    x = share(torch.ones(2))
    with st.profile() as p:
        torch.ones(4).share(*workers[:2], crypto_provider=workers[2])
        x * x
    busy = [row.name for row in p.rows("session")]
    assert "alice, bob, crypto_provider (tables)" in busy
    assert "profiled one, profiled two, profiled three (tables)" in busy
    assert {row.name: row.totals.calls for row in p.rows()} == {"share": 1, "bilinear": 1}
    assert p.bytes_sent["driver"] == 2 * 4 * 8


def test_nested_profiles_hear_the_same() -> None:
    x = share(torch.ones(2))
    with st.profile() as outer:
        x * x
        with st.profile() as inner:
            x + x
        x - x
    assert (outer.totals.calls, inner.totals.calls) == (3, 1)


def test_nothing_outside_of_the_block_is_recorded() -> None:
    x = share(torch.ones(2))
    x * x
    with st.profile() as p:
        pass
    x * x
    assert p.totals == Totals()
    assert p.rounds == 0 and p.bytes_sent == {} and p.rows() == []


def test_nothing_stays_behind() -> None:
    def state() -> tuple[Any, ...]:
        return (
            dict(hooks._global_forward_pre_hooks),
            dict(hooks._global_forward_hooks),
            dict(hooks._global_forward_hooks_always_called),
            dict(steps._global_optimizer_pre_hooks),
            dict(steps._global_optimizer_post_hooks),
            list(x.session.costs.listeners),
        )

    x = share(torch.ones(2))
    before = state()
    with st.profile():
        assert state() != before
    assert state() == before
    with pytest.raises(ZeroDivisionError), st.profile():
        raise ZeroDivisionError
    assert state() == before


def test_members_are_timed_for_profiles_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a profile an operation makes no stopwatch; a plain ledger needs none either."""

    made: list[Stopwatch] = []

    def making(*args: Any) -> Stopwatch:
        made.append(Stopwatch(*args))
        return made[-1]

    x = share(torch.ones(2))
    monkeypatch.setattr(virtual, "Stopwatch", making)
    x * x
    with x.session.costs.listen():
        x * x
    assert not made
    with st.profile():
        x * x
    assert len(made) == 1
    x * x
    assert len(made) == 1


def test_an_operation_that_fails_leaves_the_profile_usable() -> None:
    x = share(torch.ones(2))
    with st.profile() as p:
        x + x
        with pytest.raises(ShareTorchError):
            x.exp().bernoulli()
        x + x
    assert {row.name: row.totals.calls for row in p.rows() if row.name == "combine"} == {"combine": 2}


def test_what_was_heard_before_an_error_can_be_read() -> None:
    x = share(torch.ones(2))
    with pytest.raises(ZeroDivisionError), st.profile() as p:
        x + x
        raise ZeroDivisionError
    assert p.totals.calls == 1
    assert p.elapsed == p.elapsed


def test_two_threads_with_a_session_each() -> None:
    def work(x: Any, model: Any) -> None:
        for _ in range(5):
            model(x)

    shared = []
    for parties in ((ALICE, BOB), (ALICE, CAROL)):
        model = nn.Sequential(nn.Linear(3, 3)).share(*parties, crypto_provider=PROVIDER)
        shared.append((torch.ones(2, 3).share(*parties, crypto_provider=PROVIDER), model))
    with st.profile() as p:
        threads = [threading.Thread(target=work, args=pair) for pair in shared]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = {row.name: row.totals.rounds for row in p.rows("module")}
    assert set(rows) == {"Sequential.0 (Linear)", "Sequential#2.0 (Linear)"}
    assert len(set(rows.values())) == 1


def test_figures_for_json() -> None:
    x = share(torch.ones(2))
    with st.profile() as p:
        x * x
    read = json.loads(json.dumps(p.as_dict()))
    assert read["totals"]["rounds"] == p.rounds
    assert read["by_operation"][0]["name"] == "bilinear"
    assert {"by_module", "by_line", "by_session", "elapsed", "bytes_sent"} < set(read)


def test_no_value_is_in_names_tables_or_traces(tmp_path: Any) -> None:
    secret = 271.828125
    with st.profile() as p:
        x = share(torch.tensor([secret, 1.0]))
        y = (x * 271.828125 + torch.tensor([271.828125, 0.0])).relu()
        y.get()
    p.export_chrome_trace(tmp_path / "trace.json")
    said = "".join([str(p), p.table("line"), json.dumps(p.as_dict()), (tmp_path / "trace.json").read_text()])
    assert "271.82" not in said and str(int(secret * 2**16)) not in said
