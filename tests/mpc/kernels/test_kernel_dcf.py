"""Comparison keys: sums of shares, both forms of the code, and the hash below them."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels import dcf, set_thread_count, thread_count
from sharetorch.mpc.kernels.fixed_key import FixedKeyHash, vector_words

Words = NDArray[np.uint64]

HASH = FixedKeyHash(bytes(range(16)))
SIZES = [0, 1, 63, 64, 65, 200, 4200]


@pytest.fixture(autouse=True)
def _restored_thread_count() -> Iterator[None]:
    before = thread_count()
    yield
    set_thread_count(before)


def words(rng: np.random.Generator, n: int, bits: int = 64) -> Words:
    return rng.integers(0, 1 << 64, n, dtype=np.uint64) >> np.uint64(64 - bits)


def roots(rng: np.random.Generator, n: int) -> tuple[dcf.Seeds, dcf.Seeds]:
    return dcf.Seeds(words(rng, n), words(rng, n)), dcf.Seeds(words(rng, n), words(rng, n))


def compare(alpha: Words, beta: Words, x: Words, depth: int, seed: int = 0) -> Words:
    """What the two parties' shares add up to."""
    both = roots(np.random.default_rng(seed), alpha.size)
    key = dcf.generate(*both, alpha, beta, depth, HASH)
    shares = [dcf.evaluate(key, root, x, depth, rank, HASH) for rank, root in enumerate(both)]
    return shares[0] + shares[1]


def expected(alpha: Words, beta: Words, x: Words) -> Words:
    return np.where(x < alpha, beta, np.uint64(0))


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 6])
def test_every_pair_of_small_numbers(depth: int) -> None:
    values = np.arange(1 << depth, dtype=np.uint64)
    alpha, x = (axis.reshape(-1).repeat(4) for axis in np.meshgrid(values, values))
    for beta in (1, (1 << 64) - 1, 0, 1 << 63):
        payload = np.full(alpha.shape, beta, np.uint64)
        assert np.array_equal(compare(alpha, payload, x, depth, seed=depth), expected(alpha, payload, x))


