"""The benchmark table: every figure at its place, in the unit its column names."""

import copy
import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "table.py"
TABLE = runpy.run_path(str(SCRIPT))

RESULTS: dict[str, Any] = {
    "commit_info": {"id": "0123456789abcdef0123", "dirty": False},
    "machine_info": {
        "cpu": {"brand": "Some CPU", "cores": 2},
        "memory_bytes": 8 << 30,
        "versions": {"torch": "2.6", "numpy": "2.2", "numba": "0.61", "python": "3.11.9"},
    },
    "settings": {
        "seed": 7,
        "small": False,
        "torch_threads": 2,
        "kernel_threads": 3,
        "fraction_bits": 16,
        "load_before": 0.25,
    },
    "benchmarks": [
        {
            "group": "operations",
            "stats": {"q1": 0.0101, "median": 0.012, "q3": 0.01449},
            "extra_info": {
                "work": "a product",
                "plain": {"q1": 0.0005, "median": 0.00048, "q3": 0.0007},
                "rounds": 3,
                "party_bytes": 1_234_567,
                "provider_offline_bytes": 2_500_000,
                "provider_online_bytes": 40_000,
            },
        },
        {
            "group": "kernels",
            "stats": {"q1": 1.5, "median": 2.0, "q3": 2.5},
            "extra_info": {
                "work": "a kernel",
                "plain": {"q1": 3.0, "median": 4.0, "q3": 5.0},
                "rounds": 0,
                "party_bytes": 0,
                "provider_offline_bytes": 0,
                "provider_online_bytes": 0,
            },
        },
    ],
}


def cells(page: str, work: str) -> list[str]:
    (line,) = [line for line in page.splitlines() if line.startswith(f"| {work} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_figures_stand_in_their_columns() -> None:
    page = TABLE["markdown"](RESULTS)
    assert cells(page, "work") == list(TABLE["COLUMNS"])
    expected = ["a product", "12 [10.1, 14.5]", "0.48 [0.5, 0.7]", "25x", "3", "1.23", "2.5 + 0.04"]
    assert cells(page, "a product") == expected


def test_local_work_has_no_communication() -> None:
    expected = ["a kernel", "2,000 [1,500, 2,500]", "4,000 [3,000, 5,000]", "0.5x", "–", "–", "–"]
    assert cells(TABLE["markdown"](RESULTS), "a kernel") == expected


def test_kernels_come_first() -> None:
    page = TABLE["markdown"](RESULTS)
    assert page.index("a kernel") < page.index("a product")


def test_first_line_says_where_the_figures_come_from() -> None:
    assert TABLE["markdown"](RESULTS).splitlines()[0] == (
        "Commit 0123456789ab; Some CPU, 2 cores, 8 GiB; numba 0.61, numpy 2.2, python 3.11.9, torch 2.6; "
        "2 torch threads, 3 kernel threads, 16 fraction bits, seed 7, load before 0.2."
    )


def test_what_spoils_figures_is_said() -> None:
    results = copy.deepcopy(RESULTS)
    results["commit_info"]["dirty"] = True
    results["settings"]["small"] = True
    first = TABLE["markdown"](results).splitlines()[0]
    assert "0123456789ab with uncommitted changes;" in first
    assert "Tiny sizes" in first


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.00001234, "0.000012"),
        (0.5, "0.5"),
        (9.996, "10"),
        (999.4, "999"),
        (999.9, "1000"),
        (1e6, "1,000,000"),
    ],
)
def test_figures_have_no_exponent(value: float, text: str) -> None:
    assert TABLE["figure"](value) == text


def test_command_line_writes_the_same_page_every_time(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    for name in ("first.md", "second.md"):
        subprocess.run([sys.executable, SCRIPT, tmp_path / "results.json", tmp_path / name], check=True, timeout=250)
    assert (tmp_path / "first.md").read_text(encoding="utf-8") == TABLE["markdown"](RESULTS)
    assert (tmp_path / "first.md").read_bytes() == (tmp_path / "second.md").read_bytes()
