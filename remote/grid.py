"""Grids: several workers searched as one."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sharetorch.mpc.errors import MembersError, UnsupportedOperationError


class PrivateGridNetwork:
    """Workers that are searched together.

    Args:
        workers: each with an id of its own.

    Attributes:
        workers: in the order given.

    Raises:
        MembersError: something that is no worker, or two workers of one id.
    """

    def __init__(self, *workers: Any) -> None:
        for worker in workers:
            if not (hasattr(worker, "id") and hasattr(worker, "search")):
                raise MembersError(
                    f"{worker!r} is no worker. Pass workers one by one, PrivateGridNetwork(*workers), made for example "
                    'by st.VirtualWorker(id="bob").'
                )
        twice = [name for name, count in Counter(worker.id for worker in workers).items() if count > 1]
        if twice:
            raise MembersError(f"A grid has each worker once; {', '.join(map(str, twice))} came more than once.")
        self.workers = list(workers)

    def search(self, *query: Any) -> dict[str, list[Any]]:
        """Find objects of all workers.

        Args:
            query: tags an object must all have; none finds everything tagged.

        Returns:
            Pointers by worker id; workers without any are left out. The pointers do not delete their objects when they
            go.
        """
        found = {worker.id: worker.search(query) for worker in self.workers}
        return {name: pointers for name, pointers in found.items() if pointers}

    def __len__(self) -> int:
        return len(self.workers)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<PrivateGridNetwork {' '.join(str(worker.id) for worker in self.workers)}>"


class PublicGridNetwork:
    """Workers that register with a gateway over the network; there is no gateway.

    Raises:
        UnsupportedOperationError: always.
    """

    def __init__(self, hook: Any = None, gateway_url: Any = None) -> None:
        raise UnsupportedOperationError(
            "PublicGridNetwork asks a gateway which workers there are, and this version has none. Connect to each "
            "worker with st.connect(...), and search them together with st.PrivateGridNetwork(*workers)."
        )
