"""Shares on their way to members of a session, in parts: no more than a part of each is held at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from sharetorch.mpc.network import frames
from sharetorch.mpc.randomness import fresh_stream
from sharetorch.mpc.ring import Elements, Ring
from sharetorch.mpc.share import split

_PART_ELEMENTS = 1 << 18


class Part(NamedTuple):
    """A part of all shares of a tensor.

    Attributes:
        offset: bytes of each share before it.
        contents: bytes of each party's share, by rank.
    """

    offset: int
    contents: list[bytes]


def parts_of(integers: Tensor, parties: int, ring: Ring) -> Iterator[Part]:
    """Split integers of any shape among parties, a part at a time; of an empty tensor there is one empty part."""
    return _parts(ring.linear(lambda x: x.reshape(-1), ring.from_integers(integers)), integers.numel(), parties, ring)


def _parts(flat: Elements, count: int, parties: int, ring: Ring) -> Iterator[Part]:
    stream = fresh_stream()
    for start in range(0, max(1, count), _PART_ELEMENTS):
        part = ring.linear(lambda x, a=start: x[a : a + _PART_ELEMENTS], flat)
        shares = split(part, parties, ring, stream)
        yield Part(start * ring.element_bytes, [bytes(frames.encode_field(share, ring)) for share in shares])
