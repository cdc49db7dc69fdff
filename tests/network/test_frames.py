"""Frames: whatever goes in comes out the same, and nothing else is taken for it."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sharetorch.mpc.channel import BYTES, RING, WORDS, Form, form_of
from sharetorch.mpc.errors import ConnectionLostError, FrameError, NetworkError
from sharetorch.mpc.network import frames
from sharetorch.mpc.network.frames import Direction
from sharetorch.mpc.network.links import Incoming, Received, Times
from sharetorch.mpc.ring import PowerRing, Ring, WideElements, ring_of

RINGS: list[Ring] = [PowerRing(bits) for bits in (2, 7, 8, 9, 16, 31, 33, 57, 63, 64)]
RINGS += [ring_of(q) for q in (2, 67, 2**31 - 1, 1234567891011, 2**62)]
RINGS += [ring_of(q) for q in (2**62 + 1, 2**63, 2**64 - 59, 2**64 + 13, 2**127 - 1, 2**255 - 19, 2**521 - 1)]
KEY, SESSION = bytes(range(32)), bytes(range(100, 132))
THERE = Direction(KEY, SESSION, 0, 1)

shapes = st.lists(st.sampled_from([0, 1, 1, 2, 3]), max_size=frames.MAX_DIMENSIONS).map(tuple).filter(
    lambda shape: math.prod(shape) <= 200
)  # fmt: skip
numbers64 = st.one_of(st.sampled_from([0, 1, 2**64 - 1]), st.integers(0, 2**64 - 1))


class Bytes:
    """A connection on which these bytes come, so many at a time, and then the end."""

    def __init__(self, data: bytes, most: int = 1 << 30) -> None:
        self.data, self.most, self.place = memoryview(data), most, 0

    def settimeout(self, seconds: float | None) -> None:
        pass

    def recv_into(self, view: memoryview) -> int:
        count = min(len(view), self.most, len(self.data) - self.place)
        view[:count] = self.data[self.place : self.place + count]
        self.place += count
        return count


def reader(data: bytes, ring: Ring, direction: Direction = THERE, sequence: int = 0, most: int = 1 << 30) -> Incoming:
    incoming = Incoming(Bytes(data, most), "alice", direction, ring, Times())  # type: ignore[arg-type]
    incoming._sequence = sequence
    return incoming


def sealed(fields: Any, ring: Ring, direction: Direction = THERE, sequence: int = 0, **where: Any) -> bytes:
    contents = {"operation": 1, "round": 1, "label": "opened", "fields": fields, "ring": ring, **where}
    return b"".join(frames.seal(direction, frames.DATA, sequence, **contents))


def numbers(part: Any) -> list[int]:
    return [int(value) for value in (part.array if isinstance(part, WideElements) else part).reshape(-1)]


@st.composite
def field(draw: st.DrawFn, ring: Ring) -> Any:
    kind, shape = draw(st.sampled_from([RING, RING, BYTES, WORDS])), draw(shapes)
    count = math.prod(shape)
    if kind != RING:
        dtype: Any = {BYTES: np.uint8, WORDS: np.uint64}[kind]
        top = int(np.iinfo(dtype).max)
        values = draw(st.lists(st.one_of(st.just(top), st.integers(0, top)), min_size=count, max_size=count))
        return np.array(values, dtype=dtype).reshape(shape)
    least, most = (
        (-ring.modulus // 2, ring.modulus // 2 - 1) if isinstance(ring, PowerRing) else (0, ring.modulus - 1)
    )
    one = st.one_of(st.sampled_from([least, most, 0]), st.integers(least, most))
    values = draw(st.lists(one, min_size=count, max_size=count))
    if ring.modulus > 1 << 62 and not isinstance(ring, PowerRing):
        wide = np.empty(count, dtype=object)
        wide[:] = values
        return WideElements(wide.reshape(shape))
    return torch.tensor(values, dtype=torch.int64).reshape(shape)


@pytest.mark.parametrize("ring", RINGS, ids=repr)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_field_comes_back(ring: Ring, data: st.DataObject) -> None:
    fields = tuple(data.draw(st.lists(field(ring), max_size=4)))
    operation, sequence, round = data.draw(numbers64), data.draw(numbers64), data.draw(st.integers(0, 2**16 - 1))
    label, most = data.draw(st.text(max_size=20)), data.draw(st.sampled_from([1, 7, 64, 1 << 20]))
    frame = sealed(fields, ring, sequence=sequence, operation=operation, round=round, label=label)
    forms = tuple(map(form_of, fields))
    assert len(frame) == frames.HEADER_BYTES + len(frames.table_of(forms)) + frames.body_bytes(forms, ring)
    found = reader(frame, ring, sequence=sequence, most=most).receive(operation, label, forms)
    assert found.round == round
    assert tuple(map(form_of, found.fields)) == forms
    assert list(map(numbers, found.fields)) == list(map(numbers, fields))
    assert [type(part) for part in found.fields] == [type(part) for part in fields]


@pytest.mark.parametrize("ring", RINGS, ids=repr)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_any_contents_become_canonical_elements(ring: Ring, data: st.DataObject) -> None:
    """A member that sends other bytes than those of elements can send no more than elements."""
    raw = data.draw(st.binary(min_size=3 * ring.element_bytes, max_size=3 * ring.element_bytes))
    found = numbers(frames.decode_field(Form(RING, (3,)), memoryview(bytearray(raw)), ring))
    least = -ring.modulus // 2 if isinstance(ring, PowerRing) else 0
    assert all(least <= value < least + ring.modulus for value in found)
    if isinstance(ring, PowerRing):
        pieces = (raw[i : i + ring.element_bytes] for i in range(0, len(raw), ring.element_bytes))
        words = [int.from_bytes(piece, "little") for piece in pieces]
        assert [value % ring.modulus for value in found] == [word % ring.modulus for word in words]


@pytest.mark.parametrize("size", [1 << 12, (1 << 12) + 1, 1 << 16])
def test_large_fields_are_written_from_where_they_lie(size: int) -> None:
    x = torch.arange(size)
    buffers = frames.seal(THERE, frames.DATA, 0, fields=(x,), ring=PowerRing())
    assert len(buffers) == (1 if size == 1 << 12 else 2)
    if len(buffers) == 2:
        assert len(buffers[0]) == frames.RECORD_BYTES
        assert np.shares_memory(np.frombuffer(buffers[1], np.uint8), x.numpy())
    found = reader(b"".join(buffers), PowerRing()).receive(0, "", (Form(RING, (size,)),))
    assert torch.equal(found.fields[0], x)


def test_received_elements_are_writable_and_nobody_elses() -> None:
    ring = PowerRing()
    frame = sealed((torch.tensor([1, 2]),), ring)
    one, other = (reader(frame, ring).receive(1, "opened", (Form(RING, (2,)),)).fields[0] for _ in range(2))
    one += 1
    assert other.tolist() == [1, 2]


@pytest.mark.parametrize("kind", [RING, BYTES, WORDS])
def test_fields_that_lie_otherwise_in_memory(kind: int) -> None:
    plain = np.arange(24).reshape(4, 6).astype({RING: np.int64, BYTES: np.uint8, WORDS: np.uint64}[kind])
    turned = plain.T[::2]
    part = torch.from_numpy(plain).t()[::2] if kind == RING else turned
    found = reader(sealed((part,), PowerRing()), PowerRing()).receive(1, "opened", (Form(kind, (3, 4)),))
    assert numbers(found.fields[0]) == turned.reshape(-1).tolist()


def test_more_than_a_table_holds() -> None:
    one = torch.tensor([1])
    assert len(sealed((one,) * frames.MAX_FIELDS, PowerRing())) == 64 + 16 * (10 + 8)
    with pytest.raises(FrameError, match="17 fields"):
        sealed((one,) * 17, PowerRing())
    with pytest.raises(FrameError, match="9 dimensions"):
        sealed((one.reshape((1,) * 9),), PowerRing())


def test_longer_chains_than_a_header_says() -> None:
    """A peer that claims the longest chain must not make our next message fail."""
    frame = sealed((torch.tensor([1]),), PowerRing(), round=1 << 16)
    assert reader(frame, PowerRing()).receive(1, "opened", (Form(RING, (1,)),)).round == frames.MAX_ROUND


@pytest.mark.parametrize("most", [1, 11, 64, 100, 1 << 20])
def test_frames_follow_each_other(most: int) -> None:
    ring = PowerRing()
    parts = [
        b"".join(frames.seal(THERE, frames.BEAT, 0)), sealed((torch.tensor([1]),), ring, sequence=1),
        b"".join(frames.seal(THERE, frames.BEAT, 2)), b"".join(frames.seal(THERE, frames.BEAT, 3)),
        sealed((torch.tensor([2]),), ring, sequence=4, operation=2),
    ]  # fmt: skip
    incoming = reader(b"".join(parts), ring, most=most)
    found = [incoming.receive(operation, "opened", (Form(RING, (1,)),)) for operation in (1, 2)]
    assert [part.fields[0].item() for part in found] == [1, 2]
    with pytest.raises(ConnectionLostError):
        incoming.receive(3, "opened", (Form(RING, (1,)),))


@pytest.mark.parametrize("most", [1, 11, 64, 100, 1 << 20])
def test_looking_takes_heartbeats_and_leaves_messages(most: int) -> None:
    ring = PowerRing()
    beats = [b"".join(frames.seal(THERE, frames.BEAT, number)) for number in range(3)]
    message = sealed((torch.tensor([1, 2]),), ring, sequence=3)
    incoming = reader(b"".join([*beats, message]), ring, most=most)
    for _ in range(3):
        incoming.poll()
    assert incoming.receive(1, "opened", (Form(RING, (2,)),)).fields[0].tolist() == [1, 2]


PLACES = st.fixed_dictionaries(
    {
        "key": st.sampled_from([KEY, bytes(32)]),
        "session": st.sampled_from([SESSION, SESSION[:8] + bytes(24), bytes(32)]),
        "ranks": st.sampled_from([(0, 1), (1, 0), (0, 2), (2, 1)]),
        "sequence": st.integers(0, 2),
        "operation": st.integers(0, 2),
        "label": st.sampled_from(["opened", "masked", ""]),
        "form": st.sampled_from([Form(RING, (4,)), Form(RING, (2, 2)), Form(WORDS, (4,)), Form(BYTES, (32,))]),
    }
)


def payload(form: Form) -> Any:
    if form.kind == RING:
        return torch.zeros(form.shape, dtype=torch.int64)
    return np.zeros(form.shape, {BYTES: np.uint8, WORDS: np.uint64}[form.kind])


def at(place: Any) -> Direction:
    return Direction(place["key"], place["session"], *place["ranks"])


def taken(frame: bytes, place: Any) -> Received:
    incoming = reader(frame, PowerRing(), at(place), place["sequence"])
    return incoming.receive(place["operation"], place["label"], (place["form"],))


@settings(max_examples=400, deadline=None)
@given(PLACES, PLACES)
def test_a_frame_fits_one_place_only(here: Any, there: Any) -> None:
    """All of these have contents of 32 bytes: nothing but header, table and tag tells them apart."""
    frame = sealed(
        (payload(here["form"]),), PowerRing(), at(here), here["sequence"], operation=here["operation"],
        label=here["label"],
    )  # fmt: skip
    assert taken(frame, here).round == 1
    equal = {**here, "session": here["session"][:8]} == {**there, "session": there["session"][:8]}
    if not equal:
        with pytest.raises(FrameError):
            taken(frame, there)


def test_no_memory_is_taken_for_what_is_not_due() -> None:
    """Lengths and sizes in a frame are compared with what is due before anything is allocated."""
    ring, forms = PowerRing(), (Form(RING, (2,)),)
    huge = [
        [torch.empty((1 << 59,), dtype=torch.int64, device="meta")], [torch.empty((1 << 15,) * 4, device="meta")],
        [torch.empty((1 << 40,) + (0,) * 7, device="meta")],
    ]  # fmt: skip
    attacks = []
    for fields in huge:
        table = frames.table_of(tuple(map(form_of, fields)))
        for length in (len(table) + 16, 1 << 40, (1 << 63) - 1, (1 << 64) - 1):
            head = frames.HEADER.pack(
                b"STF1", 1, 1, 1, 0, SESSION[:8], 0, 1, 1, frames.label_code("opened"), 0, 1, length, bytes(16)
            )[:48]
            attacks.append(head + frames._tag(THERE, head, table) + table + bytes(16))
    tracemalloc.start()
    for frame in attacks:
        with pytest.raises(NetworkError):
            reader(frame, ring).receive(1, "opened", forms)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_key_is_not_shown() -> None:
    assert KEY.hex() not in repr(THERE) and repr(THERE) == "Direction(0 -> 1)"
