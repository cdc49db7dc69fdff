"""The holes of PySyft's websocket workers, each tried on a real worker process: `protocols.md` 4.7, row by row.

PySyft 0.2's workers gave data away to whoever asked, and were taken over in a contest. A test is named after the hole;
its docstring says what the hole was.
"""

from __future__ import annotations

import io
import pickle
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

import sharetorch as st
from sharetorch.mpc.errors import (
    ConnectionLostError,
    GetNotPermittedError,
    HandshakeError,
    LimitExceededError,
    NetworkError,
)
from sharetorch.mpc.network import certificates, handshake
from sharetorch.mpc.network.identity import ALPN_CONTROL, ALPN_PEER, Identity, dial, tls_failure
from sharetorch.remote import wire
from sharetorch.remote.messages import (
    Execute,
    Failed,
    Fetch,
    Forget,
    Inspect,
    Invoke,
    Listing,
    Made,
    Reply,
    Search,
    Store,
)
from sharetorch.remote.network.client import Hello, NetworkedWorker
from sharetorch.remote.network.control import HELLO, NODE, SESSION, Control
from sharetorch.remote.network.settings import Address
from sharetorch.remote.network.stream import Stream
from sharetorch.remote.network.websocket import open_client
from sharetorch.remote.sessions.messages import Answer, Fresh, Open, Propose, Refused
from sharetorch.remote.wire import Ref
from tests.network.tools import QUICK, Proxy, WithoutCertificate, WorkerProcess, make_keys, start_worker, until

SECRET = 4242424242


class Worker(NetworkedWorker):
    """Outside the registry of names."""


@pytest.fixture(scope="module")
def process(keys: Path) -> Iterator[WorkerProcess]:
    """A worker with a data set of its own, [SECRET], that takes part in sessions."""
    settings = {"silence_seconds": 1.5, "heartbeat_seconds": 0.3, "handshake_seconds": 2.0, "connect_seconds": 2.0}
    made = start_worker(
        "bob", keys, settings=settings, data=[([float(SECRET)], ["#secret"])], sessions=True,
        limits={"message_bytes": 1 << 20},
    )  # fmt: skip
    yield made
    assert made.alive
    made.stop()


@pytest.fixture
def dialler(process: WorkerProcess, keys: Path) -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def run(identity: str = "mallory", address: tuple[str, int] | None = None) -> Worker:
        own = Identity.load(keys, identity)
        made.append(Worker(Address(*(address or process.address)), "bob", own, QUICK))
        made[-1].connect()
        return made[-1]

    yield run
    for worker in made:
        with suppress(NetworkError):
            ask(worker, ["clear"])
        worker.close()


@pytest.fixture
def mallory(dialler: Callable[..., Worker]) -> Worker:
    return dialler()


def ask(worker: Worker, message: Any, seconds: float = 10) -> Any:
    """A worker's reply to a message, or to bytes in its place."""
    data = message if isinstance(message, bytes) else wire.encode(message)
    return wire.Decoder(Reply, st.local_worker).decode(worker.control.request(NODE, data, seconds))


def own_number(worker: Worker) -> int:
    """Number of the worker's own data set."""
    (found,) = ask(worker, Search(["#secret"])).objects
    number: int = found.number
    return number


def shows_secret(reply: Any) -> bool:
    """Whether a reply tells the value."""
    return str(SECRET) in repr(reply) or any(
        isinstance(value, torch.Tensor) and bool((value == SECRET).any()) for value in getattr(reply, "values", [])
    )


# --------------------------------------------------------------- execute_worker_command = getattr(self, name)(*args)


