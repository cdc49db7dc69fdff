"""The exchange between two members: who gets through it, and what they know afterwards."""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from sharetorch.mpc.errors import ConnectionLostError, HandshakeError, NetworkError
from sharetorch.mpc.network import handshake
from sharetorch.mpc.network.handshake import BACK, FORTH, Hello, MemberEntry, Pair, PairKeys, SessionDocument
from sharetorch.mpc.network.identity import ALPN_PEER, Identity, Peer, dial
from sharetorch.remote import wire
from sharetorch.remote.network.control import SESSION
from sharetorch.remote.sessions import messages as session_messages
from sharetorch.remote.sessions.messages import Close, Fresh, Open, Opened, Propose
from tests.network.test_wire_attacks import Group, product

SESSION_ID = hashlib.sha256(b"a session").digest()
DEGENERATE = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]
"""Points of small order, and other ways to write them."""


@pytest.fixture(scope="module")
def people(keys: Path) -> dict[str, Identity]:
    return {id: Identity.load(keys, id) for id in ("alice", "bob", "carol", "me")}


def pair_of(people: dict[str, Identity], session: bytes = SESSION_ID, **publics: bytes) -> Pair:
    low, high = (MemberEntry(id, publics.get(id, people[id].public), "localhost", 1) for id in ("alice", "bob"))
    return Pair(session, 0, 1, low, high)


# -------------------------------------------------------------------------------------- the exchange, without sockets


class Line:
    """A connection between two functions, each in a thread; what crosses it can be changed on its way."""

    def __init__(self, sock: socket.socket, change: Callable[[int, bytes], bytes] = lambda number, data: data) -> None:
        self._sock, self._change, self._number = sock, change, 0
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        data = self._change(self._number, data)
        self._number += 1
        self.sent.append(data)
        self._sock.sendall(data)

    def recv(self, count: int) -> bytes:
        return self._sock.recv(count)

    def close(self) -> None:
        self._sock.close()


def unchanged(number: int, data: bytes) -> bytes:
    return data


