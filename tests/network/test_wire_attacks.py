"""A member that attacks the others over its own, genuine connections: what it can reach is an end of that session.

Whoever is no member does not get past TLS; ``test_identity.py`` and ``test_handshake.py`` have those.
"""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import torch

from sharetorch.mpc.channel import RING, Form, form_of
from sharetorch.mpc.errors import ConnectionLostError, FrameError, NetworkError, SessionEndedError
from sharetorch.mpc.network import frames
from sharetorch.mpc.network.frames import ABORT, BEAT, DATA, Direction
from sharetorch.mpc.network.identity import ALPN_PEER, Identity, accept, dial
from sharetorch.mpc.network.links import Incoming, Note, Times
from sharetorch.mpc.network.member import Member
from sharetorch.mpc.protocols.suite import SUITES
from sharetorch.mpc.ring import PowerRing
from sharetorch.remote.network.client import NetworkedWorker
from sharetorch.remote.network.node import NetworkNode
from sharetorch.remote.network.server import WorkerServer
from sharetorch.remote.network.settings import Address, NetworkSettings
from sharetorch.remote.sessions.driver import NetworkedSession
from sharetorch.remote.sessions.hosting import SessionHost
from tests.network.test_frames import Bytes

RING64 = PowerRing()
SETTINGS = NetworkSettings(connect_seconds=2.0, round_seconds=20.0)
MEMBERS = ("alice", "bob", "crypto_provider")


class Group:
    """Three workers behind real ports in this process, and the driver's connections to them."""

    def __init__(self, keys: Path) -> None:
        self.servers: list[WorkerServer] = []
        for id in MEMBERS:
            identity = Identity.load(keys, id)
            node = NetworkNode(identity, {}, SETTINGS)
            host = SessionHost(node, identity, SETTINGS)
            self.servers.append(WorkerServer(node, identity, settings=SETTINGS, sessions=host).start())
        driver = Identity.load(keys, "me")
        self.workers: list[Any] = [
            NetworkedWorker(Address(*server.address), id, driver, SETTINGS).connect()
            for server, id in zip(self.servers, MEMBERS, strict=True)
        ]

    def host(self, rank: int) -> SessionHost:
        found = self.servers[rank].sessions
        assert isinstance(found, SessionHost)
        return found

    def member(self, rank: int, session: Any) -> Member:
        found = self.host(rank)._sessions[session.id]._member
        assert found is not None
        return found

    def share(self, values: Sequence[int] = (1, 2)) -> Any:
        alice, bob, provider = self.workers
        return torch.tensor(values).share(alice, bob, crypto_provider=provider)  # type: ignore[attr-defined]

    @contextmanager
    def session(self) -> Iterator[Any]:
        alice, bob, provider = self.workers
        session = NetworkedSession([alice, bob], provider, RING64, SUITES["securenn"])
        try:
            yield session
        finally:
            session.close()

    def stop(self) -> None:
        for worker in self.workers:
            worker.close()
        for server in self.servers:
            server.stop()


def product(group: Group) -> list[float]:
    """A computation in a session of its own; [1, 4]."""
    x = group.share()
    try:
        found: list[float] = (x * x).get().tolist()
        return found
    finally:
        x.session.close()


