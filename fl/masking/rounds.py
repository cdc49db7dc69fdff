"""What all members of a round agree on: its document, signed by the convener.

The document names the clients with their identity keys, the parameters of the graph, the limits of the encoding, an id
that no other round has, and public randomness from which the graph is made. The convener is whoever the clients have
enrolled for it; for the graph to be beyond the aggregator's choice, it is somebody else, or the randomness comes from a
public beacon.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping

from sharetorch.fl.masking.bounds import Parameters, Trust, choose, required
from sharetorch.fl.masking.encoding import Limits, require_room
from sharetorch.fl.masking.enrolment import OPENING, Enrolment, Signer, require_signature, statement
from sharetorch.fl.masking.errors import RequestRefusedError
from sharetorch.fl.masking.graph import Graph, graph_of
from sharetorch.fl.masking.keys import Context
from sharetorch.fl.masking.messages import DOCUMENT_BYTES, Document, Member, Opening, decode, encode
from sharetorch.mpc.randomness import SECRET_BYTES, Entropy, system_entropy

VERSION = 1


class Step(enum.Enum):
    """What a client does in a round, in order."""

    ADVERTISE = "advertise"
    SHARE = "share"
    MASK = "mask"
    AGREE = "agree"
    REVEAL = "reveal"
    OVER = "over"


def convene(
    convener: Signer,
    clients: Mapping[str, bytes],
    length: int,
    limits: Limits,
    *,
    parameters: Parameters | None = None,
    trust: Trust | None = None,
    beacon: bytes | None = None,
    entropy: Entropy = system_entropy,
) -> Opening:
    """Make the document of a new round, and sign it.

    Args:
        convener: whom the clients have enrolled for this.
        clients: identity keys by id.
        length: coordinates of an update.
        limits: of a client's update.
        parameters: of the graph; ``choose`` by default.
        trust: for ``choose``.
        beacon: 32 bytes of public randomness; drawn by the convener by default.
        entropy: where ids of rounds come from.

    Raises:
        ConfigurationError: a sum could wrap around, or no graph serves.
    """
    limits.require_room(len(clients))
    members = [Member(id, clients[id]) for id in sorted(clients)]
    degree, threshold, window = choose(len(members), trust) if parameters is None else parameters
    document = encode(
        Document(
            VERSION, entropy(SECRET_BYTES), entropy(SECRET_BYTES) if beacon is None else beacon, members, degree,
            threshold, window, length + 1, limits.fraction_bits, limits.largest, limits.weight,
        )
    )  # fmt: skip
    opening = Opening(document, convener.sign(statement(OPENING, _digest(document), 0)))
    Round(opening)
    return opening


class Round:
    """A round's document, read and checked.

    Args:
        opening: the document with the convener's signature.

    Raises:
        MalformedRequestError: the document has not the documented form.
        ConfigurationError: its numbers do not fit together.
        RequestRefusedError: it is of another version, or names a member twice.
    """

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self.document = document = decode(opening.document, Document, DOCUMENT_BYTES)
        self.ids = [member.id for member in document.members]
        self.numbers = {id: number for number, id in enumerate(self.ids)}
        if document.version != VERSION or len(self.numbers) != len(self.ids):
            raise RequestRefusedError(
                f"The document is of version {document.version} and names {len(self.numbers)} different members in "
                f"{len(self.ids)} places; version {VERSION} and each member once are understood."
            )
        require_room(len(self.ids), document.largest, document.weight)
        self.digest = _digest(opening.document)
        self.context = Context(document.round, self.digest)
        self.parameters = Parameters(document.degree, document.threshold, document.window)
        seed = hashlib.sha256(b"sharetorch/masking/v1/graph" + document.beacon).digest()
        self.graph: Graph = graph_of(len(self.ids), seed, self.parameters)

    def require_enrolled(self, enrolment: Enrolment) -> None:
        """Check that the enrolled convener has signed, and that every member is enrolled with the key that is named.

        Raises:
            ForgedMessageError: the signature does not hold.
            RequestRefusedError: a member is not enrolled, or with another key.
        """
        convener = enrolment.convener
        require_signature(
            convener.public, self.opening.signature, statement(OPENING, self.digest, 0), convener.id, "a new round"
        )
        wrong = [member.id for member in self.document.members if enrolment.clients.get(member.id) != member.public]
        if wrong:
            raise RequestRefusedError(
                f"{', '.join(wrong[:5])} of this round are not enrolled, or with other identity keys. Whoever made "
                "them up could be the server. Enrol them, or convene a round without them."
            )

    def require_safe(self, trust: Trust) -> None:
        """Check that the round's parameters hold under a client's assumptions.

        Raises:
            RequestRefusedError: threshold or window is too low, or there are too few members.
        """
        if len(self.ids) < trust.fewest:
            raise RequestRefusedError(
                f"The round has {len(self.ids)} members, and this client takes part among {trust.fewest} at least: the "
                "sum of few shows much of each. Convene a larger round."
            )
        least = required(len(self.ids), self.parameters.degree, trust)
        if self.parameters.threshold < least.threshold or self.parameters.window < least.window:
            raise RequestRefusedError(
                f"The round has a threshold of {self.parameters.threshold} and a window of {self.parameters.window}; "
                f"{trust} with {self.parameters.degree} neighbours needs {least.threshold} and {least.window}. Convene "
                "a round with these, or with more neighbours."
            )


def _digest(document: bytes) -> bytes:
    return hashlib.sha256(b"sharetorch/masking/v1/document" + document).digest()
