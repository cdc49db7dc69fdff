"""One attempt at a round: clients train, and those who have are summed under masks.

Training comes first and the keys of the masks afterwards: whoever is lost while training, which takes long, costs the
sum nothing. A step of the sum is over when all have answered who are still there, or when its time is up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sharetorch.fl.deployment.errors import MisbehaviourError, TooFewClientsError
from sharetorch.fl.deployment.hall import Hall, Visitor
from sharetorch.fl.deployment.messages import FromClient, Gathering, Left, Train, Trained
from sharetorch.fl.masking import Aggregate, Enrolment, Limits, Parameters, Server, Trust, convene
from sharetorch.fl.masking.bounds import required
from sharetorch.fl.masking.errors import MaskingError, OutOfTurnError
from sharetorch.fl.masking.ledger import Ledger
from sharetorch.fl.masking.messages import Advertise, Agreement, Masked, Message, Reveal, Shares, encode
from sharetorch.fl.masking.rounds import Round, Step
from sharetorch.mpc.errors import RemoteError
from sharetorch.mpc.network.identity import Identity, Peer
from sharetorch.remote.network.acceptor import Tell

_TAKES: Mapping[type[Message], Callable[[Server, str, Any], None]] = {
    Advertise: Server.on_advertise,
    Shares: Server.on_shares,
    Masked: Server.on_masked,
    Agreement: Server.on_agreement,
    Reveal: Server.on_reveal,
}

_MOST_LATE = 8


class Attempt:
    """One attempt at a round.

    Args:
        hall: where the clients are.
        clients: who is asked.
        round: its number.
        number: of the attempt.
        tell: hears what happens.

    Attributes:
        left_out: why clients are not in the sum, by id.
    """

    def __init__(self, hall: Hall, clients: Sequence[Visitor], round: int, number: int, tell: Tell) -> None:
        self._hall, self._clients, self._tell = hall, {each.id: each for each in clients}, tell
        self._round, self._number = round, number
        self._trained: set[str] = set()
        self._sum: Server | None = None
        self.left_out: dict[str, str] = {}

    # -------------------------------------------------------------------------------------------------------- messages

    def take(self, visitor: Visitor, message: FromClient) -> None:
        """Take a client's message; one of an earlier attempt is passed over.

        Raises:
            MisbehaviourError: it is of an attempt that has not begun, or does not hold.
        """
        if isinstance(message, Trained | Left):
            self._require_begun(visitor, message)
        if self._clients.get(visitor.id) is not visitor:
            return
        if isinstance(message, Trained):
            if (message.round, message.attempt) == (self._round, self._number):
                self._trained.add(visitor.id)
                visitor.late = 0
        elif isinstance(message, Left):
            if (message.round, message.attempt) == (self._round, self._number):
                self._leave(visitor.id, f"it left: {message.reason}")
        elif self._sum is not None:
            self._take_part(self._sum, visitor, message)

    def lost(self, visitor: Visitor) -> None:
        """A client's connection has ended."""
        if self._clients.get(visitor.id) is visitor:
            self._leave(visitor.id, "its connection ended")

    def _leave(self, id: str, why: str) -> None:
        if id not in self.left_out:
            self.left_out[id] = why
            self._tell("info", "client out of the round", client=id, round=self._round, reason=why)

    def _require_begun(self, visitor: Visitor, message: Trained | Left) -> None:
        named, now = (message.round, message.attempt), (self._round, self._number)
        if named > now or (named == now and visitor.id not in self._clients):
            raise MisbehaviourError(
                f"{visitor.id} answers for attempt {named[1]} at round {named[0]}, for which it was not asked; this is "
                f"attempt {now[1]} at round {now[0]}."
            )

    def _take_part(self, server: Server, visitor: Visitor, message: Message) -> None:
        try:
            _TAKES[type(message)](server, visitor.id, message)
            self._tell("debug", "step taken", client=visitor.id, step=type(message).__name__.lower())
        except OutOfTurnError as error:
            visitor.late += 1
            if visitor.late > _MOST_LATE:
                raise MisbehaviourError(f"{visitor.late} messages in a row did not belong where they came.") from error
            self._tell("info", "message too late", client=visitor.id, step=type(message).__name__.lower())
        except (MaskingError, RemoteError) as error:
            raise MisbehaviourError(f"{type(error).__name__}: {error}") from error

    # --------------------------------------------------------------------------------------------------------- course

    async def train(self, tensors: bytes, seconds: float) -> None:
        """Let the clients train, and wait for them."""
        order = encode(Train(self._round, self._number, tensors))
        for visitor in self._clients.values():
            visitor.busy = (self._round, self._number)
            visitor.line.send_encoded(order)
        await self._all_have(lambda: self._clients.keys() - self._trained, "training", seconds)

    async def total(
        self, identity: Identity, ledger: Ledger, length: int, limits: Limits, least: int, trust: Trust, seconds: float
    ) -> Aggregate:
        """Sum the updates of those who have trained.

        Args:
            identity: of the server, which convenes the sum.
            ledger: of the sums it has convened.
            length: coordinates of an update.
            limits: of a client's update.
            least: clients in the sum, at least.
            trust: what the clients assume, as far as the server knows.
            seconds: for each step.

        Raises:
            TooFewClientsError: fewer have trained.
            TooFewSurvivorsError: fewer are left.
            ForgedMessageError: clients did not keep to the protocol.
        """
        members = {id: self._clients[id] for id in sorted(self._trained - self.left_out.keys())}
        if len(members) < least:
            reasons = "; ".join(f"{id}: {why}" for id, why in sorted(self.left_out.items()))
            raise TooFewClientsError(
                f"{len(members)} of {len(self._clients)} clients have trained for round {self._round}, and a sum needs "
                f"{least}. Left out: {reasons or 'nobody'}."
            )
        keys = {id: visitor.peer.public for id, visitor in members.items()}
        safe = required(len(members), len(members) - 1, trust)
        parameters = Parameters(len(members) - 1, max(safe.threshold, least - 1), 0)
        opening = convene(identity, keys, length, limits, parameters=parameters)
        ledger.begin(Round(opening).document.round)
        server = Server(opening, Enrolment(keys, Peer(identity.id, identity.public)))
        certificates = [visitor.certificate for visitor in members.values()]
        gathering = Gathering(self._round, self._number, certificates, opening)
        return await self._run(server, {id: gathering for id in members}, seconds)

    async def _run(self, server: Server, messages: Mapping[str, Message], seconds: float) -> Aggregate:
        self._sum = server
        try:
            for following in (server.keys, server.deliveries, server.survivors, server.unmask):
                await self._step(server, messages, seconds)
                messages = following()
            await self._step(server, messages, seconds)
        finally:
            self._sum = None
        found = await asyncio.to_thread(server.result)
        for id in self._trained - set(found.survivors):
            self._leave(id, "it is not in the sum")
        for id in found.survivors:
            self.left_out.pop(id, None)
        return found

    async def _step(self, server: Server, messages: Mapping[str, Message], seconds: float) -> None:
        step: Step = server.step
        self._tell("debug", "step", round=self._round, attempt=self._number, step=step.value, clients=len(messages))
        for id, message in messages.items():
            self._clients[id].line.send(message)
        await self._all_have(lambda: server.missing, f"the step {step.value}", seconds)

    async def _all_have(self, missing: Callable[[], Any], what: str, seconds: float) -> None:
        """Wait until nobody is missing but those who have left; the others are late, and left out."""

        def waited_for() -> list[str]:
            return [id for id in missing() if id not in self.left_out]

        await self._hall.wait(lambda: not waited_for(), seconds)
        for id in waited_for():
            self._leave(id, f"no answer within {seconds:g} s in {what}")
