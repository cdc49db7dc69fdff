"""Bit planes shared by XOR: drawn, dealt and opened, in the layout of ``kernels.bit_planes``.

Streams give planes as they come, so nothing is unpacked. Every function here is run by all members alike.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sharetorch.mpc.channel import BYTES, Form
from sharetorch.mpc.errors import CorrelationReusedError
from sharetorch.mpc.kernels import bit_planes
from sharetorch.mpc.kernels.bit_planes import NOTHING, Planes
from sharetorch.mpc.party import Party
from sharetorch.mpc.provider import OneTime

CHUNK = 64 * bit_planes.BLOCK
"""Elements whose dealt planes are drawn together, so that they are used while they are in the cache."""

Parts = tuple[Planes, Planes]
"""Planes of the full blocks, and of the last block if it is not full. The last may also lie among the first."""


def _draw(party: Party, peer: int, label: str, count: int, planes: int) -> Planes:
    words: Planes = party.stream(peer, label).bytes(8 * bit_planes.plane_words(count, planes)).view(np.uint64)
    return words


def random_planes(party: Party, label: str, count: int, planes: int) -> OneTime[Planes]:
    """XOR shares of uniform planes for so many elements. At the provider: the planes. No bytes."""
    if not party.is_provider:
        return OneTime(label, _draw(party, party.provider, label, count, planes))
    total = _draw(party, 0, label, count, planes)
    for rank in range(1, party.parties):
        np.bitwise_xor(total, _draw(party, rank, label, count, planes), out=total)
    return OneTime(label, total)


class DealtPlanes:
    """A party's XOR shares of planes the provider dealt: two groups of planes, in chunks of elements.

    Chunks are drawn or received when first asked for, in order, and nothing else may be drawn in between. The *brief*
    planes of a chunk are handed out once and forgotten, the *lasting* ones stay.
    """

    def __init__(self, party: Party, label: str, count: int, brief: int, lasting: int) -> None:
        self._party = party
        self._label = label
        self._groups = brief, lasting
        self._sizes = chunk_sizes(count)
        self._brief: dict[int, Parts] = {}
        self._lasting: list[Parts] = []

    async def brief(self, place: int) -> Parts:
        """The brief planes of a chunk.

        Raises:
            CorrelationReusedError: they were taken before.
        """
        while len(self._lasting) <= place:
            await self._next()
        if place not in self._brief:
            raise CorrelationReusedError(
                f"{self._label} were already used. A second use would reveal differences of secrets; deal new ones."
            )
        return self._brief.pop(place)

    def lasting(self, place: int) -> Parts:
        """The lasting planes of a chunk that was drawn."""
        return self._lasting[place]

    async def draw(self) -> None:
        """Draw or receive all chunks now."""
        while len(self._lasting) < len(self._sizes):
            await self._next()

    async def _next(self) -> None:
        party, place = self._party, len(self._lasting)
        count = self._sizes[place]
        if party.is_last:
            forms = [Form(BYTES, (size,)) for size in _packed_sizes(count, *self._groups)]
            packed = await party.receive(party.provider, self._label, *forms)
            held = [
                bit_planes.split_planes(part, count, group)
                for part, group in zip(packed, filter(None, self._groups), strict=True)
            ]
        else:
            held = [
                (_draw(party, party.provider, self._label, count, group), NOTHING) for group in self._groups if group
            ]
        nothing = (NOTHING, NOTHING)
        self._brief[place] = held[0] if self._groups[0] else nothing
        self._lasting.append(held[-1] if self._groups[1] else nothing)


def _packed_sizes(count: int, *groups: int) -> list[int]:
    return [bit_planes.packed_bytes(count, group) for group in groups if group]


def chunk_sizes(count: int) -> list[int]:
    """Elements of each chunk; there is always one."""
    return [min(CHUNK, count - start) for start in range(0, max(count, 1), CHUNK)]


def dealt_planes(
    party: Party, label: str, count: int, brief: int, lasting: int, correct: Callable[[Planes, Planes, int, int], None]
) -> OneTime[DealtPlanes]:
    """XOR shares of planes the provider computes, to be drawn before anything else is.

    Args:
        party: this member.
        label: what is dealt.
        count: number of elements.
        brief: number of planes that are used once.
        lasting: number of planes that stay; of both groups, those of no planes are not sent.
        correct: called at the provider only, as ``correct(brief, lasting, start, stop)`` for each chunk: adds the
            planes of these elements to what it is given, in place.

    Cost: ``dealt_bytes``, offline, from the provider to the last party.
    """
    if party.is_provider:
        start = 0
        for size in chunk_sizes(count):
            rests = _rests(party, label, size, brief, lasting)
            correct(rests[0] if brief else NOTHING, rests[-1] if lasting else NOTHING, start, start + size)
            groups = filter(None, (brief, lasting))
            packed = [bit_planes.pack_planes(rest, size, group) for rest, group in zip(rests, groups, strict=True)]
            party.send(party.parties - 1, label, *packed, offline=True)
            start += size
    return OneTime(label, DealtPlanes(party, label, count, brief, lasting))


def _rests(party: Party, label: str, count: int, *groups: int) -> list[Planes]:
    """The XOR of all shares but the last party's, group by group."""
    rests = [_draw(party, 0, label, count, group) for group in groups if group]
    for rank in range(1, party.parties - 1):
        for rest, group in zip(rests, filter(None, groups), strict=True):
            np.bitwise_xor(rest, _draw(party, rank, label, count, group), out=rest)
    return rests


async def drawn_planes(
    party: Party, label: str, count: int, brief: int, lasting: int, correct: Callable[[Planes, Planes, int, int], None]
) -> OneTime[DealtPlanes]:
    """As ``dealt_planes``, all of them drawn, so that anything may be drawn afterwards."""
    dealt = dealt_planes(party, label, count, brief, lasting, correct)
    if party.is_provider:
        return dealt
    held = dealt.take()
    await held.draw()
    return OneTime(label, held)


def dealt_bytes(count: int, brief: int, lasting: int) -> int:
    """Declared size of what the provider sends: bits, each group to whole bytes."""
    return sum(_packed_sizes(count, brief, lasting))


async def open_planes(party: Party, label: str, own: Planes, count: int, planes: int) -> Planes:
    """Reveal XOR-shared planes to all parties; ``own`` is given up.

    Cost: 1 round; one bit for each plane of each element (packed) to each other party.
    """
    packed = bit_planes.pack_planes(own, count, planes)
    total = np.empty_like(own)
    seen = total.view(np.uint8)[: packed.size]
    for place, (other,) in enumerate(await party.exchange(label, packed)):
        np.bitwise_xor(seen if place else packed, other, out=seen)
    bit_planes.unpack_planes(total, count, planes)
    return total


def opened_bytes(count: int, planes: int) -> int:
    """Declared size of one opening at each party, for each other party."""
    return bit_planes.packed_bytes(count, planes)
