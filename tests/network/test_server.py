"""A worker as a process: who gets in, what belongs to whom, and what nobody can break."""

from __future__ import annotations

import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import sharetorch as st
from sharetorch.mpc.errors import (
    ConfigurationError,
    ConnectionLostError,
    FrameError,
    GetNotPermittedError,
    HandshakeError,
    NetworkError,
    UnsupportedOperationError,
    WorkerUnreachableError,
)
from sharetorch.mpc.network.identity import ALPN_CONTROL, ALPN_PEER, Identity, dial
from sharetorch.remote import wire
from sharetorch.remote.messages import Execute, Failed, Fetch, Inspect, Reply, Store
from sharetorch.remote.network.client import Hello, NetworkedWorker, connect
from sharetorch.remote.network.control import HELLO, NODE, NOTICE, REPLY, SESSION, Control
from sharetorch.remote.network.node import NetworkNode, Turn
from sharetorch.remote.network.server import WorkerServer
from sharetorch.remote.network.settings import NetworkSettings
from sharetorch.remote.network.stream import Stream
from sharetorch.remote.network.websocket import open_client
from tests.network.ports import free_port
from tests.network.tools import QUICK, Proxy, WorkerProcess, make_keys, served, until


@pytest.fixture
def server(keys: Path, names: None) -> Iterator[WorkerServer]:
    """A private worker bob, served by this process."""
    with served(NetworkNode(Identity.load(keys, "bob"), settings=QUICK), keys, "bob") as found:
        yield found


@pytest.fixture
def dialler(server: WorkerServer, keys: Path) -> Iterator[Callable[..., NetworkedWorker]]:
    made: list[NetworkedWorker] = []

    def run(identity: str = "me", **options: Any) -> NetworkedWorker:
        made.append(NetworkedWorker(url_of(server), "bob", Identity.load(keys, identity), QUICK, **options))
        return made[-1].connect()

    yield run
    for worker in made:
        worker.close()


@pytest.fixture
def me(dialler: Callable[..., NetworkedWorker]) -> NetworkedWorker:
    return dialler()


def url_of(server: Any) -> str:
    """Where it listens."""
    host, port = server.address
    return f"wss://{host}:{port}"


def ask(worker: NetworkedWorker, message: Any) -> Any:
    reply = wire.Decoder(Reply, st.local_worker).decode(worker.control.request(NODE, wire.encode(message), 10))
    return reply


# ---------------------------------------------------------------------------------------------------- who gets in


def test_connecting_tells_who_answers(me: NetworkedWorker, server: WorkerServer, keys: Path) -> None:
    assert (me.id, me.address, me.public) == ("bob", server.address, Identity.load(keys, "bob").public)
    assert me.lanes == 1 and me.store == {} and me.connected
    assert repr(me) == f"<NetworkedWorker id:bob {me.url} connected>"
    me.close()
    assert "not connected" in repr(me)


def test_another_address_for_other_members(keys: Path) -> None:
    node = NetworkNode(Identity.load(keys, "bob"))
    with served(node, keys, "bob", lanes=2, advertised="bob.example:7000") as server:
        worker = NetworkedWorker(url_of(server), None, Identity.load(keys, "me"), QUICK).connect()
        assert (worker.id, worker.lanes, worker.address) == ("bob", 2, ("bob.example", 7000))
        worker.close()


def test_nobody_there(keys: Path) -> None:
    with pytest.raises(WorkerUnreachableError):
        connect(f"wss://127.0.0.1:{free_port()}", id="bob", tls=keys)
    with pytest.raises(ConnectionRefusedError):
        st.WebsocketClientWorker(st.hook, "127.0.0.1", free_port(), id="bob", tls=keys)


def test_another_member_than_expected(server: WorkerServer, keys: Path) -> None:
    with pytest.raises(HandshakeError, match="bob"):
        NetworkedWorker(url_of(server), "alice", Identity.load(keys, "me"), QUICK).connect()


def test_members_of_another_group(server: WorkerServer, tmp_path: Path) -> None:
    others = make_keys(tmp_path / "others", "me")
    with pytest.raises(HandshakeError, match="of another authority"):
        NetworkedWorker(url_of(server), "bob", Identity.load(others, "me"), QUICK).connect()


