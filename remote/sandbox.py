"""``create_sandbox(globals())``: six workers with public data on them, ready to play with."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from sharetorch.hooking import TorchHook
from sharetorch.mpc.errors import SandboxError
from sharetorch.remote import sample_data
from sharetorch.remote.grid import PrivateGridNetwork
from sharetorch.remote.sample_data import SampleSet
from sharetorch.remote.worker import VirtualWorker

WORKERS = ("bob", "theo", "jason", "alice", "andy", "jon")
"""Names of the workers, in order; each is also a variable of the sandbox."""

_TORCH_NAMES = ("torch", "th")

_say: Callable[[str], None] = print
"""Takes the lines about progress: names and public facts only."""


def create_sandbox(gbs: MutableMapping[str, Any], verbose: bool = True, download_data: bool = True) -> None:
    """Set ``hook``, six workers, ``workers`` and ``grid`` in a namespace, and spread public data over the workers.

    Each data set is cut by rows into six parts of almost the same size, in order; worker k holds part k of the data,
    tagged with the data set's tags and ``#data``, and part k of the target, tagged with ``#target``. A part that a
    worker holds already is not sent again, so a second call adds nothing.

    Args:
        gbs: the namespace, as ``globals()`` gives it; torch must be imported there.
        verbose: whether to say what is being done. That a data set is missing is said in any case.
        download_data: whether to spread the data. The name is the tutorials'; nothing is downloaded.

    Raises:
        SandboxError: no namespace, or torch is not imported in it.
        DataError: scikit-learn is not installed, or the file of Boston housing is broken.
        RuntimeError: one of the names is the id of a worker of another kind.
    """
    hook = TorchHook(torch_of(gbs))
    tell = _say if verbose else _silent
    tell("Setting up the sandbox:")
    tell(f"  workers {', '.join(WORKERS)}")
    workers = [VirtualWorker(hook, id=name) for name in WORKERS]
    if download_data:
        _spread_all(workers, tell)
    gbs.update(zip(WORKERS, workers, strict=True))
    gbs.update(hook=hook, workers=workers, grid=PrivateGridNetwork(*workers))
    tell("  all workers as one grid\nDone.")


def make_hook(gbs: MutableMapping[str, Any]) -> TorchHook:
    """Set the same names in a namespace as ``create_sandbox`` does, without data and without a word.

    Returns:
        The hook, which is also ``gbs["hook"]``.

    Raises:
        SandboxError: no namespace, or torch is not imported in it.
    """
    create_sandbox(gbs, verbose=False, download_data=False)
    made: TorchHook = gbs["hook"]
    return made


def torch_of(gbs: MutableMapping[str, Any]) -> Any:
    """The torch module of a namespace, under whatever name.

    Raises:
        SandboxError: no namespace, or no torch in it.
    """
    if not isinstance(gbs, MutableMapping):
        raise SandboxError(f"A sandbox is set up in a namespace, not in a {type(gbs).__name__}; pass globals().")
    for name in (*_TORCH_NAMES, *gbs):
        value = gbs.get(name)
        if isinstance(value, ModuleType) and getattr(value, "Tensor", None) is torch.Tensor:
            return value
    raise SandboxError("The namespace given has no torch in it; write `import torch` before create_sandbox(globals()).")


def _silent(line: str) -> None:
    """Say nothing."""


def _spread_all(workers: list[VirtualWorker], tell: Callable[[str], None]) -> None:
    boston = sample_data.boston()
    if isinstance(boston, str):
        _say(
            f"Notice: no Boston housing data, and so no #boston: scikit-learn no longer has it, and {boston}. Set "
            f"SHARETORCH_DATA to a folder with {sample_data.BOSTON_FILE}, or use #diabetes."
        )
    for sample in sample_data.bundled() if isinstance(boston, str) else (boston, *sample_data.bundled()):
        tell(f"  {sample.name}: {len(sample.data)} rows")
        _spread(sample, sample.data, "#data", workers)
        _spread(sample, sample.target, "#target", workers)


def _spread(sample: SampleSet, values: Tensor, role: str, workers: list[VirtualWorker]) -> None:
    """One part to each worker that does not hold it."""
    tags = (*sample.tags, role)
    for worker, part in zip(workers, values.tensor_split(len(workers)), strict=True):
        held = [(found.shape, found.description) for found in worker.search(tags)]
        if (part.shape, sample.description) not in held:
            labelled: Any = part.clone()
            labelled.tag(*tags).describe(sample.description).send(worker, garbage_collect_data=False)
