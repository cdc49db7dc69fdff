"""Frames: how a message travels from one member to another, inside their TLS connection.

A frame is a header of 64 bytes, little-endian, a table of the fields, and the fields one after the other:

bytes   header
4       "STF1"
1       version, 1
1       kind: 1 data, 2 heartbeat, 3 abort
1       number of fields
1       0
8       first bytes of the session id
1, 1    ranks of sender and receiver
2       round: length of the chain of online messages that ends in this one, at most 65535; 0 for offline messages
4       CRC-32 of the label
8       sequence number, from 0, counting every frame of this direction
8       number of the operation
8       bytes after the header
16      tag: BLAKE2s, keyed for this direction of this session, over the 48 bytes above and the table

The table has for each field its kind (1 ring elements, 2 bytes, 3 words of 64 bits), its number of dimensions (one byte
each), and the dimensions (8 bytes each). The receiver knows the table before it arrives: it is computed from the
program both run, and a frame whose length or table differs is refused before memory is taken for it.

TLS protects the contents on their way; the tag makes that a frame fits one place of one session only.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sharetorch.mpc.channel import BYTES, RING, WORDS, Form, Payload, form_of
from sharetorch.mpc.errors import FrameError
from sharetorch.mpc.ring import Ring, WideElements, WideField

MAGIC = b"STF1"
VERSION = 1
DATA, BEAT, ABORT = 1, 2, 3
HEADER = struct.Struct("<4sBBBB8sBBHIQQQ16s")
HEADER_BYTES = HEADER.size
TAG_BYTES = 16
MAX_DIMENSIONS = 8
MAX_FIELDS = 16
MAX_ROUND = (1 << 16) - 1
"""What a header says of longer chains."""
MAX_NOTE = 1024
"""Bytes an abort frame may carry after its header."""

RECORD_BYTES = 1 << 14
"""What one record of TLS carries."""

_SIGNED = HEADER_BYTES - TAG_BYTES
_JOINED = 1 << 15
_WIDTHS = {BYTES: 1, WORDS: 8}


class Header(NamedTuple):
    """The fields of a header, as read."""

    magic: bytes
    version: int
    kind: int
    fields: int
    zero: int
    session: bytes
    sender: int
    receiver: int
    round: int
    label: int
    sequence: int
    operation: int
    length: int
    tag: bytes


class Direction(NamedTuple):
    """One direction between two members of a session: what its frames are bound to.

    Attributes:
        key: of the tags, 32 bytes, known to these two members.
        session: id of the session.
        sender: rank.
        receiver: rank.
    """

    key: bytes
    session: bytes
    sender: int
    receiver: int

    def __repr__(self) -> str:
        return f"Direction({self.sender} -> {self.receiver})"


@lru_cache(maxsize=1024)
def label_code(label: str) -> int:
    """What stands for a label in a header."""
    return zlib.crc32(label.encode())


@lru_cache(maxsize=4096)
def table_of(forms: tuple[Form, ...]) -> bytes:
    """The table of fields of these forms."""
    if len(forms) > MAX_FIELDS or any(len(form.shape) > MAX_DIMENSIONS for form in forms):
        raise FrameError(
            f"A message of {len(forms)} fields with up to {max(len(form.shape) for form in forms)} dimensions; a frame "
            f"carries {MAX_FIELDS} of {MAX_DIMENSIONS}. Reshape the tensor."
        )
    parts = [struct.pack(f"<BB{len(shape)}Q", kind, len(shape), *shape) for kind, shape in forms]
    return b"".join(parts)


def body_bytes(forms: tuple[Form, ...], ring: Ring) -> int:
    """Bytes of the contents of fields of these forms."""
    return _body_bytes(forms, ring.element_bytes)


@lru_cache(maxsize=4096)
def _body_bytes(forms: tuple[Form, ...], width: int) -> int:
    return sum(math.prod(shape) * _WIDTHS.get(kind, width) for kind, shape in forms)


def seal(
    direction: Direction,
    kind: int,
    sequence: int,
    *,
    operation: int = 0,
    round: int = 0,
    label: str = "",
    fields: Sequence[Payload] = (),
    note: bytes = b"",
    ring: Ring | None = None,
) -> list[bytes | memoryview]:
    """A frame as buffers to be written one after the other; of large fields only what fills a record is copied."""
    table = table_of(tuple(map(form_of, fields)))
    bodies = [encode_field(part, ring) for part in fields if ring is not None]
    size = sum(len(body) for body in bodies)
    head = HEADER.pack(
        MAGIC, VERSION, kind, len(fields), 0, direction.session[:8], direction.sender, direction.receiver,
        min(round, MAX_ROUND), label_code(label), sequence, operation, len(table) + size + len(note), bytes(TAG_BYTES),
    )[:_SIGNED]  # fmt: skip
    first = head + _tag(direction, head, table) + table + note
    if size <= _JOINED:
        return [first + b"".join(bodies)]
    room = RECORD_BYTES - len(first)
    return [b"".join((first, bodies[0][:room])), *filter(len, (bodies[0][room:], *bodies[1:]))]


def _tag(direction: Direction, head: bytes, table: bytes) -> bytes:
    return hashlib.blake2s(head + table, key=direction.key, digest_size=TAG_BYTES).digest()


def read_header(data: bytes | bytearray, direction: Direction, sequence: int) -> Header:
    """The header of the next frame of a direction; the tag of a data frame is checked by ``check_data``.

    Raises:
        FrameError: it is malformed, of another session or member, repeated, or out of order.
    """
    header = Header(*HEADER.unpack(data))
    due = (MAGIC, VERSION, 0, direction.session[:8], direction.sender, direction.receiver, sequence)
    found = (
        header.magic, header.version, header.zero, header.session, header.sender, header.receiver, header.sequence
    )  # fmt: skip
    if found != due:
        names = ("magic", "version", "reserved byte", "session", "sender", "receiver", "sequence number")
        wrong = next(name for name, one, other in zip(names, found, due, strict=True) if one != other)
        raise FrameError(
            f"Member {direction.sender} sent a frame with a wrong {wrong}; it was altered, repeated or meant for "
            "another session. The session ends."
        )
    if header.kind not in (DATA, BEAT, ABORT):
        raise FrameError(f"Member {direction.sender} sent a frame of unknown kind {header.kind}. The session ends.")
    if header.kind != DATA:
        _check_note(header, data, direction)
    return header


def _check_note(header: Header, data: bytes | bytearray, direction: Direction) -> None:
    limit = MAX_NOTE if header.kind == ABORT else 0
    if header.fields or header.round or header.label or header.operation or header.length > limit:
        raise FrameError(f"Member {direction.sender} sent a malformed frame. The session ends.")
    _check_tag(header, data, b"", direction)


def check_data(
    header: Header, data: bytes | bytearray, direction: Direction, operation: int, label: str, forms: tuple[Form, ...],
    ring: Ring,
) -> bytes:  # fmt: skip
    """Check that a data frame is the one that is due, and return the table that must follow it.

    Raises:
        FrameError: it belongs to another operation or step, or its length is not that of the fields that are due.
    """
    table = table_of(forms)
    due = (operation, label_code(label), len(forms), len(table) + body_bytes(forms, ring))
    if (header.operation, header.label, header.fields, header.length) != due:
        raise FrameError(
            f"Member {direction.sender} sent {header.length} bytes in {header.fields} fields for operation "
            f"{header.operation}, where {label!r} of operation {operation} with {due[3]} bytes in {len(forms)} fields "
            "is due. The session ends."
        )
    _check_tag(header, data, table, direction)
    return table


def _check_tag(header: Header, data: bytes | bytearray, table: bytes, direction: Direction) -> None:
    if not hmac.compare_digest(header.tag, _tag(direction, bytes(data[:_SIGNED]), table)):
        raise FrameError(
            f"Member {direction.sender} sent a frame whose tag does not fit what is due: it was altered, or is of "
            "another session, or announces other shapes. The session ends."
        )


def encode_field(part: Payload, ring: Ring | None) -> bytes | memoryview:
    """The contents of a field, little-endian, in row-major order; ring elements at their ring's width."""
    if isinstance(part, np.ndarray):
        return np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
    assert ring is not None
    width = ring.element_bytes
    if isinstance(part, WideElements):
        return b"".join(int(value).to_bytes(width, "little") for value in part.array.reshape(-1))
    raw = part.contiguous().numpy().reshape(-1).view(np.uint8)
    narrow: NDArray[np.uint8] = raw if width == 8 else np.ascontiguousarray(raw.reshape(-1, 8)[:, :width]).reshape(-1)
    return narrow.data


