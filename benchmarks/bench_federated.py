"""Federated learning: accuracy beside centralised training, under attack, over websockets; time of hidden sums.

python benchmarks/bench_federated.py --data-dir DIR --json benchmarks/results/federated-latest.json
    --only PART ...   these parts only, the others stay as they are in the file (default: all):
                      central     the tutorials' network in rounds, and trained centrally on the same schedule
                      byzantine   rules under attack: 20 clients, 6 of them Byzantine, 20 rounds
                      labels      three workers with digits of their own, asynchronous over websockets, 40 rounds
                      hidden      a round with 20 clients whose updates nobody sees: mean, and median
    --seed N          of everything that is drawn (default: 0)
    --quick           few items and rounds, to see whether the benchmark runs at all
    --table FILE      write docs/benchmarks_federated.md from the results

Every part runs the code that users run. One thread computes, and clients train one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import federated_table
import machine
import numpy as np
import torch
from torch.nn import functional as F

import sharetorch as st
from sharetorch import fl
from sharetorch.datasets import Dataset, load
from sharetorch.fl.aggregation import Aggregation, Limits
from sharetorch.fl.aggregation.aggregation import CLIENT
from sharetorch.fl.rounds import accuracy_on
from sharetorch.fl.rounds.attacks import ATTACKS
from sharetorch.fl.rounds.simulation import Items, Trial, model_for, simulated
from sharetorch.mpc.network import certificates

MEAN, DEVIATION = 0.1307, 0.3081
"""Of the pixels of MNIST, by which the tutorials shift and scale."""
SCHEDULE: dict[str, Any] = {"rounds": 5, "local_epochs": 1, "batch_size": 16, "lr": 0.1, "parallel": 1}
SPLITS = {
    "centralised": (1, "iid"),
    "2 clients, IID": (2, "iid"),
    "10 clients, IID": (10, "iid"),
    "2 clients, Dirichlet 0.3": (2, "dirichlet:0.3"),
    "10 clients, Dirichlet 0.3": (10, "dirichlet:0.3"),
}
ATTACKED: dict[str, Any] = {
    "rounds": 20, "clients": 20, "local_epochs": 2, "batch_size": 200, "lr": 0.05, "model": "mlp", "parallel": 1,
}  # fmt: skip
RULES = {
    "mean": 0, "median": 0, "trimmed-mean": 0, "krum": 0, "multi-krum": 0, "median, hidden": 2, "krum, hidden": 2,
}  # fmt: skip
"""Among how many aggregators updates are split; 0 for plain ones."""
GROUPS = {"alice": [0, 1, 2, 3], "bob": [4, 5, 6], "charlie": [7, 8, 9]}
LABELS_RATE, LABELS_DECAY = 0.1, 0.98
"""Of the tutorial: the learning rate, and by what it is multiplied after each round."""
REPEATS = {"mean": 11, "median": 3}
SIZES = (10**5, 10**6)


def main() -> None:
    """Measure what the options say."""
    args = options()
    torch.set_num_threads(1)
    results = json.loads(args.json.read_text()) if args.json.exists() else {}
    results["machine"] = machine.provenance()
    for part in args.only:
        start = time.perf_counter()
        results[part] = PARTS[part](args)
        results[part] |= {"seed": args.seed, "seconds": round(time.perf_counter() - start, 1), "quick": args.quick}
        machine.write(args.json, results)
    if args.table is not None:
        args.table.write_text(federated_table.page(results), encoding="utf-8")


def options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--json", type=Path, required=True)
    add("--data-dir", type=Path)
    add("--only", nargs="*", choices=tuple(PARTS), default=tuple(PARTS))
    add("--seed", type=int, default=0)
    add("--quick", action="store_true")
    add("--table", type=Path)
    return parser.parse_args()


def items(args: argparse.Namespace) -> Items:
    """MNIST, shifted and scaled as in the tutorials."""
    data: Dataset = load("mnist", args.data_dir)
    count, tests = (2000, 500) if args.quick else (len(data.train_labels), len(data.test_labels))
    images = [(x - MEAN) / DEVIATION for x in (data.train_images[:count], data.test_images[:tests])]
    return Items(images[0], data.train_labels[:count], images[1], data.test_labels[:tests])


def accuracies(trial: Trial, given: Items) -> list[float]:
    """Of the global model after each round."""
    reports = simulated(trial, given).fit()
    return [report.metrics["accuracy"] for report in reports]


def central(args: argparse.Namespace) -> dict[str, Any]:
    """The same items, learning rate and batch size, with one client and with several."""
    given = items(args)
    found = {}
    for name, (clients, partition) in SPLITS.items():
        trial = Trial(clients=clients, partition=partition, seed=args.seed, **SCHEDULE)
        found[name] = accuracies(trial, given)
        print(f"{name:<28} {' '.join(f'{100 * x:.2f}' for x in found[name])}", flush=True)
    return {"schedule": SCHEDULE, "accuracy": found}


def byzantine(args: argparse.Namespace) -> dict[str, Any]:
    """Every rule without attackers and under each attack; attacks as ``sharetorch fl simulate`` has them."""
    given = items(args)
    settings = ATTACKED | ({"rounds": 2} if args.quick else {})
    found: dict[str, dict[str, float]] = {}
    for rule, aggregators in RULES.items():
        found[rule] = {}
        name = rule.partition(",")[0]
        for attack in (None, *ATTACKS):
            bad = {} if attack is None else {"byzantine": 0.3, "attack": attack}
            trial = Trial(rule=name, aggregators=aggregators, seed=args.seed, **settings, **bad)
            found[rule][attack or "none"] = accuracies(trial, given)[-1]
        print(f"{rule:<14} {' '.join(f'{name} {100 * x:.2f}' for name, x in found[rule].items())}", flush=True)
    return {"settings": settings, "byzantine": 6, "strength": Trial().strength, "accuracy": found}


# ------------------------------------------------------------------------------------------------------ over websockets

_PROGRAM = """
import sys
from pathlib import Path
import torch
from sharetorch import fl
from sharetorch.datasets import load
from sharetorch.remote.network.tutorial_workers import WebsocketServerWorker