def test_without_a_certificate(server: WorkerServer, me: NetworkedWorker) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(server.address) as raw, context.wrap_socket(raw) as tls:
        with pytest.raises(OSError, match="certificate required|EOF|reset"):
            tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert tls.recv(100) == b"", "got in"
            raise OSError("EOF")
    assert me.objects_count_remote() == 0


def test_what_keys_can_be(server: WorkerServer, keys: Path) -> None:
    url = url_of(server)
    for tls in (Identity.load(keys, "me"), str(keys), {"keys": keys, "identity": "me"}):
        connect(url, tls=tls).close()
    with pytest.raises(ConfigurationError, match="sharetorch keygen"):
        connect(url)
    with pytest.raises(ConfigurationError, match="'certificate'"):
        connect(url, tls={"certificate": "x"})
    with pytest.raises(ConfigurationError, match="is no address"):
        connect("http://bob", tls=keys)


def test_connecting_again_gives_the_same(server: WorkerServer, keys: Path) -> None:
    url = url_of(server)
    first = connect(url, id="bob", tls=keys)
    assert connect(url, id="bob", tls=keys) is first is st.local_worker.get_worker("bob")
    first.close()
    second = connect(url, id="bob", tls=keys)
    assert second is not first
    second.close()


def test_ids_of_workers_of_this_process_are_taken(server: WorkerServer, keys: Path) -> None:
    here = st.VirtualWorker(id="bob")
    with pytest.raises(RuntimeError, match="'bob' is the id of a VirtualWorker already"):
        connect(url_of(server), id="bob", tls=keys)
    here.remove_worker_from_local_worker_registry()


def test_connections_of_one_member_are_bounded(keys: Path) -> None:
    settings = NetworkSettings(max_connections_per_principal=2)
    with served(NetworkNode(Identity.load(keys, "bob")), keys, "bob", settings) as server:
        mine = [NetworkedWorker(url_of(server), "bob", Identity.load(keys, "me")) for _ in range(3)]
        other = NetworkedWorker(url_of(server), "bob", Identity.load(keys, "carol"))
        for worker in mine[:2]:
            worker.connect()
        with pytest.raises(HandshakeError, match="503"):
            mine[2].connect()
        other.connect()
        mine[0].close()
        assert until(lambda: server._refusal(mine[1].control.peer._replace(id="me")) is None)
        mine[2].connect()
        for worker in (*mine, other):
            worker.close()


def test_a_taken_address(server: WorkerServer, keys: Path) -> None:
    node = NetworkNode(Identity.load(keys, "carol"))
    with pytest.raises(WorkerUnreachableError, match="cannot listen"):
        WorkerServer(node, Identity.load(keys, "carol"), *server.address)


# ------------------------------------------------------------------------------------------------- what belongs to whom


def test_objects_survive_reconnecting(me: NetworkedWorker, dialler: Callable[..., NetworkedWorker]) -> None:
    me.enter_local_worker_registry()
    pointer = torch.tensor([1.0, 2.0]).send(me)
    me.close()
    with pytest.raises(ConnectionLostError, match="It was closed here.*not sent again.*worker.connect()"):
        pointer.get()
    assert me.connect() is me
    assert pointer.get().tolist() == [1, 2]


def test_objects_of_others_do_not_exist(dialler: Callable[..., NetworkedWorker], server: WorkerServer) -> None:
    mine, other = dialler("me"), dialler("mallory")
    ask(mine, Store([torch.ones(2)], [5], ["#x"]))
    hostile = [
        Fetch([5], False), Fetch([5], True), Inspect(5), Fetch([5], False, "me"), Fetch([5], False, "bob", "please"),
        Execute("aten.neg.default", [wire.Ref(5)], {}),
    ]  # fmt: skip
    for message in hostile:
        reply = ask(other, message)
        assert isinstance(reply, Failed) and reply.kind == "ObjectNotFoundError"
    assert {entry.sender for entry in server.node.audit.refused()} == {"mallory"}
    assert ask(mine, Fetch([5], True)).values[0].tolist() == [1, 1]


def test_nobody_speaks_for_users(dialler: Callable[..., NetworkedWorker], server: WorkerServer) -> None:
    server.node.load(torch.ones(2), number=7, tags=("#own",))
    server.node.objects[7].readers.names = frozenset({"carol"})
    reply = ask(dialler("me"), Fetch([7], False, "carol"))
    assert isinstance(reply, Failed) and reply.kind == "GetNotPermittedError"
    assert ask(dialler("carol"), Fetch([7], False)).values[0].tolist() == [1, 1]


