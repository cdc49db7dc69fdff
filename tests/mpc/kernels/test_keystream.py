"""AES in counter mode: a published vector, the library ``cryptography``, and sums with what it gives."""

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels import keystream, set_thread_count, thread_count
from sharetorch.mpc.kernels.keystream import BLOCK_BYTES, PART, Keystream

KEY = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
COUNTER = int.from_bytes(bytes(range(0xF0, 0x100)), "big")
BLOCKS = bytes.fromhex(
    "ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae"
    "6a2cc3787889374fbeb4c81b17ba6c44e89c399ff0f198c6d40a31db156cabfe"
)
"""Output blocks of [SP800-38A], section F.5.1."""


@pytest.fixture(params=["compiled", "by the library"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "by the library":
        monkeypatch.setattr(keystream, "compiled", lambda: False)
    elif not keystream.compiled():
        pytest.skip("this processor has no AES instructions on 512 bits")


@pytest.fixture
def _three_threads() -> Iterator[None]:
    before = thread_count()
    set_thread_count(3)
    yield
    set_thread_count(before)


def expected(key: bytes, counter: int, size: int) -> bytes:
    nonce = counter.to_bytes(BLOCK_BYTES, "big")
    return Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor().update(bytes(size))


@pytest.mark.usefixtures("_way")
def test_published_vector() -> None:
    out = np.empty(len(BLOCKS), np.uint8)
    Keystream(KEY).write(COUNTER, out)
    assert out.tobytes() == BLOCKS


@pytest.mark.usefixtures("_way")
@settings(max_examples=60, deadline=None)
@given(
    st.binary(min_size=16, max_size=16),
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([0, 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 300]),
    st.one_of(st.integers(0, 1200), st.sampled_from([4096, 65_537])),
)
def test_bytes_are_those_of_the_library(key: bytes, high: int, low: int, size: int) -> None:
    counter, stream = (high << 64) + low, Keystream(key)
    out = np.full(size + 8, 7, np.uint8)
    size = min(size, 299 * BLOCK_BYTES) if low == (1 << 64) - 300 else size
    stream.write(counter, out[:size])
    assert out[:size].tobytes() == expected(key, counter, size)
    assert (out[size:] == 7).all()


@pytest.mark.usefixtures("_way")
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 300), st.integers(0, 1 << 80), st.integers(0, 2**32 - 1), st.booleans())
def test_sums_and_differences(count: int, counter: int, seed: int, in_place: bool) -> None:
    rng = np.random.default_rng(seed)
    words = rng.integers(-(1 << 63), 1 << 63, count, np.int64)
    drawn = np.frombuffer(expected(KEY, counter, 8 * count), np.int64)
    for method, want in ((Keystream.add, words + drawn), (Keystream.subtract, words - drawn)):
        given = words.copy()
        out = given if in_place else np.empty(count, np.int64)
        method(Keystream(KEY), counter, given, out)
        assert np.array_equal(out, want)
        assert in_place or np.array_equal(given, words)


@pytest.mark.usefixtures("_way", "_three_threads")
@pytest.mark.parametrize("size", [2 * PART - 8, 2 * PART, 3 * PART + 24, 5 * PART])
def test_several_threads_make_the_same(size: int) -> None:
    want = np.frombuffer(expected(KEY, 5 << 64, size), np.uint8)
    out = np.empty(size, np.uint8)
    Keystream(KEY).write(5 << 64, out)
    assert np.array_equal(out, want)
    words = np.arange(size // 8, dtype=np.int64)
    total = np.empty_like(words)
    Keystream(KEY).add(5 << 64, words, total)
    assert np.array_equal(total - words, want.view(np.int64))


@pytest.mark.usefixtures("_way")
def test_other_lengths_are_refused() -> None:
    with pytest.raises(ShapeError, match="3 words cannot become 4"):
        Keystream(KEY).add(0, np.zeros(3, np.int64), np.zeros(4, np.int64))


def test_a_key_is_not_shown() -> None:
    assert repr(Keystream(KEY)) == "Keystream(...)"


def test_without_vector_instructions_the_library_does_it() -> None:
    program = (
        "import numpy as np; from sharetorch.mpc.kernels import keystream as k; assert not k.compiled();"
        f"out = np.empty(64, np.uint8); k.Keystream({KEY!r}).write({COUNTER}, out); print(out.tobytes().hex())"
    )
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic"}
    made = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == BLOCKS.hex()
