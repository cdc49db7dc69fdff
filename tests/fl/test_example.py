"""The example script on a few digits; it runs in this process."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def results(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> dict[str, Any]:
    arguments = (
        "--dataset",
        "digits",
        "--train-items",
        "130",
        "--test-items",
        "40",
        "--epochs",
        "2",
        "--batch-size",
        "32",
    )
    path = folder / "results.json"
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", ["federated_mnist.py", *arguments, "--plain", "--json", str(path), *options])
    common, module = importlib.import_module("common"), importlib.import_module("federated_mnist")
    assert common.run_script(module.main) == 0
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_remote_training_equals_its_plain_twin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    found = results(monkeypatch, tmp_path)
    federated, plain = found["federated"], found["plain"]
    assert federated["losses"] == pytest.approx(plain["losses"], rel=1e-4)
    assert federated["accuracy"] == plain["accuracy"]
    assert federated["requests"] > 12 * 25
    assert "x the plaintext time" in capsys.readouterr().out


def test_a_planned_step_is_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = results(monkeypatch, tmp_path, "--plan")
    federated, plain = found["federated"], found["plain"]
    assert federated["losses"] == pytest.approx(plain["losses"], rel=1e-3)
    assert federated["requests"] < 12 * 8
