"""Work over worker processes with TLS beside the same work without a network, measured in turn; results are compared.

python benchmarks/bench_network.py --json benchmarks/results/network-latest.json
    --only PART ...   training, inference, remote, opening or encryption (default: all)
    --rounds N        how often each is measured (default: 9)
    --epoch           a whole epoch of MNIST both ways, too
    --data-dir FOLDER where the files of MNIST are (default: as for the examples)
    --small           few rounds, to see whether the benchmark runs at all

The workers are those of ``sharetorch up``: two parties and a provider, each a process of its own with one thread. The
run in this process uses as many threads as torch takes by itself, and is measured with one thread too.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import bench_transports
import machine
import torch
from bench_models import LOSS_BOUND, MLP
from bench_remote import BATCH, planned, steps
from peers import crypten_setup
from torch import Tensor

import sharetorch as st
from sharetorch.datasets import load
from sharetorch.mpc import kernels

SEED = 20
BURST = 5
"""Training steps between two moments at which the loss is opened."""
WARM_UP = 3
INFERENCE_BOUND = 2**-10
EPOCH_BATCH = 128
WINDOW = 50
"""Steps over which the losses of an epoch are averaged."""

PARTS = ("training", "inference", "remote", "opening", "encryption")


class Members(NamedTuple):
    """Who holds shares, and who deals."""

    parties: tuple[Any, ...]
    provider: Any

    def share(self, value: Any) -> Any:
        """Share a tensor or a model."""
        return value.share(*self.parties, crypto_provider=self.provider)


@contextlib.contextmanager
def workers() -> Iterator[Members]:
    """Three worker processes, connected."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "sharetorch", "up", "--parties", "2", "--demo", "--public"]
        process = subprocess.Popen([*command, "--folder", folder], stdout=subprocess.DEVNULL)
        try:
            group = Path(folder, "group.toml")
            while not group.exists():
                assert process.poll() is None, "the workers did not start; see above"
                time.sleep(0.1)
            parties, provider = st.load_group(group).connect()
            yield Members(tuple(parties), provider)
        finally:
            process.terminate()
            process.wait(60)


def here() -> Members:
    """Members of this process."""
    alice, bob, provider = (st.VirtualWorker(id=f"{name} here") for name in ("alice", "bob", "provider"))
    return Members((alice, bob), provider)


class Bench:
    """Measures and writes down.

    Attributes:
        results: what was measured.
    """

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.results: list[dict[str, Any]] = []

    def __call__(self, work: str, cases: dict[str, Callable[[], Any]], calls: int = 1) -> None:
        """Measure the cases in turn; the ratios are those of the first to each other.

        Args:
            work: what the table calls it.
            cases: by name, each doing the work so many times.
            calls: how often a case does the work.
        """
        times: dict[str, list[float]] = {name: [] for name in cases}
        before = machine.load()
        for number in range(self.rounds):
            for name, run in list(cases.items())[:: 1 if number % 2 else -1]:
                start = time.perf_counter()
                run()
                times[name].append((time.perf_counter() - start) / calls)
        self.note(work, times, before)

    def note(self, work: str, times: dict[str, list[float]], before: float) -> None:
        """Write down the times of some work."""
        first, *others = ((name, statistics.median(found)) for name, found in times.items())
        entry = {
            "work": work,
            "load": [before, machine.load()],
            "times": {name: summary(found) for name, found in times.items()},
            "ratios": {name: first[1] / middle for name, middle in others},
        }
        self.results.append(entry)
        shown = ", ".join(f"{name} {1e3 * statistics.median(found):.3g} ms" for name, found in times.items())
        ratios = ", ".join(f"{ratio:.2f}x" for ratio in entry["ratios"].values())
        print(f"{work}: {shown} ({ratios or 'alone'}; load {before} to {entry['load'][1]})", flush=True)


