"""Worker processes for tests, and ways to look at them."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sharetorch.mpc.network import certificates
from sharetorch.mpc.network.identity import Identity
from sharetorch.remote.network.client import NetworkedWorker, connect
from sharetorch.remote.network.server import WorkerServer
from sharetorch.remote.network.settings import NetworkSettings
from sharetorch.remote.worker import known_workers
from tests.network.forked import Process, nursery
from tests.network.ports import free_port

QUICK = NetworkSettings(
    handshake_seconds=2, heartbeat_seconds=0.3, silence_seconds=1.5, connect_seconds=5, request_seconds=30
)
"""Short deadlines, for tests that wait for them."""

class WithoutCertificate(Identity):
    """Presents no certificate."""

    def client_context(self, protocol: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cafile=self._folder / "ca.crt")
        context.set_alpn_protocols([protocol])
        return context


def make_keys(folder: Path, *ids: str) -> Path:
    """A folder with an authority and members."""
    certificates.make_authority(folder)
    for id in ids:
        certificates.issue(folder, id, ["localhost", "127.0.0.1"])
    return folder


class WorkerProcess:
    """A worker process.

    Attributes:
        id: its name.
        keys: folder with keys.
        address: host and port.
        process: the process itself.
    """

    def __init__(self, id: str, keys: Path, port: int, process: Process) -> None:
        self.id = id
        self.keys = keys
        self.address = ("127.0.0.1", port)
        self.process = process

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"wss://127.0.0.1:{self.address[1]}"

    def connect(self, identity: str = "me", settings: NetworkSettings | None = None) -> NetworkedWorker:
        """Connect to it."""
        return connect(self.url, id=self.id, tls=self.keys, identity=identity, settings=settings)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.runs

    def resident(self) -> int:
        """Bytes of memory it has."""
        status = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(status[1]) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """End it."""
        self.process.end()


def start_worker(
    id: str,
    keys: Path,
    port: int = 0,
    peers: Mapping[str, tuple[str, int]] | None = None,
    settings: Mapping[str, Any] | None = None,
    limits: Mapping[str, int] | None = None,
    data: Any = (),
    private: bool = True,
    sessions: bool = False,
    sources: Any = (),
    audit: Path | None = None,
    state: Path | None = None,
) -> WorkerProcess:
    """Start a worker process, and wait until it listens.

    Args:
        id: its name, of which ``keys`` has a certificate.
        keys: folder with keys.
        port: where it listens; a free one if not given.
        peers: addresses of other workers.
        settings: of ``NetworkSettings``.
        limits: of ``Limits``.
        data: pairs of values and tags that the worker holds from the start.
        private: as of ``Node``.
        sessions: whether it takes part in sessions.
        sources: data sets, as in a configuration.
        audit: file of the audit.
        state: folder for checkpoints and what was prepared.
    """
    port = port or free_port()
    spec = {
        "id": id, "keys": str(keys), "port": port, "peers": dict(peers or {}), "settings": dict(settings or {}),
        "limits": dict(limits or {}), "data": list(data), "private": private, "sessions": sessions,
        "sources": list(sources), "audit": str(audit or ""), "state": str(state or ""),
    }  # fmt: skip
    return WorkerProcess(id, keys, port, Process(nursery().path, role="any worker", **spec))


def start_group(
    ids: tuple[str, ...], keys: Path, each: Mapping[str, Mapping[str, Any]] | None = None, **options: Any
) -> dict[str, WorkerProcess]:
    """Start workers that know each other; ``each`` has options of single ones."""
    addresses = {id: ("127.0.0.1", free_port()) for id in ids}
    made: dict[str, WorkerProcess] = {}
    try:
        for id in ids:
            peers = {other: address for other, address in addresses.items() if other != id}
            made[id] = start_worker(id, keys, addresses[id][1], peers, **options, **(each or {}).get(id, {}))
    except BaseException:
        for worker in made.values():
            worker.stop()
        raise
    return made


@contextlib.contextmanager
def names_free(*names: str) -> Iterator[None]:
    """These names are free for workers of other processes; whoever had them gets them back."""
    before = [worker for name, worker in known_workers().items() if name in names]
    for worker in before:
        worker.remove_worker_from_local_worker_registry()
    yield
    for name, worker in known_workers().items():
        if name in names:
            worker.remove_worker_from_local_worker_registry()
    for worker in before:
        worker.enter_local_worker_registry()


@contextlib.contextmanager
def connected_group(folder: Path, *names: str) -> Iterator[list[NetworkedWorker]]:
    """Members, each a process, connected; other workers of their names are out of the registry meanwhile.

    Args:
        folder: for keys.
        names: of the members, in order.
    """
    group = start_group(names, make_keys(folder, *names, "me"), sessions=True)
    with names_free(*names):
        made = [worker.connect() for worker in group.values()]
        yield made
        for worker in made:
            worker.close()
    for process in group.values():
        process.stop()


@contextlib.contextmanager
def served(node: Any, keys: Path, id: str, settings: NetworkSettings = QUICK, **options: Any) -> Iterator[WorkerServer]:
    """A node served by this process."""
    server = WorkerServer(node, Identity.load(keys, id), "127.0.0.1", 0, settings, **options).start()
    try:
        yield server
    finally:
        server.stop()


def until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Wait until something holds; tells whether it does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


class _Late:
    """Sends what it is given a while later, however much is on its way."""

    def __init__(self, target: socket.socket, delay: float) -> None:
        self._target, self._delay = target, delay
        self._queue: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, data: bytes) -> None:
        self._queue.put((time.monotonic() + self._delay, data))

    def finish(self) -> None:
        self.put(b"")
        self._thread.join(10)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = self._queue.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    return
                self._target.sendall(data)


class Proxy:
    """Passes bytes on between a client and a server, counts them, and can stop, break or delay doing so.

    Attributes:
        address: where it listens.
        forward: bytes from client to server.
        backward: bytes from server to client.
        delay: seconds by which bytes come later, in each direction; set before a connection is made.
    """

    def __init__(self, target: tuple[str, int], delay: float = 0.0) -> None:
        self._target = target
        self.delay = delay
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listening.getsockname()
        self.forward = self.backward = 0
        self._flowing = {forward: threading.Event() for forward in (True, False)}
        self.resume()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._run, daemon=True).start()

    @property
    def url(self) -> str:
        """As the address of a worker."""
        return f"wss://127.0.0.1:{self.address[1]}"

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._target)
            except OSError:
                return
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, server]
            threading.Thread(target=self._pass, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, False), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, forward: bool) -> None:
        with contextlib.suppress(OSError):
            late = _Late(target, self.delay) if self.delay else None
            while data := source.recv(1 << 16):
                self._flowing[forward].wait()
                if forward:
                    self.forward += len(data)
                else:
                    self.backward += len(data)
                if late is None:
                    target.sendall(data)
                else:
                    late.put(data)
            if late is not None:
                late.finish()
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def pause(self) -> None:
        """Pass nothing on, as if the network were gone; nobody is told."""
        self._flowing[True].clear()
        self.hold_answers()

    def hold_answers(self) -> None:
        """Pass nothing on to the client."""
        self._flowing[False].clear()

    def resume(self) -> None:
        """Go on."""
        for flowing in self._flowing.values():
            flowing.set()

    def cut(self) -> None:
        """Break all connections."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.resume()
        self.cut()
        for sock in self._sockets:
            sock.close()
