"""Items, requests and replies of the control channel, and what ends it."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from websockets.frames import Frame, Opcode

from sharetorch.mpc.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    FrameError,
    HandshakeError,
    LimitExceededError,
    UnsupportedOperationError,
)
from sharetorch.mpc.network.identity import Peer
from sharetorch.remote.network.control import NODE, NOTICE, PART, PART_BYTES, REPLY, SESSION, Control
from sharetorch.remote.network.settings import NetworkSettings
from sharetorch.remote.network.stream import Stream
from sharetorch.remote.network.websocket import Websocket, open_client, open_server
from tests.network.tools import QUICK, until

SETTINGS = NetworkSettings(max_message_bytes=32 << 20)


def websockets() -> tuple[Websocket, Websocket]:
    """Both ends of a websocket over a pair of sockets, that of a client first."""
    left, right = socket.socketpair()
    opened: list[Websocket] = []
    thread = threading.Thread(target=lambda: opened.append(open_server(Stream(right), 5)))
    thread.start()
    client = open_client(Stream(left), "localhost:1", "the worker", 5)
    thread.join(5)
    return client, opened[0]


class Pair:
    """Two controls that are connected. The server echoes requests, in a thread of its own."""

    def __init__(self, settings: NetworkSettings = SETTINGS, serve: Any = None) -> None:
        client, server = websockets()
        self.items: list[tuple[int, int, bytes]] = []
        self.raw = client
        self.server = Control(server, Peer("me", b""), settings, serve or self._echo).start()
        self.client = Control(client, Peer("bob", b""), settings, self._take)

    def _echo(self, control: Control, kind: int, number: int, payload: bytes) -> None:
        self.items.append((kind, number, bytes(payload)))
        if number:
            control.reply(number, payload)

    def _take(self, control: Control, kind: int, number: int, payload: bytes) -> None:
        self.items.append((kind, number, bytes(payload)))


@pytest.fixture
def connected() -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def run(**options: Any) -> Pair:
        made.append(Pair(**options))
        return made[-1]

    yield run
    for pair in made:
        for control in (pair.client, pair.server):
            control.close()
            control.abandon()
            control.join(5)


@pytest.fixture
def pair(connected: Callable[..., Pair]) -> Pair:
    found = connected()
    found.client.start()
    return found


def test_requests_get_their_own_replies(pair: Pair) -> None:
    assert pair.client.request(NODE, b"one") == b"one"
    futures = [pair.client.submit(NODE, str(number).encode()) for number in range(100)]
    assert [future.result(5) for future in futures] == [str(number).encode() for number in range(100)]


def test_threads_get_their_own_replies(pair: Pair) -> None:
    wrong: list[bytes] = []

    def run(name: int) -> None:
        for number in range(100):
            asked = f"{name} {number}".encode()
            if pair.client.request(NODE, asked, 20) != asked:
                wrong.append(asked)

    threads = [threading.Thread(target=run, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong and not any(thread.is_alive() for thread in threads)


def test_posts_arrive_in_order_together_with_requests(pair: Pair) -> None:
    for number in range(500):
        pair.client.post(SESSION, str(number).encode())
    pair.client.request(NODE, b"last")
    assert [payload for _, _, payload in pair.items] == [*(str(number).encode() for number in range(500)), b"last"]


def test_posts_leave_by_themselves(pair: Pair) -> None:
    pair.client.post(NODE, b"alone")
    assert until(lambda: pair.items == [(NODE, 0, b"alone")], 2)


def test_notices_come_unasked(pair: Pair) -> None:
    pair.client.request(NODE, b"first")
    pair.server.post(NOTICE, b"news")
    assert until(lambda: (NOTICE, 0, b"news") in pair.items, 2)


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES, 20_000_000])
def test_items_of_any_size(pair: Pair, size: int) -> None:
    payload = bytes(bytearray(range(256))) * (size // 256) + b"x" * (size % 256)
    assert pair.client.request(NODE, payload, 30) == payload


def test_large_items_are_refused_by_their_announcement(pair: Pair) -> None:
    with pytest.raises(ConnectionLostError):  # with the reason, unless a reset overtakes it
        pair.client.request(NODE, bytes((32 << 20) + 1), 30)
    assert until(lambda: pair.server.error is not None, 5)
    assert isinstance(pair.server.error, LimitExceededError)
    assert "announces an item of 33554433 bytes; at most 33554432" in str(pair.server.error)


def test_refusals_are_errors(connected: Callable[..., Pair]) -> None:
    def refuse(control: Control, kind: int, number: int, payload: bytes) -> None:
        control.refuse(number, UnsupportedOperationError("Not here; ask there."))

    pair = connected(serve=refuse)
    pair.client.start()
    with pytest.raises(UnsupportedOperationError, match="Not here; ask there"):
        pair.client.request(SESSION, b"")


def test_deadlines(connected: Callable[..., Pair]) -> None:
    held: list[int] = []
    pair = connected(serve=lambda control, kind, number, payload: held.append(number))
    pair.client.start()
    with pytest.raises(DeadlineExceededError, match=r"bob is alive but did not answer within 0\.2 s"):
        pair.client.request(NODE, b"", 0.2)
    pair.server.reply(held[0], b"too late")
    assert not pair.client.closed
    time.sleep(0.1)
    assert not pair.client.closed


def test_what_is_under_way_when_the_connection_ends(connected: Callable[..., Pair]) -> None:
    pair = connected(serve=lambda control, kind, number, payload: None)
    pair.client.start()
    reasons: list[Exception] = []
    pair.client.on_close.append(reasons.append)
    future = pair.client.submit(NODE, b"")
    pair.server.close("going home")
    with pytest.raises(ConnectionLostError, match="closed the connection and says: going home.*not sent again"):
        future.result(5)
    assert until(lambda: len(reasons) == 1)
    for use in (pair.client.request, pair.client.submit, pair.client.post):
        with pytest.raises(ConnectionLostError, match="Connect again"):
            use(NODE, b"")


def test_a_request_that_waits_for_its_reply_by_itself_hears_of_the_end(connected: Callable[..., Pair]) -> None:
    pair = connected(serve=lambda control, kind, number, payload: control.close("no"))
    pair.client.start()
    with pytest.raises(ConnectionLostError):
        pair.client.request(NODE, b"")


def test_silence_is_noticed(connected: Callable[..., Pair]) -> None:
    client, server = websockets()
    control = Control(client, Peer("bob", b""), QUICK, lambda *_: None).start()
    start = time.monotonic()
    with pytest.raises(ConnectionLostError, match=r"bob went silent: nothing came for 1\.5 s"):
        control.request(NODE, b"")
    assert 1.4 <= time.monotonic() - start < 4
    server.release()
    control.join(5)


def test_signs_of_life_keep_a_quiet_connection(connected: Callable[..., Pair]) -> None:
    pair = connected(settings=QUICK)
    pair.client.start()
    time.sleep(2.5)
    assert pair.client.request(NODE, b"still there") == b"still there"


def test_who_does_not_read_makes_others_wait(connected: Callable[..., Pair]) -> None:
    """The queue is bounded: a thread that posts more than fits waits until the other end reads again."""
    going = threading.Event()
    small = NetworkSettings(queue_bytes=1 << 20)
    pair = connected(settings=small, serve=lambda *_: going.wait(20))
    pair.client.start()
    posted = []

    def run() -> None:
        for number in range(80):
            pair.client.post(SESSION, bytes(1 << 18))
            posted.append(number)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.7)
    assert thread.is_alive() and len(posted) < 70
    going.set()
    thread.join(10)
    assert not thread.is_alive()


HEAD = struct.Struct(">IBQ")


def item(kind: int, payload: bytes, number: int = 1, length: int | None = None) -> bytes:
    return HEAD.pack(len(payload) if length is None else length, kind, number) + payload


def part(kind: int, total: int, piece: bytes, number: int = 1) -> bytes:
    return item(PART, struct.pack(">BQ", kind, total) + piece, number)


BIG = PART_BYTES + 10
MALFORMED = {
    "empty": b"",
    "half a head": item(NODE, b"")[:5],
    "head and no more": item(NODE, b"abc")[:-1],
    "longer than it is": item(NODE, b"abc", length=4),
    "far longer": item(NODE, b"abc", length=2**32 - 1),
    "rest": item(NODE, b"abc") + b"\0",
    "kind 0": item(0, b""),
    "kind 200": item(200, b""),
    "reply to nothing": item(REPLY, b"", 0),
    "part without contents": item(PART, b"\3"),
    "part of a part": part(PART, BIG, b"x"),
    "part of kind 99": part(99, BIG, b"x"),
    "part of what needs none": part(NODE, 10, b"x"),
    "parts of two": part(NODE, BIG, b"x") + part(NODE, BIG + 1, b"x"),
    "parts of two numbers": part(NODE, BIG, b"x") + part(NODE, BIG, b"x", 2),
    "item between parts": part(NODE, BIG, b"x") + item(NODE, b"y"),
    "more than announced": part(NODE, BIG, bytes(PART_BYTES - 100)) + part(NODE, BIG, bytes(200)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_messages_end_the_connection(connected: Callable[..., Pair], name: str) -> None:
    pair = connected()
    pair.raw.send(MALFORMED[name])
    assert until(lambda: pair.server.closed, 5)
    assert isinstance(pair.server.error, FrameError)
    with pytest.raises(ConnectionLostError, match="FrameError"):
        for _ in range(100):
            pair.raw.receive(5)


def test_sizes_without_bound_take_no_memory(connected: Callable[..., Pair]) -> None:
    pair = connected()
    pair.raw.send(part(NODE, 2**63, b"x"))
    assert until(lambda: pair.server.closed, 5)
    assert isinstance(pair.server.error, LimitExceededError)


@pytest.mark.parametrize(
    "data",
    [
        Frame(Opcode.TEXT, b"hello").serialize(mask=True),
        Frame(Opcode.BINARY, item(NODE, b"x"), fin=False).serialize(mask=True),
        Frame(Opcode.BINARY, item(NODE, bytes(5 << 20))).serialize(mask=True)[:100],
        Frame(Opcode.BINARY, item(NODE, b"x")).serialize(mask=False),
        b"\xc2" + Frame(Opcode.BINARY, item(NODE, b"x")).serialize(mask=True)[1:],
        b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ],
    ids=["text", "fragment", "too large", "not masked", "reserved bit", "no length"],
)
def test_frames_that_are_no_messages_end_the_connection(connected: Callable[..., Pair], data: bytes) -> None:
    pair = connected()
    pair.raw._stream.write(data)
    assert until(lambda: pair.server.closed, 5)
    assert isinstance(pair.server.error, FrameError)


def test_a_flood_of_pings_ends_the_connection(connected: Callable[..., Pair]) -> None:
    pair = connected()
    pair.raw._stream.write(Frame(Opcode.PING, b"").serialize(mask=True) * 2000)
    assert until(lambda: pair.server.closed, 5)
    assert isinstance(pair.server.error, FrameError)


@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.1\r\n\r\n", b"nonsense\r\n\r\n", b"GET /" + b"x" * 10_000, b"\0" * 100]
)
def test_what_is_no_websocket_is_refused(request_: bytes) -> None:
    left, right = socket.socketpair()
    left.sendall(request_)
    left.shutdown(socket.SHUT_WR)
    stream = Stream(right)
    with pytest.raises(HandshakeError):
        open_server(stream, 5)
    stream.close()
    left.close()


def test_pages_of_browsers_are_refused() -> None:
    left, right = socket.socketpair()
    left.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: https://evil.example\r\n\r\n"
    )
    stream = Stream(right)
    with pytest.raises(HandshakeError, match="Origin"):
        open_server(stream, 5)
    assert b"403" in left.recv(1000)
    stream.close()
    left.close()


def test_a_client_that_asks_for_nothing() -> None:
    left, right = socket.socketpair()
    stream = Stream(right)
    with pytest.raises(DeadlineExceededError):
        open_server(stream, 0.2)
    stream.close()
    left.close()