def test_replies_reach_only_whoever_asked(dialler: Callable[..., NetworkedWorker]) -> None:
    workers = [dialler(name) for name in ("me", "carol", "mallory", "me")]
    for number, worker in enumerate(workers):
        ask(worker, Store([torch.full((1000,), number)], [number]))
    wrong: list[Any] = []

    def run(number: int, worker: NetworkedWorker) -> None:
        for _ in range(100):
            (value,) = ask(worker, Fetch([number], False)).values
            if not bool((value == number).all()):
                wrong.append((number, value))

    threads = [threading.Thread(target=run, args=entry) for entry in enumerate(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong and not any(thread.is_alive() for thread in threads)


# --------------------------------------------------------------------------------------- what nobody can break


def raw(server: WorkerServer, keys: Path, identity: str = "mallory", hello: bool = True) -> Control:
    """A connection by which anything can be sent."""
    sock, peer = dial(Identity.load(keys, identity), server.address, "bob", ALPN_CONTROL, 5)
    websocket = open_client(Stream(sock), "localhost:1", "bob", 5)
    control = Control(websocket, peer, QUICK, lambda *_: None).start()
    if hello:
        control.request(HELLO, msgspec.msgpack.encode(Hello(1, identity)), 5)
    return control


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (NODE, b""),
        (SESSION, b""),
        (NOTICE, b""),
        (HELLO, b"no hello"),
        (HELLO, msgspec.msgpack.encode(Hello(1, "me"))),
        (HELLO, msgspec.msgpack.encode(Hello(99, "mallory"))),
    ],
    ids=["node", "session", "notice", "malformed", "another id", "another version"],
)
def test_the_hello_comes_first_and_is_true(
    server: WorkerServer, keys: Path, me: NetworkedWorker, kind: int, payload: bytes
) -> None:
    control = raw(server, keys, hello=False)
    with pytest.raises(NetworkError):
        control.request(kind, payload, 5)
    assert until(lambda: control.closed)
    control.join(5)
    assert me.objects_count_remote() == 0


@pytest.mark.parametrize("kind", [NOTICE, HELLO])
def test_items_a_worker_does_not_take(server: WorkerServer, keys: Path, me: NetworkedWorker, kind: int) -> None:
    control = raw(server, keys)
    with pytest.raises(ConnectionLostError, match="FrameError"):
        control.request(kind, b"", 5)
    control.join(5)
    assert me.objects_count_remote() == 0


def test_sessions_need_a_worker_that_takes_part(me: NetworkedWorker) -> None:
    with pytest.raises(UnsupportedOperationError, match="bob takes part in no sessions"):
        me.control.request(SESSION, b"", 5)
    assert me.connected


def test_data_connections_need_a_worker_that_takes_part(server: WorkerServer, keys: Path) -> None:
    sock, _ = dial(Identity.load(keys, "carol"), server.address, "bob", ALPN_PEER, 5)
    with sock:
        assert sock.recv(1) == b""


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", b"\x00" * 100, b"\xff" * 100, b"\x91" * 5000, wire.encode(["__str__", 5]),
     wire.encode(["execute", "os.system", ["ls"], {}]), wire.encode(["eval", "1"]), wire.encode({"a": 1})],
)  # fmt: skip
def test_malformed_requests_are_answered(me: NetworkedWorker, payload: bytes) -> None:
    reply = wire.Decoder(Reply, st.local_worker).decode(me.control.request(NODE, payload, 5))
    assert isinstance(reply, Failed)
    assert me.connected and me.objects_count_remote() == 0


def test_mutated_messages_end_only_their_connection(server: WorkerServer, keys: Path, me: NetworkedWorker) -> None:
    """Bits of items are flipped; whatever comes of it, the worker lives and others are not disturbed."""
    source = random.Random(1)
    ask(me, Store([torch.ones(2)], [1]))
    message = wire.encode(Store([torch.arange(4)], [99], ["#a"], "text"))
    control = raw(server, keys)
    for _ in range(300):
        if control.closed:
            control.join(5)
            control = raw(server, keys)
        data = bytearray(len(message).to_bytes(4, "big") + bytes([NODE]) + bytes(7) + b"\x01" + message)
        for _ in range(source.randint(1, 4)):
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        try:
            with control._sending:
                control._websocket.send(bytes(data))
        except NetworkError:
            pass
    control.close()
    control.join(5)
    assert ask(me, Fetch([1], False)).values[0].tolist() == [1, 1]
    assert server.node.objects[1].owner == "me"


