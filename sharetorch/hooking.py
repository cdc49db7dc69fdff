"""``TorchHook``: the methods that ShareTorch adds to tensors, modules, optimizers and data sets.

Importing the package adds them; no existing method of torch is replaced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from sharetorch.attributes import Attribute
from sharetorch.module_methods import MODULE_METHODS, OPTIMIZER_METHODS
from sharetorch.options import local_worker
from sharetorch.remote.node import Node
from sharetorch.remote.worker import Worker
from sharetorch.tensor_methods import TENSOR_METHODS
from sharetorch.worker_methods import DATASET_METHODS, WORKER_METHODS


def _add(target: type, methods: dict[str, Any]) -> None:
    for name, method in methods.items():
        if not hasattr(target, name):
            setattr(target, name, method.named(name) if isinstance(method, Attribute) else method)


def install() -> None:
    """Add the methods, where torch has none of that name."""
    _add(torch.Tensor, TENSOR_METHODS)
    _add(nn.Module, MODULE_METHODS)
    _add(torch.optim.Optimizer, OPTIMIZER_METHODS)
    _add(torch.utils.data.Dataset, DATASET_METHODS)
    _add(Node, WORKER_METHODS)
    _add(Worker, WORKER_METHODS)


class TorchHook:
    """The tutorials' first line: ``hook = sy.TorchHook(torch)``. Importing the package has done its work already.

    Attributes:
        local_worker: the driver itself, id "me".
        torch: the torch module.
    """

    def __init__(self, torch: Any = torch, *args: Any, **kwargs: Any) -> None:
        self.torch = torch
        self.local_worker = local_worker
        install()

    def __repr__(self) -> str:
        return f"<TorchHook local_worker:{self.local_worker.id}>"
