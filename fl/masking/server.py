"""The aggregator's part in one round.

For each step it takes the clients' messages as they come, and is then told to go on with those it has: it gives the
messages of the next step, by client. It waits for nobody and knows no time; the transport decides when a step is over,
and proves who sends. A message that is refused does not count, and the server goes on without it. When too few clients
are left, it forgets everything and says so.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from sharetorch.fl.masking import keys
from sharetorch.fl.masking.client import committed, listed
from sharetorch.fl.masking.encoding import Aggregate
from sharetorch.fl.masking.enrolment import INCLUDED, KEYS, SURVIVORS, Enrolment, require_signature, statement
from sharetorch.fl.masking.errors import ForgedMessageError, OutOfTurnError, TooFewSurvivorsError
from sharetorch.fl.masking.keys import KeyPair
from sharetorch.fl.masking.messages import (
    WORD_BYTES,
    Advertise,
    Agreement,
    Deliveries,
    Included,
    Keys,
    Masked,
    Opened,
    Opening,
    Reveal,
    Sealed,
    Shares,
    Signed,
    Survivors,
    Unmask,
    packed,
)
from sharetorch.fl.masking.rounds import Round, Step
from sharetorch.fl.masking.sharing import join
from sharetorch.mpc.errors import MalformedRequestError

_NEXT = dict(zip(list(Step), list(Step)[1:], strict=False))


class Server:
    """The aggregator's part in one round.

    Args:
        opening: the round's document, signed.
        enrolment: whose signatures hold.

    Attributes:
        opening: for every client.
        step: whose messages it takes now.
    """

    def __init__(self, opening: Opening, enrolment: Enrolment) -> None:
        self._round = Round(opening)
        self._round.require_enrolled(enrolment)
        self.opening = opening
        self.step = Step.ADVERTISE
        self._graph = self._round.graph
        self._begin_step(range(len(self._round.ids)))
        self._total = np.zeros(self._round.document.length, np.uint64)
        self._advertised: dict[int, Advertise] = {}
        self._boxes: dict[tuple[int, int], bytes] = {}
        self._included: dict[int, Included] = {}
        self._agreed: dict[int, bytes] = {}
        self._asked: dict[int, tuple[list[int], list[int]]] = {}
        self._seeds: dict[int, dict[int, bytes]] = {}
        self._secrets: dict[int, dict[int, bytes]] = {}
        self._sharing: frozenset[int] = frozenset()
        self._surviving: frozenset[int] = frozenset()
        self._present = b""

    def __repr__(self) -> str:
        return f"Server({self.step.value}, {len(self._came)} of {len(self._awaited)} came)"

    @property
    def missing(self) -> tuple[str, ...]:
        """Clients whose message of this step has not come."""
        return tuple(self._round.ids[number] for number in sorted(self._awaited - self._came))

    # ----------------------------------------------------------------------------------------------------- messages

    def on_advertise(self, peer: str, message: Advertise) -> None:
        """Take a client's keys."""
        number = self._accepted(Step.ADVERTISE, peer, message.round)
        if message.member != number:
            raise ForgedMessageError(f"{peer} sent keys for member {message.member}, and is member {number}.")
        content = message.mask_key + message.share_key + message.commitment
        self._require_signed(KEYS, number, message.signature, content, "its keys")
        self._advertised[number] = message
        self._came.add(number)

    def keys(self) -> dict[str, Keys]:
        """Go on with the clients that advertised keys: to each those of its neighbours.

        Raises:
            TooFewSurvivorsError: too few did.
        """
        self._go_on(Step.ADVERTISE)
        return {
            self._round.ids[number]: Keys(self._round.digest, [self._advertised[other] for other in self._near(number)])
            for number in sorted(self._awaited)
        }

    def on_shares(self, peer: str, message: Shares) -> None:
        """Take a client's shares for its neighbours."""
        number = self._accepted(Step.SHARE, peer, message.round)
        if [box.member for box in message.boxes] != self._near(number):
            raise ForgedMessageError(f"{peer} sent shares for others than its neighbours that have keys.")
        for box in message.boxes:
            self._boxes[number, box.member] = box.box
        self._came.add(number)

    def deliveries(self) -> dict[str, Deliveries]:
        """Go on with the clients that shared their secrets: to each the shares for it.

        Raises:
            TooFewSurvivorsError: too few did.
        """
        self._go_on(Step.SHARE)
        self._sharing = self._awaited
        sent = {
            self._round.ids[number]: Deliveries(
                self._round.digest, [Sealed(other, self._boxes[other, number]) for other in self._near(number)]
            )
            for number in sorted(self._awaited)
        }
        self._boxes.clear()
        return sent

    def on_masked(self, peer: str, message: Masked) -> None:
        """Take a client's masked vector, and add it to the sum."""
        number = self._accepted(Step.MASK, peer, message.round)
        length = self._round.document.length
        if len(message.words) != WORD_BYTES * length:
            raise MalformedRequestError(
                f"{peer} sent {len(message.words)} bytes where {length} words of {WORD_BYTES} bytes are due."
            )
        if message.included != packed([other in self._awaited for other in self._graph.neighbours(number)]):
            raise ForgedMessageError(f"{peer} did not use exactly the masks that it was to use.")
        self._require_signed(INCLUDED, number, message.signature, message.included, "its masks")
        self._total += np.frombuffer(message.words, "<u8")
        self._included[number] = Included(number, message.included, message.signature)
        self._came.add(number)

    def survivors(self) -> dict[str, Survivors]:
        """Go on with the clients whose vectors are in the sum: to each their list.

        Raises:
            TooFewSurvivorsError: too few are.
        """
        self._go_on(Step.MASK)
        self._surviving = self._awaited
        self._present = packed([number in self._surviving for number in range(len(self._round.ids))])
        return {
            self._round.ids[number]: Survivors(
                self._round.digest, self._present, [self._included[other] for other in self._near(number)]
            )
            for number in sorted(self._awaited)
        }

    def on_agreement(self, peer: str, message: Agreement) -> None:
        """Take a client's signature over the survivors."""
        number = self._accepted(Step.AGREE, peer, message.round)
        self._require_signed(SURVIVORS, number, message.signature, listed(self._present), "the survivors")
        self._agreed[number] = message.signature
        self._came.add(number)

    def unmask(self) -> dict[str, Unmask]:
        """Go on with the clients that agreed: ask those whose neighbours agreed for their shares.

        Raises:
            TooFewSurvivorsError: too few did for a secret that is needed.
        """
        agreed = frozenset(self._came)
        asked = [number for number in agreed if self._graph.enough(number, agreed)]
        self._go_on(Step.AGREE, asked)
        dropped = self._sharing - self._surviving
        sent = {}
        for number in sorted(asked):
            near = self._graph.neighbours(number)
            self._asked[number] = (
                [other for other in near if other in self._surviving],
                [other for other in near if other in dropped],
            )
            signatures = [Signed(other, self._agreed[other]) for other in near if other in agreed]
            sent[self._round.ids[number]] = Unmask(self._round.digest, *self._asked[number], signatures)
        return sent

    def on_reveal(self, peer: str, message: Reveal) -> None:
        """Take a client's shares of its neighbours' secrets."""
        number = self._accepted(Step.REVEAL, peer, message.round)
        given = [each.member for each in message.seeds], [each.member for each in message.keys]
        if given != self._asked[number]:
            raise ForgedMessageError(f"{peer} gave other shares than those it was asked for.")
        for found, opened in ((self._seeds, message.seeds), (self._secrets, message.keys)):
            _keep(found, number, opened)
        self._came.add(number)

    def result(self) -> Aggregate:
        """Take the masks off the sum, and forget everything else.

        Raises:
            TooFewSurvivorsError: too few shares of a secret came.
            ForgedMessageError: shares of a secret do not give it back, or the sum is beyond what honest clients send.
        """
        self._go_on(Step.REVEAL)
        try:
            for number in sorted(self._surviving):
                self._take_self_mask_off(number)
            for number in sorted(self._needed_keys()):
                self._take_pair_masks_off(number)
            return self._aggregate()
        finally:
            self._forget()

    # ------------------------------------------------------------------------------------------------------- steps

    def _begin_step(self, awaited: Collection[int]) -> None:
        self._awaited = frozenset(awaited)
        self._came: set[int] = set()

    def _accepted(self, step: Step, peer: str, digest: bytes) -> int:
        """The number of a client whose message is due."""
        number = self._round.numbers.get(peer)
        if self.step is not step or number not in self._awaited or number in self._came:
            raise OutOfTurnError(
                f"{peer} sent what belongs to the step {step.value}, where {self.step.value} is the one that runs; or "
                "twice; or left the round before. The message does not count."
            )
        if digest != self._round.digest:
            raise ForgedMessageError(f"{peer} sent a message of another round. It does not count.")
        return number

    def _go_on(self, step: Step, following: Collection[int] | None = None) -> None:
        """Begin the next step with those whose message came, if that can succeed."""
        if self.step is not step:
            raise OutOfTurnError(f"The step {step.value} is not the one that runs; {self.step.value} is.")
        came = frozenset(self._came if following is None else following)
        if step in (Step.AGREE, Step.REVEAL):
            enough = all(self._graph.enough(number, came) for number in self._surviving | self._needed_keys())
        else:
            enough = self._graph.sound(came)
        if not enough:
            self._forget()
            self.step = Step.OVER
            raise TooFewSurvivorsError(
                f"{len(self._came)} of {len(self._awaited)} clients have done the step {step.value}, too few or too "
                f"unevenly placed for {self._round.parameters}. Nothing was unmasked, and all was forgotten. Convene "
                "a new round."
            )
        self.step = _NEXT[step]
        self._begin_step(came)

    def _near(self, number: int) -> list[int]:
        """Neighbours that are still in the round."""
        return [other for other in self._graph.neighbours(number) if other in self._awaited]

    def _needed_keys(self) -> frozenset[int]:
        """Dropped clients with whom survivors have masks in common."""
        dropped = self._sharing - self._surviving
        return frozenset(one for one in dropped if self._surviving & {*self._graph.neighbours(one)})

    def _require_signed(self, label: bytes, number: int, signature: bytes, content: bytes, what: str) -> None:
        member = self._round.document.members[number]
        require_signature(
            member.public, signature, statement(label, self._round.digest, number, content), member.id, what
        )

    # ---------------------------------------------------------------------------------------------------- unmasking

    def _take_self_mask_off(self, number: int) -> None:
        seed = join(self._seeds[number], self._round.parameters.threshold)
        if committed(self._round.digest, number, seed) != self._advertised[number].commitment:
            _refuse_shares(self._round.ids[number])
        keys.subtract_mask(self._total, self._round.context.self_mask(seed, self._round.ids[number]))

    def _take_pair_masks_off(self, number: int) -> None:
        pair = KeyPair(join(self._secrets[number], self._round.parameters.threshold))
        if pair.public != self._advertised[number].mask_key:
            _refuse_shares(self._round.ids[number])
        ids = self._round.ids
        for other in sorted(self._surviving & {*self._graph.neighbours(number)}):
            agreed = pair.agree(self._advertised[other].mask_key)
            source = self._round.context.pair_mask(agreed, (number, ids[number]), (other, ids[other]))
            (keys.subtract_mask if other < number else keys.add_mask)(self._total, source)

    def _aggregate(self) -> Aggregate:
        document, signed = self._round.document, self._total.view(np.int64)
        total, weight = signed[:-1].copy(), int(signed[-1])
        most = weight * document.largest
        if not 0 <= weight <= len(self._surviving) * document.weight or (
            total.size and max(int(total.max()), -int(total.min())) > most
        ):
            raise ForgedMessageError(
                "The sum is beyond what clients within the limits can send: one of them did not keep to the protocol. "
                "The sum is not used; begin another round."
            )
        survivors = tuple(self._round.ids[number] for number in sorted(self._surviving))
        return Aggregate(total, weight, survivors, document.fraction_bits)

    def _forget(self) -> None:
        self._total = np.zeros_like(self._total)
        self._advertised.clear()
        self._boxes.clear()
        self._included.clear()
        self._agreed.clear()
        self._asked.clear()
        self._seeds.clear()
        self._secrets.clear()
        self._sharing = self._surviving = frozenset()
        self._present = b""


def _keep(found: dict[int, dict[int, bytes]], holder: int, opened: list[Opened]) -> None:
    for each in opened:
        found.setdefault(each.member, {})[holder] = each.share


def _refuse_shares(id: str) -> None:
    raise ForgedMessageError(
        f"The shares of a secret of {id} do not give back what it committed to: it or a neighbour changed one. The "
        "round is over; begin another."
    )
