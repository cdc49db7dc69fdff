"""The tasks on ShareTorch: python -m peers.sharetorch_work here|processes [--threads N]; see ``dialogue``.

"here" has all members in this process, with N threads for all of them together. "processes" has two parties and a
provider as processes of their own with one thread each, connected by TLS 1.3, as ``sharetorch up`` starts them.

Operands are shared anew before each run, so that nothing that was opened of them before makes it cheaper. Models stay
shared from run to run, as those of a service do.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import sharetorch as st
from peers.dialogue import serve, take_output
from peers.networks import OPERATIONS, network, parameters, step
from peers.tasks import Arrays, Task
from sharetorch.mpc import kernels
from sharetorch.mpc.protocols.suite import DEFAULT_SUITE, SUITES

START_SECONDS = 60


class ShareTorch:
    """Two parties and a provider.

    Args:
        parties: who holds shares.
        provider: who deals.
    """

    def __init__(self, parties: tuple[Any, ...], provider: Any) -> None:
        self._parties, self._provider = parties, provider
        self._shared: Iterator[tuple[Any, ...]] = iter(())
        self._work: Callable[..., Any]
        self._result: Any = None
        self._steps = 0

    def prepare(self, task: Task, inputs: Arrays, protocol: str | None) -> None:
        """Share the model, if there is one."""
        tensors = {name: torch.from_numpy(values).float() for name, values in inputs.items()}
        self._result, self._steps = None, 0

        def share(value: Any) -> Any:
            return value.share(*self._parties, crypto_provider=self._provider, protocol=protocol)

        used = share(torch.ones(1)).session.suite.name
        if protocol not in (None, used):
            raise ValueError(f"protocol={protocol!r} is {used!r} here")
        operands = [tensors[name] for name in "xy" if name in tensors]
        self._shared = (tuple(map(share, operands)) for _ in iter(int, 1))
        if task.layers:
            model = share(network(task.layers, tensors))
            self._work = inference(model) if task.work == "inference" else training(model, task.batch)
        else:
            self._work = lambda x, y=None: OPERATIONS[task.work](x, y)

    def run(self) -> float:
        """Once, on fresh shares."""
        shared = self._share()
        start = time.perf_counter()
        self._do(shared)
        return time.perf_counter() - start

    def _share(self) -> tuple[Any, ...]:
        shared = next(self._shared)
        shared[0].session.sync()
        return shared

    def _do(self, shared: tuple[Any, ...]) -> None:
        self._result = None
        self._result = self._work(*shared)
        shared[0].session.sync()
        self._steps += 1

    def result(self) -> tuple[Arrays, int]:
        """Tensors, or the weights of a trained model."""
        found = parameters(self._result) if isinstance(self._result, torch.nn.Module) else {"result": self._result}
        return {name: value.detach().get().double().numpy() for name, value in found.items()}, self._steps

    def profiled(self) -> st.Profile:
        """The profile of one run, after the first: what is opened of a model once is left out."""
        if not self._steps:
            self.run()
        shared = self._share()
        with st.profile() as profile:
            self._do(shared)
        return profile

    def cost(self, profile: st.Profile | None = None) -> dict[str, int]:
        """Online rounds and bytes of the party that sends most; all bytes of the provider."""
        profile = profile or self.profiled()
        sent = profile.bytes_sent
        return {
            "party_bytes": max(sent.get(party.id, 0) for party in self._parties),
            "provider_bytes": profile.provider_bytes + sent.get(self._provider.id, 0),
            "rounds": profile.rounds,
        }


def inference(model: Any) -> Callable[[Any], Any]:
    """The model without gradients."""

    def run(x: Any) -> Any:
        with torch.no_grad():
            return model(x)

    return run


def training(model: Any, batch: int) -> Callable[[Any, Any], Any]:
    """A step; gives the model."""
    train = step(model, batch)

    def run(x: Any, y: Any) -> Any:
        train(x, y)
        return model

    return run


@contextlib.contextmanager
def workers() -> Iterator[ShareTorch]:
    """Three worker processes, connected."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "sharetorch", "up", "--parties", "2", "--demo", "--public"]
        process = subprocess.Popen(
            [*command, "--threads", "1", "--folder", folder], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            group, end = Path(folder, "group.toml"), time.monotonic() + START_SECONDS
            while not group.exists():
                if process.poll() is not None or time.monotonic() > end:
                    raise OSError("the workers did not start")
                time.sleep(0.1)
            parties, provider = st.load_group(group).connect()
            yield ShareTorch(tuple(parties), provider)
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="Do tasks on ShareTorch.")
    parser.add_argument("members", choices=("here", "processes"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    args = parser.parse_args()
    answers = take_output()
    about = {
        "version": st.__version__,
        "default": DEFAULT_SUITE,
        "protocols": sorted(SUITES),
        "parties": "2 and a provider",
        "fraction_bits": 16,
        "truncation": "probabilistic, without wrap error",
    }
    if args.members == "here":
        torch.set_num_threads(args.threads)
        kernels.set_thread_count(args.threads)
        alice, bob, provider = (st.VirtualWorker(id=name) for name in ("alice", "bob", "provider"))
        about |= {"processes": 1, "threads": f"{args.threads} in all", "transport": "none"}
        serve(ShareTorch((alice, bob), provider), about, answers)
    else:
        about |= {"processes": 3, "threads": "1 each", "transport": "TLS 1.3"}
        with workers() as work:
            serve(work, about, answers)


if __name__ == "__main__":
    main()
