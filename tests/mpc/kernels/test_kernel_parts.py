"""Kernels give the same results whether one thread does all or several do a part each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pytest

from sharetorch.mpc import kernels

RNG = np.random.default_rng(11)
COUNT = 128 * 9 + 5
WORDS = [RNG.integers(-(2**63), 2**63 - 1, COUNT, dtype=np.int64) for _ in range(5)]
SYMBOLS = [RNG.integers(1, 67, 64 * COUNT, dtype=np.uint8) for _ in range(3)]
COMPARAND = WORDS[0].view(np.uint64)
SMALL = {
    "matmul": {"_grain": lambda _backend, _products: 1},
    "combine": {"PART": 64},
    "residues": {"PART": 1024},
    "private_compare": {"PART": 1, "LIGHT_PART": 1},
}


def more(count: int) -> Any:
    return np.arange(count, dtype=np.uint16)


CASES: dict[str, Callable[[], Any]] = {
    "matmul": lambda: kernels.matmul(WORDS[0][:1140].reshape(57, 20), WORDS[1][:1140].reshape(20, 57)),
    "matmul_add": lambda: kernels.matmul_add(
        *(WORDS[i][:900].reshape(30, 30) for i in range(4)), WORDS[4][:900].reshape(30, 30)
    ),
    "batched_matmul": lambda: kernels.batched_matmul(
        WORDS[0][:1000].reshape(10, 10, 10), WORDS[1][:1000].reshape(10, 10, 10)
    ),
    "batched_matmul_add": lambda: kernels.batched_matmul_add(
        *(WORDS[i][:1000].reshape(10, 10, 10) for i in range(4)), WORDS[4][:1000].reshape(10, 10, 10)
    ),
    "beaver_combine": lambda: kernels.beaver_combine(*WORDS),
    "truncation_combine": lambda: kernels.truncation_combine(*WORDS[:4], 16, leader=False),
    "truncation_mask": lambda: kernels.truncation_mask(WORDS[0], 16),
    "reduce_words": lambda: kernels.reduce_words(RNG_WORDS, 67, 0, more),
    "share_bits": lambda: kernels.share_bits(COMPARAND, SYMBOLS[0]),
    "mask_symbols": lambda: kernels.mask_symbols(
        SYMBOLS[0],
        COMPARAND,
        np.arange(COUNT, dtype=np.uint8) % 3,
        SYMBOLS[1],
        SYMBOLS[2],
        np.arange(COUNT, dtype=np.uint8) % 64,
        1,
    ),
    "find_zero": lambda: kernels.find_zero(SYMBOLS[0], SYMBOLS[1]),
}
RNG_WORDS = RNG.integers(0, 1 << 16, 9000, dtype=np.uint16)


@pytest.fixture
def several_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = kernels.thread_count()
    kernels.set_thread_count(3)
    for name, limits in SMALL.items():
        module = import_module(f"sharetorch.mpc.kernels.{name}")
        for limit, value in limits.items():
            assert hasattr(module, limit)
            monkeypatch.setattr(module, limit, value)
    yield
    kernels.set_thread_count(before)


@pytest.mark.parametrize("name", CASES)
def test_parts_do_not_change_the_result(name: str, request: pytest.FixtureRequest) -> None:
    whole = CASES[name]()
    request.getfixturevalue("several_threads")
    assert np.array_equal(CASES[name](), whole)