def empty_field(form: Form, ring: Ring) -> memoryview:
    """Memory for the contents of a field."""
    size = math.prod(form.shape) * _WIDTHS.get(form.kind, ring.element_bytes)
    return np.empty(size, np.uint8).data


def decode_field(form: Form, contents: memoryview, ring: Ring) -> Payload:
    """A field from its contents; 64-bit elements stay where they are."""
    array = np.frombuffer(contents, np.uint8)
    if form.kind == BYTES:
        return array.reshape(form.shape)
    if form.kind == WORDS:
        return array.view(np.uint64).reshape(form.shape)
    width = ring.element_bytes
    if form.kind != RING:
        raise FrameError(f"There is no field of kind {form.kind}.")
    if isinstance(ring, WideField):
        raw = contents.tobytes()
        values = [int.from_bytes(raw[i : i + width], "little") for i in range(0, len(raw), width)]
        wide = np.empty(len(values), dtype=object)
        wide[:] = values
        return ring.reduce(WideElements(wide.reshape(form.shape)))
    if width == 8:
        elements = torch.from_numpy(array.view(np.int64).reshape(form.shape))
        return elements if ring.modulus == 1 << 64 else ring.reduce(elements)
    padded = np.zeros((array.size // width, 8), np.uint8)
    padded[:, :width] = array.reshape(-1, width)
    return ring.reduce(torch.from_numpy(padded.view(np.int64).reshape(form.shape)))
