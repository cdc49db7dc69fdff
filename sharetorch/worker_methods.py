"""Methods of workers and data sets that belong to later parts of the package than the workers themselves."""

from __future__ import annotations

from typing import Any

from sharetorch import fl
from sharetorch.remote import found


def fetch_plan(self: Any, plan_id: int, location: Any, copy: bool = False) -> Any:
    """A plan of another worker, by number; it stays there."""
    return found.fetch(self.link(location.id), plan_id)


def fetch_protocol(self: Any, protocol_id: int, location: Any, copy: bool = False) -> Any:
    """A protocol of another worker, by number; it stays there."""
    return found.fetch(self.link(location.id), protocol_id)


WORKER_METHODS: dict[str, Any] = {
    "add_dataset": fl.add_dataset,
    "remove_dataset": fl.remove_dataset,
    "fit": fl.fit,
    "async_fit": fl.async_fit,
    "evaluate": fl.evaluate,
    "fetch_plan": fetch_plan,
    "fetch_protocol": fetch_protocol,
}
"""Methods of workers by name."""

DATASET_METHODS: dict[str, Any] = {"federate": fl.federate}
"""Methods of ``torch.utils.data.Dataset`` by name."""
