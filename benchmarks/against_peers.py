"""The same work on ShareTorch and its peers, measured in turn in one run; all results are compared with plain torch.

python benchmarks/against_peers.py --json benchmarks/results/peers-latest.json
    --only TASK ...   these tasks only (default: all): compare, relu, multiply, matmul, argmax, maxpool, conv, mlp,
                      mlp-step, lenet, lenet-step
    --without WAY ... leave out: protocols (ShareTorch's other ones for comparisons), tls, crypten, spu (default: none)
    --aby3            SPU with three parties and an honest majority, too: a weaker and cheaper setting
    --rounds N        how often each is measured (default: as often as fits in some seconds, 3 to 15 times)
    --no-install      use peers only where ``peers/install.py`` has put them before
    --quick           tiny sizes and two rounds, to see whether the benchmark runs at all

Every system is a process, or several, of its own and stays alive; a task is measured on one after the other, round
after round. Operands are shared before the clock starts, results stay shared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import machine
import numpy as np
import torch
from peers import install
from peers.dialogue import read
from peers.networks import error
from peers.tasks import SEED, Task, inputs, tasks

from sharetorch.mpc.protocols.suite import DEFAULT_SUITE, SUITES

FOLDER = Path(__file__).resolve().parent
SECONDS, FEWEST, MOST = 10.0, 3, 15
"""Seconds for the rounds of a task, and bounds of their number."""
ANSWER_SECONDS = 240
START_SECONDS = 120
MAIN, OTHERS = ("tables",), ("securenn", "fss")
"""Protocols that are measured beside the default: at all tasks with comparisons, and at comparisons alone."""
COMPARISONS = ("compare", "relu")
OPTIONAL = ("protocols", "tls", "crypten", "spu")


class Way(NamedTuple):
    """A way to do tasks.

    Attributes:
        name: what tables call it.
        system: what leaves it out.
        command: arguments of Python.
        peer: whose environment it runs in, if not this one.
        protocol: for ``prepare``.
        only: its tasks, all if empty.
        comparing: whether it does only tasks with comparisons.
    """

    name: str
    system: str
    command: tuple[str, ...]
    peer: install.Peer | None = None
    protocol: str | None = None
    only: tuple[str, ...] = ()
    comparing: bool = False

    def does(self, task: Task) -> bool:
        """Whether it takes part in a task."""
        return (not self.only or task.name in self.only) and (task.compares or not self.comparing)


class Failed(Exception):
    """A system did not do what was asked."""


class Running:
    """A way whose processes are alive.

    Attributes:
        about: its settings.
    """

    def __init__(self, way: Way, python: Path, log: Path) -> None:
        self.way, self._log = way, log
        path = os.pathsep.join(filter(None, (str(FOLDER), os.environ.get("PYTHONPATH"))))
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [str(python), "-P", "-m", *way.command],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                env=os.environ | {"PYTHONPATH": path}, start_new_session=True,
            )  # fmt: skip
        self._read = b""
        self.about = self._answer(START_SECONDS)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, what: str, **more: Any) -> dict[str, Any]:
        """Let it do something.

        Raises:
            Failed: it could not, and says so; or it does not answer, and is ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": what, **more}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as failure:
            raise Failed(f"ended: {self._last_words()}") from failure
        return self._answer(ANSWER_SECONDS)

    def _answer(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        end = time.monotonic() + seconds
        while b"\n" not in self._read:
            if not select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                self.close()
                raise Failed(f"no answer in {seconds:.0f} s")
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                self.close()
                raise Failed(f"ended: {self._last_words()}")
            self._read += part
        line, _, self._read = self._read.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer

    def _last_words(self) -> str:
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:300] if lines else "it said nothing"

    def close(self) -> None:
        """End its processes: by closing its input, by force if that does not help."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2 if not self._read else 0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def ways(threads: int, aby3: bool = False) -> list[Way]:
    """All ways: the default protocol of this version first."""
    here = ("peers.sharetorch_work", "here", "--threads", str(threads))
    found = [Way(f"ShareTorch {DEFAULT_SUITE}", "ShareTorch", here)]
    for name in (*MAIN, *OTHERS):
        if name in SUITES and name != DEFAULT_SUITE:
            only = () if name in MAIN else COMPARISONS
            found.append(Way(f"ShareTorch {name}", "protocols", here, None, name, only, comparing=True))
    best = next(name for name in (*MAIN, DEFAULT_SUITE) if name in SUITES)
    found += [
        Way(f"ShareTorch {best}, TLS", "tls", ("peers.sharetorch_work", "processes"), protocol=best),
        Way("CrypTen", "crypten", ("peers.crypten_work",), install.CRYPTEN),
        Way("SPU semi2k", "spu", ("peers.spu_work", "semi2k"), install.SPU),
    ]
    if aby3:
        found.append(Way("SPU aby3", "spu", ("peers.spu_work", "aby3"), install.SPU))
    return [*found, Way("plain torch", "torch", ("peers.torch_work", "--threads", str(threads)))]


class Bench:
    """Measures and writes down.

    Args:
        chosen: the ways.
        folder: for files that systems read and write.
        quick: whether operands are tiny.
        rounds: how often each is measured; as often as fits if None.
        may_install: whether peers are installed that are not there.

    Attributes:
        results: what was measured.
        about: settings of systems, by way.
        skipped: ways that were left out, and why.
    """

    def __init__(self, chosen: Sequence[Way], folder: Path, quick: bool, rounds: int | None, may_install: bool) -> None:
        self._folder, self._quick, self._rounds = folder, quick, rounds
        self._running: dict[str, Running] = {}
        self._pythons: dict[str, Path] = {}
        self.results: list[dict[str, Any]] = []
        self.about: dict[str, dict[str, Any]] = {}
        self.skipped: dict[str, str] = {}
        for way in chosen:
            try:
                peer = way.peer
                self._pythons[way.name] = install.interpreter(peer, may_install) if peer else Path(sys.executable)
            except install.NotInstalledError as missing:
                self.skipped[way.name] = str(missing)
                print(f"skipped: {missing}", flush=True)
        self._ways = [way for way in chosen if way.name in self._pythons]

    def _system(self, way: Way) -> Running:
        known = self._running.get(way.name)
        if known is None or not known.alive:
            known = self._running[way.name] = Running(way, self._pythons[way.name], self._folder / f"{way.name}.log")
            self.about[way.name] = known.about
        return known

    def close(self) -> None:
        """End all systems."""
        for system in self._running.values():
            system.close()

    def __call__(self, task: Task) -> None:
        """Measure a task on all systems that do it."""
        file = self._folder / f"{task.name}.npz"
        given = inputs(task)
        np.savez(file, **given)
        before = machine.load()
        found: dict[str, dict[str, Any]] = {}
        times: dict[str, list[float]] = {}
        for way in self._ways:
            if way.does(task):
                with self._noting(found, way):
                    system = self._system(way)
                    system.ask("prepare", task=task.name, quick=self._quick, inputs=str(file), protocol=way.protocol)
                    found[way.name] = system.ask("cost")
                    self._check(task, given, system, found[way.name])
                    times[way.name] = []
        self._measure(times, found)
        for way in self._ways:
            if way.name in times and times[way.name] and "failed" not in found[way.name]:
                with self._noting(found, way):
                    self._check(task, given, self._running[way.name], found[way.name])
                    found[way.name]["times"] = summary(times[way.name])
        self._note(task, found, [before, machine.load()])

    @contextlib.contextmanager
    def _noting(self, found: dict[str, dict[str, Any]], way: Way) -> Iterator[None]:
        """Write down what goes wrong."""
        try:
            yield
        except (Failed, OSError, ValueError) as failure:
            found[way.name] = {"failed": str(failure)}

    def _measure(self, times: dict[str, list[float]], found: dict[str, dict[str, Any]]) -> None:
        """One round of all, then more: forward and backward in turn."""
        number, rounds = 0, 1
        ways = {way.name: way for way in self._ways}
        while number < rounds:
            for name in list(times)[:: -1 if number % 2 else 1]:
                if "failed" not in found[name]:
                    with self._noting(found, ways[name]):
                        times[name].append(self._running[name].ask("run")["seconds"])
            number += 1
            if number == 1:
                once = sum(sum(taken) for taken in times.values())
                rounds = self._rounds or max(FEWEST, min(MOST, int(SECONDS / max(once, 1e-9))))

    def _check(self, task: Task, given: Mapping[str, Any], system: Running, entry: dict[str, Any]) -> None:
        """Compare the last result with the right one."""
        file = self._folder / "result.npz"
        file.unlink(missing_ok=True)
        steps = system.ask("result", file=str(file))["steps"]
        entry["error"] = max(entry.get("error", 0.0), error(task, dict(given), read(file), steps))
        entry["right"] = entry["error"] <= task.bound

    def _note(self, task: Task, found: dict[str, dict[str, Any]], load: list[float]) -> None:
        """Write down a task; ratios are to the first way."""
        base = next((entry["times"]["median"] for entry in found.values() if "times" in entry), None)
        for entry in found.values():
            if base and "times" in entry:
                entry["ratio"] = entry["times"]["median"] / base
        self.results.append({"task": task.name, "work": task.title, "bound": task.bound, "load": load, "ways": found})
        print(f"{task.title} (load {load[0]} to {load[1]})")
        for name, entry in found.items():
            if "failed" in entry:
                print(f"  {name}: failed: {entry['failed']}")
            else:
                wrong = "" if entry["right"] else "  WRONG"
                ratio = f"{1e3 * entry['times']['median']:9.3g} ms {entry['ratio']:7.2f}x"
                print(f"  {name:24}{ratio}  {entry['party_bytes'] / 1e6:9.4g} MB  error {entry['error']:.2g}{wrong}")
        sys.stdout.flush()


def summary(times: Sequence[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else list(times) * 3
    return {"median": middle, "q1": low, "q3": high, "count": len(times)}


def ours_are_right(results: Sequence[Mapping[str, Any]]) -> bool:
    """Whether ShareTorch did every task, and right."""
    entries = [(name, entry) for task in results for name, entry in task["ways"].items()]
    return all(entry.get("right", False) for name, entry in entries if name.startswith("ShareTorch"))


def main() -> None:
    """Read the command line, measure, write the results."""
    parser = argparse.ArgumentParser(description="Measure the same work on ShareTorch and its peers.")
    parser.add_argument("--only", nargs="+", choices=list(tasks()), default=list(tasks()), help="these tasks only")
    parser.add_argument("--without", nargs="+", choices=OPTIONAL, default=[], help="leave these out")
    parser.add_argument("--aby3", action="store_true", help="SPU with three parties and an honest majority, too")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each is measured")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of ShareTorch here")
    parser.add_argument("--no-install", action="store_true", help="use peers only where they are installed")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see whether the benchmark runs at all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    args = parser.parse_args()
    results: dict[str, Any] = {"kind": "peers", "small": args.quick, "seed": SEED, **machine.provenance()}
    chosen = [way for way in ways(args.threads, args.aby3) if way.system not in args.without]
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rounds = args.rounds or (2 if args.quick else None)
        bench = Bench(chosen, Path(folder), args.quick, rounds, not args.no_install)
        results |= {"systems": bench.about, "skipped": bench.skipped, "benchmarks": bench.results}
        try:
            for task in tasks(args.quick).values():
                if task.name in args.only:
                    bench(task)
                    if args.json:  # after every task: what was measured is kept if somebody stops it
                        machine.write(args.json, results)
        finally:
            bench.close()
    print(f"{time.monotonic() - begin:.0f} s")
    if not ours_are_right(bench.results):
        sys.exit("error: a result of ShareTorch is missing or wrong; see above")


if __name__ == "__main__":
    main()
