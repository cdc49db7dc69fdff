"""Rounds: who takes part, who is left out, what goes to and fro, and what remains after an interruption."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sharetorch as st
from sharetorch import fl
from sharetorch.fl.rounds import (
    RULES,
    EarlyStop,
    FedAdam,
    FedAvg,
    Federation,
    FedProx,
    FedYogi,
    RoundReport,
    RoundSettings,
    Strategy,
    Task,
    Update,
    WorkerClient,
    checkpoints,
    federation,
)
from sharetorch.fl.rounds.clients import Steps
from sharetorch.fl.rounds.serving import RoundOrder
from sharetorch.fl.rounds.vectors import Layout
from sharetorch.mpc.errors import CheckpointError, GetNotPermittedError, MalformedRequestError, TrainingError
from sharetorch.remote.messages import Train
from sharetorch.remote.node import HANDLERS
from tests.fl.rounds.tools import Point, Steady, mlp, vector, without_seconds
from tests.network.tools import until

Workers = Callable[..., Any]


def steady(**options: Any) -> list[Steady]:
    return [Steady("a", [1, 0]), Steady("b", [0, 2], **options), Steady("c", [0, 0], weight=2)]


def toy_workers(worker: Workers, sizes: tuple[int, ...], name: str = "toy", **options: Any) -> list[Any]:
    """Workers with data. Where messages are counted, a name no other test has: what others left is deleted by some."""
    made = []
    for number, size in enumerate(sizes):
        made.append(worker(f"{name}{number}"))
        fl.add_dataset(made[-1], fl.BaseDataset(*fl.utils.create_gaussian_mixture_toy_data(size)), "toy", **options)
    return made


def config_of(model: nn.Module, **options: Any) -> fl.TrainConfig:
    return fl.TrainConfig(model, F.cross_entropy, **{"batch_size": 8, "optimizer_args": {"lr": 0.1}} | options)


_links: list[Any] = []
"""Links live as long as somebody holds them, and count anew then."""


def sent(worker: Any) -> int:
    _links.append(st.local_worker.link(worker.id))
    return int(_links[-1].sent)


# ---------------------------------------------------------------------------------------------------------- learning


def test_one_client_with_full_batches_is_central_training_bit_for_bit(worker: Workers) -> None:
    (bob,) = toy_workers(worker, (50,))
    model = mlp()
    central = model.copy()
    dataset = bob.datasets["toy"]
    federation([bob], "toy", config_of(model, batch_size=50, epochs=3), RoundSettings(5)).fit()
    optimizer = torch.optim.SGD(central.parameters(), lr=0.1)
    for _ in range(15):
        optimizer.zero_grad()
        F.cross_entropy(central(dataset.data), dataset.targets).backward()
        optimizer.step()
    for mine, theirs in zip(model.parameters(), central.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_fedavg_is_the_weighted_mean_of_models_trained_apart(worker: Workers) -> None:
    workers = toy_workers(worker, (10, 30))
    model = mlp()
    apart = []
    for each in workers:
        alone = model.copy()
        federation([each], "toy", config_of(alone), RoundSettings(1)).fit()
        apart.append(vector(alone))
    federation(workers, "toy", config_of(model), RoundSettings(1)).fit()
    assert torch.allclose(vector(model), (10 * apart[0] + 30 * apart[1]) / 40, atol=1e-7)


def test_fedprox_adds_the_distance_to_the_clients_loss(worker: Workers) -> None:
    (bob,) = toy_workers(worker, (20,))
    model = nn.Linear(2, 2)
    start, expected = model.copy(), model.copy()
    data, targets = bob.datasets["toy"].data, bob.datasets["toy"].targets
    federation([bob], "toy", config_of(model, batch_size=20, epochs=4), RoundSettings(1), FedProx(0.7)).fit()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        pairs = zip(expected.parameters(), start.parameters(), strict=True)
        near = sum((x - y.detach()).square().sum() for x, y in pairs)
        (F.cross_entropy(expected(data), targets) + 0.35 * near).backward()
        optimizer.step()
    assert torch.allclose(vector(model), vector(expected), atol=1e-7)


@pytest.mark.parametrize("strategy", [FedAvg(), FedProx(), FedAdam(0.1), FedYogi(0.1)])
def test_every_strategy_learns(worker: Workers, strategy: Strategy) -> None:
    workers = toy_workers(worker, (40, 60, 50))
    model = mlp()
    data, targets = fl.utils.create_gaussian_mixture_toy_data(200)

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert not model.training
        return {"accuracy": float((model(data).argmax(1) == targets).float().mean())}

    reports = federation(workers, "toy", config_of(model), RoundSettings(8), strategy, evaluate=evaluate).fit()
    assert model.training and reports[-1].metrics["accuracy"] > 0.95
    first, last = reports[0].loss, reports[-1].loss
    assert first is not None and last is not None and last < first


def test_parallel_clients_give_the_same_as_one_after_the_other(worker: Workers) -> None:
    models = [mlp()]
    models.append(models[0].copy())
    for model, parallel in zip(models, (1, 8), strict=True):
        workers = [worker(f"toy{number}") for number in range(6)]
        for each in workers:
            each.datasets.clear()
        torch.manual_seed(1)
        federation(
            toy_workers(worker, (9, 20, 31, 12, 8, 3)), "toy", config_of(model), RoundSettings(3, parallel=parallel)
        ).fit()
    assert torch.equal(vector(models[0]), vector(models[1]))


def test_buffers_are_averaged_and_counts_stay(worker: Workers) -> None:
    workers = toy_workers(worker, (10, 10))
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = vector(model)
    layout = Layout(model)
    assert (layout.size, layout.trained) == (38, 30) and len(layout.shapes) == 9
    federation(workers, "toy", config_of(model, batch_size=10), RoundSettings(2), FedYogi()).fit()
    assert not torch.equal(vector(model)[30:], before[30:]) and vector(model)[34:].min() > 0
    assert model[1].num_batches_tracked == 0


def test_frozen_parameters_stay(worker: Workers) -> None:
    model = mlp()
    model[0].requires_grad_(False)
    before = [x.detach().clone() for x in model.parameters()]
    federation(toy_workers(worker, (10,)), "toy", config_of(model), RoundSettings(1), FedAdam()).fit()
    same = [torch.equal(x, y) for x, y in zip(model.parameters(), before, strict=True)]
    assert same == [True, True, False, False]


# ---------------------------------------------------------------------------------------------------------- messages


def test_one_message_down_and_one_up_for_each_client_and_round(worker: Workers) -> None:
    workers = toy_workers(worker, (20, 30), "counted ")
    model = mlp()
    made = federation(workers, "toy", config_of(model), RoundSettings(1))
    counts = [[sent(each) for each in workers]]
    made.fit()
    counts.append([sent(each) for each in workers])
    made._settings = RoundSettings(6)
    made.fit()
    counts.append([sent(each) for each in workers])
    first, later = ([b - a for a, b in zip(*pair, strict=True)] for pair in (counts[:2], counts[1:]))
    assert first == [4, 4], "settings and model, forms, graphs, and the round"
    assert later == [5, 5]


def test_a_message_is_little_longer_than_the_parameters(worker: Workers) -> None:
    (bob,) = toy_workers(worker, (20,))
    made = federation([bob], "toy", config_of(mlp(100, 2).double()), RoundSettings(1))
    fl.remove_dataset(bob, "toy")
    fl.add_dataset(bob, fl.BaseDataset(torch.ones(20, 100).double(), torch.zeros(20).long()), "toy")
    made.fit()
    link = st.local_worker.link(bob.id)
    before = link.bytes_sent, link.bytes_received
    made._settings = RoundSettings(2)
    made.fit()
    parameters = 8 * (808 + 18)
    for count, start in zip((link.bytes_sent, link.bytes_received), before, strict=True):
        assert parameters < count - start < parameters + 400


def test_a_step_is_recorded_once_for_all_clients(worker: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[Any] = []
    original = fl.graphs.StepSource.step
    monkeypatch.setattr(
        fl.graphs.StepSource, "step", lambda self, form: recorded.append(form) or original(self, form)
    )
    federation(toy_workers(worker, (16, 24, 8)), "toy", config_of(mlp()), RoundSettings(2)).fit()
    assert len(recorded) == 1


def test_nothing_remains_at_the_workers(worker: Workers) -> None:
    workers = toy_workers(worker, (10, 10))
    made = federation(workers, "toy", config_of(mlp()), RoundSettings(2))
    made.fit()
    assert [len(each) for each in workers] == [2, 2], "settings and model"
    del made
    assert until(lambda: [len(each) for each in workers] == [0, 0]), "as soon as the last thread has ended"


# ---------------------------------------------------------------------------------------------------------- left out


def test_a_client_that_raises_is_left_out_and_asked_again() -> None:
    clients = steady(fails=[2])
    made = Federation(Point(), clients, RoundSettings(3))
    reports = made.fit()
    assert [report.delivered for report in reports] == [["a", "b", "c"], ["a", "c"], ["a", "b", "c"]]
    assert reports[1].left_out == {"b": "ConnectionError: b is gone"} and clients[1].asked == [1, 2, 3]
    expected = torch.tensor([1 / 4, 2 / 4]) + torch.tensor([1 / 3, 0]) + torch.tensor([1 / 4, 2 / 4])
    assert torch.allclose(made.model.x.detach(), expected)
    assert reports[0].loss == pytest.approx((1 + 1 + 2 * 2) / 4)


class Held(Steady):
    """Waits for an event in its first round."""

    def __init__(self, id: str, event: threading.Event) -> None:
        super().__init__(id, [0, 2])
        self.event, self.ended = event, threading.Event()

    def train(self, task: Task) -> Update:
        if not self.asked:
            self.asked.append(task.round)
            self.event.wait(60)
            self.ended.set()
            raise ConnectionError
        return super().train(task)


def test_a_client_that_is_late_is_left_out_and_not_asked_twice_at_once() -> None:
    event = threading.Event()
    clients = [Steady("a", [1, 0]), Held("b", event), Steady("c", [0, 0])]
    begin = time.monotonic()
    try:
        reports = Federation(Point(), clients, RoundSettings(2, deadline=2)).fit()
    finally:
        event.set()
    assert time.monotonic() - begin < 30, "neither a round nor the end waits for who is late"
    assert [report.delivered for report in reports] == [["a", "c"], ["a", "c"]]
    assert [report.left_out["b"] for report in reports] == [
        "no update within 2 s", "still at work on an earlier round",
    ]  # fmt: skip
    assert clients[1].asked == [1]


def test_who_was_late_takes_part_again_when_it_is_done() -> None:
    """It stands first, so that the second round finds it at work before the other client frees it."""
    event = threading.Event()
    late = Held("b", event)

    class Freeing(Steady):
        def train(self, task: Task) -> Update:
            if task.round == 2:
                event.set()
                assert until(lambda: "b" not in made._busy, 60)
                made._settings = RoundSettings(3, deadline=60)
            return super().train(task)

    made = Federation(Point(), [late, Freeing("a", [1, 0])], RoundSettings(3, deadline=8))
    reports = made.fit()
    assert [report.delivered for report in reports] == [["a"], ["a"], ["b", "a"]] and late.asked == [1, 3]


def test_late_clients_do_not_take_the_places_of_others() -> None:
    """Two clients never end; with two at a time, the third has its turn in the next round all the same."""
    event = threading.Event()
    clients = [Held("a", event), Held("b", event), Steady("c", [0, 2])]
    try:
        reports = Federation(Point(), clients, RoundSettings(2, deadline=2, parallel=2, least=0)).fit()
    finally:
        event.set()
    assert [report.delivered for report in reports] == [[], ["c"]] and reports[0].loss is None


@pytest.mark.parametrize(
    "update",
    [
        Update(torch.tensor([1.0, float("nan")], dtype=torch.float64), 1, 0),
        Update(torch.zeros(3, dtype=torch.float64), 1, 0),
        Update(torch.zeros(2), 1, 0),
        Update(torch.zeros(2, dtype=torch.float64), 0, 0),
        Update(torch.zeros(2, dtype=torch.float64), float("inf"), 0),
    ],
)
def test_updates_that_are_none_are_left_out(update: Update) -> None:
    class Wrong(Steady):
        def train(self, task: Task) -> Update:
            return update

    made = Federation(Point(), [Steady("a", [1, 2]), Wrong("b", [0, 0])], RoundSettings(1))
    (report,) = made.fit()
    assert report.left_out == {"b": "what it gave is no finite update with a positive weight"}
    assert made.model.x.tolist() == [1, 2]


def test_too_few_updates_end_the_run_and_change_nothing() -> None:
    clients = [Steady("a", [1, 0]), Steady("b", [0, 2], fails=[2])]
    made = Federation(Point(), clients, RoundSettings(3, least=2))
    with pytest.raises(TrainingError, match="Round 2 has 1 updates and needs 2. Left out: b: ConnectionError"):
        made.fit()
    assert made.model.x.tolist() == [0.5, 1] and len(made.reports) == 1


def test_a_rule_with_too_few_updates_says_so() -> None:
    made = Federation(Point(), steady(), RoundSettings(1), aggregator=RULES["krum"](1))
    with pytest.raises(TrainingError, match="Krum needs at least 2 f"):
        made.fit()


def test_a_worker_that_does_not_let_us_have_results_is_left_out(worker: Workers) -> None:
    open_, closed = toy_workers(worker, (10,)), worker("closed")
    fl.add_dataset(closed, fl.BaseDataset(*fl.utils.create_gaussian_mixture_toy_data(10)), "toy", users=["nobody"])
    made = federation([*open_, closed], "toy", config_of(mlp()), RoundSettings(1))
    (report,) = made.fit()
    assert report.delivered == [open_[0].id]
    assert report.left_out["closed"].startswith("GetNotPermittedError: me may not have models trained on data set")


def test_a_named_user_gives_no_more_rights(worker: Workers) -> None:
    """A client who may not have results does not get them in the name of one who may."""
    bob = worker("bob")
    fl.add_dataset(bob, fl.BaseDataset(*fl.utils.create_gaussian_mixture_toy_data(10)), "toy", users=["alice"])
    pointer = config_of(mlp()).send(bob)
    with pytest.raises(GetNotPermittedError, match="me may not"):
        pointer.handle.link.request(Train(pointer.handle.number, "toy", {"prepare": True, "user": "alice"}))


def test_a_worker_without_the_data_set_is_left_out(worker: Workers) -> None:
    made = federation([*toy_workers(worker, (10,)), worker("empty")], "toy", config_of(mlp()), RoundSettings(1))
    (report,) = made.fit()
    assert report.left_out["empty"].startswith("FederatedDataError: empty has no data set 'toy'")


@pytest.mark.parametrize("change", [lambda x: x[:-1], lambda x: [*x[:-1], x[-1].double()], lambda x: [1, *x[1:]]])
def test_a_worker_checks_the_tensors_of_a_round(worker: Workers, change: Callable[[list[Any]], list[Any]]) -> None:
    (bob,) = toy_workers(worker, (16,))
    config = config_of(mlp())
    client = WorkerClient(bob, "toy", config)
    tensors = [x.detach() for x in config.model.parameters()]
    client.train(Task(1, tensors, 0, 0.0))
    pointer = client._pointer
    assert pointer is not None
    order = RoundOrder(change(tensors), (0, 1, "bob"))
    with pytest.raises(MalformedRequestError, match="tensors of a round"):
        pointer.handle.link.request(Train(pointer.handle.number, "toy", {"round": order}))


def test_a_worker_that_was_not_prepared_says_so(worker: Workers) -> None:
    (bob,) = toy_workers(worker, (16,))
    config = config_of(mlp())
    pointer = config.send(bob)
    order = RoundOrder([x.detach() for x in config.model.parameters()], (0, 1, "bob"))
    with pytest.raises(TrainingError, match="lacks 1 graphs"):
        pointer.handle.link.request(Train(pointer.handle.number, "toy", {"round": order}))


def test_a_worker_that_knows_nothing_of_rounds(worker: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    (bob,) = toy_workers(worker, (16,))
    client = WorkerClient(bob, "toy", config_of(mlp()))
    client._pointer = client._prepared()
    monkeypatch.setitem(HANDLERS, Train, fl.serving.serve_training)
    with pytest.raises(TrainingError, match="toy[0-9]+ does not know rounds"):
        client.train(Task(1, [], 0, 0.0))


def test_fit_at_a_worker_is_as_it_was(worker: Workers) -> None:
    (bob,) = toy_workers(worker, (16,))
    config = config_of(mlp())
    pointer = config.send(bob)
    assert pointer is not None and isinstance(fl.fit(bob, "toy"), Tensor)


# ---------------------------------------------------------------------------------------------------------- sampling


def test_clients_are_sampled_by_the_seed() -> None:
    def asked(seed: int) -> list[list[str]]:
        clients = [Steady(str(number), [0, 0]) for number in range(8)]
        return [report.asked for report in Federation(Point(), clients, RoundSettings(6, sample=3, seed=seed)).fit()]

    first = asked(0)
    assert first == asked(0) != asked(1) and len({tuple(names) for names in first}) > 1
    assert all(len(names) == 3 and names == sorted(names) for names in first)


def test_an_aggregator_is_told_who_is_asked_and_given_updates_in_order() -> None:
    heard: list[Any] = []

    class Told:
        name = "told"

        def begin(self, round: int, clients: Any) -> None:
            heard.append((round, list(clients)))

        def add(self, client: str, update: Tensor, weight: float) -> None:
            heard.append((client, update.tolist(), weight))

        def finish(self) -> Tensor:
            heard.append("finish")
            return torch.tensor([5.0, 6.0], dtype=torch.float64)

    clients = [Steady("a", [1, 0], seconds=0.1), Steady("b", [0, 2], weight=3), Steady("c", [0, 0], fails=[1])]
    made = Federation(Point(), clients, RoundSettings(1, parallel=3), aggregator=Told())
    made.fit()
    assert heard == [(1, ["a", "b", "c"]), ("a", [1, 0], 1), ("b", [0, 2], 3), "finish"]
    assert made.model.x.tolist() == [5, 6]


def test_clients_train_at_the_same_time_but_no_more_than_allowed() -> None:
    """Three must meet, twice; four never do."""
    meeting = threading.Barrier(3, timeout=60)
    running: list[int] = []
    most: list[int] = []

    class Meeting(Steady):
        def train(self, task: Task) -> Update:
            running.append(1)
            most.append(len(running))
            meeting.wait()
            running.pop()
            return super().train(task)

    clients = [Meeting(str(number), [0, 0]) for number in range(6)]
    (report,) = Federation(Point(), clients, RoundSettings(1, parallel=3)).fit()
    assert len(report.delivered) == 6 and max(most) == 3


def test_rounds_run_in_a_loop_of_the_users() -> None:
    async def both() -> list[list[RoundReport]]:
        return await asyncio.gather(*(Federation(Point(), steady(), RoundSettings(2)).run() for _ in range(2)))

    assert [len(reports) for reports in asyncio.run(both())] == [2, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RoundSettings(-1), "rounds is -1; it must be at least 0"),
        (lambda: RoundSettings(1, sample=0), "sample is 0"),
        (lambda: RoundSettings(1, deadline=0), "deadline is 0"),
        (lambda: RoundSettings(1, parallel=0), "parallel is 0"),
        (lambda: Federation(Point(), [], RoundSettings(1)), "0 clients"),
        (lambda: Federation(Point(), [*steady(), *steady()], RoundSettings(1)), "6 clients with 3 ids"),
        (lambda: Federation(Point(), steady(), RoundSettings(1, sample=4)), "4 of 3 clients"),
        (lambda: Federation(nn.ReLU(), steady(), RoundSettings(1)), "no parameters of real numbers"),
        (lambda: federation([], "toy", fl.TrainConfig(loss_fn=F.mse_loss), RoundSettings(1)), "no model"),
    ],
)
def test_settings_that_are_wrong(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make()


# -------------------------------------------------------------------------------------------------------- resumption


@pytest.mark.parametrize("make", [lambda: FedAvg(0.5, 0.9), FedProx, FedAdam, FedYogi])
def test_a_run_that_was_interrupted_gives_the_same_as_one_that_was_not(
    worker: Workers, tmp_path: Path, make: Callable[[], Strategy]
) -> None:
    workers = toy_workers(worker, (12, 20, 34))
    models = [nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))]
    models.append(models[0].copy())

    def run(model: nn.Module, rounds: int, path: Path | None) -> list[RoundReport]:
        settings = RoundSettings(rounds, sample=2, seed=3)
        options: dict[str, Any] = {"checkpoint": path, "evaluate": lambda model: {"sum": float(vector(model).sum())}}
        return federation(workers, "toy", config_of(model, epochs=2), settings, make(), **options).fit()

    whole = run(models[0], 6, None)
    run(models[1], 3, tmp_path / "here" / "state")
    fresh = models[1].copy()
    for x in fresh.parameters():
        nn.init.zeros_(x)
    resumed = run(fresh, 6, tmp_path / "here" / "state")
    assert torch.equal(vector(fresh), vector(models[0]))
    assert without_seconds(resumed) == without_seconds(whole)
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["state"]


def test_a_run_that_failed_goes_on_from_the_last_round(tmp_path: Path) -> None:
    path = tmp_path / "state"
    with pytest.raises(TrainingError):
        Federation(Point(), [Steady("a", [1, 0], fails=[3])], RoundSettings(5), checkpoint=path).fit()
    client = Steady("a", [1, 0])
    made = Federation(Point(), [client], RoundSettings(5), checkpoint=path)
    made.fit()
    assert client.asked == [3, 4, 5] and made.model.x.tolist() == [5, 0]


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    Federation(Point(), steady(), RoundSettings(1), checkpoint=path).fit()
    others: list[tuple[str, Callable[[], Federation]]] = [
        ("seed 0; here it is 1", lambda: Federation(Point(), steady(), RoundSettings(2, seed=1), checkpoint=path)),
        ("sample None; here it is 2", lambda: Federation(Point(), steady(), RoundSettings(2, 2), checkpoint=path)),
        ("clients", lambda: Federation(Point(), steady()[:2], RoundSettings(2), checkpoint=path)),
        ("model", lambda: Federation(Point(3), steady(), RoundSettings(2), checkpoint=path)),
        ("strategy's lr 1", lambda: Federation(Point(), steady(), RoundSettings(2), FedAvg(2), checkpoint=path)),
        (
            "rule mean; here it is median",
            lambda: Federation(Point(), steady(), RoundSettings(2), None, RULES["median"](0), checkpoint=path),
        ),
    ]
    for message, make in others:
        with pytest.raises(CheckpointError, match=message):
            make().fit()


@pytest.mark.parametrize(
    "harm", [lambda b: b[:-1], lambda b: b[:60] + bytes([b[60] ^ 1]) + b[61:], lambda b: b"", lambda b: b"x" + b]
)
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "state"
    Federation(Point(), steady(), RoundSettings(1), checkpoint=path).fit()
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(CheckpointError, match="is damaged"):
        Federation(Point(), steady(), RoundSettings(2), checkpoint=path).fit()


def test_a_checkpoint_that_cannot_be_written_or_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="was not written"):
        checkpoints.write(tmp_path / "file" / "state", checkpoints.State({}, [], {}, []))
    with pytest.raises(CheckpointError, match="cannot be read"):
        Federation(Point(), steady(), RoundSettings(1), checkpoint=tmp_path).fit()


# -------------------------------------------------------------------------------------------------------- early stop


def test_training_stops_when_nothing_becomes_better_and_stays_so_after_a_resumption(tmp_path: Path) -> None:
    values = iter([0.1, 0.3, 0.3, 0.2, 0.9])
    options: dict[str, Any] = {
        "evaluate": lambda model: {"accuracy": next(values)},
        "early_stop": EarlyStop("accuracy", patience=2),
        "checkpoint": tmp_path / "state",
    }
    assert len(Federation(Point(), steady(), RoundSettings(5), **options).fit()) == 4
    assert len(Federation(Point(), steady(), RoundSettings(5), **options).fit()) == 4


def test_steps_of_a_config_are_shared_only_if_given() -> None:
    config = config_of(mlp())
    steps = Steps(config)
    clients = [WorkerClient(st.VirtualWorker(id="x"), "toy", config, given) for given in (steps, steps, None)]
    assert clients[0]._steps is clients[1]._steps is not clients[2]._steps
    assert repr(clients[0]) == "<WorkerClient at x, data set 'toy'>"
