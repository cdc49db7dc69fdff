"""A federation's state in one file, from which it goes on as if it had not been interrupted.

The file holds the global model, what the server optimizer keeps, the reports of all rounds, and the settings on which
the result depends. It is MessagePack as ``remote/wire.py`` writes values, never code, after a magic number and a
SHA-256 of the rest. It is not encrypted: whoever reads the file has the model.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from sharetorch.fl.rounds.reports import RoundReport
from sharetorch.mpc.errors import CheckpointError, MalformedRequestError
from sharetorch.remote import wire
from sharetorch.remote.worker import local

MAGIC = b"STFR\x01"
_DIGEST = 32


class State(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """What is kept.

    Attributes:
        settings: on which the result depends, as text by name.
        tensors: of the model, parameters then buffers.
        strategy: tensors of the server optimizer by name.
        reports: of the rounds so far.
    """

    settings: dict[str, str]
    tensors: list[Any]
    strategy: dict[str, Any]
    reports: list[RoundReport]


def write(path: Path, state: State) -> None:
    """Write a file whole, in place of the one before.

    Raises:
        CheckpointError: it cannot be written; the one before is as it was.
    """
    content = wire.encode(state)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
        with os.fdopen(handle, "wb") as stream:
            stream.writelines((MAGIC, hashlib.sha256(content).digest(), content))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise CheckpointError(
            f"The checkpoint {path} was not written: {error.strerror}. The one before, if any, is as it was; see that "
            "the folder may be written to and has room."
        ) from error


def read(path: Path) -> State | None:
    """Read a file; None if there is none.

    Raises:
        CheckpointError: it cannot be read, or is no whole checkpoint of a federation.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CheckpointError(f"The checkpoint {path} cannot be read: {error.strerror}.") from error
    digest, body = content[len(MAGIC) : len(MAGIC) + _DIGEST], content[len(MAGIC) + _DIGEST :]
    if not content.startswith(MAGIC) or hashlib.sha256(body).digest() != digest:
        raise CheckpointError(
            f"{path} is no checkpoint of a federation, or is damaged. Move it away to begin anew, or put a copy there."
        )
    try:
        state: State = wire.Decoder(State, local()).decode(body)
    except MalformedRequestError as error:
        raise CheckpointError(f"{path} was written by another version: {error}. Move it away to begin anew.") from error
    if not all(isinstance(x, Tensor) for x in (*state.tensors, *state.strategy.values())):
        raise CheckpointError(f"{path} holds something else than tensors. Move it away to begin anew.")
    return state


def require_same(path: Path, kept: dict[str, str], now: dict[str, str]) -> None:
    """Check that a checkpoint belongs to a federation.

    Raises:
        CheckpointError: a setting differs on which the result depends.
    """
    for name in sorted({*kept, *now}):
        if kept.get(name) != now.get(name):
            raise CheckpointError(
                f"{path} is of a federation with {name} {kept.get(name)}; here it is {now.get(name)}, and the result "
                "would be neither's. Use the settings of then, or another file."
            )
