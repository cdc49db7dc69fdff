"""All benchmarks run, on tiny sizes, check their results, and write what the table needs."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {"work", "plain", "ratio", "rounds", "party_bytes", "provider_offline_bytes", "provider_online_bytes"}


def script(name: str) -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "benchmarks" / name))


@pytest.mark.parametrize("bound", [0.0, 0.125])
def test_a_wrong_result_stops_a_benchmark(bound: float) -> None:
    bench = script("conftest.py")["Bench"](benchmark=None, small=True, rounds=1)
    with pytest.raises(AssertionError):
        bench("wrong", torch.clone, lambda x: 1.25 * x, torch.ones(2), bound=bound)


@pytest.mark.slow
def test_every_benchmark_runs_and_is_recorded(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    options = ["--bench-small", "--bench-rounds=1", "--benchmark-only", f"--benchmark-json={results}"]
    # -P: with the root on the path, its folder sharetorch would hide the package.
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "benchmarks", *options]
    # Without these, pytest-benchmark believes that it runs in a worker of xdist, and measures nothing.
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr

    found = json.loads(results.read_text(encoding="utf-8"))
    assert "node" not in found["machine_info"]
    assert {"torch", "numpy", "numba", "python"} <= found["machine_info"]["versions"].keys()
    names = {benchmark["name"].partition("[")[0] for benchmark in found["benchmarks"]}
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("bench_*.py"))
    assert names == {line.split()[1].partition("(")[0] for line in sources.splitlines() if line.startswith("def test_")}
    for benchmark in found["benchmarks"]:
        info = benchmark["extra_info"]
        assert FIGURES <= info.keys()
        assert (info["rounds"] > 0) == (info["party_bytes"] > 0) == (benchmark["group"] not in ("kernels", "remote"))
        assert len(script("table.py")["row"](benchmark)) == 7
