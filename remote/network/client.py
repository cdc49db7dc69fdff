"""``st.connect(...)``: a worker of another process, usable wherever a ``VirtualWorker`` is."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakMethod

import msgspec

from sharetorch.mpc.errors import (
    ConfigurationError,
    ConnectionLostError,
    FrameError,
    HandshakeError,
    NetworkError,
    UnsupportedOperationError,
)
from sharetorch.mpc.network.identity import ALPN_CONTROL, Identity, dial
from sharetorch.mpc.tensor import sharing
from sharetorch.remote import worker as workers
from sharetorch.remote.found import point
from sharetorch.remote.links import NetworkLink
from sharetorch.remote.network.control import HELLO, NESTED, NODE, NOTICE, Control
from sharetorch.remote.network.settings import Address, NetworkSettings
from sharetorch.remote.network.stream import Stream
from sharetorch.remote.network.websocket import open_client
from sharetorch.remote.node import Node
from sharetorch.remote.sessions.driver import NetworkedSession
from sharetorch.remote.worker import Worker

VERSION = 1
"""Of the control channel; both ends must have the same."""


class Hello(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The first item of each end.

    Attributes:
        version: of the control channel.
        id: who says it, as in its certificate.
        lanes: processes of which a worker consists.
        address: where other members reach a worker, "host:port"; empty if that is where the driver reached it.
        limit: largest request or reply this end takes, in bytes.
    """

    version: int
    id: str
    lanes: int = 1
    address: str = ""
    limit: int = 0


class Turns(Protocol):
    """What lets one thread at a time serve a request; see ``remote/network/node.py``."""

    def given_away(self) -> AbstractContextManager[None]:
        """Inside, others may serve."""


