"""Splitting work over threads, and compiling once."""

import errno
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sharetorch.mpc.kernels import (
    beaver_combine,
    find_zero,
    mask_symbols,
    matmul,
    reduce_words,
    set_thread_count,
    share_bits,
    thread_count,
    truncation_combine,
)
from sharetorch.mpc.kernels._numba import kernel, read_only, writable
from sharetorch.mpc.kernels._threads import in_parts


@pytest.fixture(autouse=True)
def _restored_thread_count() -> Iterator[None]:
    before = thread_count()
    yield
    set_thread_count(before)


@given(st.integers(1, 5), st.integers(0, 200), st.integers(0, 50), st.sampled_from([1, 8, 64]))
@settings(max_examples=60, deadline=None)
def test_parts_cover_everything_once(threads: int, size: int, grain: int, multiple: int) -> None:
    set_thread_count(threads)
    done = np.zeros(size, np.int64)
    starts: list[int] = []

    def work(begin: int, end: int) -> None:
        done[begin:end] += 1
        starts.append(begin)

    in_parts(work, size, grain, multiple)
    assert np.all(done == 1)
    assert all(start % multiple == 0 for start in starts)
    assert len(starts) <= threads


def test_an_error_in_any_part_reaches_the_caller() -> None:
    set_thread_count(4)

    def work(begin: int, end: int) -> None:
        if end == 4:
            raise ArithmeticError("last part")

    with pytest.raises(ArithmeticError, match="last part"):
        in_parts(work, 4, 1)


def test_the_caller_takes_over_what_busy_helpers_have_not_begun() -> None:
    set_thread_count(2)
    release, begun = threading.Event(), threading.Event()

    def occupy(begin: int, end: int) -> None:
        if begin:
            begun.set()
            release.wait(20)
        else:
            begun.wait(20)

    with ThreadPoolExecutor(1) as other:
        blocked = other.submit(in_parts, occupy, 2, 1)
        assert begun.wait(20)
        parts: list[tuple[int, int]] = []
        in_parts(lambda begin, end: parts.append((begin, end)), 2, 1)
        release.set()
        blocked.result()
    assert parts == [(0, 1), (1, 2)]


def test_threads_do_not_change_products_and_calls_may_be_concurrent() -> None:
    rng = np.random.default_rng(12)
    a, b = rng.integers(-(1 << 62), 1 << 62, (2, 300, 300))
    want = a @ b
    set_thread_count(3)
    with ThreadPoolExecutor(4) as callers:
        products = list(callers.map(lambda _: matmul(a, b), range(40)))
    assert all(np.array_equal(product, want) for product in products)


def test_threads_do_not_change_vectors() -> None:
    rng = np.random.default_rng(13)
    n = 70_001
    c, m, t = rng.integers(-(1 << 62), 1 << 62, (3, 4 * n))
    words = rng.integers(0, 1 << 16, 64 * n, dtype=np.uint16)
    replacements = rng.integers(0, 65_000, 64 * n, dtype=np.uint16)
    x = rng.integers(0, 1 << 63, n, dtype=np.uint64)
    direction, rotation = rng.integers(0, 3, n, dtype=np.uint8), rng.integers(0, 64, n, dtype=np.uint8)

    def run() -> list[NDArray[Any]]:
        symbols = reduce_words(words, 66, 1, lambda count: replacements[:count])
        share = share_bits(x, symbols)
        masked = mask_symbols(share, x, direction, symbols, share, rotation, 1)
        truncated = truncation_combine(c, m, m, t, 16, leader=True)
        return [symbols, share, masked, find_zero(share, masked), truncated, beaver_combine(c, m, t, c, m)]

    set_thread_count(1)
    alone = run()
    set_thread_count(3)
    assert all(np.array_equal(one, other) for one, other in zip(alone, run(), strict=True))


def test_thread_count_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1 thread"):
        set_thread_count(0)


def _multiply_in_child() -> None:
    a = np.ones((300, 300), np.int64)
    os._exit(0 if np.all(matmul(a, a) == 300) else 1)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_can_compute() -> None:
    set_thread_count(2)
    a = np.ones((300, 300), np.int64)
    matmul(a, a)
    child = multiprocessing.get_context("fork").Process(target=_multiply_in_child)
    child.start()
    child.join(20)
    assert child.exitcode == 0


def test_a_kernel_that_cannot_be_kept_on_disk_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is no reason to stop."""

    @kernel(read_only("int64"), writable("int64"))
    def double(x: Any, out: Any) -> None:
        for i in range(x.size):
            out[i] = 2 * x[i]

    def save_overload(*_: Any) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(double._dispatcher._cache, "save_overload", save_overload)
    out = np.zeros(3, np.int64)
    double(np.arange(3), out)
    assert out.tolist() == [0, 2, 4]