@pytest.mark.parametrize(
    "name", ["list_objects", "_objects", "__class__", "receive", "objects", "desk.pending", "audit", "__reduce__"]
)
def test_commands_by_the_name_of_a_method(mallory: Worker, name: str) -> None:
    """``getattr(self, name)(*args)`` over the wire; ``list_objects`` returned ``str`` of every private tensor."""
    number = own_number(mallory)
    for message in ([name], [name, []], Invoke(name, number, [], {}), Execute(name, [Ref(number)], {})):
        reply = ask(mallory, message)
        assert isinstance(reply, Failed) and not shows_secret(reply), reply


def test_lists_show_no_values(mallory: Worker) -> None:
    """``list_objects`` printed values; ours lists the caller's own objects, by kind, type and shape."""
    ask(mallory, Store([torch.tensor([1.25])], [77], ["#mine"]))
    reply = ask(mallory, Listing())
    assert [meta.number for meta in reply.objects] == [77]
    assert "1.25" not in repr(reply) and not shows_secret(reply)
    for message in (Search(["#secret"]), Inspect(own_number(mallory))):
        assert not shows_secret(ask(mallory, message))


# ------------------------------------------------------------------------------------ methods by name on any object


@pytest.mark.parametrize("name", ["__str__", "__repr__", "tolist", "item", "numpy", "data", "aten.item.default"])
def test_methods_of_tensors_by_name(mallory: Worker, name: str) -> None:
    """``__str__`` and the like on any id gave the values away; these are not on the list of operations."""
    number = own_number(mallory)
    for message in (Invoke(name, number, [], {}), Execute(name, [Ref(number)], {})):
        reply = ask(mallory, message)
        assert isinstance(reply, Failed) and not shows_secret(reply), reply


def test_errors_show_no_values(mallory: Worker) -> None:
    """What an operation complains of are shapes and types."""
    number = own_number(mallory)
    reply = ask(mallory, Execute("aten.mm.default", [Ref(number), Ref(number)], {}))
    assert isinstance(reply, Failed) and not shows_secret(reply)


# ----------------------------------------------------------------------------------------------- bytes become code


class Malicious:
    """What a pickle makes of this is a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_pickles_of_clients(mallory: Worker, tmp_path: Path) -> None:
    """``torch.load`` of what a client sent ran the client's code."""
    malicious, saved = Malicious(tmp_path / "called"), io.BytesIO()
    torch.save({"x": malicious}, saved)
    for data in (pickle.dumps(malicious), saved.getvalue()):
        for message in (data, ["store", [data]], Store([data]), Store([msgspec.msgpack.Ext(2, data)])):
            ask(mallory, message if isinstance(message, bytes) else msgspec.msgpack.encode(message))
    assert not malicious.path.exists()


# ----------------------------------------------------------------- no client authentication, CERT_NONE, plain ws://


class Foreign(Identity):
    """Presents a certificate of another group, and trusts ours as well: only the worker can refuse."""

    def client_context(self, protocol: str) -> ssl.SSLContext:
        context = super().client_context(protocol)
        context.load_verify_locations(cafile=self._folder / "trusted.crt")
        return context


