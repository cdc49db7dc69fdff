"""The tests of tensors, derivatives and models, run against worker processes over TLS instead of virtual workers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sharetorch.remote.network.group import write_group
from sharetorch.remote.network.settings import Address
from tests.network.tools import make_keys, start_group

ROOT = Path(__file__).resolve().parents[2]
PARTIES = ("alice", "bob", "carol", "dave")
PROVIDER = "crypto_provider"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_test_of_the_frontend_passes_over_the_network(tmp_path: Path) -> None:
    keys = make_keys(tmp_path, *PARTIES, PROVIDER, "me")
    group = start_group((*PARTIES, PROVIDER), keys, sessions=True, settings={"debug": True})
    try:
        addresses = {id: Address(*group[id].address) for id in group}
        provider = PROVIDER, addresses.pop(PROVIDER)
        write_group(tmp_path / "group.toml", addresses, provider, ".")
        environment = os.environ | {
            "SHARETORCH_TEST_PARTIES": str(tmp_path / "group.toml"),
            "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT / "tests")]),
            "PYTEST_ADDOPTS": "",
        }
        for name in [name for name in environment if name.startswith("PYTEST_XDIST")]:
            del environment[name]
        options = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-c", "pyproject.toml"]
        run = subprocess.run(
            [sys.executable, "-P", "-m", "pytest", *options, "tests/tensor", "tests/autograd", "tests/nn"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
        assert all(worker.alive for worker in group.values())
    finally:
        for worker in group.values():
            worker.stop()
