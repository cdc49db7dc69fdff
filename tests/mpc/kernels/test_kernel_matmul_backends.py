"""Which kernel computes a product: exactness of each, the self-test, the choice and its cache, other processors."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sharetorch.mpc.kernels import amx, backends, matmul, portable
from sharetorch.mpc.kernels.backends import AMX, BACKENDS, NUMBA, TORCH, Backend, Factors

Words = NDArray[np.int64]

LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1
HERE = [backend for backend in BACKENDS if backend.available()]
SIZES = st.sampled_from([0, 1, 2, 5, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129, 257])
each_backend = pytest.mark.parametrize("backend", HERE, ids=[backend.name for backend in HERE])


def words(rng: np.random.Generator, *shape: int) -> Words:
    """Random words, a fifth of them extreme."""
    x = rng.integers(LOWEST, HIGHEST, shape, dtype=np.int64, endpoint=True)
    extreme = rng.choice(np.array([LOWEST, HIGHEST, -1, 0, 1, -0x7F7F7F7F7F7F7F80]), shape)
    return np.where(rng.random(shape) < 0.2, extreme, x)


def product(backend: Backend, *factors: tuple[Words, Words]) -> Words:
    out = np.full((factors[0][0].shape[0], factors[0][1].shape[1]), 77)
    backend.add_products(out, list(factors), False)
    return out


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "sharetorch"


@each_backend
@settings(max_examples=60, deadline=None)
@given(
    st.tuples(SIZES, SIZES, SIZES, SIZES),
    st.tuples(*[st.sampled_from(["C", "F"])] * 4),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_every_backend_is_exact(
    backend: Backend, sizes: tuple[int, int, int, int], layouts: tuple[str, ...], keep: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    m, k, length, n = sizes
    a, b, c, d = words(rng, m, k), words(rng, k, n), words(rng, m, length), words(rng, length, n)
    wide = words(rng, m + 2, n + 3)
    before = wide.copy()
    factors = [np.asarray(x, order=layout) for x, layout in zip((a, b, c, d), layouts, strict=True)]
    backend.add_products(wide[1:-1, 2:-1], [(factors[0], factors[1]), (factors[2], factors[3])], keep)
    expected = before.copy()
    expected[1:-1, 2:-1] = a @ b + c @ d + (before[1:-1, 2:-1] if keep else 0)
    assert np.array_equal(wide, expected)


@each_backend
@pytest.mark.parametrize("value", [LOWEST, HIGHEST, -1, -0x7F7F7F7F7F7F7F80, 0x7F7F7F7F7F7F7F7F])
def test_long_sums_of_extreme_words(backend: Backend, value: int) -> None:
    a, b = np.full((3, 40_000), value), np.full((40_000, 2), value)
    exact = value * value * 40_000 % 2**64
    assert np.all(product(backend, (a, b)).view(np.uint64) == np.uint64(exact))


@each_backend
def test_products_longer_and_wider_than_one_pass(backend: Backend) -> None:
    rng = np.random.default_rng(5)
    for shape in [(33, 2100, 1100), (40, 17_000, 17), (1200, 70, 40)]:
        a, b = words(rng, shape[0], shape[1]), words(rng, shape[1], shape[2])
        expected = product(TORCH, (a, b))
        assert np.array_equal(product(backend, (a, b)), expected)
        assert np.array_equal(product(backend, (np.asfortranarray(a), np.asfortranarray(b))), expected)


@each_backend
def test_many_threads_at_once(backend: Backend) -> None:
    rng = np.random.default_rng(6)
    pairs = [(words(rng, 40 + i, 90), words(rng, 90, 50)) for i in range(8)]
    expected = [a @ b for a, b in pairs]

    def repeat(i: int) -> bool:
        return all(np.array_equal(product(backend, pairs[i]), expected[i]) for _ in range(60))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(repeat, range(8)))


def _right_here() -> bool:
    a = np.arange(50 * 70).reshape(50, 70) * 0x123456789ABCDEF
    return all(np.array_equal(product(backend, (a, a.T)), a @ a.T) for backend in HERE)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_child_processes(method: str) -> None:
    assert _right_here()
    a = np.arange(50 * 70).reshape(50, 70) * 0x123456789ABCDEF
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert np.array_equal(pool.apply(matmul, (a, a.T)), a @ a.T)


def test_digits_of_sums_stay_within_32_bits() -> None:
    assert 4 * 2**14 * 64 * amx.DEPTH < 2**31


def _wrong(out: Words, factors: Factors, keep: bool) -> None:
    portable.add_products(out, factors, keep)
    if out.shape == (17, 49):
        out[16, 48] ^= LOWEST


def _failing(out: Words, factors: Factors, keep: bool) -> None:
    raise OSError("illegal instruction")


@pytest.mark.parametrize(("add_products", "message"), [(_wrong, "gives wrong products"), (_failing, "fails .*illegal")])
def test_a_wrong_backend_is_left_out_with_a_warning(add_products: object, message: str, cache_folder: Path) -> None:
    planted = NUMBA._replace(name="planted", add_products=add_products)
    with pytest.warns(RuntimeWarning, match=f"planted matrix kernel {message}"):
        assert backends.working((TORCH, planted)) == [TORCH]
    with pytest.warns(RuntimeWarning, match="planted"):
        choice = backends.make_choice("auto", (TORCH, planted))
    assert {choice(m, k, n).name for m in (1, 100) for k in (1, 100) for n in (1, 100)} == {"torch"}


def test_no_exact_backend_is_an_error() -> None:
    planted = NUMBA._replace(name="planted", add_products=_wrong)
    with pytest.warns(RuntimeWarning), pytest.raises(RuntimeError, match="doctor"):
        backends.working((planted,))


def test_a_backend_that_misplaces_what_it_keeps_is_found() -> None:
    def forgets(out: Words, factors: Factors, keep: bool) -> None:
        portable.add_products(out, factors, False)

    def half(out: Words, factors: Factors, keep: bool) -> None:
        portable.add_products(out, factors[:1], keep)

    for add_products in (forgets, half):
        assert not backends.is_exact(NUMBA._replace(add_products=add_products))


def test_the_choice_is_measured_once_and_kept(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    seconds = backends._seconds

    def counted(backend: Backend, shape: tuple[int, int, int], some: Words) -> float:
        calls.append(1)
        return seconds(backend, shape, some)

    monkeypatch.setattr(backends, "_seconds", counted)
    first = backends.make_choice("auto", (TORCH, NUMBA))
    measured = len(calls)
    again = backends.make_choice("auto", (TORCH, NUMBA))
    assert measured == 2 * len(backends.EDGES) ** 2 * len(backends.TERMS) and len(calls) == measured
    grid = [(m, k, n) for m in (0, 1, 20, 500) for k in (0, 1, 60, 3000) for n in (0, 1, 20, 500)]
    assert [first(*shape).name for shape in grid] == [again(*shape).name for shape in grid]
    (file,) = cache_folder.iterdir()
    for content in (b"", b"{", b"[]", b'{"1x8x1": "torch"}', b"\xff\x00", _renamed(file), _longer(file)):
        file.write_bytes(content)
        calls.clear()
        backends.make_choice("auto", (TORCH, NUMBA))
        assert len(calls) == measured
        assert set(json.loads(file.read_bytes()).values()) <= {"torch", "numba"}


def _renamed(file: Path) -> bytes:
    return json.dumps(dict.fromkeys(json.loads(file.read_bytes()), "other")).encode()


def _longer(file: Path) -> bytes:
    return json.dumps({**json.loads(file.read_bytes()), "1x1x1x1": "torch"}).encode()


def test_no_place_to_keep_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    assert backends.make_choice("auto", (TORCH, NUMBA))(5, 5, 5).name in ("torch", "numba")


@pytest.mark.parametrize("name", [backend.name for backend in HERE])
def test_the_environment_names_a_backend(name: str, cache_folder: Path) -> None:
    choice = backends.make_choice(name)
    assert {choice(m, 64, n).name for m in (1, 1000) for n in (1, 1000)} == {name}
    assert not cache_folder.exists()


def test_unknown_and_missing_backends_are_clear_errors() -> None:
    with pytest.raises(ValueError, match="SHARETORCH_MATMUL='fastest' names no matrix kernel. Set it to auto, torch"):
        backends.make_choice("fastest")
    missing = AMX._replace(available=lambda: False)
    with pytest.raises(ValueError, match="has no amx"):
        backends.make_choice("amx", (TORCH, missing))


def test_threads_that_meet_at_the_first_product(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make_choice = backends.make_choice

    def counted(setting: str) -> backends.Choice:
        made.append(setting)
        return make_choice(setting)

    monkeypatch.setattr(backends, "make_choice", counted)
    backends._choice_of_process.cache_clear()
    barrier = threading.Barrier(4)

    def first(_: int) -> bool:
        barrier.wait()
        return bool(matmul(np.ones((2, 2), np.int64), np.ones((2, 2), np.int64))[0, 0] == 2)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(first, range(4)))
    assert len(made) == 1


@pytest.fixture(autouse=True)
def _own_choice() -> Iterator[None]:
    yield
    backends._choice_of_process.cache_clear()


_ELSEWHERE = """
import numpy as np
from sharetorch.mpc.kernels import amx, backends, matmul, matmul_add, _vectors
rng = np.random.default_rng(1)
for m, k, n in [(1, 1, 1), (33, 70, 35), (5, 300, 1), (1, 300, 50), (130, 64, 24)]:
    a, b = rng.integers(-2**63, 2**63 - 1, (m, k)), rng.integers(-2**63, 2**63 - 1, (k, n))
    assert np.array_equal(matmul(a, b), a @ b)
    assert np.array_equal(matmul(np.asfortranarray(a), np.asfortranarray(b)), a @ b)
    assert np.array_equal(matmul_add(a, b, a, b, a @ b), 3 * (a @ b))
