"""Sealed files: whole or not there, readable for one member, and every change is noticed."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sharetorch.mpc import sealed
from sharetorch.mpc.errors import CheckpointError
from sharetorch.mpc.network.identity import Identity
from sharetorch.mpc.randomness import system_entropy
from sharetorch.remote.sessions.checkpoint_files import CHUNK_BYTES, PART, TAG_BYTES, Files, remove, remove_rests

HEADER = b"a header that nobody else may read"
PREAMBLE_BYTES = 76


@pytest.fixture
def files(keys: Path) -> Files:
    return Files(Identity.load(keys, "alice"))


def read(files: Files, path: Path, step: int = 1 << 30) -> tuple[bytes, bytes]:
    """Header and contents, in pieces of ``step`` bytes."""
    with files.open(path) as (header, contents):
        parts = []
        while contents.size:
            parts.append(bytearray(min(step, contents.size)))
            contents.read_into(memoryview(parts[-1]))
        return header, b"".join(parts)


SIZES = [0, 1, 1000, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 5]


@pytest.mark.parametrize("size", SIZES)
def test_what_was_written_is_read(files: Files, tmp_path: Path, size: int) -> None:
    contents = system_entropy(size)
    path = tmp_path / "new" / "folder" / "file"
    written = files.write(path, HEADER, [contents])
    assert written == path.stat().st_size
    assert read(files, path) == (HEADER, contents)
    assert files.header(path) == HEADER


@pytest.mark.parametrize("step", [7, 1 << 16, CHUNK_BYTES - 1, CHUNK_BYTES + 1])
def test_pieces_may_have_any_size(files: Files, tmp_path: Path, step: int) -> None:
    contents = system_entropy(2 * CHUNK_BYTES + 100) if step > 100 else system_entropy(1000)
    pieces: list[bytes | memoryview] = [memoryview(contents)[n : n + step] for n in range(0, len(contents), step)]
    files.write(tmp_path / "file", HEADER, [b"", *pieces])
    assert read(files, tmp_path / "file", step + 1) == (HEADER, contents)


def test_only_this_user_may_read(files: Files, tmp_path: Path) -> None:
    files.write(tmp_path / "folder" / "file", HEADER, [])
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "folder" / "file").stat().st_mode & 0o777 == 0o600


def test_nothing_shows_in_a_file(files: Files, tmp_path: Path) -> None:
    contents = b"secret-" * 50_000
    for name in ("one", "other"):
        files.write(tmp_path / name, HEADER, [contents])
    one, other = ((tmp_path / name).read_bytes() for name in ("one", "other"))
    assert b"secret" not in one and b"header" not in one
    assert one[44:] != other[44:]
    pairs = set(zip(*[iter(one[PREAMBLE_BYTES:])] * 8, strict=False))
    assert len(pairs) == (len(one) - PREAMBLE_BYTES) // 8  # no block of 8 bytes comes twice
    assert not pairs & set(zip(*[iter(other[PREAMBLE_BYTES:])] * 8, strict=False))


# ---------------------------------------------------------------------------------------------------- what is refused


def test_each_flipped_bit_is_noticed(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write(path, HEADER, [b"contents"])
    good = path.read_bytes()
    for place in range(8 * len(good)):
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        path.write_bytes(bad)
        with pytest.raises(CheckpointError):
            read(files, path)


def test_each_truncation_is_noticed(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write(path, HEADER, [b"contents"])
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(CheckpointError):
            read(files, path)
    for more in (b"\0", bytes(TAG_BYTES), bytes(TAG_BYTES + 1), good):
        path.write_bytes(good + more)
        with pytest.raises(CheckpointError):
            read(files, path)


def _chunks(data: bytes) -> list[bytes]:
    start = PREAMBLE_BYTES + len(HEADER) + TAG_BYTES
    step = CHUNK_BYTES + TAG_BYTES
    return [data[:start], *(data[n : n + step] for n in range(start, len(data), step))]


@pytest.mark.parametrize("order", [[0, 2, 1, 3], [0, 1, 2], [0, 1, 3], [0, 2, 3], [0], [0, 1, 1, 3], [0, 1, 2, 3, 3]])
def test_chunks_cannot_be_exchanged_or_left_out(files: Files, tmp_path: Path, order: list[int]) -> None:
    path = tmp_path / "file"
    files.write(path, HEADER, [bytes(3 * CHUNK_BYTES)])
    chunks = _chunks(path.read_bytes())
    path.write_bytes(b"".join(chunks[n] for n in order))
    with pytest.raises(CheckpointError, match="is damaged: bytes of it were changed, or its end is missing"):
        read(files, path)


def test_chunks_of_another_file_do_not_fit(files: Files, tmp_path: Path) -> None:
    for name in ("one", "other"):
        files.write(tmp_path / name, HEADER, [bytes(2 * CHUNK_BYTES)])
    one, other = (_chunks((tmp_path / name).read_bytes()) for name in ("one", "other"))
    (tmp_path / "one").write_bytes(one[0] + one[1] + other[2])
    with pytest.raises(CheckpointError, match="damaged"):
        read(files, tmp_path / "one")


def test_another_members_file_is_named_as_such(files: Files, keys: Path, tmp_path: Path) -> None:
    bob = Files(Identity.load(keys, "bob"))
    bob.write(tmp_path / "file", HEADER, [b"contents"])
    with pytest.raises(CheckpointError, match="another member's file, or alice has new keys"):
        files.header(tmp_path / "file")
    forged = bytearray((tmp_path / "file").read_bytes())
    forged[8:40] = Identity.load(keys, "alice").public
    (tmp_path / "file").write_bytes(forged)
    with pytest.raises(CheckpointError, match="damaged"):
        files.header(tmp_path / "file")


def test_other_files_and_versions_are_named_as_such(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"no checkpoint" * 10)
    with pytest.raises(CheckpointError, match="is no checkpoint of ShareTorch"):
        files.header(path)
    files.write(tmp_path / "new", HEADER, [])
    data = bytearray((tmp_path / "new").read_bytes())
    data[5] = 2
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="has version 2 of the format, this worker reads 1"):
        files.header(path)
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        files.header(tmp_path / "missing")


def test_a_header_has_a_limit(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealed, "MAX_HEADER", 10)
    with pytest.raises(CheckpointError, match="takes 34 bytes; the limit is 10. Save fewer"):
        files.write(tmp_path / "file", HEADER, [])


# ------------------------------------------------------------------------------------------------------- full disks


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may become larger: writing fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 50, 100, 5000, CHUNK_BYTES, CHUNK_BYTES + 200, 2 * CHUNK_BYTES + 100])
def test_a_full_disk_leaves_what_was_there(files: Files, tmp_path: Path, room: int) -> None:
    files.write(tmp_path / "before", HEADER, [b"earlier"])
    with largest_file(room), pytest.raises(CheckpointError) as caught:
        files.write(tmp_path / "file", HEADER, [bytes(2 * CHUNK_BYTES)])
    needed = 2 * CHUNK_BYTES + len(HEADER) + PREAMBLE_BYTES + 3 * TAG_BYTES
    assert f"A checkpoint of {needed} bytes was not written to {tmp_path}: File too large. Free some space" in str(
        caught.value
    )
    assert "Earlier checkpoints are as they were" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["before"]
    assert read(files, tmp_path / "before") == (HEADER, b"earlier")
    files.write(tmp_path / "file", HEADER, [bytes(2 * CHUNK_BYTES)])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fails_when_it_is_synced(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def failing(file: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        with pytest.raises(CheckpointError, match=os.strerror(number)):
            files.write(tmp_path / "file", HEADER, [b"contents"])
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_none(files: Files, tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(CheckpointError, match="See that this folder is there and that the worker may write to it"):
        files.write(tmp_path / "folder" / "file", HEADER, [])


def test_a_file_is_not_written_over(files: Files, tmp_path: Path) -> None:
    files.write(tmp_path / "file", HEADER, [b"first"])
    with pytest.raises(CheckpointError, match="there is such a file"):
        files.write(tmp_path / "file", HEADER, [b"second"])
    assert read(files, tmp_path / "file") == (HEADER, b"first")
    assert len(list(tmp_path.iterdir())) == 1


def test_deleting(files: Files, tmp_path: Path) -> None:
    files.write(tmp_path / "file", HEADER, [])
    remove(tmp_path / "file")
    remove(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(CheckpointError, match="cannot be deleted"):
        remove(tmp_path)


def test_what_a_dead_process_left_is_removed_but_not_what_is_being_written(files: Files, tmp_path: Path) -> None:
    (tmp_path / f".old{PART}").write_bytes(b"rest")

    def contents() -> Iterator[bytes]:
        yield b"contents"

    class Watching(Files):
        def _sealed(self, header: bytes, pieces: list[Any]) -> Iterator[bytes]:
            remove_rests(tmp_path)
            assert [path.name for path in tmp_path.iterdir()] == [f".file{PART}"]
            return super()._sealed(header, pieces)

    Watching(files._identity).write(tmp_path / "file", HEADER, contents())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


_WRITER = """
import sys
from pathlib import Path
from sharetorch.mpc.network.identity import Identity
from sharetorch.remote.sessions.checkpoint_files import Files
keys, folder = sys.argv[1:]
files = Files(Identity.load(keys, "alice"))
print("ready", flush=True)
for number in range(1_000_000):
    files.write(Path(folder) / f"file{number}", b"header", [bytes([number % 256]) * (3 << 20)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.0, 0.011, 0.023, 0.047, 0.083])
def test_a_killed_writer_leaves_whole_files(files: Files, keys: Path, tmp_path: Path, seconds: float) -> None:
    command = [sys.executable, "-P", "-c", _WRITER, str(keys), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        writer.send_signal(signal.SIGKILL)
    remove_rests(tmp_path)
    for path in tmp_path.iterdir():
        number = int(path.name.removeprefix("file"))
        assert read(files, path) == (b"header", bytes([number % 256]) * (3 << 20))
