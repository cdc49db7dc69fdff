"""Public constants whose shares are made only when something needs them: the gradients a backward pass starts with.

The 1 that ``loss.backward()`` starts from, and what the derivatives of sums, means and public factors make of it, are
known to the driver. As long as they are, a product with them is a product with a public number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.fixedpoint import Encoding, encode
from sharetorch.mpc.session import Session
from sharetorch.mpc.tensor.shared import LateHandle, SharedTensor, fresh_shadow


class Constant(LateHandle):
    """A claim on an object that holds one public number everywhere.

    Attributes:
        value: the number; None once there is an object, whose contents may change.
    """

    __slots__ = ("_shape", "value")

    def __init__(self, session: Session, value: float, shape: torch.Size, encoding: Encoding) -> None:
        super().__init__(session, encoding)
        self._shape = shape
        self.value: float | None = value

    def _make(self) -> None:
        assert self.value is not None
        filled = torch.full(self._shape, self.value, dtype=torch.float64)
        (self._number,) = self.session.command("constant", values=encode(filled, self.encoding))
        self.value = None


def constant(value: float, shadow: Tensor, like: SharedTensor) -> SharedTensor:
    """A tensor of the shape of ``shadow`` full of a public number, beside ``like``, with all digits it may carry."""
    encoding = like.encoding
    digits = encoding.precision + encoding.spare_digits
    handle = Constant(like.session, value, shadow.shape, encoding.at_scale(max(encoding.scale, digits)))
    return SharedTensor(handle, fresh_shadow(shadow))


def known(x: Any) -> float | None:
    """The number a constant holds everywhere, if it still is nothing else."""
    handle = getattr(x, "handle", None)
    return handle.value if isinstance(handle, Constant) else None
