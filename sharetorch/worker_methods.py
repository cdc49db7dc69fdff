"""Methods of workers and data sets that belong to later parts of the package than the workers themselves."""

from __future__ import annotations

from typing import Any

from sharetorch import fl

WORKER_METHODS: dict[str, Any] = {
    "add_dataset": fl.add_dataset,
    "remove_dataset": fl.remove_dataset,
    "fit": fl.fit,
    "async_fit": fl.async_fit,
    "evaluate": fl.evaluate,
}
"""Methods of workers by name."""

DATASET_METHODS: dict[str, Any] = {"federate": fl.federate}
"""Methods of ``torch.utils.data.Dataset`` by name."""
