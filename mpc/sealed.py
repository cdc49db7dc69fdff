"""Files that only who wrote them can read, and in which every change is noticed.

    preamble    name of the kind (4), version (2), zero (2), who wrote it (32), salt (32), length of the header (4)
    header      sealed, chunk 0
    contents    sealed, chunks 1, 2, ... of 1 MiB, the last one shorter

Sealed is AES-256-GCM: the tag follows each chunk. The key is HKDF-SHA256 of the writer's secret with the salt, which is
fresh for every file. The nonce is the number of the chunk. The additional data are the SHA-256 of the preamble, the
number of the chunk, and whether it is the last one: so nothing can be exchanged, left out, put in another order or cut
off.

A file is there whole or not at all: it is written under another name, synced, and then renamed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from sharetorch.mpc.errors import ShareTorchError
from sharetorch.mpc.randomness import system_entropy

VERSION = 1
CHUNK_BYTES = 1 << 20
TAG_BYTES = 16
MAX_HEADER = 64 << 20
PART = ".part"
"""End of the names of files that are being written."""

_SALT_BYTES = 32
_PREAMBLE = struct.Struct(">4sHH32s32sI")
_PLACE = struct.Struct(">32sQ?")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_writing: set[Path] = set()
_lock = threading.Lock()


@dataclass(frozen=True)
class Kind:
    """A kind of files, and what is said when something is wrong with one.

    Attributes:
        magic: 4 bytes at the beginning.
        info: what keys are derived for.
        error: what is raised.
        noun: what a file is called.
        reader: who reads it.
        smaller: what to do if the header is too large.
        otherwise: what to do instead of reading a file that is broken.
        larger: what to do if there is no room.
        permission: what to do if the folder cannot be written to.
        kept: what still holds when a file was not written.
    """

    magic: bytes
    info: bytes
    error: type[ShareTorchError]
    noun: str
    reader: str
    smaller: str
    otherwise: str
    larger: str
    permission: str
    kept: str

    def damaged(self, path: Path) -> ShareTorchError:
        """The error for a file that was changed or cut off."""
        return self.error(
            f"{path} is damaged: bytes of it were changed, or its end is missing. Put a copy of it there, or "
            f"{self.otherwise}"
        )

    def not_written(self, path: Path, needed: int, error: OSError) -> ShareTorchError:
        """The error for a file that could not be written."""
        remedy = f"Free some space there, or {self.larger}" if error.errno in _FULL else self.permission
        return self.error(
            f"A {self.noun} of {needed} bytes was not written to {path.parent}: {error.strerror}. {remedy}, and save "
            f"again. {self.kept}"
        )


class Files:
    """Files of one kind that one writer has sealed.

    Args:
        kind: of the files.
        secret: of the writer.
        public: 32 bytes that tell writers apart.
        foreign: what to say of a file with the given other ``public``.
    """

    __slots__ = ("_foreign", "_kind", "_public", "_secret")

    def __init__(self, kind: Kind, secret: bytes, public: bytes, foreign: Callable[[Path, bytes], str]) -> None:
        self._kind = kind
        self._secret = secret
        self._public = public
        self._foreign = foreign

    def write(self, path: Path, header: bytes, contents: Iterable[bytes | memoryview]) -> int:
        """Write a file whole, or nothing.

        Args:
            path: of the file; nothing may be there. Folders above it are made.
            header: what ``header`` gives back.
            contents: the rest, in pieces of any size.

        Returns:
            Size of the file.

        Raises:
            ShareTorchError: the disk is full or the folder cannot be written to; nothing is left of the file.
        """
        if len(header) > MAX_HEADER:
            raise self._kind.error(
                f"The description of a {self._kind.noun} takes {len(header)} bytes; the limit is {MAX_HEADER}. "
                f"{self._kind.smaller}"
            )
        pieces = list(contents)
        needed = _size(len(header), sum(len(piece) for piece in pieces))
        part = path.with_name(f".{path.name}{PART}")
        try:
            make_folder(path.parent)
            with _being_written(part), _file(part) as file:
                for chunk in self._sealed(header, pieces):
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
                if path.exists():
                    raise FileExistsError(errno.EEXIST, "there is such a file")
                part.rename(path)
            sync_folder(path.parent)
        except OSError as error:
            raise self._kind.not_written(path, needed, error) from error
        return needed

    def _sealed(self, header: bytes, pieces: list[bytes | memoryview]) -> Iterator[bytes]:
        salt = system_entropy(_SALT_BYTES)
        preamble = _PREAMBLE.pack(self._kind.magic, VERSION, 0, self._public, salt, len(header))
        seal = _Seal(self._kind, self._secret, preamble)
        yield preamble
        left = sum(len(piece) for piece in pieces)
        yield seal.close(0, header, last=left == 0)
        for number, chunk in enumerate(_chunks(pieces), 1):
            left -= len(chunk)
            yield seal.close(number, chunk, last=left == 0)

    def header(self, path: Path) -> bytes:
        """The header of a file.

        Raises:
            ShareTorchError: it is missing, damaged, or another writer's.
        """
        with self.open(path) as (header, _):
            return header

    @contextmanager
    def open(self, path: Path) -> Iterator[tuple[bytes, Contents]]:
        """The header of a file, and its contents to be read in order.

        Raises:
            ShareTorchError: it is missing, damaged, or another writer's.
        """
        try:
            with path.open("rb") as file:
                yield self._begin(path, file)
        except OSError as error:
            reason = error.strerror or error
            raise self._kind.error(f"The {self._kind.noun} {path} cannot be read: {reason}.") from error

    def _begin(self, path: Path, file: BinaryIO) -> tuple[bytes, Contents]:
        size = os.fstat(file.fileno()).st_size
        preamble = file.read(_PREAMBLE.size)
        kind = self._kind
        if len(preamble) != _PREAMBLE.size or preamble[:4] != kind.magic:
            raise kind.error(
                f"{path} is no {kind.noun} of ShareTorch, or only the beginning of one. "
                f"{kind.otherwise[:1].upper()}{kind.otherwise[1:]}"
            )
        _, version, zero, public, _, length = _PREAMBLE.unpack(preamble)
        if (version, zero) != (VERSION, 0):
            raise kind.error(
                f"{path} has version {version} of the format, {kind.reader} reads {VERSION}, or the file is damaged. "
                "Install the version of sharetorch that wrote it."
            )
        if public != self._public:
            raise kind.error(self._foreign(path, public))
        sealed = length + TAG_BYTES
        left = size - _PREAMBLE.size - sealed
        if length > MAX_HEADER or left < 0:
            raise kind.damaged(path)
        seal = _Seal(kind, self._secret, preamble)
        header = seal.open(path, 0, file.read(sealed), last=left == 0)
        return header, Contents(kind, path, file, seal, left)


class Contents:
    """What follows the header of a file, checked while it is read.

    Attributes:
        size: bytes that are left.
    """

    def __init__(self, kind: Kind, path: Path, file: BinaryIO, seal: _Seal, sealed: int) -> None:
        whole, rest = divmod(sealed, CHUNK_BYTES + TAG_BYTES)
        if rest and rest <= TAG_BYTES:
            raise kind.damaged(path)
        self._kind = kind
        self.size = sealed - TAG_BYTES * (whole + bool(rest))
        self._path = path
        self._file = file
        self._seal = seal
        self._number = 0
        self._sealed = sealed
        self._chunk = memoryview(b"")

    def read_into(self, memory: memoryview) -> None:
        """Fill memory with the next bytes.

        Raises:
            ShareTorchError: there are fewer, or they are damaged.
        """
        if len(memory) > self.size:
            raise self._kind.damaged(self._path)
        done = 0
        while done < len(memory):
            if not self._chunk:
                self._next()
            taken = min(len(self._chunk), len(memory) - done)
            memory[done : done + taken] = self._chunk[:taken]
            self._chunk = self._chunk[taken:]
            self.size -= taken
            done += taken

    def _next(self) -> None:
        taken = min(CHUNK_BYTES + TAG_BYTES, self._sealed)
        self._sealed -= taken
        self._number += 1
        self._chunk = memoryview(
            self._seal.open(self._path, self._number, self._file.read(taken), last=self._sealed == 0)
        )


class _Seal:
    """The key of one file."""

    __slots__ = ("_cipher", "_kind", "_preamble")

    def __init__(self, kind: Kind, secret: bytes, preamble: bytes) -> None:
        salt = _PREAMBLE.unpack(preamble)[4]
        self._kind = kind
        self._cipher = AESGCM(HKDF(SHA256(), 32, salt, kind.info).derive(secret))
        self._preamble = hashlib.sha256(preamble).digest()

    def close(self, number: int, chunk: bytes | memoryview, last: bool) -> bytes:
        return self._cipher.encrypt(number.to_bytes(12, "big"), chunk, _PLACE.pack(self._preamble, number, last))

    def open(self, path: Path, number: int, sealed: bytes, last: bool) -> bytes:
        try:
            return self._cipher.decrypt(number.to_bytes(12, "big"), sealed, _PLACE.pack(self._preamble, number, last))
        except InvalidTag:
            raise self._kind.damaged(path) from None


def _size(header: int, contents: int) -> int:
    """Size of a file."""
    chunks = 1 + -(-contents // CHUNK_BYTES)
    return _PREAMBLE.size + header + contents + chunks * TAG_BYTES


def _chunks(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The pieces' bytes in chunks of 1 MiB."""
    waiting = bytearray()
    for piece in pieces:
        view, start = memoryview(piece), 0
        if waiting:
            start = min(CHUNK_BYTES - len(waiting), len(view))
            waiting += view[:start]
            if len(waiting) == CHUNK_BYTES:
                yield bytes(waiting)
                waiting.clear()
        while len(view) - start >= CHUNK_BYTES:
            yield view[start : start + CHUNK_BYTES]
            start += CHUNK_BYTES
        waiting += view[start:]
    if waiting:
        yield bytes(waiting)


# ------------------------------------------------------------------------------------------------------------- folders


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, for this user alone, so that they outlast a crash."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Let changes of a folder outlast a crash of the machine."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def remove(path: Path, kind: Kind) -> None:
    """Delete a file, if it is there.

    Raises:
        ShareTorchError: it cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise kind.error(f"The {kind.noun} {path} cannot be deleted: {error.strerror or error}.") from error


def remove_rests(folder: Path) -> None:
    """Delete what a process that died while writing has left in a folder."""
    with suppress(OSError):
        for path in folder.glob(f".*{PART}"):
            with _lock:
                if path not in _writing:
                    path.unlink(missing_ok=True)


@contextmanager
def _being_written(part: Path) -> Iterator[None]:
    """Keep others' hands off a file; nothing is left of it afterwards."""
    with _lock:
        _writing.add(part)
    try:
        yield
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        with _lock:
            _writing.discard(part)


def _file(path: Path) -> BinaryIO:
    """A new file for this user alone."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
