"""Every name the tutorials use is there, in every place where they look for it, and is what it should be."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import sharetorch as sy
from sharetorch import tutorial_names
from sharetorch.tutorial_names import ABSENT, PATHS, WHOLE_MODULES

TOP_LEVEL: dict[str, str] = {
    "TorchHook": "sharetorch.hooking:TorchHook",
    "VirtualWorker": "sharetorch.remote.worker:VirtualWorker",
    "WebsocketClientWorker": "sharetorch.remote.network.tutorial_workers:WebsocketClientWorker",
    "WebsocketServerWorker": "sharetorch.remote.network.tutorial_workers:WebsocketServerWorker",
    "connect": "sharetorch.remote.network.client:connect",
    "NetworkedWorker": "sharetorch.remote.network.client:NetworkedWorker",
    "local_worker": "sharetorch.hooking:local_worker",
    "hook": "sharetorch.tutorial_names:hook",
    "create_sandbox": "sharetorch.remote.sandbox:create_sandbox",
    "make_hook": "sharetorch.remote.sandbox:make_hook",
    "BaseDataset": "sharetorch.fl.datasets:BaseDataset",
    "FederatedDataset": "sharetorch.fl.datasets:FederatedDataset",
    "FederatedDataLoader": "sharetorch.fl.loader:FederatedDataLoader",
    "TrainConfig": "sharetorch.fl.train_config:TrainConfig",
    "Plan": "sharetorch.remote.plans:Plan",
    "func2plan": "sharetorch.remote.plans:func2plan",
    "Protocol": "sharetorch.remote.plans:Protocol",
    "func2protocol": "sharetorch.remote.plans:func2protocol",
    "PointerPlan": "sharetorch.remote.plans:PointerPlan",
    "PointerProtocol": "sharetorch.remote.plans:PointerProtocol",
    "PrivateGridNetwork": "sharetorch.remote.grid:PrivateGridNetwork",
    "PublicGridNetwork": "sharetorch.remote.grid:PublicGridNetwork",
    "combine_pointers": "sharetorch.remote.multi:combine_pointers",
    "AutogradTensor": "sharetorch.mpc.tensor.shared:SharedTensor",
    "AdditiveSharingTensor": "sharetorch.mpc.tensor.shared:SharedTensor",
    "FixedPrecisionTensor": "sharetorch.mpc.tensor.fixed_precision:FixedPrecisionTensor",
    "LoggingTensor": "sharetorch.remote.logging_tensor:LoggingTensor",
    "PrivateTensor": "sharetorch.remote.labels:PrivateTensor",
    "PointerTensor": "sharetorch.remote.pointer:PointerTensor",
    "MultiPointerTensor": "sharetorch.remote.multi:MultiPointerTensor",
    "NumpyTensor": "sharetorch.remote.arrays:NumpyTensor",
    "keygen": "sharetorch.mpc.paillier:keygen",
    "serde": "sharetorch.remote.serde:",
    "exceptions": "sharetorch.mpc.errors:",
    "ID_PROVIDER": "sharetorch.remote.ids:ID_PROVIDER",
}
"""Names of the front door: ``"module:name"``, or the module itself."""

IMPORTS: dict[str, tuple[str, ...]] = {
    "sharetorch.federated.floptimizer": ("Optims",),
    "sharetorch.frameworks.torch.fl": ("utils", "BaseDataset", "FederatedDataset", "FederatedDataLoader"),
    "sharetorch.frameworks.torch.fl.utils": (
        "federated_avg",
        "add_model",
        "scale_model",
        "accuracy",
        "extract_batches_per_worker",
        "create_gaussian_mixture_toy_data",
        "iris_data_partial",
    ),
    "sharetorch.frameworks.torch.linalg": ("EncryptedLinearRegression", "DASH", "inv_sym", "qr"),
    "sharetorch.frameworks.torch": ("fl", "linalg", "nn"),
    "sharetorch.frameworks.torch.nn": (
        *("Conv2d", "AvgPool2d", "RNNCell", "GRUCell", "LSTMCell", "RNN", "GRU", "LSTM"),
    ),
    "sharetorch": ("workers",),
    "sharetorch.workers": ("virtual", "abstract", "base", "websocket_client", "websocket_server"),
    "sharetorch.workers.virtual": ("VirtualWorker",),
    "sharetorch.workers.websocket_client": ("WebsocketClientWorker",),
    "sharetorch.workers.websocket_server": ("WebsocketServerWorker",),
    "sharetorch.workers.abstract": ("AbstractWorker",),
    "sharetorch.workers.base": ("BaseWorker",),
    "sharetorch.generic.tensor": ("AbstractTensor",),
    "sharetorch.generic.abstract.tensor": ("AbstractTensor",),
    "sharetorch.generic.frameworks.overload": ("overloaded",),
    "sharetorch.serde.compression": ("NO_COMPRESSION", "default_compress_scheme"),
    "sharetorch.execution.translation": ("TranslationTarget",),
    "sharetorch.execution.state": ("State",),
    "sharetorch.execution.placeholder": ("PlaceHolder",),
    "sharetorch.federated.federated_client": ("FederatedClient",),
    "sharetorch.federated.train_config": ("TrainConfig",),
    "sharetorch.exceptions": (
        *("TensorsNotCollocatedException", "ObjectNotFoundError", "GetNotPermittedError"),
        *("InvalidTensorForRemoteGet", "WorkerNotFoundException", "IdNotUniqueError"),
    ),
}
"""What the tutorials and their tests import, by path."""

TENSOR_METHODS = (
    *("send", "send_", "get", "get_", "move", "move_", "copy", "clone", "tag", "describe", "tags", "description"),
    *("id", "owner", "shape", "dim", "size", "numel", "grad", "data", "gc", "garbage_collection", "disable_gc"),
    *("is_wrapper", "has_child", "wrap", "fix_precision", "fix_prec", "fix_precision_", "fix_prec_"),
    *("float_precision", "float_prec", "float_precision_", "float_prec_", "share", "share_", "refresh", "combine"),
    *("allow", "private_tensor", "create_pointer", "attr", "encrypt", "decrypt"),
)
POINTER_METHODS = (*TENSOR_METHODS, "location", "id_at_location", "remote_get", "remote_send", "mid_get", "child")
SHARED_METHODS = (
    *("get", "copy", "clone", "id", "owner", "child", "refresh", "float_precision", "float_prec", "is_wrapper"),
    *("float_precision_", "float_prec_", "has_child", "wrap", "decrypt", "send", "shape", "numel", "grad", "data"),
)
MODEL_METHODS = (
    *("send", "get", "move", "copy", "fix_precision", "fix_prec", "fix_precision_", "fix_prec_", "float_precision"),
    *("float_prec", "float_precision_", "float_prec_", "share", "share_", "encrypt", "decrypt", "owner", "location"),
)
WORKER_METHODS = (
    *("_objects", "_tensors", "object_store", "search", "request_search", "clear_objects", "send", "get_obj"),
    *("request_obj", "register_obj", "set_obj", "add_worker", "add_workers", "get_worker", "registration_enabled"),
    *("remove_worker_from_local_worker_registry", "remote", "id", "is_client_worker"),
    *("add_dataset", "remove_dataset", "fit", "evaluate", "fetch_plan", "fetch_protocol"),
)


def resolved(target: str) -> Any:
    module, _, name = target.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_front_door(name: str) -> None:
    assert getattr(sy, name) is resolved(TOP_LEVEL[name])


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in IMPORTS.items() for name in names])
def test_imports(path: str, name: str) -> None:
    names: dict[str, Any] = {}
    exec(f"from {path} import {name}", names)
    exec(f"import {path}", names)
    place: Any = names["sharetorch"]
    for part in path.split(".")[1:]:
        place = getattr(place, part)
    assert getattr(place, name) is names[name] is not None


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in PATHS.items() for name in names])
def test_the_table_leads_to_what_exists(path: str, name: str) -> None:
    expected = resolved(PATHS[path][name])
    module = importlib.import_module(f"sharetorch.{path}")
    assert getattr(module, name) is expected
    assert name in dir(module) and name in module.__all__
    if name in TOP_LEVEL:
        assert resolved(TOP_LEVEL[name]) is expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, torch.Tensor) for name in TENSOR_METHODS),
        *((name, nn.Parameter) for name in TENSOR_METHODS),
        *((name, sy.PointerTensor) for name in POINTER_METHODS),
        *((name, sy.SharedTensor) for name in SHARED_METHODS),
        *((name, nn.Module) for name in MODEL_METHODS),
        *((name, torch.optim.Optimizer) for name in ("fix_precision", "float_precision")),
        *((name, type(sy.local_worker)) for name in WORKER_METHODS if name not in ("id", "is_client_worker")),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_methods(name: str, kind: type) -> None:
    assert hasattr(kind, name)


WEBSOCKET_METHODS = (
    *("url", "connect", "close", "search", "list_objects_remote", "objects_count_remote", "list_tensors_remote"),
    *("tensors_count_remote", "clear_objects_remote", "clear_objects", "fit", "async_fit", "evaluate", "remote"),
    *("_objects", "_tensors", "object_store", "get_worker", "add_worker", "add_workers", "send", "request_search"),
)


@pytest.mark.parametrize("name", WEBSOCKET_METHODS)
def test_methods_of_workers_of_other_processes(name: str) -> None:
    assert hasattr(sy.WebsocketClientWorker, name)
    assert callable(sy.WebsocketServerWorker.start)


def test_workers_have_what_is_set_per_worker() -> None:
    assert sy.local_worker.id == "me"
    assert sy.local_worker.is_client_worker is True
    assert isinstance(sy.local_worker, sy.workers.base.BaseWorker)
    assert isinstance(sy.local_worker, sy.workers.abstract.AbstractWorker)


# ------------------------------------------------------------------------------------------------ the hook and torch


def test_the_module_level_hook() -> None:
    assert isinstance(sy.hook, sy.TorchHook)
    assert sy.hook.local_worker is sy.local_worker
    assert sy.TorchHook(torch).local_worker is sy.hook.local_worker
    assert callable(sy.hook)


def test_torch_as_an_attribute() -> None:
    assert sy.torch.hook is sy.hook
    assert sy.torch.hook.local_worker is sy.local_worker
    assert sy.torch.Tensor is torch.Tensor and sy.torch.nn is nn
    assert sy.torch.tensor([1, 2]).sum().item() == 3
    assert "hook" in dir(sy.torch) and "matmul" in dir(sy.torch)
    assert sy.TorchHook(sy.torch).torch is sy.torch
    with pytest.raises(AttributeError, match="no_such_function"):
        sy.torch.no_such_function  # noqa: B018


def test_torch_itself_has_no_hook() -> None:
    assert not hasattr(torch, "hook")
    sy.torch.something = 1
    try:
        assert not hasattr(torch, "something")
    finally:
        del sy.torch.something


def test_a_star_import_leaves_torch_alone() -> None:
    names: dict[str, Any] = {"torch": torch, "hook": "mine"}
    exec("from sharetorch import *", names)
    assert names["torch"] is torch and names["hook"] == "mine"
    assert names["create_sandbox"] is sy.create_sandbox


# ------------------------------------------------------------------------------------------- modules without files


def test_modules_are_plain_and_say_what_they_are() -> None:
    for path in PATHS:
        module = sys.modules[f"sharetorch.{path}"]
        assert type(module) is ModuleType
        assert "tutorial_names" in (module.__doc__ or "")
        assert not hasattr(module, "__file__")
        with pytest.raises(AttributeError, match=rf"sharetorch\.{path}.*no_such_name"):
            module.no_such_name  # noqa: B018


def test_whole_modules_are_the_same_object() -> None:
    for path, target in WHOLE_MODULES.items():
        assert sys.modules[f"sharetorch.{path}"] is importlib.import_module(target)


def test_unknown_paths_are_import_errors() -> None:
    for path in ("sharetorch.frameworks.keras", "sharetorch.workers.other", "sharetorch.nothing"):
        with pytest.raises(ModuleNotFoundError, match=path):
            importlib.import_module(path)
    with pytest.raises(ImportError, match="no_such_name"):
        exec("from sharetorch.workers.virtual import no_such_name")


def test_real_modules_are_not_replaced() -> None:
    """No path of the table is that of a file of ours."""
    for path in (*PATHS, *WHOLE_MODULES):
        first = path.partition(".")[0]
        assert first not in {"autograd", "fl", "mpc", "nn", "remote", "hook", "profiling", "datasets", "tutorial_names"}
    assert importlib.import_module("sharetorch.hooking").TorchHook is sy.TorchHook


def test_entering_twice_changes_nothing() -> None:
    before = {path: sys.modules[f"sharetorch.{path}"] for path in (*PATHS, *WHOLE_MODULES)}
    tutorial_names.enter()
    assert before == {path: sys.modules[f"sharetorch.{path}"] for path in before}


def test_names_are_looked_up_when_they_are_used() -> None:
    code = (
        "import sys, sharetorch.frameworks.torch.fl.utils as utils, sharetorch.workers.virtual as virtual; "
        "print('VirtualWorker' in vars(virtual), virtual.VirtualWorker.__name__, 'VirtualWorker' in vars(virtual), "
        "'sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "VirtualWorker", "True", "False"]


def test_every_path_and_absent_name_is_on_the_page() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "tutorial-names.md").read_text(encoding="utf-8")
    for name in (*PATHS, *WHOLE_MODULES, *ABSENT):
        assert f"`{name}`" in page, name


# ---------------------------------------------------------------------------------------------- names that are absent


@pytest.mark.parametrize("name", ABSENT)
def test_absent_names_say_what_there_is_instead(name: str) -> None:
    assert not hasattr(sy, name)
    with pytest.raises(AttributeError, match=f"sharetorch has no {name}: .{{20}}"):
        getattr(sy, name)
    assert name not in TOP_LEVEL


def test_what_absent_names_point_to_works() -> None:
    """A modulus beyond 62 bits, and three holders."""
    workers = [sy.VirtualWorker(id=f"holder {n}") for n in range(3)]
    provider = sy.VirtualWorker(id="holder provider")
    wide = torch.tensor([2**40, -3]).share(*workers, crypto_provider=provider, field=2**89 - 1)
    assert (wide * wide * wide).field == 2**89 - 1
    assert (wide * 2).get().tolist() == [2**41, -6]
    three = torch.tensor([1.5, -2.0]).share(*workers, crypto_provider=provider)
    assert (three * three + three).get().tolist() == [3.75, 2.0]


def test_other_missing_names_are_ordinary_errors() -> None:
    with pytest.raises(AttributeError, match="module 'sharetorch' has no attribute 'nothing'"):
        sy.nothing  # noqa: B018
