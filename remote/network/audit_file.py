"""The audit as a file: one line for each request, chained by hashes, only ever appended to.

A line is a JSON object with its ``hash``: SHA-256 over the ``previous`` line's hash and everything else in the line.
Who changes, removes or inserts a line must change the hashes of all lines after it, and whoever knows one of those sees
it. Lines removed at the end are seen only so: keep ``head()`` in another place.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sharetorch.mpc.errors import ConfigurationError
from sharetorch.remote.audit import Entry

VERSION = 1
FIRST = "0" * 64
"""What the first line names as the hash before it."""

_NAME = 200
"""Characters of a sender's or a user's name that are kept."""

_LONGEST = 1 << 16
"""Bytes of a line at most."""


class Head(NamedTuple):
    """Where a chain stands.

    Attributes:
        lines: how many there are.
        hash: of the last one.
    """

    lines: int
    hash: str


class Verified(NamedTuple):
    """What became of checking a file.

    Attributes:
        head: after the last line that is in order.
        problem: what is wrong with the line after it; None if the whole file is in order.
        size: bytes that are in order.
    """

    head: Head
    problem: str | None
    size: int


class AuditFile:
    """An audit file that is open to be appended to.

    Args:
        path: of the file; made if it is not there, readable by its owner only.
        worker: id of whose requests they are; stands in the first line.
        sync_seconds: a line is written through to the disk if the last one to be was so long ago: 0 writes every line
            through, None leaves it to the operating system. A process that is killed loses nothing either way.

    Raises:
        ConfigurationError: the file cannot be opened, is in use by another process, or ends in something that is no
            line of an audit.
    """

    def __init__(self, path: Path, worker: str, sync_seconds: float | None = 1.0) -> None:
        self.path = path
        self._sync_seconds = sync_seconds
        self._synced = time.monotonic()
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(path, flags, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"The audit file {path} cannot be opened: {error.strerror}. Correct its path."
            ) from error
        try:
            self._begin(worker)
        except BaseException:
            os.close(self._file)
            raise

    def _begin(self, worker: str) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError(
                f"The audit file {self.path} is in use by another process. Give each worker a file of its own."
            ) from error
        self._head, self._torn = _end(self.path)
        if self._torn or not self._head.lines:
            self._append({"event": "begun", "version": VERSION, "worker": worker[:_NAME]})

    def __call__(self, entry: Entry) -> None:
        """Append a request; see ``append``."""
        self.append(entry)

    def append(self, entry: Entry) -> None:
        """Append a request.

        Raises:
            OSError: it could not be written, as on a full disk. Who must not act unseen does not act then.
        """
        self._append(
            {
                "event": "request",
                "sender": entry.sender[:_NAME],
                "user": None if entry.user is None else entry.user[:_NAME],
                "request": entry.request,
                "objects": list(entry.objects),
                "outcome": entry.outcome,
            },
            entry.time,
        )

    def _append(self, fields: dict[str, Any], when: float | None = None) -> None:
        if self._torn:
            self._write(b"\n", {"event": "recovered", "lost_bytes": self._torn}, time.time())
            self._torn = 0
        self._write(b"", fields, time.time() if when is None else when)
        if self._sync_seconds is not None and time.monotonic() - self._synced >= self._sync_seconds:
            self.sync()

    def _write(self, before: bytes, fields: dict[str, Any], when: float) -> None:
        body = {"n": self._head.lines, "time": round(when, 6), **fields}
        digest = _digest(self._head.hash, body)
        line = before + _canonical({**body, "previous": self._head.hash, "hash": digest}) + b"\n"
        written = os.write(self._file, line)
        if written != len(line):
            self._torn += min(written, len(line) - 2)
            if written == len(line) - 1:  # A line without its end would count as one after the next end is written.
                os.ftruncate(self._file, os.fstat(self._file).st_size - 1)
            raise OSError(errno.ENOSPC, f"{written} of {len(line)} bytes could be written", str(self.path))
        self._head = Head(self._head.lines + 1, digest)

    def head(self) -> Head:
        """Where the chain stands: kept elsewhere, it shows lines that are missing at the end."""
        return self._head

    def sync(self) -> None:
        """Write to the disk itself what may still be in memory of the machine."""
        os.fsync(self._file)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and close."""
        if self._file >= 0:
            self.sync()
            os.close(self._file)
            self._file = -1


def verify(path: Path, expected: Head | None = None) -> Verified:
    """Check a whole file.

    Args:
        path: of the file; it may be in use.
        expected: a head kept elsewhere, which must lie on the chain.

    Returns:
        How far the file is in order, and what comes then.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    head, size = Head(0, FIRST), 0
    seen = expected is None or expected == head
    torn = 0
    for line in _lines(path):
        entry = _entry(line, head)
        if entry is None or (torn and (entry["event"], entry.get("lost_bytes")) != ("recovered", torn - 1)):
            torn += len(line)
            continue
        head, size, torn = Head(head.lines + 1, entry["hash"]), size + torn + len(line), 0
        seen = seen or expected == head
    if torn:
        what = f"what follows entry {head.lines} is incomplete, or was changed, removed or inserted"
        return Verified(head, what, size)
    if not seen and expected is not None:
        what = f"entry {expected.lines} as it was noted elsewhere is not in the file, which was cut or replaced"
        return Verified(head, what, size)
    return Verified(head, None, size)


def _lines(path: Path) -> Iterator[bytes]:
    """Lines with their ends; one that is too long comes in parts, of which none is an entry."""
    try:
        with path.open("rb") as file:
            while line := file.readline(_LONGEST):
                yield line
    except OSError as error:
        raise ConfigurationError(f"The audit file {path} cannot be read: {error.strerror}.") from error


def _entry(line: bytes, head: Head) -> dict[str, Any] | None:
    """The entry of a line that continues the chain; None if it is none."""
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or _canonical(found) + b"\n" != line:
        return None
    body = {key: value for key, value in found.items() if key not in ("previous", "hash")}
    chained = found.get("previous") == head.hash and found.get("n") == head.lines
    return found if chained and "event" in found and found.get("hash") == _digest(head.hash, body) else None


def _end(path: Path) -> tuple[Head, int]:
    """Where the chain of a file to be continued stands, and bytes after it of a line that was not finished.

    Raises:
        ConfigurationError: the file is not in order; nothing is appended to it then.
    """
    verified = verify(path)
    if verified.problem is None:
        return verified.head, 0
    with path.open("rb") as file:
        file.seek(verified.size)
        rest = file.read(4 * _LONGEST)
    if len(rest) == 4 * _LONGEST or any(_is_entry(line) for line in rest.split(b"\n")[:-1]):
        raise ConfigurationError(
            f"The audit file {path} is not in order: {verified.problem}. Keep it for inquiry, and name another file."
        )
    if b"\n" not in rest and _entry(rest + b"\n", verified.head) is not None:
        rest = rest[:-1]  # A line without its end would count as one after the next end is written.
        os.truncate(path, verified.size + len(rest))
    return verified.head, len(rest)


def _is_entry(line: bytes) -> bool:
    """Whether a line is whole, be it in its place or not."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _digest(previous: str, body: dict[str, Any]) -> str:
    return hashlib.sha256(previous.encode() + _canonical(body)).hexdigest()


def _canonical(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
