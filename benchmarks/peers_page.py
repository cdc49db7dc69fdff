"""Write page and plots of comparisons: python benchmarks/peers_page.py RESULTS.json ... docs/benchmarks_peers.md

Takes the files that against_peers.py and scaling.py write. Plots lie beside the page.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plots
from table import figure, line

INTRODUCTION = """# Benchmarks beside other systems

`make bench-peers` does the same work with ShareTorch, CrypTen and SPU, in turn and in one run on one machine, and
writes this page. Peers are installed by pip into environments of their own, in the folder that `SHARETORCH_PEERS`
names; what does not install is left out with a notice. Ratios carry over to similar machines; times do not.

- Every system gets the same numbers. Operands are shared before the clock starts, results stay shared. The results of
  the first and of the last run are opened and compared with plain torch in float64; the largest error is in the tables.
- All members share the cores of one machine. CrypTen and SPU run each party as a process, without encryption.
  ShareTorch runs all members in one process, without messages, and in the column TLS each as a process, with encryption
  and certificates on every connection: that column does more than the peers do, the others do without a network.
- Making correlated randomness is in the time of every system.
- A training step is forward, squared error, backward and plain SGD. Networks are written as convolution, ReLU, max
  pooling for all; ShareTorch takes the maximum first by itself. From one inference to the next it remembers what was
  opened of a model's weights; operands it gets as new shares for every run, so nothing of them is remembered.
"""
LOADED = (
    "**Other work ran on this machine during the measurement: times are too long, by different factors, and ratios are "
    "rough.** `make bench-peers` on a quiet machine replaces this page."
)
COUNTS = (
    "MB are 10^6 bytes that the party that sends most sends online; what ShareTorch's provider sends is apart, what a "
    "party of CrypTen or SPU sends as the one who deals is not. Rounds of CrypTen are its collective calls, of SPU its "
    "messages; both systems count them, and their bytes, themselves."
)
OURS, PLAIN = "ShareTorch", "plain torch"
SHOWN = {
    "parties": "parties",
    "processes": "processes",
    "threads": "threads",
    "fraction_bits": "fraction bits",
    "truncation": "truncation",
    "transport": "transport",
}
PARTS = {"batch": "images in a batch", "width": "neurons in the hidden layer", "parties": "parties"}
SCALING = """## How time and bytes grow

All members are in one process and take turns: times are the sum of all members' work. By batch: the MLP of the table
above. By width: one hidden layer, batch 128. By parties: the tasks of the table above.
"""
NETWORKS = """## On simulated networks

