"""The tasks in plain torch, float32: python -m peers.torch_work [--threads N]; see ``dialogue``."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from peers.dialogue import serve, take_output
from peers.networks import OPERATIONS, network, parameters, step
from peers.tasks import Arrays, Task

CALLS, SECONDS = 10, 0.1
"""A run is so many calls, or fewer if they take so long; the first ones find caches as they are in use."""


class Plain:
    """Nothing is shared."""

    def __init__(self) -> None:
        self._start: Callable[[], Callable[[], dict[str, Tensor]]]
        self._result: dict[str, Tensor] = {}
        self._steps = 0

    def prepare(self, task: Task, inputs: Arrays, protocol: str | None) -> None:
        """Make the model, if there is one."""
        tensors = {name: torch.from_numpy(values).float() for name, values in inputs.items()}
        x, y = tensors["x"], tensors.get("y", torch.empty(0))
        if task.work == "training":

            def start() -> Callable[[], dict[str, Tensor]]:
                model = network(task.layers, tensors)
                train = step(model, task.batch)

                def work() -> dict[str, Tensor]:
                    train(x, y)
                    return parameters(model)

                return work

            self._start = start
            return

        if task.work == "inference":
            net = network(task.layers, tensors)

            def work() -> dict[str, Tensor]:
                with torch.no_grad():
                    return {"result": net(x)}

        else:

            def work() -> dict[str, Tensor]:
                return {"result": OPERATIONS[task.work](x, y)}

        self._start = lambda: work

    def run(self) -> float:
        """The median call of several. Training begins anew: after hundreds of steps on one batch float32 is far off."""
        work, times = self._start(), list[float]()
        while len(times) < CALLS and sum(times) < SECONDS:
            start = time.perf_counter()
            self._result = work()
            times.append(time.perf_counter() - start)
        self._steps = len(times)
        return sorted(times)[len(times) // 2]

    def result(self) -> tuple[Arrays, int]:
        """As float64."""
        return {name: value.detach().double().numpy() for name, value in self._result.items()}, self._steps

    def cost(self) -> dict[str, int]:
        """Nothing is sent."""
        self.run()
        return {"party_bytes": 0, "provider_bytes": 0, "rounds": 0}


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description="Do tasks in plain torch.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N")
    args = parser.parse_args()
    answers = take_output()
    torch.set_num_threads(args.threads)
    about = {
        "version": torch.__version__,
        "parties": "none",
        "processes": 1,
        "threads": f"{args.threads}",
        "fraction_bits": "float32",
        "truncation": "–",
        "transport": "none",
    }
    serve(Plain(), about, answers)


if __name__ == "__main__":
    main()
