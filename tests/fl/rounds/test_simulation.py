"""Simulated federations: what Byzantine clients do to each rule, on the digits."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from sharetorch import datasets
from sharetorch.fl.rounds import RULES
from sharetorch.fl.rounds.attacks import ATTACKS, Byzantine, flipped
from sharetorch.fl.rounds.clients import Task
from sharetorch.fl.rounds.simulation import Items, Trial, model_for, simulated
from sharetorch.mpc.errors import FederatedDataError, TrainingError
from tests.fl.rounds.tools import Steady, vector


@cache
def digits() -> Items:
    data = datasets.load_digits()
    return Items(data.train_images, data.train_labels, data.test_images, data.test_labels)


def accuracy(**options: object) -> float:
    trial = Trial(**{"rounds": 10, "clients": 10, "local_epochs": 2, "lr": 0.2} | options)  # type: ignore[arg-type]
    return simulated(trial, digits()).fit()[-1].metrics["accuracy"]


@cache
def clean() -> float:
    return accuracy()


def test_without_attacks_the_digits_are_learned() -> None:
    assert clean() > 0.9


@pytest.mark.parametrize("attack", ["sign-flip", "random"])
def test_byzantine_clients_collapse_the_mean(attack: str) -> None:
    assert accuracy(byzantine=0.3, attack=attack) < clean() - 0.3


@pytest.mark.parametrize("attack", sorted(ATTACKS))
@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "krum", "multi-krum"])
def test_robust_rules_withstand_them(rule: str, attack: str) -> None:
    assert accuracy(rule=rule, byzantine=0.3, attack=attack) > clean() - 0.06


def test_the_same_seed_gives_the_same_model() -> None:
    options: dict[str, object] = {"rounds": 2, "sample": 4, "byzantine": 0.2, "attack": "random"}
    models = []
    for seed in (0, 0, 1):
        made = simulated(Trial(clients=10, seed=seed, **options), digits())  # type: ignore[arg-type]
        made.fit()
        models.append(vector(made.model))
    assert torch.equal(models[0], models[1]) and not torch.equal(models[0], models[2])


@pytest.mark.parametrize("partition", ["dirichlet:0.3", "labels", "quantity"])
def test_uneven_partitions_learn_too(partition: str) -> None:
    assert accuracy(partition=partition) > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "best"}, "'best' is no rule; there are mean, median"),
        ({"attack": "x"}, "'x' is no attack"),
        ({"strategy": "x"}, "'x' is no strategy"),
        ({"byzantine": 1.0}, "1 of them Byzantine"),
        ({"clients": 0}, "0 clients"),
        ({"sample": 21}, "21 of 20 clients"),
        ({"rule": "krum", "byzantine": 0.5}, "rule krum needs at least 23 clients in a round to withstand 10"),
        ({"rule": "trimmed-mean", "byzantine": 0.5}, "needs at least 21"),
        ({"rule": "multi-krum", "byzantine": 0.3, "sample": 10}, "needs at least 15"),
    ],
)
def test_trials_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        Trial(**options)  # type: ignore[arg-type]
    with pytest.raises(FederatedDataError):
        Trial(partition="x")


def test_rules_are_told_how_many_attack() -> None:
    trial = Trial(rule="trimmed-mean", byzantine=0.3)
    assert trial.attackers == 6 and RULES[trial.rule](trial.attackers).name == "trimmed-mean 6"


def test_what_attackers_send() -> None:
    honest = Steady("a", [3, 4])
    task = Task(1, [], 0, 0.0)
    sent = {attack: Byzantine(honest, attack, 2.0).train(task).vector for attack in ATTACKS}
    assert sent["sign-flip"].tolist() == [-6, -8] and sent["scale"].tolist() == [6, 8]
    assert sent["label-flip"].tolist() == [3, 4]
    noise = Byzantine(Steady("a", [0] * 10_000), "random", 2.0).train(task).vector
    assert noise.std().item() == pytest.approx(2, rel=0.05) and abs(noise.mean().item()) < 0.15
    again = Byzantine(honest, "random", 2.0)
    assert torch.equal(again.train(task).vector, sent["random"])
    assert not torch.equal(again.train(task._replace(round=2)).vector, sent["random"])
    assert flipped(torch.tensor([0, 1, 9]), 10).tolist() == [9, 8, 0]
    with pytest.raises(TrainingError, match="'x' is no attack"):
        Byzantine(honest, "x", 1.0)


def test_models_by_the_shape_of_items() -> None:
    images = torch.zeros(2, 1, 28, 28)
    network = model_for(Items(images, torch.zeros(2), images, torch.zeros(2)), 0)
    assert sum(x.numel() for x in network.parameters()) == 431_080 and network(images).shape == (2, 10)
    assert model_for(digits(), 0)(digits().test[:3]).shape == (3, 10)
    assert torch.equal(vector(model_for(digits(), 1)), vector(model_for(digits(), 1)))
    weight = model_for(digits(), 0)[1].weight
    assert weight.abs().max() <= 1 / 8 and weight.std().item() == pytest.approx(1 / 8 / 3**0.5, rel=0.05)
