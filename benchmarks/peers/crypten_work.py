"""The tasks on CrypTen, in CrypTen's own environment: python -m peers.crypten_work; see ``dialogue``.

Two parties, each a process with one thread; this process is the first, and starts the second, which hears every line
that this one hears. One party deals for both, CrypTen's default. Messages go over loopback without encryption. Operands
are shared before each run, models once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peers.dialogue import serve, take_output
from peers.tasks import RATE, Arrays, Layer, Task

RANK = "RANK"


def join(rank: int, meeting: str) -> None:
    """Become a party."""
    os.environ |= {
        RANK: str(rank), "WORLD_SIZE": "2", "RENDEZVOUS": f"file://{meeting}", "DISTRIBUTED_BACKEND": "gloo",
        "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    }  # fmt: skip
    warnings.filterwarnings("ignore")
    import crypten
    import torch

    torch.set_num_threads(1)
    crypten.init()


class CrypTen:
    """One party's part of the work; both do the same at the same time."""

    def __init__(self) -> None:
        import crypten

        self._crypten = crypten
        self._group = crypten.communicator.get()
        self._operands: list[Any] = []
        self._work: Callable[..., Any]
        self._result: Any = None
        self._steps = 0

    def prepare(self, task: Task, inputs: Arrays, protocol: str | None) -> None:
        """Read the operands; share the model, if there is one."""
        import torch

        tensors = {name: torch.from_numpy(values).float() for name, values in inputs.items()}
        self._operands = [tensors[name] for name in "xy" if name in tensors]
        self._result, self._steps = None, 0
        if not task.layers:
            self._work = _OPERATIONS[task.work]
            return
        model = self._network(task.layers, tensors)
        model.encrypt(src=0)
        self._work = self._inference(model) if task.work == "inference" else self._training(model, task.batch)

    def _network(self, layers: tuple[Layer, ...], weights: Mapping[str, Any]) -> Any:
        nn = self._crypten.nn
        make = {"linear": nn.Linear, "conv": nn.Conv2d, "relu": nn.ReLU, "flatten": nn.Flatten}
        modules, number = [], 0
        for kind, *sizes in layers:
            modules.append(nn.MaxPool2d(sizes[0], stride=sizes[0]) if kind == "maxpool" else make[kind](*sizes))
            if kind in ("linear", "conv"):
                modules[-1].set_parameter("weight", weights[f"w{number}"])
                modules[-1].set_parameter("bias", weights[f"b{number}"])
                number += 1
        return nn.Sequential(*modules)

    def _inference(self, model: Any) -> Callable[[Any], Any]:
        model.eval()

        def run(x: Any) -> Any:
            with self._crypten.no_grad():
                return model(x)

        return run

    def _training(self, model: Any, batch: int) -> Callable[[Any, Any], Any]:
        model.train()
        optimizer = self._crypten.optim.SGD(model.parameters(), lr=RATE)

        def run(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            model.zero_grad()
            loss = (model(x) - y).square().sum() * (2 / batch)
            loss.backward()
            optimizer.step()
            return model

        return run

    def run(self) -> float:
        """Between two barriers."""
        shared = [self._crypten.cryptensor(operand, src=source) for source, operand in enumerate(self._operands)]
        self._result = None
        self._group.barrier()
        start = time.perf_counter()
        self._result = self._work(*shared)
        self._group.barrier()
        self._steps += 1
        return time.perf_counter() - start

    def result(self) -> tuple[Arrays, int]:
        """Decoded here: CrypTen's decoder is off by one for some negative numbers."""
        model = isinstance(self._result, self._crypten.nn.Module)
        found = dict(self._weights()) if model else {"result": self._result}
        opened = {name: (value.reveal().double() / value.encoder.scale).numpy() for name, value in found.items()}
        if not model and self._work is _OPERATIONS["argmax"]:
            opened = {"result": opened["result"].argmax(1).astype(float)}
        return opened, self._steps

    def _weights(self) -> Iterator[tuple[str, Any]]:
        trained = [module for module in self._result.modules() if hasattr(module, "weight")]
        for number, module in enumerate(trained):
            yield f"w{number}", module.weight
            yield f"b{number}", module.bias

    def cost(self) -> dict[str, int]:
        """CrypTen's own count; it has a collective call count as a round, and what is sent and received as sent."""
        communicator = self._crypten.config.cfg.communicator
        shared = [self._crypten.cryptensor(operand, src=source) for source, operand in enumerate(self._operands)]
        self._group.reset_communication_stats()
        communicator.verbose = True
        self._result = self._work(*shared)
        communicator.verbose = False
        self._steps += 1
        found = self._group.get_communication_stats()
        return {"party_bytes": found["bytes"] // 2, "provider_bytes": 0, "rounds": found["rounds"]}


_OPERATIONS: Mapping[str, Callable[..., Any]] = {
    "compare": lambda x, y: x > y,
    "relu": lambda x: x.relu(),
    "multiply": lambda x, y: x * y,
    "matmul": lambda x, y: x.matmul(y),
    "argmax": lambda x: x.argmax(1),
    "maxpool": lambda x: x.max_pool2d(2),
    "conv": lambda x, y: x.conv2d(y),
}


def passed_on(second: subprocess.Popen[str]) -> Iterator[str]:
    """Lines of standard input, for the second party too; files that it writes have names of their own."""
    assert second.stdin is not None
    for line in sys.stdin:
        asked = json.loads(line)
        if "file" in asked:
            asked["file"] += ".second.npz"
        second.stdin.write(json.dumps(asked) + "\n")
        second.stdin.flush()
        yield line
    second.stdin.close()


def main() -> None:
    """Be the first party, or the second."""
    answers = take_output()
    if meeting := os.environ.get("RENDEZVOUS", "").removeprefix("file://"):
        join(1, meeting)
        serve(CrypTen(), {}, answers)
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder, "meeting"))
        second = subprocess.Popen(
            [sys.executable, "-m", "peers.crypten_work"], env=os.environ | {"RENDEZVOUS": f"file://{meeting}"},
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            join(0, meeting)
            about = {
                "version": version("crypten"), "parties": "2, one of which deals", "processes": 2,
                "threads": "1 each", "fraction_bits": 16, "truncation": "local, may wrap",
                "transport": "TCP, not encrypted",
            }  # fmt: skip
            serve(CrypTen(), about, answers, passed_on(second))
        finally:
            second.kill()
            second.wait()


if __name__ == "__main__":
    main()