torch.set_num_threads(1)
id, keys, labels, folder = sys.argv[1], sys.argv[2], [int(label) for label in sys.argv[3]], sys.argv[4]
data = load("mnist", Path(folder) if folder else None)
mine = torch.isin(data.train_labels, torch.tensor(labels))
images = (data.train_images[mine] - 0.1307) / 0.3081
worker = WebsocketServerWorker(id=id, port=0, tls=keys, private=False)
worker.add_dataset(fl.BaseDataset(images, data.train_labels[mine]), key="mnist")
print(worker.address[1], flush=True)
worker.start()
"""


def labels(args: argparse.Namespace) -> dict[str, Any]:
    """As in the tutorial: each worker trains some batches on digits nobody else has, and models are averaged."""
    given = items(args)
    rounds = 3 if args.quick else 40
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder)
        certificates.make_authority(keys)
        for id in (*GROUPS, "me"):
            certificates.issue(keys, id, ["127.0.0.1"])
        processes = {id: _worker(id, keys, group, args.data_dir) for id, group in GROUPS.items()}
        try:
            ports = {id: _port(process) for id, process in processes.items()}
            workers = [st.connect(f"wss://127.0.0.1:{port}", id=id, tls=keys) for id, port in ports.items()]
            return asyncio.run(_average(workers, given, rounds, args.seed))
        finally:
            for process in processes.values():
                process.kill()
                process.wait(10)


def _worker(id: str, keys: Path, group: list[int], data: Path | None) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", "-c", _PROGRAM, id, str(keys), "".join(map(str, group)), str(data or "")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


async def _average(workers: list[Any], given: Items, rounds: int, seed: int) -> dict[str, Any]:
    model, rate = model_for(given, seed), LABELS_RATE
    evaluate = accuracy_on(given.test, given.test_labels)
    settings: dict[str, Any] = {"batch_size": 32, "max_nr_batches": 10}

    async def trained(worker: Any) -> Any:
        config = fl.TrainConfig(model, F.cross_entropy, optimizer_args={"lr": rate}, **settings)
        config.send(worker)
        await fl.async_fit(worker, dataset_key="mnist")
        assert config.model_ptr is not None
        return config.model_ptr.get().obj

    found = []
    for _ in range(rounds):
        models = await asyncio.gather(*(trained(worker) for worker in workers))
        model = fl.federated_avg(dict(enumerate(models)))
        found.append(evaluate(model)["accuracy"])
        rate *= LABELS_DECAY
    print(f"labels: after {rounds} rounds {100 * found[-1]:.2f}", flush=True)
    with torch.no_grad():
        right = model(given.test).argmax(1) == given.test_labels
    each = [float(right[given.test_labels == digit].float().mean()) for digit in range(10)]
    settings |= {"lr": LABELS_RATE, "decay": LABELS_DECAY}
    return {"settings": settings, "accuracy": found, "each digit": each}


# ------------------------------------------------------------------------------------------------------- hidden updates


def hidden(args: argparse.Namespace) -> dict[str, Any]:
    """Mean and median of 20 updates among two aggregators and a provider, all in this process."""
    sizes = (100, 1000) if args.quick else SIZES
    rows = [_measure("mean", size, args.seed, REPEATS["mean"]) for size in sizes]
    rows.append(_measure("median", sizes[0], args.seed, REPEATS["median"]))
    for row in rows:
        medians = {name: statistics.median(row[name]) for name in ("split", "taking", "opening", "numpy")}
        print(row["rule"], row["size"], {name: round(1000 * value, 1) for name, value in medians.items()}, "ms of CPU")
    return {"clients": 20, "aggregators": 2, "repeats": REPEATS, "rows": rows}


class Measured(NamedTuple):
    """One round.

    Attributes:
        made: closed.
        split: CPU seconds of a client for its upload, the median.
        taking: CPU seconds of the aggregators for all uploads and the agreement.
        sent: bytes of an upload.
    """

    made: Aggregation
    split: float
    taking: float
    sent: int


def _round(rule: str, drawn: torch.Tensor) -> Measured:
    """A round with all uploads delivered and the set agreed."""
    alice, bob, cp = (st.VirtualWorker(id=f"bench {name}") for name in ("alice", "bob", "provider"))
    limits = Limits(8.0, len(drawn))
    made = Aggregation.among(alice, bob, crypto_provider=cp, dimension=drawn.shape[1], limits=limits, rule=rule)
    splits, taking = [], 0.0
    for update in drawn:
        start = time.process_time()
        pieces = made.terms.split(update)
        between = time.process_time()
        for piece in pieces:
            made.receive(piece)
        splits.append(between - start)
        taking += time.process_time() - between
    taking += _seconds(made.close)
    sent = sum(size for (sender, _), size in made.traffic.online.items() if sender == CLIENT) // len(drawn)
    return Measured(made, statistics.median(splits), taking, sent)


def _updates(size: int, seed: int) -> torch.Tensor:
    drawn = np.random.default_rng(seed).normal(size=(20, size)).clip(-8, 8)
    return torch.from_numpy(np.round(drawn * 2**16) / 2**16)


def _measure(rule: str, size: int, seed: int, repeats: int) -> dict[str, Any]:
    """Rounds on shares and the same in numpy, in turn; results must be equal."""
    drawn = _updates(size, seed)
    plain = drawn.numpy()
    reference = {"mean": lambda: plain.mean(0), "median": lambda: np.median(plain, axis=0)}[rule]
    exact = (drawn * 2**16).long().sum(0).double().numpy() / (20 * 2**16) if rule == "mean" else reference()
    row: dict[str, Any] = {"rule": rule, "size": size, "split": [], "taking": [], "opening": [], "numpy": []}
    for _ in range(repeats):
        measured = _round(rule, drawn)
        start = time.process_time()
        found = measured.made.open()
        row["opening"].append(time.process_time() - start)
        row["numpy"].append(_seconds(reference))
        row["split"].append(measured.split)
        row["taking"].append(measured.taking)
        if not np.array_equal(found.numpy(), exact):
            raise RuntimeError(f"The {rule} is not exact.")
        if measured.sent != 8 * size + 32:
            raise RuntimeError(f"{measured.sent} bytes of an upload, where {8 * size + 32} are declared.")
    cost = measured.made.cost(opened=True)
    return row | {"upload_bytes": measured.sent, "rounds": cost.rounds, "party_bytes": cost.party_bytes,
                  "dealer_bytes": cost.dealer_bytes}  # fmt: skip


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "central": central, "byzantine": byzantine, "labels": labels, "hidden": hidden,
}  # fmt: skip

if __name__ == "__main__":
    main()
