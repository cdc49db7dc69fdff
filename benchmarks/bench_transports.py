"""How fast two processes of one machine pass bytes to each other, by several transports; every message is compared.

python benchmarks/bench_transports.py --json benchmarks/results/network-transports.json
    --repeats N       runs of each transport, in turn (default: 3)
    --only NAME ...   these transports only
    --small           few messages, to see whether the benchmark runs at all

A round trip is one message there and one back; a stream is many messages one way, answered once; in an exchange both
send at the same time, as two parties do when they open a value. Times are those of the side that begins.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import queue
import socket
import ssl
import statistics
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from numpy.typing import NDArray

from sharetorch.mpc import kernels
from sharetorch.mpc.channel import Form, Message, form_of
from sharetorch.mpc.network import certificates
from sharetorch.mpc.network.frames import Direction
from sharetorch.mpc.network.identity import ALPN_PEER, Identity, accept, dial, tune
from sharetorch.mpc.network.links import Incoming, Outgoing, Times
from sharetorch.mpc.ring import ring_of

SIZES = {64: 600, 8 << 10: 600, 128 << 10: 200, 1 << 20: 60, 16 << 20: 8}
"""Bytes of a message, and how many are sent in one run."""
WHAT = ("round trip", "stream", "exchange")
WARM_UP = 3
SECONDS = 60
"""After which a wait counts as failed."""
AT_ONCE = 1 << 16
"""Bytes that an exchange sends without a second thread: no buffer of a connection is smaller."""
IDS = ("first", "second")

Bytes = NDArray[np.uint8]


class End(ABC):
    """One end of a transport; blocking ends do not await anything.

    Attributes:
        longest_exchange: bytes that both sides can send at the same time.
    """

    longest_exchange = max(SIZES)

    @abstractmethod
    async def send(self, data: Bytes) -> None:
        """Send a message."""

    @abstractmethod
    async def receive(self, size: int) -> Bytes:
        """Wait for a message of that size; it is valid until the next."""

    async def exchange(self, data: Bytes) -> Bytes:
        """Send a message while one of the same size arrives."""
        await self.send(data)
        return await self.receive(len(data))

    async def close(self) -> None:  # noqa: B027 (most have nothing to do)
        """Close."""


class Threaded(End):
    """A blocking end with a thread that sends what is too long to be sent before anything is read."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Bytes] = queue.SimpleQueue()
        self._sent: queue.SimpleQueue[None] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            self.write(self._waiting.get())
            self._sent.put(None)

    @abstractmethod
    def write(self, data: Bytes) -> None:
        """Send a message."""

    async def send(self, data: Bytes) -> None:
        self.write(data)

    async def exchange(self, data: Bytes) -> Bytes:
        if len(data) <= AT_ONCE:
            return await super().exchange(data)
        self._waiting.put(data)
        found = await self.receive(len(data))
        self._sent.get()
        return found


class Stream(Threaded):
    """Blocking sockets, one for each direction or one for both."""

    def __init__(self, outgoing: socket.socket, incoming: socket.socket) -> None:
        super().__init__()
        self._outgoing, self._incoming = outgoing, incoming
        self._memory = np.empty(max(SIZES), np.uint8)
        for sock in (outgoing, incoming):
            sock.settimeout(None)

    def write(self, data: Bytes) -> None:
        self._outgoing.sendall(data.data)

    async def receive(self, size: int) -> Bytes:
        view, done = self._memory.data, 0
        while done < size:
            count = self._incoming.recv_into(view[done:size])
            if not count:
                raise EOFError("The other side has gone.")
            done += count
        return self._memory[:size]


