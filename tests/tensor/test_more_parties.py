"""The tests of tensors, derivatives and models, run with three, four and five parties."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ALL = ["tests/tensor", "tests/autograd", "tests/nn"]
PROTOCOLS = ["tests/tensor/test_comparison_against_torch.py", "tests/autograd", "tests/nn/test_layers.py"]
"""Every operation with a protocol of its own; what is local to a party does not know how many there are."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("count", "chosen"), [(3, ALL), (4, PROTOCOLS), (5, PROTOCOLS)])
@pytest.mark.skipif(
    bool({"SHARETORCH_TEST_HOLDERS", "SHARETORCH_TEST_PARTIES"} & os.environ.keys()),
    reason="these tests are being run in a process of their own already",
)
def test_every_test_of_the_frontend_passes(count: int, chosen: list[str]) -> None:
    environment = os.environ | {"SHARETORCH_TEST_HOLDERS": str(count), "PYTEST_ADDOPTS": ""}
    environment["PYTHONPATH"] = os.pathsep.join([*sys.path, str(ROOT / "tests")])
    for name in [name for name in environment if name.startswith("PYTEST_XDIST")]:
        del environment[name]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", "pyproject.toml"]
    run = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", *options, *chosen],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