def exchange(
    people: dict[str, Identity], at_low: Pair, at_high: Pair, low: str = "alice", high: str = "bob",
    from_low: Callable[[int, bytes], bytes] = unchanged, from_high: Callable[[int, bytes], bytes] = unchanged,
) -> tuple[Any, Any, list[bytes], list[bytes]]:  # fmt: skip
    """What each side has at the end, keys or an error, and what each sent."""
    one, other = socket.socketpair()
    one.settimeout(5)
    other.settimeout(5)
    lines = Line(one, from_low), Line(other, from_high)
    found: list[Any] = [None, None]

    def run(side: int, work: Callable[[], PairKeys]) -> None:
        try:
            found[side] = work()
        except NetworkError as error:
            found[side] = error
        finally:
            lines[side].close()

    def answer() -> PairKeys:
        return handshake.exchange_as_high(lines[1], handshake.read_hello(lines[1]), at_high, people[high])  # type: ignore

    works = [lambda: handshake.exchange_as_low(lines[0], at_low, people[low]), answer]  # type: ignore
    threads = [threading.Thread(target=run, args=(side, work)) for side, work in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    return found[0], found[1], lines[0].sent, lines[1].sent


def test_both_have_the_same_keys(people: dict[str, Identity]) -> None:
    pair = pair_of(people)
    low, high, said, answered = exchange(people, pair, pair)
    assert low == high and isinstance(low, PairKeys)
    assert [len(part) for part in (*said, *answered)] == [71, 64, 96]
    keys = [low.secret, low.joining, *low.frames.values()]
    assert all(len(key) == 32 for key in keys) and len(set(keys)) == 4
    assert low.direction(SESSION_ID, 0, 1).key != low.direction(SESSION_ID, 1, 0).key
    crossed = b"".join(said + answered)
    assert not any(key in crossed or key.hex() in repr(low) for key in keys)


def test_no_two_exchanges_give_the_same(people: dict[str, Identity]) -> None:
    """Fresh ephemeral keys each time, even for the same session."""
    found = [exchange(people, pair_of(people), pair_of(people))[0] for _ in range(20)]
    every = [key for keys in found for key in (keys.secret, keys.joining, *keys.frames.values())]
    assert len(set(every)) == 80


@pytest.mark.parametrize("place", [0, 1, 31, 32, 33, 63])
def test_wrong_signature(people: dict[str, Identity], place: int) -> None:
    def spoil(at: int) -> Callable[[int, bytes], bytes]:
        def change(number: int, data: bytes) -> bytes:
            if number != (1 if at == 0 else 0):
                return data
            spoilt = bytearray(data)
            spoilt[(0 if at == 0 else 32) + place] ^= 1
            return bytes(spoilt)

        return change

    pair = pair_of(people)
    _, high, _, _ = exchange(people, pair, pair, from_low=spoil(0))
    assert isinstance(high, HandshakeError) and "signature" in str(high)
    low, _, _, _ = exchange(people, pair, pair, from_high=spoil(1))
    assert isinstance(low, HandshakeError) and "signature" in str(low)


def test_signature_of_another_member(people: dict[str, Identity]) -> None:
    pair = pair_of(people)
    low, high, _, _ = exchange(people, pair, pair, high="carol")
    assert isinstance(low, HandshakeError) and isinstance(high, ConnectionLostError)
    _, high, _, _ = exchange(people, pair, pair, low="carol")
    assert isinstance(high, HandshakeError)


def answered(people: dict[str, Identity], pair: Pair, attack: Callable[[socket.socket], None]) -> Any:
    """What bob makes of whoever is at the other end: keys or an error."""
    ours, theirs = socket.socketpair()
    found: list[Any] = []
    for sock in (ours, theirs):
        sock.settimeout(5)

    def answer() -> None:
        try:
            hello = handshake.read_hello(theirs)  # type: ignore[arg-type]
            found.append(handshake.exchange_as_high(theirs, hello, pair, people["bob"]))  # type: ignore[arg-type]
        except NetworkError as error:
            found.append(error)

    thread = threading.Thread(target=answer)
    thread.start()
    with ours, theirs:
        attack(ours)
        thread.join(10)
    return found[0]


def test_signature_sent_back(people: dict[str, Identity]) -> None:
    """The one who answers must not be taken in by its own signature, even if the document names its key twice."""
    pair = pair_of(people, alice=people["bob"].public)

    def attack(sock: socket.socket) -> None:
        sock.sendall(hello(pair.session))
        sock.sendall(sock.recv(96)[32:])

    assert isinstance(answered(people, pair, attack), HandshakeError)


def test_swapped_ephemeral_keys(people: dict[str, Identity]) -> None:
    """Somebody between, whom TLS keeps out, exchanges keys: neither side takes them."""
    stranger = X25519PrivateKey.generate().public_key().public_bytes_raw()
    pair = pair_of(people)
    low, high, _, _ = exchange(
        people, pair, pair, from_low=lambda number, data: data if number else data[:39] + stranger
    )
    assert isinstance(low, HandshakeError) and isinstance(high, NetworkError)
    low, high, _, _ = exchange(people, pair, pair, from_high=lambda number, data: stranger + data[32:])
    assert isinstance(low, HandshakeError) and isinstance(high, NetworkError)


@pytest.mark.parametrize("point", DEGENERATE)
def test_degenerate_keys(people: dict[str, Identity], monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    """A member that signs a key of small order would fix the secret beforehand."""
    real = X25519PrivateKey.generate

    class Fixed:
        def public_key(self) -> Any:
            return SimpleNamespace(public_bytes=lambda *form: bytes.fromhex(point))

        def exchange(self, other: Any) -> bytes:
            return bytes(32)

    for side in ("low", "high"):
        made: list[Any] = []

        def generate(side: str = side, made: list[Any] = made) -> Any:
            made.append(Fixed() if len(made) == (0 if side == "low" else 1) else real())
            return made[-1]

        monkeypatch.setattr(handshake, "X25519PrivateKey", SimpleNamespace(generate=generate))
        low, high, _, _ = exchange(people, pair_of(people), pair_of(people))
        honest = high if side == "low" else low
        assert isinstance(honest, HandshakeError) and "degenerate" in str(honest)


def test_a_recorded_exchange_opens_nothing(people: dict[str, Identity]) -> None:
    pair = pair_of(people)
    _, _, said, replies = exchange(people, pair, pair)

    def attack(sock: socket.socket) -> None:
        for data in said:
            sock.sendall(data)
        sock.recv(96)

    assert isinstance(answered(people, pair, attack), HandshakeError)
    low, _, _, _ = exchange(people, pair, pair, from_high=lambda number, data: replies[number])
    assert isinstance(low, HandshakeError)


@pytest.mark.parametrize(
    "change",
    [
        {"session": bytes(32)}, {"low": 1, "high": 2}, {"high": 2},
        {"low_entry": MemberEntry("alice2", b"", "", 1)}, {"high_entry": MemberEntry("bob2", b"", "", 1)},
    ],
    ids=["session", "ranks", "rank", "dialer", "other"],
)  # fmt: skip
def test_both_must_speak_of_the_same_pair(people: dict[str, Identity], change: dict[str, Any]) -> None:
    pair = pair_of(people)
    other = dict(change)
    for name in ("low_entry", "high_entry"):
        if name in other:
            other[name] = msgspec.structs.replace(other[name], public=getattr(pair, name).public)
    low, high, _, _ = exchange(people, pair, pair._replace(**other))
    assert isinstance(low, HandshakeError) and isinstance(high, NetworkError)


def test_second_connection_needs_the_secret(people: dict[str, Identity]) -> None:
    pair = pair_of(people)
    keys, _, _, _ = exchange(people, pair, pair)
    again, _, _, _ = exchange(people, pair, pair)
    hellos: list[bytes] = []
    for known in (keys, again):
        line = SimpleNamespace(sendall=hellos.append)
        handshake.join_as_low(line, pair, known)  # type: ignore[arg-type]
    right, wrong = (Hello(*handshake._HELLO.unpack(data)) for data in hellos)
    handshake.check_join(right, pair, keys)
    for hello in (wrong, right._replace(key=bytes(32)), right._replace(key=keys.secret)):
        with pytest.raises(HandshakeError, match="without knowing the pair's secret"):
            handshake.check_join(hello, pair, keys)


class Said:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def recv(self, count: int) -> bytes:
        found, self.data = self.data[:count], self.data[count:]
        return found


def test_each_bit_of_what_a_hello_begins_with() -> None:
    good = handshake._HELLO.pack(b"STH1", SESSION_ID, 0, 1, FORTH, bytes(32))
    handshake.read_hello(Said(good))  # type: ignore[arg-type]
    refused = 0
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        try:
            hello = handshake.read_hello(Said(bytes(bad)))  # type: ignore[arg-type]
        except HandshakeError:
            refused += 1
        else:  # another session, pair, purpose or key: the session compares these
            assert hello != Hello(*handshake._HELLO.unpack(good))
    assert refused >= 32 + 7 + 8 - 7
    for count in range(len(good)):
        with pytest.raises(ConnectionLostError):
            handshake.read_hello(Said(good[:count]))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- at the door of a worker


@pytest.fixture(scope="module")
def group(keys: Path) -> Iterator[Group]:
    made = Group(keys)
    yield made
    made.stop()


class Proposed:
    """A session that bob and crypto_provider are ready for, with nobody at alice's place but this test."""

    def __init__(self, group: Group, people: dict[str, Identity], **changes: Any) -> None:
        self.group, self.people = group, people
        members = [MemberEntry(worker.id, worker.public, *worker.address) for worker in group.workers]
        self.document = msgspec.structs.replace(
            SessionDocument(handshake.VERSION, members, 2, (2**64).to_bytes(9, "big"), "securenn", 5.0), **changes
        )
        fresh = [self.ask(worker, Propose(self.document)) for worker in group.workers]
        refused = [reply for reply in fresh if not isinstance(reply, Fresh)]
        if refused:
            raise HandshakeError(refused[0].text)
        found = [reply.fresh for reply in fresh]
        self.id = handshake.session_id(self.document, found)
        opening = wire.encode(Open(self.document, found))
        self.opened = [worker.control.submit(SESSION, opening) for worker in group.workers[1:]]
        self.pair = Pair(self.id, 0, 1, *self.document.members[:2])
        self._socks: list[ssl.SSLSocket] = []
        while self.id not in group.host(1)._sessions:
            time.sleep(0.001)

    def ask(self, worker: Any, item: Any) -> Any:
        reply = worker.control.request(SESSION, wire.encode(item), 10)
        return wire.Decoder(session_messages.Answer, None).decode(reply)

    def connect(self, who: str = "alice", to: int = 1) -> ssl.SSLSocket:
        sock, _ = dial(self.people[who], self.group.workers[to].address, None, ALPN_PEER, 5)
        sock.settimeout(5)
        self._socks.append(sock)
        return sock

    @property
    def arrived(self) -> Any:
        """What bob has of alice: keys, and connections by purpose."""
        return self.group.host(1)._sessions[self.id].meeting._arrived

    def end(self) -> None:
        for worker in self.group.workers[1:]:
            worker.control.post(SESSION, wire.encode(Close(self.id)))
        for sock in self._socks:
            sock.close()
        for rank in (1, 2):
            session = self.group.host(rank)._sessions.get(self.id)
            if session is not None:
                session.stop(ConnectionLostError("The test is over."))


@pytest.fixture
def proposed(group: Group, people: dict[str, Identity]) -> Iterator[Proposed]:
    made = Proposed(group, people)
    yield made
    made.end()
    assert product(group) == [1.0, 4.0]


def closed(sock: ssl.SSLSocket) -> bool:
    """Whether the other end hangs up without a word."""
    try:
        return sock.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def hello(session: bytes, dialer: int = 0, other: int = 1, purpose: int = FORTH, key: bytes | None = None) -> bytes:
    public = X25519PrivateKey.generate().public_key().public_bytes_raw()
    return handshake._HELLO.pack(b"STH1", session, dialer, other, purpose, key or public)


def test_the_door_opens_for_the_right_member(proposed: Proposed) -> None:
    found = set()
    for other, entry in ((1, proposed.document.members[1]), (2, proposed.document.members[2])):
        pair = proposed.pair._replace(high=other, high_entry=entry)
        keys = handshake.exchange_as_low(proposed.connect(to=other), pair, proposed.people["alice"])
        handshake.join_as_low(proposed.connect(to=other), pair, keys)
        found.add(keys.secret)
    assert len(found) == 2
    for future in proposed.opened:
        assert isinstance(wire.Decoder(session_messages.Answer, None).decode(future.result(5)), Opened)


def test_no_hello_or_another_protocol(proposed: Proposed) -> None:
    for data in (b"GET / HTTP/1.1\r\n" + bytes(60), bytes(71), b"STF1" + bytes(67), b"STH2" + hello(proposed.id)[4:]):
        sock = proposed.connect()
        sock.sendall(data)
        assert closed(sock)


def test_a_member_of_the_group_that_is_not_in_the_session(proposed: Proposed) -> None:
    sock = proposed.connect("carol")
    sock.sendall(hello(proposed.id))
    assert closed(sock)


@pytest.mark.parametrize("ranks", [(0, 2), (1, 2), (0, 200), (200, 201)])
def test_wrong_ranks(proposed: Proposed, ranks: tuple[int, int]) -> None:
    sock = proposed.connect()
    sock.sendall(hello(proposed.id, *ranks))
    assert closed(sock)


def test_another_members_place(proposed: Proposed) -> None:
    """bob comes to crypto_provider as alice."""
    sock = proposed.connect("bob", to=2)
    sock.sendall(hello(proposed.id, 0, 2))
    assert closed(sock)


def test_replayed_hello(proposed: Proposed) -> None:
    """The same hello gets an answer, and no further without alice's signature over that answer."""
    data = hello(proposed.id)
    for _ in range(2):
        sock = proposed.connect()
        sock.sendall(data)
        assert len(sock.recv(96)) == 96
        sock.sendall(bytes(64))
        assert closed(sock)
    assert not proposed.arrived


def test_signature_of_another_session(proposed: Proposed) -> None:
    sock = proposed.connect()
    ours = proposed.pair._replace(session=bytes(32))
    with pytest.raises(HandshakeError):
        handshake.exchange_as_low(_Renamed(sock, proposed.id), ours, proposed.people["alice"])  # type: ignore[arg-type]


class _Renamed:
    """Puts the right session id into a hello of another one."""

    def __init__(self, sock: ssl.SSLSocket, session: bytes) -> None:
        self._sock, self._session = sock, session

    def sendall(self, data: bytes) -> None:
        self._sock.sendall(data[:4] + self._session + data[36:] if len(data) == 71 else data)

    def recv(self, count: int) -> bytes:
        return self._sock.recv(count)


def test_second_connection_first(proposed: Proposed) -> None:
    sock = proposed.connect()
    sock.sendall(hello(proposed.id, purpose=BACK))
    assert closed(sock)


def test_second_connection_without_the_secret(proposed: Proposed) -> None:
    sock = proposed.connect()
    handshake.exchange_as_low(sock, proposed.pair, proposed.people["alice"])
    other = proposed.connect()
    other.sendall(hello(proposed.id, purpose=BACK))
    assert closed(other)
    assert list(proposed.arrived[0][1]) == [FORTH]


def test_first_connection_twice(proposed: Proposed) -> None:
    handshake.exchange_as_low(proposed.connect(), proposed.pair, proposed.people["alice"])
    time.sleep(0.05)
    again = proposed.connect()
    again.sendall(hello(proposed.id))
    assert closed(again)


def test_second_connection_while_the_first_is_being_checked(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dialer has finished when it dials again; the other one may still be at the signature."""
    real = handshake.exchange_as_high

    def slow(*arguments: Any) -> PairKeys:
        keys = real(*arguments)
        time.sleep(0.1)
        return keys

    monkeypatch.setattr(handshake, "exchange_as_high", slow)
    assert product(group) == [1, 4]


def test_further_connections_once_all_are_connected(group: Group, people: dict[str, Identity]) -> None:
    with group.session() as session:
        for purpose in (FORTH, BACK):
            sock, _ = dial(people["alice"], group.workers[1].address, "bob", ALPN_PEER, 5)
            with sock:
                sock.settimeout(5)
                sock.sendall(hello(session.id, purpose=purpose))
                assert closed(sock)
        session.sync()


def test_degenerate_key_at_the_door(proposed: Proposed) -> None:
    sock, zero = proposed.connect(), bytes(32)
    sock.sendall(hello(proposed.id)[:39] + zero)
    answer = sock.recv(96)
    transcript = handshake._transcript(proposed.pair, zero, answer[:32])
    sock.sendall(proposed.people["alice"].sign(b"low" + transcript))
    assert closed(sock)
    assert not proposed.arrived


def test_hello_of_a_session_nobody_proposed(group: Group, people: dict[str, Identity]) -> None:
    sock, _ = dial(people["alice"], group.workers[1].address, "bob", ALPN_PEER, 5)
    with sock:
        sock.settimeout(10)
        sock.sendall(hello(bytes(32)))
        assert closed(sock)


def refusal(group: Group, people: dict[str, Identity], **changes: Any) -> str:
    with pytest.raises(HandshakeError) as caught:
        Proposed(group, people, **changes)
    return str(caught.value)


def test_documents_that_are_refused(group: Group, people: dict[str, Identity]) -> None:
    alice, bob, provider = (MemberEntry(worker.id, worker.public, *worker.address) for worker in group.workers)
    replace = msgspec.structs.replace
    assert "version" in refusal(group, people, version=2)
    wrong = replace(bob, public=people["carol"].public)
    assert "identity key" in refusal(group, people, members=[alice, wrong, provider])
    assert "does not name" in refusal(group, people, members=[alice, replace(bob, id="bobby"), provider])
    assert "twice" in refusal(group, people, members=[alice, bob, provider, replace(alice, id="eve")])
    assert "parties" in refusal(group, people, parties=1)
    assert "parties" in refusal(group, people, parties=4)
    assert "protocol" in refusal(group, people, suite="plaintext")
    assert "protocol" in refusal(group, people, suite="__class__")
    assert "nan s" in refusal(group, people, round_seconds=float("nan"))
    assert "1000000000.0 s" in refusal(group, people, round_seconds=1e9)
    assert product(group) == [1.0, 4.0]


def test_identity_key_of_another_in_the_document_of_all_others(people: dict[str, Identity]) -> None:
    """A certificate names its id and its identity key: both must be those of the document."""
    entry = MemberEntry("bob", people["bob"].public, "localhost", 1)
    handshake.check_peer(Peer("bob", people["bob"].public), entry)
    for id, public in (("bob", "carol"), ("carol", "bob"), ("carol", "carol")):
        with pytest.raises(HandshakeError, match="Connect to the group's own workers"):
            handshake.check_peer(Peer(id, people[public].public), entry)


def test_a_session_needs_the_fresh_bytes_of_every_member(group: Group, people: dict[str, Identity]) -> None:
    """A driver that replays the bytes of an earlier session cannot make the same session twice."""
    made = Proposed(group, people)
    made.end()
    again = Open(made.document, [bytes(32)] * 3)
    reply = made.ask(group.workers[1], again)
    assert reply.kind == "HandshakeError" and not isinstance(reply, Opened)


def test_two_sessions_never_share_a_secret(group: Group) -> None:
    secrets: list[bytes] = []
    for _ in range(3):
        with group.session() as session:
            for rank in range(3):
                member = group.member(rank, session)
                secrets += [pair._secret for pair in member.party._secrets.values()]
                secrets += [link.outgoing._direction.key for link in member.links]
    counts = {secret: secrets.count(secret) for secret in secrets}
    # Both ends of each of three pairs know its secret; each of six directions has a key, held here by its sender.
    assert sorted(counts.values()) == [1] * 6 * 3 + [2] * 3 * 3


def test_nothing_is_left_after_sessions(group: Group) -> None:
    deadline = time.monotonic() + 5
    while any(group.host(rank)._sessions for rank in range(3)):
        assert time.monotonic() < deadline, "a session is still there"
        time.sleep(0.01)

