"""``Optims``: one optimizer for each worker, all over the same parameters."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from sharetorch.mpc.errors import TrainingError


class Optims:
    """Optimizers with a state of their own for each worker.

    While a model travels from worker to worker, what an optimizer such as Adam remembers of a parameter stays at the
    worker where it was computed.

    Args:
        workers: the workers, or their ids.
        optim: an optimizer over the model's parameters, before its first step.

    Attributes:
        optimizers: by id.

    Raises:
        TrainingError: no worker, or the optimizer has made steps already.
    """

    def __init__(self, workers: Iterable[Any], optim: Optimizer) -> None:
        names = [str(getattr(worker, "id", worker)) for worker in workers]
        if not names:
            raise TrainingError("Optims needs the ids of the workers: Optims(['bob', 'alice'], optim=...).")
        if optim.state:
            raise TrainingError(
                "This optimizer has made steps already; its state would belong to all workers. Make a new one."
            )
        self.optimizers: dict[str, Optimizer] = {name: _twin(optim) for name in names}

    @property
    def workers(self) -> list[str]:
        """Ids of the workers."""
        return list(self.optimizers)

    def get_optim(self, worker: Any) -> Optimizer:
        """The optimizer of a worker, given the worker or its id.

        Raises:
            TrainingError: the worker is none of those named.
        """
        name = str(getattr(worker, "id", worker))
        if name not in self.optimizers:
            raise TrainingError(f"There is no optimizer for {name!r}; there are some for {', '.join(self.optimizers)}.")
        return self.optimizers[name]

    def count(self) -> int:
        """Number of optimizers."""
        return len(self.optimizers)

    def __repr__(self) -> str:
        kind = type(next(iter(self.optimizers.values()))).__name__
        return f"<Optims {kind} for {', '.join(self.optimizers)}>"


def _twin(optim: Optimizer) -> Optimizer:
    """An optimizer with the same settings and parameters, and an empty state."""
    twin = copy.copy(optim)
    for name, value in vars(optim).items():
        vars(twin).setdefault(name, value)
    twin.state = defaultdict(dict)
    twin.param_groups = [{**group, "params": list(group["params"])} for group in optim.param_groups]
    return twin
