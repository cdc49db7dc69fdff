"""Plots of comparisons, as SVG files that are the same for the same results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib.figure import Figure  # noqa: E402

COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#d55e00", "#e69f00", "#999999", "#000000")
"""By Okabe and Ito, to be told apart by everybody."""
MARKERS = "osD^vPX*"
PARTS = {"batch": "images in a batch", "width": "neurons in the hidden layer", "parties": "parties"}
COSTS = {"computing": "#0072b2", "latency": "#e69f00", "transfer": "#d55e00"}
STYLE = {"svg.hashsalt": "sharetorch", "svg.fonttype": "none", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}


def save(figure: Figure, path: Path) -> None:
    """Write a plot."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None}, facecolor="white")
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def times(results: Mapping[str, Any]) -> Figure | None:
    """A line for each task, a point for each system."""
    benchmarks = results["benchmarks"][::-1]
    names = list(dict.fromkeys(name for one in results["benchmarks"] for name in one["ways"]))
    if not names:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 1.4 + 0.42 * len(benchmarks)), layout="constrained")
        axes = figure.subplots()
        for number, name in enumerate(names):
            found = [(place, one["ways"].get(name, {}).get("times")) for place, one in enumerate(benchmarks)]
            points = [(1e3 * taken["median"], place) for place, taken in found if taken]
            if points:
                style = {"marker": MARKERS[number % 8], "color": COLOURS[number % 8], "linestyle": "none"}
                axes.plot(*zip(*points, strict=True), label=name, alpha=0.85, **style)
        axes.set_xscale("log")
        axes.set_xlabel("milliseconds")
        axes.set_yticks(range(len(benchmarks)), [one["work"] for one in benchmarks])
        figure.legend(loc="outside upper center", ncols=4)
    return figure


def scaling(results: Mapping[str, Any]) -> Figure | None:
    """Time above, bytes below; one column for each thing that grows."""
    parts = [part for part in PARTS if part in results]
    if not parts:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(3.6 * len(parts), 5.6), layout="constrained")
        grid = figure.subplots(2, len(parts), squeeze=False)
        for column, part in enumerate(parts):
            for number, name in enumerate(dict.fromkeys(entry["series"] for entry in results[part])):
                own = [entry for entry in results[part] if entry["series"] == name]
                sizes = [entry["size"] for entry in own]
                style = {"marker": MARKERS[number], "color": COLOURS[(0, 4, 2)[number % 3]], "label": name}
                grid[0][column].plot(sizes, [1e3 * entry["times"]["median"] for entry in own], **style)
                grid[1][column].plot(sizes, [entry["party_bytes"] / 1e6 for entry in own], **style)
            for row, label in enumerate(("milliseconds", "MB that a party sends")):
                axes = grid[row][column]
                if part != "parties":
                    axes.set_xscale("log", base=2)
                axes.set_xticks(sizes, map(str, sizes))
                axes.set_yscale("log")
                axes.set_xlabel(PARTS[part])
                axes.set_ylabel(label)
            grid[0][column].legend(fontsize=7)
    return figure


def networks(results: Mapping[str, Any]) -> Figure | None:
    """What the time on both networks is made of, and how long it is."""
    entries = results.get("networks", [])[::-1]
    if not entries:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 1.4 + 0.26 * len(entries)), layout="constrained")
        grid = figure.subplots(1, 2, sharey=True)
        for axes, network in zip(grid, ("LAN", "WAN"), strict=True):
            totals = [sum(entry[network][cost] for cost in COSTS) for entry in entries]
            left = [0.0] * len(entries)
            for cost, colour in COSTS.items():
                parts = [100 * entry[network][cost] / total for entry, total in zip(entries, totals, strict=True)]
                axes.barh(range(len(entries)), parts, left=left, color=colour, label=cost)
                left = [before + part for before, part in zip(left, parts, strict=True)]
            for place, total in enumerate(totals):
                axes.text(102, place, f"{1e3 * total:,.3g}" if total < 1 else f"{1e3 * total:,.0f}", va="center")
            axes.set_xlim(0, 118)
            axes.set_xticks(range(0, 101, 25))
            axes.set_title(network)
            axes.set_xlabel("per cent of the online time; its milliseconds")
        grid[0].set_yticks(range(len(entries)), [f"{entry['work']}, {entry['protocol']}" for entry in entries])
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
    return figure


PLOTS: Mapping[str, Mapping[str, Callable[[Mapping[str, Any]], Figure | None]]] = {
    "peers": {"times": times},
    "scaling": {"scaling": scaling, "networks": networks},
}
"""By kind of results and name of file."""
