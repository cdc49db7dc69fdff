"""Rounds of hidden updates over real connections: results, bytes, what everybody sees, and who asks for too much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sharetorch as st
from sharetorch import fl
from sharetorch.fl.aggregation import (
    RULES,
    DeclaredLimitsError,
    HiddenAggregator,
    Limits,
    Rule,
    TooFewClientsError,
    UploadError,
    UploadSetError,
    invitations,
    rule,
    uploads,
)
from sharetorch.fl.aggregation import RULES as HIDDEN
from sharetorch.fl.aggregation.invitations import AGGREGATION, ask
from sharetorch.fl.rounds import RULES as PLAIN
from sharetorch.fl.rounds import (
    Federation,
    RoundSettings,
    Task,
    Update,
    WorkerClient,
    allow_hidden,
    federation,
    serving,
)
from sharetorch.fl.rounds.consents import _CONSENTS
from sharetorch.mpc.cost import DRIVER as AT_DRIVER
from sharetorch.mpc.errors import GetNotPermittedError, MalformedRequestError, ReleaseRefusedError, TrainingError
from sharetorch.mpc.session import Session
from sharetorch.remote import wire
from sharetorch.remote.messages import Reply, Train, Values
from sharetorch.remote.network import sources
from sharetorch.remote.worker import local
from tests.fl.aggregation import tools
from tests.fl.rounds.hidden_net import AGGREGATORS, CLIENTS, DRIVER, Net, data_of, federated, network, point
from tests.fl.rounds.tools import vector
from tests.mpc import mutation, views


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    """Four clients, two aggregators, a provider."""
    with network(tmp_path_factory.mktemp("keys"), private=True) as made:
        yield made


@pytest.fixture
def net(kept: Net) -> Iterator[Net]:
    """The same, and nothing said so far; every client lets the driver have hidden updates."""
    kept.heard.clear()
    for name in CLIENTS:
        allow_hidden(kept.nodes[name], "toy", users=[DRIVER], aggregators=AGGREGATORS, least=1, rules=RULES)
    yield kept


def trained_alone(model: nn.Module) -> tuple[Tensor, list[float]]:
    """The updates of the first round, and numbers of items, from torch alone: one full batch each."""
    found, weights = [], []
    for number in range(len(CLIENTS)):
        x, y = data_of(number)
        mine = nn.Linear(2, 2)
        mine.load_state_dict(model.state_dict())
        F.cross_entropy(mine(x), y).backward()
        torch.optim.SGD(mine.parameters(), lr=0.5).step()
        found.append(vector(mine) - vector(model))
        weights.append(float(len(x)))
    return torch.stack(found), weights


def expected(name: str, x: Tensor, weights: list[float]) -> Tensor:
    """What a rule gives of plain updates."""
    array = x.numpy()
    found: dict[str, Any] = {
        "sum": lambda: array.sum(0),
        "mean": lambda: array.mean(0),
        "weighted-mean": lambda: np.average(array, axis=0, weights=weights),
        "median": lambda: np.median(array, axis=0),
        "trimmed-mean": lambda: tools.trimmed(array, 1),
        "krum": lambda: tools.krum(array, 0, 1),
        "multi-krum": lambda: tools.krum(array, 0, 2),
        "sign-vote": lambda: np.sign(np.sign(array).sum(0)),
        "fltrust": lambda: tools.trust(array, array[1]),
    }
    return torch.from_numpy(found[name]())


def made_rule(name: str) -> str | Rule:
    given: dict[str, Any] = {"trimmed-mean": {"trim": 0.25}, "multi-krum": {"selected": 2}}
    return name if name == "fltrust" else rule(name, **given.get(name, {}))


class Guide:
    """A client of the server's own, whose update is that of the second client."""

    id = "guide"

    def train(self, task: Task) -> Update:
        assert task.invitation is None
        return Update(trained_alone(point())[0][1], 1.0, 0.0)


def guide_of(name: str) -> Guide | None:
    return Guide() if name == "fltrust" else None


