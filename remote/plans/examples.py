"""What a plan is to be built for, from shapes and from the function's own names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch

from sharetorch.mpc.errors import PlanError, PlanShapeError
from sharetorch.remote.plans.recording import Shape, dtype_named


def examples(args_shape: Sequence[Any], dtypes: Sequence[Any] | None) -> tuple[Any, ...]:
    """The inputs a plan is for, from their shapes.

    Raises:
        PlanShapeError: something that is no shape.
        PlanError: another number of dtypes, or something that is none.
    """
    if not isinstance(args_shape, (list, tuple)):
        raise PlanShapeError(
            f"args_shape is a list with one shape for each argument, such as [(-1, 1)]; {args_shape!r} is none."
        )
    if dtypes is not None and len(dtypes) != len(args_shape):
        raise PlanError(f"{len(args_shape)} shapes and {len(dtypes)} dtypes; give one dtype for each shape.")
    kinds = [torch.float32] * len(args_shape) if dtypes is None else [dtype_named(dtype) for dtype in dtypes]
    return tuple(_example(shape, kind) for shape, kind in zip(args_shape, kinds, strict=True))


def _example(shape: Any, dtype: torch.dtype) -> Shape:
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not all(isinstance(size, int) and size >= -1 for size in sizes):
        raise PlanShapeError(f"args_shape holds {shape!r}; a shape is a tuple of sizes, -1 for one that is free.")
    return Shape(sizes, dtype)


def argument_names(function: Callable[..., Any], count: int, takes_state: bool) -> list[str]:
    """Names of the first arguments of a function, for the listing.

    Raises:
        PlanError: it takes fewer.
    """
    names: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            names += [f"{name}_{place}" for place in range(count - len(names))]
        elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD) and not (
            takes_state and name == "state"
        ):
            names.append(name)
    if len(names) < count:
        raise PlanError(f"The function takes {len(names)} arguments, and {count} shapes or tensors were given.")
    return names[:count]
