"""Run a kernel on several parts of its data at a time.

A small pool of ordinary threads, not numba's own: those of OpenMP spin while they wait, which stalls every other party
on the same machine, and break a process that forks. Here the caller works too, and takes back every part that no other
thread has begun, so a busy machine slows a call down but never blocks it; calls from many threads at once are fine.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from numba import config

MAX_THREADS = 16


class _Pool:
    """The helper threads of this process, started when first needed."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._executor: ThreadPoolExecutor | None = None
        self._owner = 0

    def executor(self) -> ThreadPoolExecutor:
        """Give the helpers; a forked child starts its own."""
        if self._executor is None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._executor = ThreadPoolExecutor(self.threads - 1, thread_name_prefix="sharetorch-kernel")
        return self._executor


_pool = _Pool(min(MAX_THREADS, int(vars(config)["NUMBA_NUM_THREADS"])))


def thread_count() -> int:
    """Give the number of threads a large kernel call uses.

    At first the number of processors of this process, or of ``NUMBA_NUM_THREADS`` if set, and at most 16.
    """
    return _pool.threads


def set_thread_count(threads: int) -> None:
    """Set the number of threads a large kernel call uses, the caller included; 1 keeps all work in the caller.

    Raises:
        ValueError: threads is below 1.
    """
    global _pool
    if threads < 1:
        raise ValueError(f"A kernel call needs at least 1 thread, the caller's own; got {threads}.")
    _pool = _Pool(threads)


def in_parts(work: Callable[[int, int], None], size: int, grain: int, multiple: int = 1) -> None:
    """Call ``work(begin, end)`` for ranges that cover 0..size once, on several threads where it pays.

    Args:
        work: does one range; ranges are disjoint and run in any order.
        size: the end of the last range.
        grain: the least length of a range worth a thread of its own.
        multiple: every range but the last has a length divisible by this.
    """
    pool = _pool
    parts = min(pool.threads, size // max(1, grain))
    if parts <= 1:
        work(0, size)
        return
    length = -(-size // parts)
    length = -(-length // multiple) * multiple
    others = [(begin, min(begin + length, size)) for begin in range(length, size, length)]
    futures = [pool.executor().submit(work, begin, end) for begin, end in others]
    try:
        work(0, min(length, size))
    finally:
        for (begin, end), future in zip(reversed(others), reversed(futures), strict=True):
            if future.cancel():
                work(begin, end)
            else:
                future.result()