def test_a_worker_that_replies_to_nothing(server: WorkerServer, keys: Path, me: NetworkedWorker) -> None:
    control = raw(server, keys)
    control._answer(REPLY, 12345, b"unasked")
    assert isinstance(ask(me, Inspect(1)), Failed)
    assert not control.closed
    control.close()
    control.join(5)


def test_a_server_that_sends_requests(keys: Path) -> None:
    """Only replies and notices are taken from a worker."""
    with served(NetworkNode(Identity.load(keys, "bob")), keys, "bob") as server:
        worker = NetworkedWorker(url_of(server), "bob", Identity.load(keys, "me"), QUICK).connect()
        (visitor,) = server._visitors
        visitor.control.post(NODE, wire.encode(Fetch([1], True)))
        assert until(lambda: not worker.connected)
        assert isinstance(worker.control.error, FrameError)


# ----------------------------------------------------------------------------------------------- connections that fail


@pytest.fixture
def proxied(server: WorkerServer, keys: Path) -> Iterator[tuple[Proxy, NetworkedWorker]]:
    proxy = Proxy(server.address)
    worker = NetworkedWorker(proxy.url, "bob", Identity.load(keys, "me"), QUICK).connect()
    yield proxy, worker
    worker.close()
    proxy.close()


def test_a_network_that_swallows_everything(proxied: tuple[Proxy, NetworkedWorker], server: WorkerServer) -> None:
    proxy, worker = proxied
    proxy.pause()
    start = time.monotonic()
    with pytest.raises(ConnectionLostError, match="went silent"):
        ask(worker, Inspect(1))
    assert time.monotonic() - start < QUICK.silence_seconds + 2
    assert until(lambda: not server._visitors, 5)  # the other end noticed as well


def test_a_connection_that_breaks_while_a_request_is_under_way(
    proxied: tuple[Proxy, NetworkedWorker], server: WorkerServer
) -> None:
    """The request is served once: it is not known whether, so it is not sent again."""
    proxy, worker = proxied
    worker.enter_local_worker_registry()
    x = torch.zeros(2).send(worker).add_(1)
    before = proxy.forward
    server.turn.__enter__()  # the worker is busy
    outcome: list[BaseException] = []

    def run() -> None:
        try:
            x.add_(1)
            worker.sync()
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert until(lambda: proxy.forward > before + 50)
    time.sleep(0.1)
    proxy.cut()
    thread.join(10)
    server.turn.__exit__(None, None, None)
    assert isinstance(outcome[0], ConnectionLostError)
    worker.connect()
    assert until(lambda: x.fetched().tolist() == [2, 2], 5)
    time.sleep(0.2)
    assert x.get().tolist() == [2, 2]


def test_a_worker_that_hangs(start: Callable[..., WorkerProcess], names: None) -> None:
    worker = start("james", settings={"heartbeat_seconds": 0.5, "silence_seconds": 3})
    james = worker.connect(settings=NetworkSettings(heartbeat_seconds=0.5, silence_seconds=3))
    x = torch.ones(2).send(james)
    worker.process.stop()
    state = Path(f"/proc/{worker.process.pid}/stat")
    if state.exists():  # a signal takes its time on a busy machine
        assert until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T", 5)
    try:
        with pytest.raises(ConnectionLostError, match="james went silent"):
            x + 1
    finally:
        worker.process.resume()
    james.connect()
    assert x.get().tolist() == [1, 1]
    worker.process.kill()
    with pytest.raises(ConnectionLostError):
        torch.ones(2).send(james)
    assert until(lambda: not worker.alive)
    with pytest.raises(WorkerUnreachableError):
        james.connect()
    james.close()


# ------------------------------------------------------------------------------------- idle and hostile connections


