"""Which of the matrix product kernels computes a product.

``torch``: torch's product of int64 matrices, the reference.
``numba``: ``portable``, for any processor.
``amx``: the tile unit of newer Intel processors, on Linux.

At the first product of a process every backend that this processor has is compared with numpy on edge values; one that
is wrong or fails is left out, with a warning. Then each remaining one is timed on a grid of small shapes, which takes a
fraction of a second, and a product goes to the one that was fastest at the nearest shape. The times are kept in the
user's cache folder. All backends are exact: the choice never changes a result.

``SHARETORCH_MATMUL=torch``, ``numba`` or ``amx`` in the environment sends every product to one backend; ``auto``, the
default, measures.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import platform
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import llvmlite
import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.mpc.kernels import _vectors, amx, portable

Words = NDArray[np.int64]
Factors = Sequence[tuple[Words, Words]]
Shape = tuple[int, int, int]

VARIABLE = "SHARETORCH_MATMUL"
VERSION = 1
"""Raised when the kernels change, so that old times are not used."""
EDGES = (1, 8, 16, 24, 32, 64, 128)
"""Rows and columns of the shapes that are timed; others are rounded up, as tiles are filled up."""
TERMS = (8, 32, 128, 512)
REPEATS = 4

_TEST_SHAPES = ((1, 1, 1), (3, 5, 2), (33, 70, 35), (17, 260, 49), (2, 1100, 3), (0, 3, 2), (3, 0, 2))
_EDGE_WORDS = (-(1 << 63), (1 << 63) - 1, -1, 0, 1, -0x7F7F7F7F7F7F7F80, 0x7F7F7F7F7F7F7F7F, 0x7FFFFFFF80000000)


class Backend(NamedTuple):
    """One way to compute products.

    Attributes:
        name: how the environment and warnings call it.
        available: whether this processor has it.
        add_products: puts the sum of the products of one or two pairs of matrices into a matrix, added to what it holds
            if the third argument says so, in the calling thread.
        part_products: multiplications worth a thread of their own.
        multiple: rows or columns of a part, but the last.
    """

    name: str
    available: Callable[[], bool]
    add_products: Callable[[Words, Factors, bool], None]
    part_products: int
    multiple: int


def _always() -> bool:
    return True


def _tensor(x: Words) -> Tensor:
    return torch.from_numpy(x if x.flags.writeable and min(x.strides) >= 0 else x.copy())


def _add_torch_products(out: Words, factors: Factors, keep: bool) -> None:
    total = _tensor(out)
    for a, b in factors:
        product = torch.matmul(_tensor(a), _tensor(b))
        if keep:
            total += product
        else:
            total.copy_(product)
        keep = True


TORCH = Backend("torch", _always, _add_torch_products, 1 << 62, 1)
NUMBA = Backend("numba", _always, portable.add_products, portable.PART_PRODUCTS, portable.COLUMNS)
AMX = Backend("amx", amx.available, amx.add_products, amx.PART_PRODUCTS, amx.PANEL)
BACKENDS = (TORCH, NUMBA, AMX)


def _words(start: int, *shape: int) -> Words:
    """Words that look arbitrary and are always the same, half of them edges."""
    words = np.arange(start, start + math.prod(shape), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    edges = np.array(_EDGE_WORDS)[words % len(_EDGE_WORDS)]
    return np.where(words & 16, edges, words.view(np.int64)).reshape(shape)


def is_exact(backend: Backend) -> bool:
    """Compare a backend with numpy's integers, for both layouts of both factors and for sums of two products."""
    for (m, k, n), keep in itertools.product(_TEST_SHAPES, (False, True)):
        a, b, c, d = _words(1, m, k), _words(1000, k, n), _words(5000, m, 70), _words(9000, 70, n)
        start = _words(3, m, n)
        expected = a @ b + c @ d + (start if keep else 0)
        for left, right in itertools.product((a, np.asfortranarray(a)), (b, np.asfortranarray(b))):
            out = start.copy()
            backend.add_products(out, [(left, right), (c, d)], keep)
            if not np.array_equal(out, expected):
                return False
    return True


def working(candidates: Sequence[Backend] = BACKENDS) -> list[Backend]:
    """Give the backends that this processor has and that are exact; warn of others.

    Raises:
        RuntimeError: none is exact.
    """
    found = []
    for backend in candidates:
        try:
            if not backend.available():
                continue
            fault = None if is_exact(backend) else "gives wrong products"
        except Exception as error:  # noqa: BLE001 - compilers and processors fail in many ways
            fault = f"fails ({type(error).__name__}: {error})"
        if fault is None:
            found.append(backend)
        else:
            message = f"The {backend.name} matrix kernel {fault} here and is not used."
            warnings.warn(message, RuntimeWarning, stacklevel=2)
    if not found:
        raise RuntimeError("No matrix kernel gives right products on this machine. Run `sharetorch doctor`.")
    return found