def _stranger(kind: str, keys: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Identity:
    if kind == "none":
        return WithoutCertificate.load(keys, "mallory")
    if kind == "other group":
        (folder / "trusted.crt").write_bytes((keys / "ca.crt").read_bytes())
        return Foreign.load(make_keys(folder, "mallory"), "mallory")
    for name in ("ca.crt", "ca.key"):
        (folder / name).write_bytes((keys / name).read_bytes())
        (folder / name).chmod(0o600)
    past = datetime.now(UTC) - timedelta(days=10)
    monkeypatch.setattr(certificates, "datetime", SimpleNamespace(now=lambda zone: past))
    certificates.issue(folder, "mallory", ["localhost"], days=9)
    return Identity.load(folder, "mallory")


REFUSALS = {"none": "needs a certificate", "expired": "certificate has expired", "other group": "of another authority"}


@pytest.mark.parametrize("protocol", [ALPN_CONTROL, ALPN_PEER], ids=["control", "peer"])
@pytest.mark.parametrize("kind", REFUSALS)
def test_clients_without_authentication(
    process: WorkerProcess, keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, protocol: str
) -> None:
    """Anybody could connect. Here nobody gets through the handshake without a valid certificate of the group."""
    who = _stranger(kind, keys, tmp_path, monkeypatch)
    with pytest.raises(HandshakeError, match=REFUSALS[kind]):
        sock, _ = dial(who, process.address, "bob", protocol, 5)
        with sock:
            try:
                if protocol == ALPN_CONTROL:
                    open_client(Stream(sock), "localhost:1", "bob", 5)
                assert sock.recv(1) == b"", "got through"
                raise EOFError
            except OSError as error:
                raise tls_failure(error, "bob") from error


def test_one_party_in_the_name_of_another(process: WorkerProcess, keys: Path) -> None:
    """A genuine certificate is good for its own id only: in a hello, and where another worker is expected."""
    sock, peer = dial(Identity.load(keys, "mallory"), process.address, "bob", ALPN_CONTROL, 5)
    control = Control(open_client(Stream(sock), "localhost:1", "bob", 5), peer, QUICK, lambda *_: None).start()
    with pytest.raises(NetworkError, match="knows the other end as mallory"):
        control.request(HELLO, msgspec.msgpack.encode(Hello(1, "me")), 5)
    control.join(5)
    with pytest.raises(HandshakeError, match="has the certificate of 'bob', not of 'carol'"):
        Worker(Address(*process.address), "carol", Identity.load(keys, "me"), QUICK).connect()


def test_one_party_as_another_member_of_a_session(
    process: WorkerProcess, keys: Path, dialler: Callable[..., Worker]
) -> None:
    """Alice is in the session; mallory connects as her, with a genuine certificate of her own."""
    driver = dialler("me")
    public = {id: Identity.load(keys, id).public for id in ("alice", "bob")}
    members = [
        handshake.MemberEntry("alice", public["alice"], "127.0.0.1", 1),
        handshake.MemberEntry("bob", public["bob"], *process.address),
    ]
    document = handshake.SessionDocument(handshake.VERSION, members, 2, (1 << 64).to_bytes(9, "big"), "securenn", 3.0)
    decode = wire.Decoder(Answer, None).decode
    fresh = decode(driver.control.request(SESSION, wire.encode(Propose(document)), 5))
    assert isinstance(fresh, Fresh)
    contributions = [b"a" * 32, fresh.fresh]
    opened = driver.control.submit(SESSION, wire.encode(Open(document, contributions)))
    session = handshake.session_id(document, contributions)
    sock, _ = dial(Identity.load(keys, "mallory"), process.address, "bob", ALPN_PEER, 5)
    pair = handshake.Pair(session, 0, 1, *members)
    with sock, pytest.raises((NetworkError, OSError)):
        sock.settimeout(5)
        handshake.exchange_as_low(sock, pair, Identity.load(keys, "mallory"))
    answer = decode(opened.result(10))  # alice never came
    assert isinstance(answer, Refused) and answer.kind == "DeadlineExceededError" and "alice" in answer.text


def test_plain_websockets(process: WorkerProcess) -> None:
    """``ws://`` was the default; without TLS a worker says nothing at all."""
    with socket.create_connection(process.address, 5) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: bob\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        sock.settimeout(5)
        found = b""
        try:
            while part := sock.recv(100):
                found += part
        except ConnectionResetError:
            pass
    assert b"HTTP" not in found and len(found) < 16  # a TLS alert at most


def test_clients_that_trust_anybody(keys: Path, tmp_path: Path) -> None:
    """The client had CERT_NONE: whoever stood between could be the worker. Ours refuses a worker of another group."""
    other = start_worker("bob", make_keys(tmp_path, "bob"))
    try:
        with pytest.raises(HandshakeError, match="its certificate is of another authority"):
            Worker(Address(*other.address), "bob", Identity.load(keys, "me"), QUICK).connect()
    finally:
        other.stop()


# ----------------------------------------------------------------------------------- one queue for all connections


def test_replies_of_others(dialler: Callable[..., Worker]) -> None:
    """One ``broadcast_queue`` for all connections: a reply could go to another client."""
    workers = [dialler(name) for name in ("me", "mallory", "carol")]
    for number, worker in enumerate(workers):
        ask(worker, Store([torch.full((500,), number)], [1000 + number]))
    wrong: list[Any] = []

    def run(number: int, worker: Worker) -> None:
        for _ in range(50):
            (value,) = ask(worker, Fetch([1000 + number], False)).values
            if not bool((value == number).all()):
                wrong.append(value)

    threads = [threading.Thread(target=run, args=entry) for entry in enumerate(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong and not any(thread.is_alive() for thread in threads)


# ----------------------------------------------------------------------- objects outlive their client, for anybody


def test_objects_a_client_left_behind(dialler: Callable[..., Worker]) -> None:
    """They were visible to the next, anonymous, client. Ours are there for the same identity alone."""
    before = dialler("me")
    ask(before, Store([torch.tensor([SECRET])], [2000], ["#left"]))
    before.close()
    mallory = dialler("mallory")
    assert ask(mallory, Listing()).objects == [] and ask(mallory, Search(["#left"])).objects == []
    negate = Execute("aten.neg.default", [Ref(2000)], {})
    for message in (Fetch([2000], False), Fetch([2000], True), Inspect(2000), negate):
        reply = ask(mallory, message)
        assert isinstance(reply, Failed) and reply.kind == "ObjectNotFoundError"
    assert ask(dialler("me"), Fetch([2000], True)).values[0].tolist() == [SECRET]


# ------------------------------------------------------------------------ a request returns and deletes any object


def test_requests_for_any_object_by_number(dialler: Callable[..., Worker]) -> None:
    """``ObjectRequest`` returned *and deleted* any object by its number, without asking whose it was."""
    me, mallory = dialler("me"), dialler("mallory")
    ask(me, Store([torch.tensor([SECRET])], [3000]))
    number = own_number(mallory)
    for remove in (True, False):
        for which in (3000, number):
            reply = ask(mallory, Fetch([which], remove))
            assert isinstance(reply, Failed) and not shows_secret(reply)
    ask(mallory, Forget([3000, number]))
    assert own_number(mallory) == number
    assert ask(me, Fetch([3000], True)).values[0].tolist() == [SECRET]
    with pytest.raises(GetNotPermittedError):
        (found,) = me.search("#secret")
        found.get()


# ------------------------------------------------------------------------------------- no limits, no times, floods


def test_messages_without_limit(mallory: Worker) -> None:
    """``max_size=None``: a client's size was taken on trust. An announced size is refused before memory is taken."""
    process_memory = torch.zeros(1 << 19)
    reply = ask(mallory, Store([process_memory]))
    assert isinstance(reply, Failed) and reply.kind == "LimitExceededError"
    head, part = (13).to_bytes(4, "big") + b"\x02" + bytes(7) + b"\x05", (1 << 62).to_bytes(8, "big")
    with mallory.control._sending:
        mallory.control._websocket.send(head + bytes([NODE]) + part + b"data")
    assert until(lambda: not mallory.connected)
    with pytest.raises(ConnectionLostError, match=LimitExceededError.__name__):
        ask(mallory, Listing())


def test_clients_that_say_nothing_for_ever(process: WorkerProcess, keys: Path) -> None:
    """``ping_timeout=None``: a client that was gone stayed connected for ever."""
    sock, _ = dial(Identity.load(keys, "mallory"), process.address, "bob", ALPN_CONTROL, 5)
    stream = Stream(sock)
    websocket = open_client(stream, "localhost:1", "bob", 5)
    start = time.monotonic()
    with pytest.raises((ConnectionLostError, ssl.SSLError)):
        while time.monotonic() < start + 10:
            websocket.receive(10)  # never answers a ping
    assert time.monotonic() - start < 5
    stream.close()


def test_floods_of_connections(process: WorkerProcess, dialler: Callable[..., Worker]) -> None:
    """Connections without end took the worker down; those without a certificate are bounded, and others get through."""
    before = process.resident()
    idle = [socket.create_connection(process.address, 5) for _ in range(300)]
    try:
        assert isinstance(ask(dialler("me"), Listing()).objects, list)
        assert process.resident() - before < 64 << 20
    finally:
        for sock in idle:
            sock.close()


# ------------------------------------------------------------------------------ a malformed query kills the handler


def test_malformed_queries(dialler: Callable[..., Worker]) -> None:
    """One malformed query ended the handler, and nobody could connect again."""
    mallory, me = dialler("mallory"), dialler("me")
    searches = [[1]], [None], [["#a"] * 100_000], [], [[b"\xff"]]
    for query in (*(["search", *fields] for fields in searches), b"", b"\xc1"):
        reply = ask(mallory, query)
        assert isinstance(reply, Failed) or reply.objects == []
    assert isinstance(ask(me, Listing()).objects, list)
    mallory.close()
    assert own_number(dialler("mallory"))


# ------------------------------------------------------------------- a history of messages that can be switched on


@pytest.mark.parametrize("name", ["_log_msgs", "log_msgs", "_get_msg", "msg_history", "message_pending_time"])
def test_histories_of_messages(mallory: Worker, name: str) -> None:
    """Clients could let a worker keep all messages, and read them. There is no such switch and no history."""
    assert isinstance(ask(mallory, [name, True]), Failed)
    assert isinstance(ask(mallory, Invoke(name, own_number(mallory), [-1], {})), Failed)
    for attribute in (name, "_recv_msg"):
        assert not isinstance(getattr(mallory, attribute, None), list)


# ---------------------------------------------------------------------------- reconnecting sends a command again


def test_commands_sent_again_after_reconnecting(process: WorkerProcess, dialler: Callable[..., Worker]) -> None:
    """A command whose reply was lost was sent again in silence: an addition in place happened twice."""
    proxy = Proxy(process.address)
    me = dialler("me", proxy.address)
    (made,) = ask(me, Store([torch.zeros(1)], [4000])).results
    assert isinstance(ask(me, Execute("aten.add_.Tensor", [Ref(4000), 1.0], {})), Made)
    proxy.hold_answers()
    passed = proxy.forward
    future = me.control.submit(NODE, wire.encode(Execute("aten.add_.Tensor", [Ref(4000), 1.0], {})))
    assert until(lambda: proxy.forward > passed)
    proxy.cut()  # whether it was served is not known
    with pytest.raises(ConnectionLostError, match="not sent again"):
        future.result(10)
    with pytest.raises(ConnectionLostError, match="Connect again"):
        ask(me, Execute("aten.add_.Tensor", [Ref(4000), 1.0], {}))
    proxy.resume()
    me.connect()
    (value,) = ask(me, Fetch([4000], True)).values
    assert value.item() in (1.0, 2.0)
    proxy.close()


# --------------------------------------------------------------------------------------------- twice the size


def test_sizes_on_the_wire(process: WorkerProcess, dialler: Callable[..., Worker]) -> None:
    """Hexadecimal text of ``str(bytes)`` took at least twice the size; tensors travel as they lie in memory."""
    proxy = Proxy(process.address)
    me = dialler("me", proxy.address)
    before, size = proxy.forward, 4 * 200_000
    ask(me, Store([torch.rand(200_000)], [5000]))
    assert size < proxy.forward - before < 1.02 * size
    before = proxy.backward
    ask(me, Fetch([5000], True))
    assert size < proxy.backward - before < 1.02 * size
    proxy.close()
