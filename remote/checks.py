"""What torch's kernels take on trust from autograd, and a stranger must not be trusted with.

The backward kernels of pooling and normalisation use saved indices and statistics without looking at them again: indices
out of range, or statistics of another size, would let them read or write other memory of the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Check = Callable[[Any, list[Any], dict[str, Any]], None]

CHECKS: dict[str, Check] = {}
"""Checks by the name of the operation."""