def _seconds(backend: Backend, shape: Shape, words: Words) -> float:
    """Processor time of one product, the least of some, in all threads: a spinning one counts too."""
    rows, terms, columns = shape
    a, b = words[: rows * terms].reshape(rows, terms), words[: terms * columns].reshape(terms, columns)
    out = np.empty((rows, columns), np.int64)
    times = []
    for _ in range(REPEATS):
        begin = time.process_time_ns()
        backend.add_products(out, [(a, b)], False)
        times.append(time.process_time_ns() - begin)
    return min(times)


def measured(candidates: Sequence[Backend]) -> dict[Shape, str]:
    """Time the backends on the grid and name the fastest for each shape."""
    best = {}
    words = np.arange(EDGES[-1] * TERMS[-1])
    for shape in itertools.product(EDGES, TERMS, EDGES):
        best[shape] = min(candidates, key=lambda backend: _seconds(backend, shape, words)).name
    return best


def _place(candidates: Sequence[Backend]) -> Path:
    """The file of the times for this processor, these versions and these backends."""
    versions = (VERSION, numba.__version__, llvmlite.__version__, np.__version__, torch.__version__)
    processor = (platform.machine(), platform.processor(), _vectors.processor(), sorted(_vectors.instructions()))
    names = [backend.name for backend in candidates]
    key = hashlib.sha256(json.dumps([versions, processor, names, EDGES, TERMS]).encode()).hexdigest()
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "sharetorch" / f"matmul-{key[:16]}.json"


def _read(path: Path, candidates: Sequence[Backend]) -> dict[Shape, str] | None:
    """Read kept choices; None if there are none, or any is not what was written."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    names = {backend.name for backend in candidates}
    shapes = {"x".join(map(str, shape)): shape for shape in itertools.product(EDGES, TERMS, EDGES)}
    if not isinstance(content, dict) or set(content) != set(shapes):
        return None
    if not all(isinstance(name, str) and name in names for name in content.values()):
        return None
    return {shapes[text]: name for text, name in content.items()}


def _keep(path: Path, best: Mapping[Shape, str]) -> None:
    """Write choices for later processes, in one step; where that fails they measure again."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({"x".join(map(str, shape)): name for shape, name in best.items()}, file)
        os.replace(file.name, path)
    except OSError:
        return


def _grid_point(rows: int, terms: int, columns: int) -> Shape:
    def edge(size: int) -> int:
        return next((point for point in EDGES if point >= size), EDGES[-1])

    return edge(rows), min(TERMS, key=lambda point: abs(math.log2(max(1, terms) / point))), edge(columns)


class Choice:
    """The backends of this process, and which shape goes to which."""

    def __init__(self, candidates: Sequence[Backend], best: Mapping[Shape, str]) -> None:
        self._by_name = {backend.name: backend for backend in candidates}
        self._best = best
        self._cached = lru_cache(4096)(self._find)

    def _find(self, rows: int, terms: int, columns: int) -> Backend:
        if len(self._by_name) == 1:
            return next(iter(self._by_name.values()))
        return self._by_name[self._best[_grid_point(rows, terms, columns)]]

    def __call__(self, rows: int, terms: int, columns: int) -> Backend:
        """Give the backend for a product of this shape."""
        return self._cached(rows, terms, columns)


def make_choice(setting: str, candidates: Sequence[Backend] = BACKENDS) -> Choice:
    """Test the backends and measure them, or take what was measured before.

    Args:
        setting: the name of a backend, or "auto".
        candidates: the backends there are.

    Raises:
        ValueError: the setting names no backend, or one that does not work here.
    """
    names = [backend.name for backend in candidates]
    if setting not in ("auto", *names):
        raise ValueError(f"{VARIABLE}={setting!r} names no matrix kernel. Set it to auto, {', '.join(names)}, or not.")
    if setting != "auto":
        named = [backend for backend in candidates if backend.name == setting]
        if not named[0].available():
            raise ValueError(f"{VARIABLE}={setting}, but this processor or system has no {setting}. Set it to auto.")
        return Choice(working(named), {})
    found = working(candidates)
    if len(found) == 1:
        return Choice(found, {})
    path = _place(found)
    best = _read(path, found)
    if best is None:
        best = measured(found)
        _keep(path, best)
    return Choice(found, best)


_lock = threading.Lock()


@cache
def _choice_of_process() -> Choice:
    return make_choice(os.environ.get(VARIABLE) or "auto")


def choose(rows: int, terms: int, columns: int) -> Backend:
    """Give the backend for a product of (rows, terms) by (terms, columns); the first call tests and may measure.

    Raises:
        ValueError: the environment names no backend, or one that does not work here.
    """
    with _lock:
        choice = _choice_of_process()
    return choice(rows, terms, columns)