# -------------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("name", HIDDEN)
def test_every_rule_gives_what_it_gives_of_plain_updates(net: Net, name: str) -> None:
    model = point()
    before = vector(model)
    x, weights = trained_alone(model)
    made = federated(net.clients, net.aggregator(made_rule(name)), 1, model, guide=guide_of(name))
    (report,) = made.fit()
    assert (report.delivered, report.left_out, report.loss) == (list(CLIENTS), {}, None)
    bound = 2e-3 if name == "fltrust" else 1e-4
    assert float((vector(model) - before - expected(name, x, weights)).abs().max()) < bound


@pytest.mark.parametrize("name", ["median", "trimmed-mean", "krum"])
def test_a_hidden_federation_of_virtual_workers_is_the_plain_one(worker: Any, name: str) -> None:
    workers = [worker(f"hr_virtual{number}") for number in range(5)]
    for number, each in enumerate(workers):
        fl.add_dataset(each, fl.BaseDataset(*data_of(number)), "toy")
    parameters: dict[str, Any] = {"krum": {"byzantine": 1}, "trimmed-mean": {"trim": 0.2}}
    alice, bob, cp = (worker(f"hr_virtual_{who}") for who in ("alice", "bob", "cp"))
    hidden = HiddenAggregator(
        alice, bob, crypto_provider=cp, limits=Limits(4.0, 5), rule=rule(name, **parameters.get(name, {}))
    )
    models = []
    for aggregator in (PLAIN[name](0 if name == "median" else 1), hidden):
        models.append(point())
        reports = federated(workers, aggregator, 3, models[-1]).fit()
        assert all(len(report.delivered) == 5 and report.loss is not None for report in reports)
    assert torch.allclose(vector(models[0]), vector(models[1]), atol=1e-4)


def test_clipping_reaches_the_rounds(net: Net) -> None:
    model = point()
    before, (x, _) = vector(model), trained_alone(model)
    bound = float(x.norm(dim=1).min()) / 2
    federated(net.clients, net.aggregator(clip=bound), 1, model).fit()
    clipped = torch.from_numpy(tools.clipped(x.numpy(), bound).mean(0))
    assert float((vector(model) - before - clipped).abs().max()) < 1e-4


def test_the_declared_range_is_the_clients_to_keep(net: Net) -> None:
    model = point()
    before, (x, _) = vector(model), trained_alone(model)
    largest = float(x.abs().max()) / 4
    federated(net.clients, net.aggregator("sum", Limits(largest, 4)), 1, model).fit()
    assert float((vector(model) - before - x.clamp(-largest, largest).sum(0)).abs().max()) < 1e-4


def test_a_guide_goes_with_the_rule_that_needs_one(net: Net) -> None:
    with pytest.raises(TrainingError, match="needs a trusted update"):
        federated(net.clients, net.aggregator("fltrust"))
    with pytest.raises(TrainingError, match="takes no guide"):
        federated(net.clients, net.aggregator("median"), guide=Guide())


def test_an_update_that_is_here_does_not_go_to_aggregators_elsewhere(net: Net) -> None:
    class Here:
        id = "hr_here"

        def train(self, task: Task) -> Update:
            return Update(torch.zeros(6, dtype=torch.float64), 1.0, 0.0)

    with pytest.raises(TrainingError, match="to the wrong side"):
        Federation(point(), [Here()], RoundSettings(1), aggregator=net.aggregator()).fit()


# ---------------------------------------------------------------------------------------------------------------- bytes


@pytest.mark.parametrize("name", ["mean", "weighted-mean", "median"])
def test_bytes_equal_what_is_declared(net: Net, name: str) -> None:
    hidden = net.aggregator(made_rule(name))
    made = federated(net.clients, hidden, 1)
    session = hidden_session(hidden)
    with session.costs.listen() as heard:
        made.fit()
    n, d = len(CLIENTS), 6
    prices = session.suite.prices(2)
    assert heard.total().as_cost(2) == hidden.treatment.cost(n, d, prices, opened=True)
    for client in CLIENTS:
        sent = [given[-1] for _, sender, given in net.pieces() if sender == client]
        assert sorted(map(len, sent)) == sorted([8 * (d + (name == "weighted-mean")), 32])
    for aggregator in AGGREGATORS:
        answers = [
            said for node, sender, said in steps(net) if node == aggregator and sender in AGGREGATORS and sender != node
        ]
        assert sum(len(part) for said in answers for part in said) == 16 * n + 32


