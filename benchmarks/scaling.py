"""How time and bytes grow, all members in this process: python benchmarks/scaling.py --json RESULTS.json

    --only PART ...   batch, width, parties or networks (default: all)
    --rounds N        how often each is measured (default: 7)
    --quick           tiny sizes and one round, to see whether the benchmark runs at all

Times on networks are not measured: they follow from measured computing and the exact rounds and bytes of each
operation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import torch
from against_peers import summary
from peers.networks import error
from peers.sharetorch_work import ShareTorch
from peers.tasks import MLP, SEED, Layer, Task, inputs, tasks

import sharetorch as st
from sharetorch.mpc import kernels
from sharetorch.mpc.protocols.suite import DEFAULT_SUITE, SUITES

BATCHES = (1, 4, 16, 64, 128, 256, 512)
WIDTHS = (32, 64, 128, 256, 512, 1024)
WIDE_BATCH = 128
PARTIES = (2, 3, 4, 5)
ANY_PARTIES = next(name for name in ("tables", DEFAULT_SUITE) if name in SUITES)
"""The protocol for two and more parties."""
NETWORKS = {"LAN": (0.0002, 625e6), "WAN": (0.03, 40e6)}
"""Seconds one way, bytes a second: 0.2 ms and 5 Gbit/s, 30 ms and 320 Mbit/s."""
FEW_ROUNDS = "tables-wan"
"""The protocol for slow networks."""


class Bench:
    """Measures and writes down.

    Args:
        rounds: how often each is measured.
        quick: whether sizes are tiny.

    Attributes:
        results: what was measured, by part.
    """

    def __init__(self, rounds: int, quick: bool) -> None:
        self._rounds, self._quick = rounds, quick
        self._members = [st.VirtualWorker(id=f"party{number}") for number in range(PARTIES[-1])]
        self._provider = st.VirtualWorker(id="provider")
        self.results: dict[str, list[dict[str, Any]]] = {}

    def batch(self) -> None:
        """The MLP with more and more images."""
        for work in ("inference", "training"):
            for size in BATCHES[:2] if self._quick else BATCHES:
                self._measure("batch", network(work, MLP, size), series(work), size)

    def width(self) -> None:
        """A hidden layer with more and more neurons."""
        batch = 2 if self._quick else WIDE_BATCH
        for work in ("inference", "training"):
            for size in WIDTHS[:2] if self._quick else WIDTHS:
                layers = (("flatten",), ("linear", 784, size), ("relu",), ("linear", size, 10))
                self._measure("width", network(work, layers, batch), series(work), size)

    def parties(self) -> None:
        """More and more parties."""
        found = tasks(self._quick)
        for name in ("relu", "multiply", "mlp-step"):
            for count in PARTIES:
                self._measure("parties", found[name], found[name].title, count, count, ANY_PARTIES)

    def networks(self) -> None:
        """Every task on simulated networks, by the default protocol and by the one with fewest rounds."""
        for task in tasks(self._quick).values():
            for protocol in dict.fromkeys((DEFAULT_SUITE, FEW_ROUNDS)):
                if protocol in SUITES and (protocol == DEFAULT_SUITE or task.compares):
                    self._estimate(task, protocol)

    def _system(self, task: Task, parties: int, protocol: str) -> ShareTorch:
        system = ShareTorch(tuple(self._members[:parties]), self._provider)
        system.prepare(task, inputs(task), protocol)
        return system

    def _measure(
        self, part: str, task: Task, line: str, size: int, parties: int = 2, protocol: str = DEFAULT_SUITE
    ) -> None:
        """Measure one point.

        Results are checked after the first call: of training many steps on one batch, a ReLU that tips over sooner or
        later makes another model of it, in plain torch by any other rounding as well.
        """
        system = self._system(task, parties, protocol)
        entry: dict[str, Any] = {"series": line, "size": size, "protocol": protocol, **system.cost()}
        entry["error"] = checked(task, system)
        before = machine.load()
        entry["times"] = summary([system.run() for _ in range(self._rounds)])
        entry["load"] = [before, machine.load()]
        self.results.setdefault(part, []).append(entry)
        print(f"{part} {size}, {line}: {1e3 * entry['times']['median']:.3g} ms, {entry['party_bytes']:,} B", flush=True)

    def _estimate(self, task: Task, protocol: str) -> None:
        """Estimate one task, from the quickest of some runs."""
        system = self._system(task, 2, protocol)
        profile = min((system.profiled() for _ in range(min(3, self._rounds))), key=lambda one: one.totals.elapsed)
        entry: dict[str, Any] = {"work": task.title, "protocol": protocol, **system.cost(profile)}
        for name, (latency, bandwidth) in NETWORKS.items():
            entry[name] = profile.estimate(latency_seconds=latency, bandwidth_bytes_per_s=bandwidth)._asdict()
        entry["error"] = checked(task, system)
        self.results.setdefault("networks", []).append(entry)
        print(f"{task.title}, {protocol}: {entry['rounds']} rounds, {entry['party_bytes']:,} B", flush=True)


def network(work: str, layers: tuple[Layer, ...], batch: int) -> Task:
    """A task with a network."""
    return Task(f"{work} {batch} {layers}", "", work, ((batch, 1, 28, 28),), 2.0**-6, layers)


def series(work: str) -> str:
    """What a line of a plot is called."""
    return {"inference": "inference", "training": "training step"}[work]


def checked(task: Task, system: ShareTorch) -> float:
    """The error of the last result."""
    found = error(task, inputs(task), *system.result())
    assert found <= task.bound, (task, found)
    return found


def main() -> None:
    """Read the command line, measure, write the results."""
    parser = argparse.ArgumentParser(description="Measure how time and bytes grow.")
    parser.add_argument("--only", nargs="+", choices=("batch", "width", "parties", "networks"), help="these parts only")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each is measured (default: 7)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see whether the benchmark runs at all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    args = parser.parse_args()
    begin = time.monotonic()
    results: dict[str, Any] = {"kind": "scaling", "small": args.quick, "seed": SEED, **machine.provenance()}
    results["threads"] = {"torch": torch.get_num_threads(), "kernels": kernels.thread_count()}
    bench = Bench(args.rounds or (1 if args.quick else 7), args.quick)
    parts: dict[str, Callable[[], None]] = {
        "batch": bench.batch,
        "width": bench.width,
        "parties": bench.parties,
        "networks": bench.networks,
    }
    for part in args.only or parts:
        parts[part]()
    results |= bench.results
    print(f"{time.monotonic() - begin:.0f} s")
    if args.json:
        machine.write(args.json, results)


if __name__ == "__main__":
    main()