print(amx.available(), _vectors.TILE.lanes, backends.choose(200, 200, 200).name)
"""

_PROCESSORS = {
    "haswell": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2"},
    "generic": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for code compiled for other processors."""
    return tmp_path_factory.mktemp("compiled")


def _elsewhere(compiled: Path, **environment: str) -> list[str]:
    variables = {**os.environ, "XDG_CACHE_HOME": str(compiled), "NUMBA_CACHE_DIR": str(compiled), **environment}
    command = [sys.executable, "-P", "-W", "error", "-c", _ELSEWHERE]
    found = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=240, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


@pytest.mark.parametrize("processor", _PROCESSORS)
@pytest.mark.parametrize("setting", ["auto", "numba", "torch"])
def test_other_processors(processor: str, setting: str, compiled: Path) -> None:
    tiles, _, name = _elsewhere(compiled, SHARETORCH_MATMUL=setting, **_PROCESSORS[processor])
    assert tiles == "False"
    assert name in (("torch", "numba") if setting == "auto" else (setting,))


def test_an_unknown_setting_stops_the_first_product(compiled: Path) -> None:
    with pytest.raises(AssertionError, match="names no matrix kernel"):
        _elsewhere(compiled, SHARETORCH_MATMUL="fast", **_PROCESSORS["haswell"])


def test_nothing_is_measured_at_import(tmp_path: Path) -> None:
    variables = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "SHARETORCH_MATMUL": "fast"}
    command = [sys.executable, "-P", "-c", "import sharetorch.mpc.kernels"]
    subprocess.run(command, env=variables, check=True, timeout=250)
    assert not list(tmp_path.iterdir())
