"""Write the Markdown tables of networked results: python benchmarks/network_table.py RESULTS.json ... docs/PAGE.md

Takes the files that bench_transports.py and bench_network.py write.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from table import figure, line

UNITS = ((1 << 20, "MB"), (1 << 10, "KB"), (1, "B"))
WHAT = {
    "round trip": "Round trip, microseconds",
    "stream": "One way, GB/s",
    "exchange": "Both ways at once, microseconds for both messages",
}
NOTE = (
    "GB are 10^9 bytes; a message of 1 MB has 2^20 bytes. Every message of a round trip and of an exchange was "
    "compared with what was sent. An exchange of long messages over a websocket is left out: two threads would use "
    "one TLS connection at the same time."
)


def main() -> None:
    """Read the command line, read the results, write the page."""
    parser = argparse.ArgumentParser(description="Turn networked benchmark results into Markdown tables.")
    parser.add_argument("results", type=Path, nargs="+", help="JSON files")
    parser.add_argument("page", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    parts = [markdown(json.loads(path.read_text(encoding="utf-8"))) for path in args.results]
    args.page.write_text("\n".join(parts), encoding="utf-8")


def markdown(results: Mapping[str, Any]) -> str:
    """What was measured on what, then the tables."""
    return "\n".join([provenance(results), "", *{"network": works, "transports": transports}[results["kind"]](results)])


def provenance(results: Mapping[str, Any]) -> str:
    """One line that names commit, machine, versions and load."""
    versions = ", ".join(f"{name} {version}" for name, version in sorted(results["versions"].items()))
    changed = " with uncommitted changes" if results["changed"] else ""
    sizes = " **Few rounds, to test the benchmarks only.**" if results["small"] else ""
    return (
        f"Commit {results['commit'][:12]}{changed}; {results['cpu']}, {results['cores']} cores, "
        f"{results['memory_bytes'] / 2**30:.0f} GiB; {versions}; TCP with {results['congestion_control']}; load before "
        f"{results['load_before']:.1f}.{sizes}"
    )


def works(results: Mapping[str, Any]) -> list[str]:
    """The table of bench_network.py: a line for each piece of work and each other way to do it."""
    rows = [("work", "ms, median [quartiles]", "beside it", "ms, median [quartiles]", "ratio", "load")]
    rows += [("---", "---:", "---", "---:", "---:", "---:")]
    for entry in results["benchmarks"]:
        (name, first), *others = entry["times"].items()
        load = f"{entry['load'][0]:.1f} to {entry['load'][1]:.1f}"
        work = f"{entry['work']}: {name}"
        if not others:
            rows.append((work, milliseconds(first), "–", "–", "–", load))
        for other, times in others:
            cells = (milliseconds(first), other, milliseconds(times), f"{figure(entry['ratios'][other])}x", load)
            rows.append((work, *cells))
    return [*map(line, map(list, rows)), ""]


def milliseconds(times: Mapping[str, float]) -> str:
    """Median and quartiles."""
    if times["count"] == 1:
        return figure(1e3 * times["median"])
    low, middle, high = (figure(1e3 * times[name]) for name in ("q1", "median", "q3"))
    return f"{middle} [{low}, {high}]"


def transports(results: Mapping[str, Any]) -> list[str]:
    """The tables of bench_transports.py."""
    entries = results["transports"]
    sizes = sorted({entry["size"] for entry in entries})
    names = list(dict.fromkeys(entry["name"] for entry in entries))
    found = {(entry["what"], entry["name"], entry["size"]): entry["seconds"] for entry in entries}
    lines: list[str] = []
    for what, title in WHAT.items():
        rows = [[title, *map(size_of, sizes)], ["---", *["---:"] * len(sizes)]]
        rows += [[name, *cells(what, found, name, sizes)] for name in names]
        lines += [*map(line, rows), ""]
    return [*lines, NOTE, ""]


def cells(what: str, found: Mapping[tuple[str, str, int], float], name: str, sizes: Sequence[int]) -> list[str]:
    """The figures of a transport."""
    times = [found.get((what, name, size)) for size in sizes]
    if what == "stream":
        return [figure(size / time / 1e9) if time else "–" for size, time in zip(sizes, times, strict=True)]
    return [figure(1e6 * time) if time else "–" for time in times]


def size_of(count: int) -> str:
    """A size, such as "8 KB"."""
    unit, name = next((unit, name) for unit, name in UNITS if count >= unit)
    return f"{count // unit} {name}"


if __name__ == "__main__":
    main()
