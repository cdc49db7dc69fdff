"""The page of comparisons: every figure at its place, what spoils figures is said, plots are the same every time."""

import copy
import json
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
PROVENANCE: dict[str, Any] = {
    "commit": "0123456789abcdef0123",
    "changed": False,
    "cpu": "Some CPU",
    "cores": 2,
    "memory_bytes": 8 << 30,
    "versions": {"torch": "2.6", "python": "3.11.9"},
    "load_before": 0.25,
    "small": False,
    "seed": 7,
}
ABOUT = {
    "version": "1.2", "parties": "2", "processes": 1, "threads": "2 in all", "fraction_bits": 16,
    "truncation": "local", "transport": "none",
}  # fmt: skip


def entry(median: float, right: bool = True) -> dict[str, Any]:
    return {
        "times": {"median": median, "q1": median / 2, "q3": 2 * median, "count": 5},
        "party_bytes": 1_234_567,
        "provider_bytes": 40_000,
        "rounds": 4,
        "error": 2.0**-16,
        "right": right,
    }


PEERS: dict[str, Any] = {
    "kind": "peers",
    **PROVENANCE,
    "systems": {"ShareTorch a": ABOUT, "CrypTen": ABOUT | {"version": "0.4.1"}, "plain torch": ABOUT},
    "skipped": {"SPU semi2k": "SPU 0.9.5 cannot be installed: ERROR: none"},
    "benchmarks": [
        {
            "task": "relu",
            "work": "ReLU, 10",
            "bound": 1e-3,
            "load": [0.2, 1.7],
            "ways": {
                "ShareTorch a": entry(0.01),
                "ShareTorch a, TLS": entry(0.04),
                "CrypTen": entry(0.12),
                "plain torch": entry(0.0005),
            },
        },
        {
            "task": "matmul",
            "work": "matmul 8^3",
            "bound": 1e-3,
            "load": [0.2, 1.7],
            "ways": {"ShareTorch a": entry(0.02, False), "CrypTen": {"failed": "ended: a|b"}},
        },
    ],
}
NETWORK = {"computing": 0.001, "latency": 0.002, "transfer": 0.0005, "preparing": 0.004}
SCALING: dict[str, Any] = {
    "kind": "scaling",
    **PROVENANCE,
    "parties": [{"series": "ReLU", "size": size, **entry(size / 1000)} for size in (2, 3)],
    "networks": [
        {"work": "ReLU", "protocol": "tables", "rounds": 4, "party_bytes": 1_225, "LAN": NETWORK, "WAN": NETWORK}
    ],
}


@pytest.fixture(scope="module")
def script() -> Iterator[dict[str, Any]]:
    sys.path.insert(0, str(FOLDER))
    yield runpy.run_path(str(FOLDER / "peers_page.py"))
    sys.path.remove(str(FOLDER))


def rows(page: str, work: str) -> list[list[str]]:
    lines = [line for line in page.splitlines() if line.startswith(f"| {work} |")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_times_and_ratios_stand_in_their_columns(script: dict[str, Any]) -> None:
    page = script["page"]([PEERS], "stem")
    (heads,) = rows(page, "milliseconds, median")
    assert heads == ["milliseconds, median", "ShareTorch a", "ShareTorch a, TLS", "CrypTen", "plain torch"]
    assert rows(page, "ReLU, 10")[0] == ["ReLU, 10", "10", "40", "120", "0.5"]
    assert rows(page, "matmul 8^3")[0] == ["matmul 8^3", "20 **wrong**", "–", "failed", "–"]
    assert "![Times of all systems](stem_times.svg)" in page


def test_ratios_are_to_ours_in_process_and_over_tls(script: dict[str, Any]) -> None:
    page = script["page"]([PEERS], "stem")
    assert rows(page, "times as long")[0][1:] == [
        "CrypTen / ShareTorch a", "CrypTen / ShareTorch a, TLS",
        "ShareTorch a / plain torch", "ShareTorch a, TLS / plain torch",
    ]  # fmt: skip
    assert rows(page, "ReLU, 10")[1] == ["ReLU, 10", "12x", "3x", "20x", "80x"]
    assert rows(page, "matmul 8^3")[1] == ["matmul 8^3", "–", "–", "–", "–"]


def test_details_and_settings(script: dict[str, Any]) -> None:
    page = script["page"]([PEERS], "stem")
    assert rows(page, "ReLU, 10")[4] == [
        "ReLU, 10", "CrypTen", "120 [60, 240]", "5", "1.23", "0.04", "4", "1.5e-05", "0.2 to 1.7",
    ]  # fmt: skip
    assert rows(page, "matmul 8^3")[3][:3] == ["matmul 8^3", "CrypTen", "failed: ended: a/b"]
    assert rows(page, "CrypTen")[0] == ["CrypTen", "2", "1", "2 in all", "16", "local", "none"]


def test_what_was_left_out_and_what_spoils_figures_is_said(script: dict[str, Any]) -> None:
    page = script["page"]([PEERS], "stem")
    assert "SPU semi2k was left out: SPU 0.9.5 cannot be installed: ERROR: none." in page
    assert "CrypTen 0.4.1, python 3.11.9, torch 2.6" in page
    assert "Tiny sizes" not in page and "Other work" not in page
    loaded = PEERS | {"load_before": 1.5, "small": True, "changed": True}
    page = script["page"]([loaded], "stem")
    assert "Tiny sizes" in page and "Other work" in page and "with uncommitted changes" in page


def test_growth_and_networks(script: dict[str, Any]) -> None:
    page = script["page"]([SCALING], "stem")
    assert rows(page, "ReLU")[0] == ["ReLU", "2; 1.23", "3; 1.23"]
    assert rows(page, "ReLU")[1] == [
        "ReLU", "tables", "4", "0.00122", *("3.5", "2 + 0.5", "4"), *("3.5", "2 + 0.5", "4"),
    ]  # fmt: skip


def test_no_results_give_a_page_too(script: dict[str, Any]) -> None:
    empty = copy.deepcopy(PEERS) | {"benchmarks": []}
    assert "Same work" in script["page"]([empty], "stem")


@pytest.mark.slow
def test_command_line_writes_page_and_plots_the_same_every_time(tmp_path: Path) -> None:
    for name, results in (("peers", PEERS), ("scaling", SCALING)):
        (tmp_path / f"{name}.json").write_text(json.dumps(results))
    made = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        inputs = [str(tmp_path / f"{name}.json") for name in ("peers", "scaling")]
        command = [sys.executable, str(FOLDER / "peers_page.py"), *inputs, str(folder / "page.md")]
        subprocess.run(command, check=True, timeout=250)
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert made[0] == made[1]
    assert made[0].keys() == {"page.md", "page_times.svg", "page_scaling.svg", "page_networks.svg"}
    assert b"ReLU, 10" in made[0]["page_times.svg"] and b"<dc:date>" not in made[0]["page_times.svg"]
