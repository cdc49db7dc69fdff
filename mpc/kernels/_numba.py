"""The one door to numba: typed decorators for compiled functions.

Every kernel is compiled to run without the interpreter lock, lazily (at its first call, never at import), for exactly
one signature, and kept on disk: beside the source, in numba's user cache folder where that is not writable, or nowhere.

Kernels contain no threads of their own; ``_threads`` runs one kernel on several ranges at a time. They therefore work
in any thread and after ``fork``. They draw no randomness.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Literal, TypeVar, cast

from numba import njit, types

F = TypeVar("F", bound=Callable[..., Any])

INT = types.int64
_compile_lock = threading.Lock()


def read_only(dtype: str, dims: int = 1, layout: Literal["C", "A"] = "C") -> object:
    """Give the type of an input array; arrays may be writable or not, and need no alignment."""
    return types.Array(getattr(types, dtype), dims, layout, readonly=True, aligned=False)


def writable(dtype: str, dims: int = 1) -> object:
    """Give the type of an output array, C-contiguous."""
    return types.Array(getattr(types, dtype), dims, "C")


def inline(function: F) -> F:
    """Compile a helper that only kernels of the same file call (the disk cache watches one file at a time)."""
    return cast(F, njit(nogil=True)(function))


def _cached(function: Callable[..., Any]) -> Any:  # noqa: ANN401 - a numba dispatcher
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # no folder to keep it in: compile it anew in every process
        return njit(nogil=True)(function)


class Kernel:
    """A compiled function of one signature; calling it the first time compiles it or loads it from disk."""

    def __init__(self, function: Callable[..., Any], signature: tuple[object, ...]) -> None:
        self._dispatcher = _cached(function)
        self._signature = signature
        self._ready = False

    def __call__(self, *arguments: object) -> None:
        """Run on numpy arrays and Python integers; results go to the output arrays."""
        if not self._ready:
            self._compile()
        self._dispatcher(*arguments)

    def _compile(self) -> None:
        with _compile_lock:
            if not self._ready:
                try:
                    self._dispatcher.compile(types.void(*self._signature))
                except OSError:  # it is compiled, and could not be kept: a disk is full
                    if not self._dispatcher.signatures:
                        raise
                self._dispatcher.disable_compile()
                self._ready = True


def kernel(*signature: object) -> Callable[[Callable[..., None]], Kernel]:
    """Make a function of these argument types, without a result, a ``Kernel``."""
    return lambda function: Kernel(function, signature)
