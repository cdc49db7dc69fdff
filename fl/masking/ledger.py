"""Rounds a client has taken part in: none begins twice.

A second run of a round would mask another vector by the same pairs, or give the other kind of share, and so show a
difference of updates. A round is written down before its first message leaves; after a crash it counts as begun.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Protocol

from sharetorch.fl.masking.errors import RoundReusedError
from sharetorch.mpc.errors import ConfigurationError

_LINE = 65


class Ledger(Protocol):
    """Remembers rounds."""

    def begin(self, round: bytes) -> None:
        """Write a round down.

        Raises:
            RoundReusedError: it stands there already.
        """


class MemoryLedger:
    """A ledger that ends with the process: for simulations."""

    def __init__(self) -> None:
        self._begun: set[bytes] = set()

    def begin(self, round: bytes) -> None:
        """Write a round down.

        Raises:
            RoundReusedError: it stands there already.
        """
        if round in self._begun:
            _refuse(round)
        self._begun.add(round)


class FileLedger:
    """A ledger in a file: a line with the SHA-256 of each round's id. Several processes may use it at once.

    Args:
        path: of the file; made by the first round, readable by its owner only. Whoever restores an old copy of it lets
            rounds run twice.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def begin(self, round: bytes) -> None:
        """Write a round down, through to the disk.

        A line left incomplete by a crash is written over: its round never began.

        Raises:
            RoundReusedError: it stands there already.
            ConfigurationError: the file cannot be read or written, or is no ledger.
        """
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            number = os.open(self.path, flags, 0o600)
            try:
                self._append(number, round)
            finally:
                os.close(number)
            _sync_folder(self.path.parent)
        except OSError as error:
            raise ConfigurationError(
                f"The ledger {self.path} cannot be kept: {error.strerror}. Without one a round could run twice; no "
                "round begins. Correct its path, or make room."
            ) from error

    def _append(self, number: int, round: bytes) -> None:
        fcntl.flock(number, fcntl.LOCK_EX)
        size = os.fstat(number).st_size
        whole = size - size % _LINE
        found = _read(number, whole)
        lines = found.split(b"\n")
        if lines.pop() or any(len(line) != _LINE - 1 for line in lines):
            raise ConfigurationError(
                f"{self.path} is no ledger of rounds. Name the file that this client has used, or a new one."
            )
        line = hashlib.sha256(round).hexdigest().encode()
        if line in lines:
            _refuse(round)
        os.lseek(number, whole, os.SEEK_SET)
        if os.write(number, line + b"\n") != _LINE:
            raise OSError(0, "a line was not written whole")
        os.fsync(number)


def _read(number: int, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        part = os.read(number, count - len(found))
        if not part:
            break
        found += part
    return bytes(found)


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _refuse(round: bytes) -> None:
    raise RoundReusedError(
        f"Round {round.hex()[:16]}... has begun at this client before. A second run with the same masks would show a "
        "difference of updates. Convene a new round."
    )
