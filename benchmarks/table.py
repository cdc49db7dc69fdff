"""Write the Markdown table of a results file: python benchmarks/table.py RESULTS.json docs/benchmarks_table.md"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLUMNS = (
    "work",
    "ShareTorch ms, median [quartiles]",
    "plain torch ms, median [quartiles]",
    "ratio",
    "rounds",
    "MB per party",
    "MB from provider: ahead + online",
)
GROUPS = ("kernels", "operations", "models", "remote", "lanes")
"""Order of the rows; within a group they stay as they were run."""
NOTE = (
    "Plain torch does the same work in float32; for ring kernels, on the same integers. What the provider sends ahead "
    "depends on no input. MB are 10^6 bytes, "
    "per party those of the one that sends more. Every result was checked."
)


def main() -> None:
    """Read the command line, read the results, write the table."""
    parser = argparse.ArgumentParser(description="Turn benchmark results into a Markdown table.")
    parser.add_argument("results", type=Path, help="JSON file written by make bench")
    parser.add_argument("page", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    page = markdown(json.loads(args.results.read_text(encoding="utf-8")))
    args.page.write_text(page, encoding="utf-8")


def markdown(results: Mapping[str, Any]) -> str:
    """The page: what was measured on what, then the table."""
    benchmarks = sorted(results["benchmarks"], key=lambda benchmark: GROUPS.index(benchmark["group"]))
    rows = [row(benchmark) for benchmark in benchmarks]
    lines = [line(COLUMNS), line(["---", *["---:"] * (len(COLUMNS) - 1)]), *map(line, rows)]
    return "\n".join([provenance(results), "", *lines, "", NOTE, ""])


def provenance(results: Mapping[str, Any]) -> str:
    """One line that names commit, machine, versions and settings."""
    commit, machine, settings = results["commit_info"], results["machine_info"], results["settings"]
    changed = " with uncommitted changes" if commit["dirty"] else ""
    sizes = " **Tiny sizes, to test the benchmarks only.**" if settings["small"] else ""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine["versions"].items()))
    return (
        f"Commit {commit['id'][:12]}{changed}; {machine['cpu']['brand']}, {machine['cpu']['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB; {versions}; {settings['torch_threads']} torch threads, "
        f"{settings['kernel_threads']} kernel threads, {settings['fraction_bits']} fraction bits, "
        f"seed {settings['seed']}, load before {settings['load_before']:.1f}.{sizes}"
    )


def row(benchmark: Mapping[str, Any]) -> list[str]:
    """The cells of one piece of work."""
    stats, info = benchmark["stats"], benchmark["extra_info"]
    cells = [info["work"], times(stats), times(info["plain"]), f"{figure(stats['median'] / info['plain']['median'])}x"]
    if not info["rounds"]:
        return [*cells, "–", "–", "–"]
    ahead, online = (figure(info[f"provider_{kind}_bytes"] / 1e6) for kind in ("offline", "online"))
    return [*cells, str(info["rounds"]), figure(info["party_bytes"] / 1e6), f"{ahead} + {online}"]


def times(seconds: Mapping[str, float]) -> str:
    """Median and quartiles in milliseconds."""
    low, middle, high = (figure(1e3 * seconds[name]) for name in ("q1", "median", "q3"))
    return f"{middle} [{low}, {high}]"


def figure(value: float) -> str:
    """A number with three digits, more only if it is large, and no exponent."""
    if value == 0:
        return "0"
    text = f"{value:.3g}"
    return f"{float(text):f}".rstrip("0").rstrip(".") if value < 1000 else f"{value:,.0f}"


def line(cells: list[str] | tuple[str, ...]) -> str:
    """One line of the table."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
