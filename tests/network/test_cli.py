"""The command line: keys, checks, workers and groups of this machine."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sharetorch.cli import logs, main, up
from sharetorch.mpc.errors import GetNotPermittedError
from sharetorch.mpc.network import certificates
from sharetorch.mpc.network.identity import Identity
from sharetorch.remote.network.audit_file import verify
from sharetorch.remote.network.client import NetworkedWorker
from sharetorch.remote.network.group import load_group
from sharetorch.remote.network.node import NetworkNode
from sharetorch.remote.network.server import WorkerServer
from sharetorch.remote.network.settings import Address
from tests.network.ports import free_port

START_SECONDS = 90
STOP_SECONDS = 30


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Commands set up the log of their process, which is ours."""
    logger = logging.getLogger("sharetorch")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: exit code, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


Say = Callable[..., tuple[int, str, str]]


@contextmanager
def process(*words: object) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, which is gone afterwards."""
    safe = ["-P"] if sys.flags.safe_path else []
    command = [sys.executable, *safe, "-m", "sharetorch", *map(str, words)]
    pipe = subprocess.PIPE
    running = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()


def ready(running: subprocess.Popen[str]) -> dict[str, Any]:
    """The line that says so."""
    assert running.stdout is not None and running.stderr is not None
    line = running.stdout.readline()
    assert line, running.stderr.read()
    content: dict[str, Any] = json.loads(line)
    assert content["event"] == "ready", content
    return content


# ------------------------------------------------------------------------------------------------------------ help


def test_help_has_examples(say: Say) -> None:
    code, out, _ = say("--help")
    assert code == 0 and "examples:" in out
    for command in ("worker", "keygen", "up", "doctor", "requests"):
        code, out, _ = say(command, "--help")
        assert code == 0 and "examples:" in out and f"sharetorch {command}" in out and "--json" in out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nothing"],
        ["worker", "--frobnicate"],
        ["keygen", "--demo", "--add"],
        ["worker", "--private", "--public"],
        ["requests", "approve"],
        ["requests", "list", "3"],
        ["requests", "approve", "x"],
    ],
)
def test_wrong_use_is_explained(say: Say, words: list[str]) -> None:
    code, out, err = say(*words)
    assert code == 2 and out == "" and "usage: sharetorch" in err


def test_the_module_runs() -> None:
    with process("--help") as running:
        out, _ = running.communicate(timeout=START_SECONDS)
        assert running.returncode == 0 and "sharetorch up --parties 2 --demo" in out


# ------------------------------------------------------------------------------------------------------------ keygen


def test_keys_of_a_demo(say: Say, tmp_path: Path) -> None:
    code, out, err = say("keygen", "--folder", tmp_path / "keys", "--demo")
    assert (code, err) == (0, "") and "alice: certificate valid until" in out
    ids = ["alice", "bob", "crypto_provider", "me"]
    assert len({Identity.load(tmp_path / "keys", id).public for id in ids}) == 4


def test_keys_of_a_group(say: Say, tmp_path: Path) -> None:
    words = ["keygen", "--folder", tmp_path, "--id", "alice", "--id", "bob", "--host", "alice=a.example"]
    code, out, _ = say(*words, "--host", "10.0.0.1", "--days", 3, "--json")
    content = json.loads(out)
    assert code == 0 and content["members"] == ["alice", "bob"] and set(content["expires"]) == {"alice", "bob"}
    texts = {id: (tmp_path / f"{id}.crt").read_bytes() for id in ("alice", "bob")}
    names = {
        id: certificates.x509.load_pem_x509_certificate(text)
        .extensions.get_extension_for_class(certificates.x509.SubjectAlternativeName)
        .value
        for id, text in texts.items()
    }
    hosts = {id: found.get_values_for_type(certificates.x509.DNSName) for id, found in names.items()}
    assert hosts == {"alice": ["a.example"], "bob": []}
    ips = {
        id: [str(ip) for ip in found.get_values_for_type(certificates.x509.IPAddress)] for id, found in names.items()
    }
    assert ips == {"alice": ["10.0.0.1"], "bob": ["10.0.0.1"]}


def test_keys_are_not_overwritten_unasked(say: Say, tmp_path: Path) -> None:
    words = ["keygen", "--folder", tmp_path, "--id", "alice"]
    assert say(*words)[0] == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for more in ([], ["--add"], ["--add", "--id", "bob"], ["--request"]):
        code, out, err = say(*words, *more)
        assert code == 1 and out == "" and "nothing was changed" in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert say("keygen", "--folder", tmp_path, "--id", "bob", "--add")[0] == 0
    assert (tmp_path / "ca.crt").read_bytes() == before["ca.crt"] and (tmp_path / "bob.key").exists()
    assert say(*words, "--renew")[0] == 0
    assert (tmp_path / "alice.identity").read_bytes() == before["alice.identity"]
    assert (tmp_path / "alice.crt").read_bytes() != before["alice.crt"]
    assert say(*words, "--force")[0] == 0
    assert (tmp_path / "ca.crt").read_bytes() != before["ca.crt"]
    assert (tmp_path / "alice.identity").read_bytes() != before["alice.identity"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name members with --id"),
        (["--id", "../alice"], "is no id of a worker"),
        (["--id", "alice", "--id", "b c"], "is no id of a worker"),
        (["--id", "alice", "--host", "bob=b"], "not among those of --id: 'bob'"),
        (["--id", "alice", "--host", "a:1"], "neither a name of a host nor an IP address"),
        (["--id", "alice", "--days", "0"], "Name 1 to 36500"),
        (["--id", "alice", "--add"], "has no authority"),
        (["--sign", "nothing.csr"], "has no authority"),
    ],
)
def test_what_keygen_refuses_leaves_no_files(say: Say, tmp_path: Path, words: list[str], message: str) -> None:
    code, out, err = say("keygen", "--folder", tmp_path / "keys", *words)
    assert code == 1 and out == "" and message in err
    assert not (tmp_path / "keys").exists() or list((tmp_path / "keys").iterdir()) == []
    code, out, _ = say("keygen", "--folder", tmp_path / "keys", *words, "--json")
    assert code == 1 and json.loads(out)["error"] == "ConfigurationError" and message in json.loads(out)["message"]


def test_a_member_makes_its_own_keys(say: Say, tmp_path: Path) -> None:
    assert say("keygen", "--folder", tmp_path / "ca", "--id", "bob")[0] == 0
    code, out, _ = say("keygen", "--folder", tmp_path / "own", "--request", "--id", "alice", "--host", "a.example")
    assert code == 0 and "Send alice.csr" in out
    assert say("keygen", "--folder", tmp_path / "ca", "--sign", tmp_path / "own" / "alice.csr")[0] == 0
    for name in ("alice.crt", "ca.crt"):
        (tmp_path / "own" / name).write_bytes((tmp_path / "ca" / name).read_bytes())
    assert Identity.load(tmp_path / "own", "alice").id == "alice"
    assert not (tmp_path / "ca" / "alice.key").exists()


# ------------------------------------------------------------------------------------------------------------ doctor


def test_doctor_finds_this_machine_in_order(say: Say) -> None:
    code, out, _ = say("doctor", "--json")
    content = json.loads(out)
    checks = {found["check"]: found for found in content["findings"]}
    assert code == 0 and content["ok"] is True
    assert {"python", "torch", "numba", "openssl", "kernels"} <= set(checks)
    assert checks["kernels"]["detail"].startswith("exact")


def test_doctor_finds_wrong_kernels(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    from sharetorch.mpc import kernels

    right = kernels.matmul
    monkeypatch.setattr(kernels, "matmul", lambda x, y: right(x, y) + 1)
    code, out, _ = say("doctor")
    assert code == 1 and "WRONG    kernels: matmul give wrong results" in out and "1 of " in out


def test_doctor_finds_what_is_wrong_with_keys_and_peers(say: Say, tmp_path: Path) -> None:
    say("keygen", "--folder", tmp_path, "--id", "alice", "--days", 5)
    gone = free_port()
    words = ["doctor", "--id", "alice", "--keys", tmp_path, "--peer", f"bob=127.0.0.1:{gone}"]
    code, out, _ = say(*words)
    assert code == 1 and "warning  keys of alice" in out
    assert "WRONG    peer bob" in out and f"Nobody answers for bob at 127.0.0.1:{gone}" in out
    (tmp_path / "alice.key").chmod(0o644)
    code, out, _ = say(*words)
    assert code == 1 and "WRONG    keys of alice" in out and "chmod 600" in out
    code, _, err = say("doctor", "--config", tmp_path / "nothing.toml")
    assert code == 1 and "cannot be read" in err


# ------------------------------------------------------------------------------------------------------------ worker


def test_what_a_worker_refuses_to_start_with(say: Say, tmp_path: Path) -> None:
    say("keygen", "--folder", tmp_path, "--id", "alice")
    path = tmp_path / "worker.toml"
    for words, message in [
        (["--keys", tmp_path], "The options: id is missing"),
        (["--id", "bob", "--keys", tmp_path], "has no bob.crt"),
        (["--id", "alice", "--keys", tmp_path, "--peer", "bob"], "is no ID=HOST:PORT"),
        (["--id", "alice", "--keys", tmp_path, "--listen", "here"], "'here' is no address"),
        (["--config", path], "is no known key. Did you mean keys?"),
    ]:
        path.write_text('id = "alice"\nkey = "."')
        code, out, err = say("worker", *words)
        assert code == 1 and out == "" and message in err
    path.write_text('id = "alice"\nkeys = "."\n[[datasets]]\npath = "nothing.csv"')
    code, out, _ = say("worker", "--config", path, "--json")
    assert code == 1 and json.loads(out)["error"] == "DataSourceError"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        code, _, err = say("worker", "--id", "alice", "--keys", tmp_path, "--listen", where)
    assert code == 1 and where in err


def test_a_worker_serves_until_it_is_told_to_stop(say: Say, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    say("keygen", "--folder", keys, "--demo")
    with process("worker", "--id", "alice", "--keys", keys, "--listen", "127.0.0.1:0", "--json") as running:
        content = ready(running)
        assert content["worker"] == "alice" and content["pid"] == running.pid
        path = tmp_path / "worker.toml"
        path.write_text(f'id = "bob"\nkeys = "keys"\n[peers]\nalice = "{content["address"]}"')
        code, out, _ = say("doctor", "--config", path)
        assert code == 0, out
        assert "ok       peer alice" in out and "ok       clock of alice: within" in out
        (tmp_path / "other").mkdir()
        say("keygen", "--folder", tmp_path / "other", "--id", "bob")
        code, out, _ = say("doctor", "--config", path, "--keys", tmp_path / "other")
        assert code == 1 and "certificate is of another authority" in out
        wrong = f"carol={content['address']}"
        code, out, _ = say("doctor", "--id", "bob", "--keys", keys, "--peer", wrong)
        assert code == 1 and "has the certificate of 'alice', not of 'carol'" in out
        running.terminate()
        _, err = running.communicate(timeout=STOP_SECONDS)
        assert running.returncode == 0
    events = [json.loads(line) for line in err.splitlines()]
    names = [event["event"] for event in events]
    assert names[0] == "ready" and names[-2:] == ["stopping", "stopped"]
    assert all(event["worker"] == "alice" for event in events)
    secrets = (keys / "alice.key").read_text() + (keys / "alice.identity").read_text()
    assert not any(line in err for line in secrets.splitlines() if not line.startswith("-"))


def test_data_and_refusals_are_logged_and_audited(say: Say, tmp_path: Path) -> None:
    say("keygen", "--folder", tmp_path, "--demo")
    np.savez(tmp_path / "rows.npz", x=np.full((7, 2), 1234.5, np.float32))
    path = tmp_path / "worker.toml"
    path.write_text(
        'id = "alice"\nlisten = "127.0.0.1:0"\nkeys = "."\naudit = "audit.jsonl"\n'
        '[[datasets]]\npath = "rows.npz"\ntags = ["#rows"]\n'
    )
    with process("worker", "--config", path, "--json") as running:
        me = Identity.load(tmp_path, "me")
        worker = NetworkedWorker(ready(running)["address"], "alice", me).connect()
        (pointer,) = worker.search("#rows")
        with pytest.raises(GetNotPermittedError):
            pointer.get()
        worker.close()
        running.terminate()
        _, err = running.communicate(timeout=STOP_SECONDS)
    events = {event["event"]: event for event in map(json.loads, err.splitlines())}
    assert (events["data loaded"]["dataset"], events["data loaded"]["rows"]) == ("rows", 7)
    refused = events["request refused"]
    assert (refused["sender"], refused["outcome"], refused["level"]) == ("me", "GetNotPermittedError", "info")
    audit = (tmp_path / "audit.jsonl").read_text()
    assert "GetNotPermittedError" in audit and verify(tmp_path / "audit.jsonl").problem is None
    assert "1234" not in err + audit


def test_the_owner_decides_about_requests(say: Say, tmp_path: Path) -> None:
    say("keygen", "--folder", tmp_path, "--demo")
    node = NetworkNode(Identity.load(tmp_path, "alice"))
    records = [node.load(torch.arange(6.0), tags=("#secret",)) for _ in range(2)]
    for record, reason in zip(records, ("please", "once\x1b[2J"), strict=True):
        node.desk.ask(record, "me", reason)
    with ExitStack() as stack:
        server = WorkerServer(node, node.identity)
        stack.callback(server.stop)
        server.start()
        options = ["--keys", tmp_path, "--id", "alice", "--listen", str(Address(*server.address))]
        code, out, _ = say("requests", "list", *options, "--json")
        numbers = [entry["number"] for entry in json.loads(out)["requests"]]
        assert code == 0 and len(numbers) == 2
        code, out, _ = say("requests", "list", *options)
        assert code == 0 and "me asks for" in out and "\x1b" not in out
        code, _, err = say("requests", "list", *options, "--as", "me")
        assert code == 1 and "GetNotPermittedError" in err
        assert say("requests", "approve", numbers[0], *options)[0] == 0
        assert "me" in records[0].released and "me" not in records[1].released
        assert say("requests", "deny", numbers[1], *options)[0] == 0
        code, out, _ = say("requests", "list", *options)
        assert code == 0 and "Nothing waits at alice" in out
        code, _, err = say("requests", "approve", 99, *options)
        assert code == 1 and "There is no request 99" in err


# ------------------------------------------------------------------------------------------------------------ up


@pytest.mark.slow
def test_a_group_of_this_machine(say: Say, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with process("up", "--parties", 2, "--demo", "--folder", folder, "--json") as running:
        content = ready(running)
        group = load_group(content["group"])
        assert group.parties == ("alice", "bob") and group.provider == "crypto_provider"
        assert content["members"] == {id: str(address) for id, address in group.addresses.items()}
        code, out, _ = say("doctor", "--group", content["group"])
        assert code == 0, out
        assert all(f"ok       peer {id}" in out for id in group.members)
        running.send_signal(signal.SIGINT)
        out, _ = running.communicate(timeout=STOP_SECONDS)
        assert running.returncode == 0 and json.loads(out) == {"event": "stopped"}
    for address in group.addresses.values():
        assert not answers(address)


@pytest.mark.slow
def test_workers_of_a_group_do_not_outlive_it(tmp_path: Path) -> None:
    with process("up", "--demo", "--folder", tmp_path / "demo", "--json") as running:
        addresses = [Address.parse(text) for text in ready(running)["members"].values()]
        running.kill()
        running.wait()
        deadline = time.monotonic() + STOP_SECONDS
        while any(map(answers, addresses)):
            assert time.monotonic() < deadline, "a worker runs on"
            time.sleep(0.1)


def answers(address: Address) -> bool:
    with socket.socket() as sock:
        sock.settimeout(5)
        return sock.connect_ex(address) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "Say --demo"),
        (["--demo", "--parties", "1"], "1 parties: name 2 to 16"),
        (["--demo", "--parties", "17"], "name 2 to 16"),
    ],
)
def test_what_up_refuses(say: Say, tmp_path: Path, words: list[str], message: str) -> None:
    code, _, err = say("up", "--folder", tmp_path / "demo", *words)
    assert code == 1 and message in err and not (tmp_path / "demo").exists()


def test_keys_of_a_group_are_used_again_and_renewed(tmp_path: Path) -> None:
    up._make_keys(tmp_path, ["alice", "me"])
    first = {id: Identity.load(tmp_path, id) for id in ("alice", "me")}
    up._make_keys(tmp_path, ["alice", "bob", "me"])
    assert Identity.load(tmp_path, "alice").public == first["alice"].public
    assert Identity.load(tmp_path, "bob").id == "bob"
    certificates.issue(tmp_path, "alice", days=1, renew=True)
    old = Identity.load(tmp_path, "alice").expires
    up._make_keys(tmp_path, ["alice", "bob", "me"])
    renewed = Identity.load(tmp_path, "alice")
    assert renewed.public == first["alice"].public and renewed.expires > old + timedelta(days=20)


# ------------------------------------------------------------------------------------------------------------ logs


def test_nobody_can_write_lines_into_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start("alice", "info", as_json=False)
    logs.log("info", "refused", sender="mallory\n2026 info alice ready", why='a "b" c=d')
    logging.getLogger("sharetorch.network").warning("from %s", "x\n2026 info alice ready\x1b[2J")
    logs.log("debug", "unseen")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith(r'refused sender="mallory\n2026 info alice ready" why="a \"b\" c=d"')
    assert lines[1].endswith(r"from x\n2026 info alice ready\x1b[2J")


def test_events_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start("alice", "debug", as_json=True)
    logs.log("debug", "ready", address="a:1", peers=2)
    content = json.loads(capsys.readouterr().err)
    assert content.pop("time").endswith("+00:00")
    assert content == {"level": "debug", "worker": "alice", "event": "ready", "address": "a:1", "peers": 2}
