"""Streams: exact distributions, no repetition, and a test vector."""

import hmac
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from sharetorch.mpc import odd_ring
from sharetorch.mpc.errors import CorrelationReusedError
from sharetorch.mpc.kernels import set_thread_count, thread_count
from sharetorch.mpc.randomness import KEY_BYTES, SECRET_BYTES, PairSecret, Stream, fresh_stream, system_entropy
from sharetorch.mpc.ring import PowerRing, WideField, ring_of
from tests.mpc.views import require_uniform

COUNT = 1 << 16
KEY = bytes(range(KEY_BYTES))


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = thread_count()
    set_thread_count(request.param)
    yield
    set_thread_count(before)


def stream() -> Stream:
    return Stream(KEY)


def test_the_keystream_is_aes_128_in_counter_mode() -> None:
    """The counter begins at zero, so the first block is AES(0) under the key."""
    expected = Cipher(algorithms.AES(KEY), modes.ECB()).encryptor().update(bytes(16))
    assert stream().bytes(16).tobytes() == expected
    assert expected.hex() == "c6a13b37878f5b826f4f8162a1c8d879"


@pytest.mark.parametrize(
    "size", [0, 1, 15, 16, 17, 65535, 65536, 65537, (1 << 18) - 1, 1 << 18, (1 << 18) + 1, 600_000]
)
def test_long_draws_continue_the_keystream(size: int) -> None:
    whole = Cipher(algorithms.AES(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(size + 5))
    one = stream()
    assert one.bytes(size).tobytes() + one.bytes(5).tobytes() == whole


@pytest.mark.parametrize("first", [0, 1, 16, 23])
@pytest.mark.parametrize("size", [(1 << 21) - 1, 1 << 21, (1 << 21) + 5, (1 << 22) + 16, 3 * (1 << 20) + 3])
def test_long_draws_by_several_threads_are_the_keystream(size: int, first: int, threads: None) -> None:
    whole = Cipher(algorithms.AES(KEY), modes.CTR((9 << 64).to_bytes(16, "big"))).encryptor().update(bytes(size + 99))
    one = Stream(KEY).successor(9)
    drawn = [one.bytes(count).tobytes() for count in (first, size, 40)]
    assert b"".join(drawn) == whole[: first + size + 40]


def test_a_long_draw_of_a_stream_that_is_over_is_refused(threads: None) -> None:
    old = Stream(KEY)
    old.successor(1)
    with pytest.raises(CorrelationReusedError, match="over"):
        old.bytes(1 << 22)


@pytest.mark.parametrize("operation", [0, 7, 65535, 65536, 65537, (1 << 40) + 3])
def test_the_stream_of_an_operation_begins_at_its_counter(operation: int) -> None:
    secret = bytes(SECRET_BYTES)
    key = hmac.digest(secret, b"sharetorch/v2/operations/%d\x01" % (operation >> 16), "sha256")[:KEY_BYTES]
    counter = (operation << 64).to_bytes(16, "big")
    expected = Cipher(algorithms.AES(key), modes.CTR(counter)).encryptor().update(bytes(24))
    assert PairSecret(secret).stream(operation).bytes(24).tobytes() == expected


@pytest.mark.parametrize(
    ("draw", "bins"),
    [
        pytest.param(lambda s: s.residues(COUNT), 67, id="residues"),
        pytest.param(lambda s: s.nonzero_residues(COUNT) - 1, 66, id="nonzero residues"),
        pytest.param(lambda s: s.below(64, COUNT), 64, id="below 64"),
        pytest.param(lambda s: s.below(5, COUNT), 5, id="below 5"),
        pytest.param(lambda s: s.below(256, COUNT), 256, id="below 256"),
        pytest.param(lambda s: s.bits(COUNT), 2, id="bits"),
        pytest.param(lambda s: s.odd_ring(COUNT, 4).astype(np.int64), 15, id="odd ring of 4 bits"),
        pytest.param(lambda s: s.odd_ring(COUNT, 7).astype(np.int64), 127, id="odd ring of 7 bits"),
        pytest.param(lambda s: s.odd_ring(COUNT).view(np.uint8), 256, id="odd ring"),
        pytest.param(lambda s: s.words((COUNT,)).numpy().view(np.uint8), 256, id="words"),
        pytest.param(lambda s: s.uniform((COUNT,), PowerRing(5)).numpy() + 16, 32, id="small ring"),
        pytest.param(lambda s: s.uniform((COUNT,), ring_of(67)).numpy(), 67, id="field"),
        pytest.param(lambda s: s.uniform((COUNT,), ring_of(64)).numpy(), 64, id="field of a power of two"),
    ],
)
def test_draws_are_uniform_over_all_their_values(draw: Callable[[Stream], Any], bins: int) -> None:
    require_uniform(np.asarray(draw(stream())), bins, "draw")


def test_elements_of_wide_fields_are_uniform() -> None:
    ring = WideField(5 << 62)
    values = stream().uniform((1 << 13,), ring).array
    require_uniform(np.array([int(v) // (1 << 62) for v in values]), 5, "top digit")
    require_uniform(np.array([int(v) % 256 for v in values]), 256, "lowest byte")


def test_the_largest_odd_ring_element_is_drawn_and_the_modulus_is_not() -> None:
    drawn = stream().odd_ring(COUNT, 4)
    assert int(drawn.max()) == int(odd_ring.modulus(4)) - 1


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (2, 3)])
@pytest.mark.parametrize("modulus", [None, 67, 2**31 - 1, 2**127 - 1])
def test_draws_have_the_shape_asked_for(shape: tuple[int, ...], modulus: int | None) -> None:
    assert tuple(stream().uniform(shape, ring_of(modulus)).shape) == shape


def test_system_entropy_gives_as_many_bytes_as_asked_for() -> None:
    assert len(system_entropy(33)) == 33
    assert system_entropy(16) != system_entropy(16)


def test_a_fresh_stream_takes_a_whole_key() -> None:
    asked: list[int] = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    drawn = fresh_stream(entropy).words((2,))
    assert asked == [KEY_BYTES]
    assert torch.equal(drawn, Stream(bytes(KEY_BYTES)).words((2,)))


@pytest.mark.parametrize("ring", [PowerRing(), PowerRing(5), ring_of(67), ring_of((1 << 89) - 1)], ids=repr)
@pytest.mark.parametrize("drawn_before", [0, 16, 3])
def test_sums_with_uniform_elements(ring: Any, drawn_before: int) -> None:
    """The same elements as are drawn alone, and the stream goes on behind them."""
    x = stream().successor(1).uniform((3, 50), ring)
    for method, combine in ((Stream.add_uniform, ring.add), (Stream.subtract_uniform, ring.subtract)):
        one, other = stream(), stream()
        one.bytes(drawn_before), other.bytes(drawn_before)
        made = method(one, x.clone(), ring)
        assert alike(made, combine(x, other.uniform((3, 50), ring)))
        assert one.bytes(9).tobytes() == other.bytes(9).tobytes()


def alike(x: Any, y: Any) -> bool:
    return bool((x.array == y.array).all()) if hasattr(x, "array") else torch.equal(x, y)
