"""``qr``: Householder's orthogonal triangular decomposition.

For column j, u is the unit vector along what is left of it, s the sign of its first entry (a secure comparison, kept
secret), and v = u + s e_1. The reflection I - b v v^T with b = 1 / (1 + |u_1|) maps the column to -s |x| e_1. Since u
has length 1, b lies in [0.5, 1], and Newton's iteration for it needs no normalisation. A column of zeros takes u = e_1.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.errors import DivisionByZeroError, ShapeError, UnsupportedOperationError
from sharetorch.mpc.tensor.shared import SharedTensor
from sharetorch.nn.linalg.vectors import measure
from sharetorch.nn.linalg.working import from_working, inner, to_working

_RECIPROCAL_STEPS = 3


class Reflection(NamedTuple):
    """I - b v v^T, for the rows from j on.

    Attributes:
        v: shape (m - j, 1).
        b: shape (1, 1).
        image: first entry of the column after the reflection, shape (1, 1).
    """

    v: Any
    b: Any
    image: Any


def qr(x: Any, norm_factor: float | None = None, mode: str = "reduced") -> tuple[Any, Any]:
    """Q with orthonormal columns and R upper triangular such that Q R = x; nothing is opened.

    Args:
        x: shape (m, n): shared, local in fixed precision, or plain.
        norm_factor: public number x is divided by before and R multiplied by after. Columns must be shorter than 100 in
            this unit, and columns shorter than 1e-4 count as zero. If not given, the power of two next above
            sqrt(m), so that columns are as long as their root mean square.
        mode: "reduced", k = min(m, n): Q of shape (m, k), R of (k, n); "complete": Q of (m, m), R of (m, n).

    Returns:
        Q and R, of the kind and in the encoding of ``x``. The diagonal of R may have any sign.

    Raises:
        ShapeError: x is no matrix.
        UnsupportedOperationError: another mode.
        DivisionByZeroError: norm_factor is not positive and finite.

    Error, before Q and R are rounded to the encoding of x: about m * 2^-22 in each entry of Q^T Q, and
    m * 2^-22 * norm_factor in those of Q R.

    Cost: for each of min(m, n) columns 3 comparisons, an inverse square root and 25 products and truncations.
    Leaks: nothing but the shape.
    """
    _check(x, mode, norm_factor)
    if not isinstance(x, SharedTensor):
        plain = torch.linalg.qr(x, mode=mode)
        return plain.Q, plain.R
    m, n = x.shape
    factor = float(norm_factor) if norm_factor is not None else 2.0 ** math.ceil(math.log2(m) / 2)
    scaled: Any = to_working(x) * _public(1 / factor)
    reflections, rows, rest = _triangularised(scaled)
    k = m if mode == "complete" else min(m, n)
    q = _accumulated(reflections, torch.eye(m, k, dtype=torch.float64))
    if k > min(m, n):
        rows.append(torch.zeros_like(rest))
    r: Any = torch.cat(rows) * _public(factor)
    return from_working(q, x.encoding, x.dtype), from_working(r, x.encoding, x.dtype)


def _check(x: Any, mode: str, norm_factor: float | None) -> None:
    if not isinstance(x, Tensor) or x.dim() != 2 or 0 in x.shape:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ShapeError(f"qr needs a matrix of at least one row and column, not {shape}.")
    if mode not in ("reduced", "complete"):
        raise UnsupportedOperationError(f"mode={mode!r} is not available; use 'reduced' or 'complete'.")
    if norm_factor is not None and not 0 < norm_factor < math.inf:
        raise DivisionByZeroError(f"norm_factor={norm_factor} cannot scale a matrix; give a positive number.")


def _public(value: float) -> Tensor:
    """A public number with all digits of the working precision."""
    return torch.tensor([[value]], dtype=torch.float64)


def _triangularised(x: Any) -> tuple[list[Reflection], list[Any], Any]:
    """The reflections, the rows of R, and what is left below them, shape (m - k, n)."""
    m, n = x.shape
    block, reflections, rows = x, [], []
    for j in range(min(m, n)):
        reflection = _reflection(block[:, :1])
        right = _reflected(reflection, block[:, 1:]) if j + 1 < n else block[:, 1:]
        rows.append(torch.nn.functional.pad(torch.cat([reflection.image, right[:1]], dim=1), (j, 0)))
        reflections.append(reflection)
        block = right[1:]
    return reflections, rows, x[min(m, n) :]


def _reflection(column: Any) -> Reflection:
    """The reflection that leaves the first entry only."""
    first = torch.eye(column.shape[0], 1, dtype=torch.float64)
    length = measure(column)
    unit = length.unit * (1 - length.short) + length.short * first.long()
    sign = (unit[:1] >= 0) * 2 - 1
    v = unit + sign * first.long()
    return Reflection(v, _reciprocal_above_one(unit[:1] * sign), -sign * inner(unit, column).reshape(1, 1))


def _reciprocal_above_one(a: Any) -> Any:
    """1 / (1 + a) for a in [0, 1]: half of the reciprocal of c = (1 + a) / 2, by w <- w (2 - c w)."""
    c = a * 0.5 + 0.5
    w = 1.9142 - a
    for _ in range(_RECIPROCAL_STEPS):
        w = w * (2 - c * w)
    return w * 0.5


def _reflected(reflection: Reflection, block: Any) -> Any:
    return block - reflection.v @ ((reflection.v.t() @ block) * reflection.b)


def _accumulated(reflections: list[Reflection], start: Tensor) -> Any:
    """H_0 H_1 ... H_(k-1) times the first columns of the identity."""
    q: Any = start
    for j in range(len(reflections) - 1, -1, -1):
        lower = _reflected(reflections[j], q[j:])
        q = torch.cat([q[:j], lower]) if j else lower
    return q
