"""Networks of the tasks in torch, with given weights: to be shared, and as the reference of all systems."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from peers.tasks import RATE, Arrays, Layer, Task

MAKE: Mapping[str, Callable[..., nn.Module]] = {
    "linear": nn.Linear,
    "conv": nn.Conv2d,
    "relu": nn.ReLU,
    "maxpool": nn.MaxPool2d,
    "flatten": nn.Flatten,
}


def network(layers: tuple[Layer, ...], weights: Mapping[str, Tensor]) -> nn.Sequential:
    """The network, in the type of its weights."""
    made = nn.Sequential(*(MAKE[kind](*sizes) for kind, *sizes in layers)).to(weights["w0"].dtype)
    with torch.no_grad():
        for name, value in parameters(made).items():
            value.copy_(weights[name])
    return made


def parameters(model: nn.Module) -> dict[str, Any]:
    """Weights and biases as tasks name them."""
    return {f"{'wb'[number % 2]}{number // 2}": value for number, value in enumerate(model.parameters())}


def step(model: nn.Module, batch: int) -> Callable[[Any, Any], None]:
    """A step of plain stochastic gradient descent, on plain or shared tensors."""
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def run(x: Any, y: Any) -> None:
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).sum() * (2 / batch)
        loss.backward()
        optimizer.step()

    return run


OPERATIONS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "compare": lambda x, y: x > y,
    "relu": lambda x, _: x.relu(),
    "multiply": lambda x, y: x * y,
    "matmul": lambda x, y: x @ y,
    "argmax": lambda x, _: x.argmax(1),
    "maxpool": lambda x, _: functional.max_pool2d(x, 2),
    "conv": lambda x, y: functional.conv2d(x, y),
}
"""What other tasks do, on plain or shared tensors; those of one operand are given it and anything."""


def reference(task: Task, inputs: Arrays, steps: int) -> Arrays:
    """The right results in float64; of training after so many steps on the same batch."""
    tensors = {name: torch.from_numpy(values) for name, values in inputs.items()}
    x, y = tensors["x"], tensors.get("y", torch.empty(0))
    match task.work:
        case "inference":
            found = {"result": network(task.layers, tensors)(x).detach()}
        case "training":
            model = network(task.layers, tensors)
            train = step(model, task.batch)
            for _ in range(steps):
                train(x, y)
            found = {name: value.detach() for name, value in parameters(model).items()}
        case _:
            found = {"result": OPERATIONS[task.work](x, y).double()}
    return {name: value.numpy() for name, value in found.items()}


def error(task: Task, inputs: Arrays, results: Arrays, steps: int) -> float:
    """Largest difference from the right results.

    Raises:
        ValueError: results are missing, or have wrong shapes.
    """
    right = reference(task, inputs, steps)
    if {name: value.shape for name, value in right.items()} != {name: value.shape for name, value in results.items()}:
        raise ValueError(f"results of {task.name} have other names or shapes than they should")
    return max(float(np.abs(value - results[name]).max()) for name, value in right.items())
