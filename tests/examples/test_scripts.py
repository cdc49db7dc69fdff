"""The example scripts run as a user runs them, on small settings; what stops early runs in this process."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SMALL = ("--dataset", "digits", "--train-items", "48", "--test-items", "24")


def run(script: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / script), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


def results(script: str, folder: Path, *options: object) -> tuple[str, dict[str, Any]]:
    done = run(script, *SMALL, "--json", folder / "results.json", *options)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "results.json").read_text())


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a script in this process; gives its exit status and what it wrote to stderr."""

    def script(name: str, *options: object) -> tuple[int, str]:
        monkeypatch.syspath_prepend(str(EXAMPLES))
        monkeypatch.setattr(sys, "argv", [name, *map(str, options)])
        common, module = importlib.import_module("common"), importlib.import_module(name.removesuffix(".py"))
        try:
            status = common.run_script(module.main)
        except SystemExit as leaving:
            status = leaving.code
        return status, capsys.readouterr().err

    return script


def test_training_follows_its_plaintext_twin(tmp_path: Path) -> None:
    printed, found = results("encrypted_mnist.py", tmp_path, "--plain", "--save", tmp_path / "weights.pt")
    encrypted, plain = found["encrypted"], found["plain"]
    assert encrypted["losses"] == pytest.approx(plain["losses"], rel=0.01)
    assert abs(encrypted["accuracy"] - plain["accuracy"]) <= 1 / 24
    for part in ("training", "test"):
        assert encrypted[part]["rounds"] > 0 and encrypted[part]["seconds"] > 0
        assert {"alice", "bob"} <= encrypted[part]["bytes_sent"].keys()
        assert min(encrypted[part]["bytes_sent"][party] for party in ("alice", "bob")) > 0
    assert found["settings"]["batch_size"] == 16 and found["settings"]["seed"] == 0
    assert found["data"] == {"name": "digits", "train": 48, "test": 24}
    assert "encrypted" in printed and "plaintext" in printed and "rounds" in printed
    weights = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert [tuple(value.shape) for value in weights.values()] == [(128, 64), (128,), (64, 128), (64,), (10, 64), (10,)]
    assert all(type(value) is torch.Tensor and value.isfinite().all() for value in weights.values())


def test_saved_weights_serve_inference(tmp_path: Path) -> None:
    done = run("encrypted_mnist.py", *SMALL, "--save", tmp_path / "weights.pt")
    assert done.returncode == 0, done.stderr
    printed, found = results("private_inference.py", tmp_path, "--weights", tmp_path / "weights.pt", "--plain")
    assert found["plain"]["largest_logit_error"] < 2**-10
    assert found["plain"]["different_labels"] == found["plain"]["ties"]
    assert found["encrypted"]["rounds"] > 0
    assert "bytes for an image" in printed


def test_cnn_is_trained_and_asked(tmp_path: Path) -> None:
    _, found = results("encrypted_mnist.py", tmp_path, "--model", "cnn", "--plain")
    assert found["encrypted"]["losses"] == pytest.approx(found["plain"]["losses"], rel=0.01)
    _, found = results("private_inference.py", tmp_path, "--model", "cnn", "--plain")
    assert found["plain"]["largest_logit_error"] < 2**-10


def test_without_plain_no_logits_are_opened(tmp_path: Path) -> None:
    _, found = results("private_inference.py", tmp_path)
    assert found["plain"] is None


@pytest.mark.parametrize("script", ["encrypted_mnist.py", "private_inference.py"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--epochs", "0"), "--epochs: 0 is not positive"),
        (("--batch-size", "many"), "--batch-size: invalid"),
        (("--lr", "nan"), "--lr: nan is not a positive number"),
        (("--momentum", "1"), "--momentum: 1 is not in 0 <= x < 1"),
        (("--seed", "-1"), "--seed: -1 is not in"),
        (("--protocol", "none"), "--protocol: invalid choice: 'none'"),
        (("--json", "absent/results.json"), "absent/results.json: not a file in an existing folder"),
    ],
)
def test_bad_options_are_named(call: Callable[..., Any], script: str, options: tuple[str, str], message: str) -> None:
    status, written = call(script, *options)
    assert status == 2
    assert message in written


@pytest.mark.parametrize("script", ["encrypted_mnist.py", "private_inference.py"])
def test_missing_data_says_where_it_was_looked_for(call: Callable[..., Any], script: str, tmp_path: Path) -> None:
    status, written = call(script, "--data-dir", tmp_path)
    assert status == 1
    assert f"error: --data-dir: MNIST is not complete in {tmp_path}/mnist" in written


@pytest.mark.parametrize("content", [None, b"", b"no weights", b"PK\x03\x04"])
def test_bad_weights_are_named(call: Callable[..., Any], tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "weights.pt"
    if content is not None:
        path.write_bytes(content)
    status, written = call("private_inference.py", *SMALL, "--weights", path)
    assert status == 1
    assert "error:" in written and "weights.pt" in written


def test_weights_of_another_model_are_refused(call: Callable[..., Any], tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "weights.pt")
    status, written = call("private_inference.py", *SMALL, "--weights", tmp_path / "weights.pt")
    assert status == 1
    assert "does not hold weights of this model" in written
