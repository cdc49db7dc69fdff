"""Early stops, progress bars and logs."""

from __future__ import annotations

import builtins
import math
import sys
import types
from typing import Any

import pytest

from sharetorch.fl.rounds import EarlyStop, Federation, ProgressBar, RoundReport, RoundSettings, TensorBoard
from sharetorch.mpc.errors import TrainingError
from tests.fl.rounds.tools import Point, Steady


def reports(*values: float | None, name: str = "loss") -> list[RoundReport]:
    made = []
    for number, value in enumerate(values, 1):
        metrics = {} if value is None else {name: value}
        made.append(RoundReport(number, ["a"], ["a"], {}, value if name == "loss" else 1.0, metrics, 0))
    return made


@pytest.mark.parametrize(
    ("stop", "values", "reached"),
    [
        (EarlyStop(patience=2), [3, 2, 1], False),
        (EarlyStop(patience=2), [1, 2, 3], True),
        (EarlyStop(patience=2), [1, 2], False),
        (EarlyStop(patience=2), [], False),
        (EarlyStop(patience=2), [1, 1, 1], True),
        (EarlyStop(patience=2), [3, 3, 2, 2], False),
        (EarlyStop(patience=1, least=0.5), [3, 2.6], True),
        (EarlyStop(patience=1, least=0.5), [3, 2.4], False),
        (EarlyStop(patience=2), [None, None], True),
        (EarlyStop(patience=2), [math.nan, math.inf], True),
        (EarlyStop(patience=1, mode="higher"), [1, 2, 3], False),
    ],
)
def test_when_to_stop_by_the_loss(stop: EarlyStop, values: list[float | None], reached: bool) -> None:
    assert stop.reached(reports(*values)) is reached


def test_accuracy_is_better_when_higher_and_a_loss_when_lower() -> None:
    assert not EarlyStop("accuracy", 1).reached(reports(0.1, 0.2, name="accuracy"))
    assert EarlyStop("accuracy", 1).reached(reports(0.2, 0.1, name="accuracy"))
    assert EarlyStop("test_loss", 1).reached(reports(0.1, 0.2, name="test_loss"))


def test_a_metric_that_is_not_there() -> None:
    with pytest.raises(TrainingError, match="no metric 'accuracy' to stop by; evaluate gives recall"):
        EarlyStop("accuracy").reached(reports(1.0, name="recall"))
    with pytest.raises(TrainingError, match="patience 0"):
        EarlyStop(patience=0)


def test_a_progress_bar_shows_clients_and_figures(capfd: pytest.CaptureFixture[str]) -> None:
    clients = [Steady("a", [1, 1]), Steady("b", [1, 1], fails=[2])]
    options: dict[str, Any] = {"evaluate": lambda model: {"accuracy": 0.5}, "listeners": [ProgressBar(2)]}
    Federation(Point(), clients, RoundSettings(2), **options).fit()
    shown = capfd.readouterr().err
    assert "2/2" in shown and "clients=1/2" in shown and "accuracy=0.5000" in shown


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    original = builtins.__import__

    def importing(name: str, *args: Any, **options: Any) -> Any:
        if name in names:
            raise ImportError(name)
        return original(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", importing)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    without(monkeypatch, "tqdm", "torch.utils.tensorboard")
    with pytest.raises(TrainingError, match="package tqdm"):
        ProgressBar(1)
    with pytest.raises(TrainingError, match="needs the package tensorboard: pip install tensorboard"):
        TensorBoard(tmp_path)


def test_figures_are_logged_for_tensorboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    written: list[tuple[str, float, int]] = []

    class Writer:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("closed", 0, 0))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    options: dict[str, Any] = {"evaluate": lambda model: {"accuracy": 0.5}, "listeners": [TensorBoard(tmp_path)]}
    Federation(Point(), [Steady("a", [1, 1], fails=[2])], RoundSettings(2, least=0), **options).fit()
    names = [(name, step) for name, _, step in written]
    assert ("rounds/loss", 1) in names and ("rounds/loss", 2) not in names
    assert ("rounds/clients", 0.0, 2) in written and ("rounds/accuracy", 0.5, 2) in written
    assert written[-1] == ("closed", 0, 0)
