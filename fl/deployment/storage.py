"""What both ends keep in files: a folder with a ledger of rounds, at the server a checkpoint; models and logs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sharetorch.fl.masking import FileLedger
from sharetorch.fl.rounds.reports import RoundReport
from sharetorch.mpc.errors import ConfigurationError
from sharetorch.remote.objects import dtype_name

_SAFETENSORS = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32",
    torch.int64: "I64", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64",
}  # fmt: skip


class Storage:
    """The folder of one server or one client. One process at a time may use it.

    Args:
        folder: made if it is not there, for its owner only. Whoever restores an old copy of it lets rounds run twice.

    Attributes:
        checkpoint: file of the server's state.
        ledger: of the rounds that have begun.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.checkpoint = self.folder / "checkpoint"
        self.ledger = FileLedger(self.folder / "rounds")

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, nobody else may use it.

        Raises:
            ConfigurationError: the folder cannot be used, or another process does.
        """
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            number = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"The folder {self.folder} cannot hold the state: {error.strerror}. Name one that may be written to."
            ) from error
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(number)
            raise ConfigurationError(
                f"The state in {self.folder} is in use by another process. Stop that one, or name another folder."
            ) from error
        try:
            yield
        finally:
            os.close(number)


def save_model(path: Path | str, model: nn.Module) -> None:
    """Write a model's tensors, by the names of its ``state_dict``, in the form of safetensors.

    ``safetensors.torch.load_file`` reads it; it holds no code.

    Raises:
        ConfigurationError: it cannot be written, or a tensor has a dtype the form lacks.
    """
    header: dict[str, Any] = {}
    parts: list[bytes] = []
    place = 0
    for name, x in model.state_dict().items():
        part, kind = _bytes_of(x), _SAFETENSORS.get(x.dtype)
        if kind is None:
            raise ConfigurationError(f"{name} is of {dtype_name(x.dtype)}, which safetensors files do not hold.")
        header[name] = {"dtype": kind, "shape": list(x.shape), "data_offsets": [place, place + len(part)]}
        parts.append(part)
        place += len(part)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    _write(Path(path), b"".join((len(head).to_bytes(8, "little"), head, *parts)))


def _bytes_of(x: Tensor) -> bytes:
    flat = x.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def save_log(path: Path | str, settings: Mapping[str, Any], reports: Sequence[RoundReport]) -> None:
    """Write what is known of all rounds as JSON; figures that are not finite become null.

    Raises:
        ConfigurationError: it cannot be written.
    """
    content = {"settings": dict(settings), "rounds": [_plain(report) for report in reports]}
    _write(Path(path), (json.dumps(content, indent=1) + "\n").encode())


def _plain(report: RoundReport) -> dict[str, Any]:
    def number(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return {
        "round": report.round,
        "asked": report.asked,
        "summed": report.delivered,
        "left_out": report.left_out,
        "loss": number(report.loss),
        "metrics": {name: number(value) for name, value in report.metrics.items()},
        "seconds": report.seconds,
    }


def _write(path: Path, content: bytes) -> None:
    """Write a file whole, in place of the one before."""
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise ConfigurationError(
            f"{path} cannot be written: {error.strerror}. Name a file in a folder that is there."
        ) from error
