"""The fixture ``bench``: measures work on shares and the same work in plain torch in turn, and checks every result.

pytest benchmarks --benchmark-only --benchmark-json=benchmarks/results/latest.json
    --bench-rounds N    repeat each piece of work N times (default: as often as fits in twelve seconds, 2 to 30 times)
    --bench-small       tiny sizes, to see whether the benchmarks run at all
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

import sharetorch as st
from sharetorch.mpc.kernels import thread_count
from sharetorch.mpc.protocols.suite import DEFAULT_SUITE

collect_ignore = ["bench_federated.py", "bench_network.py", "bench_transports.py"]  # scripts of their own

SEED = 20
UNIT = 2.0**-16
"""One unit of the default encoding."""
TIME, FEWEST, MOST = 12.0, 2, 30
"""Seconds for the repeats on shares, and bounds of their number: at least ten where a call takes less than 1.2 s."""
PLAIN_TIME, PLAIN_CALLS = 0.1, 5
"""Plain calls one after the other before each call on shares, until either is reached: caches are warm, as in use."""
TIME_LIMIT = 900
"""Seconds after which a benchmark fails."""
SMALL = 4
"""Largest size with --bench-small."""
LOAD = os.getloadavg()[0]
"""Load before the first benchmark: other work on the machine spoils the times, plain torch's most of all."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("sharetorch benchmarks")
    group.addoption("--bench-rounds", type=int, metavar="N", help="repeat each piece of work N times")
    group.addoption("--bench-small", action="store_true", help="tiny sizes, to see whether the benchmarks run at all")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("python_files", "bench_*.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "bench" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(TIME_LIMIT))


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    del machine_info["node"]
    machine_info["cpu"] = {"brand": machine_info["cpu"].get("brand_raw", "unknown"), "cores": os.cpu_count()}
    machine_info["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {"torch": torch, "numpy": np, "numba": numba, "sharetorch": st}
    machine_info["versions"] = {name: module.__version__ for name, module in versions.items()}
    machine_info["versions"]["python"] = machine_info["python_version"]


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    output_json["settings"] = {
        "seed": SEED,
        "small": config.getoption("bench_small"),
        "rounds": config.getoption("bench_rounds"),
        "torch_threads": torch.get_num_threads(),
        "kernel_threads": thread_count(),
        "fraction_bits": 16,
        "load_before": LOAD,
    }


class Bench:
    """Measures one piece of work, on shares and in plain torch.

    Attributes:
        unit: one unit of the encoding, for bounds of errors.
    """

    unit = UNIT

    def __init__(self, benchmark: Any, small: bool, rounds: int | None) -> None:
        self._benchmark = benchmark
        self._small = small
        self._rounds = rounds
        self._alice, self._bob, self._provider = (st.VirtualWorker(id=name) for name in ("alice", "bob", "provider"))
        self._generator = torch.Generator().manual_seed(SEED)

    def size(self, number: int) -> int:
        """A size, cut down with --bench-small."""
        return min(number, SMALL) if self._small else number

    def reals(self, *shape: int) -> Tensor:
        """Random multiples of the unit in -1 <= x < 1, so that encoding is exact."""
        return self.words(*shape, low=-(1 << 16), high=1 << 16) * UNIT

    def words(self, *shape: int, low: int = -(1 << 63), high: int = (1 << 63) - 1) -> Tensor:
        """Random integers."""
        return torch.randint(low, high, shape, generator=self._generator)

    def share(self, value: Any, protocol: str = DEFAULT_SUITE) -> Any:
        """Share a tensor or a model."""
        return value.share(self._alice, self._bob, crypto_provider=self._provider, protocol=protocol)

    def __call__(
        self,
        work: str,
        encrypted: Callable[..., Any],
        plain: Callable[..., Any],
        *operands: Tensor,
        bound: float = 0.0,
        share: Callable[[Tensor], Any] | None = None,
        expected: Callable[[int], Any] | None = None,
    ) -> None:
        """Measure ``encrypted(*shared operands)`` and ``plain(*operands)`` in turn, and check every result.

        Operands are shared anew for every call: a shared tensor remembers what was opened of it, and would be cheaper
        the second time.

        Args:
            work: what the table calls it.
            encrypted: the work on shares.
            plain: the same work in plain torch.
            operands: its operands.
            bound: largest error allowed, 0 for equal results.
            share: how an operand is shared; by the default protocol if not given.
            expected: the right result of the n-th call on shares; that of ``plain(*operands)`` if not given.
        """
        right = plain(*operands) if expected is None else None
        calls, plain_times, results = itertools.count(), list[float](), list[tuple[int, Any]]()

        def check() -> None:
            while results:
                number, result = results.pop()
                assert_close(result, expected(number) if expected else right, bound)

        def prepare() -> tuple[tuple[Any, ...], dict[str, Any]]:
            check()
            plain_times.extend(repeated(plain, operands))
            return tuple(map(share or self.share, operands)), {}

        def run(*shared: Any) -> None:
            result = encrypted(*shared)
            if hasattr(result, "session"):
                result.session.sync()  # commands that wait for the next one are part of the work
            results.append((next(calls), result))

        run(*prepare()[0])  # kernels are compiled, weights of a model masked and opened
        shared, _ = prepare()
        with st.profile() as profile:
            once = seconds(run, shared)
        plain_times.clear()
        rounds = self._rounds or max(FEWEST, min(MOST, int(TIME / once)))
        self._benchmark.pedantic(run, setup=prepare, rounds=rounds)
        check()
        self._record(work, plain_times, profile, bound)

    def _record(self, work: str, plain_times: Sequence[float], profile: st.Profile, bound: float) -> None:
        sent = profile.bytes_sent
        low, middle, high = quartiles(plain_times)
        self._benchmark.extra_info.update(
            work=work,
            plain={"min": min(plain_times), "q1": low, "median": middle, "q3": high, "calls": len(plain_times)},
            rounds=profile.rounds,
            party_bytes=max(sent.get(party.id, 0) for party in (self._alice, self._bob)),
            provider_offline_bytes=profile.provider_bytes,
            provider_online_bytes=sent.get(self._provider.id, 0),
            error_bound=bound,
        )
        if self._benchmark.stats is not None:
            self._benchmark.extra_info["ratio"] = self._benchmark.stats.stats.median / middle


def quartiles(times: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else [times[0]] * 3


def seconds(function: Callable[..., Any], operands: Sequence[Any]) -> float:
    """Time one call."""
    start = time.perf_counter()
    function(*operands)
    return time.perf_counter() - start


def repeated(function: Callable[..., Any], operands: Sequence[Any]) -> list[float]:
    """Time PLAIN_CALLS calls in a row, fewer if they take long."""
    times: list[float] = []
    while len(times) < PLAIN_CALLS and sum(times) < PLAIN_TIME:
        times.append(seconds(function, operands))
    return times


def assert_close(result: Any, expected: Any, bound: float) -> None:
    """Check a result, opened if it is shared."""
    with torch.no_grad():
        result = result.detach().get()
        expected = expected.detach().to(result.dtype)
    if bound:
        torch.testing.assert_close(result, expected, rtol=0, atol=bound)
    else:
        assert torch.equal(result, expected)


@pytest.fixture
def bench(benchmark: Any, request: pytest.FixtureRequest) -> Bench:
    """Measure, check and record one piece of work."""
    torch.manual_seed(SEED)
    benchmark.group = request.module.__name__.rpartition("bench_")[2]
    options = request.config.getoption
    return Bench(benchmark, options("bench_small"), options("bench_rounds"))
