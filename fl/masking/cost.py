"""Bytes of a round, as ``messages.payload`` counts them.

A client with k1 neighbours that advertised keys, k2 that shared, k3 that survive and k4 that agreed, in a round of n
members with k neighbours each and L words (the weight included):

    up      196 + (32 + 86 k1) + (96 + 8 L + ceil(k / 8)) + 96 + (32 + 37 k2)
    down    document + 64, 32 + 196 k1, 32 + 86 k2, 32 + ceil(n / 8) + k3 (68 + ceil(k / 8)), 32 + 4 k2 + 68 k4
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from sharetorch.fl.masking.messages import (
    BOX_BYTES,
    HASH_BYTES,
    KEY_BYTES,
    NUMBER_BYTES,
    SHARE_BYTES,
    SIGNATURE_BYTES,
    WORD_BYTES,
)
from sharetorch.fl.masking.rounds import Round

_KEYS = HASH_BYTES + NUMBER_BYTES + 2 * KEY_BYTES + HASH_BYTES + SIGNATURE_BYTES
_BOX = NUMBER_BYTES + BOX_BYTES
_SIGNED = NUMBER_BYTES + SIGNATURE_BYTES


class Bytes(NamedTuple):
    """Payload of messages, by direction as the client sees it."""

    up: int
    down: int


class Course(NamedTuple):
    """Whose message of each step reached the server."""

    advertised: Collection[int]
    shared: Collection[int]
    masked: Collection[int]
    agreed: Collection[int]
    revealed: Collection[int]


def everybody(round: Round) -> Course:
    """The course of a round in which nobody drops out."""
    members = frozenset(range(len(round.ids)))
    return Course(members, members, members, members, members)


def client_cost(round: Round, number: int, course: Course) -> Bytes:
    """What one client sends that arrives, and what it is sent."""
    members, degree = len(round.ids), round.parameters.degree
    near = frozenset(round.graph.neighbours(number))
    k1, k2, k3, k4 = (len(near & frozenset(each)) for each in course[:4])
    bits = -(-degree // 8)
    asked = number in course.agreed and k4 >= round.parameters.threshold
    up = down = 0
    down += len(round.opening.document) + SIGNATURE_BYTES
    if number in course.advertised:
        up, down = up + _KEYS, down + HASH_BYTES + _KEYS * k1
    if number in course.shared:
        up, down = up + HASH_BYTES + _BOX * k1, down + HASH_BYTES + _BOX * k2
    if number in course.masked:
        up += HASH_BYTES + WORD_BYTES * round.document.length + bits + SIGNATURE_BYTES
        down += HASH_BYTES + -(-members // 8) + k3 * (_SIGNED + bits)
    if number in course.agreed:
        up += HASH_BYTES + SIGNATURE_BYTES
    if asked:
        down += HASH_BYTES + NUMBER_BYTES * k2 + _SIGNED * k4
    if number in course.revealed:
        up += HASH_BYTES + (NUMBER_BYTES + SHARE_BYTES) * k2
    return Bytes(up, down)


def server_cost(round: Round, course: Course) -> Bytes:
    """What all clients together send that arrives, and are sent."""
    return _sum(client_cost(round, number, course) for number in range(len(round.ids)))


def _sum(costs: Iterable[Bytes]) -> Bytes:
    found = list(costs)
    return Bytes(sum(each.up for each in found), sum(each.down for each in found))
