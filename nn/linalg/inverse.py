"""``inv_sym``: the inverse of a symmetric positive definite matrix.

With D = diag(X)^(-1/2), R = D X D has ones on its diagonal and no entry beyond 1, whatever the units of X. R is
factorised by Gram-Schmidt's counterpart for symmetric matrices, Cholesky's method: R = L L^T. V = L^-1 gives W = V^T V,
a Newton step W <- W (2 - R W) removes rounding errors of the factor, and X^-1 = D W D. That is the scaling that comes
close to the best possible one by a diagonal [Slu69].

Nothing is opened, and no step depends on a value.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import NotFiniteError, ShapeError
from sharetorch.mpc.tensor.shared import SharedTensor
from sharetorch.nn.linalg.vectors import SHORTEST
from sharetorch.nn.linalg.working import from_working, to_working

REFINEMENTS = 1


def inv_sym(x: Any, refinements: int = REFINEMENTS) -> Any:
    """Inverse of a symmetric positive definite matrix; nothing is opened.

    Args:
        x: shape (p, p): shared, local in fixed precision, or plain. Entries below 2^13 and diagonal entries above 2^-13
            in magnitude. Only the upper triangle and the diagonal are read, except for a plain matrix.
        refinements: Newton steps after the factorisation.

    Returns:
        The inverse, shape (p, p), of the kind and in the encoding of ``x``. Its entries must be below 2^13.

    Raises:
        ShapeError: x is no square matrix.
        NotFiniteError: a plain x with NaN or infinity.

    With k the condition number of R = D X D, k <= 4000: the error relative to the largest entry of R^-1 is about
    k * p * 2^-24 (the working precision) plus k times the relative error with which x itself was encoded. Of a matrix
    that is not positive definite, or has a larger k, the result has no meaning; it does not show.

    Cost: p + 1 inverse square roots and 3 p + 6 products and truncations, one after the other.
    Leaks: nothing but the shape.
    """
    _check_square(x)
    if not isinstance(x, SharedTensor):
        return _plain_inverse(x)
    scaled, scale = _equilibrated(to_working(x))
    root = _inverse_root(scaled)
    inverse = root.t() @ root
    for _ in range(refinements):
        residual = 2 * torch.eye(x.shape[0], dtype=torch.float64) - scaled @ inverse
        inverse = inverse @ residual
    inverse = (inverse + inverse.t()) * 0.5
    return from_working(inverse * scale * scale.t(), x.encoding, x.dtype)


def _check_square(x: Any) -> None:
    if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[0] != x.shape[1] or not x.shape[0]:
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ShapeError(f"inv_sym needs a square matrix of at least one row, not {shape}.")


def _plain_inverse(x: Tensor) -> Tensor:
    if not bool(torch.isfinite(x).all()):
        raise NotFiniteError("The matrix holds NaN or infinity and has no inverse; clean the data first.")
    inverse: Tensor = torch.linalg.inv(x)
    return inverse


def _equilibrated(x: Any) -> tuple[Any, Any]:
    """D X D, made symmetric, and the diagonal of D as a column."""
    scale = x.diagonal().rsqrt().reshape(-1, 1)
    upper = (x * scale * scale.t()).triu()
    return upper + upper.triu(1).t(), scale


def _inverse_root(x: Any) -> Any:
    """L^-1 for x = L L^T: the same row operations turn the identity into the inverse of L.

    Pivots below 2^-15 are raised by 1, which keeps the range of everything that follows.
    """
    p = x.shape[0]
    both = torch.cat([x, torch.eye(p, dtype=torch.float64)], dim=1)
    rows = []
    for j in range(p):
        pivot = both[:1, :1]
        row = both[:1] * (pivot + (pivot < SHORTEST)).rsqrt()
        rows.append(row[:, p - j :])
        both = both[1:, 1:] - row[:, 1 : p - j].t() @ row[:, 1:]
    return torch.cat(rows)