def resident() -> int:
    """Memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.fixture(scope="module")
def group(keys: Path) -> Iterator[Group]:
    """Workers that must be as good as new after all attacks of this file, and hardly larger."""
    made = Group(keys)
    for _ in range(3):
        assert product(made) == [1, 4]
    settle(made)
    before, threads = resident(), threading.active_count()
    yield made
    assert product(made) == [1, 4]
    settle(made)
    assert resident() - before < 64 << 20
    assert threading.active_count() <= threads
    made.stop()


def settle(group: Group) -> None:
    """Wait until no session is left, and the threads of the last one have ended."""
    deadline = time.monotonic() + 10
    names = ("session ", "to ", "accept")
    while any(group.host(rank)._sessions for rank in range(3)) or any(
        thread.name.startswith(names[:2]) for thread in threading.enumerate()
    ):
        assert time.monotonic() < deadline, [thread.name for thread in threading.enumerate()]
        time.sleep(0.01)


# --------------------------------------------------------------------------------------------------------- recording


class Recorded(NamedTuple):
    """A frame that was sent, and what its receiver was waiting for."""

    data: bytes
    kind: int
    direction: Direction
    sequence: int
    operation: int
    label: str
    forms: tuple[Form, ...]

    @property
    def head(self) -> int:
        """Bytes of header and table: everything the tag covers, and the tag."""
        return frames.HEADER_BYTES + len(frames.table_of(self.forms))


Ways = dict[tuple[int, int], list[Recorded]]


def recorded_session(group: Group) -> Ways:
    """Every data frame of a session, by sender and receiver."""
    found: Ways = {}
    real = frames.seal

    def seal(direction: Direction, kind: int, sequence: int, **contents: Any) -> list[Any]:
        buffers = real(direction, kind, sequence, **contents)
        if kind == DATA:
            forms = tuple(map(form_of, contents["fields"]))
            way = found.setdefault((direction.sender, direction.receiver), [])
            way.append(
                Recorded(
                    b"".join(buffers), kind, direction, sequence, contents["operation"], contents["label"], forms
                )
            )
        return buffers

    frames.seal = seal
    try:
        x = group.share()
        assert (x * x).relu().get().tolist() == [1, 4]
        x.session.close()
    finally:
        frames.seal = real
    return found


@pytest.fixture(scope="module")
def ways(group: Group) -> Ways:
    return recorded_session(group)


@pytest.fixture(scope="module")
def other_ways(group: Group) -> Ways:
    return recorded_session(group)


def incoming_at(sock: Any, place: Recorded, times: Times | None = None) -> Incoming:
    """The receiver of a frame, at the moment at which it waits for it."""
    found = Incoming(sock, "alice", place.direction, RING64, times or Times(silence=5, round=5))
    found._sequence = place.sequence
    return found


def receive(sock: Any, place: Recorded) -> Any:
    return incoming_at(sock, place).receive(place.operation, place.label, place.forms)


def beat_after(place: Recorded) -> Recorded:
    """A heartbeat in place of a frame."""
    data = b"".join(frames.seal(place.direction, BEAT, place.sequence))
    return place._replace(data=data, kind=BEAT)


def test_the_recording_can_be_read(ways: Ways) -> None:
    assert set(ways) >= {(0, 1), (1, 0), (2, 1)}
    for way in ways.values():
        assert [frame.sequence for frame in way] == list(range(len(way)))
        for frame in way:
            assert tuple(map(form_of, receive(Bytes(frame.data), frame).fields)) == frame.forms


# ------------------------------------------------------------------------------------------- over connections by TLS


class Doors:
    """Makes real connections between members."""

    def __init__(self, keys: Path) -> None:
        self._alice = Identity.load(keys, "alice")
        self._context = Identity.load(keys, "bob").server_context()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._made: list[ssl.SSLSocket] = []

    def open(self) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
        """Both ends of a connection."""
        ends: list[ssl.SSLSocket] = []

        def take() -> None:
            raw, _ = self._listening.accept()
            ends.append(accept(self._context, raw, 5)[0])

        thread = threading.Thread(target=take)
        thread.start()
        ours, _ = dial(self._alice, self._listening.getsockname(), "bob", ALPN_PEER, 5)
        thread.join()
        self._made += [ours, ends[0]]
        return ours, ends[0]

    def close(self) -> None:
        for sock in [*self._made, self._listening]:
            sock.close()


@pytest.fixture
def doors(keys: Path) -> Iterator[Doors]:
    made = Doors(keys)
    yield made
    made.close()


def test_each_bit_of_a_header(ways: Ways, doors: Doors) -> None:
    """512 bits of each of four frames; nothing after a wrong header is read, so one connection serves them all."""
    chosen = [ways[0, 1][0], ways[0, 1][-1], ways[2, 1][0], beat_after(ways[0, 1][1])]
    ours, theirs = doors.open()
    for frame in chosen:
        for bit in range(512):
            bad = bytearray(frame.data[: frames.HEADER_BYTES])
            bad[bit // 8] ^= 1 << bit % 8
            ours.sendall(bad)
            with pytest.raises(FrameError):
                receive(theirs, frame)
    ours.sendall(chosen[0].data)
    assert receive(theirs, chosen[0]).fields


def test_each_bit_of_a_table(ways: Ways) -> None:
    frame = max(ways[0, 1], key=lambda found: found.head)
    for bit in range(8 * frames.HEADER_BYTES, 8 * frame.head):
        bad = bytearray(frame.data)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FrameError, match="other shapes"):
            receive(Bytes(bytes(bad)), frame)


@pytest.mark.parametrize("politely", [True, False])
def test_truncation_at_each_byte(ways: Ways, doors: Doors, politely: bool) -> None:
    frame = min(ways[0, 1], key=lambda found: len(found.data))
    for count in range(len(frame.data)):
        if politely and count % 8:
            continue  # the same bytes with TLS's goodbye; every eighth will do
        ours, theirs = doors.open()
        ours.sendall(frame.data[:count])
        if politely:
            ours.settimeout(0.01)
            with suppress(OSError):
                ours.unwrap()
        ours.close()
        with pytest.raises(ConnectionLostError):
            receive(theirs, frame)
        theirs.close()


# ------------------------------------------------------------------------------------------ every frame at every place


def refused(data: bytes, place: Recorded) -> None:
    with pytest.raises(NetworkError) as caught:
        receive(Bytes(data), place)
    assert not isinstance(caught.value, SessionEndedError)


def test_every_frame_at_every_other_place(ways: Ways) -> None:
    """Replayed, duplicated, reordered, or sent back: a frame fits its own place in its session and no other."""
    every = [frame for way in ways.values() for frame in way]
    assert len(every) >= 10
    for frame in every:
        for place in every:
            if frame is not place:
                refused(frame.data, place)


def test_every_frame_in_another_session(ways: Ways, other_ways: Ways) -> None:
    """The same members, the same program, the same place."""
    for way, found in ways.items():
        assert len(found) == len(other_ways[way])
        for frame in found:
            for place in (place for others in other_ways.values() for place in others):
                refused(frame.data, place)


def test_the_session_id_alone_does_not_help(ways: Ways, other_ways: Ways) -> None:
    """Frames of one session with the id of another: the key is another, too."""
    for way, found in ways.items():
        for frame, place in zip(found, other_ways[way], strict=True):
            refused(frame.data[:8] + place.direction.session[:8] + frame.data[16:], place)


def test_replay_of_every_frame_over_tls(ways: Ways, other_ways: Ways, doors: Doors) -> None:
    for place_of in (other_ways, ways):
        for way, found in ways.items():
            for frame, place in zip(found, place_of[way], strict=True):
                ours, theirs = doors.open()
                ours.sendall(frame.data)
                if place is frame:  # in its own session it is taken once
                    incoming = incoming_at(theirs, place)
                    incoming.receive(place.operation, place.label, place.forms)
                    ours.sendall(frame.data)
                    with pytest.raises(FrameError, match="sequence number"):
                        incoming.receive(place.operation, place.label, place.forms)
                else:
                    with pytest.raises(FrameError):
                        receive(theirs, place)
                ours.close()
                theirs.close()


# --------------------------------------------------------------------------------------------------- mutated frames


def mutated(rng: random.Random, every: list[Recorded], frame: Recorded) -> bytes:
    data = bytearray(frame.data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        kind, place = rng.randrange(6), rng.randrange(max(1, len(data)))
        if rng.random() < 0.7:
            place = rng.randrange(max(1, min(len(data), frame.head)))
        if kind == 0 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            del data[place : place + rng.choice((1, 2, 8, 64))]
        elif kind == 3:
            data[place:place] = rng.randbytes(rng.choice((1, 2, 8, 64)))
        elif kind == 4:
            other = rng.choice(every).data
            data[place:] = other[rng.randrange(len(other)) :]
        else:
            number = rng.choice((0, 1, 1 << 31, 1 << 40, (1 << 63) - 1, (1 << 64) - 1))
            data[place : place + 8] = number.to_bytes(8, "little")
    return bytes(data)


@pytest.mark.parametrize("seed", [1])
def test_a_hundred_thousand_mutated_frames(ways: Ways, seed: int) -> None:
    """What the tag covers is the same, or the frame is refused. TLS covers contents; here it is the attacker's."""
    rng, every = random.Random(seed), [frame for way in ways.values() for frame in way]
    before, start, taken = resident(), time.monotonic(), 0
    for _ in range(100_000):
        frame = rng.choice(every)
        bad = mutated(rng, every, frame)
        try:
            receive(Bytes(bad), frame)
        except SessionEndedError:
            raise AssertionError("a mutated frame ended the session as if it were a member's word") from None
        except NetworkError:
            continue
        taken += 1
        assert bad[: frame.head] == frame.data[: frame.head] and len(bad) >= len(frame.data)
    assert time.monotonic() - start < 20
    assert resident() - before < 64 << 20
    assert 0 < taken < 50_000


