"""Names by which the tutorials import things: ``from sharetorch.workers.virtual import VirtualWorker`` and the like.

The code lives where its subject is (``sharetorch.mpc``, ``sharetorch.remote``, ...). The tutorials import by the paths
of an older library. ``PATHS`` says which of our names stands for each of those; ``enter`` makes a module without a file
for every path. A name is looked up when it is first asked for, so that nothing is loaded because of this table.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch as _torch

from sharetorch.hooking import TorchHook
from sharetorch.remote.sandbox import make_hook

_PACKAGE = "sharetorch"

_FEDERATED_DATA = {
    "BaseDataset": "sharetorch.fl.datasets:BaseDataset",
    "FederatedDataset": "sharetorch.fl.datasets:FederatedDataset",
}
_LOADER = {"FederatedDataLoader": "sharetorch.fl.loader:FederatedDataLoader"}
_UTILITIES = (
    *("federated_avg", "add_model", "scale_model", "accuracy", "extract_batches_per_worker"),
    *("create_gaussian_mixture_toy_data", "iris_data_partial"),
)

_WEBSOCKETS = "sharetorch.remote.network.tutorial_workers"

PATHS: dict[str, dict[str, str]] = {
    "execution.placeholder": {"PlaceHolder": "sharetorch.remote.plans:PlaceHolder"},
    "execution.plan": {"Plan": "sharetorch.remote.plans:Plan", "func2plan": "sharetorch.remote.plans:func2plan"},
    "execution.protocol": {
        "Protocol": "sharetorch.remote.plans:Protocol",
        "func2protocol": "sharetorch.remote.plans:func2protocol",
    },
    "execution.state": {"State": "sharetorch.remote.plans:State"},
    "execution.translation": {"TranslationTarget": "sharetorch.remote.plans:TranslationTarget"},
    "federated.federated_client": {"FederatedClient": "sharetorch.fl:FederatedClient"},
    "federated.floptimizer": {"Optims": "sharetorch.fl.optims:Optims"},
    "federated.train_config": {"TrainConfig": "sharetorch.fl.train_config:TrainConfig"},
    "frameworks.torch.fl": _FEDERATED_DATA | _LOADER,
    "frameworks.torch.fl.dataloader": _LOADER,
    "frameworks.torch.fl.dataset": _FEDERATED_DATA,
    "frameworks.torch.fl.utils": {name: f"sharetorch.fl.utils:{name}" for name in _UTILITIES},
    "frameworks.torch.linalg": {
        name: f"sharetorch.nn.linalg:{name}" for name in ("EncryptedLinearRegression", "DASH", "inv_sym", "qr")
    },
    "frameworks.torch.nn": {
        name: f"sharetorch.nn:{name}"
        for name in ("Conv2d", "AvgPool2d", "RNNCell", "GRUCell", "LSTMCell", "RNN", "GRU", "LSTM")
    },
    "generic.abstract.tensor": {"AbstractTensor": "sharetorch.remote.custom:AbstractTensor"},
    "generic.frameworks.overload": {"overloaded": "sharetorch.remote.overload:overloaded"},
    "generic.id_provider": {"IdProvider": "sharetorch.remote.ids:IdProvider"},
    "generic.pointers.multi_pointer": {"MultiPointerTensor": "sharetorch.remote.multi:MultiPointerTensor"},
    "generic.pointers.pointer_plan": {"PointerPlan": "sharetorch.remote.plans:PointerPlan"},
    "generic.pointers.pointer_tensor": {"PointerTensor": "sharetorch.remote.pointer:PointerTensor"},
    "generic.tensor": {"AbstractTensor": "sharetorch.remote.custom:AbstractTensor"},
    "grid.private_grid": {"PrivateGridNetwork": "sharetorch.remote.grid:PrivateGridNetwork"},
    "grid.public_grid": {"PublicGridNetwork": "sharetorch.remote.grid:PublicGridNetwork"},
    "sandbox": {name: f"sharetorch.remote.sandbox:{name}" for name in ("create_sandbox", "make_hook")},
    "workers.abstract": {"AbstractWorker": "sharetorch.remote.node:Node"},
    "workers.base": {"BaseWorker": "sharetorch.remote.node:Node"},
    "workers.virtual": {"VirtualWorker": "sharetorch.remote.worker:VirtualWorker"},
    "workers.websocket_client": {"WebsocketClientWorker": f"{_WEBSOCKETS}:WebsocketClientWorker"},
    "workers.websocket_server": {"WebsocketServerWorker": f"{_WEBSOCKETS}:WebsocketServerWorker"},
}
"""Names by the path under ``sharetorch`` where the tutorials look for them: ``"our.module:name"``."""

WHOLE_MODULES: dict[str, str] = {
    "exceptions": "sharetorch.mpc.errors",
    "serde": "sharetorch.remote.serde",
    "serde.compression": "sharetorch.remote.compression",
}
"""Paths that stand for a module of ours as a whole, so that what is assigned there has its effect."""

_WIDE = (
    "numbers of up to 62 bits fit the ring of fix_precision(), and integers modulo a larger number are shared with "
    "x.share(..., field=...)"
)
_GRID = "no gateway hosts data and models; workers of other processes are reached with st.connect(...)"

ABSENT: dict[str, str] = {
    "LargePrecisionTensor": _WIDE,
    "CRTPrecisionTensor": _WIDE,
    "ReplicatedSharingTensor": "three holders share additively, for sums and products: x.share(alice, bob, carol, "
    "crypto_provider=cp)",
    "NodeClient": _GRID,
    "FLClient": _GRID,
    "FLJob": _GRID,
}
"""Names of the tutorials that are not here, and what there is instead."""

LATER: dict[str, str] = {
    "WebsocketClientWorker": f"{_WEBSOCKETS}:WebsocketClientWorker",
    "WebsocketServerWorker": f"{_WEBSOCKETS}:WebsocketServerWorker",
}
"""Names of ``sharetorch`` itself that are looked up when they are first used: programs without a network need none."""


class Hook(TorchHook):
    """``sy.hook``: the hook itself, with ``sy.hook.local_worker``, and the function of ``sy.hook(globals())``."""

    def __call__(self, gbs: Any) -> TorchHook:
        """Set ``hook``, six workers, ``workers`` and ``grid`` in a namespace; see ``make_hook``."""
        return make_hook(gbs)


def torch_with(hook: TorchHook) -> ModuleType:
    """A module with everything torch has, and ``hook`` besides; torch itself stays as it is.

    Reading goes to torch. What is assigned to this module stays in it.
    """
    made = ModuleType(f"{_PACKAGE}.torch", "torch, with one more attribute: ``sy.torch.hook.local_worker``.")
    vars(made).update(
        hook=hook,
        __getattr__=lambda name: getattr(_torch, name),
        __dir__=lambda: sorted({*dir(_torch), "hook"}),
    )
    return made


def enter() -> None:
    """Make the modules of ``PATHS`` and ``WHOLE_MODULES`` importable, each an attribute of the one above it."""
    for path, target in WHOLE_MODULES.items():
        _place(path, importlib.import_module(target))
    for path, names in PATHS.items():
        _place(path, _module(path, names))
    vars(sys.modules[_PACKAGE])["__getattr__"] = _missing


def _module(path: str, names: dict[str, str]) -> ModuleType:
    """A module without a file, whose names are looked up at the first use."""
    full = f"{_PACKAGE}.{path}"
    made = ModuleType(full, "Names by which the tutorials import things; see ``sharetorch.tutorial_names``.")

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {full!r} has no attribute {name!r}")
        value = _looked_up(names[name])
        setattr(made, name, value)
        return value

    vars(made).update(
        __spec__=ModuleSpec(full, None),
        __all__=list(names),
        __getattr__=find,
        __dir__=lambda: sorted(vars(made) | names),
    )
    return made


def _looked_up(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _place(path: str, module: ModuleType) -> None:
    """Enter a module, and the ones above it that are not there yet."""
    above, _, name = path.rpartition(".")
    if above and f"{_PACKAGE}.{above}" not in sys.modules:
        _place(above, _module(above, PATHS.get(above, {})))
    full = f"{_PACKAGE}.{path}"
    sys.modules.setdefault(full, module)
    vars(sys.modules[f"{_PACKAGE}.{above}" if above else _PACKAGE])[name] = sys.modules[full]


def _missing(name: str) -> Any:
    """What ``sharetorch.name`` gives where nothing of that name was loaded."""
    if name in LATER:
        found = vars(sys.modules[_PACKAGE])[name] = _looked_up(LATER[name])
        return found
    if name in ABSENT:
        raise AttributeError(f"sharetorch has no {name}: {ABSENT[name]}.")
    raise AttributeError(f"module {_PACKAGE!r} has no attribute {name!r}")


hook = Hook(_torch)
"""The module-level hook."""

torch = torch_with(hook)
"""torch as ``sy.torch``, with ``sy.torch.hook``."""
