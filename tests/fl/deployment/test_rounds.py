"""Rounds over real connections: what comes of them, who takes part, how they go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sharetorch as st
from sharetorch import fl
from sharetorch.fl import rounds
from sharetorch.fl.deployment import (
    Allowance,
    Batches,
    Learning,
    Serving,
    TooFewClientsError,
    models,
    sums,
)
from sharetorch.fl.deployment.hall import Visitor
from sharetorch.fl.deployment.messages import Train
from sharetorch.fl.deployment.training import Trainee
from sharetorch.fl.masking import Client, TooFewSurvivorsError
from sharetorch.fl.rounds.strategies import FedAdam, FedProx
from sharetorch.fl.rounds.threads import Busy
from sharetorch.fl.training import Settings
from sharetorch.mpc.errors import CheckpointError, ConfigurationError, TrainingError
from tests.fl.deployment.federations import (
    LEARNING,
    SECONDS,
    Place,
    all_first,
    expected,
    federated,
    items,
    run,
    same,
    serving,
    together,
    values,
)

Make = Callable[..., Place]


def test_rounds_equal_those_of_workers_in_this_process(place: Make) -> None:
    here = place()
    served, outcomes = federated(here, settings=serving(3))
    workers = [st.VirtualWorker(id=id) for id in here.ids]
    for worker in workers:
        worker.datasets.clear()
        fl.add_dataset(worker, items(str(worker.id)), "items")
    model = LEARNING.begun()
    config = fl.TrainConfig(model, F.cross_entropy, 4, 2, optimizer_args={"lr": 0.2})
    reports = rounds.federation(workers, "items", config, rounds.RoundSettings(3, seed=LEARNING.seed)).fit()
    for mine, theirs in zip(values(served.model), values(model), strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=3 * 2.0**-19)
    for mine, theirs in zip(served.reports, reports, strict=True):
        assert mine.delivered == theirs.delivered == here.ids and not mine.left_out
        assert mine.loss == pytest.approx(theirs.loss, abs=3 * 2.0**-19)
    for outcome in outcomes:
        assert same(outcome.model, served.model) and (outcome.rounds, outcome.summed) == (3, 3)


def test_a_round_is_the_integer_sum_of_its_members(place: Make) -> None:
    here = place()
    served, _ = federated(here)
    assert served.reports[0].delivered == here.ids
    assert same(served.model, expected(served.reports))


def test_a_module_comes_as_graphs_to_those_who_allow_it(place: Make) -> None:
    here = place()
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    plain = [x.clone() for x in values(model)]
    learning = Learning(model, F.cross_entropy, Batches((4,)), Settings(3, 1, optimizer_args={"lr": 0.1}))
    allowed = Allowance(graphs=True)
    clients = [here.join(id, allowed, data=items(id, 6)) for id in here.ids]
    served, outcomes = run(together(here.serve(learning), *clients))
    assert served.model is model and all(x.dtype == y.dtype for x, y in zip(values(model), plain, strict=True))
    assert not torch.equal(plain[0], values(model)[0]) and not torch.equal(plain[6], values(model)[6])
    assert torch.equal(plain[8], values(model)[8])  # a count of batches is in no update
    assert same(outcomes[0].model, model)


def test_a_federation_goes_on_where_it_was(place: Make) -> None:
    here = place()
    one = Place(here.folder / "other", here.ids)
    one.folder.mkdir()
    (one.folder / "keys").symlink_to(here.keys)
    one.enrol(*here.ids)

    def part(where: Place, count: int) -> Any:
        clients = [where.join(id) for id in where.ids]
        return run(together(where.serve(settings=serving(count), strategy=FedAdam(0.1)), *clients))[0]

    whole = part(one, 3)
    part(here, 1)
    served = part(here, 3)
    assert same(served.model, whole.model) and [each.round for each in served.reports] == [1, 2, 3]
    assert here.told("server", "resumed") == [{"rounds": 1}]
    finished = part(here, 3)
    assert same(finished.model, whole.model)
    with pytest.raises(CheckpointError, match="with proximal 0.0; here it is 0.01"):
        run(here.serve(strategy=FedProx()))


def test_two_servers_do_not_share_a_state(place: Make) -> None:
    here = place()

    async def both() -> None:
        first = asyncio.ensure_future(here.serve())
        await here.where()
        with pytest.raises(ConfigurationError, match="in use by another process"):
            await here.serve()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    run(both())


def test_a_late_client_is_left_out_and_asked_again(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here, late = place("dep_a", "dep_b", "dep_c", "dep_late"), "dep_late"
    release, whole, wait = threading.Event(), Trainee.train, sums.Attempt._all_have

    def train(self: Trainee, order: Train) -> Any:
        if self._id == late and order.round == 1:
            assert release.wait(60)
        return whole(self, order)

    async def all_have(self: sums.Attempt, missing: Callable[[], Any], what: str, seconds: float) -> None:
        await wait(self, lambda: [id for id in missing() if id != late or self._round > 2], what, seconds)
        if late in missing() and self._round == 1:
            self._leave(late, f"no answer within {seconds:g} s in {what}")
        if self._round == 2:
            release.set()

    monkeypatch.setattr(Trainee, "train", train)
    monkeypatch.setattr(sums.Attempt, "_all_have", all_have)

    before = sums.Attempt.train

    async def begin(self: sums.Attempt, tensors: bytes, seconds: float) -> None:
        if self._round == 3:
            await self._hall.wait(lambda: late in self._clients or late in map(str, self._hall.ready()), SECONDS)
        await before(self, tensors, seconds)

    monkeypatch.setattr(sums.Attempt, "train", begin)
    monkeypatch.setattr(Visitor, "__str__", lambda self: self.id)
    all_first(monkeypatch, 4)
    served, outcomes = federated(here, settings=serving(4))
    reports = served.reports
    assert late in reports[0].left_out and "training" in reports[0].left_out[late]
    assert late not in reports[1].asked
    assert late in reports[3].delivered and outcomes[3].summed >= 1


def test_clients_come_later_and_go(place: Make) -> None:
    here = place("dep_a", "dep_b", "dep_c", "dep_d")

    async def course() -> tuple[Any, Any]:
        begun, over = asyncio.Event(), asyncio.Event()

        class Watch:
            def report(self, report: Any) -> None:
                (begun if report.round == 1 else over).set()

            def close(self) -> None:
                pass

        leaving = asyncio.ensure_future(here.join("dep_a"))

        async def later() -> Any:
            await begun.wait()
            leaving.cancel()
            return await here.join("dep_d")

        return await together(
            here.serve(settings=serving(2), listeners=[Watch()]), here.join("dep_b"), here.join("dep_c"), later()
        )

    served, _ = run(course())
    assert served.reports[0].delivered == ["dep_a", "dep_b", "dep_c"]
    assert set(served.reports[1].delivered) >= {"dep_b", "dep_c"} and served.reports[1].round == 2


def test_a_sample_is_asked(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here = place()
    all_first(monkeypatch, 3)
    served, _ = federated(here, settings=serving(3, 2, sample=2))
    assert {tuple(report.asked) for report in served.reports} != {tuple(served.reports[0].asked)}
    assert all(len(report.asked) == 2 and report.delivered == report.asked for report in served.reports)


def test_rounds_without_enough_clients_end_with_an_error(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here = place()
    with pytest.raises(TooFewClientsError, match="0 clients are there after 0.2 s, and a sum needs 3"):
        run(here.serve(settings=serving(patience=0.2)))

    def fails(self: Trainee, order: Train) -> Any:
        raise ZeroDivisionError("17 is what the data holds")

    monkeypatch.setattr(Trainee, "train", fails)
    served, _ = federated(here, settings=serving(attempts=2))
    assert isinstance(served, TooFewClientsError) and "it left: ZeroDivisionError" in str(served)
    assert [facts["attempt"] for facts in here.told("server", "no sum")] == [1, 2]
    assert "17" not in str(here.events)


def test_a_sum_of_too_few_is_no_sum(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here, whole = place("dep_a", "dep_b", "dep_c", "dep_d"), Client.mask

    def mask(self: Client, *args: Any) -> Any:
        if self._identity.id in ("dep_b", "dep_c"):
            raise asyncio.CancelledError
        return whole(self, *args)

    monkeypatch.setattr(Client, "mask", mask)
    monkeypatch.setattr(Busy, "run", at_once)
    all_first(monkeypatch, 4)
    served, _ = federated(here, settings=serving(attempts=1))
    assert isinstance(served, TooFewSurvivorsError) and "2 of 4 clients have done the step mask" in str(served)
    assert not (here.folder / "server" / "checkpoint").exists()


async def at_once(self: Busy, name: str, work: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(work) if name.startswith("call") else work()


def test_what_is_no_finite_update_sits_out(place: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    here = place("dep_a", "dep_b", "dep_c", "dep_d")
    broken = items("dep_d")
    broken.data[0, 0] = float("nan")
    clients = [here.join(id) for id in here.ids[:3]] + [here.join("dep_d", data=broken)]
    all_first(monkeypatch, 4)
    served, _ = run(together(here.serve(), *clients))
    assert served.reports[0].left_out == {"dep_d": "it left: NotFiniteError"}
    assert same(served.model, expected(served.reports))


def test_updates_are_scaled_down_to_a_length() -> None:
    model = LEARNING.begun()
    learning = Learning(LEARNING.model, settings=LEARNING.settings, seed=3, clip=0.01)
    task = learning.task(model, rounds.FedAvg())
    result = Trainee(task, Allowance(), items("dep_a"), "dep_a").train(Train(1, 1, models.packed(model)))
    assert float(result.vector[:-1].norm()) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"least": 1}, "least is 1; it is at least 2"), ({"sample": 2, "least": 3}, "sample is 2; it is at least 3"),
        ({"deadline": 0}, "deadline is 0"), ({"sample": 300}, "256 clients at most"), ({"corrupt": 1.5}, "shares lie"),
        ({"rounds": -1}, "rounds is -1"),
    ],
)  # fmt: skip
def test_settings_outside_their_range_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises((TrainingError, ConfigurationError), match=said):
        Serving(**{"rounds": 1, **options})
