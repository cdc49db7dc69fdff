"""Parts of a federation by themselves: stock models, lists of clients, tensors as bytes, files."""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sharetorch.fl.deployment import Allowance, Batches, EnrolmentRefusedError, Learning, models, roll, storage
from sharetorch.fl.deployment.messages import Hello, Shape, read_from_client
from sharetorch.fl.deployment.models import Shell
from sharetorch.fl.deployment.roll import Authority, Roll, der_of
from sharetorch.fl.masking.messages import encode
from sharetorch.fl.rounds import FedAvg, RoundReport
from sharetorch.fl.rounds.first_weights import initialise
from sharetorch.fl.training import Settings
from sharetorch.mpc.errors import ConfigurationError, MalformedRequestError, TrainingError
from sharetorch.mpc.network import certificates
from sharetorch.mpc.network.identity import Identity, Peer
from tests.fl.deployment.federations import same


@pytest.mark.parametrize(
    ("name", "item", "output"),
    [("cnn", (1, 28, 28), (3, 10)), ("mlp:6,4,2", (2, 3), (3, 2)), ("mlp:5,1", (5,), (3,)), ("mlp:1,1,1", (1,), (3,))],
)
def test_stock_models_take_and_give(name: str, item: tuple[int, ...], output: tuple[int, ...]) -> None:
    model = models.stock(name)
    initialise(model, 3)
    again = models.stock(name)
    initialise(again, 3)
    assert model(torch.ones(3, *item)).shape == output and same(model, again)
    values = sum(x.numel() for x in model.parameters())
    assert models.bytes_of(models.shapes_of(model)) == 4 * values == len(models.packed(model))
    with pytest.raises(TrainingError, match=f"has {values} values; {values - 1} are allowed"):
        models.stock(name, values - 1)


@pytest.mark.parametrize("name", ["", "mlp", "mlp:", "mlp:3", "mlp:3,0", "mlp:3,-1", "mlp:3,70000", "mlp:" + "3," * 20])
def test_other_names_are_no_stock_models(name: str) -> None:
    with pytest.raises(TrainingError, match="is no stock model"):
        models.stock(name)


def test_tensors_go_and_come_as_bytes() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).double()
    model.register_buffer("empty", torch.empty(0, 4, dtype=torch.bool))
    model.register_buffer("flags", torch.tensor([True, False]))
    model(torch.randn(5, 2).double())
    shell = Shell(models.shapes_of(model), 4)
    models.unpack(shell, models.packed(model))
    assert same(shell, model) and models.shapes_of(shell) == models.shapes_of(model)
    for wrong in (b"", models.packed(model)[:-1], models.packed(model) + b"\0"):
        with pytest.raises(MalformedRequestError, match="bytes came for a model of"):
            models.unpack(shell, wrong)
    for shape in (Shape("exec", [1], True), Shape("int64", [1], True)):
        with pytest.raises(MalformedRequestError):
            Shell([shape], 1)
    with pytest.raises(MalformedRequestError):
        Shell([Shape("float32", [1], True)], 0)
    with pytest.raises(MalformedRequestError):
        models.bytes_of([Shape("exec", [1], True)])


def test_a_module_as_graphs_needs_small_batches() -> None:
    model = nn.Linear(2, 2)
    learning = Learning(model, nn.functional.cross_entropy, Batches((2,)), Settings(300))
    with pytest.raises(TrainingError, match="A batch of 300: a model that is sent as graphs takes up to 256"):
        learning.task(model, FedAvg())
    with pytest.raises(TrainingError, match="is recorded for its batches"):
        Learning(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"clip": -1.0}, "clip -1"), ({"largest": 0.0}, "largest 0"), ({"loss": "print"}, "'print' is no loss")],
)
def test_what_is_learned_is_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        Learning("mlp:2,2", **options)


@pytest.mark.parametrize("options", [{"least": 1}, {"epochs": 0}, {"items": 0}, {"bytes": 0}, {"corrupt": 1.0}])
def test_what_a_client_allows_is_checked(options: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=next(iter(options))):
        Allowance(**options)


# -------------------------------------------------------------------------------------------------------------- lists


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    certificates.make_authority(tmp_path / "keys")
    certificates.issue(tmp_path / "keys", "dep_a")
    return tmp_path / "keys"


def peer(keys: Path, id: str = "dep_a") -> Peer:
    own = Identity.load(keys, id)
    return Peer(own.id, own.public)


def test_a_list_names_ids_and_keys(keys: Path, tmp_path: Path) -> None:
    known, path = peer(keys), tmp_path / "clients.txt"
    found = Roll(path, Authority(keys / "ca.crt"))
    path.write_text(f"# all\n\n  dep_a   {known.public.hex()} # the first\ndep_b")
    assert found.read() == {"dep_a": known.public, "dep_b": None}
    found.require(known)
    found.require(Peer("dep_b", bytes(32)))
    for other in (Peer("dep_a", bytes(32)), Peer("dep_c", known.public)):
        with pytest.raises(EnrolmentRefusedError):
            found.require(other)
    path.write_text("dep_b\n")
    with pytest.raises(EnrolmentRefusedError, match="'dep_a' is not enrolled"):
        found.require(known)


