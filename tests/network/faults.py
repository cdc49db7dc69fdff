"""Tools of the fault matrix: members, and wires between them that can be disturbed.

A ``Wire`` stands between two members and counts what passes. A ``Fuse`` watches some wires and burns when so many bytes
have passed: then the fault happens, at the same byte in every run. What comes after that byte meets the disturbed wire.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.network.forked import Nursery, Process
from tests.network.ports import free_port

PASS, DROP, TRICKLE, RESET = "pass", "drop", "trickle", "reset"
"""What a wire does with bytes: it passes them, swallows them and ends alike, passes one a second, or breaks off."""


class Fuse:
    """Calls ``action`` once, when so many bytes have passed the wires it watches.

    Args:
        size: of the bytes.
        action: what happens then; runs in the thread of the wire, which waits.
        forth: whether bytes of the one who dialed count.
        back: whether bytes of the other count.
    """

    def __init__(self, size: int, action: Callable[[], None], forth: bool = True, back: bool = True) -> None:
        self._left = size
        self._action = action
        self._directions = {True: forth, False: back}
        self._lock = threading.Lock()
        self.burnt = threading.Event()

    def admit(self, size: int, forward: bool) -> int:
        """How many of these bytes pass before it burns."""
        with self._lock:
            if self.burnt.is_set() or not self._directions[forward]:
                return size
            passed = min(size, self._left)
            self._left -= passed
            return passed

    def check(self) -> None:
        """Burn if it is time."""
        with self._lock:
            if self._left or self.burnt.is_set():
                return
            self._action()
            self.burnt.set()


class Wire:
    """Passes bytes on between whoever dials and a target.

    Attributes:
        address: where it listens.
        fuse: what watches it.
        passed: bytes so far, by direction; True is that of who dialed.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listening.getsockname()
        self.fuse: Fuse | None = None
        self.passed = {True: 0, False: 0}
        self._mode = PASS
        self._connections: list[_Connection] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.close()
                continue
            self._connections.append(self._connect(client, server))

    def _connect(self, client: socket.socket, server: socket.socket) -> _Connection:
        return _Connection(self, client, server, self._mode)

    def disturb(self, mode: str) -> None:
        """Treat the bytes of all connections in another way from now on; ``RESET`` breaks those there are."""
        self._mode = PASS if mode == RESET else mode
        for connection in self._connections:
            connection.disturb(mode)

    def heal(self) -> None:
        """Pass everything again; connections that were disturbed are broken."""
        self.fuse = None
        self._mode = PASS
        for connection in self._connections:
            if connection.mode != PASS:
                connection.disturb(RESET)
        self._connections = [connection for connection in self._connections if connection.mode == PASS]

    def close(self) -> None:
        """Stop."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._connections:
            connection.disturb(RESET)


class _Connection:
    """A connection through a wire: two sockets, and a thread for each direction."""

    def __init__(self, wire: Wire, client: socket.socket, server: socket.socket, mode: str) -> None:
        self.mode = mode
        self._wire = wire
        self._sockets = client, server
        self._waiting, self._waker = socket.socketpair()
        self._running = 2
        self._lock = threading.Lock()
        for sock in self._sockets:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for source, target, forward in ((client, server, True), (server, client, False)):
            threading.Thread(target=self._run, args=(source, target, forward), daemon=True).start()

    def disturb(self, mode: str) -> None:
        """Treat bytes in another way from now on."""
        if self.mode != RESET:
            self.mode = mode
        if mode == RESET:
            with contextlib.suppress(OSError):
                self._waker.send(b"x")

    def _run(self, source: socket.socket, target: socket.socket, forward: bool) -> None:
        try:
            with contextlib.suppress(OSError):
                while self._pass(source, target, forward):
                    pass
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self._close()

    def _pass(self, source: socket.socket, target: socket.socket, forward: bool) -> bool:
        """Pass on what has come; tells whether there may be more. Nobody reads a socket that is to be reset."""
        found = select.select([source, self._waiting], [], [])[0]
        if self._waiting in found:
            return False
        data = source.recv(1 << 16)
        if not data:
            if self.mode == DROP:
                select.select([self._waiting], [], [])
            else:
                target.shutdown(socket.SHUT_WR)
            return False
        fuse = self._wire.fuse
        count = len(data) if fuse is None else fuse.admit(len(data), forward)
        self._carry(target, data[:count], forward)
        if fuse is not None:
            fuse.check()
        self._carry(target, data[count:], forward)
        return self.mode != RESET

    def _carry(self, target: socket.socket, data: bytes, forward: bool) -> None:
        place = 0
        while place < len(data) and self.mode not in (DROP, RESET):
            size = 1 if self.mode == TRICKLE else len(data) - place
            target.sendall(data[place : place + size])
            self._wire.passed[forward] += size
            place += size
            if self.mode == TRICKLE:
                select.select([self._waiting], [], [], 1.0)

    def _close(self) -> None:
        for sock in self._sockets:
            if self.mode == RESET:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        self._waiting.close()
        self._waker.close()


class LongWire(Wire):
    """A wire on which everything arrives ``delay`` seconds later, however much is on its way.

    Attributes:
        delay: may be changed at any time.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.delay = 0.0
        super().__init__(target)

    def _connect(self, client: socket.socket, server: socket.socket) -> _Connection:
        return _LongConnection(self, client, server, self._mode)


