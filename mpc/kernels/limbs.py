"""Exact matrix products modulo 2^64 in float64, for devices that have no product of int64 matrices, such as CUDA's.

A word is d0 + d1 2^22 + d2 2^44 with signed digits |d0|, |d1| <= 2^21, and |d2| <= 2^19, since d2 counts modulo 2^20.
A product modulo 2^64 needs the six products d_i d'_j with i + j < 3, in three sums of weights 2^0, 2^22, 2^44. No sum
of 1024 terms exceeds 2 * 1024 * 2^42 = 2^53, up to which float64 is exact in any order of addition; longer products
are computed in blocks.

The digits lie side by side, those of the right factor in reverse, so that each weight is one product of matrices:
[d0 d1] @ [d'1; d'0], say.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sharetorch.mpc.errors import ShapeError

DIGITS = 3
DIGIT_BITS = 22
TERMS = 1024
"""Terms whose sums float64 holds exactly."""

_WORD_BITS = 64


def _digits(x: Tensor) -> list[Tensor]:
    """Split words into signed digits, lowest first, as float64."""
    digits = []
    for place in range(DIGITS):
        shift = _WORD_BITS - min(DIGIT_BITS, _WORD_BITS - DIGIT_BITS * place)
        digit = (x << shift) >> shift
        digits.append(digit.to(torch.float64))
        x = (x - digit) >> DIGIT_BITS
    return digits


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply matrices modulo 2^64, on the device where they are.

    Args:
        a: int64, shape (m, k) or (g, m, k).
        b: int64, shape (k, n) or (g, k, n), on the same device.

    Returns:
        int64, shape (m, n) or (g, m, n).

    Raises:
        ShapeError: the shapes do not fit.
        TypeError: an operand is not int64.
    """
    if a.dtype != torch.int64 or b.dtype != torch.int64:
        raise TypeError(f"Ring matrices are int64; got {a.dtype} and {b.dtype}. Encode them first.")
    if a.dim() not in (2, 3) or a.dim() != b.dim() or a.shape[-1] != b.shape[-2] or a.shape[:-2] != b.shape[:-2]:
        raise ShapeError(f"Cannot multiply matrices of shapes {tuple(a.shape)} and {tuple(b.shape)}.")
    total = torch.zeros((*a.shape[:-1], b.shape[-1]), dtype=torch.int64, device=a.device)
    for begin in range(0, a.shape[-1], TERMS):
        size = min(TERMS, a.shape[-1] - begin)
        left = torch.cat(_digits(a.narrow(-1, begin, size)), -1)
        right = torch.cat(_digits(b.narrow(-2, begin, size))[::-1], -2)
        for weight in range(DIGITS):
            used = (weight + 1) * size
            sums = left.narrow(-1, 0, used) @ right.narrow(-2, DIGITS * size - used, used)
            total += sums.to(torch.int64) << (DIGIT_BITS * weight)
    return total