class NetworkedWorker(Worker):
    """A worker of another process, reached over one connection.

    Args:
        address: where it listens, such as "wss://bob.example:8777".
        id: the id its certificate must have; None takes what it has.
        identity: our own.
        settings: deadlines and limits.
        turn: of the worker in whose process this is, if it is one itself.

    Attributes:
        id: its id.
        address: host and port at which other members reach it.
        public: its identity key.
        lanes: processes of which it consists.
        control: the connection.
        identity: our own.
        settings: deadlines and limits.
        store: empty; what a session holds for it is in its own process.
    """

    session_type = NetworkedSession

    @staticmethod
    def contribute(pointer: Any, parties: Any, **options: Any) -> Any:
        """Let the worker share an object of its own; see ``remote/sessions/contributing.py``."""
        from sharetorch.remote.sessions.contributing import contribute

        return contribute(pointer, parties, **options)

    def __init__(
        self,
        address: str | Address,
        id: str | None,
        identity: Identity,
        settings: NetworkSettings | None = None,
        turn: Turns | None = None,
    ) -> None:
        self._dialled = address if isinstance(address, Address) else Address.parse(address)
        self.address: tuple[str, int] = self._dialled
        self.id = id or ""
        self.public = b""
        self.lanes = 1
        self.identity = identity
        self.settings = settings or NetworkSettings()
        self.store: dict[int, Any] = {}
        self._turn = turn
        self._kind = NODE if turn is None else NESTED
        self._limit = self.settings.max_message_bytes
        self._control: Control | None = None
        self._connecting = threading.Lock()
        self._ways: dict[str, NetworkLink] = {}
        self._lanes: dict[int, NetworkedWorker] = {}

    # --------------------------------------------------------------------------------------------------- connection

    @property
    def url(self) -> str:
        """Where it listens, as it was given."""
        return f"wss://{self._dialled}"

    @property
    def control(self) -> Control:
        """The connection, perhaps one that has ended.

        Raises:
            ConnectionLostError: there was none yet.
        """
        if self._control is None:
            raise ConnectionLostError(f"{self.id or self.url} is not connected. Call connect() first.")
        return self._control

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._control is not None and not self._control.closed

    def connect(self) -> NetworkedWorker:
        """Connect, unless that is done already. Objects left there by the same identity are there still.

        Returns:
            This worker.

        Raises:
            WorkerUnreachableError: nobody answers.
            HandshakeError: one side refuses the other, or another member than expected answers.
            DeadlineExceededError: somebody answers, but not in time.
        """
        with self._connecting:
            if not self.connected:
                self._control = self._open()
        return self

    def _open(self) -> Control:
        seconds = self.settings.connect_seconds
        sock, peer = dial(self.identity, self._dialled, self.id or None, ALPN_CONTROL, seconds)
        who = f"{peer.id} at {self._dialled}"
        stream = Stream(sock)
        try:
            websocket = open_client(stream, str(self._dialled), who, seconds)
        except BaseException:
            stream.close()
            raise
        control = Control(websocket, peer, self.settings, _take_notice).start()
        control.idle.append(_sweeper(WeakMethod(self._sweep)))
        ours = Hello(VERSION, self.identity.id, limit=self.settings.max_message_bytes)
        try:
            theirs = _hello(control.request(HELLO, msgspec.msgpack.encode(ours), seconds), who)
            if theirs.id != peer.id:
                raise HandshakeError(f"{who} calls itself {theirs.id!r}, unlike its certificate.")
        except BaseException:
            control.close()
            raise
        self.id, self.public, self.lanes = peer.id, peer.public, theirs.lanes
        self._limit = min(theirs.limit or self._limit, self.settings.max_message_bytes)
        if theirs.address:
            self.address = Address.parse(theirs.address)
        return control

    def lane(self, number: int) -> NetworkedWorker:
        """The worker's process of that rank, connected; it listens so many ports above the first.

        Raises:
            UnsupportedOperationError: the worker has no such process.
            NetworkError: it cannot be reached, or another worker answers.
        """
        if not 0 <= number < self.lanes:
            raise UnsupportedOperationError(
                f"{self.id} consists of {self.lanes} process(es), so it has no rank {number}. Start it with torchrun "
                "--nproc-per-node."
            )
        if not number:
            return self.connect()
        known = self._lanes.get(number)
        if known is None:
            address = Address(self._dialled.host, self._dialled.port + number)
            known = self._lanes[number] = NetworkedWorker(address, self.id, self.identity, self.settings)
        known.connect()
        if (known.public, known.lanes) != (self.public, self.lanes):
            known.close()
            raise HandshakeError(f"{known.url} is not rank {number} of the {self.lanes} processes of {self.id}.")
        return known

    def close(self) -> None:
        """Close the connection; objects of ours there are kept for when we connect again."""
        for lane in self._lanes.values():
            lane.close()
        if self._control is not None:
            try:
                for link in self._incoming_links():
                    link.flush()
                if self.connected:
                    self._control.flush()
            except NetworkError:
                pass
            self._control.close()

    def __del__(self) -> None:
        control = getattr(self, "_control", None)
        if control is not None:
            control.abandon()

    # ----------------------------------------------------------------------------------------------------- requests

    def link_from(self, owner: Node) -> NetworkLink:
        """The way to this worker for a worker of this process."""
        known = self._ways.get(owner.id)
        if known is None or known.owner is not owner:
            known = self._ways[owner.id] = NetworkLink(owner, self)
        return known

    def _incoming_links(self) -> list[Any]:
        return list(self._ways.values())

    def _from_here(self) -> Any:
        return self.link_from(workers.local())

    def carry(self, request: bytes, timed: bool) -> bytes:
        """Send a request to the worker's node and wait for the reply.

        Args:
            request: a message of ``messages.Request``.
            timed: whether ``request_seconds`` is long enough for it.
        """
        with nullcontext() if self._turn is None else self._turn.given_away():
            if self._turn is not None:
                self.connect()
            return self.control.request(self._kind, request, self.settings.request_seconds if timed else None)

    @property
    def ahead(self) -> bool:
        """Whether requests may be sent before earlier ones are answered: by a driver, who hears of errors later.

        A worker that serves a request must know how what it asks of another one ended before it answers.
        """
        return self._turn is None

    def carry_ahead(self, request: bytes) -> Future[bytes]:
        """Send a request to the worker's node; the reply comes later."""
        return self.control.submit(self._kind, request)

    def await_reply(self, reply: Future[bytes]) -> bytes:
        """Wait for the reply to a request that was sent ahead."""
        return self.control.wait(reply, self.settings.request_seconds)

    def sync(self) -> NetworkedWorker:
        """Wait until all that was asked of the worker is done. Returns the worker.

        Raises:
            Exception: what failed first among the operations sent ahead.
        """
        for link in self._incoming_links():
            link.settle()
        return self

    def carry_soon(self, request: bytes) -> None:
        """Send a request that nobody waits for."""
        if self.connected:
            self.control.post(self._kind, request)

    def reachable(self) -> bool:
        """Whether something can be sent just now."""
        return self.connected

    def limit(self) -> int:
        """Bytes the worker takes in one request."""
        return self._limit

    def _sweep(self) -> None:
        """Send deletions that wait for a request that does not come."""
        for link in self._incoming_links():
            link.flush()

    # ------------------------------------------------------------------------------------------------- what is there

    @property
    def _objects(self) -> dict[int, Any]:
        """Pointers to the caller's own objects there, by number; the objects stay when the pointers go."""
        link = self._from_here()
        return {meta.number: point(meta, link) for meta in self._own_objects()}

    _tensors = _objects

    @property
    def object_store(self) -> NetworkedWorker:
        """The worker itself, whose ``_objects`` the tutorials look for here."""
        return self

    def clear_objects(self) -> NetworkedWorker:
        """Forget everything of the caller's own there. Returns the worker."""
        self.clear_objects_remote()
        return self

    def link(self, name: str) -> Any:
        """The way to another worker from here: a program commands workers of other processes, and is none of them."""
        return workers.local().link(name)

    def search(self, query: Any = (), *tags: str) -> list[Any]:
        """Find objects of this worker: as ``Worker.search``, with further tags an object must all have."""
        return super().search(query if not tags else [*([query] if isinstance(query, str) else query), *tags])

    def request_search(self, query: Any, location: Any) -> list[Any]:
        """Find objects of another worker."""
        found: list[Any] = location.search(query)
        return found

    def add_dataset(self, dataset: Any, key: str) -> None:
        """Refused: data sets of a worker are its own, from its configuration.

        Raises:
            UnsupportedOperationError: always.
        """
        raise UnsupportedOperationError(
            f"Data sets of {self.id} are its own: name them under [[datasets]] in its configuration, or add them where "
            "it is started."
        )

    def __len__(self) -> int:
        return self.objects_count_remote()

    def __repr__(self) -> str:
        state = "connected" if self.connected else "not connected"
        return f"<{type(self).__name__} id:{self.id} {self.url} {state}>"


