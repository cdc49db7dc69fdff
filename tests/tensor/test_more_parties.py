"""The tests of tensors, derivatives and models, run with three, four and five parties."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ["tests/tensor", "tests/autograd", "tests/nn"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [3, 4, 5])
@pytest.mark.skipif("SHARETORCH_TEST_HOLDERS" in os.environ, reason="this run is one of those")
def test_every_test_of_the_frontend_passes(count: int) -> None:
    environment = os.environ | {"SHARETORCH_TEST_HOLDERS": str(count), "PYTEST_ADDOPTS": ""}
    environment["PYTHONPATH"] = os.pathsep.join([*sys.path, str(ROOT / "tests")])
    for name in [name for name in environment if name.startswith("PYTEST_XDIST")]:
        del environment[name]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", "pyproject.toml"]
    run = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", *options, *FOLDERS],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
