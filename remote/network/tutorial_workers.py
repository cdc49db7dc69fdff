"""Workers of other processes under the tutorials' names: ``WebsocketServerWorker`` and ``WebsocketClientWorker``."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

from sharetorch.mpc.errors import ConfigurationError
from sharetorch.remote import found
from sharetorch.remote.network.client import NetworkedWorker, own_identity, register
from sharetorch.remote.network.node import NetworkNode
from sharetorch.remote.network.server import WorkerServer
from sharetorch.remote.network.settings import Address, NetworkSettings
from sharetorch.remote.sessions.hosting import SessionHost

KEYS = "SHARETORCH_KEYS"
"""Environment variable with the folder of keys, where a program names none."""


class WebsocketClientWorker(NetworkedWorker):
    """A connection to a worker of another process, made at once.

    Args:
        hook: accepted for the tutorials' sake.
        host: name or address of the worker's machine.
        port: where it listens.
        secure: accepted for the tutorials' sake: connections are always encrypted, and both ends known.
        id: the id the worker's certificate must have.
        is_client_worker: accepted, as are ``log_msgs`` and ``verbose``; nothing changes.
        log_msgs: see ``is_client_worker``.
        verbose: see ``is_client_worker``.
        data: tensors that are sent to the worker at once, under their tags.
        timeout: seconds for the reply to a request.
        tls: our keys, as for ``st.connect``; the folder in ``SHARETORCH_KEYS`` if not given.
        identity: our own id, in that folder.

    Raises:
        WorkerUnreachableError: nobody answers; it is a ``ConnectionRefusedError``.
        HandshakeError: one side refuses the other.
        ConfigurationError: our keys are missing.
    """

    def __init__(
        self,
        hook: Any = None,
        host: str = "127.0.0.1",
        port: int = 8777,
        secure: bool = True,
        id: str | int = 0,
        is_client_worker: bool = False,
        log_msgs: bool = False,
        verbose: bool = False,
        data: Any = (),
        timeout: float | None = None,
        *,
        tls: Any = None,
        identity: str = "me",
    ) -> None:
        settings = NetworkSettings() if timeout is None else NetworkSettings(request_seconds=timeout)
        super().__init__(Address(host, port), str(id), own_identity(_keys(tls), identity), settings)
        self.hook = hook
        self.is_client_worker = is_client_worker
        self.connect()
        register(self)
        self._data = [value.send(self) for value in data or ()]


class WebsocketServerWorker:
    """A worker that listens.

    Args:
        hook: accepted for the tutorials' sake.
        host: address to listen at.
        port: where to listen; 0 takes a free port.
        id: its id, of which ``tls`` has a certificate.
        log_msgs: accepted for the tutorials' sake, as are ``verbose`` and ``loop``.
        verbose: see ``log_msgs``.
        data: tensors it holds from the start, under their tags.
        loop: see ``log_msgs``.
        cert_path: not taken; see ``tls``.
        key_path: not taken; see ``tls``.
        tls: folder with its certificate and keys, made by ``sharetorch keygen``; that in ``SHARETORCH_KEYS`` if not
            given.
        peers: addresses of other workers by id.
        private: whether only the owner of an object may have it back.

    Attributes:
        id: its id.
        node: what it holds.
        address: host and port.

    Raises:
        ConfigurationError: keys are missing.
        WorkerUnreachableError: the address is taken.
    """

    def __init__(
        self,
        hook: Any = None,
        host: str = "127.0.0.1",
        port: int = 8777,
        id: str | int = 0,
        log_msgs: bool = False,
        verbose: bool = False,
        data: Any = (),
        loop: Any = None,
        cert_path: str | None = None,
        key_path: str | None = None,
        *,
        tls: Any = None,
        peers: Mapping[str, str | Address] | None = None,
        private: bool = True,
    ) -> None:
        if cert_path is not None or key_path is not None:
            raise ConfigurationError(
                "cert_path and key_path name one certificate for encryption; here every certificate also says who its "
                "owner is. Make a folder of keys with `sharetorch keygen` and pass tls=FOLDER instead."
            )
        identity = own_identity(_keys(tls), str(id))
        if identity.id != str(id):
            raise ConfigurationError(f"These are the keys of {identity.id}; the worker's id is {id!r}.")
        self.hook = hook
        self.id = identity.id
        self.node = NetworkNode(identity, peers, private=private)
        for value in data or ():
            found.take_in(self.node, value)
        sessions = SessionHost(self.node, identity, self.node.settings)
        self._server = WorkerServer(self.node, identity, host, port, self.node.settings, sessions)
        self.address = self._server.address

    def start(self) -> None:
        """Serve until ``stop`` is called from another thread, or the program is interrupted."""
        try:
            self._server.serve_forever()
        finally:
            self._server.stop()

    def start_thread(self) -> threading.Thread:
        """Serve in a thread of its own."""
        thread = threading.Thread(target=self.start, name=f"worker {self.id}", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        """Accept no more, and end all connections."""
        self._server.stop()

    def add_dataset(self, dataset: Any, key: str) -> None:
        """Hold a data set under a key, for ``fit`` and ``evaluate``."""
        node: Any = self.node
        with self._server.turn:
            node.add_dataset(dataset, key=key)

    @property
    def requests(self) -> list[Any]:
        """Requests for values that wait for this worker's owner, each with ``approve()`` and ``deny()``."""
        return self.node.desk.waiting()

    def __repr__(self) -> str:
        return f"<WebsocketServerWorker id:{self.id} #objects:{len(self.node.objects)}>"


def _keys(tls: Any) -> Any:
    if tls is None and os.environ.get(KEYS):
        return os.environ[KEYS]
    if tls is None:
        raise ConfigurationError(
            "Workers let nobody in without a certificate. Pass tls=FOLDER with the keys made by `sharetorch keygen`, "
            f"or name the folder in the environment variable {KEYS}."
        )
    return tls
