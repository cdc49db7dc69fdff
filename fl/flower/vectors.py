"""Models and figures of Flower records as one vector, and back.

A client's vector is its update, trained minus received, and behind it the figures that were agreed on, each scaled from
its own largest magnitude to that of a coordinate: v * value / limit. Figures beyond their limit are set to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord
from numpy.typing import NDArray

from sharetorch.fl.flower.errors import FlowerError

Vector = NDArray[np.float64]


class Layout:
    """Which arrays of a record make its vector: those of real numbers, in the record's order.

    Integers, such as counts of batches, are in no vector; the server's stay as they are.

    Args:
        arrays: the global model.

    Attributes:
        size: coordinates of the vector.

    Raises:
        FlowerError: there is no array of real numbers.
    """

    def __init__(self, arrays: ArrayRecord) -> None:
        found = {name: array.numpy() for name, array in arrays.items()}
        self._real = {name: array for name, array in found.items() if array.dtype.kind == "f"}
        self._whole = {name: array for name, array in found.items() if name not in self._real}
        self._names = list(found)
        self.size = sum(array.size for array in self._real.values())
        if not self.size:
            raise FlowerError("The model has no real numbers: there is nothing to aggregate. Send its state dict.")

    def update(self, trained: ArrayRecord) -> Vector:
        """Trained minus received, shape (size,).

        Raises:
            FlowerError: the record has other arrays than the global model.
        """
        shapes = {name: tuple(array.shape) for name, array in trained.items()}
        if shapes != {name: (self._real | self._whole)[name].shape for name in self._names}:
            raise FlowerError(
                f"The client's reply has the arrays {_listed(shapes)}; the global model has other names or shapes. "
                "Return all arrays that were sent."
            )
        parts = [
            (trained[name].numpy().astype(np.float64) - array.astype(np.float64)).reshape(-1)
            for name, array in self._real.items()
        ]
        return np.concatenate(parts)

    def changed(self, update: Vector) -> ArrayRecord:
        """The global model with an update added, each array in its own dtype."""
        made, place = dict(self._whole), 0
        for name, array in self._real.items():
            step = update[place : place + array.size].reshape(array.shape)
            made[name] = (array.astype(np.float64) + step).astype(array.dtype)
            place += array.size
        return ArrayRecord({name: Array(np.asarray(made[name])) for name in self._names})

    def kept(self, stepped: ArrayRecord) -> ArrayRecord:
        """What a strategy made of the model, with the dtypes that were, and the integers that were."""
        made = {name: stepped[name].numpy().astype(array.dtype) for name, array in self._real.items()} | self._whole
        return ArrayRecord({name: Array(np.asarray(made[name])) for name in self._names})


def clipped(figures: MetricRecord | None, limits: Mapping[str, float], value: float) -> Vector:
    """The agreed figures of a client as coordinates.

    Args:
        figures: what the client measured.
        limits: largest magnitude of each, by name; the order is that of the coordinates.
        value: largest magnitude of a coordinate.

    Raises:
        FlowerError: one is missing, or is no number.
    """
    found = []
    for name, limit in limits.items():
        figure = None if figures is None else figures.get(name)
        if not isinstance(figure, (int, float)) or math.isnan(figure):
            raise FlowerError(
                f"The client's reply has no number {name!r} among its metrics, which the server asks for. Return it "
                "in the MetricRecord, or leave it out of the strategy's metrics."
            )
        found.append(min(max(float(figure), -limit), limit) * value / limit)
    return np.array(found, np.float64)


def figures_of(coordinates: Vector, limits: Mapping[str, float], value: float) -> dict[str, float]:
    """The figures behind their coordinates."""
    return {name: float(x) * limit / value for x, (name, limit) in zip(coordinates, limits.items(), strict=True)}


def _listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in [*shapes.items()][:4]) + (", ..." if len(shapes) > 4 else "")