class Shared(Threaded):
    """Memory both processes see, in slots; a byte over a unix socket tells that a slot is full, or free again."""

    SLOT, SLOTS = 1 << 20, 4

    def __init__(self, outgoing: socket.socket, incoming: socket.socket, memory: SharedMemory, rank: int) -> None:
        super().__init__()
        self._memory = memory
        slots = np.frombuffer(memory.buf, np.uint8).reshape(2, self.SLOTS, self.SLOT)
        self._out, self._in = slots[rank], slots[1 - rank]
        self._outgoing, self._incoming = outgoing, incoming
        self._contents = np.empty(max(SIZES), np.uint8)
        self._free, self._full = self.SLOTS, 0
        self._next_out = self._next_in = 0

    def write(self, data: Bytes) -> None:
        for place in range(0, len(data), self.SLOT):
            while not self._free:
                self._free += len(self._outgoing.recv(self.SLOTS))
            part = data[place : place + self.SLOT]
            self._out[self._next_out, : len(part)] = part
            self._next_out = (self._next_out + 1) % self.SLOTS
            self._free -= 1
            self._outgoing.sendall(b"f")

    async def receive(self, size: int) -> Bytes:
        for place in range(0, size, self.SLOT):
            while not self._full:
                self._full += len(self._incoming.recv(self.SLOTS))
            part = self._contents[place : min(place + self.SLOT, size)]
            part[:] = self._in[self._next_in, : len(part)]
            self._next_in = (self._next_in + 1) % self.SLOTS
            self._full -= 1
            self._incoming.sendall(b"e")
        return self._contents[:size]

    async def close(self) -> None:
        del self._out, self._in
        self._memory.close()


