"""Keep freed memory in the process, so that large temporaries do not fault their pages in again each time.

By default glibc hands large blocks back to the system when they are freed; a new one then costs a page fault every 4
KiB, more than the arithmetic on it. ``keep_freed_memory`` raises the limits. It changes nothing where the C library
is another one, or where ``SHARETORCH_MALLOC=0`` is set.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3

_KEPT = 512 << 20
_GROWTH = 16 << 20
_MAPPED = 32 << 20


@cache
def keep_freed_memory() -> bool:
    """Raise the allocator's limits once: keep up to 512 MiB of freed memory, map only blocks of 32 MiB and more.

    Returns:
        Whether the allocator took all settings.
    """
    if os.environ.get("SHARETORCH_MALLOC") == "0":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    settings = {_M_MMAP_THRESHOLD: _MAPPED, _M_TRIM_THRESHOLD: _KEPT, _M_TOP_PAD: _GROWTH}
    return all([mallopt(option, value) == 1 for option, value in settings.items()])
