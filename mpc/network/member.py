"""One member of a session, in a process of its own: it steps its own coroutine and waits for what others send."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from sharetorch.mpc import kernels, operations
from sharetorch.mpc.channel import WORDS, Form, Message
from sharetorch.mpc.errors import (
    LimitExceededError,
    MalformedRequestError,
    NetworkError,
    ObjectGoneError,
    ProtocolError,
)
from sharetorch.mpc.network.links import Link
from sharetorch.mpc.network.sizes import elements_of
from sharetorch.mpc.party import Party, Receive
from sharetorch.mpc.preparing import OPENING, Run, Step
from sharetorch.mpc.protocols.suite import Suite
from sharetorch.mpc.randomness import PairSecret
from sharetorch.mpc.ring import Elements, Ring
from sharetorch.mpc.session import object_is_gone
from sharetorch.mpc.share import ArithmeticShare

STEP = "prepared step"
"""What the provider tells each party first in every operation of a prepared run: the number of the step that the
operation takes, or 0 if it is dealt for anew."""
_STEP_FORMS = (Form(WORDS, (1,)),)


class Taking(NamedTuple):
    """What a member needs to use a prepared run.

    Attributes:
        secrets: of a party, in the run's block.
        run: the steps, at the provider; None at parties.
    """

    secrets: Mapping[int, PairSecret]
    run: Run | None


class Report(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one operation cost at one member.

    Attributes:
        operation: its number.
        name: of the operation.
        rank: of the member.
        rounds: length of the longest chain of online messages that ended here.
        online: bytes sent, by rank of the receiver.
        offline: likewise, of corrections.
        seconds: from its beginning to its end here.
        waited: of these, waiting for others.
    """

    operation: int
    name: str
    rank: int
    rounds: int
    online: dict[int, int]
    offline: dict[int, int]
    seconds: float
    waited: float


