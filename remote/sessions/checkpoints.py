"""Checkpoints at a member: its shares of some objects in a sealed file of its own.

    STATE/checkpoints/MEMBER/NAME/COUNTER-ID

The header says whose checkpoint it is and of which group; it is given back only to the principal who saved it, in a
session of the same members in the same order. The contents are the member's shares, one after the other, as ring
elements; the provider has none. Masked openings and correlated randomness are never written: a restored object begins
like one that was shared afresh, so no mask meets its secret twice. Labels are kept, without the order of rows.

What a failed ``Save`` was to write is not there, and nothing has been sent to other members: the session goes on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from sharetorch.mpc.channel import RING, Form
from sharetorch.mpc.errors import CheckpointError, MalformedRequestError
from sharetorch.mpc.labels import Label
from sharetorch.mpc.network import frames
from sharetorch.mpc.network.member import Member
from sharetorch.mpc.policy import Policy
from sharetorch.mpc.ring import Elements
from sharetorch.remote.sessions.checkpoint_files import Contents, Files, damaged, remove, remove_rests
from sharetorch.remote.sessions.hosted import HostedSession, handles
from sharetorch.remote.sessions.messages import (
    CheckpointEntry,
    Checkpoints,
    ListCheckpoints,
    Load,
    Loaded,
    Prune,
    Save,
    Saved,
    Synced,
)

ID_BYTES = 16
MAX_FILES = 1024
"""Checkpoints of one name that a member keeps, of all principals together."""
MAX_NAMES = 1024

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_FILE = re.compile(rf"([0-9]{{12}})-([0-9a-f]{{{2 * ID_BYTES}}})")
_MAX_COUNTER = 10**12 - 1


def check_name(name: str) -> str:
    """Refuse what cannot be the name of a checkpoint; it becomes the name of a folder.

    Raises:
        CheckpointError: it is no text of 1 to 64 letters, digits, "_", "-" and ".", or begins with "-" or ".".
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CheckpointError(
            f"{str(name)[:80]!r} is no name for a checkpoint. Use 1 to 64 letters, digits, '_', '-' or '.', not '-' or "
            "'.' first."
        )
    return name


