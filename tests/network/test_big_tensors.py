"""Tensors of 1 GiB: sent, fetched, shared and opened with bounded memory, or refused where limits are smaller.

The peak of every process is read from ``/proc``, above what it held before: the tensor itself is not counted where it
was there already.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import pytest
import torch

from sharetorch.mpc.errors import LimitExceededError
from tests.network.tools import WorkerProcess, start_group

MEMBERS = ("alice", "bob", "crypto_provider")
GIB = 1 << 30
NEEDED = 15 * GIB
"""Memory of all processes together, and some to spare."""

R = TypeVar("R")


def field(path: str, name: str) -> int:
    """A number of bytes that the kernel tells."""
    (line,) = [line for line in Path(path).read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) << 10


needs_memory = pytest.mark.skipif(
    not Path("/proc/meminfo").exists() or field("/proc/meminfo", "MemAvailable") < NEEDED,
    reason=f"needs {NEEDED // GIB} GiB of free memory, and a kernel that tells",
)


@pytest.fixture(scope="module")
def group(keys: Path) -> Iterator[dict[str, WorkerProcess]]:
    made = start_group(MEMBERS, keys, sessions=True)
    yield made
    for worker in made.values():
        worker.stop()


@pytest.fixture
def workers(group: dict[str, WorkerProcess], names: None) -> Iterator[list[Any]]:
    made = [worker.connect() for worker in group.values()]
    torch.ones(2).send(made[0]).get()  # what is loaded once is loaded
    torch.ones(2).share(*made[:2], crypto_provider=made[2]).get()
    yield made
    for worker in made:
        worker.clear_objects()
        worker.close()


class Peaks:
    """Measures how far the memory of each process rises.

    Args:
        group: worker processes; the driver is this one.
        unit: the size in which results are told.
    """

    def __init__(self, group: dict[str, WorkerProcess], unit: int) -> None:
        self._ids = {"driver": os.getpid()} | {id: worker.process.pid for id, worker in group.items()}
        self._unit = unit

    def during(self, what: str, act: Callable[[], R]) -> tuple[R, dict[str, float]]:
        """What an action gives, and the peaks meanwhile, above what was there before."""
        gc.collect()
        before = {}
        for name, pid in self._ids.items():
            before[name] = field(f"/proc/{pid}/status", "VmRSS")
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # forgets the peak so far
        start = perf_counter()
        result = act()
        seconds = perf_counter() - start
        found = {
            name: round((field(f"/proc/{pid}/status", "VmHWM") - before[name]) / self._unit, 2)
            for name, pid in self._ids.items()
        }
        print(f"{what}: {seconds:.1f} s, {found}")
        return result, found


@needs_memory
@pytest.mark.big
@pytest.mark.timeout(180)
def test_a_large_tensor_is_sent_and_fetched(workers: list[Any], group: dict[str, WorkerProcess]) -> None:
    x = torch.arange(GIB // 8)
    peaks = Peaks(group, GIB)
    pointer, sent = peaks.during("send", lambda: x.send(workers[0]))
    assert sent["driver"] <= 2.3  # as bytes, twice while they are put together
    assert sent["alice"] <= 2.5  # the bytes, and the tensor made of them
    back, got = peaks.during("get", lambda: pointer.get())
    assert torch.equal(back, x)
    assert got["driver"] <= 2.3  # likewise
    assert got["alice"] <= 2.3
    assert workers[0].objects_count_remote() == 0


@needs_memory
@pytest.mark.big
@pytest.mark.timeout(180)
def test_a_large_tensor_is_shared_and_opened(workers: list[Any], group: dict[str, WorkerProcess]) -> None:
    x = torch.arange(GIB // 8)
    peaks = Peaks(group, GIB)

    def share() -> Any:
        shared = x.share(*workers[:2], crypto_provider=workers[2])
        shared.session.sync()
        return shared

    shared, sent = peaks.during("share", share)
    assert sent["driver"] <= 1  # parts that wait to be sent, 256 MiB for each party at most
    assert max(sent["alice"], sent["bob"]) <= 2  # the share, and parts that wait
    assert sent["crypto_provider"] <= 0.1
    back, got = peaks.during("open", shared.get)
    assert torch.equal(back, x)
    assert got["driver"] <= 3.3  # the tensor, and two more
    assert max(got["alice"], got["bob"]) <= 3.5  # a fresh share, and its bytes


def test_what_is_larger_than_a_worker_takes_is_refused(keys: Path, names: None) -> None:
    each = {"limits": {"object_bytes": 1 << 20}, "settings": {"max_message_bytes": 1 << 22}}
    group = start_group(MEMBERS, keys, sessions=True, **each)
    try:
        workers = [worker.connect() for worker in group.values()]
        x = torch.zeros(1 << 18)  # 1 MiB as it is, 2 MiB in shares
        assert torch.equal(x.send(workers[0]).get(), x)
        with pytest.raises(LimitExceededError, match="one object at alice may have 1048576"):
            x.double().send(workers[0])
        with pytest.raises(LimitExceededError, match="alice takes 4194304"):
            torch.zeros(1 << 20).send(workers[0])
        with pytest.raises(LimitExceededError, match=r"A share of 262144 elements; .* takes 1048576 bytes"):
            x.share(*workers[:2], crypto_provider=workers[2]).session.sync()
        small = torch.ones(1 << 10).share(*workers[:2], crypto_provider=workers[2])
        assert small.sum().get().item() == 1 << 10
        for worker in workers:
            worker.close()
    finally:
        for process in group.values():
            process.stop()
