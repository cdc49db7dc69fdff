"""Arithmetic on numbers inside a graph: sizes of tensors, and values of one-element tensors.

Integers wrap around at 64 bits, so that no graph makes a worker compute for long with a short text. While
a plan is recorded as part of another one, the numbers are torch's symbols.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.errors import MalformedRequestError, PlanError

_LARGEST = 1 << 63


class NumberOperation(NamedTuple):
    """An operation on numbers.

    Attributes:
        function: of numbers.
        operands: how many.
    """

    function: Callable[..., Any]
    operands: int


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int):
        if not 0 <= exponent < 64:
            raise PlanError("number.pow raises integers to powers from 0 to 63 only; make one of them a float.")
        return base**exponent
    return base**exponent


def _quotient(x: Any, y: Any) -> Any:
    """As in torch: no error tells that a number is 0."""
    if isinstance(y, (int, float)) and isinstance(x, (int, float)) and y == 0:
        return math.nan if x == 0 or x != x else math.copysign(math.inf, x) * math.copysign(1.0, y)
    return x / y


OPERATIONS = {
    "add": NumberOperation(operator.add, 2),
    "sub": NumberOperation(operator.sub, 2),
    "mul": NumberOperation(operator.mul, 2),
    "truediv": NumberOperation(_quotient, 2),
    "floordiv": NumberOperation(operator.floordiv, 2),
    "mod": NumberOperation(operator.mod, 2),
    "pow": NumberOperation(_power, 2),
    "neg": NumberOperation(operator.neg, 1),
    "max": NumberOperation(torch.sym_max, 2),
    "min": NumberOperation(torch.sym_min, 2),
    "float": NumberOperation(torch.sym_float, 1),
    "int": NumberOperation(torch.sym_int, 1),
    "sqrt": NumberOperation(math.sqrt, 1),
}
"""Operations on numbers by name, as in "number.add"."""

NAMES: dict[Any, str] = {
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.truediv: "truediv",
    operator.floordiv: "floordiv",
    operator.mod: "mod",
    operator.pow: "pow",
    pow: "pow",
    operator.neg: "neg",
    math.trunc: "int",
    torch.sym_max: "max",
    torch.sym_min: "min",
    torch.sym_float: "float",
    torch.sym_int: "int",
    getattr(torch, "_sym_sqrt", math.sqrt): "sqrt",
}
"""Names by the functions that stand in recorded graphs."""


def apply(name: str, args: list[Any]) -> Any:
    """The result of an operation on numbers. Integers wrap around at 64 bits, as in tensors.

    Raises:
        PlanError: there is none, such as for an integer divided by 0.
    """
    try:
        result = OPERATIONS[name].function(*args)
    except OverflowError:
        return math.inf
    except (ZeroDivisionError, ValueError) as error:
        raise PlanError(f"number.{name} has no result for these numbers ({type(error).__name__}).") from None
    if type(result) is int and not -_LARGEST <= result < _LARGEST:
        return (result + _LARGEST) % (2 * _LARGEST) - _LARGEST
    return math.nan if isinstance(result, complex) else result


def _offset(x: Tensor) -> int:
    return int(x.storage_offset())


SIZES: dict[str, Callable[..., int]] = {
    "shape": lambda x, dim: x.shape[dim],
    "stride": lambda x, dim: x.stride(dim),
    "numel": lambda x: x.numel(),
    "offset": _offset,
}
"""What is public of a tensor, by name, as in "size.shape"."""

SIZE_OPERATORS = {
    "aten.sym_size.int": "shape",
    "aten.sym_stride.int": "stride",
    "aten.sym_numel.default": "numel",
    "aten.sym_storage_offset.default": "offset",
}
"""Names by the aten operations of recorded graphs."""


def operands(name: str) -> int:
    """How many numbers an operation takes.

    Raises:
        MalformedRequestError: there is none of that name.
    """
    found = OPERATIONS.get(name)
    if found is None:
        raise MalformedRequestError(f"{name[:40]!r} is no operation on numbers; there are {', '.join(OPERATIONS)}.")
    return found.operands
