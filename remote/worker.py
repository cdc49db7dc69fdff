"""Workers as the driver sees them, and ``VirtualWorker``: one that lives in this process."""

from __future__ import annotations

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from sharetorch.mpc.errors import WorkerNotFoundException
from sharetorch.mpc.share import ArithmeticShare
from sharetorch.remote import found, serving  # noqa: F401  (its handlers enter the table)
from sharetorch.remote.factories import Remote
from sharetorch.remote.links import MemoryLink
from sharetorch.remote.messages import Clear, Inspect, Listing, Meta
from sharetorch.remote.node import Limits, Node
from sharetorch.remote.objects import Record

_numbers = itertools.count()
_IGNORED = {"log_msgs", "verbose", "auto_add", "message_pending_time"}
_known: WeakValueDictionary[str, Worker] = WeakValueDictionary()


class Worker(ABC):
    """What every worker is for the driver, in this process or another: a name, and a way to it.

    Attributes:
        id: its name.
    """

    id: str

    @property
    def remote(self) -> Remote:
        """``worker.remote.torch.zeros(2, 3)`` makes a tensor at the worker and gives a pointer to it."""
        return Remote(self._from_here())

    @abstractmethod
    def link_from(self, owner: Node) -> Any:
        """The way to this worker for a worker of this process."""

    def _from_here(self) -> Any:
        return local().link(self.id)

    @abstractmethod
    def _incoming_links(self) -> list[Any]:
        """All ways to this worker from this process."""

    def search(self, query: Any = ()) -> list[Any]:
        """Find objects of this worker.

        Args:
            query: a tag, several tags an object must all have, or one number; empty finds everything tagged.

        Returns:
            Pointers, which do not delete their objects when they go.
        """
        return found.search(self._from_here(), query)

    def inspect(self, number: int) -> Any:
        """What is public about an object of this worker."""
        return self._from_here().request(Inspect(number)).objects[0]

    def list_objects_remote(self) -> str:
        """The caller's own objects at this worker, as text: what is public about them, never values."""
        return str({meta.number: _told(meta) for meta in self._own_objects()})

    def objects_count_remote(self) -> int:
        """How many objects of the caller's own this worker holds."""
        return len(self._own_objects())

    list_tensors_remote = list_objects_remote
    tensors_count_remote = objects_count_remote

    def _own_objects(self) -> list[Meta]:
        _settle()
        objects: list[Meta] = self._from_here().request(Listing()).objects
        return objects

    def clear_objects_remote(self) -> Any:
        """Forget everything the caller may delete. Returns the worker."""
        self._from_here().request(Clear())
        return self

    def send(self, x: Any, worker: Any, **options: Any) -> Any:
        """Send an object to a worker; as ``x.send(worker)``."""
        return x.send(worker, **options)

    def add_worker(self, worker: Any) -> Any:
        """Know another worker; all workers of one process know each other already. Returns this worker."""
        return self

    add_workers = add_worker

    def get_worker(self, id_or_worker: Any, fail_hard: bool = False) -> Any:
        """The worker of that id, or the worker given.

        Raises:
            WorkerNotFoundException: there is none of that id, with ``fail_hard``.
        """
        if isinstance(id_or_worker, (Node, Worker)):
            return id_or_worker
        known = _known.get(str(id_or_worker))
        if known is None and fail_hard:
            raise WorkerNotFoundException(f"{self.id} knows no worker {id_or_worker!r}.")
        if known is None:
            warnings.warn(f"{self.id} knows no worker {id_or_worker!r}; its name is given back.", stacklevel=2)
            return id_or_worker
        return known

    def remove_worker_from_local_worker_registry(self) -> None:
        """Let the name be free again."""
        if _known.get(self.id) is self:
            del _known[self.id]

    def enter_local_worker_registry(self) -> None:
        """Be known by its name again."""
        _known[self.id] = self

    def __bool__(self) -> bool:
        return True


def _told(meta: Meta) -> str:
    tags = "".join(f" {tag}" for tag in meta.tags)
    return f"{meta.kind} {meta.dtype}{meta.shape}{tags}" if meta.dtype else f"{meta.kind}{tags}"


def _settle() -> None:
    """Let deletions that are under way arrive, before anybody looks."""
    waiting = True
    while waiting:
        links = [link for worker in list(_known.values()) for link in worker._incoming_links()]
        waiting = any([link.flush() for link in links])


