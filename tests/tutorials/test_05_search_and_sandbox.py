"""Tags, searches, and a ready-made set of workers with data."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch as th
from torch import nn

import sharetorch as sy

hook = sy.TorchHook(torch)


@pytest.fixture
def boston(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A table with the columns of Boston housing, and its number of rows."""
    generator = torch.Generator().manual_seed(4)
    features = "CRIM ZN INDUS CHAS NOX RM AGE DIS RAD TAX PTRATIO B LSTAT".split()
    rows = 40
    table = torch.rand(rows, len(features) + 1, generator=generator)
    lines = [",".join([*features, "MEDV"]), *(",".join(f"{value:.4f}" for value in row) for row in table.tolist())]
    (tmp_path / "boston_housing.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setenv("SHARETORCH_DATA", str(tmp_path))
    return rows


def test_the_names_of_a_sandbox() -> None:
    names: dict[str, Any] = {"torch": torch}
    sy.create_sandbox(names, verbose=False)
    assert names["workers"] == [names[name] for name in ("bob", "theo", "jason", "alice", "andy", "jon")]
    assert [worker.id for worker in names["workers"]] == ["bob", "theo", "jason", "alice", "andy", "jon"]
    assert names["hook"].local_worker is sy.local_worker
    assert isinstance(names["grid"], sy.PrivateGridNetwork)
    assert all(len(worker._objects) > 0 for worker in names["workers"])


@pytest.mark.parametrize("name", ["torch", "th"])
def test_torch_is_found_under_either_name(name: str) -> None:
    names: dict[str, Any] = {name: th}
    sy.create_sandbox(names, verbose=False, download_data=False)
    assert len(names["workers"]) == 6 and names["bob"]._objects == {}
    with pytest.raises(NameError, match="import torch"):
        sy.create_sandbox({}, verbose=False)


def test_the_short_forms_of_a_hook() -> None:
    for setup in (sy.hook, sy.make_hook):
        names: dict[str, Any] = {"torch": torch}
        setup(names)
        assert names["hook"].local_worker is sy.local_worker and names["alice"].id == "alice"


def test_tags_and_descriptions_are_found() -> None:
    names: dict[str, Any] = {"torch": torch}
    sy.create_sandbox(names, verbose=False, download_data=False)
    bob, theo = names["bob"], names["theo"]
    x: Any = torch.tensor([1.0, 2, 3])
    x = x.tag("#fun", "#rivers", "#lengths").describe("Lengths of three rivers in 1000 km.")
    y: Any = torch.tensor([4, 5]).tag("#fun", "#rivers", "#names").describe("Numbers of their names.")
    z: Any = torch.tensor([6]).tag("#fun", "#lakes").describe("One lake.")
    x, y, z = x.send(bob), y.send(bob), z.send(bob)

    results = bob.search(["#rivers", "#lengths"])
    assert len(results) == 1
    assert results[0].description == "Lengths of three rivers in 1000 km."
    assert results[0].tags == {"#fun", "#rivers", "#lengths"}
    assert isinstance(results[0], sy.PointerTensor) and results[0].location is bob
    text = repr(results[0])
    assert "#rivers" in text and "Shape: torch.Size([3])" in text and "Description: Lengths of three" in text
    assert (results[0] + results[0]).get().tolist() == [2, 4, 6]

    assert len(bob.search(["#fun"])) == len(bob.search([])) == 3
    assert bob.search(["#fun", "#seas"]) == [] and theo.search(["#fun"]) == []
    assert bob.search(["Lengths"]) == [], "descriptions are not searched"
    del results
    assert len(bob._objects) == 3, "what was found stays when the pointers go"


def test_a_grid_is_searched_as_one() -> None:
    names: dict[str, Any] = {"torch": torch}
    sy.create_sandbox(names, verbose=False)
    alice, theo, jason = names["alice"], names["theo"], names["jason"]
    grid = sy.PrivateGridNetwork(theo, jason, alice)
    data, target = grid.search("#diabetes", "#data"), grid.search("#diabetes", "#target")
    assert list(data) == ["theo", "jason", "alice"] == list(target)
    for name, (pointer,) in data.items():
        assert pointer.location.id == name
        assert pointer.shape[1] == 10 and pointer.shape[0] == target[name][0].shape[0]
    everything = names["grid"].search("#diabetes", "#data")
    assert sum(pointers[0].shape[0] for pointers in everything.values()) == 442

    extra: Any = torch.tensor([1.0]).tag("#only").send(jason)
    assert list(names["grid"].search("#only")) == ["jason"]
    assert names["grid"].search("#nowhere") == {}
    assert extra.get().item() == 1.0


def test_what_was_found_is_trained_on() -> None:
    names: dict[str, Any] = {"torch": torch}
    sy.create_sandbox(names, verbose=False)
    data, target = names["grid"].search("#breast_cancer", "#data"), names["grid"].search("#breast_cancer", "#target")
    torch.manual_seed(0)
    model: Any = nn.Linear(30, 1)
    losses = []
    for _ in range(6):
        total = 0.0
        for name in data:
            x, y = data[name][0], target[name][0]
            model.send(x.location)
            opt = torch.optim.SGD(model.parameters(), lr=0.1)
            opt.zero_grad()
            scaled = (x - x.mean(0)) / (x.std(0) + 1e-6)
            loss = ((torch.sigmoid(model(scaled)).view(-1) - y) ** 2).mean()
            loss.backward()
            opt.step()
            model.get()
            total += loss.get().item()
        losses.append(total)
    assert losses[-1] < 0.7 * losses[0]


def test_boston_housing(boston: int) -> None:
    names: dict[str, Any] = {"torch": torch}
    sy.create_sandbox(names, verbose=False)
    for tag in ("#boston", "#housing", "#boston_housing"):
        found = names["grid"].search(tag, "#data")
        assert len(found) == 6 and sum(pointers[0].shape[0] for pointers in found.values()) == boston
    assert "Boston" in names["bob"].search(["#boston", "#target"])[0].description
    assert found["bob"][0].shape[1] == 13
