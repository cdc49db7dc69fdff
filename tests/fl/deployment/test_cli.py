"""``sharetorch fl serve`` and ``sharetorch fl join``: what is wrong is said, with the value, the reason, the remedy."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sharetorch.cli import fl_options, main
from tests.fl.deployment.federations import Place, items

Say = Callable[..., tuple[int, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command in this process: exit code, standard error."""

    def run(*words: object) -> tuple[int, str]:
        try:
            code = main(["fl", *map(str, words)])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, capsys.readouterr().err

    return run


@pytest.fixture
def here(tmp_path: Path) -> Place:
    found = Place.made(tmp_path, "dep_a")
    np.savez(tmp_path / "items.npz", x=items("dep_a").data.numpy(), y=items("dep_a").targets.numpy())
    return found


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--least", 1), 2, "'1' is no whole number of at least 2; a sum of one client would be its update"),
        (("--rounds", 0), 2, "'0' is no whole number of at least 1"),
        (("--deadline", "soon"), 2, "'soon' is no number"),
        (("--corrupt", 1), 2, "1 is no part of the clients"),
        (("--save", "model.pt"), 2, "model.pt does not end in .safetensors"),
        (("--log", "no/folder/log.json"), 2, "name a file in a folder that is there"),
        (("--model", "resnet"), 1, "'resnet' is no stock model. There are cnn, mlp:INPUTS,...,OUTPUTS"),
        (("--model", "mlp:4"), 1, "'mlp:4' is no stock model"),
        (("--cert", "keys/server.key"), 1, "is no certificate ID.crt"),
        (("--cert", "nowhere/server.crt"), 1, "nowhere has no server.crt"),
        (("--enrolled", "nowhere.txt"), 1, "nowhere.txt cannot be read: No such file"),
        (("--listen", "here"), 1, "'here' is no address"),
        (("--stop-after", 3), 1, "Name them with --test"),
        (("--sample", 2, "--least", 3), 1, "sample is 2; it is at least 3"),
        (("--bound", 1e10), 1, "largest 1e+10"),
        (("--sample", 200, "--bound", 1e8), 1, "could reach"),
    ],
)
def test_what_is_wrong_with_a_server_is_said(
    say: Say, here: Place, words: tuple[object, ...], code: int, said: str
) -> None:
    given: dict[object, object] = {
        "--model": "mlp:4,3", "--rounds": 1, "--listen": "127.0.0.1:0", "--cert": here.keys / "server.crt",
        "--enrolled": here.roll, "--state": here.folder / "state", "--patience": 0.01,
    }  # fmt: skip
    given |= dict(zip(words[::2], words[1::2], strict=True))
    found = say("serve", *(word for pair in given.items() for word in pair))
    assert found[0] == code and said in found[1], found


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--server", "somewhere"), 1, "'somewhere' is no address"),
        (("--server-id", "a b"), 1, "no id of a worker"),
        (("--part", "3/2"), 2, "'3/2' is no part such as 2/3"),
        (("--part", "1/100"), 1, "there are"),
        (("--least", 1), 2, "a sum of one client would be its update"),
        (("--most-epochs", "-1"), 2, "'-1' is no whole number"),
        (("--target", ""), 1, "has no ''"),
        (("--columns", "z"), 1, "has no 'z'; it has 'x', 'y'"),
        (("--data", "nowhere.csv"), 1, "nowhere.csv cannot be read"),
        (("--data", "items.doc"), 1, "Set format"),
        (("--row", "2x3"), 1, "has rows of shape [4], not [2, 3]"),
        (("--row", "2by2"), 2, "'2by2' is no shape such as 1x28x28"),
        (("--cert", "dep_a"), 1, "Name that file"),
        (("--enrolled", "nowhere.txt"), 1, "nowhere.txt cannot be read"),
    ],
)
def test_what_is_wrong_with_a_client_is_said(
    say: Say, here: Place, words: tuple[object, ...], code: int, said: str
) -> None:
    given: dict[object, object] = {
        "--server": "127.0.0.1:9", "--cert": here.keys / "dep_a.crt", "--state": here.folder / "state",
        "--data": here.folder / "items.npz", "--columns": "x", "--target": "y", "--patience": 0.001,
    }  # fmt: skip
    given |= dict(zip(words[::2], words[1::2], strict=True))
    found = say("join", *(word for pair in given.items() for word in pair))
    assert found[0] == code and said in found[1], found


def test_data_without_a_target_are_refused(say: Say, here: Place) -> None:
    code, said = say(
        "join", "--server", "127.0.0.1:9", "--cert", here.keys / "dep_a.crt", "--state", here.folder / "state",
        "--data", here.folder / "items.npz",
    )  # fmt: skip
    assert code == 1 and "Name the column, array or file with --target" in said


def test_sigterm_ends_the_work_in_order() -> None:
    over: list[bool] = []

    async def work() -> int:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(60)
            return 1
        finally:
            over.append(True)

    assert fl_options.carried_out(work()) is None and over