@pytest.mark.parametrize("line", ["dep_a dep_b", "dep_a " + "ab" * 31, "dep_a ab cd", "a/b", "ca", "dep_b\ndep_b"])
def test_lines_that_enrol_nobody_are_refused_each_time(keys: Path, tmp_path: Path, line: str) -> None:
    path = tmp_path / "clients.txt"
    path.write_text(line)
    found = Roll(path, Authority(keys / "ca.crt"))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="enrols nobody, or somebody once more"):
            found.read()
    path.write_text(f"dep_a {'ab' * 32}\ndep_b {'ab' * 32}\n")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="one identity key under several ids"):
            found.read()


def test_a_folder_lists_certificates_of_the_authority(keys: Path, tmp_path: Path) -> None:
    folder = tmp_path / "enrolled"
    folder.mkdir()
    shutil.copy(keys / "dep_a.crt", folder)
    shutil.copy(keys / "ca.crt", folder)
    found = Roll(folder, Authority(keys / "ca.crt"))
    assert found.read() == {"dep_a": peer(keys).public}
    shutil.copy(keys / "dep_a.crt", folder / "dep_b.crt")
    with pytest.raises(ConfigurationError, match="is the certificate of 'dep_a'"):
        found.read()
    other = tmp_path / "other"
    certificates.make_authority(other)
    certificates.issue(other, "dep_b")
    shutil.copy(other / "dep_b.crt", folder)
    with pytest.raises(ConfigurationError, match="signed by this group's authority"):
        found.read()


def test_certificates_hold_on_their_days(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, certificate = Authority(keys / "ca.crt"), der_of(keys / "dep_a.crt")
    until = authority.until(certificate, "it")

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return until + timedelta(seconds=1)

    monkeypatch.setattr(roll, "datetime", Later)
    assert authority.member(certificate, "it", any_day=True).id == "dep_a"
    with pytest.raises(ConfigurationError, match="not today. Its owner needs a new one"):
        authority.member(certificate, "it")


def test_certificates_are_of_the_authority(keys: Path, tmp_path: Path) -> None:
    authority = Authority(keys / "ca.crt")
    assert authority.member(der_of(keys / "dep_a.crt"), "it") == peer(keys)
    for wrong in (b"", b"\x30\x00", der_of(keys / "ca.crt")):
        with pytest.raises(ConfigurationError, match="It is no certificate of a member"):
            authority.member(wrong, "It")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Authority(tmp_path / "nothing")
    with pytest.raises(ConfigurationError, match="no certificate in PEM form"):
        Authority(keys / "dep_a.key")


# -------------------------------------------------------------------------------------------------------------- files


def test_a_model_is_written_as_safetensors(tmp_path: Path) -> None:
    load_file = pytest.importorskip("safetensors.torch").load_file
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    path = tmp_path / "model.safetensors"
    storage.save_model(path, model)
    found = load_file(path)
    assert found.keys() == model.state_dict().keys()
    assert all(torch.equal(found[name], x) and found[name].dtype == x.dtype for name, x in model.state_dict().items())
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigurationError, match="cannot be written"):
        storage.save_model(tmp_path / "no" / "model.safetensors", model)
    model.register_buffer("z", torch.zeros(1, dtype=torch.complex64))
    with pytest.raises(ConfigurationError, match="z is of complex64"):
        storage.save_model(path, model)


def test_a_log_holds_no_number_that_json_lacks(tmp_path: Path) -> None:
    report = RoundReport(1, ["a", "b"], ["a"], {"b": "late"}, float("nan"), {"accuracy": float("inf")}, 0.5)
    storage.save_log(tmp_path / "log.json", {"seed": 1}, [report])
    found = json.loads((tmp_path / "log.json").read_text(), parse_constant=pytest.fail)
    assert found["rounds"][0]["loss"] is None and found["rounds"][0]["left_out"] == {"b": "late"}


def test_a_state_is_for_its_owner(tmp_path: Path) -> None:
    kept = storage.Storage(tmp_path / "a" / "b")
    with kept.held():
        assert (tmp_path / "a" / "b").stat().st_mode & 0o077 == 0
    with kept.held(), pytest.raises(ConfigurationError, match="in use by another process"), kept.held():
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot hold the state"), storage.Storage(tmp_path / "file").held():
        pass


def test_random_bytes_are_no_messages() -> None:
    whole = encode(Hello(1, "dep_a"))
    assert read_from_client(whole) == Hello(1, "dep_a")
    for count in range(len(whole)):
        with pytest.raises(MalformedRequestError):
            read_from_client(whole[:count])
    for _ in range(200):
        with pytest.raises(MalformedRequestError):
            read_from_client(b"\x93" + os.urandom(20))