def _sweeper(method: WeakMethod[Any]) -> Any:
    def sweep() -> None:
        run = method()
        if run is not None:
            run()

    return sweep


def _take_notice(control: Control, kind: int, number: int, payload: bytes) -> None:
    """Take an item that is no reply: notices alone come unasked."""
    if kind != NOTICE:
        raise FrameError(f"{control.peer.id} sent an item of kind {kind} unasked.")
    for hear in list(control.on_notice):
        hear(payload)


def _hello(data: bytes, who: str) -> Hello:
    try:
        hello = msgspec.msgpack.decode(data, type=Hello)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise HandshakeError(f"{who} sent no hello of the documented form.") from error
    if hello.version != VERSION:
        raise HandshakeError(
            f"{who} speaks version {hello.version} of the control channel, this program version {VERSION}. Install the "
            "same version of ShareTorch on both machines."
        )
    return hello


def connect(
    url: str,
    id: str | None = None,
    tls: Any = None,
    identity: str = "me",
    settings: NetworkSettings | None = None,
) -> NetworkedWorker:
    """Connect to a worker of another process.

    Args:
        url: where it listens, "wss://host:port".
        id: the id its certificate must have; None takes what it has.
        tls: our keys: the folder that holds them, an ``Identity``, or ``{"keys": folder, "identity": id}``.
        identity: our own id, in that folder.
        settings: deadlines and limits.

    Returns:
        A worker usable wherever a ``VirtualWorker`` is. Connecting to one that is connected already gives the same.

    Raises:
        ConfigurationError: our keys are missing or wrong, or the address is none.
        WorkerUnreachableError: nobody answers there.
        HandshakeError: one side refuses the other, or another member than expected answers.
        RuntimeError: a worker of this process has that id.
    """
    own = own_identity(tls, identity)
    address = Address.parse(url)
    known = None if id is None else workers.known_workers().get(id)
    if isinstance(known, NetworkedWorker) and known.connected and (known._dialled, known.identity.public) == (
        address,
        own.public,
    ):
        return known
    made = NetworkedWorker(address, id, own, settings).connect()
    register(made)
    return made


def register(made: NetworkedWorker) -> None:
    """Let a worker be found by its id.

    Raises:
        RuntimeError: a worker of this process has that id.
    """
    other = workers.known_workers().get(made.id)
    if other is not None and not isinstance(other, NetworkedWorker):
        made.close()
        raise RuntimeError(
            f"{made.id!r} is the id of a {type(other).__name__} already; choose another id, or free it with "
            "remove_worker_from_local_worker_registry()."
        )
    made.enter_local_worker_registry()


def sync() -> None:
    """Wait until everything asked of workers on other machines is done, in sessions and by pointers.

    Raises:
        ShareTorchError: what went wrong first, with the line that asked for it.
    """
    sharing.sessions.sync()
    for worker in workers.known_workers().values():
        if isinstance(worker, NetworkedWorker) and worker.connected:
            worker.sync()


def own_identity(tls: Any, identity: str) -> Identity:
    """Our own keys, however they are named.

    Raises:
        ConfigurationError: they are missing or wrong.
    """
    if isinstance(tls, Identity):
        return tls
    if isinstance(tls, Mapping):
        unknown = sorted(set(tls) - {"keys", "identity"})
        if unknown or "keys" not in tls:
            raise ConfigurationError(
                f"tls = {{{', '.join(map(repr, tls))}}} has other keys than 'keys', a folder, and 'identity', an id."
            )
        return Identity.load(Path(tls["keys"]), str(tls.get("identity", identity)))
    if tls is None:
        raise ConfigurationError(
            "Workers let nobody in without a certificate: connect(..., tls=FOLDER) names the folder that holds yours, "
            "made by `sharetorch keygen` or by `sharetorch up --demo`."
        )
    return Identity.load(Path(tls), identity)