class Owner(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A member or a principal: its id, and the identity key its certificate names."""

    id: str
    public: bytes


class KeptLabel(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What remains of a label: the policy, and the rows each element aggregates at least."""

    policy: bytes
    rows: int
    made_by: str


class Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a checkpoint's file says of itself.

    Attributes:
        name: of the checkpoint.
        id: of this state of it, the same at all members.
        counter: grows from state to state.
        rank: of the member who wrote it.
        members: of the session, in order of rank.
        parties: how many of them hold shares.
        modulus: of the ring, big-endian.
        principal: who saved it.
        shapes: of the shares.
        labels: of the objects.
        structure: what the driver makes of the objects; nothing here reads it.
    """

    name: str
    id: bytes
    counter: int
    rank: int
    members: list[Owner]
    parties: int
    modulus: bytes
    principal: Owner
    shapes: list[list[int]]
    labels: list[KeptLabel | None]
    structure: bytes

    def group(self) -> tuple[Any, ...]:
        """What must agree for a session to have this checkpoint."""
        return self.name, self.rank, self.members, self.parties, self.modulus, self.principal


_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Header)


def _header(
    session: HostedSession, name: str, id: bytes = b"", counter: int = 0, member: Member | None = None,
    numbers: Sequence[int] = (), structure: bytes = b"",
) -> Header:  # fmt: skip
    document, peer = session.document, session.control.peer
    return Header(
        name,
        id,
        counter,
        session.rank,
        [Owner(entry.id, entry.public) for entry in document.members],
        document.parties,
        document.modulus,
        Owner(peer.id, peer.public),
        [list(member.get(number).data.shape) for number in numbers] if member is not None else [],
        [_kept(session.book.label(number)) for number in numbers],
        structure,
    )


def _kept(label: Label | None) -> KeptLabel | None:
    """A label without its rows' order, which is the careful reading of it."""
    if label is None or not label.restricted:
        return None
    return KeptLabel(label.policy.to_bytes(), label.least, label.made_by)


def _label(kept: KeptLabel | None) -> Label | None:
    return None if kept is None else Label(Policy.from_bytes(kept.policy), None, kept.rows, kept.made_by)


# ----------------------------------------------------------------------------------------------- the files of a session


def _folder(session: HostedSession, name: str) -> Path:
    """Where checkpoints of a name lie.

    Raises:
        CheckpointError: this worker keeps none, or it is no name.
    """
    state: Path | None = session.host.state
    id = session.host.identity.id
    if state is None:
        raise CheckpointError(
            f"{id} keeps no checkpoints: it has no state folder. Start it with --state FOLDER, or with `state` in its "
            "settings."
        )
    return Path(state) / "checkpoints" / id / check_name(name)


def _found(folder: Path) -> Iterator[tuple[int, bytes, Path]]:
    """Counter, id and path of each file of a name."""
    try:
        names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise CheckpointError(f"The folder {folder} cannot be read: {error.strerror}. See who may read it.") from error
    for name in names:
        match = _FILE.fullmatch(name)
        if match:
            yield int(match[1]), bytes.fromhex(match[2]), folder / name


def _path(folder: Path, counter: int, id: bytes) -> Path:
    return folder / f"{counter:012d}-{id.hex()}"


def _read_header(files: Files, path: Path) -> Header:
    header = _decoded(path, files.header(path))
    counter, id = path.name.split("-")
    if (header.counter, header.id.hex(), header.name) != (int(counter), id, path.parent.name):
        raise CheckpointError(
            f"{path} is the checkpoint {header.name!r} {_path(path.parent, header.counter, header.id).name} under "
            "another name. Give it its own name back."
        )
    return header


def _decoded(path: Path, data: bytes) -> Header:
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise CheckpointError(
            f"{path} was written by another version of sharetorch. Install that version to read it."
        ) from error


def _own(session: HostedSession, name: str, problems: list[str]) -> Iterator[tuple[Header, Path]]:
    """The checkpoints of a name that belong to this session's driver and members; what cannot be read is told."""
    folder = _folder(session, name)
    files, group = Files(session.host.identity), _header(session, name).group()
    for _, _, path in _found(folder):
        try:
            header = _read_header(files, path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        if header.group() == group:
            yield header, path


# ---------------------------------------------------------------------------------------------- what a driver asks for


@handles(Save)
def _save(session: HostedSession, member: Member, item: Save) -> Saved:
    folder = _folder(session, item.name)
    if len(item.checkpoint) != ID_BYTES or not 0 <= item.counter <= _MAX_COUNTER:
        raise MalformedRequestError(
            f"A checkpoint with number {item.counter} and an id of {len(item.checkpoint)} bytes."
        )
    remove_rests(folder)
    _require_room(folder)
    header = _header(session, item.name, item.checkpoint, item.counter, member, item.numbers, item.structure)
    shares = []
    if session.rank < session.document.parties:
        shares = [frames.encode_field(member.get(number).data, session.ring) for number in item.numbers]
    path = _path(folder, item.counter, item.checkpoint)
    return Saved(Files(session.host.identity).write(path, _encode(header), shares))


def _require_room(folder: Path) -> None:
    """Bound what a driver that never deletes can make of a folder."""
    names = len(list(folder.parent.iterdir())) if folder.parent.exists() and not folder.exists() else 0
    states = len(list(_found(folder)))
    if names >= MAX_NAMES or states >= MAX_FILES:
        what = f"{states} checkpoints" if states >= MAX_FILES else f"{names} names of checkpoints"
        raise CheckpointError(f"{folder.parent} holds {what}, the most it takes. Delete some first.")


@handles(ListCheckpoints)
def _list(session: HostedSession, member: Member, item: ListCheckpoints) -> Checkpoints:
    problems: list[str] = []
    found = _own(session, item.name, problems)
    entries = [CheckpointEntry(header.counter, header.id, len(header.shapes)) for header, _ in found]
    return Checkpoints(entries, problems)


@handles(Load)
def _load(session: HostedSession, member: Member, item: Load) -> Loaded:
    fitting = [found for found in _own(session, item.name, []) if found[0].id == item.checkpoint]
    if not fitting:
        raise CheckpointError(
            f"{session.host.identity.id} has no checkpoint {item.name!r} {item.checkpoint.hex()} that "
            f"{session.control.peer.id} saved in a session of these members in this order."
        )
    header, path = fitting[0]
    member.require_free(item.numbers)
    if len(item.numbers) != len(header.shapes):
        raise MalformedRequestError(
            f"{len(item.numbers)} numbers for the {len(header.shapes)} objects of a checkpoint."
        )
    _require_size(session, header)
    with Files(session.host.identity).open(path) as (_, contents):
        shares = [_share(session, path, shape, contents) for shape in header.shapes]
        if contents.size:
            raise damaged(path)
    labels = [_label(kept) for kept in header.labels]
    for number, share, label in zip(item.numbers, shares, labels, strict=True):
        member.put(number, share)
        session.book.enter(number, label)
    return Loaded(header.structure, header.shapes)


def _require_size(session: HostedSession, header: Header) -> None:
    limits = session.host.node.limits
    sizes = [8 * math.prod(shape) for shape in header.shapes]
    if max(sizes, default=0) > limits.object_bytes or sum(sizes) > limits.store_bytes:
        raise CheckpointError(
            f"The checkpoint {header.name!r} holds {sum(sizes)} bytes, {max(sizes)} in one object; "
            f"{session.host.identity.id} takes {limits.store_bytes} and {limits.object_bytes}. Raise its limits."
        )


def _share(session: HostedSession, path: Path, shape: list[int], contents: Contents) -> Elements:
    if session.rank >= session.document.parties:
        return torch.empty(shape, dtype=torch.int64, device="meta")
    size = math.prod(shape) * session.ring.element_bytes
    if size > contents.size:
        raise damaged(path)
    memory = np.empty(size, np.uint8).data
    contents.read_into(memory)
    return frames.decode_field(Form(RING, tuple(shape)), memory, session.ring)


@handles(Prune)
def _prune(session: HostedSession, member: Member, item: Prune) -> Synced:
    for header, path in list(_own(session, item.name, [])):
        if header.id in item.checkpoints:
            remove(path)
    return Synced()
