"""A model as one vector: what is aggregated, and what server optimizers step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sharetorch.fl.structs import tensors_of
from sharetorch.mpc.errors import TrainingError


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Those of the tensors that hold real numbers, one after the other: float64, one dimension."""
    return torch.cat([x.detach().reshape(-1).double() for x in tensors if x.dtype.is_floating_point])


class Layout:
    """Which tensors of a model make its vector: those of real numbers, parameters first, then buffers.

    Buffers of integers, such as counts of batches, are in no vector; the server's stay as they are.

    Args:
        model: whose parameters are here.

    Attributes:
        shapes: shape and dtype of each tensor of the model, as text; public.
        size: coordinates of the vector.
        trained: how many of them, the first ones, are parameters.

    Raises:
        TrainingError: it has no parameter of real numbers.
    """

    def __init__(self, model: Any) -> None:
        tensors = tensors_of(model)
        parameters = len(list(model.parameters()))
        self.shapes = [f"{x.dtype} {tuple(x.shape)}" for x in tensors]
        self._real = [x.dtype.is_floating_point for x in tensors]
        counts = [x.numel() if real else 0 for x, real in zip(tensors, self._real, strict=True)]
        self.size = sum(counts)
        self.trained = sum(counts[:parameters])
        if not self.trained:
            raise TrainingError("The model has no parameters of real numbers: nothing would be trained.")

    def vector(self, tensors: Sequence[Tensor]) -> Tensor:
        """The vector of a model's tensors: float64, shape (size,)."""
        return flat(x for x, real in zip(tensors, self._real, strict=True) if real)

    def of(self, model: Any) -> Tensor:
        """The vector of a model."""
        return self.vector(tensors_of(model))

    def load(self, model: Any, vector: Tensor) -> None:
        """Give a model the values of a vector, each rounded to the dtype of its tensor."""
        place = 0
        with torch.no_grad():
            for x, real in zip(tensors_of(model), self._real, strict=True):
                if real:
                    x.copy_(vector[place : place + x.numel()].reshape(x.shape))
                    place += x.numel()
