"""A training step with parties of one process and of two, started by ``torchrun``; batches are spread over them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sharetorch as st
from sharetorch.mpc.network import certificates
from sharetorch.remote.sessions.lanes import DataParallel
from sharetorch.remote.worker import known_workers

BATCH = 128
MEMBERS = ("alice", "bob", "provider")
BOUND = 2.0**-6
"""Of a loss of several units, after dozens of steps."""


def free_ports(count: int) -> int:
    """The first of some free ports in a row."""
    while True:
        with ExitStack() as stack:
            try:
                first = stack.enter_context(socket.socket())
                first.bind(("127.0.0.1", 0))
                start: int = first.getsockname()[1]
                for port in range(start + 1, start + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except (OSError, OverflowError):
                continue
            return start


@contextmanager
def group(keys: Path, count: int) -> Iterator[list[Any]]:
    """Two parties and a provider of so many processes each, one thread for each process."""
    ports = {id: free_ports(count) for id in MEMBERS}
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    peers = [word for id, port in ports.items() for word in ("--peer", f"{id}=127.0.0.1:{port}")]
    processes, stack = [], ExitStack()
    for id, port in ports.items():
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port"]
        command += [str(free_ports(1)), "-m", "sharetorch", "worker", "--id", id, "--listen", f"127.0.0.1:{port}"]
        command += ["--keys", str(keys), "--threads", "1", "--log-level", "error", "--stop-with-input", *peers]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment))
    try:
        for id, process in zip(ports, processes, strict=True):
            assert process.stdout is not None
            ready = 0
            while ready < count:
                line = process.stdout.readline()
                assert line, f"{id} did not start"
                ready += line.count("is ready")
        workers = [st.connect(f"wss://127.0.0.1:{port}", id=id, tls=keys) for id, port in ports.items()]
        stack.callback(lambda: [worker.remove_worker_from_local_worker_registry() for worker in workers])
        stack.callback(lambda: [worker.close() for worker in workers])
        yield workers
    finally:
        stack.close()
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
        for process in processes:
            process.wait(60)
            assert process.stdout is not None
            process.stdout.close()


def steps(place: Callable[[Any], Any], batch: int) -> Iterator[Tensor]:
    """Train without end on one batch, where ``place`` puts data and model."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    inputs, targets = torch.rand(batch, 784), torch.rand(batch, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.002, momentum=0.9)
    model, inputs, targets = place(model), place(inputs), place(targets)
    network = DataParallel(model)
    while True:
        optimizer.zero_grad()
        loss = ((network(inputs) - targets) ** 2).sum() * (2 / batch)
        loss.backward()
        optimizer.step()
        yield loss.detach()


def finished(loss: Any) -> Any:
    """Wait until the step is done, weights included."""
    loss.session.sync()
    return loss


@pytest.mark.parametrize("count", [1, 2])
def test_training_step_over_lanes(bench: Any, count: int, tmp_path: Path) -> None:
    for worker in [worker for name, worker in known_workers().items() if name in MEMBERS]:
        worker.remove_worker_from_local_worker_registry()  # their names are needed for the processes
    certificates.make_authority(tmp_path)
    for id in (*MEMBERS, "me"):
        certificates.issue(tmp_path, id, ["localhost", "127.0.0.1"])
    batch = bench.size(BATCH)
    with group(tmp_path, count) as (alice, bob, provider):
        shared = steps(lambda x: x.share(alice, bob, crypto_provider=provider), batch)
        plain, right = steps(lambda x: x, batch), steps(lambda x: x, batch)
        bench(
            f"MLP (128, 64): training step, batch {batch}, {count} process(es) a party, TLS",
            lambda: finished(next(shared)),
            lambda: next(plain),
            expected=lambda number: next(right),
            bound=BOUND,
        )
