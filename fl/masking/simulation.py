"""A round in one process: every message is encoded, counted and decoded, and may be lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.fl.masking import messages
from sharetorch.fl.masking.bounds import Parameters, Trust
from sharetorch.fl.masking.client import Client
from sharetorch.fl.masking.encoding import Aggregate, Limits
from sharetorch.fl.masking.enrolment import Enrolment
from sharetorch.fl.masking.ledger import Ledger, MemoryLedger
from sharetorch.fl.masking.messages import Message
from sharetorch.fl.masking.rounds import Round, Step, convene
from sharetorch.fl.masking.server import Server
from sharetorch.mpc.errors import ShareTorchError
from sharetorch.mpc.network.identity import Identity, Peer
from sharetorch.mpc.randomness import SECRET_BYTES, Entropy, system_entropy

Update = tuple[Tensor | NDArray[Any], int]
"""An update and its weight."""
Lost = Callable[[Step, str], bool]
"""Whether a client's message of a step is lost; it takes no further part."""
A = TypeVar("A", bound=Message)


@dataclass
class Outcome:
    """A round that has run.

    Attributes:
        aggregate: its result.
        refused: why clients left it, by id.
        up: payload of what clients sent that arrived, by id.
        down: payload of what they were sent.
        encoded: bytes of all messages with MessagePack's heads.
    """

    aggregate: Aggregate
    refused: dict[str, ShareTorchError]
    up: Counter[str]
    down: Counter[str]
    encoded: int


@dataclass
class _Wire:
    """Carries messages as bytes."""

    round: Round
    up: Counter[str] = field(default_factory=Counter)
    down: Counter[str] = field(default_factory=Counter)
    encoded: int = 0

    def carry(self, message: A, count: Counter[str], id: str) -> A:
        """A message at its receiver."""
        data = messages.encode(message)
        count[id] += messages.payload(message)
        self.encoded += len(data)
        document = self.round.document
        limit = messages.largest(type(message), len(document.members), document.degree, document.length)
        return messages.decode(data, type(message), limit)


class Federation:
    """Clients and a convener whose keys live in this process.

    Args:
        ids: of the clients.
        trust: what each client assumes of the others.
        entropy: where all secrets come from.
    """

    def __init__(self, ids: Iterable[str], trust: Trust | None = None, entropy: Entropy = system_entropy) -> None:
        self.identities = {id: _identity(id, entropy) for id in ids}
        self.convener = _identity("convener", entropy)
        self.trust = Trust() if trust is None else trust
        self.entropy = entropy
        self.ledgers: dict[str, Ledger] = {id: MemoryLedger() for id in self.identities}
        publics = {id: identity.public for id, identity in self.identities.items()}
        self.enrolment = Enrolment(publics, Peer(self.convener.id, self.convener.public))

    def convene(self, length: int, limits: Limits, parameters: Parameters | None = None) -> messages.Opening:
        """The signed document of a new round."""
        return convene(
            self.convener, self.enrolment.clients, length, limits,
            parameters=parameters, trust=self.trust, entropy=self.entropy,
        )  # fmt: skip

    def clients(self) -> dict[str, Client]:
        """State machines for one round."""
        return {
            id: Client(identity, self.enrolment, self.ledgers[id], self.trust, self.entropy)
            for id, identity in self.identities.items()
        }


def aggregate(
    federation: Federation,
    opening: messages.Opening,
    updates: Mapping[str, Update],
    lost: Lost = lambda step, id: False,
    clients: Mapping[str, Client] | None = None,
) -> Outcome:
    """Run a round.

    Args:
        federation: its members.
        opening: its document.
        updates: of the clients, by id.
        lost: which messages are lost.
        clients: their state machines; fresh ones by default.

    Returns:
        The exact sum over those whose masked vector arrived.

    Raises:
        TooFewSurvivorsError: too few clients were left.
        ForgedMessageError: clients did not keep to the protocol.
    """
    server, wire = Server(opening, federation.enrolment), _Wire(Round(opening))
    there = dict(federation.clients() if clients is None else clients)
    refused: dict[str, ShareTorchError] = {}

    def step(
        which: Step, sent: Mapping[str, A], answer: Callable[[str, A], Message], take: Callable[[str, Any], None]
    ) -> None:
        for id, message in sent.items():
            try:
                answered = answer(id, wire.carry(message, wire.down, id))
                if not lost(which, id):
                    take(id, wire.carry(answered, wire.up, id))
            except ShareTorchError as error:
                refused[id] = error

    every = {id: opening for id in wire.round.ids}
    step(Step.ADVERTISE, every, lambda id, message: there[id].advertise(message), server.on_advertise)
    step(Step.SHARE, server.keys(), lambda id, message: there[id].share(message), server.on_shares)
    step(Step.MASK, server.deliveries(), lambda id, message: there[id].mask(message, *updates[id]), server.on_masked)
    step(Step.AGREE, server.survivors(), lambda id, message: there[id].agree(message), server.on_agreement)
    step(Step.REVEAL, server.unmask(), lambda id, message: there[id].reveal(message), server.on_reveal)
    return Outcome(server.result(), refused, wire.up, wire.down, wire.encoded)


def _identity(id: str, entropy: Entropy) -> Identity:
    """An identity without files: it signs, and makes no connections."""
    key = Ed25519PrivateKey.from_private_bytes(entropy(SECRET_BYTES))
    return Identity(Path(), id, key, datetime.max.replace(tzinfo=UTC))
