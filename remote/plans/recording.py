"""What recording starts from, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.errors import PlanError
from sharetorch.remote.plans.checking import Program
from sharetorch.remote.wire import DTYPES


@dataclass(frozen=True)
class Shape:
    """An input before recording: shape with negative sizes for free ones, dtype, and whether it needs a gradient."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool = False


class Recording(NamedTuple):
    """What recording gives.

    Attributes:
        program: the checked graph.
        state: the tensors of its state, the user's own.
    """

    program: Program
    state: list[Tensor]


def dtype_named(dtype: Any) -> torch.dtype:
    """A dtype, or that of a name.

    Raises:
        PlanError: there is none of that name.
    """
    found = dtype if isinstance(dtype, torch.dtype) else DTYPES.get(str(dtype))
    if found is None:
        raise PlanError(f"{dtype!r} is no dtype.")
    return found