class Member:
    """A member's party, its connections and its objects.

    Args:
        rank: of this member.
        parties: how many members hold shares.
        name: id of this member.
        ring: where shares live.
        suite: the protocols.
        secrets: pair secret with each other member, by rank.
        links: connections to each other member, by rank.
        max_elements: of one result.
        max_held: of all objects together.

    Attributes:
        store: what this member holds, by number.
        taking: the prepared run that operations take their steps of.
    """

    def __init__(
        self,
        rank: int,
        parties: int,
        name: str,
        ring: Ring,
        suite: Suite,
        secrets: Mapping[int, bytes],
        links: Mapping[int, Link],
        max_elements: int = 1 << 31,
        max_held: int = 1 << 33,
    ) -> None:
        kernels.keep_freed_memory()
        self.name = name
        self.store: dict[int, ArithmeticShare] = {}
        self.taking: Taking | None = None
        self._links = dict(links)
        self._max_elements = max_elements
        self._max_held = max_held
        self._held = 0
        self._places: dict[int, tuple[int, int]] = {}
        self._online: dict[int, int] = {}
        self._offline: dict[int, int] = {}
        pairs = {peer: PairSecret(secret) for peer, secret in secrets.items()}
        self.party = Party(rank, parties, ring, pairs, self, suite)

    def send(self, message: Message) -> None:
        """Send a message of this member's protocol, without waiting."""
        table = self._offline if message.round == 0 else self._online
        table[message.receiver] = table.get(message.receiver, 0) + message.size
        self._post(message)

    def _post(self, message: Message) -> None:
        """Send a message that is not counted as this operation's."""
        link = self._links[message.receiver]
        try:
            link.outgoing.send(message)
        except NetworkError as error:
            _blame(error, link)
            raise

    def put(self, number: int, elements: Elements) -> None:
        """Hold a share that came from outside; at the provider an empty tensor on ``meta``.

        Raises:
            MalformedRequestError: the number is taken.
            LimitExceededError: there is no room.
        """
        self.require_free([number])
        self._keep(number, ArithmeticShare(elements))

    def get(self, number: int) -> ArithmeticShare:
        """What is held under a number.

        Raises:
            ObjectGoneError: nothing.
        """
        try:
            return self.store[number]
        except KeyError:
            raise ObjectGoneError(object_is_gone(self.name, number)) from None

    def execute(
        self, operation: int, name: str, inputs: Sequence[int], outputs: Sequence[int], public: Mapping[str, Any]
    ) -> Report:
        """Run one operation of the command table on objects held here, together with the other members.

        Args:
            operation: its number; numbers only grow.
            name: of the operation.
            inputs: numbers of the operands.
            outputs: numbers the results get.
            public: its public arguments.

        Raises:
            ShareTorchError: what the operation or a connection raises; the session must end then.
        """
        found = operations.find(name)
        self.require_free(outputs)
        operands = [self.get(number) for number in inputs]
        self.require_small(name, operands, public)
        self._wait_for_room()
        self._online, self._offline = {}, {}
        waited = self._waited()
        start = time.perf_counter()
        self.party.begin(operation)
        step = None if self.taking is None else self._agree(self.taking, name, operands, len(outputs), public)
        result = self._step(found(self.party, *operands, **public)) if step is None else self._hand_out(step, operands)
        parts = (result,) if isinstance(result, ArithmeticShare) else tuple(result)
        if len(parts) != len(outputs):
            raise ProtocolError(f"{name} gives {len(parts)} results, and {len(outputs)} numbers came for them.")
        for part in parts:
            self._require_size(part.data.numel())
        for number, part in zip(outputs, parts, strict=True):
            self._keep(number, part)
        if self.taking is not None and self.taking.run is not None and self._offline:
            self.taking.run.beside += 1
        return Report(
            operation,
            name,
            self.party.rank,
            self.party.clock,
            self._online,
            self._offline,
            time.perf_counter() - start,
            self._waited() - waited,
        )

    def _agree(
        self, taking: Taking, name: str, operands: Sequence[ArithmeticShare], outputs: int, public: Mapping[str, Any]
    ) -> Step | None:
        """Let the provider tell the parties which prepared step the operation takes; at the provider, that step."""
        party, run = self.party, taking.run
        if run is None:
            message = self._receive(Receive(party.provider, STEP, _STEP_FORMS))
            number = int(message.fields[0][0])
            if number:
                party.begin(party.operation, taking.secrets, number)
            return None
        step, misfit = run.take(name, operands, outputs, public)
        run.reason = run.reason or (misfit if name not in OPENING else "")
        told = np.array([0 if step is None else step.number], np.uint64)
        for peer in range(party.parties):
            self._post(Message(party.rank, peer, party.operation, STEP, (told,), 0, 0))
        return step

    def _hand_out(self, step: Step, operands: Sequence[ArithmeticShare]) -> tuple[ArithmeticShare, ...]:
        """Send the parties what was kept for them, once, and give the provider's results."""
        messages, step.messages = step.messages, []
        for message in messages:
            self._post(message._replace(operation=self.party.operation))
        return step.arrive(operands)

    def _wait_for_room(self) -> None:
        """Wait until none of the queues to other members is too full."""
        for link in self._links.values():
            try:
                link.outgoing.wait_for_room()
            except NetworkError as error:
                _blame(error, link)
                raise

    def require_small(self, name: str, operands: Sequence[ArithmeticShare], public: Mapping[str, Any]) -> None:
        """Refuse an operation whose result would be too large, before memory is taken for it.

        Raises:
            LimitExceededError: it would.
        """
        self._require_size(elements_of(name, [tuple(x.data.shape) for x in operands], public, self._max_elements))

    def _require_size(self, elements: int) -> None:
        if elements > self._max_elements:
            raise LimitExceededError(
                f"A result of {elements} elements; {self.name} takes {self._max_elements}. Compute with less at once, "
                "or raise object_bytes."
            )

    def require_free(self, numbers: Sequence[int]) -> None:
        """Refuse numbers of objects that are held, or that stand twice: what a number says never changes.

        Labels of results are computed from what stands under the operands' numbers (``mpc/release.py``).

        Raises:
            MalformedRequestError: one is taken.
        """
        if len(set(numbers)) != len(numbers) or not self.store.keys().isdisjoint(numbers):
            raise MalformedRequestError(
                f"Objects under the numbers {list(numbers)[:8]}: {self.name} holds some of these already, or one "
                "stands twice. Choose numbers that no object has."
            )

    def _keep(self, number: int, share: ArithmeticShare) -> None:
        """Hold an object; views of one another take room once.

        Raises:
            LimitExceededError: there is no room.
        """
        place = id(share.root)
        uses, elements = self._places.get(place, (0, _elements(share.root.data)))
        if not uses:
            self._held += elements
        self._places[place] = uses + 1, elements
        self.store[number] = share
        if self._held > self._max_held:
            raise LimitExceededError(
                f"{self._held} elements in all; {self.name} holds {self._max_held} for a session. Let go of tensors, "
                "or raise store_bytes."
            )

    def _step(self, coroutine: Any) -> Any:
        message: Message | None = None
        try:
            while True:
                request: Receive = coroutine.send(message)
                message = self._receive(request)
        except StopIteration as end:
            return end.value
        finally:
            coroutine.close()

    def _receive(self, request: Receive) -> Message:
        operation, link = self.party.operation, self._links[request.sender]
        try:
            fields, round = link.incoming.receive(operation, request.label, request.forms)
        except NetworkError as error:
            _blame(error, link)
            raise
        return Message(request.sender, self.party.rank, operation, request.label, fields, round, 0)

    def _waited(self) -> float:
        return sum(link.incoming.waited for link in self._links.values())

    def poll(self) -> None:
        """Look whether the other members are still there; for when there is nothing to do.

        Raises:
            NetworkError: one is not, or ended the session.
        """
        for link in self._links.values():
            try:
                link.incoming.poll()
            except NetworkError as error:
                _blame(error, link)
                raise

    def free(self, numbers: Iterable[int]) -> None:
        """Forget objects."""
        for number in numbers:
            share = self.store.pop(number, None)
            if share is not None:
                place = id(share.root)
                uses, elements = self._places.pop(place)
                if uses > 1:
                    self._places[place] = uses - 1, elements
                else:
                    self._held -= elements

    @property
    def links(self) -> list[Link]:
        """All connections."""
        return list(self._links.values())


def _blame(error: NetworkError, link: Link) -> None:
    """Put what fails on the connections to a member down to it."""
    error.member = error.member or link.peer


def _elements(data: Elements) -> int:
    """Elements that take memory; tensors on ``meta`` take none."""
    return 0 if data.is_meta else int(data.numel())