@pytest.mark.parametrize("depth", [31, 63, 64])
def test_boundaries_and_neighbours(depth: int) -> None:
    top = (1 << depth) - 1
    edges = {0, 1, 2, top, top - 1, top // 2, top // 2 + 1, top // 3, *(1 << i for i in range(depth))}
    values = np.array(sorted(edges | {max(edge - 1, 0) for edge in edges}), np.uint64)
    alpha, x = (axis.reshape(-1) for axis in np.meshgrid(values, values))
    payload = words(np.random.default_rng(1), alpha.size)
    assert np.array_equal(compare(alpha, payload, x, depth), expected(alpha, payload, x))


def test_many_random_numbers_of_which_half_agree_in_their_high_bits() -> None:
    rng = np.random.default_rng(2)
    n = 100_000
    alpha, payload = words(rng, n, 63), words(rng, n)
    gap = words(rng, n) >> words(rng, n, 6)
    x = np.where(np.arange(n) % 2, alpha ^ (gap >> np.uint64(1)), words(rng, n, 63))
    assert np.array_equal(compare(alpha, payload, x, 63), expected(alpha, payload, x))


@pytest.mark.skipif(not vector_words(), reason="this processor has the portable form only")
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("depth", [1, 7, 63, 64])
def test_both_forms_give_the_same_bits(n: int, depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(n)
    both, alpha, beta, x = roots(rng, n), words(rng, n, depth), words(rng, n), words(rng, n, depth)

    def run() -> list[Words]:
        key = dcf.generate(*both, alpha, beta, depth, HASH)
        return [key, *(dcf.evaluate(key, root, x, depth, rank, HASH) for rank, root in enumerate(both))]

    compiled = run()
    monkeypatch.setattr(dcf, "vector_words", lambda: 0)
    assert all(np.array_equal(one, other) for one, other in zip(compiled, run(), strict=True))


DIGEST = """
import runpy
t = runpy.run_path({path!r})
print(t["vector_words"](), t["digest"]())
"""
LIMITED = {
    8: {},
    2: {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+sse2,+sse4.1,+sse4.2,+avx,+avx2,+aes"},
    0: {"NUMBA_CPU_NAME": "generic"},
}


def digest() -> str:
    """Of a key and its shares."""
    rng = np.random.default_rng(5)
    both, alpha, beta, x = roots(rng, 150), words(rng, 150, 63), words(rng, 150), words(rng, 150, 63)
    key = dcf.generate(*both, alpha, beta, 63, HASH)
    parts = [key, *(dcf.evaluate(key, root, x, 63, rank, HASH) for rank, root in enumerate(both))]
    return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


@pytest.mark.parametrize("width", [width for width in LIMITED if width <= vector_words()])
def test_every_instruction_set_gives_the_same_bits(width: int) -> None:
    source = DIGEST.format(path=__file__)
    environment = {**os.environ, **LIMITED[width]}
    run = subprocess.run([sys.executable, "-P", "-c", source], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(width), digest()]


def test_the_layout_has_194_bits_a_level_and_64() -> None:
    for depth in (1, 63, 64):
        assert 64 * dcf.key_words(64, depth) == 64 * (depth * (128 + 64 + 2) + 64)
    assert 8 * dcf.key_words(64, 63) == 64 * 1535.75
    assert dcf.key_words(0, 63) == 0
    assert dcf.key_words(65, 3) == dcf.key_words(64, 3) + dcf.key_words(1, 3)


def test_blocks_can_be_made_and_used_apart() -> None:
    rng = np.random.default_rng(6)
    both, alpha, beta = roots(rng, 150), words(rng, 150, 20), words(rng, 150)
    whole = dcf.generate(*both, alpha, beta, 20, HASH)
    cut = dcf.key_words(128, 20)
    tails = [dcf.Seeds(root.low[128:], root.high[128:]) for root in both]
    assert np.array_equal(whole[cut:], dcf.generate(*tails, alpha[128:], beta[128:], 20, HASH))
    shares = dcf.evaluate(whole[cut:], tails[0], alpha[128:], 20, 0, HASH)
    assert np.array_equal(shares, dcf.evaluate(whole, both[0], alpha, 20, 0, HASH)[128:])


def test_threads_change_nothing_and_inputs_are_kept() -> None:
    rng = np.random.default_rng(7)
    n = 9000
    both, alpha, beta, x = roots(rng, n), words(rng, n, 63), words(rng, n), words(rng, n, 63)
    before = [vector.copy() for vector in (*both[0], *both[1], alpha, beta, x)]

    def run() -> list[Words]:
        key = dcf.generate(*both, alpha, beta, 63, HASH)
        return [key, dcf.evaluate(key, both[1], x, 63, 1, HASH)]

    set_thread_count(1)
    alone = run()
    set_thread_count(3)
    assert all(np.array_equal(one, other) for one, other in zip(alone, run(), strict=True))
    assert all(np.array_equal(*pair) for pair in zip(before, (*both[0], *both[1], alpha, beta, x), strict=True))


def test_keys_from_a_peer_need_no_alignment() -> None:
    rng = np.random.default_rng(8)
    both, alpha = roots(rng, 70), words(rng, 70, 9)
    key = dcf.generate(*both, alpha, alpha, 9, HASH)
    moved = np.frombuffer(b"x" + key.tobytes(), np.uint64, count=key.size, offset=1)
    for rank, root in enumerate(both):
        want = dcf.evaluate(key, root, alpha, 9, rank, HASH)
        assert np.array_equal(dcf.evaluate(moved, root, alpha, 9, rank, HASH), want)


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
@settings(max_examples=30, deadline=None)
def test_the_hash_is_aes_and_the_block_itself(key: bytes, block: bytes) -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    low, high = (np.frombuffer(block[i : i + 8], "<u8").astype(np.uint64) for i in (0, 8))
    encrypted = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)
    want = bytes(a ^ b for a, b in zip(encrypted, block, strict=True))
    assert b"".join(part.astype("<u8").tobytes() for part in FixedKeyHash(key)(low, high)) == want


def test_key_schedule_of_the_standard() -> None:
    """FIPS 197, Appendix A.1."""
    schedule = FixedKeyHash(bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")).round_keys.astype("<u8").tobytes()
    assert schedule[16:32].hex() == "a0fafe1788542cb123a339392a6c7605"
    assert schedule[160:].hex() == "d014f9a8c9ee2589e13f0cc8b6630ca6"


def test_wrong_arguments_raise() -> None:
    rng = np.random.default_rng(9)
    both, alpha = roots(rng, 4), words(rng, 4, 8)
    key = dcf.generate(*both, alpha, alpha, 8, HASH)
    bad: dict[str, tuple[type[Exception], Any]] = {
        "depth": (ValueError, lambda: dcf.generate(*both, alpha, alpha, 65, HASH)),
        "levels": (ValueError, lambda: dcf.evaluate(key, both[0], alpha, 0, 0, HASH)),
        "rank": (ValueError, lambda: dcf.evaluate(key, both[0], alpha, 8, 2, HASH)),
        "key": (ShapeError, lambda: dcf.evaluate(key[1:], both[0], alpha, 8, 0, HASH)),
        "length": (ShapeError, lambda: dcf.generate(*both, alpha[1:], alpha, 8, HASH)),
        "dtype": (TypeError, lambda: dcf.evaluate(key, both[0], alpha.view(np.int64), 8, 0, HASH)),
    }
    for error, call in bad.values():
        with pytest.raises(error):
            call()