def summary(times: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"median": middle, "q1": low, "q3": high, "count": len(times)}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread inside."""
    before, kernels_before = torch.get_num_threads(), kernels.thread_count()
    torch.set_num_threads(1)
    kernels.set_thread_count(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        kernels.set_thread_count(kernels_before)


def in_one_thread(run: Callable[[], Any]) -> Callable[[], None]:
    """The same with one thread."""

    def inside() -> None:
        with one_thread():
            run()

    return inside


# --------------------------------------------------------------------------------------------------------- training


def mlp_steps(place: Callable[[Any], Any]) -> Iterator[Tensor]:
    """Train the MLP without end on one batch."""
    torch.manual_seed(SEED)
    model = MLP.make()
    inputs = torch.rand(MLP.batch, 1, 28, 28) * (torch.rand(MLP.batch, 1, 28, 28) < 0.2)
    targets = torch.eye(10)[torch.randint(0, 10, (MLP.batch,))]
    model, inputs, targets = place(model), place(inputs), place(targets)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    while True:
        optimizer.zero_grad()
        loss = ((model(inputs) - targets) ** 2).sum() * (2 / MLP.batch)
        loss.backward()
        optimizer.step()
        yield loss.detach()


class Training:
    """Bursts of training steps, whose losses are those of plain torch."""

    def __init__(self, members: Members) -> None:
        self._shared, self._plain = mlp_steps(members.share), mlp_steps(lambda value: value)
        self._found: list[tuple[Any, Tensor]] = []
        for _ in range(WARM_UP):
            self.burst()

    def burst(self) -> None:
        """Some steps; the loss of the last is opened."""
        for _ in range(BURST):
            loss = next(self._shared)
        self._found.append((loss.get(), next(itertools.islice(self._plain, BURST - 1, None))))

    def check(self) -> None:
        """Compare all losses."""
        for found, right in self._found:
            assert abs(found - right) < LOSS_BOUND, (found, right)


def training(bench: Bench, members: Members, args: argparse.Namespace) -> None:
    """A training step, over processes and in this one."""
    networked, virtual = Training(members), Training(here())
    cases = {
        "processes": networked.burst,
        "this process": virtual.burst,
        "this process, one thread": in_one_thread(virtual.burst),
    }
    bench(f"{MLP.name}: training step, batch {MLP.batch}", cases, BURST)
    for one in (networked, virtual):
        one.check()
    if args.epoch:
        epoch(bench, members, args.data_dir)


def epoch(bench: Bench, members: Members, folder: Path | None) -> None:
    """An epoch of MNIST both ways."""
    data = load("mnist", folder)
    order = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(SEED))
    batches = [rows for rows in order.split(EPOCH_BATCH) if len(rows) == EPOCH_BATCH]
    times: dict[str, list[float]] = {}
    curves: list[Tensor] = []
    before = machine.load()
    for name, where in {"processes": members, "this process": here()}.items():
        torch.manual_seed(SEED)
        model, images = where.share(MLP.make()), where.share(data.train_images)
        targets = where.share(torch.eye(10)[data.train_labels])
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        losses: list[Tensor] = []
        start = time.perf_counter()
        for rows in batches:
            optimizer.zero_grad()
            loss = ((model(images[rows]) - targets[rows]) ** 2).sum() * (2 / EPOCH_BATCH)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach().get())
        times[name] = [time.perf_counter() - start]
        curves.append(torch.stack([part.mean() for part in torch.stack(losses).split(WINDOW)]))
    difference = (curves[0] - curves[1]).abs().max().item()
    assert difference < LOSS_BOUND, difference
    bench.note(f"an epoch of MNIST, {len(batches)} steps, every loss opened", times, before)
    bench.results[-1]["loss_difference"] = difference
    print(f"largest difference of the losses, averaged over {WINDOW} steps: {difference:.2g}")


# -------------------------------------------------------------------------------------------------------- inference


class Inference:
    """The MLP on shares, on new images at each call."""

    def __init__(self, members: Members) -> None:
        torch.manual_seed(SEED)
        self._members, self._model = members, MLP.make().eval()
        self._shared = members.share(copy.deepcopy(self._model))
        self._batches: list[tuple[Tensor, Any]] = []
        self._found: list[tuple[Tensor, Any]] = []

    def prepare(self, count: int) -> None:
        """Share so many batches ahead."""
        for _ in range(count):
            batch = torch.randint(0, 1 << 16, (MLP.batch, 1, 28, 28)) / (1 << 16)
            self._batches.append((batch, self._members.share(batch)))

    def run(self) -> None:
        """One batch; the result stays shared, and is there."""
        batch, shared = self._batches.pop()
        with torch.no_grad():
            result = self._shared(shared)
        result.session.sync()
        self._found.append((batch, result))

    def check(self) -> None:
        """Compare all results."""
        with torch.no_grad():
            for batch, result in self._found:
                torch.testing.assert_close(result.get(), self._model(batch), rtol=0, atol=INFERENCE_BOUND)


class CrypTen:
    """Two parties of CrypTen, in processes of their own, without TLS; the second party deals for both."""

    def __init__(self, folder: Path) -> None:
        command = [str(crypten_setup.interpreter()), str(Path(__file__).parent / "peers" / "crypten_party.py")]
        sizes = MLP.name.split()[-1]
        self._parties = [
            subprocess.Popen(
                [*command, str(rank), str(folder / "rendezvous"), sizes, str(MLP.batch), str(SEED)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for rank in range(2)
        ]  # fmt: skip
        self._answers()
        self.difference = float(self.ask("check"))

    def ask(self, what: str) -> str:
        """Let both parties do something; returns what the first answers."""
        for party in self._parties:
            assert party.stdin is not None
            party.stdin.write(what + "\n")
            party.stdin.flush()
        return self._answers()

    def _answers(self) -> str:
        answers = [party.stdout.readline().strip() for party in self._parties if party.stdout is not None]
        if not all(answers):
            raise OSError("a party of CrypTen has ended")
        return answers[0]

    def close(self) -> None:
        """End both."""
        for party in self._parties:
            party.kill()
            party.communicate()


def inference(bench: Bench, members: Members, args: argparse.Namespace) -> None:
    """Inference over processes, in this one, and by CrypTen."""
    networked, virtual = Inference(members), Inference(here())
    for one in (networked, virtual):
        one.prepare(bench.rounds + WARM_UP)
        for _ in range(WARM_UP):
            one.run()
    cases = {"processes": networked.run, "this process": virtual.run}
    with tempfile.TemporaryDirectory() as folder:
        try:
            crypten = CrypTen(Path(folder))
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            print(f"CrypTen is left out: {error}")
            bench(f"{MLP.name}: inference, batch {MLP.batch}", cases)
        else:
            for _ in range(WARM_UP):
                crypten.ask("run")
            bench(f"{MLP.name}: inference, batch {MLP.batch}", cases | {"CrypTen": lambda: crypten.ask("run")})
            assert crypten.difference < INFERENCE_BOUND, crypten.difference
            crypten.close()
    for one in (networked, virtual):
        one.check()


# ------------------------------------------------------------------------------------------------- remote execution


def remote(bench: Bench, members: Members, args: argparse.Namespace) -> None:
    """Operations and training at one worker."""
    there, virtual = members.parties[0], st.VirtualWorker(id="bench bob here").clear_objects()
    vectors = [torch.ones(4).send(worker) for worker in (there, virtual)]
    calls = 100

    def add(x: Any) -> None:
        for _ in range(calls):
            y = x + x
        assert y.get().tolist() == [2] * 4

    cases = {"worker process": lambda: add(vectors[0]), "worker of this process": lambda: add(vectors[1])}
    bench("sum of two vectors of 4 at a worker", cases, calls)
    training: dict[str, Callable[[Any], Iterator[Tensor]]] = {
        "": lambda worker: steps(lambda value: value.send(worker), BATCH),
        " as a plan": lambda worker: planned(worker, BATCH),
    }
    for what, run in training.items():
        ways = {"worker process": run(there), "worker of this process": run(virtual)}
        ways["here, one thread" if torch.get_num_threads() == 1 else "here"] = steps(lambda value: value, BATCH)
        runs = {name: Steps(way) for name, way in ways.items()}
        bench(f"CNN (20, 50, 500): training step at a worker{what}, batch {BATCH}", dict(runs))
        losses = [run.losses for run in runs.values()]
        largest = max(abs(a - b) for other in losses[:2] for a, b in zip(other, losses[2], strict=True))
        assert largest < LOSS_BOUND, largest
        bench.results[-1]["loss_difference"] = largest


class Steps:
    """Training steps whose losses are fetched."""

    def __init__(self, way: Iterator[Any]) -> None:
        self._way = way
        self.losses: list[float] = []
        for _ in range(WARM_UP):
            self()

    def __call__(self) -> None:
        loss = next(self._way)
        self.losses.append(float(loss.get() if hasattr(loss, "location") else loss))


# ------------------------------------------------------------------------------------------------ opening, encryption


def opening(bench: Bench, members: Members, args: argparse.Namespace) -> None:
    """Opening a session: every member is connected to every other one, and all have agreed on secrets."""
    session = members.share(torch.ones(1)).session

    def open_and_close() -> None:
        fresh = type(session)(members.parties, members.provider, session.ring, session.suite)
        assert fresh.id != session.id
        fresh.close()

    bench("opening and closing a session of three", {"processes": open_and_close})


def encryption(bench: Bench, members: Members, args: argparse.Namespace) -> None:
    """What TLS costs: a stream between two processes."""
    names = ("TLS 1.3, one connection each way", "TCP")
    times: dict[str, dict[int, list[float]]] = {name: {1 << 20: [], 16 << 20: []} for name in names}
    before = machine.load()
    for _ in range(min(bench.rounds, 5)):
        for name in names:
            found = bench_transports.measure(name, args.small)
            for size, taken in times[name].items():
                taken += found["stream", size]
    for size in times["TCP"]:
        bench.note(f"stream of messages of {size >> 20} MiB", {name: times[name][size] for name in names}, before)
        bench.results[-1]["bytes"] = size


RUN = dict(zip(PARTS, (training, inference, remote, opening, encryption), strict=True))


def main() -> None:
    """Read the command line, measure, write the results."""
    parser = argparse.ArgumentParser(description="Measure work over worker processes with TLS.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts only")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="how often each is measured (default: 9)")
    parser.add_argument("--epoch", action="store_true", help="a whole epoch of MNIST both ways, too")
    parser.add_argument("--data-dir", type=Path, metavar="FOLDER", help="where the files of MNIST are")
    parser.add_argument("--small", action="store_true", help="few rounds, to see whether the benchmark runs at all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    args = parser.parse_args()
    bench = Bench(2 if args.small else args.rounds)
    results: dict[str, Any] = {"kind": "network", "small": args.small, "seed": SEED, **machine.provenance()}
    results["threads"] = {"torch": torch.get_num_threads(), "kernels": kernels.thread_count(), "workers": 1}
    with workers() as members:
        for part in args.only:
            RUN[part](bench, members, args)
    results["benchmarks"] = bench.results
    if args.json:
        machine.write(args.json, results)


if __name__ == "__main__":
    main()
