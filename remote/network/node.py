"""The node of a worker process: it reaches other workers as itself, and serves one request at a time.

A request may need another worker (a move, a pointer to a pointer), which may need this one again before it can answer.
So whoever serves a request gives its turn away while it waits for another worker and takes it back afterwards; and a
request made while serving one travels as one that is served beside the others, for the connection it comes by may
be busy with the very request that waits for it. Requests therefore never wait for one another in a circle. What such a
request finds when it has its turn back may have changed: handlers look objects up again, or hold on to the values.

A circle of pointers is a request without end; each worker serves at most ``BESIDE`` of a peer's requests beside the
others and refuses further ones, which ends it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from weakref import WeakValueDictionary

from sharetorch.mpc.errors import WorkerNotFoundException
from sharetorch.mpc.network.identity import Identity
from sharetorch.remote.links import MemoryLink
from sharetorch.remote.network.client import NetworkedWorker
from sharetorch.remote.network.settings import Address, NetworkSettings
from sharetorch.remote.node import Limits, Node

BESIDE = 64
"""Requests of one peer that are served beside the others."""


class Turn:
    """Lets one thread at a time serve a request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None

    def __enter__(self) -> None:
        self._lock.acquire()
        self._holder = threading.get_ident()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder = None
        self._lock.release()

    @contextmanager
    def given_away(self) -> Iterator[None]:
        """Inside, others may serve; for a thread that has the turn, and without effect for one that has not."""
        if self._holder != threading.get_ident():
            yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            self.__enter__()


class NetworkNode(Node):
    """The node of a worker process.

    Args:
        identity: its own; its id is the node's.
        peers: addresses of other workers by id.
        settings: deadlines and limits of connections.
        private: see ``Node``.
        limits: see ``Node``.

    Attributes:
        sessions: the sessions it takes part in, a ``SessionHost``.
        turn: held while a request is served; whoever else touches the node's objects takes it too.
    """

    def __init__(
        self,
        identity: Identity,
        peers: Mapping[str, str | Address] | None = None,
        settings: NetworkSettings | None = None,
        private: bool = True,
        limits: Limits | None = None,
    ) -> None:
        super().__init__(identity.id, private, limits)
        self.identity = identity
        self.peers = dict(peers or {})
        self.settings = settings or NetworkSettings()
        self.spokesmen = frozenset()
        self.couriers = frozenset(self.peers)
        self.turn = Turn()
        self.sessions: Any = None
        self._neighbours: dict[str, NetworkedWorker] = {}
        self._own: WeakValueDictionary[str, MemoryLink] = WeakValueDictionary()
        self._lock = threading.Lock()

    def link(self, name: str) -> Any:
        """The way to another worker, by the address this one's configuration has for it.

        Raises:
            WorkerNotFoundException: the configuration has none of that name.
            NetworkError: it cannot be reached.
        """
        name = str(name)
        if name == self.id:
            link = self._own.get(name)
            if link is None:
                link = self._own[name] = MemoryLink(self, self)
            return link
        return self.neighbour(name).link_from(self)

    def neighbour(self, name: str) -> NetworkedWorker:
        """Another worker, whether it can be reached just now or not.

        Raises:
            WorkerNotFoundException: the configuration has none of that name.
        """
        with self._lock:
            known = self._neighbours.get(name)
            if known is None:
                if name not in self.peers:
                    raise WorkerNotFoundException(
                        f"{self.id} knows no worker {name!r}; known are {', '.join(sorted(self.peers)) or 'none'}. "
                        f"Enter its address under [peers] in the configuration of {self.id}."
                    )
                known = self._neighbours[name] = NetworkedWorker(
                    self.peers[name], name, self.identity, self.settings, turn=self.turn
                )
            return known

    def close(self) -> None:
        """Close the connections to other workers."""
        with self._lock:
            for worker in self._neighbours.values():
                worker.close()