class Links(End):
    """The connections between members of a session, with frames."""

    RING = ring_of(1 << 64)

    def __init__(self, outgoing: ssl.SSLSocket, incoming: ssl.SSLSocket, rank: int) -> None:
        kernels.keep_freed_memory()
        key, session, times = bytes(32), bytes(32), Times()
        self._rank, other = rank, 1 - rank
        self._outgoing = Outgoing(outgoing, IDS[other], Direction(key, session, rank, other), self.RING, times)
        self._incoming = Incoming(incoming, IDS[other], Direction(key, session, other, rank), self.RING, times)
        self._sent = self._received = 0

    async def send(self, data: Bytes) -> None:
        field = torch.from_numpy(data.view(np.int64))
        self._sent += 1
        self._outgoing.send(Message(self._rank, 1 - self._rank, self._sent, "bytes", (field,), 1, len(data)))

    async def receive(self, size: int) -> Bytes:
        self._received += 1
        form = Form(form_of(torch.empty(0)).kind, (size // 8,))
        (field,) = self._incoming.receive(self._received, "bytes", (form,)).fields
        found: Bytes = field.numpy().view(np.uint8)
        return found

    async def close(self) -> None:
        self._outgoing.close()
        self._incoming.close()


class Asyncio(End):
    """Streams of asyncio."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, data: Bytes) -> None:
        self._writer.write(data.data)
        await self._writer.drain()

    async def receive(self, size: int) -> Bytes:
        return np.frombuffer(await self._reader.readexactly(size), np.uint8)

    async def exchange(self, data: Bytes) -> Bytes:
        _, found = await asyncio.gather(self.send(data), self.receive(len(data)))
        return found

    async def close(self) -> None:
        self._writer.transport.abort()


class Websocket(Threaded):
    """A blocking websocket. Two threads must not use one TLS connection at the same time, so exchanges are short."""

    longest_exchange = AT_ONCE

    def __init__(self, connection: Any, over: threading.Event) -> None:
        super().__init__()
        self._connection = connection
        self._over = over

    def write(self, data: Bytes) -> None:
        self._connection.send(data.data)

    async def receive(self, size: int) -> Bytes:
        return np.frombuffer(self._connection.recv(decode=False), np.uint8)

    async def close(self) -> None:
        self._over.set()
        self._connection.close()


# ------------------------------------------------------------------------------------------------------- connecting


class Meeting:
    """How the two processes find each other: the first listens, the second learns where and dials."""

    def __init__(self, rank: int, pipe: Connection, folder: Path) -> None:
        self.rank, self.pipe, self.folder = rank, pipe, folder
        self._identity = Identity.load(folder, IDS[rank])
        self._numbers = itertools.count()

    def tcp(self) -> socket.socket:
        """A connection."""
        if self.rank == 0:
            with socket.create_server(("127.0.0.1", 0)) as listening:
                self.pipe.send(listening.getsockname())
                sock = listening.accept()[0]
        else:
            sock = socket.create_connection(self.pipe.recv(), SECONDS)
        tune(sock)
        return sock

    def tls(self) -> ssl.SSLSocket:
        """A connection with TLS 1.3; each side checks the other's certificate."""
        if self.rank:
            return dial(self._identity, self.pipe.recv(), IDS[0], ALPN_PEER, SECONDS)[0]
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.pipe.send(listening.getsockname())
            raw = listening.accept()[0]
        return accept(self._identity.server_context([ALPN_PEER]), raw, SECONDS)[0]

    def two_of_tls(self) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
        """One connection to send, one to receive."""
        first, second = self.tls(), self.tls()
        return (second, first) if self.rank else (first, second)

    def unix(self) -> socket.socket:
        """A unix socket."""
        if self.rank:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self.pipe.recv())
            return sock
        path = f"{self.folder}/{next(self._numbers)}"
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(path)
            listening.listen()
            self.pipe.send(path)
            return listening.accept()[0]

    def memory(self) -> SharedMemory:
        """Memory both see."""
        if self.rank:
            return SharedMemory(self.pipe.recv())
        memory = SharedMemory(create=True, size=2 * Shared.SLOTS * Shared.SLOT)
        self.pipe.send(memory.name)
        return memory

    def context(self) -> ssl.SSLContext:
        """Settings of TLS, for those who make their connections themselves."""
        return self._identity.client_context(ALPN_PEER) if self.rank else self._identity.server_context([ALPN_PEER])


async def over_tcp(meeting: Meeting) -> End:
    sock = meeting.tcp()
    return Stream(sock, sock)


async def over_tls(meeting: Meeting) -> End:
    return Stream(*meeting.two_of_tls())


async def over_links(meeting: Meeting) -> End:
    return Links(*meeting.two_of_tls(), meeting.rank)


async def over_unix(meeting: Meeting) -> End:
    sock = meeting.unix()
    return Stream(sock, sock)


async def over_memory(meeting: Meeting) -> End:
    first, second = meeting.unix(), meeting.unix()
    outgoing, incoming = (second, first) if meeting.rank else (first, second)
    end = Shared(outgoing, incoming, memory := meeting.memory(), meeting.rank)
    if meeting.rank == 0:
        meeting.pipe.recv()
        memory.unlink()
    else:
        meeting.pipe.send("seen")
    return end


async def over_asyncio(meeting: Meeting) -> End:
    context, limit = meeting.context(), 2 * max(SIZES)
    if meeting.rank:
        host, port = meeting.pipe.recv()
        return Asyncio(
            *await asyncio.open_connection(host, port, ssl=context, limit=limit, server_hostname="localhost")
        )
    found: asyncio.Future[End] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(
        lambda reader, writer: found.set_result(Asyncio(reader, writer)), "127.0.0.1", 0, ssl=context, limit=limit
    )
    meeting.pipe.send(server.sockets[0].getsockname())
    end = await found
    server.close()
    return end


async def over_websockets(meeting: Meeting) -> End:
    from websockets.sync.client import connect
    from websockets.sync.server import serve

    over = threading.Event()
    options: Any = {"ssl": meeting.context(), "compression": None, "max_size": None, "ping_interval": None}
    if meeting.rank:
        host, port = meeting.pipe.recv()
        return Websocket(connect(f"wss://{host}:{port}", **options), over)
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def handle(connection: Any) -> None:
        found.put(connection)
        over.wait()

    server = serve(handle, "127.0.0.1", 0, **options)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    meeting.pipe.send(server.socket.getsockname())
    return Websocket(found.get(timeout=SECONDS), over)


TRANSPORTS = {
    "TCP": over_tcp,
    "TLS 1.3, one connection each way": over_tls,
    "TLS 1.3 with frames, as between members": over_links,
    "unix socket": over_unix,
    "shared memory with notice": over_memory,
    "asyncio with TLS": over_asyncio,
    "websocket with TLS": over_websockets,
}


# -------------------------------------------------------------------------------------------------------- measuring


def payload(rank: int, size: int) -> Bytes:
    """What a side sends: the same in both processes."""
    return np.random.default_rng(1000 * rank + size).integers(0, 256, size, np.uint8)


async def round_trips(end: End, rank: int, mine: Bytes, others: Bytes, count: int) -> list[float]:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        if rank == 0:
            await end.send(mine)
        found = await end.receive(len(others))
        times.append(time.perf_counter() - start)
        assert np.array_equal(found, others)
        if rank:
            await end.send(mine)
    return times


async def stream(end: End, rank: int, mine: Bytes, others: Bytes, count: int) -> list[float]:
    """Seconds for each message, from the first one sent to the answer to the last."""
    start = time.perf_counter()
    for number in range(count):
        if rank == 0:
            await end.send(mine)
        else:
            found = await end.receive(len(others))
            if number in (0, count - 1):
                assert np.array_equal(found, others)
    if rank == 0:
        await end.receive(64)
    else:
        await end.send(payload(1, 64))
    return [(time.perf_counter() - start) / count]


async def exchanges(end: End, rank: int, mine: Bytes, others: Bytes, count: int) -> list[float]:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        found = await end.exchange(mine)
        times.append(time.perf_counter() - start)
        assert np.array_equal(found, others)
    return times


MEASURES = dict(zip(WHAT, (round_trips, stream, exchanges), strict=True))


async def side(name: str, rank: int, pipe: Connection, folder: Path, small: bool) -> dict[tuple[str, int], list[float]]:
    """Measure everything as one of the two sides."""
    end = await TRANSPORTS[name](Meeting(rank, pipe, folder))
    results = {}
    for what, measure in MEASURES.items():
        for size, count in SIZES.items():
            if what == "exchange" and size > end.longest_exchange:
                continue
            count = 2 if small else count
            run = partial(measure, end, rank, payload(rank, size), payload(1 - rank, size))
            await run(WARM_UP)
            results[what, size] = await run(count)
    await exchanges(end, rank, payload(rank, 64), payload(1 - rank, 64), 1)  # both are done
    await end.close()
    return results


def other_side(name: str, pipe: Connection, folder: Path, small: bool) -> None:
    """The process of the second side."""
    asyncio.run(side(name, 1, pipe, folder, small))


def measure(name: str, small: bool) -> dict[tuple[str, int], list[float]]:
    """One run of a transport, between this process and another one."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        certificates.make_authority(folder)
        for id in IDS:
            certificates.issue(folder, id, ["localhost", "127.0.0.1"])
        context = multiprocessing.get_context("spawn")
        mine, others = context.Pipe()
        process = context.Process(target=other_side, args=(name, others, folder, small), daemon=True)
        process.start()
        try:
            found = asyncio.run(side(name, 0, mine, folder, small))
            process.join(SECONDS)
        finally:
            process.kill()
        assert process.exitcode == 0, f"the second side of {name} failed"
        return found


def main() -> None:
    """Read the command line, measure, write the results."""
    parser = argparse.ArgumentParser(description="Measure transports between two processes.")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="runs of each transport (default: 3)")
    parser.add_argument("--only", nargs="+", choices=TRANSPORTS, metavar="NAME", help="these transports only")
    parser.add_argument("--small", action="store_true", help="few messages, to see whether the benchmark runs at all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go")
    args = parser.parse_args()
    names: Sequence[str] = args.only or list(TRANSPORTS)
    results: dict[str, Any] = {"kind": "transports", "small": args.small, **machine.provenance(), "transports": []}
    times: dict[tuple[str, str, int], list[float]] = {}
    for _ in range(args.repeats):
        for name in names:
            for (what, size), found in measure(name, args.small).items():
                times.setdefault((name, what, size), []).extend(found)
    for (name, what, size), found in times.items():
        middle = statistics.median(found)
        entry = {"name": name, "what": what, "size": size, "seconds": middle, "least": min(found), "count": len(found)}
        results["transports"].append(entry)
        print(f"{name:40} {what:10} {size:>9} bytes {1e6 * middle:10.1f} us {size / middle / 1e9:7.2f} GB/s")
    results["load_after"] = machine.load()
    if args.json:
        machine.write(args.json, results)


if __name__ == "__main__":
    main()
