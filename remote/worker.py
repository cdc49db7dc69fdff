"""``VirtualWorker``: a member that lives in this process."""

from __future__ import annotations

import itertools
from typing import Any
from weakref import WeakValueDictionary

from sharetorch.mpc.session import new_id
from sharetorch.mpc.share import ArithmeticShare

_numbers = itertools.count()
_OPTIONS = {"is_client_worker", "log_msgs", "verbose", "auto_add", "message_pending_time"}
_known: WeakValueDictionary[str, VirtualWorker] = WeakValueDictionary()


class VirtualWorker:
    """A worker in this process: a name and a store of objects.

    Asking for a worker whose id is in use gives that same worker again, with its objects.

    Args:
        hook: accepted for the tutorials' sake; nothing depends on it.
        id: name of the worker; a number of its own if not given.
        data: tensors the worker holds from the start.
        options: the other settings of the tutorials (``is_client_worker``, ``verbose``, ``log_msgs``, ``auto_add``),
            which have no effect here.

    Raises:
        TypeError: an option that no tutorial has.
        RuntimeError: a worker of another kind has that id.
    """

    id: str
    store: dict[int, Any]

    def __new__(cls, hook: Any = None, id: str | int | None = None, data: Any = (), **options: Any) -> VirtualWorker:
        """The worker of that id, made if there is none."""
        unknown = sorted(set(options) - _OPTIONS)
        if unknown:
            raise TypeError(f"VirtualWorker has no option {', '.join(unknown)}; it has {', '.join(sorted(_OPTIONS))}.")
        name = f"worker{next(_numbers)}" if id is None else str(id)
        known = _known.get(name)
        if known is None:
            known = _known[name] = super().__new__(cls)
            known.id = name
            known.store = {}
        elif type(known) is not cls:
            raise RuntimeError(f"{name!r} is the id of a {type(known).__name__} already; choose another id.")
        return known

    def __init__(self, hook: Any = None, id: str | int | None = None, data: Any = (), **options: Any) -> None:
        self.hook = hook
        self.store.update({new_id(): tensor for tensor in data or ()})

    @property
    def _objects(self) -> dict[int, Any]:
        """What the worker holds, by number: for shares the raw ring elements."""
        return {number: held.data if isinstance(held, ArithmeticShare) else held for number, held in self.store.items()}

    _tensors = _objects

    def clear_objects(self) -> VirtualWorker:
        """Forget everything."""
        self.store.clear()
        return self

    def __repr__(self) -> str:
        return f"<{type(self).__name__} id:{self.id} #objects:{len(self.store)}>"