@pytest.mark.parametrize("how", ["plain", "in the handshake", "half a hello"])
def test_a_thousand_idle_connections(start: Callable[..., WorkerProcess], names: None, how: str) -> None:
    worker = start("james", settings={"handshake_seconds": 5, "pending_handshakes": 64})
    james = worker.connect()
    x = torch.ones(2).send(james)
    before = worker.resident()
    idle = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        for _ in range(1000):
            sock = socket.create_connection(worker.address)
            if how != "plain":
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                client = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
                with pytest.raises(ssl.SSLWantReadError):
                    client.do_handshake()
                hello = outgoing.read()
                sock.sendall(hello if how == "in the handshake" else hello[: len(hello) // 2])
            idle.append(sock)
        start_time = time.monotonic()
        assert (x + 1).get().tolist() == [2, 2]
        again = worker.connect("carol")
        assert again.objects_count_remote() == 0
        assert time.monotonic() - start_time < 3
        again.close()
        assert worker.resident() - before < 64 << 20
    finally:
        for sock in idle:
            sock.close()
        james.close()
        worker.stop()


def test_slow_handshakes_are_dropped(server: WorkerServer) -> None:
    with socket.create_connection(server.address) as sock:
        sock.settimeout(5)
        began = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011 - reset or end of the stream
            for _ in range(100):
                sock.sendall(b"\x16")
                time.sleep(0.05)
                if sock.recv(1) == b"":
                    raise OSError("closed")
        assert time.monotonic() - began < 4


# ----------------------------------------------------------------------------------------------------------- the turn


def test_the_turn_is_given_away() -> None:
    turn, order = Turn(), []

    def other() -> None:
        with turn:
            order.append("other")

    with turn:
        thread = threading.Thread(target=other)
        thread.start()
        order.append("first")
        with turn.given_away():
            thread.join(5)
        order.append("back")
    with turn.given_away():
        order.append("without it")
    assert order == ["first", "other", "back", "without it"]


def test_long_chains_between_two_workers(group: dict[str, WorkerProcess], names: None) -> None:
    """Each request waits for seven more, at workers that serve one already."""
    alice, bob = group["alice"].connect(), group["bob"].connect()
    x = torch.ones(2).send(bob).send(alice)
    z = x.send(bob)
    for _ in range(6):
        z = z.send(alice).send(bob)
    assert z.location is bob
    w = z + 1
    assert w.location is bob
    for worker in (alice, bob):
        worker.clear_objects()
        worker.close()


# ------------------------------------------------------------------------------------------------ the tutorials' names


def test_workers_under_the_tutorials_names(keys: Path, names: None, monkeypatch: pytest.MonkeyPatch) -> None:
    data = (torch.tensor([1.0, 2.0]).tag("#data"),)
    server = st.WebsocketServerWorker(st.hook, "127.0.0.1", 0, id="alice", data=data, verbose=True, tls=keys)
    thread = server.start_thread()
    monkeypatch.setenv("SHARETORCH_KEYS", str(keys))
    client = st.WebsocketClientWorker(st.hook, *server.address, id="alice", data=[torch.ones(1).tag("#sent")])
    assert client.url == url_of(server)
    (found,) = client.search(["#data"])
    assert found.location is client and (found + 1).location is client
    with pytest.raises(GetNotPermittedError):
        found.get()
    assert client.objects_count_remote() == client.tensors_count_remote() == 1
    assert "#sent" in client.list_objects_remote()
    x = torch.tensor([3.0]).send(client)
    client.close()
    client.connect()
    assert x.get().tolist() == [3]
    with pytest.raises(st.exceptions.TrainingError):
        client.fit(dataset_key="x")
    client.clear_objects_remote()
    assert client.objects_count_remote() == 0
    client.close()
    server.stop()
    thread.join(5)
    assert not thread.is_alive() and "alice" in repr(server)


def test_certificates_under_the_tutorials_names(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHARETORCH_KEYS", raising=False)
    with pytest.raises(ConfigurationError, match="tls=FOLDER"):
        st.WebsocketServerWorker(st.hook, "127.0.0.1", 0, id="alice", cert_path="x", key_path="y")
    for kind in (st.WebsocketServerWorker, st.WebsocketClientWorker):
        with pytest.raises(ConfigurationError, match="SHARETORCH_KEYS"):
            kind(st.hook, "127.0.0.1", 0, id="alice")
    with pytest.raises(ConfigurationError, match="keys of carol"):
        st.WebsocketServerWorker(st.hook, "127.0.0.1", 0, id="alice", tls=Identity.load(keys, "carol"))


