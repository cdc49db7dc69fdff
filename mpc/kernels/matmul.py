"""Exact matrix products modulo 2^64.

Words are int64 and wrap around. The products themselves are computed by one of several backends, which ``backends``
chooses by shape and processor; all of them are exact, so the choice shows in the time only. Here results are split over
threads: by rows if there are more rows than columns, else by columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels import backends
from sharetorch.mpc.kernels._threads import in_parts, thread_count
from sharetorch.mpc.kernels.backends import Backend

Words = NDArray[np.int64]
Factors = Sequence[tuple[Words, Words]]


def _grain(backend: Backend, products: int) -> int:
    """Rows, columns or matrices worth a thread, of so many multiplications each."""
    return max(1, backend.part_products // max(1, products))


def _multiply(out: Words, factors: Factors, keep: bool) -> None:
    """Put the sum of products into out, on several threads where it pays; added to what it holds if ``keep``."""
    rows, columns = out.shape
    terms = sum(left.shape[1] for left, _ in factors)
    backend = backends.choose(rows, terms, columns)

    def row_part(begin: int, end: int) -> None:
        part = [(left[begin:end], right) for left, right in factors]
        backend.add_products(out[begin:end], part, keep)

    def column_part(begin: int, end: int) -> None:
        part = [(left, right[:, begin:end]) for left, right in factors]
        backend.add_products(out[:, begin:end], part, keep)

    if rows >= columns:
        in_parts(row_part, rows, _grain(backend, terms * columns), backend.multiple)
    else:
        in_parts(column_part, columns, _grain(backend, terms * rows), backend.multiple)


def _multiply_all(out: Words, factors: Factors, keep: bool) -> None:
    """Put the sums of products of batches of matrices into out, matrix by matrix."""
    if len(out) < thread_count():
        for g in range(len(out)):
            _multiply(out[g], [(left[g], right[g]) for left, right in factors], keep)
        return
    _, rows, columns = out.shape
    terms = sum(left.shape[2] for left, _ in factors)
    backend = backends.choose(rows, terms, columns)

    def part(begin: int, end: int) -> None:
        for g in range(begin, end):
            backend.add_products(out[g], [(left[g], right[g]) for left, right in factors], keep)

    in_parts(part, len(out), _grain(backend, rows * terms * columns))


def _check_factors(a: Words, b: Words, dims: int) -> None:
    if a.dtype != np.int64 or b.dtype != np.int64:
        raise TypeError(f"Ring matrices are int64; got {a.dtype} and {b.dtype}. Encode them first.")
    if a.ndim != dims or b.ndim != dims or a.shape[-1] != b.shape[-2] or a.shape[:-2] != b.shape[:-2]:
        raise ShapeError(f"Cannot multiply matrices of shapes {a.shape} and {b.shape} (both need {dims} axes).")


def _check_sum(a: Words, b: Words, c: Words, d: Words, start: Words, dims: int) -> None:
    _check_factors(a, b, dims)
    _check_factors(c, d, dims)
    if start.dtype != np.int64:
        raise TypeError(f"Ring matrices are int64; got {start.dtype} to start with.")
    if not start.shape == (*a.shape[:-1], b.shape[-1]) == (*c.shape[:-1], d.shape[-1]):
        raise ShapeError(f"Cannot add products {a.shape} @ {b.shape} and {c.shape} @ {d.shape} to {start.shape}.")


def _beginning(start: Words, reuse: bool) -> Words:
    """Where a sum is built up that begins with ``start``."""
    fits = reuse and start.flags.c_contiguous and start.flags.writeable
    return start if fits else np.array(start, order="C")


def matmul(a: Words, b: Words) -> Words:
    """Multiply two matrices modulo 2^64.

    Args:
        a: int64, shape (m, k), any strides.
        b: int64, shape (k, n), any strides.

    Returns:
        int64, shape (m, n), C-contiguous.

    Raises:
        ShapeError: the shapes do not fit.
        TypeError: an operand is not int64.
    """
    _check_factors(a, b, 2)
    out = np.empty((a.shape[0], b.shape[1]), np.int64)
    _multiply(out, [(a, b)], keep=False)
    return out


def matmul_add(a: Words, b: Words, c: Words, d: Words, start: Words, *, reuse: bool = False) -> Words:
    """Give ``start + a @ b + c @ d`` modulo 2^64 without temporaries.

    The local step of a Beaver product: Z + E V' + U F with V' = V + F at one party and V' = V elsewhere.

    Args:
        a: int64, shape (m, k), any strides.
        b: int64, shape (k, n), any strides.
        c: int64, shape (m, l), any strides.
        d: int64, shape (l, n), any strides.
        start: int64, shape (m, n), any strides; not modified.
        reuse: the result may take the memory of ``start``.

    Returns:
        int64, shape (m, n), C-contiguous.

    Raises:
        ShapeError: the shapes do not fit.
        TypeError: an operand is not int64.
    """
    _check_sum(a, b, c, d, start, 2)
    out = _beginning(start, reuse)
    _multiply(out, [(a, b), (c, d)], keep=True)
    return out


def batched_matmul(a: Words, b: Words) -> Words:
    """Multiply matrices pairwise modulo 2^64.

    Args:
        a: int64, shape (g, m, k), any strides.
        b: int64, shape (g, k, n), any strides.

    Returns:
        int64, shape (g, m, n), C-contiguous.

    Raises:
        ShapeError: the shapes do not fit.
        TypeError: an operand is not int64.
    """
    _check_factors(a, b, 3)
    out = np.empty((a.shape[0], a.shape[1], b.shape[2]), np.int64)
    _multiply_all(out, [(a, b)], keep=False)
    return out


def batched_matmul_add(a: Words, b: Words, c: Words, d: Words, start: Words, *, reuse: bool = False) -> Words:
    """Give ``start + a @ b + c @ d`` modulo 2^64, matrix by matrix, without temporaries.

    Args:
        a: int64, shape (g, m, k), any strides.
        b: int64, shape (g, k, n), any strides.
        c: int64, shape (g, m, l), any strides.
        d: int64, shape (g, l, n), any strides.
        start: int64, shape (g, m, n), any strides; not modified.
        reuse: the result may take the memory of ``start``.

    Returns:
        int64, shape (g, m, n), C-contiguous.

    Raises:
        ShapeError: the shapes do not fit.
        TypeError: an operand is not int64.
    """
    _check_sum(a, b, c, d, start, 3)
    out = _beginning(start, reuse)
    _multiply_all(out, [(a, b), (c, d)], keep=True)
    return out
