"""A client's part in a round of masks, between two messages.

Flower runs each message in a process of its own if need be, and keeps what a client must remember in the context of its
node, which does not leave the node. Every step is entered in the ledger before it is done: who sends a step twice, or
to a node with an old context, gets one answer.
"""

from __future__ import annotations

import msgspec

from sharetorch.fl.masking.client import Client
from sharetorch.fl.masking.enrolment import Enrolment, Signer
from sharetorch.fl.masking.keys import KeyPair
from sharetorch.fl.masking.ledger import Ledger
from sharetorch.fl.masking.messages import Advertise, Opening
from sharetorch.fl.masking.rounds import Round, Step
from sharetorch.mpc.network.identity import Peer


class _State(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a client remembers; holds secrets."""

    step: str
    opening: Opening
    secrets: list[bytes]
    advertised: list[Advertise]
    received: dict[int, bytes]
    survivors: list[int]

    def __repr__(self) -> str:
        return f"_State({self.step})"


class PausedClient(Client):
    """A ``Client`` that can be written down between two steps, and each of whose steps is done once."""

    def saved(self) -> bytes:
        """What it remembers, for its own node only."""
        own = self.step in (Step.SHARE, Step.MASK)
        return msgspec.msgpack.encode(
            _State(
                self.step.value,
                self._round.opening,
                [self._mask_pair.secret, self._share_pair.secret, self._seed] if own else [],
                list(self._advertised.values()),
                self._received,
                sorted(self._survivors),
            )
        )

    @classmethod
    def resumed(cls, data: bytes, identity: Signer, ledger: Ledger) -> PausedClient:
        """The client that was written down.

        Args:
            data: what ``saved`` gave.
            identity: who signs for it.
            ledger: the rounds and steps it has taken part in.
        """
        state = msgspec.msgpack.decode(data, type=_State)
        made = Round(state.opening)
        publics = {member.id: member.public for member in made.document.members}
        client = cls(identity, Enrolment(publics, Peer("convener", b"")), ledger)
        client.step = Step(state.step)
        client._round, client._number = made, made.numbers[identity.id]
        client._neighbours = made.graph.neighbours(client._number)
        client._advertised = {entry.member: entry for entry in state.advertised}
        client._received = state.received
        client._survivors = frozenset(state.survivors)
        if state.secrets:
            client._mask_pair, client._share_pair = KeyPair(state.secrets[0]), KeyPair(state.secrets[1])
            client._seed = state.secrets[2]
        return client

    @property
    def round(self) -> Round:
        """What all members agree on."""
        return self._round

    def enter(self, step: Step) -> None:
        """Enter a step in the ledger.

        Raises:
            RoundReusedError: it was done before.
        """
        self._ledger.begin(self._round.document.round + step.value.encode())