def test_mutated_frames_take_no_memory(ways: Ways) -> None:
    rng, every = random.Random(2), [frame for way in ways.values() for frame in way]
    largest = max(len(frame.data) for frame in every)
    work = [(mutated(rng, every, frame), frame) for frame in rng.choices(every, k=3000)]
    with suppress(NetworkError):
        receive(Bytes(b""), every[0])
    tracemalloc.start()
    for bad, frame in work:
        with suppress(NetworkError):
            receive(Bytes(bad), frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * largest + (1 << 20)


# ----------------------------------------------------------------------------------------- a member of a real session


class Attacker:
    """Alice's connection to bob in a session that is open, with something else in place of the frame that is due."""

    def __init__(self, group: Group, session: Any, old: bytes) -> None:
        self.old = old
        self.outgoing = group.member(0, session)._links[1].outgoing
        self.before = b""
        self._real = self.outgoing.send

    def put(self, data: bytes) -> None:
        out = self.outgoing
        with out._changed:
            out._queue.append([data])
            out._waiting += len(data)
            out._changed.notify_all()

    def sealed(self, message: Any, kind: int = DATA, skip: int = 0, **changes: Any) -> bytes:
        out = self.outgoing
        where: dict[str, Any] = {
            "operation": message.operation, "round": message.round, "label": message.label, "fields": message.fields,
            "ring": RING64, **changes,
        }  # fmt: skip
        if kind != DATA:
            where = changes
        return b"".join(frames.seal(out._direction, kind, out._sequence + skip, **where))

    def retagged(self, message: Any, at: int, new: bytes) -> bytes:
        """The right frame with another value in its header, and a tag that fits it."""
        data = self.sealed(message)
        head = data[:at] + new + data[at + len(new) : 48]
        table = frames.table_of(tuple(map(form_of, message.fields)))
        return head + frames._tag(self.outgoing._direction, head, table) + data[64:]

    def attack_with(self, attack: Callable[[Attacker, Any], bytes]) -> None:
        def send(message: Any) -> None:
            self.put(attack(self, message))

        self.outgoing.send = send  # type: ignore[method-assign]


def flipped(at: int) -> Callable[[Attacker, Any], bytes]:
    def attack(by: Attacker, message: Any) -> bytes:
        data = bytearray(by.sealed(message))
        data[at] ^= 1
        return bytes(data)

    return attack


def changed(at: int, new: bytes) -> Callable[[Attacker, Any], bytes]:
    return lambda by, message: by.retagged(message, at, new)


def other_fields(*fields: Any) -> Callable[[Attacker, Any], bytes]:
    return lambda by, message: by.sealed(message, fields=fields)


def cut(count: int) -> Callable[[Attacker, Any], bytes]:
    def attack(by: Attacker, message: Any) -> bytes:
        threading.Thread(target=by.outgoing.close, daemon=True).start()
        return by.sealed(message)[:count]

    return attack


def huge(*shape: int) -> Any:
    return torch.empty(shape, dtype=torch.int64, device="meta")


def announced(*shape: int) -> Callable[[Attacker, Any], bytes]:
    """A frame that announces a tensor of that shape, with a tag of its own and no contents."""

    def attack(by: Attacker, message: Any) -> bytes:
        table = frames.table_of((Form(RING, shape),))
        size = min(8 * int(np.prod(shape, dtype=object)) + len(table), (1 << 64) - 1)
        head = by.sealed(message)[:6] + b"\x01" + by.sealed(message)[7:40] + size.to_bytes(8, "little")
        return head + frames._tag(by.outgoing._direction, head, table) + table

    return attack


ATTACKS: dict[str, Callable[[Attacker, Any], bytes]] = {
    **{f"header byte {at} altered": flipped(at) for at in (0, 4, 5, 6, 7, 8, 16, 17, 20, 24, 32, 40, 48, 63)},
    "table altered": flipped(66),
    "older version": changed(4, b"\x00"),
    "newer version": changed(4, b"\x02"),
    "rank of another": changed(16, b"\x02"),
    "meant for another": changed(17, b"\x02"),
    "another operation": changed(32, (1 << 40).to_bytes(8, "little")),
    "another label": lambda by, message: by.sealed(message, label="something else"),
    "length 2^63": changed(40, (1 << 63).to_bytes(8, "little")),
    "length 0": changed(40, bytes(8)),
    "length one more": lambda by, m: by.retagged(m, 40, (len(by.sealed(m)) - 63).to_bytes(8, "little")),
    "255 fields": changed(6, b"\xff"),
    "a frame left out": lambda by, message: by.sealed(message, skip=1),
    "frame of another session": lambda by, message: by.old,
    "key of the other direction": lambda by, m: b"".join(
        frames.seal(
            by.outgoing._direction._replace(key=bytes(32)), DATA, by.outgoing._sequence, operation=m.operation,
            round=m.round, label=m.label, fields=m.fields, ring=RING64,
        )
    ),
    "other shape": other_fields(torch.zeros(4, dtype=torch.int64)),
    "same size, other shape": lambda by, m: by.sealed(m, fields=[part.reshape(1, -1) for part in m.fields]),
    "other kind of field": lambda by, m: by.sealed(m, fields=[part.numpy().view(np.uint64) for part in m.fields]),
    "no field": other_fields(),
    "empty field": other_fields(torch.zeros(0, dtype=torch.int64)),
    "a field too many": lambda by, m: by.sealed(m, fields=[*m.fields, torch.zeros(0, dtype=torch.int64)]),
    "announces 2^59 elements": announced(1 << 59),
    "announces 2^100 elements": announced(1 << 50, 1 << 50),
    "announces 8 dimensions of 2^64 - 1": announced(*[(1 << 64) - 1] * 8),
    "heartbeat with contents": lambda by, m: b"".join(frames.seal(by.outgoing._direction, BEAT, 99, note=b"x")),
    "unknown kind": changed(5, b"\x09"),
    "abort with too long a note": lambda by, m: by.sealed(m, ABORT, note=bytes(1025)),
    "abort with garbage": lambda by, m: by.sealed(m, ABORT, note=b"\xc1\xff\x00"),
    "abort that is no text": lambda by, m: by.sealed(m, ABORT, note=b"\x94\xa1\xff\xc0\xc0\xa1a"),
    "abort nested deep": lambda by, m: by.sealed(m, ABORT, note=b"\x91" * 1000),
    "zeros": lambda by, m: bytes(4096),
    "noise": lambda by, m: random.Random(3).randbytes(4096),
    "half a header": cut(32),
    "header alone": cut(64),
    "half the contents": cut(82),
    "nothing": cut(0),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_within_a_session(group: Group, ways: Ways, name: str) -> None:
    x = group.share()
    x.session.sync()
    attacker = Attacker(group, x.session, ways[0, 1][0].data)
    attacker.attack_with(ATTACKS[name])
    with pytest.raises(NetworkError) as caught:
        (x * x).get()
    error = caught.value
    assert error.cause in ("FrameError", "ConnectionLostError"), error
    if not name.startswith(("half", "header alone", "nothing")):
        assert (error.cause, error.member) == ("FrameError", "alice")
    x.session.close()
    assert product(group) == [1, 4]


def test_frame_twice_within_a_session(group: Group) -> None:
    """The copy comes where the first message of the next product is due."""
    x, y = group.share(), group.share((3, 4))
    assert x.session is y.session
    x.session.sync()
    Attacker(group, x.session, b"").attack_with(lambda by, message: by.sealed(message) * 2)
    with pytest.raises(NetworkError) as caught:
        (x * x).get()
        (y * y).get()
    assert (caught.value.cause, caught.value.member) == ("FrameError", "alice")
    x.session.close()
    assert product(group) == [1, 4]


def test_frames_in_another_order(group: Group) -> None:
    """Alice's part of the second product comes before that of the first, for which bob waits."""
    x, y = group.share(), group.share((3, 4))
    x.session.sync()
    held: list[bytes] = []

    def swap(by: Attacker, message: Any) -> bytes:
        held.append(by.sealed(message, skip=len(held)))
        return b"" if len(held) == 1 else held[1] + held[0]

    Attacker(group, x.session, b"").attack_with(swap)
    _ = x * x
    with pytest.raises(NetworkError) as caught:
        (y * y).get()
    assert (caught.value.cause, caught.value.member) == ("FrameError", "alice")
    x.session.close()
    assert product(group) == [1, 4]


def test_abort_in_the_name_of_another_has_no_further_effect(group: Group) -> None:
    """A member may end a session and say why; it can end no other one, and is named itself as the one who said so."""
    note = msgspec.msgpack.encode(Note("HandshakeError", "crypto_provider", None, "it was somebody else"))
    x = group.share()
    x.session.sync()
    with group.session() as other:
        attacker = Attacker(group, x.session, b"")
        attacker.attack_with(lambda by, message: by.sealed(message, ABORT, note=note))
        with pytest.raises(NetworkError, match="alice ended the session: it was somebody else"):
            (x * x).get()
        other.sync()
    x.session.close()


def test_heartbeats_without_end(group: Group) -> None:
    """A member that sends nothing but signs of life holds nobody up: the driver's word is heard."""
    x = group.share()
    x.session.sync()
    out, stop = group.member(0, x.session)._links[1].outgoing, threading.Event()

    def flood() -> None:
        while not stop.is_set():
            with out._changed:
                if out._error is not None or out._closing:
                    return
                out._put(BEAT)
            if out._waiting > 1 << 16:
                time.sleep(0.0005)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(3):
            x.session.sync()
        assert (x * x).get().tolist() == [1, 4]
    finally:
        stop.set()
        thread.join()
    x.session.close()
    assert product(group) == [1, 4]


def test_input_that_leaves_out_parts(group: Group) -> None:
    """A driver that sends the last part of its input alone must not get at memory of the worker."""
    from sharetorch.mpc.session import new_id
    from sharetorch.remote import wire
    from sharetorch.remote.network.control import SESSION
    from sharetorch.remote.sessions.messages import Answer, Input, Output, Refused

    with group.session() as session:
        number = new_id()
        item = Input(session.id, session._operation + 1, number, [1 << 17], (1 << 20) - 8, 1 << 20, bytes(8))
        control = group.workers[0].control
        control.post(SESSION, wire.encode(item))
        reply = wire.Decoder(Answer, None).decode(
            control.request(SESSION, wire.encode(Output(session.id, number)), 10)
        )
        assert isinstance(reply, Refused) or not any(reply.contents), "the worker gave away what lay in its memory"
    assert product(group) == [1, 4]
