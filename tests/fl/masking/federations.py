"""Federations whose secrets replay a seed, and rounds that tests drive step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sharetorch.fl.masking import Aggregate, Client, Limits, Parameters, Server, Trust
from sharetorch.fl.masking.messages import (
    Advertise,
    Agreement,
    Deliveries,
    Keys,
    Masked,
    Opening,
    Reveal,
    Shares,
    Survivors,
    Unmask,
)
from sharetorch.fl.masking.rounds import Round
from sharetorch.fl.masking.simulation import Federation, Update
from sharetorch.mpc.randomness import Stream

ALONE = Trust(dropout=0.0, corrupt=0.0)
"""Nobody works with the server, which may do as it likes."""
INTEGERS = Limits(value=1 << 40, weight=1000, fraction_bits=0)


def replayed(seed: int) -> Callable[[int], bytes]:
    """Entropy that is the same in every run of a test."""
    stream = Stream(seed.to_bytes(16, "big"))
    return lambda count: stream.bytes(count).tobytes()


def federation(members: int, trust: Trust = ALONE, seed: int = 0) -> Federation:
    return Federation([f"client{number:02d}" for number in range(members)], trust, replayed(seed))


def updates_of(ids: Iterable[str], length: int, seed: int = 1) -> dict[str, Update]:
    """Integers of up to 41 bits, weights of up to 1000."""
    stream = Stream(seed.to_bytes(16, "little"))
    return {
        id: (stream.words((length,)).numpy() >> 23, int(stream.below(250, 1)[0]) * 4) for id in ids
    }


def expected(updates: Mapping[str, Update], survivors: Iterable[str]) -> tuple[list[int], int]:
    """The weighted sum in Python's integers."""
    total: list[int] = []
    weight = 0
    for id in survivors:
        values = [int(value) * updates[id][1] for value in updates[id][0]]
        total = [one + other for one, other in zip(total, values, strict=True)] if total else values
        weight += updates[id][1]
    return total, weight


def require_exact(found: Aggregate, updates: Mapping[str, Update], survivors: Iterable[str]) -> None:
    total, weight = expected(updates, survivors)
    assert (found.total.tolist(), found.weight) == (total, weight)
    assert found.survivors == tuple(sorted(survivors))


@dataclass
class Run:
    """One round, a step at a time; ``without`` names clients whose message is lost."""

    federation: Federation
    opening: Opening
    updates: Mapping[str, Update]
    clients: dict[str, Client] = field(default_factory=dict)
    advertised: dict[str, Advertise] = field(default_factory=dict)
    keys: dict[str, Keys] = field(default_factory=dict)
    shares: dict[str, Shares] = field(default_factory=dict)
    deliveries: dict[str, Deliveries] = field(default_factory=dict)
    masked: dict[str, Masked] = field(default_factory=dict)
    survivors: dict[str, Survivors] = field(default_factory=dict)
    agreements: dict[str, Agreement] = field(default_factory=dict)
    requests: dict[str, Unmask] = field(default_factory=dict)
    reveals: dict[str, Reveal] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clients = self.federation.clients()
        self.server = Server(self.opening, self.federation.enrolment)
        self.round = Round(self.opening)

    def advertise(self, without: Iterable[str] = ()) -> Run:
        self.advertised = {id: client.advertise(self.opening) for id, client in self.clients.items()}
        for id in self.advertised.keys() - {*without}:
            self.server.on_advertise(id, self.advertised[id])
        self.keys = self.server.keys()
        return self

    def share(self, without: Iterable[str] = ()) -> Run:
        self.shares = {id: self.clients[id].share(message) for id, message in self.keys.items()}
        for id in self.shares.keys() - {*without}:
            self.server.on_shares(id, self.shares[id])
        self.deliveries = self.server.deliveries()
        return self

    def mask(self, without: Iterable[str] = ()) -> Run:
        sent = self.deliveries.items()
        self.masked = {id: self.clients[id].mask(message, *self.updates[id]) for id, message in sent}
        for id in self.masked.keys() - {*without}:
            self.server.on_masked(id, self.masked[id])
        self.survivors = self.server.survivors()
        return self

    def agree(self, without: Iterable[str] = ()) -> Run:
        self.agreements = {id: self.clients[id].agree(message) for id, message in self.survivors.items()}
        for id in self.agreements.keys() - {*without}:
            self.server.on_agreement(id, self.agreements[id])
        self.requests = self.server.unmask()
        return self

    def reveal(self, without: Iterable[str] = ()) -> Aggregate:
        self.reveals = {id: self.clients[id].reveal(message) for id, message in self.requests.items()}
        for id in self.reveals.keys() - {*without}:
            self.server.on_reveal(id, self.reveals[id])
        return self.server.result()


def begun(
    members: int = 5, length: int = 3, parameters: Parameters | None = None, seed: int = 0, trust: Trust = ALONE
) -> Run:
    """A round that is about to begin."""
    found = federation(members, trust, seed)
    opening = found.convene(length, INTEGERS, parameters)
    return Run(found, opening, updates_of(found.identities, length, seed + 1))


def words(message: Masked) -> NDArray[np.uint64]:
    """The masked vector in a message."""
    return np.frombuffer(message.words, "<u8")
