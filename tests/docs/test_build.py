"""The documentation builds without a warning."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sphinx", "myst_parser", "furo")),
    reason="needs the [docs] extra",
)
def test_the_documentation_builds_without_warnings(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "-d", tmp_path / "cache"]
    built = subprocess.run([*command, DOCS, tmp_path / "html"], capture_output=True, text=True, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
