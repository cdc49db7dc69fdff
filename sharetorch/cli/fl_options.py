"""What ``sharetorch fl serve`` and ``sharetorch fl join`` have in common: keys, data, how they are stopped."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sharetorch.cli import arguments
from sharetorch.mpc.errors import ConfigurationError, DataSourceError
from sharetorch.mpc.network.identity import Identity

if TYPE_CHECKING:
    from torch import Tensor

    from sharetorch.fl.datasets import BaseDataset

T = TypeVar("T")

_NAMED = ("mnist", "digits")
MEAN, DEVIATION = 0.1307, 0.3081
"""Of the pixels of MNIST."""


# -------------------------------------------------------------------------------------------------------------- keys


def add_keys(found: argparse.ArgumentParser, who: str) -> None:
    """Add the options of whoever has keys and a state."""
    add = found.add_argument
    add(
        "--cert", type=Path, required=True, metavar="FILE",
        help=f"certificate of {who}, ID.crt; ID.key, ID.identity and ca.crt lie beside it",
    )  # fmt: skip
    add("--state", type=Path, required=True, metavar="DIR", help="folder for what must survive a restart")
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info", help="default: info")
    add("--threads", type=arguments.count, metavar="N", help="threads for computation")
    add("--json", action="store_true", help="print JSON for programs")


def identity_of(path: Path) -> Identity:
    """The keys that belong to a certificate.

    Raises:
        ConfigurationError: they are missing or wrong.
    """
    if path.suffix != ".crt":
        raise ConfigurationError(f"--cert {path} is no certificate ID.crt, such as keys/alice.crt. Name that file.")
    return Identity.load(path.parent, path.stem)


def use_threads(number: int | None) -> None:
    """Compute with so many threads."""
    if number:
        import torch

        from sharetorch.mpc.kernels import set_thread_count

        torch.set_num_threads(number)
        set_thread_count(number)


# -------------------------------------------------------------------------------------------------------------- data


def add_data(found: argparse.ArgumentParser, option: str, required: bool, what: str) -> None:
    """Add the options that name a data set."""
    add = found.add_argument
    add(
        option, dest="data", required=required, metavar="FILE",
        help=f"{what}: csv, parquet, npz, safetensors, idx, or the names mnist or digits",
    )  # fmt: skip
    add("--data-dir", type=Path, metavar="DIR", help="folder of MNIST's four files")
    add("--columns", type=_names, metavar="NAME,...", help="of a table; or the array of an npz or safetensors file")
    add("--target", metavar="NAME", help="column, array or file with what is to be predicted")
    add("--target-dtype", metavar="TYPE", help="int64 or float32; by the values if not given")
    add("--divide", type=arguments.positive, metavar="X", help="divide the items by it, as 255 does pixels")
    add("--row", type=_shape, metavar="AxBxC", help="shape of an item, such as 1x28x28")


def data_of(args: argparse.Namespace, test: bool) -> BaseDataset:
    """The data set that options name.

    Args:
        args: with the options of ``add_data``.
        test: of a named set the part to test on, else the one to train on.

    Raises:
        DataSourceError: the file is missing, broken or of another form, or has no target.
        ConfigurationError: an option is wrong.
        DataError: a named set is missing or broken.
    """
    from sharetorch.fl.datasets import BaseDataset

    if args.data in _NAMED:
        return BaseDataset(*_named(args.data, args.data_dir, test))
    from sharetorch.remote.network import sources

    given = {
        "path": args.data, "target": args.target, "target_dtype": args.target_dtype, "columns": args.columns,
        "divide": args.divide, "row": args.row,
    }  # fmt: skip
    source = sources.sources_of([{key: value for key, value in given.items() if value is not None}])[0]
    if source.target is None:
        raise DataSourceError(
            f"{args.data}: nothing says what is to be predicted. Name the column, array or file with --target."
        )
    loaded = sources.load(source)
    return BaseDataset(loaded.data, loaded.target)


def _named(name: str, folder: Path | None, test: bool) -> tuple[Tensor, Tensor]:
    from sharetorch.datasets import load

    found = load(name, folder)
    if found.name != name:
        raise DataSourceError(f"{found.notice} A federation needs the data it is about: give --data-dir.")
    shift, scale = (MEAN, DEVIATION) if name == "mnist" else (0.0, 1.0)
    pair = (found.test_images, found.test_labels) if test else (found.train_images, found.train_labels)
    return (pair[0] - shift) / scale, pair[1]


# ------------------------------------------------------------------------------------------------------------ running


def carried_out(work: Coroutine[Any, Any, T]) -> T | None:
    """What some work gives; None if SIGTERM ended it."""

    async def body() -> T | None:
        task, stopped = asyncio.current_task(), asyncio.Event()

        def stop() -> None:
            stopped.set()
            if task is not None:
                task.cancel()

        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # not in the main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
        try:
            return await work
        except asyncio.CancelledError:
            if stopped.is_set():
                return None
            raise

    return asyncio.run(body())


def _names(text: str) -> list[str]:
    return text.split(",")


def _shape(text: str) -> list[int]:
    sizes = text.split("x")
    if not all(size.isascii() and size.isdigit() and 1 <= len(size) <= 9 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is no shape such as 1x28x28")
    return [int(size) for size in sizes]