class _LongConnection(_Connection):
    _wire: LongWire

    def __init__(self, wire: LongWire, client: socket.socket, server: socket.socket, mode: str) -> None:
        self._ways = {True: self._way(), False: self._way()}
        super().__init__(wire, client, server, mode)

    def _carry(self, target: socket.socket, data: bytes, forward: bool) -> None:
        self._ways[forward].put((time.monotonic() + self._wire.delay, target, data))

    def _way(self) -> queue.SimpleQueue[Any]:
        way: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def deliver() -> None:
            while True:
                due, target, data = way.get()
                time.sleep(max(0.0, due - time.monotonic()))
                with contextlib.suppress(OSError):
                    target.sendall(data)

        threading.Thread(target=deliver, daemon=True).start()
        return way


class Net:
    """Three workers and a driver, all of whose connections go through wires.

    Attributes:
        workers: processes, by id.
        driver: a process.
        between: wires between workers, by dialer and target.
        controls: wires of the driver, by worker.
        dirty: whether a test has left it in disorder.
    """

    def __init__(
        self, folder: Path, keys: Path, settings: dict[str, float], ids: Sequence[str],
        wire: Callable[[tuple[str, int]], Any] = Wire,
    ) -> None:  # fmt: skip
        self._folder, self._keys, self._settings = folder, keys, settings
        self.dirty = False
        self._nursery = Nursery(folder)
        self._ports = {id: free_port() for id in ids}
        targets = {id: ("127.0.0.1", port) for id, port in self._ports.items()}
        self.between = {
            (dialer, target): wire(targets[target]) for dialer in ids for target in ids if dialer < target
        }  # fmt: skip
        self.controls = {id: Wire(targets[id]) for id in ids}
        self.workers = {id: self._worker(id) for id in ids}
        self.driver = self._driver()

    def _worker(self, id: str) -> Process:
        peers = {target: wire.address for (dialer, target), wire in self.between.items() if dialer == id}
        return Process(
            self._nursery.path, role="worker", id=id, keys=str(self._keys), port=self._ports[id], peers=peers,
            settings=self._settings, state=str(self._folder),
        )  # fmt: skip

    def _driver(self) -> Process:
        workers = {id: wire.address for id, wire in self.controls.items()}
        return Process(
            self._nursery.path, role="driver", id="me", keys=str(self._keys), workers=workers, settings=self._settings
        )

    def member(self, name: str) -> Process:
        """A worker, or the driver."""
        return self.driver if name == "driver" else self.workers[name]

    def peers(self, name: str) -> list[Wire]:
        """Wires between a worker and the others; all of them for the driver, which has none."""
        return [wire for pair, wire in self.between.items() if name in pair or name == "driver"]

    def wires(self, name: str) -> list[Wire]:
        """All wires that end at a member; the driver's first, so that nothing the member says then is heard."""
        if name == "driver":
            return list(self.controls.values())
        return [self.controls[name], *self.peers(name)]

    def light(self, wires: Iterable[Wire], *fuse: Any, **directions: bool) -> Fuse:
        """Watch some wires by a fuse."""
        made = Fuse(*fuse, **directions)
        for wire in wires:
            wire.fuse = made
        return made

    def checkpoints(self, id: str) -> list[Path]:
        """All files a worker has written."""
        return [path for path in (self._folder / id / "checkpoints").rglob("*") if path.is_file()]

    def mend(self) -> None:
        """Heal all wires, resume who was stopped, and start who was killed."""
        for wire in (*self.between.values(), *self.controls.values()):
            wire.heal()
        for process in (*self.workers.values(), self.driver):
            process.resume()
        for id, worker in self.workers.items():
            if not worker.alive:
                worker.close()
                self.workers[id] = self._worker(id)
        if not self.driver.alive:
            self.driver.close()
            self.driver = self._driver()

    def close(self) -> None:
        """End everything."""
        for process in (*self.workers.values(), self.driver):
            process.close()
        self._nursery.close()
        for wire in (*self.between.values(), *self.controls.values()):
            wire.close()
