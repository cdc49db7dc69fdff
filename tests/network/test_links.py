"""Connections between two members: what arrives, what waits, and how it ends. All over real TLS connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from sharetorch.mpc.channel import RING, Form, Message
from sharetorch.mpc.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    FrameError,
    NetworkError,
    SessionEndedError,
)
from sharetorch.mpc.network import frames
from sharetorch.mpc.network.frames import Direction
from sharetorch.mpc.network.links import GOODBYE, Incoming, Link, Note, Outgoing, Times, close_all
from sharetorch.mpc.ring import PowerRing
from tests.network.test_wire_attacks import Doors

RING64 = PowerRing()
THERE, BACK = Direction(bytes(32), bytes(32), 0, 1), Direction(bytes([1]) * 32, bytes(32), 1, 0)
SHORT = Times(heartbeat=0.05, silence=0.4, round=1.0)
ONE = (Form(RING, (1,)),)


def message(*values: int, operation: int = 1, label: str = "opened", sender: int = 0) -> Message:
    return Message(sender, 1 - sender, operation, label, (torch.tensor(values),), 1, 8 * len(values))


class Ends(NamedTuple):
    """One direction: alice's end and bob's."""

    out: Outgoing
    into: Incoming


Open = Callable[..., Ends]


@pytest.fixture
def doors(keys: Path) -> Iterator[Doors]:
    made = Doors(keys)
    yield made
    made.close()


@pytest.fixture
def connect(doors: Doors) -> Iterator[Open]:
    made: list[Ends] = []

    def start(times: Times = SHORT, direction: Direction = THERE, heard: Times | None = None) -> Ends:
        ours, theirs = doors.open()
        names = ("bob", "alice") if direction is THERE else ("alice", "bob")
        out, into = (theirs, ours) if direction is BACK else (ours, theirs)
        ends = Ends(
            Outgoing(out, names[0], direction, RING64, times),
            Incoming(into, names[1], direction, RING64, heard or times),
        )
        made.append(ends)
        return ends

    yield start
    for ends in made:
        ends.into.close()
        ends.out.close()


def silent(ends: Ends) -> None:
    """Let alice hang: no heartbeat, nothing, and the connection stays."""
    ends.out._changed.acquire()


def speaking(ends: Ends) -> None:
    ends.out._changed.release()


def test_messages_arrive_in_order(connect: Open) -> None:
    ends = connect()
    for number in range(50):
        ends.out.send(message(number, operation=number))
    for number in range(50):
        found = ends.into.receive(number, "opened", ONE)
        assert (found.fields[0].tolist(), found.round) == ([number], 1)
    assert ends.into.waited > 0


@pytest.mark.parametrize("size", [1 << 13, 1 << 16, 1 << 20])
def test_large_messages_both_ways_at_once(connect: Open, size: int) -> None:
    """Neither side reads before it has handed over all it sends; more than the system buffers.

    The connection takes short ones until it is full, then a part of one; the longest are all written by the thread.
    """
    there, back = connect(), connect(direction=BACK)
    x, count = torch.arange(size), (4 << 20) // size
    for number in range(count):
        there.out.send(Message(0, 1, number, "x", (x + number,), 1, 8 * size))
        back.out.send(Message(1, 0, number, "x", (x - number,), 1, 8 * size))
    assert there.out._waiting and back.out._waiting
    for number in range(count):
        assert torch.equal(there.into.receive(number, "x", (Form(RING, (size,)),)).fields[0], x + number)
        assert torch.equal(back.into.receive(number, "x", (Form(RING, (size,)),)).fields[0], x - number)


def test_heartbeats_keep_a_quiet_connection(connect: Open) -> None:
    ends = connect()
    end = time.monotonic() + 3 * SHORT.silence
    while time.monotonic() < end:
        ends.into.poll()
        time.sleep(0.02)
    ends.out.send(message(5))
    assert ends.into.receive(1, "opened", ONE).fields[0].item() == 5


@pytest.mark.parametrize("how", ["poll", "receive"])
def test_silence(connect: Open, how: str) -> None:
    ends = connect(heard=Times(heartbeat=0.05, silence=0.3, round=20))
    silent(ends)
    start = time.monotonic()
    try:
        with pytest.raises(ConnectionLostError, match=r"Nothing was heard of alice for 0\.3 s"):
            while how == "poll":
                ends.into.poll()
                time.sleep(0.01)
            ends.into.receive(1, "opened", ONE)
        assert 0.2 < time.monotonic() - start < 2
    finally:
        speaking(ends)


def test_alive_but_late(connect: Open) -> None:
    ends = connect(heard=Times(heartbeat=0.05, silence=0.4, round=0.5))
    start = time.monotonic()
    with pytest.raises(DeadlineExceededError, match=r"alice did not send 'opened' within 0\.5 s"):
        ends.into.receive(1, "opened", ONE)
    assert 0.4 < time.monotonic() - start < 2


def test_a_byte_at_a_time(doors: Doors) -> None:
    """Whoever sends a frame too slowly is not silent, but late."""
    ours, theirs = doors.open()
    data = b"".join(frames.seal(THERE, frames.DATA, 0, operation=1, label="opened", fields=(torch.zeros(50).long(),),
                                ring=RING64))  # fmt: skip
    stop = threading.Event()

    def trickle() -> None:
        for byte in data:
            if stop.wait(0.01):
                return
            ours.sendall(bytes([byte]))

    thread = threading.Thread(target=trickle)
    thread.start()
    incoming = Incoming(theirs, "alice", THERE, RING64, Times(heartbeat=0.05, silence=0.2, round=0.4))
    with pytest.raises(DeadlineExceededError):
        incoming.receive(1, "opened", (Form(RING, (50,)),))
    stop.set()
    thread.join()


def test_closed(connect: Open) -> None:
    ends = connect()
    ends.out.close()
    with pytest.raises(ConnectionLostError, match="alice closed the connection"):
        ends.into.receive(1, "opened", ONE)


def test_sending_to_one_who_has_gone(connect: Open) -> None:
    ends = connect()
    ends.into.close()
    with pytest.raises(ConnectionLostError, match="The connection to bob is lost"):
        for _ in range(500):
            ends.out.send(message(1))
            time.sleep(0.002)
    with pytest.raises(ConnectionLostError):
        ends.out.wait_for_room()


@pytest.mark.parametrize("how", ["poll", "receive"])
def test_a_note_says_why(connect: Open, how: str) -> None:
    ends = connect()
    ends.out.close(Note("FrameError", "crypto_provider", "7", "something is wrong"))
    with pytest.raises(SessionEndedError, match="alice ended the session: something is wrong") as caught:
        while how == "poll":
            ends.into.poll()
        ends.into.receive(1, "opened", ONE)
    error = caught.value
    assert (error.member, error.operation, error.cause) == ("crypto_provider", "7", "FrameError")


@pytest.mark.parametrize("text", ["x" * 5000, "é" * 5000, "𝔽" * 5000, "\ud800" * 5000], ids=["1", "2", "4", "half"])
def test_a_long_note_is_cut(connect: Open, text: str) -> None:
    ends = connect()
    ends.out.close(Note(text, text, text, text))
    with pytest.raises(SessionEndedError):
        ends.into.receive(1, "opened", ONE)


def test_a_note_takes_the_place_of_what_waits(connect: Open) -> None:
    """Who ends a session sends no share any more; the others still learn why."""
    ends, size = connect(Times()), 1 << 22
    ends.out.send(Message(0, 1, 1, "x", (torch.zeros(size, dtype=torch.int64),), 1, 8 * size))
    while ends.out._queue:  # until it is on its way, which it cannot go to its end
        time.sleep(0.001)
    for operation in (2, 3):
        ends.out.send(message(operation, operation=operation))
    closing = threading.Thread(target=ends.out.close, args=(Note("ShapeError", None, None, "no"),))
    closing.start()
    while not ends.out._closing:
        time.sleep(0.001)
    ends.into.receive(1, "x", (Form(RING, (size,)),))
    with pytest.raises(SessionEndedError, match="no"):
        ends.into.receive(2, "opened", ONE)
    closing.join()


def test_a_goodbye_comes_after_what_waits(connect: Open) -> None:
    ends = connect()
    for number in range(20):
        ends.out.send(message(number, operation=number))
    ends.out.close(Note(GOODBYE, None, None, "done"))
    for number in range(20):
        assert ends.into.receive(number, "opened", ONE).fields[0].item() == number
    with pytest.raises(NetworkError) as caught:
        ends.into.receive(20, "opened", ONE)
    assert not isinstance(caught.value, FrameError)


@pytest.mark.parametrize(
    "note",
    [
        b"", b"\xc1", b"\x94\xa1\xff\xc0\xc0\xa1a", b"\x91" * 1000, b"\x90", b"\x95\xa1a\xc0\xc0\xa1a\xa1b",
        b"\xdd\xff\xff\xff\xff",
    ],
    ids=["empty", "nothing", "no text", "deep", "no fields", "too many", "huge"],
)  # fmt: skip
def test_notes_that_are_none(connect: Open, note: bytes) -> None:
    ends = connect()
    with ends.out._changed:
        ends.out._put(frames.ABORT, note=note)
    with pytest.raises(FrameError):
        ends.into.receive(1, "opened", ONE)


def test_wrong_message(connect: Open) -> None:
    for sent, due in (
        (message(1), (2, "opened", ONE)), (message(1), (1, "masked", ONE)),
        (message(1, 2), (1, "opened", ONE)), (message(1), (1, "opened", (Form(RING, (1, 1)),))),
    ):  # fmt: skip
        ends = connect()
        ends.out.send(sent)
        with pytest.raises(FrameError):
            ends.into.receive(*due)


def test_looking_does_not_lose_a_message(connect: Open) -> None:
    ends = connect()
    for number in range(3):
        ends.out.send(message(number, operation=number))
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        ends.into.poll()
    assert [ends.into.receive(number, "opened", ONE).fields[0].item() for number in range(3)] == [0, 1, 2]


def test_looking_ends_under_a_flood_of_heartbeats(connect: Open) -> None:
    ends, stop = connect(), threading.Event()

    def flood() -> None:
        while not stop.is_set():
            with ends.out._changed:
                if ends.out._waiting < 1 << 18:
                    ends.out._put(frames.BEAT)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(20):
            start = time.monotonic()
            ends.into.poll()
            assert time.monotonic() - start < 2
    finally:
        stop.set()
        thread.join()


def test_a_full_queue_holds_the_sender(connect: Open) -> None:
    """Bob reads nothing: alice waits before her next operation, and then gives up; what waits is bounded."""
    times = Times(heartbeat=5, silence=15, round=0.3, queue_bytes=1 << 20)
    ends = connect(times)
    x = torch.zeros(1 << 17, dtype=torch.int64)
    with pytest.raises(DeadlineExceededError, match=r"bob has taken too little for 0\.3 s"):
        for number in range(1000):
            ends.out.wait_for_room()
            ends.out.send(Message(0, 1, number, "x", (x,), 1, 1 << 20))
    assert ends.out._waiting < 4 << 20
    for number in range(3):
        ends.into.receive(number, "x", (Form(RING, (1 << 17,)),))
    ends.into.close()


def test_waiting_ends_when_bob_reads(connect: Open) -> None:
    ends = connect(Times(queue_bytes=1 << 20))
    x, count = torch.zeros(1 << 17, dtype=torch.int64), 30

    def read() -> None:
        for number in range(count):
            ends.into.receive(number, "x", (Form(RING, (1 << 17,)),))

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(count):
        ends.out.wait_for_room()
        ends.out.send(Message(0, 1, number, "x", (x,), 1, 1 << 20))
    thread.join(20)
    assert not thread.is_alive()


def test_interrupting_one_who_waits(connect: Open) -> None:
    ends, found = connect(Times()), list[Any]()

    def wait() -> None:
        try:
            ends.into.receive(1, "opened", ONE)
        except NetworkError as error:
            found.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    ends.into.interrupt()
    thread.join(5)
    assert isinstance(found[0], ConnectionLostError)


def test_one_who_hangs_does_not_delay_the_others(connect: Open) -> None:
    """Closing tells everybody at the same time, and gives up on whoever does not listen."""
    links = [Link(connect(Times()).out, connect(Times(), BACK).into) for _ in range(4)]
    stuck = links[0].outgoing
    stuck.send(Message(0, 1, 1, "x", (torch.zeros(1 << 22, dtype=torch.int64),), 1, 32 << 20))
    start = time.monotonic()
    close_all(links, Note("ShapeError", None, None, "no"))
    assert time.monotonic() - start < 4
    assert not any(link.outgoing._thread.is_alive() for link in links)
