"""``sharetorch fl simulate`` end to end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from sharetorch.cli import fl, main

Say = Callable[..., tuple[int, str, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command in this process: exit code, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        try:
            code = main(["fl", "simulate", *map(str, words)])
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


SMALL = ("--dataset", "digits", "--clients", 5, "--train-items", 300, "--rounds", 3, "--lr", 0.3)


def test_a_simulation_with_a_plot_and_json(say: Say, tmp_path: Path) -> None:
    plot, results = tmp_path / "out.svg", tmp_path / "out.json"
    code, out, err = say(
        *SMALL, "--rule", "median", "--byzantine", 0.2, "--attack", "scale", "--partition", "dirichlet:1",
        "--plot", plot, "--json", results,
    )  # fmt: skip
    assert code == 0 and "rounds" in err
    lines = out.splitlines()
    assert lines[0] == "digits, 5 clients, 1 of them scale, dirichlet:1, fedavg, median"
    assert lines[1].startswith("3 rounds in ") and lines[2].startswith("test accuracy ")
    content = json.loads(results.read_text())
    assert content["settings"]["rule"] == "median" and content["settings"]["train_items"] == 300
    assert [entry["round"] for entry in content["rounds"]] == [1, 2, 3]
    assert all(len(entry["delivered"]) == 5 and 0 < entry["metrics"]["accuracy"] <= 1 for entry in content["rounds"])
    assert ElementTree.parse(plot).getroot().tag.endswith("svg") and lines[0] in plot.read_text()


def test_a_mean_that_collapses_beyond_all_numbers_is_reported(say: Say, tmp_path: Path) -> None:
    results = tmp_path / "out.json"
    code, out, _ = say(*SMALL, "--byzantine", 0.4, "--strength", 1e30, "--rounds", 4, "--quiet", "--json", results,
                       "--plot", tmp_path / "out.png")  # fmt: skip
    content = json.loads(results.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert code == 0 and "left out" in out and content["rounds"][-1]["metrics"]["test_loss"] is None
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("sum", ()), ("mean", ("--clip", 0.5)), ("weighted-mean", ()), ("median", ("--least", 5)),
        ("trimmed-mean", ("--aggregators", 3)), ("krum", ("--coordinate", 2)), ("multi-krum", ()), ("sign-vote", ()),
        ("fltrust", ("--guide-items", 40)),
    ],
)  # fmt: skip
def test_every_rule_on_hidden_updates(say: Say, tmp_path: Path, rule: str, words: tuple[object, ...]) -> None:
    results = tmp_path / "out.json"
    hidden = () if "--aggregators" in words else ("--hidden",)
    code, out, _ = say(*SMALL, "--rounds", 4, "--quiet", "--rule", rule, "--byzantine", 0.2, "--attack", "label-flip",
                       *hidden, *words, "--json", results)  # fmt: skip
    content = json.loads(results.read_text())
    assert code == 0 and f"{rule} of updates hidden among" in out
    losses = [entry["metrics"]["test_loss"] for entry in content["rounds"]]
    assert losses[-1] < losses[0] and all(len(entry["delivered"]) == 5 for entry in content["rounds"])


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "krum"])
def test_hidden_rules_give_what_plain_ones_give(say: Say, tmp_path: Path, rule: str) -> None:
    losses = []
    for hidden in ((), ("--hidden",)):
        results = tmp_path / "out.json"
        words = (*SMALL, "--quiet", "--rule", rule, "--byzantine", 0.2, "--strength", 3, *hidden, "--json", results)
        assert say(*words)[0] == 0
        rounds = json.loads(results.read_text())["rounds"]
        losses.append([entry["metrics"]["test_loss"] for entry in rounds])
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


def test_too_few_clients_of_hidden_updates(say: Say) -> None:
    code, _, err = say(*SMALL, "--quiet", "--hidden", "--least", 5, "--sample", 4)
    assert code == 1 and "DeclaredLimitsError" in err and "At least 5 of at most 4 clients" in err


@pytest.mark.parametrize("strategy", ["fedprox", "fedadam", "fedyogi"])
def test_strategies_and_settings_reach_the_rounds(say: Say, tmp_path: Path, strategy: str) -> None:
    results = tmp_path / "out.json"
    code, _, err = say(
        *SMALL, "--strategy", strategy, "--server-lr", 0.05, "--mu", 0.2, "--local-epochs", 2, "--batch-size", 16,
        "--seed", 7, "--sample", 3, "--quiet", "--json", results,
    )  # fmt: skip
    content = json.loads(results.read_text())
    assert code == 0 and err == ""
    expected = {"strategy": strategy, "server_lr": 0.05, "mu": 0.2, "local_epochs": 2, "batch_size": 16, "seed": 7}
    assert expected.items() <= content["settings"].items()
    assert all(len(entry["asked"]) == 3 for entry in content["rounds"])


def test_a_simulation_goes_on_from_its_checkpoint(say: Say, tmp_path: Path) -> None:
    state, files = tmp_path / "state", [tmp_path / name for name in ("whole", "resumed")]
    assert say(*SMALL, "--quiet", "--json", files[0])[0] == 0
    assert say(*SMALL, "--quiet", "--rounds", 2, "--checkpoint", state)[0] == 0
    assert say(*SMALL, "--quiet", "--checkpoint", state, "--json", files[1])[0] == 0
    rounds = [json.loads(path.read_text())["rounds"] for path in files]
    for entry in [*rounds[0], *rounds[1]]:
        del entry["seconds"]
    assert rounds[0] == rounds[1]
    code, _, err = say(*SMALL, "--quiet", "--checkpoint", state, "--seed", 4)
    assert code == 1 and "CheckpointError" in err and "seed 0; here it is 4" in err


def test_a_simulation_stops_early(say: Say) -> None:
    code, out, _ = say(*SMALL, "--quiet", "--rounds", 50, "--lr", 1e-9, "--patience", 2)
    assert code == 0 and out.splitlines()[1].startswith("3 rounds in ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rule", "best"), "invalid choice: 'best'"),
        (("--partition", "even"), "'even' is no partition. There are iid, dirichlet:ALPHA"),
        (("--partition", "dirichlet:-1"), "alpha is -1.0; it must be a positive number"),
        (("--byzantine", "30"), "30 is no part of the clients: at least 0 and below 1"),
        (("--clients", "0"), "'0' is no whole number of at least 1"),
        (("--lr", "fast"), "'fast' is no number"),
        (("--lr", "-1"), "-1 is not positive"),
        (("--seed", "-1"), "'-1' is no whole number"),
        (("--plot", "/nowhere/out.svg"), "/nowhere/out.svg cannot be written"),
        (("--plot", "out.txt"), "out.txt must end in one of .svg, .png, .pdf"),
    ],
)
def test_words_that_are_wrong(say: Say, words: tuple[str, ...], message: str) -> None:
    code, _, err = say(*words)
    assert code == 2 and message in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--rule", "sign-vote"), "TrainingError: 'sign-vote' is no rule; there are mean, median"),
        (("--rule", "sum"), "That is one for hidden updates"),
        (("--clip", "1"), "updates are hidden among two or more aggregators"),
        (("--aggregators", "1"), "updates are hidden among two or more aggregators"),
        (("--hidden", "--coordinate", "1e15"), "DeclaredLimitsError"),
        (("--hidden", "--least", "21"), "DeclaredLimitsError"),
        (("--model", "cnn"), "TrainingError: The tutorials' network takes images of shape (1, 28, 28)"),
        (("--rule", "krum", "--byzantine", "0.5"), "TrainingError: The rule krum needs at least 23 clients"),
        (("--train-items", "10"), "FederatedDataError: 10 items cannot give 20 clients 1 each"),
        (("--train-items", "100000"), "FederatedDataError: --train-items 100000: there are 1437"),
        (("--dataset", "mnist", "--data-dir", "/nowhere"), "DataError"),
    ],
)
def test_settings_that_do_not_go_together(say: Say, words: tuple[str, ...], message: str) -> None:
    code, out, err = say("--quiet", *words)
    assert code == 1 and out == "" and message in err


def test_images_of_mnist_are_shifted_and_scaled() -> None:
    from sharetorch.datasets import Dataset

    images, labels = torch.full((2, 1, 28, 28), 0.1307 + 0.3081), torch.zeros(2, dtype=torch.int64)
    items = fl._items(Dataset(images, labels, images, labels, "mnist"))
    assert torch.allclose(items.train, torch.ones(()), atol=1e-6) and torch.equal(items.train, items.test)
