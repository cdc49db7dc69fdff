"""The audit as a file: what it says, and what its chain shows."""

import errno
import json
import os
from pathlib import Path

import pytest

from sharetorch.mpc.errors import ConfigurationError, RemoteOperationError
from sharetorch.remote.audit import Audit, Call, Entry
from sharetorch.remote.network.audit_file import FIRST, AuditFile, Head, verify


def entry(number: int = 0, outcome: str = "done") -> Entry:
    return Entry(1000.0 + number, "alice", None, f"fetch {number}", (number,), outcome)


def filled(path: Path, count: int = 5) -> Head:
    file = AuditFile(path, "bob", sync_seconds=None)
    for number in range(count):
        file.append(entry(number))
    file.close()
    return file.head()


def test_a_line_says_what_a_request_was(tmp_path: Path) -> None:
    filled(tmp_path / "audit", 1)
    begun, request = map(json.loads, (tmp_path / "audit").read_text().splitlines())
    assert begun["event"] == "begun"
    assert (begun["worker"], begun["version"], begun["previous"]) == ("bob", 1, FIRST)
    assert request["previous"] == begun["hash"]
    kept = {key: request[key] for key in ("n", "time", "sender", "user", "request", "objects", "outcome")}
    assert kept == {
        "n": 1, "time": 1000.0, "sender": "alice", "user": None, "request": "fetch 0", "objects": [0],
        "outcome": "done",
    }  # fmt: skip


def test_a_file_in_order_verifies_and_can_be_continued(tmp_path: Path) -> None:
    first = filled(tmp_path / "audit")
    second = filled(tmp_path / "audit", 2)
    assert (first.lines, second.lines) == (6, 8)
    verified = verify(tmp_path / "audit", first)
    assert verified == (second, None, (tmp_path / "audit").stat().st_size)


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    filled(tmp_path / "audit")
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("line", range(6))
@pytest.mark.parametrize("change", ["alter", "remove", "double", "swap", "insert"])
def test_every_change_but_of_the_end_is_seen(tmp_path: Path, line: int, change: str) -> None:
    path = tmp_path / "audit"
    head = filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "alter":
        lines[line] = lines[line].replace(b'"n":', b'"n":1', 1)
    elif change == "remove":
        del lines[line]
    elif change == "double":
        lines.insert(line, lines[line])
    elif change == "insert":
        lines.insert(line, b'{"event":"request"}\n')
    else:
        lines[line - 1], lines[line] = lines[line], lines[line - 1]
    path.write_bytes(b"".join(lines))
    assert verify(path, head).problem is not None
    if change != "remove" or line < 5:
        assert verify(path).problem is not None
        with pytest.raises(ConfigurationError, match="not in order"):
            AuditFile(path, "bob")


def test_lines_missing_at_the_end_are_seen_by_a_head_kept_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    head = filled(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
    assert verify(path).problem is None
    assert "cut or replaced" in str(verify(path, head).problem)


def test_a_line_cut_at_any_byte_is_left_behind_and_said(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    filled(path, 2)
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for cut in range(1, len(last)):
        path.write_bytes(whole[: len(whole) - cut])
        assert verify(path).problem is not None
        filled(path, 1)
        verified = verify(path)
        assert verified.problem is None
        lines = path.read_text().splitlines()
        events = [json.loads(line)["event"] for place, line in enumerate(lines) if place != 2]
        assert events == ["begun", "request", "recovered", "begun", "request"]
        filled(path, 1)
        assert verify(path).problem is None


def test_a_full_disk_is_an_error_and_leaves_a_file_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit"
    file = AuditFile(path, "bob")
    write = os.write
    for room in (0, 1, 50, -1):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda to, data, room=room: write(to, data[:room]))
            with pytest.raises(OSError, match="could be written") as caught:
                file.append(entry())
            assert caught.value.errno == errno.ENOSPC
            with pytest.raises(OSError):
                file.append(entry())
        file.append(entry(room))
        assert verify(path).problem is None
    file.close()


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    file = AuditFile(tmp_path / "audit", "bob")
    with pytest.raises(ConfigurationError, match="in use"):
        AuditFile(tmp_path / "audit", "bob")
    file.close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "audit").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        AuditFile(tmp_path / "audit", "bob")
    assert not (tmp_path / "elsewhere").exists()


def test_texts_of_others_stay_on_their_line(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    file = AuditFile(path, "bob")
    file.append(Entry(0.0, "x\n" * 500, 'user"\u2028', "fetch\x00", (1,), "done"))
    file.close()
    assert verify(path).head.lines == 2
    assert len(path.read_bytes().splitlines()) == 2
    assert len(json.loads(path.read_bytes().splitlines()[1])["sender"]) == 200


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, 4), (None, 0), (3600.0, 0)])
def test_lines_are_written_through_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float | None, expected: int
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    file = AuditFile(tmp_path / "audit", "bob", seconds)
    for number in range(3):
        file.append(entry(number))
    assert len(synced) == expected
    file.close()
    assert len(synced) == expected + 1


def test_the_audit_tells_a_file_and_refuses_to_act_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit, file = Audit(), AuditFile(tmp_path / "audit", "bob")
    audit.sinks.append(file)
    audit.note(Call("alice"), "done")
    audit.require_writable()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda to, data: 0)
        audit.note(Call("alice"), "done")
        with pytest.raises(RemoteOperationError, match="audit cannot be written"):
            audit.require_writable()
    audit.note(Call("alice"), "RemoteOperationError")
    audit.require_writable()
    assert len(audit) == 3
    file.close()
    assert verify(tmp_path / "audit").head.lines == 3
