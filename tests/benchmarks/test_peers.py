"""The benchmark against other systems: same inputs for all, right results, peers that are absent, wrong or dead."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "benchmarks"


@contextlib.contextmanager
def _scripts() -> Iterator[None]:
    sys.path.insert(0, str(FOLDER))
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))


with _scripts():
    import against_peers
    from peers import install, networks, tasks

ALL = tasks.tasks(quick=True)


def surroundings(folder: Path) -> dict[str, str]:
    return os.environ | {install.VARIABLE: str(folder)}


def run(script: str, folder: Path, *options: str, peers: Path | None = None) -> dict[str, Any]:
    results = folder / "results.json"
    command = [sys.executable, str(FOLDER / script), "--quick", "--json", str(results), *options]
    done = subprocess.run(
        command, cwd=ROOT, env=surroundings(peers or folder / "peers"), capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(results.read_text(encoding="utf-8"))
    return found | {"said": done.stdout}


@pytest.mark.slow
def test_ours_runs_and_absent_peers_are_skipped_with_a_notice(tmp_path: Path) -> None:
    found = run(
        "against_peers.py", tmp_path, "--no-install", "--without", "tls", "--only", "relu", "matmul", "mlp-step"
    )
    assert set(found["skipped"]) == {"CrypTen", "SPU semi2k"}
    assert found["said"].count("skipped: ") == 2
    assert [one["task"] for one in found["benchmarks"]] == ["relu", "matmul", "mlp-step"]
    assert found["systems"].keys() >= {"plain torch"}
    for one in found["benchmarks"]:
        ours = {name: entry for name, entry in one["ways"].items() if name.startswith("ShareTorch")}
        assert len(ours) == (1 if one["task"] == "matmul" else len(ours)) >= 1
        for entry in ours.values():
            assert entry["right"] and entry["times"]["median"] > 0 and entry["party_bytes"] > 0 and entry["rounds"] > 0
    named = {name for one in found["benchmarks"] for name in one["ways"]}
    assert named == found["systems"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("peer", [install.CRYPTEN, install.SPU], ids=["CrypTen", "SPU"])
def test_a_peer_that_is_installed_is_right(tmp_path: Path, peer: Any) -> None:
    try:
        install.interpreter(peer, install=False)
    except install.NotInstalledError as missing:
        pytest.skip(str(missing))
    without = ("protocols", "tls", *({"crypten", "spu"} - {peer.name.lower()}))
    options = ("--no-install", "--without", *without, "--only", "compare", "argmax", "lenet-step")
    found = run("against_peers.py", tmp_path, *options, peers=install.folder())
    for one in found["benchmarks"]:
        (entry,) = (entry for name, entry in one["ways"].items() if name.startswith(peer.name))
        assert entry["right"] and entry["party_bytes"] > 0 and entry["rounds"] > 0, entry


@pytest.mark.slow
def test_growth_is_measured_for_two_to_five_parties_and_two_networks(tmp_path: Path) -> None:
    found = run("scaling.py", tmp_path, "--only", "parties", "networks")
    assert {entry["size"] for entry in found["parties"]} == {2, 3, 4, 5}
    entries = [entry for entry in found["parties"] if entry["series"].startswith("x * y")]
    products = {entry["size"]: entry["party_bytes"] for entry in entries}
    assert products == {parties: products[2] * (parties - 1) for parties in (2, 3, 4, 5)}
    for entry in found["networks"]:
        assert entry["LAN"]["latency"] == pytest.approx(0.0002 * entry["rounds"])
        assert entry["WAN"]["latency"] == pytest.approx(0.03 * entry["rounds"])
    assert {entry["work"] for entry in found["networks"]} == {task.title for task in ALL.values()}


@pytest.mark.parametrize("task", ALL.values(), ids=list(ALL))
def test_inputs_are_the_same_every_time_and_exact_in_fixed_point(task: Any) -> None:
    first, second = tasks.inputs(task), tasks.inputs(task)
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert np.array_equal(values, second[name])
        assert np.array_equal(values * 2**16, np.round(values * 2**16))
        assert np.array_equal(values.astype(np.float32), values)


def test_no_argmax_has_two_answers() -> None:
    rows = np.sort(tasks.inputs(tasks.tasks()["argmax"])["x"], axis=1)
    assert (rows[:, -1] > rows[:, -2]).all()


@pytest.mark.parametrize("name", ["compare", "matmul", "mlp-step"])
def test_a_wrong_result_is_noticed(name: str) -> None:
    task = ALL[name]
    given = tasks.inputs(task)
    right = networks.reference(task, given, 2)
    assert networks.error(task, given, right, 2) == 0
    wrong = dict(right)
    changed = next(iter(wrong))
    wrong[changed] = wrong[changed] + 2 * max(task.bound, 0.5)
    assert networks.error(task, given, wrong, 2) > task.bound
    with pytest.raises(ValueError, match="names or shapes"):
        networks.error(task, given, {"other": right[changed]}, 2)


def test_training_is_compared_after_the_same_number_of_steps() -> None:
    task = ALL["mlp-step"]
    given = tasks.inputs(task)
    assert networks.error(task, given, networks.reference(task, given, 3), 3) == 0
    assert networks.error(task, given, networks.reference(task, given, 3), 1) > task.bound


PEER = install.Peer("Nobody", "nobody", ("nobody==1.0",))


def test_a_peer_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(install.VARIABLE, str(tmp_path))
    with pytest.raises(install.NotInstalledError, match=rf"Nobody 1\.0 is not installed in {tmp_path}/nobody-1\.0-"):
        install.interpreter(PEER, install=False)


def test_a_peer_that_cannot_be_installed_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(install.VARIABLE, str(tmp_path))
    monkeypatch.setattr(install.subprocess, "run", _failing)
    with pytest.raises(install.NotInstalledError, match="No matching distribution"):
        install.interpreter(PEER)
    assert not list(tmp_path.rglob("complete"))


def _failing(command: Any, **_: Any) -> Any:
    failed = "pip" in command
    said = "a notice\nERROR: No matching distribution found\n" if failed else ""
    return subprocess.CompletedProcess(command, int(failed), "", said)


def test_the_folder_of_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(install.VARIABLE, "/somewhere")
    assert install.folder() == Path("/somewhere")
    monkeypatch.delenv(install.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert install.folder() == Path("/cache/sharetorch/peers")


SYSTEM = """
import json, sys, time
print(json.dumps({"version": "1"}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)["do"]
    if asked == "end":
        sys.exit("the last words")
    if asked == "sleep":
        time.sleep(60)
    print(json.dumps({"failed": "no"} if asked == "fail" else {"seconds": 1.5}), flush=True)
"""


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    (tmp_path / "some_system.py").write_text(SYSTEM)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    way = against_peers.Way("some", "some", ("some_system",))
    running = against_peers.Running(way, Path(sys.executable), tmp_path / "log")
    yield running
    running.close()


def test_a_system_answers(system: Any) -> None:
    assert system.about == {"version": "1"}
    assert system.ask("run") == {"seconds": 1.5}


def test_a_failure_is_told_and_the_system_lives(system: Any) -> None:
    with pytest.raises(against_peers.Failed, match="^no$"):
        system.ask("fail")
    assert system.ask("run") == {"seconds": 1.5}


def test_the_last_words_of_a_dead_system_are_told(system: Any) -> None:
    with pytest.raises(against_peers.Failed, match="the last words"):
        system.ask("end")
    assert not system.alive


def test_a_system_that_does_not_answer_is_ended(system: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against_peers, "ANSWER_SECONDS", 0.2)
    with pytest.raises(against_peers.Failed, match="no answer"):
        system.ask("sleep")
    assert not system.alive