def hidden_session(hidden: HiddenAggregator) -> Session:
    return st.mpc.tensor.sharing.session_for(hidden._members, hidden._provider)  # type: ignore[attr-defined,no-any-return]


def answer_of(reply: bytes) -> Any:
    return wire.Decoder(Reply, local()).decode(reply)


def steps(net: Net) -> list[tuple[str, str, list[Any]]]:
    """What aggregators answered to requests of aggregation: node, who asked, the answer."""
    return [
        (node, sender, answer_of(reply).values[1])
        for node, sender, request, reply in net.heard
        if isinstance(request, Train) and AGGREGATION in request.options
    ]


# ---------------------------------------------------------------------------------------------------------------- views


def wide() -> nn.Module:
    """A model with so many coordinates that statistics say something."""
    model = nn.Linear(2, 1 << 13)
    with torch.no_grad():
        for x in model.parameters():
            x.zero_()
    return model


def look(net: Net) -> None:
    """One round, and all that must hold of what anybody was sent."""
    model = wide()
    (report,) = federated(net.clients, net.aggregator("mean"), 1, model).fit()
    assert report.delivered == list(CLIENTS)
    d = 3 << 13
    for node, sender, request, reply in net.heard:
        assert node in (*CLIENTS, *AGGREGATORS), "the provider is told something"
        if node in CLIENTS and isinstance(request, Train):
            assert sender == DRIVER
            said = answer_of(reply)
            assert type(said) is Values and said.values[0] in ("uploaded", 0)
            assert len(said.values) == 2 and (said.values[0] == 0 or said.values[1] == []), "a client tells more"
    pieces = net.pieces()
    assert len(pieces) == 2 * len(CLIENTS)
    words = {}
    for client in CLIENTS:
        mine = {node: given for node, sender, given in pieces if sender == client}
        assert set(mine) == set(AGGREGATORS), "an aggregator misses its piece, or has two"
        assert sorted(len(given[-1]) for given in mine.values()) == [32, 8 * d]
        for rank, node in enumerate(AGGREGATORS):
            round, upload, seeded, contents = mine[node]
            share = np.empty(d, np.int64) if seeded else np.frombuffer(contents, "<i8")
            if seeded:
                uploads.expand(contents, round, upload, rank, share)
            words[client, node] = share.view(np.uint64)
    for node in AGGREGATORS:
        held = [words[client, node] for client in CLIENTS]
        for vector_ in (*held, *(one - other for one, other in zip(held, held[1:], strict=False))):
            for part, column, bins in views.pieces("", np.ascontiguousarray(vector_)):
                views.require_uniform(column, bins, f"words of {node}, {part}")
    together = [words[client, AGGREGATORS[0]] + words[client, AGGREGATORS[1]] for client in CLIENTS]
    assert all(np.abs(x.view(np.int64)).max() < 4 * 2**16 for x in together), "shares do not add up to an update"
    assert len({given[1] for _, _, given in pieces}) == len(CLIENTS)


def test_nobody_sees_an_update(net: Net) -> None:
    look(net)


LEAKS: dict[str, tuple[Any, str, str, str]] = {
    "a client tells the driver its update": (
        serving, "_take_part", "return Values([UPLOADED, []])", "return Values([UPLOADED, [update]])"),
    "a client tells the number of its items": (
        serving, "_prepare", "0 if hidden else len(job.dataset)", "len(job.dataset)"),
    "all pieces go to one aggregator": (
        serving, "_take_part", "invitation.aggregators[piece.rank]", "invitation.aggregators[0]"),
    "no mask": (uploads, "expand", "stream.fill(out)", "out[:] = 0"),
    "one word for all coordinates": (
        uploads, "expand", "stream.fill(out)", 'out[:] = stream.bytes(8).view("<i8")'),
}  # fmt: skip


