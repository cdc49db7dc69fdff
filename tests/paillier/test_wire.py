"""Bytes from others: the right ones come back whole, all others raise."""

import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharetorch.mpc.errors import ShareTorchError
from sharetorch.mpc.paillier import (
    CiphertextError,
    KeyPair,
    KeySizeError,
    PaillierTensor,
    WrongKeyError,
    encrypt,
    keygen,
)

PUBLIC, PRIVATE = keygen(256, insecure_test_key=True)
DATA = encrypt(torch.tensor([[1.5, -2.0]]), PUBLIC).serialise()
CELL = 64


def with_cell(number: int) -> bytes:
    return DATA[:-CELL] + number.to_bytes(CELL, "big")


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 2), (0, 4)])
def test_round_trip(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.ones(shape, dtype=dtype) * -3
    e = PaillierTensor.deserialise(encrypt(x, PUBLIC).serialise(), PUBLIC)
    assert e.dtype == dtype and torch.equal(e.decrypt(private_key=PRIVATE), x)
    assert torch.equal((e + e * 2).decrypt(private_key=PRIVATE), x * 3)


def test_results_keep_unit_and_range() -> None:
    e = (encrypt(torch.tensor([1.5, 4.0]), PUBLIC) * 0.25).mean()
    back = PaillierTensor.deserialise(e.serialise(), PUBLIC)
    assert back.content.scale == e.content.scale
    assert e.content.bound <= back.content.bound <= 2 * e.content.bound
    assert back.decrypt(private_key=PRIVATE).item() == 0.6875


def test_a_key_of_full_length_is_read_from_the_bytes(full_keys: KeyPair) -> None:
    data = encrypt(torch.tensor([5]), full_keys.public_key).serialise()
    e = PaillierTensor.deserialise(data)
    assert e.public_key == full_keys.public_key
    assert e.decrypt(private_key=full_keys.private_key).tolist() == [5]


def test_a_short_key_in_the_bytes_is_refused() -> None:
    with pytest.raises(KeySizeError, match="2048"):
        PaillierTensor.deserialise(DATA)


def test_another_key_than_expected_is_refused(other_keys: KeyPair) -> None:
    with pytest.raises(WrongKeyError):
        PaillierTensor.deserialise(DATA, other_keys.public_key)


@pytest.mark.parametrize("length", range(0, len(DATA), 7))
def test_every_beginning_is_refused(length: int) -> None:
    with pytest.raises(CiphertextError):
        PaillierTensor.deserialise(DATA[:length], PUBLIC)


@pytest.mark.parametrize(
    "data",
    [
        DATA + b"\x00",
        b"X" + DATA[1:],
        with_cell(0),
        with_cell(PUBLIC.n),
        with_cell(PRIVATE.p),
        with_cell(PRIVATE.q**2),
        with_cell(PUBLIC.n**2),
        with_cell(2 ** (8 * CELL) - 1),
        "text",
        None,
        b"",
    ],
)
def test_bytes_that_are_refused(data: bytes) -> None:
    with pytest.raises(CiphertextError):
        PaillierTensor.deserialise(data, PUBLIC)


@pytest.mark.parametrize("sizes", [(2**63, 2), (0, 2**62), (2**32, 2**32), (2**64 - 1, 0)])
def test_sizes_beyond_the_data_are_refused(sizes: tuple[int, int]) -> None:
    place = len(DATA) - 2 * CELL - 16
    with pytest.raises(CiphertextError):
        PaillierTensor.deserialise(DATA[:place] + struct.pack(">2Q", *sizes) + DATA[place + 16 :], PUBLIC)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_harmless(place: int, change: int) -> None:
    data = bytearray(DATA)
    data[place] ^= change
    try:
        PaillierTensor.deserialise(bytes(data), PUBLIC).decrypt(private_key=PRIVATE)
    except ShareTorchError:
        pass


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ShareTorchError):
        PaillierTensor.deserialise(DATA[:8] + data, PUBLIC)


def test_a_plaintext_beyond_the_bound_is_noticed() -> None:
    # A uniform unit is an encryption of a uniform number, far beyond what the tensor may hold.
    with pytest.raises(CiphertextError, match="tampered"):
        PaillierTensor.deserialise(with_cell(3**300), PUBLIC).decrypt(private_key=PRIVATE)