Computing is measured; latency is rounds x latency, transfer is the bytes of whoever sends most in each operation /
bandwidth, as `st.profile().estimate(...)` has it. LAN: 0.2 ms, 5 Gbit/s. WAN: 30 ms, 320 Mbit/s. Each member has a
machine of its own here. Preparing can be done before the inputs are known.
"""


def main() -> None:
    """Read the command line, read the results, write page and plots."""
    parser = argparse.ArgumentParser(description="Turn results of comparisons into a page with plots.")
    parser.add_argument("results", type=Path, nargs="+", help="JSON files")
    parser.add_argument("page", type=Path, help="Markdown file to write")
    args = parser.parse_args()
    found = [json.loads(path.read_text(encoding="utf-8")) for path in args.results]
    args.page.write_text(page(found, args.page.stem), encoding="utf-8")
    for results in found:
        for name, draw in plots.PLOTS[results["kind"]].items():
            if drawn := draw(results):
                plots.save(drawn, plot_file(args.page, name))


def plot_file(page_file: Path, name: str) -> Path:
    """Where a plot goes."""
    return page_file.with_name(f"{page_file.stem}_{name}.svg")


def page(found: Sequence[Mapping[str, Any]], stem: str) -> str:
    """The whole page."""
    sections = [INTRODUCTION]
    for results in found:
        sections += {"peers": peers, "scaling": scaling}[results["kind"]](results, stem)
    return "\n".join(sections).rstrip("\n") + "\n"


def provenance(results: Mapping[str, Any]) -> list[str]:
    """Lines that name commit, machine, versions and load, and what spoils the figures."""
    versions = dict(results["versions"])
    for name, about in results.get("systems", {}).items():
        if not name.startswith((OURS, PLAIN)):
            versions[name.split()[0]] = about["version"]
    shown = ", ".join(f"{name} {version}" for name, version in sorted(versions.items(), key=lambda one: one[0].lower()))
    changed = " with uncommitted changes" if results["changed"] else ""
    lines = [
        f"Commit {results['commit'][:12]}{changed}; {results['cpu']}, {results['cores']} cores, "
        f"{results['memory_bytes'] / 2**30:.0f} GiB; {shown}; load before {results['load_before']:.1f}.",
        "",
    ]
    if results["small"]:
        lines += ["**Tiny sizes, to test the benchmarks only.**", ""]
    if results["load_before"] > results["cores"] / 2:
        lines += [LOADED, ""]
    return lines


# ------------------------------------------------------------------------------------------------------------- peers


def peers(results: Mapping[str, Any], stem: str) -> list[str]:
    """Tables of against_peers.py."""
    benchmarks = results["benchmarks"]
    names = list(dict.fromkeys(name for benchmark in benchmarks for name in benchmark["ways"]))
    lines = ["## Same work, same machine, same run", "", *provenance(results)]
    lines += [f"{name} was left out: {reason}.\n" for name, reason in results["skipped"].items()]
    rows = [["milliseconds, median", *names], ["---", *["---:"] * len(names)]]
    rows += [[one["work"], *(cell(one["ways"].get(name)) for name in names)] for one in benchmarks]
    lines += [*map(line, rows), "", f"![Times of all systems]({stem}_times.svg)", ""]
    return [*lines, *ratios(benchmarks, names), *settings(results), *details(benchmarks)]


def cell(entry: Mapping[str, Any] | None) -> str:
    """The median."""
    if entry is None:
        return "–"
    if "times" not in entry:
        return "failed"
    return f"{figure(1e3 * entry['times']['median'])}{'' if entry['right'] else ' **wrong**'}"


def ratios(benchmarks: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """How many times longer peers take than ShareTorch, and ShareTorch than plain torch."""
    ours = [name for name in names if name.startswith(OURS)]
    if not ours:
        return []
    bases = [ours[0], *(name for name in ours if name.endswith("TLS"))]
    pairs = [(peer, base) for peer in names if not peer.startswith((OURS, PLAIN)) for base in bases]
    pairs += [(base, PLAIN) for base in bases if PLAIN in names]
    rows = [["times as long", *(f"{over} / {under}" for over, under in pairs)], ["---", *["---:"] * len(pairs)]]
    for one in benchmarks:
        middles = {name: entry["times"]["median"] for name, entry in one["ways"].items() if "times" in entry}
        rows.append([one["work"], *(ratio(middles.get(over), middles.get(under)) for over, under in pairs)])
    return [*map(line, rows), ""]


def ratio(over: float | None, under: float | None) -> str:
    """A ratio with two digits."""
    return f"{figure(float(f'{over / under:.2g}'))}x" if over and under else "–"


def settings(results: Mapping[str, Any]) -> list[str]:
    """What every system uses."""
    rows = [["system", *SHOWN.values()], ["---"] * (1 + len(SHOWN))]
    rows += [[name, *(str(about[key]) for key in SHOWN)] for name, about in results["systems"].items()]
    return [*map(line, rows), ""]


def details(benchmarks: Sequence[Mapping[str, Any]]) -> list[str]:
    """Quartiles, bytes, rounds and errors."""
    rows = [["work", "system", "ms, median [quartiles]", "runs", "MB", "MB of the provider", "rounds", "error", "load"]]
    rows += [["---", "---", *["---:"] * 7]]
    for one in benchmarks:
        load = f"{one['load'][0]:.1f} to {one['load'][1]:.1f}"
        for name, entry in one["ways"].items():
            rows.append([one["work"], name, *detail(entry), load])
    return ["### Spread, bytes, rounds, errors", "", *map(line, rows), "", COUNTS, ""]


def detail(entry: Mapping[str, Any]) -> list[str]:
    """The cells of one system."""
    if "times" not in entry:
        return [f"failed: {entry['failed']}".replace("|", "/"), *["–"] * 5]
    error = f"{entry['error']:.1e}" if entry["error"] else "0"
    sent = (figure(entry[kind] / 1e6) for kind in ("party_bytes", "provider_bytes"))
    runs, rounds = str(entry["times"]["count"]), str(entry["rounds"])
    return [milliseconds(entry["times"]), runs, *sent, rounds, error + ("" if entry["right"] else " **wrong**")]


def milliseconds(times: Mapping[str, float]) -> str:
    """Median and quartiles."""
    low, middle, high = (figure(1e3 * times[name]) for name in ("q1", "median", "q3"))
    return f"{middle} [{low}, {high}]"


# ----------------------------------------------------------------------------------------------------------- scaling


def scaling(results: Mapping[str, Any], stem: str) -> list[str]:
    """Tables of scaling.py."""
    lines = [SCALING, *provenance(results)]
    if any(part in results for part in PARTS):
        lines += [f"![Time and bytes against batch, width and parties]({stem}_scaling.svg)", ""]
    for part, title in PARTS.items():
        if part in results:
            lines += growth(results[part], title)
    if "networks" in results:
        lines += [NETWORKS, f"![Parts of the time on networks]({stem}_networks.svg)", "", *networks(results)]
    return lines


def growth(entries: Sequence[Mapping[str, Any]], title: str) -> list[str]:
    """A line for each series, a column for each size."""
    sizes = sorted({entry["size"] for entry in entries})
    found = {(entry["series"], entry["size"]): entry for entry in entries}
    rows = [[f"ms; MB per party, by {title}", *map(str, sizes)], ["---", *["---:"] * len(sizes)]]
    for name in dict.fromkeys(entry["series"] for entry in entries):
        own = (found[name, size] for size in sizes)
        rows.append([name, *(f"{figure(1e3 * e['times']['median'])}; {figure(e['party_bytes'] / 1e6)}" for e in own)])
    return [*map(line, rows), ""]


def networks(results: Mapping[str, Any]) -> list[str]:
    """A line for each task and protocol."""
    heads = ["work", "protocol", "rounds", "MB"]
    for network in ("LAN", "WAN"):
        heads += [f"{network}, online ms", f"{network}: latency + transfer", f"{network}: preparing"]
    rows = [heads, ["---", "---", *["---:"] * 8]]
    for entry in results["networks"]:
        cells = [entry["work"], entry["protocol"], str(entry["rounds"]), figure(entry["party_bytes"] / 1e6)]
        for network in ("LAN", "WAN"):
            one = {name: 1e3 * seconds for name, seconds in entry[network].items()}
            online = one["computing"] + one["latency"] + one["transfer"]
            cells += [figure(online), f"{figure(one['latency'])} + {figure(one['transfer'])}", figure(one["preparing"])]
        rows.append(cells)
    return [*map(line, rows), ""]


if __name__ == "__main__":
    main()
