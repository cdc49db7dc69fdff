"""A client of a federation: connects to the server, trains when it is asked to, and gives its update under masks only.

What the server asks for is checked before anything is done: the task against what the client allows, the members of a
sum against the group's authority, every step of a sum by the rules of ``fl/masking``. A request that could show more
than a sum of enough clients ends the client with an error. If the server cannot be reached it is tried again and again.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from torch import nn

from sharetorch.fl.datasets import BaseDataset
from sharetorch.fl.deployment import models
from sharetorch.fl.deployment.errors import BY_NAME, MisbehaviourError, TaskRefusedError
from sharetorch.fl.deployment.lines import Line, passing, reach
from sharetorch.fl.deployment.messages import (
    GRAPH_BYTES,
    VERSION,
    Finished,
    FromServer,
    Gathering,
    Hello,
    Left,
    Ready,
    Refused,
    Task,
    Train,
    Trained,
    read_from_server,
)
from sharetorch.fl.deployment.roll import Authority, Roll
from sharetorch.fl.deployment.storage import Storage
from sharetorch.fl.deployment.tasks import Allowance
from sharetorch.fl.deployment.training import Result, Trainee
from sharetorch.fl.masking import Client, Enrolment, RequestRefusedError, RoundReusedError, Trust
from sharetorch.fl.masking.messages import Deliveries, Keys, Message, Survivors, Unmask, unpacked
from sharetorch.fl.masking.rounds import Round
from sharetorch.fl.rounds.threads import Busy
from sharetorch.mpc.errors import ConfigurationError, ConnectionLostError, DeadlineExceededError, ShareTorchError
from sharetorch.mpc.network.identity import Identity, Peer, check_id
from sharetorch.remote.network.acceptor import Tell, silent
from sharetorch.remote.network.settings import Address, NetworkSettings

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 30.0
_MOST_WAITING = 16
"""Messages that a server may send before the first of them is answered."""
_FATAL = (RequestRefusedError, RoundReusedError, TaskRefusedError, MisbehaviourError, ConfigurationError)
"""No server that keeps to the protocol causes these, unless files of the client are at fault: it goes no further."""


@dataclass(frozen=True)
class Joining:
    """Where a client goes, and what it relies on.

    Attributes:
        server: host and port of the server.
        server_id: the id its certificate must have.
        authority: file of the certificate of the group's authority.
        state: folder for the ledger of rounds.
        enrolled: folder or file that lists the clients it takes part with, see ``Roll``; whoever the authority has
            signed for if None.
        patience: seconds after which it gives up a server that cannot be reached.
    """

    server: str
    server_id: str
    authority: Path | str
    state: Path | str
    enrolled: Path | str | None = None
    patience: float = 600.0


class Outcome(NamedTuple):
    """What a client has in the end.

    Attributes:
        model: the final global model; one that came as graphs has its tensors alone.
        rounds: of the federation.
        summed: rounds in which this client gave its update.
    """

    model: nn.Module
    rounds: int
    summed: int


async def join(
    joining: Joining,
    identity: Identity,
    dataset: BaseDataset,
    allowance: Allowance | None = None,
    network: NetworkSettings | None = None,
    tell: Tell = silent,
) -> Outcome:
    """Take part in a federation until it is over.

    Args:
        joining: where.
        identity: the client's keys.
        dataset: its items, in memory; they do not leave it.
        allowance: what may be done with them.
        network: deadlines and limits of connections.
        tell: hears events.

    Raises:
        EnrolmentRefusedError: the server does not list this client.
        TaskRefusedError: it asks for more than is allowed.
        FederatedDataError: the data do not fit the model.
        RequestRefusedError: it asked for what could show this client's update.
        RoundReusedError: it began a sum a second time.
        MisbehaviourError: one side finds that the other does not keep to the protocol.
        ReplacedError: another program has connected with this client's certificate.
        NetworkError: the server refuses the certificate, is another member, or cannot be reached for too long.
        ConfigurationError: a file that the client relies on is missing or wrong.
    """
    storage = Storage(joining.state)
    with storage.held():
        return await _Guest(joining, identity, dataset, allowance or Allowance(), storage, network, tell).run()


class _Guest:
    """A client while it takes part."""

    def __init__(
        self,
        joining: Joining,
        identity: Identity,
        dataset: BaseDataset,
        allowance: Allowance,
        storage: Storage,
        network: NetworkSettings | None,
        tell: Tell,
    ) -> None:
        self._joining, self._identity, self._dataset = joining, identity, dataset
        self._allowance, self._storage, self._tell = allowance, storage, tell
        check_id(joining.server_id)
        self._address = Address.parse(joining.server)
        self._authority = Authority(joining.authority)
        self._roll = None if joining.enrolled is None else Roll(joining.enrolled, self._authority)
        if self._roll is not None:
            self._roll.read()
        base = network or NetworkSettings()
        most = allowance.bytes + GRAPH_BYTES
        self._network = msgspec.structs.replace(base, max_message_bytes=most, queue_bytes=max(base.queue_bytes, most))
        self._trust = Trust(corrupt=allowance.corrupt, fewest=allowance.least)
        self._busy = Busy()
        self._heard = time.monotonic()
        self._summed = 0

    async def run(self) -> Outcome:
        """Connect, again and again, until the federation is over."""
        tries = 0
        while True:
            before = self._heard
            try:
                return await self._visit()
            except (ShareTorchError, OSError) as error:
                if not isinstance(error, ShareTorchError) or not passing(error):
                    raise
                silent_for = time.monotonic() - self._heard
                if silent_for > self._joining.patience:
                    raise
                tries = 0 if self._heard > before else tries + 1
                pause = self._pause(tries)
                self._tell("warning", "server lost", reason=str(error), again_in=round(pause, 2))
                await asyncio.sleep(pause)

    def _pause(self, tries: int) -> float:
        """Longer each time, and not the same for all clients, who lose a server at the same moment."""
        share = 0.5 + zlib.crc32(f"{self._identity.id} {tries}".encode()) / (1 << 33)
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**tries) * share

    async def _visit(self) -> Outcome:
        websocket, peer = await reach(self._identity, self._address, self._joining.server_id, self._network)
        inbox: asyncio.Queue[FromServer | Exception] = asyncio.Queue()

        def take(line: Line, message: FromServer | Exception) -> None:
            if inbox.qsize() > _MOST_WAITING:
                line.close()
            else:
                inbox.put_nowait(message)

        line = Line(websocket, peer, self._network, read_from_server, take, take).start()
        try:
            line.send(Hello(VERSION, self._identity.id))
            self._tell("info", "connected", server=peer.id, address=str(self._address))
            return await _Stay(self, line, inbox).run()
        finally:
            line.close()


class _Stay:
    """One connection, from the greeting to its end."""

    def __init__(self, guest: _Guest, line: Line, inbox: asyncio.Queue[FromServer | Exception]) -> None:
        self._guest, self._line, self._inbox = guest, line, inbox
        self._tell = guest._tell
        self._trainee: Trainee
        self._now = (0, 0)
        self._result: Result | None = None
        self._part: Client | None = None
        self._round: Round

    async def run(self) -> Outcome:
        """Serve the server."""
        seconds = self._guest._network.connect_seconds
        try:
            async with asyncio.timeout(seconds):
                task = await self._next()
        except TimeoutError as error:
            raise DeadlineExceededError(f"{self._line.peer.id} sent no task within {seconds:g} s.") from error
        if not isinstance(task, Task):
            raise MisbehaviourError(f"{self._line.peer.id} sent {type(task).__name__} in place of a task.")
        await self._take_on(task)
        while True:
            message = await self._next()
            if isinstance(message, Finished):
                return self._outcome(message)
            await self._serve(message)

    async def _next(self) -> FromServer:
        """The next message.

        Raises:
            DeploymentError: the server turns this client away.
            NetworkError: the connection has ended.
        """
        message = await self._inbox.get()
        if isinstance(message, Exception):
            if isinstance(message, ShareTorchError) and passing(message):
                raise message
            raise ConnectionLostError(f"The connection with {self._line.peer.id} has ended: {message}") from message
        self._guest._heard = time.monotonic()
        if isinstance(message, Refused):
            text = "".join(sign if sign.isprintable() else " " for sign in message.text)
            raise BY_NAME.get(message.kind, MisbehaviourError)(text)
        return message

    async def _take_on(self, task: Task) -> None:
        guest = self._guest
        try:
            make = partial(Trainee, task, guest._allowance, guest._dataset, guest._identity.id)
            self._trainee = await guest._busy.run("task", make)
        except ShareTorchError as error:
            self._line.send(Left(0, 0, type(error).__name__))
            raise
        self._line.send(Ready())
        self._tell("info", "task taken", model=task.model or "graphs", epochs=task.settings.epochs)

    def _outcome(self, message: Finished) -> Outcome:
        models.unpack(self._trainee.model, message.tensors)
        self._tell("info", "finished", rounds=message.rounds, summed=self._guest._summed)
        return Outcome(self._trainee.model, message.rounds, self._guest._summed)

    # ---------------------------------------------------------------------------------------------------------- rounds

    async def _serve(self, message: FromServer) -> None:
        """Do what a message asks for; what fails for no fault of the server's costs this attempt only."""
        try:
            if isinstance(message, Train):
                await self._train(message)
            elif isinstance(message, Gathering):
                self._gather(message)
            elif isinstance(message, Keys | Deliveries | Survivors | Unmask):
                await self._step(message)
            else:
                raise MisbehaviourError(f"{self._line.peer.id} sent {type(message).__name__} for a second time.")
        except Exception as error:
            self._forget()
            self._line.send(Left(*self._now, type(error).__name__))
            if isinstance(error, _FATAL) or (isinstance(error, ShareTorchError) and passing(error)):
                raise
            text = str(error) if isinstance(error, ShareTorchError) else "its text may quote data"
            self._tell("warning", "left the round", round=self._now[0], error=type(error).__name__, reason=text)

    def _forget(self) -> None:
        self._result = self._part = None

    async def _train(self, order: Train) -> None:
        self._forget()
        self._now = (order.round, order.attempt)
        self._tell("info", "training", round=order.round, attempt=order.attempt)
        self._result = await self._guest._busy.run("training", partial(self._trainee.train, order))
        self._line.send(Trained(*self._now))
        self._tell("info", "trained", round=order.round, attempt=order.attempt)

    def _gather(self, message: Gathering) -> None:
        """Begin a sum: check its members and its document against the task."""
        if self._result is None or (message.round, message.attempt) != self._now or self._part is not None:
            raise RequestRefusedError(
                f"A sum began for attempt {message.attempt} at round {message.round}, for which this client has no "
                "update that is not in a sum already. No update is given twice."
            )
        found = Round(message.opening)
        self._require_as_agreed(found)
        guest = self._guest
        enrolment = Enrolment(self._members(message, found), _convener(self._line.peer))
        self._part = Client(guest._identity, enrolment, guest._storage.ledger, guest._trust)
        self._round = found
        self._answer(self._part.advertise(message.opening))

    def _members(self, message: Gathering, found: Round) -> dict[str, bytes]:
        """Identity keys of a sum's members, for each of whom the authority vouches."""
        guest = self._guest
        listed = None if guest._roll is None else guest._roll.read()
        keys: dict[str, bytes] = {}
        for certificate in message.certificates:
            try:
                peer = guest._authority.member(certificate, "A certificate of the sum's members")
            except ConfigurationError as error:
                raise RequestRefusedError(f"{error} The server could have made that member up.") from error
            if listed is not None and listed.get(peer.id, b"") not in (None, peer.public):
                raise RequestRefusedError(
                    f"{peer.id!r} takes part in the sum, and is not among the clients that this one is enrolled with, "
                    "or with another key. Add it to the list, or leave the federation."
                )
            keys[peer.id] = peer.public
        if len(set(keys.values())) != len(keys) or sorted(keys) != sorted(found.ids):
            raise RequestRefusedError(
                f"The sum names {len(found.ids)} members and brings {len(message.certificates)} certificates of "
                f"{len(set(keys.values()))} different keys. Each member needs a certificate and a key of its own."
            )
        return keys

    def _require_as_agreed(self, found: Round) -> None:
        """The document of a sum must be that of the task, and its sum of enough clients."""
        task, document = self._trainee.task, found.document
        limits = task.fraction_bits, task.weight, self._trainee.length + 1
        if (document.fraction_bits, document.weight, document.length) != limits:
            raise RequestRefusedError("A sum began under other limits than those of the task. Nothing is given.")
        if not found.graph.complete:
            raise RequestRefusedError(
                "A sum began in which not all members have masks in common. The server drew who has; it could leave "
                "this client with accomplices only. Nothing is given."
            )
        if document.threshold + 1 < self._guest._allowance.least:
            raise RequestRefusedError(
                f"A sum began that could be one of {document.threshold + 1} clients, and this client takes part in "
                f"sums of {self._guest._allowance.least} at least. Ask whoever runs the server for a higher least "
                "number, or allow a lower one."
            )

    async def _step(self, message: Keys | Deliveries | Survivors | Unmask) -> None:
        if self._part is None or self._result is None:
            self._tell("debug", "step passed over", step=type(message).__name__.lower())
            return
        part, result = self._part, self._result
        if isinstance(message, Keys):
            self._answer(part.share(message))
        elif isinstance(message, Deliveries):
            mask = partial(part.mask, message, result.vector, result.weight)
            self._answer(await self._guest._busy.run("masks", mask))
        elif isinstance(message, Survivors):
            self._require_enough(message)
            self._answer(part.agree(message))
        else:
            self._answer(part.reveal(message))
            self._forget()
            self._guest._summed += 1

    def _require_enough(self, message: Survivors) -> None:
        count, least = sum(unpacked(message.present, len(self._round.ids))), self._guest._allowance.least
        if count < least:
            raise RequestRefusedError(
                f"A sum of {count} clients was asked for, and this client takes part in sums of {least} at least. "
                "Nothing is given."
            )

    def _answer(self, message: Message) -> None:
        self._line.send(message)
        self._tell("debug", "sent", step=type(message).__name__.lower(), round=self._now[0])


def _convener(server: Peer) -> Peer:
    """Who signs documents of sums: the server, whose certificate the connection showed."""
    return Peer(server.id, server.public)
