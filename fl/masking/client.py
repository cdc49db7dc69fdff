"""One client's part in one round.

Each method takes the server's message, checks it, and gives the answer. A message that does not hold, or comes out of
turn, ends the round for this client: it forgets its keys and shares, and answers nothing more. A client never gives
shares of both secrets of a neighbour, and gives none before enough neighbours have signed the same list of survivors.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from sharetorch.fl.masking import keys
from sharetorch.fl.masking.bounds import Trust
from sharetorch.fl.masking.encoding import encode
from sharetorch.fl.masking.enrolment import (
    INCLUDED,
    KEYS,
    SURVIVORS,
    Enrolment,
    Signer,
    require_signature,
    statement,
)
from sharetorch.fl.masking.errors import OutOfTurnError, RequestRefusedError, TooFewSurvivorsError
from sharetorch.fl.masking.keys import KeyPair
from sharetorch.fl.masking.ledger import Ledger
from sharetorch.fl.masking.messages import (
    SHARE_BYTES,
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
    Survivors,
    Unmask,
    packed,
    unpacked,
)
from sharetorch.fl.masking.rounds import Round, Step
from sharetorch.fl.masking.sharing import split
from sharetorch.mpc.errors import ConfigurationError
from sharetorch.mpc.randomness import SECRET_BYTES, Entropy, fresh_stream, system_entropy

COMMITMENT = b"sharetorch/masking/v1/commitment"


class Client:
    """One client's part in one round.

    Args:
        identity: who signs for it.
        enrolment: whose signatures hold.
        ledger: the rounds it has taken part in.
        trust: what it assumes of the others; it refuses rounds that are not safe under it.
        entropy: where its secrets come from.

    Attributes:
        step: what it does next.
    """

    def __init__(
        self,
        identity: Signer,
        enrolment: Enrolment,
        ledger: Ledger,
        trust: Trust | None = None,
        entropy: Entropy = system_entropy,
    ) -> None:
        self._identity = identity
        self._enrolment = enrolment
        self._ledger = ledger
        self._trust = Trust() if trust is None else trust
        self._entropy = entropy
        self.step = Step.ADVERTISE
        self._round: Round
        self._received: dict[int, bytes] = {}
        self._advertised: dict[int, Advertise] = {}
        self._survivors: frozenset[int] = frozenset()

    def __repr__(self) -> str:
        return f"Client({self._identity.id!r}, {self.step.value})"

    def advertise(self, opening: Opening) -> Advertise:
        """Begin a round: check its document, write it into the ledger, and make keys.

        Raises:
            RoundReusedError: it has begun here before.
            ForgedMessageError, RequestRefusedError, ConfigurationError, MalformedRequestError: the document does not
                hold, does not name this client, or is not safe.
        """
        with self._due(Step.ADVERTISE, Step.SHARE):
            found = Round(opening)
            found.require_enrolled(self._enrolment)
            found.require_safe(self._trust)
            if found.numbers.get(self._identity.id) is None:
                raise RequestRefusedError(f"The round does not name {self._identity.id!r} among its members.")
            if self._enrolment.clients[self._identity.id] != self._identity.public:
                raise ConfigurationError(f"{self._identity.id!r} is enrolled with another key than it signs with.")
            self._round, self._number = found, found.numbers[self._identity.id]
            self._neighbours = found.graph.neighbours(self._number)
            self._ledger.begin(found.document.round)
            self._mask_pair = KeyPair(self._entropy(SECRET_BYTES))
            self._share_pair = KeyPair(self._entropy(SECRET_BYTES))
            self._seed = self._entropy(SECRET_BYTES)
            commitment = committed(found.digest, self._number, self._seed)
            content = self._mask_pair.public + self._share_pair.public + commitment
            return Advertise(
                found.digest, self._number, self._mask_pair.public, self._share_pair.public, commitment,
                self._sign(KEYS, content),
            )  # fmt: skip

    def share(self, message: Keys) -> Shares:
        """Check the neighbours' keys, and share both secrets among them.

        Raises:
            ForgedMessageError: a key is not the neighbour's.
            RequestRefusedError: somebody is no neighbour, or comes twice.
            TooFewSurvivorsError: there are fewer neighbours than the threshold.
        """
        with self._due(Step.SHARE, Step.MASK):
            self._require_round(message.round)
            self._advertised = {entry.member: entry for entry in message.entries}
            self._require_neighbours([entry.member for entry in message.entries], self._neighbours, "Keys")
            for entry in message.entries:
                self._require_advertised(entry)
            holders, threshold = tuple(sorted(self._advertised)), self._round.parameters.threshold
            stream = fresh_stream(self._entropy)
            seeds = split(self._seed, holders, threshold, stream)
            secrets = split(self._mask_pair.secret, holders, threshold, stream)
            boxes = [Sealed(other, self._seal(other, seeds[other] + secrets[other])) for other in holders]
            return Shares(self._round.digest, boxes)

    def mask(self, message: Deliveries, update: Tensor | NDArray[Any], weight: int = 1) -> Masked:
        """Keep the neighbours' shares, and mask the update.

        Args:
            message: the shares.
            update: shape (d,).
            weight: of the update, an integer.

        Raises:
            ForgedMessageError: a box was changed.
            RequestRefusedError: somebody is no neighbour, or comes twice.
            TooFewSurvivorsError: there are fewer neighbours than the threshold.
            EncodingError, ShapeError: the update does not fit the round.
        """
        with self._due(Step.MASK, Step.AGREE):
            self._require_round(message.round)
            self._require_neighbours([box.member for box in message.boxes], tuple(self._advertised), "Shares")
            self._received = {box.member: self._unseal(box) for box in message.boxes}
            document = self._round.document
            words = encode(update, weight, document.fraction_bits, document.largest, document.weight)
            if words.size != document.length:
                raise RequestRefusedError(
                    f"The update has {words.size - 1} coordinates, but {document.length - 1} were agreed on."
                )
            for other in self._received:
                agreed = self._mask_pair.agree(self._advertised[other].mask_key)
                source = self._round.context.pair_mask(agreed, self._named(self._number), self._named(other))
                (keys.add_mask if self._number < other else keys.subtract_mask)(words, source)
            keys.add_mask(words, self._round.context.self_mask(self._seed, self._identity.id))
            included = packed([other in self._received for other in self._neighbours])
            self._forget_own()
            return Masked(
                self._round.digest, words.astype("<u8", copy=False).tobytes(), included, self._sign(INCLUDED, included)
            )

    def agree(self, message: Survivors) -> Agreement:
        """Check the list of survivors, and sign it.

        Every surviving neighbour must have signed that its vector holds the masks in common with all its surviving
        neighbours.

        Raises:
            ForgedMessageError: a neighbour did not sign what is said.
            RequestRefusedError: the list does not hold.
            TooFewSurvivorsError: it is too short, or leaves a part of the graph too thin.
        """
        with self._due(Step.AGREE, Step.REVEAL):
            self._require_round(message.round)
            flags = unpacked(message.present, len(self._round.ids))
            self._survivors = frozenset(number for number, flag in enumerate(flags) if flag)
            if self._number not in self._survivors or not self._survivors & {*self._neighbours} <= {*self._received}:
                raise RequestRefusedError(
                    "The list of survivors leaves this client out, or names a neighbour whose shares never came. What "
                    "it asks for could show this client's update alone; nothing is answered."
                )
            if not self._round.graph.sound(self._survivors):
                raise TooFewSurvivorsError(
                    f"{len(self._survivors)} of {len(flags)} clients survive, too few or too unevenly placed for "
                    f"{self._round.parameters}. Their sum could show a part; nothing is answered. Begin another round."
                )
            near = [other for other in self._neighbours if other in self._survivors]
            if sorted(each.member for each in message.statements) != near:
                raise RequestRefusedError("The statements are not one of each surviving neighbour.")
            for each in message.statements:
                self._require_included(each)
            return Agreement(self._round.digest, self._sign(SURVIVORS, listed(message.present)))

    def reveal(self, message: Unmask) -> Reveal:
        """Give a share of each survivor's seed and of each dropped neighbour's key, once.

        Raises:
            ForgedMessageError: a neighbour did not sign the list this client signed.
            RequestRefusedError: somebody is on both lists, on the wrong one, or no neighbour.
            TooFewSurvivorsError: fewer neighbours than the threshold have signed.
        """
        with self._due(Step.REVEAL, Step.OVER):
            self._require_round(message.round)
            self._require_lists(message.survivors, message.dropped)
            signers = [each.member for each in message.signatures]
            near = tuple(other for other in self._neighbours if other in self._survivors)
            self._require_neighbours(signers, near, "Signatures")
            content = listed(packed([number in self._survivors for number in range(len(self._round.ids))]))
            for each in message.signatures:
                self._require_signed(SURVIVORS, each.member, each.signature, content, "the survivors")
            answer = Reveal(
                self._round.digest,
                [Opened(other, self._received[other][:SHARE_BYTES]) for other in message.survivors],
                [Opened(other, self._received[other][SHARE_BYTES:]) for other in message.dropped],
            )
            self._forget()
            return answer

    # ------------------------------------------------------------------------------------------------------ checks

    @contextlib.contextmanager
    def _due(self, step: Step, following: Step) -> Iterator[None]:
        """Do a step, or forget everything."""
        found, self.step = self.step, Step.OVER
        try:
            if found is not step:
                raise OutOfTurnError(
                    f"{self._identity.id} was asked to {step.value} where {found.value} was next. A step is done once; "
                    "this client leaves the round."
                )
            yield
        except BaseException:
            self._forget()
            raise
        self.step = following

    def _require_round(self, digest: bytes) -> None:
        if digest != self._round.digest:
            raise RequestRefusedError("A message of another round came; this client leaves the round.")

    def _require_neighbours(self, members: list[int], expected: tuple[int, ...], what: str) -> None:
        if len({*members}) != len(members) or not {*members} <= {*expected}:
            raise RequestRefusedError(
                f"{what} came twice from one member, or from others than the neighbours that the graph of the round "
                "gives this client. Others' masks could be the server's; this client leaves the round."
            )
        if len(members) < self._round.parameters.threshold:
            raise TooFewSurvivorsError(
                f"{what} came from {len(members)} neighbours, and {self._round.parameters.threshold} are needed. This "
                "client leaves the round; begin another when more are there."
            )

    def _require_lists(self, survivors: list[int], dropped: list[int]) -> None:
        """Each neighbour at most once, each on the list where it belongs."""
        alive, dead = {*self._received} & self._survivors, {*self._received} - self._survivors
        wanted = [*survivors, *dropped]
        if len({*wanted}) != len(wanted) or not ({*survivors} <= alive and {*dropped} <= dead):
            raise RequestRefusedError(
                "Shares of both secrets of a neighbour were asked for, or of the wrong one. Both would show its update "
                "alone; nothing is answered."
            )

    def _require_advertised(self, entry: Advertise) -> None:
        self._require_round(entry.round)
        content = entry.mask_key + entry.share_key + entry.commitment
        self._require_signed(KEYS, entry.member, entry.signature, content, "its keys")

    def _require_included(self, each: Included) -> None:
        self._require_signed(INCLUDED, each.member, each.signature, each.included, "its masks")
        neighbours = self._round.graph.neighbours(each.member)
        flags = unpacked(each.included, len(neighbours))
        if not all(flag for other, flag in zip(neighbours, flags, strict=True) if other in self._survivors):
            raise RequestRefusedError(
                f"The vector of {self._round.ids[each.member]} lacks the mask in common with another survivor. Its "
                "masks could be few enough to be taken off; nothing is answered."
            )

    def _require_signed(self, label: bytes, member: int, signature: bytes, content: bytes, what: str) -> None:
        signer = self._round.document.members[member]
        data = statement(label, self._round.digest, member, content)
        require_signature(signer.public, signature, data, signer.id, what)

    # ----------------------------------------------------------------------------------------------------- secrets

    def _sign(self, label: bytes, content: bytes) -> bytes:
        return self._identity.sign(statement(label, self._round.digest, self._number, content))

    def _named(self, number: int) -> tuple[int, str]:
        return number, self._round.ids[number]

    def _seal(self, other: int, plain: bytes) -> bytes:
        agreed = self._share_pair.agree(self._advertised[other].share_key)
        key = self._round.context.box_key(agreed, self._identity.id, self._round.ids[other])
        return keys.seal(key, plain, self._round.digest)

    def _unseal(self, box: Sealed) -> bytes:
        sender = self._round.ids[box.member]
        agreed = self._share_pair.agree(self._advertised[box.member].share_key)
        key = self._round.context.box_key(agreed, sender, self._identity.id)
        return keys.unseal(key, box.box, self._round.digest, sender)

    def _forget_own(self) -> None:
        for name in ("_mask_pair", "_share_pair", "_seed"):
            vars(self).pop(name, None)

    def _forget(self) -> None:
        self._forget_own()
        self._received = {}
        self._advertised = {}
        self._survivors = frozenset()


def committed(digest: bytes, member: int, seed: bytes) -> bytes:
    """The commitment to a seed."""
    return hashlib.sha256(COMMITMENT + digest + member.to_bytes(4, "big") + seed).digest()


def listed(present: bytes) -> bytes:
    """The hash of a list of survivors."""
    return hashlib.sha256(b"sharetorch/masking/v1/survivors" + present).digest()
