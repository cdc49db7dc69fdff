"""What a regression accepts as precision, and how it shows its results."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from sharetorch.mpc.errors import EncodingError

MOST_DIGITS = 6


def check_digits(digits: int) -> None:
    """Raise ``EncodingError`` unless results can have that many decimal digits."""
    if isinstance(digits, bool) or not isinstance(digits, int) or not 1 <= digits <= MOST_DIGITS:
        raise EncodingError(
            f"precision_fractional={digits!r}: work is done with 24 binary digits, good for 1 to {MOST_DIGITS} "
            "decimal ones."
        )


def table(names: Sequence[str], columns: Sequence[Tensor], dof: int) -> str:
    """Coefficients with standard errors, t and p, one line each; ``columns`` are coefficients, errors, p-values."""
    lines = [f"{'':>12}{'coef':>14}{'std err':>14}{'t':>12}{'p':>12}"]
    for name, *numbers in zip(names, *(column.tolist() for column in columns), strict=True):
        t = numbers[0] / numbers[1] if numbers[1] else math.copysign(math.inf, numbers[0])
        lines.append(f"{name:>12}{numbers[0]:>14.6g}{numbers[1]:>14.6g}{t:>12.4g}{numbers[2]:>12.4g}")
    return "\n".join([*lines, f"{dof} degrees of freedom"])
