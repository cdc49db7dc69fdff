"""Values as bytes and back: what survives, what is refused, what foreign bytes can do."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import sharetorch as sy
from sharetorch.exceptions import (
    MalformedRequestError,
    ObjectGoneError,
    ShareTorchError,
    UnsupportedDtypeError,
    UnsupportedOperationError,
)
from sharetorch.remote import wire
from sharetorch.remote.wire import DTYPES

Worker = sy.VirtualWorker


def there_and_back(value: Any) -> Any:
    return sy.serde.deserialize(sy.serde.serialize(value))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda parts: st.lists(parts, max_size=4) | st.dictionaries(st.text(), parts, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_plain_values_survive(value: Any) -> None:
    assert there_and_back(value) == value


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 1, 3)])
def test_tensors_survive_bit_for_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = (torch.rand(shape) * 8).to(dtype)
    y = there_and_back(x)
    assert y.dtype == dtype and y.shape == x.shape
    assert torch.equal(y.contiguous().reshape(-1).view(torch.uint8), x.reshape(-1).view(torch.uint8))


def test_what_is_said_of_a_tensor_survives() -> None:
    x = torch.tensor([1.0], requires_grad=True).tag("#a", "#b").describe("one")
    y = there_and_back(x)
    assert y.tags == {"#a", "#b"} and y.description == "one" and y.requires_grad
    assert not there_and_back(torch.ones(1)).requires_grad


def test_tuples_and_sets_come_back_as_lists() -> None:
    assert there_and_back((1, (2, 3))) == [1, [2, 3]]
    assert there_and_back({4}) == [4]


def test_fixed_precision_survives() -> None:
    x = there_and_back(torch.tensor([0.1, -2.5]).fix_precision())
    assert isinstance(x, sy.FixedPrecisionTensor)
    assert x.child.tolist() == [100, -2500]


def test_a_pointer_hands_its_claim_over(bob: Worker) -> None:
    x = torch.tensor([1.0, 2.0]).tag("#a").send(bob)
    data = sy.serde.serialize(x)
    assert not x.gc
    y = sy.serde.deserialize(data)
    assert isinstance(y, sy.PointerTensor)
    assert y.id_at_location == x.id and y.location is bob and y.gc and y.tags == {"#a"}
    del y
    assert bob.search("#a") == []


def test_who_reads_a_pointer_owns_it(alice: Worker, bob: Worker) -> None:
    data = sy.serde.serialize({"x": [torch.ones(1).send(bob)]})
    x = sy.serde.deserialize(data, worker=alice)["x"][0]
    assert x.owner is alice and x.location is bob


def test_a_handle_of_a_shared_tensor_is_read_once(alice: Worker, bob: Worker, james: Worker) -> None:
    x = torch.tensor([1.5, -2.0]).share(alice, bob, crypto_provider=james)
    data = sy.serde.serialize(x)
    assert sy.serde.deserialize(data).get().tolist() == [1.5, -2.0]
    with pytest.raises(ObjectGoneError, match="taken before"):
        sy.serde.deserialize(data)


def test_no_value_of_a_shared_tensor_is_in_the_bytes(alice: Worker, bob: Worker, james: Worker) -> None:
    x = torch.arange(100.0).share(alice, bob, crypto_provider=james)
    held = [worker._objects[x.handle.number].numpy().tobytes() for worker in (alice, bob)]
    data = sy.serde.serialize(x)
    assert len(data) < 200
    assert not any(share[place : place + 8] in data for share in held for place in range(0, len(share), 8))


@pytest.mark.parametrize("value", [object(), lambda: 0, torch.nn.Linear, [object()], [range(3)]])
def test_what_has_no_form(value: Any) -> None:
    with pytest.raises(UnsupportedDtypeError, match="cannot be sent"):
        sy.serde.serialize(value)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        sy.serde.deserialize(data)
    except ShareTorchError:
        pass


@given(st.data())
def test_changed_bytes_are_read_or_refused(data: Any) -> None:
    good = bytearray(sy.serde.serialize([torch.ones(2, 2), "text", 3]))
    place = data.draw(st.integers(0, len(good) - 1))
    good[place] ^= data.draw(st.integers(1, 255))
    try:
        sy.serde.deserialize(bytes(good))
    except ShareTorchError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps([1]),
        b"",
        b"\xc1",
        wire.encode([1]),
        wire.encode([1, 2, [], None, False, 0]),
        wire.encode(["1", 2]),
        b"\x91" * 5000,
    ],
)
def test_foreign_bytes(data: bytes) -> None:
    with pytest.raises(MalformedRequestError):
        sy.serde.deserialize(data)


def test_another_version_is_named() -> None:
    with pytest.raises(MalformedRequestError, match="version 2; version 1 is understood"):
        sy.serde.deserialize(wire.encode([2, "x"]))


@pytest.fixture
def compression() -> Iterator[Any]:
    before = sy.serde.compression.default_compress_scheme
    yield sy.serde.compression
    sy.serde.compression.default_compress_scheme = before


def test_compression_is_refused_and_none_is_the_default(compression: Any) -> None:
    from sharetorch.serde.compression import NO_COMPRESSION

    compression.default_compress_scheme = NO_COMPRESSION
    assert there_and_back(3) == 3
    compression.default_compress_scheme = "lz4"
    with pytest.raises(UnsupportedOperationError, match="'lz4' is not available"):
        sy.serde.serialize(3)
