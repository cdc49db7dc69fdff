"""The work that all systems do, on the same numbers. Needs numpy only, so that every system's environment can read it.

Real inputs are multiples of 2^-12, so every encoding used here holds them exactly and comparisons have one right
answer.
"""

from __future__ import annotations

import math
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[np.float64]]
Layer = tuple[str, *tuple[int, ...]]

SEED = 20
RATE = 0.05
"""Of plain stochastic gradient descent, whose loss is the sum of squared errors times 2 / batch."""
GRID = 2.0**-12
ROUNDING = 2.0**-14
"""Bound of errors of one product with 16 fraction bits: some units of the encoding."""

MLP: tuple[Layer, ...] = (
    *(("flatten",), ("linear", 784, 128), ("relu",)),
    *(("linear", 128, 64), ("relu",), ("linear", 64, 10)),
)
LENET: tuple[Layer, ...] = (
    *(("conv", 1, 20, 5), ("relu",), ("maxpool", 2), ("conv", 20, 50, 5), ("relu",), ("maxpool", 2)),
    *(("flatten",), ("linear", 800, 500), ("relu",), ("linear", 500, 10)),
)


class Task(NamedTuple):
    """A piece of work.

    Attributes:
        name: what scripts call it.
        title: what people call it.
        work: "compare", "relu", "multiply", "matmul", "argmax", "maxpool", "conv", "inference" or "training".
        shapes: of its operands; of a network, of a batch.
        bound: largest error that counts as right.
        layers: of a network.
        compares: whether protocols for comparisons differ in it.
    """

    name: str
    title: str
    work: str
    shapes: tuple[tuple[int, ...], ...]
    bound: float
    layers: tuple[Layer, ...] = ()
    compares: bool = True

    @property
    def batch(self) -> int:
        """Size of dimension 0 of the first operand."""
        return self.shapes[0][0]


def tasks(quick: bool = False) -> dict[str, Task]:
    """All tasks, by name; with tiny operands if ``quick``."""
    n, side, rows, images = (64, 8, 4, 2) if quick else (10**6, 1024, 128, 64)
    inference, training = 2.0**-9, 2.0**-7
    found = (
        Task("compare", f"x > y, {n:,}", "compare", ((n,), (n,)), 0),
        Task("relu", f"ReLU, {n:,}", "relu", ((n,),), GRID / 2),
        Task("multiply", f"x * y, {n:,}", "multiply", ((n,), (n,)), ROUNDING, compares=False),
        Task("matmul", f"matmul {side}^3", "matmul", ((side, side), (side, side)), ROUNDING, compares=False),
        Task("argmax", f"argmax of rows, {rows}x10", "argmax", ((rows, 10),), 0),
        Task("maxpool", f"max pooling 2x2, {images}x20x24x24", "maxpool", ((images, 20, 24, 24),), GRID / 2),
        Task(
            "conv", f"convolution {images}x1x28x28, 20 kernels 5x5", "conv",
            ((images, 1, 28, 28), (20, 1, 5, 5)), ROUNDING, compares=False,
        ),
        Task("mlp", f"MLP 784-128-64-10: inference, batch {rows}", "inference", ((rows, 1, 28, 28),), inference, MLP),
        Task("mlp-step", f"MLP: training step, batch {rows}", "training", ((rows, 1, 28, 28),), training, MLP),
        Task(
            "lenet", f"LeNet (20, 50, 500): inference, batch {images}", "inference",
            ((images, 1, 28, 28),), inference, LENET,
        ),
        Task(
            "lenet-step", f"LeNet: training step, batch {images}", "training",
            ((images, 1, 28, 28),), training, LENET,
        ),
    )  # fmt: skip
    return {task.name: task for task in found}


def inputs(task: Task) -> Arrays:
    """Operands "x" and "y"; of networks the batch "x", weights "w0", "b0", "w1", ... and for training one-hot "y"."""
    generator = np.random.default_rng([SEED, zlib.crc32(task.name.encode())])
    if not task.layers:
        return dict(zip("xy", (_reals(generator, shape) for shape in task.shapes), strict=False))
    made = {"x": np.abs(_reals(generator, task.shapes[0]))} | _parameters(generator, task.layers)
    if task.work == "training":
        made["y"] = np.eye(10)[generator.integers(0, 10, task.batch)]
    return made


def _reals(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return generator.integers(-1 << 12, 1 << 12, shape) * GRID


def _parameters(generator: np.random.Generator, layers: tuple[Layer, ...]) -> Arrays:
    made: Arrays = {}
    for number, (weight, count) in enumerate(map(_sizes, weighted(layers))):
        bound = 1 / math.sqrt(math.prod(weight[1:]))
        made[f"w{number}"] = np.round(generator.uniform(-bound, bound, weight) * 2.0**16) / 2.0**16
        made[f"b{number}"] = np.round(generator.uniform(-bound, bound, count) * 2.0**16) / 2.0**16
    return made


def weighted(layers: tuple[Layer, ...]) -> list[Layer]:
    """The layers that have weights."""
    return [layer for layer in layers if layer[0] in ("linear", "conv")]


def _sizes(layer: Layer) -> tuple[tuple[int, ...], int]:
    kind, inputs, outputs, *kernel = layer
    return (outputs, inputs, *(kernel * 2 if kind == "conv" else ())), outputs
