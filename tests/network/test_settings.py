"""Settings of workers and group files: what they hold, and what is said of wrong ones."""

import re
from pathlib import Path

import pytest

from sharetorch.mpc.errors import ConfigurationError
from sharetorch.remote.network.group import load_group, write_group
from sharetorch.remote.network.settings import Address, NetworkSettings, PolicySettings, WorkerSettings, load
from sharetorch.remote.network.sources import sources_of
from sharetorch.remote.node import Limits

COMPLETE = """
id = "alice"
listen = "0.0.0.0:9000"
keys = "keys"
private = false
state = "/var/lib/sharetorch"
audit = "audit.jsonl"
owners = ["dora"]
threads = 4
log_level = "debug"

[peers]
alice = "alice.example:8777"
bob = "wss://bob.example:8777"
carol = "[2001:db8::1]:8778"

[limits]
object_bytes = 1000
objects = 5

[network]
round_seconds = 30
queue_bytes = 2097152

[policy]
release_to = ["me"]
min_rows = 100

[[datasets]]
path = "data/train.csv"
tags = ["#mnist", "#train"]
columns = ["age", "weight"]
target = "ill"
description = "Patients of 2024."

[[datasets]]
path = "/data/images"
format = "idx"
[datasets.policy]
release_to = ["*"]
outputs = ["mean"]
compute = ["bob"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "worker.toml"
    path.write_text(text)
    return path


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(written(folder, text))
    assert str(folder / "worker.toml") in str(caught.value)
    return str(caught.value)


def test_a_file_with_everything(tmp_path: Path) -> None:
    settings = load(written(tmp_path, COMPLETE))
    assert (settings.id, settings.listen, settings.threads, settings.log_level) == (
        "alice",
        ("0.0.0.0", 9000),
        4,
        "debug",
    )
    assert settings.keys == tmp_path / "keys" and settings.audit == tmp_path / "audit.jsonl"
    assert settings.owners == ("dora",)
    assert settings.state == Path("/var/lib/sharetorch") and settings.private is False
    assert settings.peers == {"bob": ("bob.example", 8777), "carol": ("2001:db8::1", 8778)}
    assert settings.limits == Limits(object_bytes=1000, objects=5)
    assert settings.network == NetworkSettings(round_seconds=30.0, queue_bytes=1 << 21)
    assert settings.policy == PolicySettings(release_to=("me",), min_rows=100)
    table, images = settings.datasets
    assert table.path == str(tmp_path / "data/train.csv") and table.format is None and table.dtype == "float32"
    assert table.tags == ("#mnist", "#train") and table.columns == ("age", "weight") and table.target == "ill"
    assert table.description == "Patients of 2024." and table.policy is None
    assert images.path == "/data/images" and images.format == "idx" and images.columns is None
    assert images.policy == PolicySettings(release_to=("*",), outputs=("mean",), compute=("bob",))


def test_what_a_worker_does_by_itself(tmp_path: Path) -> None:
    settings = load(written(tmp_path, 'id = "alice"\nkeys = "."'))
    assert settings == WorkerSettings("alice", Address("127.0.0.1", 8777), tmp_path / ".")
    assert settings.private and settings.policy.release_to == () and settings.state is None
    network = settings.network
    assert (network.handshake_seconds, network.pending_handshakes) == (5, 64)
    assert (network.heartbeat_seconds, network.silence_seconds) == (5, 15)
    assert (network.round_seconds, network.request_seconds, network.connect_seconds) == (120, 600, 10)
    assert network.max_sessions_per_principal == 16 and network.queue_bytes == 256 << 20


def test_options_go_before_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, COMPLETE)
    settings = load(path, {"id": "dora", "listen": "127.0.0.1:0", "keys": Path("other"), "private": None})
    assert (settings.id, settings.listen, settings.keys) == ("dora", ("127.0.0.1", 0), Path("other"))
    assert settings.private is False and set(settings.peers) == {"alice", "bob", "carol"}
    alone = load(None, {"id": "dora", "keys": Path("here"), "peers": {"bob": "b:1"}})
    assert alone.keys == Path("here") and alone.peers == {"bob": ("b", 1)}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('keys = "k"', ["id is missing"]),
        ('id = "a"', ["keys is missing"]),
        ('id = "a"\nkeys = 3', ["keys = 3", "expected `str`"]),
        ('id = "a b"\nkeys = "k"', ["'a b' is no id"]),
        ('id = "a"\nkeys = "k"\nprivat = true', ["privat is no known key", "Did you mean private?"]),
        ('id = "a"\nkeys = "k"\nzzz = 1', ["zzz is no known key", "Known are audit, datasets"]),
        ('id = "a"\nkeys = "k"\nlisten = "a"', ["'a' is no address", "bob.example:8777"]),
        ('id = "a"\nkeys = "k"\nlisten = "a:70000"', ["'a:70000' is no address"]),
        ('id = "a"\nkeys = "k"\n[peers]\nbob = "b:0"', ["'b:0' is no address"]),
        ('id = "a"\nkeys = "k"\n[peers]\nbob = 3', ["peers", "expected `str`"]),
        ('id = "a"\nkeys = "k"\n[peers]\n"b/c" = "b:1"', ["'b/c' is no id"]),
        ('id = "a"\nkeys = "k"\nlog_level = "loud"', ["log_level = 'loud'"]),
        ('id = "a"\nkeys = "k"\nprivate = "yes"', ["private = 'yes'", "expected `bool`"]),
        ('id = "a"\nkeys = "k"\n[network]\nround_seconds = -1', ["network.round_seconds = -1"]),
        ('id = "a"\nkeys = "k"\n[network]\nround_seconds = "1"', ["network.round_seconds = '1'"]),
        ('id = "a"\nkeys = "k"\n[network]\nround_seconds = inf', ["network.round_seconds = inf"]),
        ('id = "a"\nkeys = "k"\n[network]\nround_seconds = nan', ["network.round_seconds = nan"]),
        ('id = "a"\nkeys = "k"\n[network]\nround_secs = 1', ["network.round_secs", "Did you mean round_seconds?"]),
        ('id = "a"\nkeys = "k"\n[network]\nsilence_seconds = 5', ["network", "would count as dead"]),
        (
            'id = "a"\nkeys = "k"\n[limits]\nobject_byte = 1',
            ["[limits]: object_byte is no known", "Did you mean object_bytes?"],
        ),
        ('id = "a"\nkeys = "k"\n[limits]\nobjects = 0', ["[limits]: objects = 0", "expected `int` >= 1"]),
        ('id = "a"\nkeys = "k"\n[[datasets]]\ntags = []', ["datasets[0].path is missing"]),
        ('id = "a"\nkeys = "k"\n[[datasets]]\npath = "x"\ndtype = "int7"', ["datasets[0].dtype = 'int7'"]),
        ('id = "a"\nkeys = "k"\n[[datasets]]\npath = "x"\nformat = "pkl"', ["datasets[0].format = 'pkl'"]),
        (
            'id = "a"\nkeys = "k"\n[[datasets]]\npath = "x.csv"\n[[datasets]]\npath = "x.csv"\ntag = []',
            ["datasets[1].tag is no known key", "Did you mean tags?"],
        ),
        (
            'id = "a"\nkeys = "k"\n[[datasets]]\npath = "x.csv"\n[datasets.policy]\nmin_row = 1',
            ["datasets[0].policy.min_row", "Did you mean min_rows?"],
        ),
        ('id = "a"\nkeys = "k"\n[policy]\nmin_rows = 0', ["policy.min_rows = 0"]),
        ("id = ", ["is no TOML file"]),
        ('id = "a"\nid = "b"', ["is no TOML file"]),
    ],
)
def test_wrong_files_are_refused_with_key_value_and_remedy(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = refusal(tmp_path, text)
    for part in parts:
        assert part in message


def test_the_files_of_the_deployment_guide(tmp_path: Path) -> None:
    guide = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "deploy.md"
    worker, group = re.findall(r"^```toml\n(.*?)^```$", guide.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    settings = load(written(tmp_path, worker))
    assert set(settings.peers) == {"bob", "crypto_provider"} and settings.owners == ("alice-admin",)
    policy = sources_of(settings.datasets)[0].policy
    assert policy is not None and (policy["release_to"], policy["min_rows"]) == (("me",), 100)
    (tmp_path / "group.toml").write_text(group)
    assert load_group(tmp_path / "group.toml").members == ("alice", "bob", "crypto_provider")


def test_a_missing_file_and_missing_options(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        load(tmp_path / "nothing.toml")
    with pytest.raises(ConfigurationError, match="The options: id is missing"):
        load(None, {"keys": "k"})


@pytest.mark.parametrize(
    "text", ["", "a", ":1", "a:", "a:b", "a:1:2", "::1:80", "[::1]", "a b:1", "http://a:1", "a:1/x"]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no address"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["bob.example:8777", "127.0.0.1:1", "[::1]:65535"])
def test_addresses_are_written_as_they_are_read(text: str) -> None:
    assert str(Address.parse(text)) == text == str(Address.parse(f"wss://{text}"))


def test_a_group_file(tmp_path: Path) -> None:
    path = tmp_path / "group.toml"
    parties = {"alice": Address("127.0.0.1", 1), "bob": Address("::1", 2)}
    write_group(path, parties, ("cp", Address("c.example", 3)), "keys", "driver")
    group = load_group(path)
    assert group.parties == ("alice", "bob") and group.provider == "cp" and group.members == ("alice", "bob", "cp")
    assert group.addresses == parties | {"cp": ("c.example", 3)}
    assert group.keys == tmp_path / "keys" and group.identity == "driver"


MEMBER = '[[members]]\nid = "{0}"\naddress = "{0}:1"\nrole = "{1}"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "members is missing"),
        (MEMBER.format("a", "party") + MEMBER.format("p", "provider"), "names 1 parties and 1 providers"),
        (MEMBER.format("a", "party") + MEMBER.format("b", "party"), "names 2 parties and 0 providers"),
        ("".join(MEMBER.format(*m) for m in [("a", "party"), ("a", "party"), ("p", "provider")]), "stands twice"),
        ("".join(MEMBER.format(*m) for m in [("a", "party"), ("me", "party"), ("p", "provider")]), "stands twice"),
        (MEMBER.format("a", "helper"), r"members\[0\].role = 'helper'"),
        (MEMBER.format("a", "party") + "port = 1", r"members\[0\].port is no known key"),
        ('[[members]]\nid = "a"\naddress = "a"', "'a' is no address"),
        ('[[members]]\nid = "a/"\naddress = "a:1"', "'a/' is no id"),
    ],
)
def test_wrong_group_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "group.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_group(path)
    assert str(path) in str(caught.value)
