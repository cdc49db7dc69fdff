"""The notebooks as they are committed: run, small, without traces of the machine, and with links that lead somewhere.

That they run is another test: ``pytest --nbmake docs/tutorials``.
"""

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST_PICTURE, LARGEST_NOTEBOOK = 60_000, 250_000
TRACES = re.compile(r"/(?:home|root|tmp|work|Users)/|[A-Z]:\\\\|site-packages")
LINK = re.compile(r"\]\(([^)#\s]+)")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def notebook(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_there_are_notebooks() -> None:
    assert {"09-shares", "12-encrypted-training", "19-access-control"} <= {path.stem for path in NOTEBOOKS}


def test_all_cells_were_run_in_order_and_without_errors(notebook: dict[str, Any]) -> None:
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]


def test_metadata_say_nothing_of_the_machine(notebook: dict[str, Any]) -> None:
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    assert all(cell["metadata"] == {} for cell in notebook["cells"])


def test_no_path_of_a_machine(path: Path) -> None:
    assert not TRACES.findall(path.read_text(encoding="utf-8"))


def test_pictures_are_small(path: Path, notebook: dict[str, Any]) -> None:
    assert path.stat().st_size < LARGEST_NOTEBOOK
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            picture = output.get("data", {}).get("image/png")
            assert picture is None or len(base64.b64decode(picture)) < LARGEST_PICTURE


def test_it_begins_with_a_title(notebook: dict[str, Any]) -> None:
    first = notebook["cells"][0]
    assert first["cell_type"] == "markdown" and "".join(first["source"]).startswith("# ")


def test_links_lead_somewhere(path: Path, notebook: dict[str, Any]) -> None:
    texts = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    links = [link for text in texts for link in LINK.findall(text) if not link.startswith("http")]
    assert [link for link in links if not (path.parent / link).exists()] == []
