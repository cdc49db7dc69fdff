"""The sandbox: names, data, notices; grids."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import sharetorch as sy
from sharetorch.datasets import DataError
from sharetorch.mpc.errors import SandboxError
from sharetorch.remote import sample_data
from sharetorch.remote.sandbox import WORKERS

datasets = pytest.importorskip("sklearn.datasets", reason="the sandbox's data comes with scikit-learn")

SETS = ("diabetes", "breast_cancer", "digits", "iris", "wine", "linnerud")
HEADER = "CRIM,ZN,INDUS,CHAS,NOX,RM,AGE,DIS,RAD,TAX,PTRATIO,B,LSTAT,MEDV"


@pytest.fixture(autouse=True)
def fresh_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The six names are free for this test, and no data folder is set."""
    monkeypatch.delenv("SHARETORCH_DATA", raising=False)
    others = [sy.VirtualWorker(id=name) for name in WORKERS]
    for worker in others:
        worker.remove_worker_from_local_worker_registry()
    yield
    for name in WORKERS:
        sy.VirtualWorker(id=name).remove_worker_from_local_worker_registry()
    for worker in others:
        worker.enter_local_worker_registry()


@pytest.fixture
def boston(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of Boston housing in its format, with numbers made up for the test."""
    rows = "\n".join(",".join(str(row * 100 + column) for column in range(14)) for row in range(20))
    path = tmp_path / "boston_housing.csv"
    path.write_text(f"{HEADER}\n{rows}\n", encoding="utf-8")
    monkeypatch.setenv("SHARETORCH_DATA", str(tmp_path))
    return path


def sandbox(**options: Any) -> dict[str, Any]:
    names: dict[str, Any] = {"torch": torch}
    sy.create_sandbox(names, **options)
    return names


def fetched(pointers: dict[str, list[Any]]) -> torch.Tensor:
    """All parts together, in the order of the workers; they stay where they are."""
    return torch.cat([pointers[name][0].fetched() for name in WORKERS])


def test_names_are_set():
    names = sandbox(verbose=False)
    assert [worker.id for worker in names["workers"]] == ["bob", "theo", "jason", "alice", "andy", "jon"]
    for name in WORKERS:
        assert names[name] is sy.VirtualWorker(id=name)
    assert isinstance(names["hook"], sy.TorchHook)
    assert isinstance(names["grid"], sy.PrivateGridNetwork)
    assert names["grid"].workers == names["workers"]


@pytest.mark.parametrize("name", SETS)
def test_every_row_is_at_one_worker(name):
    grid = sandbox(verbose=False)["grid"]
    expected = getattr(datasets, f"load_{name}")()
    data, target = grid.search(f"#{name}", "#data"), grid.search(f"#{name}", "#target")
    assert list(data) == list(target) == list(WORKERS)
    assert all(len(pointers) == 1 for pointers in (*data.values(), *target.values()))
    assert torch.equal(fetched(data), torch.as_tensor(expected.data, dtype=torch.float32))
    assert torch.equal(fetched(target), torch.as_tensor(expected.target, dtype=torch.float32))
    sizes = [pointers[0].shape[0] for pointers in data.values()]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == [pointers[0].shape[0] for pointers in target.values()]


def test_what_a_worker_finds():
    bob = sandbox(verbose=False)["bob"]
    assert len(bob.search(["#data"])) == len(bob.search("#target")) == len(SETS)
    assert len(bob.search([])) == 2 * len(SETS)
    (found,) = bob.search(["#diabetes", "#data"])
    assert isinstance(found, sy.PointerTensor)
    assert found.tags == {"#diabetes", "#data"}
    assert found.description.startswith("Diabetes dataset\n")
    assert "Ten baseline variables" in found.description
    assert "\tDescription: Diabetes dataset..." in repr(found)
    del found
    assert len(bob.search(["#diabetes", "#data"])) == 1


def test_a_second_call_adds_nothing(capsys):
    names = sandbox()
    held = [set(worker._objects) for worker in names["workers"]]
    sy.create_sandbox(names)
    assert [set(worker._objects) for worker in names["workers"]] == held


def test_a_second_call_brings_back_what_was_deleted(capsys):
    names = sandbox()
    names["theo"].clear_objects()
    own = names["bob"].register_obj(torch.ones(2).tag("#own"))
    sy.create_sandbox(names)
    assert len(names["theo"].search("#data")) == len(SETS)
    assert len(names["bob"].search("#data")) == len(SETS)
    assert torch.equal(names["bob"].search("#own")[0].fetched(), own)


def test_parts_can_be_trained_on():
    grid = sandbox(verbose=False)["grid"]
    x, y = (grid.search("#iris", tag)["andy"][0] for tag in ("#data", "#target"))
    model = torch.nn.Linear(4, 3).send(x.location)
    before = torch.nn.functional.cross_entropy(model(x), y.long())
    before.backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    after = torch.nn.functional.cross_entropy(model(x), y.long())
    assert after.get().item() < before.get().item()


def test_without_boston_there_is_a_notice_and_no_tag(capsys):
    grid = sandbox(verbose=False)["grid"]
    assert grid.search("#boston") == {}
    printed = capsys.readouterr().out
    assert printed.startswith("Notice: no Boston housing data")
    assert "SHARETORCH_DATA is not set" in printed
    assert printed.count("\n") == 1


def test_a_folder_without_boston_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SHARETORCH_DATA", str(tmp_path))
    assert sandbox(verbose=False)["grid"].search("#housing") == {}
    assert str(tmp_path / "boston_housing.csv") in capsys.readouterr().out


def test_boston_from_its_file(boston, capsys):
    grid = sandbox(verbose=False)["grid"]
    assert capsys.readouterr().out == ""
    for tags in (("#boston", "#data"), ("#housing", "#data"), ("#boston_housing", "#data")):
        data = fetched(grid.search(*tags))
        assert data.shape == (20, 13)
        assert data[3].tolist() == [300.0 + column for column in range(13)]
    target = fetched(grid.search("#boston", "#target"))
    assert target.tolist() == [row * 100.0 + 13 for row in range(20)]
    description = grid.search("#boston", "#data")["bob"][0].description
    assert description.startswith("Boston housing data set\n")
    assert "MEDV" in description


def test_the_target_may_be_any_column(boston):
    boston.write_text("MEDV,rm\n24,6.5\n21.5,6.25\n", encoding="utf-8")
    found = sample_data.boston()
    assert isinstance(found, sample_data.SampleSet)
    assert found.data.tolist() == [[6.5], [6.25]]
    assert found.target.tolist() == [24.0, 21.5]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no column MEDV; its first line names nothing"),
        ("RM,AGE\n1,2\n", "no column MEDV; its first line names RM, AGE"),
        (HEADER, "holds no rows"),
        (f"{HEADER}\n1,2\n", "row 1: 2 values for 14 columns"),
        (f"{HEADER}\n{','.join('1' * 14)}\n{','.join('x' * 14)}\n", "row 2: could not convert string to float"),
        (f"{HEADER}\n{','.join(['nan'] * 14)}\n", "row 1: 14 values for 14 columns, or one that is not finite"),
    ],
)
def test_a_broken_file_is_an_error(boston, text, problem):
    boston.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=problem) as caught:
        sandbox(verbose=False)
    assert str(boston) in str(caught.value)


def test_bytes_that_are_no_text(boston):
    boston.write_bytes(b"\xff\xfe\x00MEDV")
    with pytest.raises(DataError, match="cannot be read"):
        sandbox(verbose=False)


def test_an_error_leaves_the_namespace_as_it_was(boston):
    boston.write_text("", encoding="utf-8")
    names: dict[str, Any] = {"torch": torch}
    with pytest.raises(DataError):
        sy.create_sandbox(names, verbose=False)
    assert list(names) == ["torch"]


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(DataError, match=r"pip install 'sharetorch\[examples\]'"):
        sandbox(verbose=False)
    assert sandbox(verbose=False, download_data=False)["grid"].search() == {}


def test_what_is_said(capsys):
    sandbox()
    printed = capsys.readouterr().out
    for word in (*WORKERS, *SETS, "Done."):
        assert word in printed
    sandbox(download_data=False)
    assert "diabetes" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["torch", "th", "t"])
def test_torch_is_found_under_its_name(name):
    names: dict[str, Any] = {name: torch}
    sy.create_sandbox(names, verbose=False, download_data=False)
    assert names["hook"].torch is torch


@pytest.mark.parametrize("names", [{}, {"torch": "torch"}, {"th": sys}])
def test_a_namespace_without_torch(names):
    with pytest.raises(SandboxError, match="import torch"):
        sy.create_sandbox(names)


@pytest.mark.parametrize("wrong", [None, "globals", [torch]])
def test_what_is_no_namespace(wrong):
    with pytest.raises(SandboxError, match=r"pass globals\(\)"):
        sy.create_sandbox(wrong)


def test_the_names_without_data(capsys):
    for make in (sy.make_hook, sy.hook):
        names: dict[str, Any] = {"th": torch}
        hook = make(names)
        assert hook is names["hook"]
        assert hook.local_worker is sy.local_worker
        assert names["grid"].search() == {}
        assert set(WORKERS) <= set(names)
    assert capsys.readouterr().out == ""


# ------------------------------------------------------------------------------------------------------------ grids


def test_a_grid_asks_all_workers():
    bob, theo, jon = (sy.VirtualWorker(id=name) for name in ("bob", "theo", "jon"))
    for worker in (bob, theo):
        torch.ones(2).tag("#x", f"#{worker.id}").send(worker, garbage_collect_data=False)
    grid = sy.PrivateGridNetwork(bob, theo, jon)
    found = grid.search("#x")
    assert list(found) == ["bob", "theo"]
    assert found["theo"][0].location is theo
    assert list(grid.search("#x", "#bob")) == ["bob"]
    assert list(grid.search()) == ["bob", "theo"]
    assert grid.search("#y") == {}
    assert repr(grid) == "<PrivateGridNetwork bob theo jon>"
    assert len(grid) == 3


def test_grids_of_wrong_things():
    bob = sy.VirtualWorker(id="bob")
    with pytest.raises(sy.exceptions.MembersError, match=r"\*workers"):
        sy.PrivateGridNetwork([bob])
    with pytest.raises(sy.exceptions.MembersError, match="bob came more than once"):
        sy.PrivateGridNetwork(bob, bob)
    empty = sy.PrivateGridNetwork()
    assert empty.search("#x") == {}
    assert empty


def test_public_grids_say_what_they_need():
    with pytest.raises(sy.exceptions.UnsupportedOperationError, match="gateway.*PrivateGridNetwork"):
        sy.PublicGridNetwork(sy.hook, "http://127.0.0.1:5000")