class VirtualWorker(Worker, Node):
    """A worker in this process: a name, a store of objects, and a door through which messages come as bytes.

    Asking for a worker whose id is in use gives that same worker again, with its objects.

    Args:
        hook: accepted for the tutorials' sake; nothing depends on it.
        id: name of the worker; a number of its own if not given.
        data: tensors the worker holds from the start.
        is_client_worker: whether it only holds pointers, as the driver does.
        private: whether only the owner of an object may have it back or delete it, unless others are allowed.
        limits: how large messages, objects and the store may be.
        options: other settings of the tutorials (``verbose``, ``log_msgs``, ``auto_add``), which have no effect here.

    Raises:
        TypeError: an option that no tutorial has.
        RuntimeError: a worker of another kind has that id.
    """

    def __new__(cls, hook: Any = None, id: str | int | None = None, *args: Any, **options: Any) -> VirtualWorker:
        """The worker of that id, made if there is none."""
        name = f"worker{next(_numbers)}" if id is None else str(id)
        known = _known.get(name)
        if known is None:
            known = super().__new__(cls)
            known._name = name
            known._fresh = True
        elif not isinstance(known, VirtualWorker) or type(known) is not cls:
            raise RuntimeError(f"{name!r} is the id of a {type(known).__name__} already; choose another id.")
        return known

    _name: str
    _fresh: bool

    def __init__(
        self,
        hook: Any = None,
        id: str | int | None = None,
        data: Any = (),
        is_client_worker: bool | None = None,
        *,
        private: bool | None = None,
        limits: Limits | None = None,
        **options: Any,
    ) -> None:
        unknown = sorted(set(options) - _IGNORED)
        if unknown:
            raise TypeError(f"VirtualWorker has no option {', '.join(unknown)}.")
        if self._fresh:
            super().__init__(self._name, bool(private), limits)
            self._fresh = False
            self.is_client_worker = False
            self._ways: WeakValueDictionary[str, MemoryLink] = WeakValueDictionary()
            self._incoming: WeakSet[MemoryLink] = WeakSet()
            _known[self._name] = self
        self.private = self.private if private is None else private
        self.limits = limits or self.limits
        self.is_client_worker = self.is_client_worker if is_client_worker is None else is_client_worker
        self.hook = hook
        self.message_pending_time = options.get("message_pending_time", self.message_pending_time)
        self.load_data(data or ())

    def link(self, name: str) -> Any:
        """The way to another worker.

        Raises:
            WorkerNotFoundException: there is none of that name.
        """
        worker = _known.get(str(name))
        if worker is None:
            raise WorkerNotFoundException(
                f"{self.id} knows no worker {name!r}; known are {', '.join(sorted(_known))}. Make it with "
                f"st.VirtualWorker(id={name!r}), or connect to it with st.connect(...)."
            )
        return worker.link_from(self)

    def link_from(self, owner: Node) -> Any:
        """The way to this worker for another one of this process."""
        known = self._ways.get(owner.id)
        if known is None or known.owner is not owner:
            known = self._ways[owner.id] = MemoryLink(owner, self)
            self._incoming.add(known)
        return known

    def _incoming_links(self) -> list[Any]:
        return list(self._incoming)

    def _settle(self) -> None:
        _settle()

    @property
    def _objects(self) -> dict[int, Any]:
        """What the worker holds, by number: for shares the raw ring elements."""
        self._settle()
        shares = {
            number: held.data if isinstance(held, ArithmeticShare) else held for number, held in self.store.items()
        }
        return {number: record.value for number, record in self.objects.items()} | shares

    _tensors = _objects

    @property
    def object_store(self) -> VirtualWorker:
        """The worker itself, whose ``_objects`` and ``clear_objects`` the tutorials look for here."""
        return self

    @property
    def requests(self) -> list[Any]:
        """Requests for values that wait for this worker's owner, each with ``approve()`` and ``deny()``."""
        return self.desk.waiting()

    def load_data(self, data: Any) -> list[Record]:
        """Hold tensors of the worker's own, with the tags and descriptions they carry."""
        return [found.take_in(self, value) for value in data]

    def clear_objects(self, return_self: bool = True) -> VirtualWorker | None:
        """Forget everything, of whoever it is; for the worker's own side."""
        self.objects.clear()
        self.store.clear()
        return self if return_self else None

    def request_search(self, query: Any, location: Any) -> list[Any]:
        """Find objects of another worker."""
        return found.search(self.link(location.id), query)

    def register_obj(self, x: Any, obj_id: int | None = None) -> Any:
        """Hold an object of the worker's own."""
        number = obj_id if obj_id is not None else getattr(x, "id", None)
        return found.take_in(self, x, number if isinstance(number, int) and number not in self.objects else None).value

    set_obj = register_obj

    def de_register_obj(self, x: Any) -> None:
        """Forget an object of the worker's own, given itself or its number."""
        self.objects.pop(x if isinstance(x, int) else x.id, None)

    rm_obj = de_register_obj

    def get_obj(self, number: int) -> Any:
        """An object of the worker, for the worker's own side.

        Raises:
            ObjectNotFoundError: there is none of that number.
        """
        return found.own(self, number)

    def request_obj(self, number: int, location: Any, user: str | None = None, reason: str | None = None) -> Any:
        """Fetch an object of another worker by number."""
        return found.fetch(self.link(location.id), number, user, reason)

    @contextmanager
    def registration_enabled(self) -> Iterator[None]:
        """Let this client worker hold objects inside the block."""
        before, self.is_client_worker = self.is_client_worker, False
        try:
            yield
        finally:
            self.is_client_worker = before

    def __repr__(self) -> str:
        self._settle()
        return super().__repr__()

    def __len__(self) -> int:
        self._settle()
        return len(self.objects) + len(self.store)

    def __contains__(self, item: Any) -> bool:
        self._settle()
        return item in self.objects or item in self.store


_locals: list[VirtualWorker] = []


def local() -> VirtualWorker:
    """The driver itself, id "me"."""
    if not _locals:
        _locals.append(VirtualWorker(id="me", is_client_worker=True))
    return _locals[0]


def known_workers() -> dict[str, Worker]:
    """All workers this process knows, by id."""
    return dict(_known)