@pytest.mark.parametrize("name", LEAKS)
def test_planted_leaks_are_caught(net: Net, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, function, correct, wrong = LEAKS[name]
    mutation.plant(monkeypatch, module, function, correct, wrong)
    with pytest.raises((AssertionError, TrainingError, TooFewClientsError)):
        look(net)


def test_the_driver_receives_shares_of_the_result_only(net: Net) -> None:
    hidden = net.aggregator("median")
    session = hidden_session(hidden)
    with session.costs.listen() as heard:
        federated(net.clients, hidden, 1).fit()
    to_driver = {pair: size for pair, size in heard.total().online.items() if pair[1] == AT_DRIVER}
    assert to_driver == {(0, AT_DRIVER): 8 * 6, (1, AT_DRIVER): 8 * 6}


def test_a_round_that_is_repeated_has_fresh_randomness(net: Net) -> None:
    for _ in range(2):
        federated(net.clients, net.aggregator(), 1).fit()
    pieces = net.pieces()
    assert len({given[0] for _, _, given in pieces}) == 2, "the same id for two rounds"
    assert len({given[1] for _, _, given in pieces}) == 8, "the same id for two uploads"
    contents = [given[3] for _, _, given in pieces]
    assert len(set(contents)) == len(contents), "the same seed or share twice"


# --------------------------------------------------------------------------------------------- how few clients, and who


def remove(net: Net, *names: str) -> None:
    for name in names:
        net.nodes[name].datasets["away"] = net.nodes[name].datasets.pop("toy")


def restore(net: Net) -> None:
    for name in CLIENTS:
        if "away" in net.nodes[name].datasets:
            net.nodes[name].datasets["toy"] = net.nodes[name].datasets.pop("away")


def test_too_few_survivors_are_not_added_up(net: Net) -> None:
    """Three of four clients are demanded, two deliver; the aggregators refuse, and the model stays."""
    remove(net, "hr_ann", "hr_dan")
    try:
        made = federated(net.clients, net.aggregator(limits=Limits(4.0, 4, least=3)), 1)
        before = vector(made.model)
        with pytest.raises(TooFewClientsError, match="2 updates reached all aggregators, and at least 3"):
            made.fit()
    finally:
        restore(net)
    assert torch.equal(vector(made.model), before)
    assert not [said for _, _, said in steps(net) if said and said[0] in CLIENTS]


def test_a_driver_that_asks_one_client_only_is_refused(net: Net) -> None:
    with pytest.raises(TooFewClientsError, match="1 clients are asked"):
        federated(net.clients[:1], net.aggregator(limits=Limits(4.0, 4, least=3)), 1).fit()


def test_more_clients_than_declared_are_not_asked(net: Net) -> None:
    with pytest.raises(DeclaredLimitsError, match="4 clients are asked, and the limits declare 3"):
        federated(net.clients, net.aggregator(limits=Limits(4.0, 3)), 1).fit()


def test_a_planted_driver_tells_clients_and_aggregators_different_things(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients hear of at least three of them, aggregators of one."""
    hidden = net.aggregator(limits=Limits(4.0, 4, least=3))
    honest = hidden._everywhere

    def lying(step: str, *given: Any) -> Any:
        if step == invitations.BEGIN:
            (said,) = given
            structs = {name: getattr(said, name) for name in said.__struct_fields__}
            given = (invitations.Invitation(**structs | {"limits": (*said.limits[:4], 1)}),)
        return honest(step, *given)

    monkeypatch.setattr(hidden, "_everywhere", lying)
    with pytest.raises(TrainingError, match="was told of no such round"):
        federated(net.clients, hidden, 1).fit()


def collected(net: Net, name: str = "mean", **limits: Any) -> tuple[HiddenAggregator, Any]:
    """A round up to the agreed set: its aggregator, and the shared updates."""
    hidden = net.aggregator(made_rule(name), Limits(4.0, 4, 100, **limits))
    hidden.begin(1, CLIENTS)
    invitation = hidden.invite(CLIENTS, 6)
    config = fl.TrainConfig(point(), F.cross_entropy, batch_size=64, optimizer_args={"lr": 0.5})
    tensors = [x.detach() for x in point().parameters()]
    for worker in net.clients:
        WorkerClient(worker, "toy", config).train(Task(1, tensors, 0, 0.0, invitation))
    assert sorted(hidden.collect()) == sorted(CLIENTS)
    assert hidden._collected is not None
    return hidden, hidden._collected[0]


@pytest.mark.parametrize("name", ["sum", "mean", "weighted-mean", "sign-vote"])
def test_a_planted_driver_cannot_open_a_subset(net: Net, name: str) -> None:
    """Where a rule adds up all clients, aggregators open nothing that fewer of them made, whatever is commanded."""
    _, x = collected(net, name, least=2)
    for asked in (lambda: x[0], lambda: x[:3].sum(0), lambda: x[0] + x[1] + x[2] + x[2], lambda: (x * 2)[1]):
        with pytest.raises(ReleaseRefusedError):
            asked().get()
    weights = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    with pytest.raises(ReleaseRefusedError):
        (x * weights).sum(0).get()
    assert x.sum(0).get().shape == (6,)


def test_shares_are_handed_out_once(net: Net) -> None:
    hidden, _ = collected(net)
    assert hidden._invitation is not None
    with pytest.raises(UploadSetError, match="once, after the set is agreed"):
        ask(local().link(AGGREGATORS[0]), invitations.CONFIRM, hidden._invitation.round)


def test_a_round_its_driver_left_is_forgotten_with_the_next(net: Net) -> None:
    """As after kill -9 of the driver, who then resumes: what was uploaded for the round before is of no use."""
    config = fl.TrainConfig(point(), F.cross_entropy, batch_size=64, optimizer_args={"lr": 0.5})
    left = net.aggregator()
    left.begin(1, CLIENTS)
    invitation = left.invite(CLIENTS, 6)
    assert invitation is not None
    tensors = [x.detach() for x in point().parameters()]
    for worker in net.clients:
        WorkerClient(worker, "toy", config).train(Task(1, tensors, 0, 0.0, invitation))
    again = federated(net.clients, net.aggregator(), 1)
    assert again.fit()[0].delivered == list(CLIENTS)
    with pytest.raises(UploadError, match="was told of no such round"):
        left.collect()


def test_a_finished_aggregator_goes_on(net: Net) -> None:
    hidden, _ = collected(net)
    assert hidden.finish().shape == (6,)
    federated(net.clients, hidden, 1).fit()


# ------------------------------------------------------------------------------------------------------------- consents


def one_round(net: Net, rule_: str = "mean", **limits: Any) -> dict[str, str]:
    """Who was left out, and why; no more than the first client is."""
    made = federated(net.clients, net.aggregator(made_rule(rule_), Limits(4.0, 4, **limits)), 1)
    return made.fit()[0].left_out


@pytest.mark.parametrize(
    ("consent", "message"),
    [
        ({"least": 3}, "wants at least 3 clients in a result, and the round demands 2"),
        ({"users": ["somebody"]}, "me may not have results of hidden updates"),
        ({"aggregators": ["hr_one"]}, "does not trust hr_two with a share"),
        ({"rules": ["median"]}, "allows the rules median, not 'mean'"),
    ],
)
def test_an_owner_decides(net: Net, consent: dict[str, Any], message: str) -> None:
    given = {"users": [DRIVER], "aggregators": AGGREGATORS, "least": 2} | consent
    allow_hidden(net.nodes["hr_ann"], "toy", **given)
    left_out = one_round(net, least=2)
    assert list(left_out) == ["hr_ann"] and message in left_out["hr_ann"]
    assert not [sender for _, sender, _ in net.pieces() if sender == "hr_ann"]


def test_rules_that_cannot_be_counted_need_to_be_named(net: Net) -> None:
    allow_hidden(net.nodes["hr_ann"], "toy", users=[DRIVER], aggregators=AGGREGATORS, least=1)
    assert one_round(net) == {}
    assert "not 'median'" in one_round(net, "median")["hr_ann"]


def test_without_a_consent_a_private_worker_takes_no_part(net: Net) -> None:
    del _CONSENTS[net.nodes["hr_ann"]]
    assert "GetNotPermittedError" in one_round(net)["hr_ann"]


def test_a_consent_to_hidden_updates_is_none_to_plain_ones(net: Net) -> None:
    config = fl.TrainConfig(point(), F.cross_entropy, batch_size=64)
    with pytest.raises(TrainingError, match="GetNotPermittedError"):
        federation(net.clients, "toy", config, RoundSettings(1)).fit()
    client = WorkerClient(net.clients[0], "toy", config)
    client._pointer = client._prepared(hidden=True)
    order = serving.RoundOrder([x.detach() for x in point().parameters()], (0, 1, "hr_ann"))
    for options in ({"round": order}, {"round": order, "prepare": True}):
        with pytest.raises(GetNotPermittedError):
            client._ask(client._pointer, options)
    for said in (None, [], True):
        with pytest.raises(MalformedRequestError):
            client._ask(client._pointer, {"round": order, "invitation": said})


def test_a_client_takes_part_in_its_own_rounds_only(net: Net) -> None:
    hidden = net.aggregator()
    hidden.begin(1, CLIENTS)
    config = fl.TrainConfig(point(), F.cross_entropy, batch_size=64)
    tensors = [x.detach() for x in point().parameters()]
    for names, size in ((CLIENTS[1:], 6), (CLIENTS, 7)):
        invitation = hidden.invite(names, size)
        with pytest.raises(MalformedRequestError, match="is not for hr_ann, or for a model of"):
            WorkerClient(net.clients[0], "toy", config).train(Task(1, tensors, 0, 0.0, invitation))


def shelve(net: Net, folder: Path, name: str, policy: dict[str, Any], **options: Any) -> None:
    """Let clients have a data set of their configuration."""
    for number, client in enumerate(CLIENTS):
        x, y = data_of(number)
        np.savez(folder / f"{client}.npz", x=x.numpy(), y=y.numpy())
        entry = {"name": name, "path": str(folder / f"{client}.npz"), "target": "y", "policy": policy, **options}
        net.nodes[client].shelf = sources.put(net.nodes[client], sources.sources_of([entry]))


def rounds_on(net: Net, key: str, rule_: str = "mean", least: int = 2) -> Federation:
    config = fl.TrainConfig(point(), F.cross_entropy, batch_size=64, optimizer_args={"lr": 0.5})
    aggregator = net.aggregator(made_rule(rule_), Limits(4.0, 4, least=least))
    return federation(net.clients, key, config, RoundSettings(1), aggregator=aggregator)


def test_data_sets_of_a_workers_configuration_take_part_as_their_policy_says(net: Net, tmp_path: Path) -> None:
    shelve(net, tmp_path, "visits", {"release_to": [DRIVER]}, parties=list(AGGREGATORS))
    made = rounds_on(net, "visits")
    before, (x, _) = vector(made.model), trained_alone(made.model)
    assert made.fit()[0].delivered == list(CLIENTS)
    assert float((vector(made.model) - before - x.mean(0)).abs().max()) < 1e-4
    for other in (rounds_on(net, "visits", "median"), rounds_on(net, "visits", least=1)):
        with pytest.raises(TrainingError, match="allows the rules|wants at least 2"):
            other.fit()
    config = fl.TrainConfig(point(), F.cross_entropy, batch_size=64)
    with pytest.raises(TrainingError, match="GetNotPermittedError"):
        federation(net.clients, "visits", config, RoundSettings(1)).fit()


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ({}, {"parties": [*AGGREGATORS]}),
        ({"release_to": ["somebody"]}, {"parties": [*AGGREGATORS]}),
        ({"release_to": [DRIVER]}, {"parties": ["hr_one"]}),
        ({"release_to": [DRIVER], "min_rows": 5}, {"parties": [*AGGREGATORS]}),
        ({"release_to": [DRIVER], "outputs": ["mean"]}, {"parties": [*AGGREGATORS]}),
        ({"release_to": [DRIVER]}, {"parties": [*AGGREGATORS], "compute": ["somebody"]}),
    ],
)  # fmt: skip
def test_and_not_otherwise(net: Net, tmp_path: Path, policy: dict[str, Any], options: dict[str, Any]) -> None:
    key = f"visits {policy} {options}"
    shelve(net, tmp_path, key, policy, **options)
    with pytest.raises(TrainingError, match="GetNotPermittedError"):
        rounds_on(net, key).fit()


def test_wrong_consents(net: Net) -> None:
    for given in ({"least": 0}, {"rules": ["average"]}):
        with pytest.raises(TrainingError, match="consent"):
            allow_hidden(net.nodes["hr_ann"], "toy", users=[DRIVER], aggregators=AGGREGATORS, **given)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------ strangers


def test_aggregators_listen_to_whom_they_should(net: Net) -> None:
    hidden = net.aggregator()
    hidden.begin(1, CLIENTS)
    invitation = hidden.invite(CLIENTS[:2], 6)
    assert invitation is not None
    terms, one = invitation.terms(), AGGREGATORS[0]

    def upload(sender: str, **changes: Any) -> None:
        piece = replace(terms.split(torch.zeros(6))[0], **changes)
        link = net.nodes[sender].link(one)
        ask(link, invitations.UPLOAD, piece.round, piece.upload, piece.seeded, piece.contents)

    upload("hr_ann")
    with pytest.raises(UploadError, match="hr_ann has uploaded already"):
        upload("hr_ann")
    with pytest.raises(UploadError, match="hr_cleo is not asked in this round"):
        upload("hr_cleo")
    with pytest.raises(UploadError, match="was told of no such round"):
        upload("hr_ben", round=bytes(16))
    for changes in ({"contents": b"123"}, {"contents": bytes(8 * 7)}, {"seeded": True}, {"upload": b"x"}):
        with pytest.raises(UploadError):
            upload("hr_ben", **changes)
    for changes in ({"contents": 3}, {"seeded": None}, {"upload": 5}):
        with pytest.raises(MalformedRequestError):
            upload("hr_ben", **changes)
    link, round = net.nodes["hr_ben"].link(one), invitation.round
    for step in (invitations.ANNOUNCE, invitations.DIGEST, invitations.SETTLE, invitations.CONFIRM):
        with pytest.raises(UploadSetError):
            ask(link, step, round)
    with pytest.raises(UploadSetError, match="has not settled the set"):
        ask(local().link(one), invitations.CONFIRM, round)
    hidden._everywhere(invitations.SETTLE, round)
    with pytest.raises(UploadError, match="came after the set was settled"):
        upload("hr_ben")


@pytest.mark.parametrize(
    "said", [None, [], ["open"], ["begin"], ["begin", 1], ["upload", b"", b""], ["settle", 3], ["begin", [b"", 1]]]
)
def test_malformed_requests_are_refused(net: Net, said: Any) -> None:
    with pytest.raises((MalformedRequestError, UploadError)):
        values = local().link(AGGREGATORS[0]).request(Train(0, "", {AGGREGATION: said})).values
        raise {"UploadError": UploadError}[values[0]]


@pytest.mark.parametrize(
    "changes",
    [
        {"aggregators": ["hr_one"]}, {"aggregators": ["hr_one", "hr_one"]}, {"aggregators": ["hr_two", "hr_ann"]},
        {"dimension": 0}, {"rule": "average"}, {"limits": (4.0, 4, 1, 16, 9)}, {"limits": (2.0**46, 4, 1, 16, 1)},
    ],
)  # fmt: skip
def test_rounds_that_cannot_be_are_refused(net: Net, changes: dict[str, Any]) -> None:
    given = {
        "session": bytes(32), "numbers": (1, 2), "nonce": bytes(16), "aggregators": list(AGGREGATORS),
        "clients": list(CLIENTS), "dimension": 6, "rule": "mean", "limits": (4.0, 4, 1, 16, 1),
    }  # fmt: skip
    with pytest.raises(fl.aggregation.AggregationError):  # type: ignore[attr-defined]
        ask(local().link("hr_one"), invitations.BEGIN, invitations.Invitation(**given | changes))
