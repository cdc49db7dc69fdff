"""The messages between the aggregator and a client: all there are.

A message is a MessagePack array: the name of its kind, then its fields in order. Members are numbers below 2^32, their
places in the round's document. Whatever has another form, another length or is larger than the round allows is refused.
``payload`` counts what a message holds: bytes, and 4 for each number; MessagePack adds its heads to that.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from sharetorch.mpc.errors import LimitExceededError, MalformedRequestError

HASH_BYTES = KEY_BYTES = 32
SIGNATURE_BYTES = 64
SHARE_BYTES = 33
BOX_BYTES = 2 * SHARE_BYTES + 16
NUMBER_BYTES = 4
WORD_BYTES = 8
MOST_MEMBERS = 1 << 16
DOCUMENT_BYTES = 1 << 24
_HEADS = 64
"""Bytes of MessagePack's heads: of a message, and of each entry of a list, at most."""

Hash = Annotated[bytes, msgspec.Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]
Key = Annotated[bytes, msgspec.Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
Share = Annotated[bytes, msgspec.Meta(min_length=SHARE_BYTES, max_length=SHARE_BYTES)]
Box = Annotated[bytes, msgspec.Meta(min_length=BOX_BYTES, max_length=BOX_BYTES)]
Bits = Annotated[bytes, msgspec.Meta(max_length=MOST_MEMBERS // 8)]
Number = Annotated[int, msgspec.Meta(ge=0, lt=MOST_MEMBERS)]


class Part(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of what messages are made of."""


class Message(Part, frozen=True):
    """Base of all messages."""


class Member(Part, frozen=True):
    """A client in a round's document.

    Attributes:
        id: its name.
        public: its identity key.
    """

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    public: Key


class Document(Part, frozen=True):
    """What all members of a round agree on.

    Attributes:
        version: of this protocol.
        round: 32 bytes that no other round has.
        beacon: public randomness, from which the graph is made.
        members: clients that may take part.
        degree: neighbours of each.
        threshold: shares that give a secret back.
        window: survivors among ``degree`` / 2 successive places of the circle; 0 for the complete graph.
        length: coordinates of a masked vector, its weight included.
        fraction_bits: of the encoding of values.
        largest: magnitude of an encoded value, at most.
        weight: of a client, at most.
    """

    version: int
    round: Hash
    beacon: Hash
    members: Annotated[list[Member], msgspec.Meta(min_length=2, max_length=MOST_MEMBERS)]
    degree: Number
    threshold: Number
    window: Number
    length: Annotated[int, msgspec.Meta(ge=1, le=1 << 32)]
    fraction_bits: Annotated[int, msgspec.Meta(ge=0, le=62)]
    largest: Annotated[int, msgspec.Meta(ge=1, le=1 << 62)]
    weight: Annotated[int, msgspec.Meta(ge=1, le=1 << 62)]


class Opening(Message, frozen=True, tag="opening"):
    """Server to client: a round begins.

    Attributes:
        document: a ``Document``, as it was signed.
        signature: of the convener.
    """

    document: Annotated[bytes, msgspec.Meta(max_length=DOCUMENT_BYTES)]
    signature: Signature


class Advertise(Message, frozen=True, tag="advertise"):
    """Client to server, and on to its neighbours: keys for this round.

    Attributes:
        round: hash of the document.
        member: who sends it.
        mask_key: X25519 public key, for pairwise masks.
        share_key: X25519 public key, for shares.
        commitment: hash of the seed of the self mask.
        signature: of the member.
    """

    round: Hash
    member: Number
    mask_key: Key
    share_key: Key
    commitment: Hash
    signature: Signature


class Keys(Message, frozen=True, tag="keys"):
    """Server to client: what its neighbours advertised."""

    round: Hash
    entries: list[Advertise]


class Sealed(Part, frozen=True):
    """Shares of a seed and of a key, encrypted from one member to another.

    Attributes:
        member: from the client, to whom; from the server, from whom.
        box: ciphertext.
    """

    member: Number
    box: Box


class Shares(Message, frozen=True, tag="shares"):
    """Client to server: shares for its neighbours."""

    round: Hash
    boxes: list[Sealed]


class Deliveries(Message, frozen=True, tag="deliveries"):
    """Server to client: shares from its neighbours."""

    round: Hash
    boxes: list[Sealed]


class Masked(Message, frozen=True, tag="masked"):
    """Client to server: its vector under masks.

    Attributes:
        round: hash of the document.
        words: little-endian words of 64 bits.
        included: for each neighbour, in order, a bit: whether the mask in common with it is in the vector.
        signature: of the member, over ``included``.
    """

    round: Hash
    words: bytes
    included: Bits
    signature: Signature


class Included(Part, frozen=True):
    """What a surviving neighbour signed about its masks."""

    member: Number
    included: Bits
    signature: Signature


class Survivors(Message, frozen=True, tag="survivors"):
    """Server to client: whose vectors arrived.

    Attributes:
        round: hash of the document.
        present: for each member, in order, a bit.
        statements: of the surviving neighbours.
    """

    round: Hash
    present: Bits
    statements: list[Included]


class Agreement(Message, frozen=True, tag="agreement"):
    """Client to server: its signature over the survivors."""

    round: Hash
    signature: Signature


class Signed(Part, frozen=True):
    """A neighbour's signature over the survivors."""

    member: Number
    signature: Signature


class Unmask(Message, frozen=True, tag="unmask"):
    """Server to client: the shares it wants.

    Attributes:
        round: hash of the document.
        survivors: neighbours whose seed's share is wanted.
        dropped: neighbours whose key's share is wanted.
        signatures: of neighbours that agreed to the survivors.
    """

    round: Hash
    survivors: list[Number]
    dropped: list[Number]
    signatures: list[Signed]


class Opened(Part, frozen=True):
    """A share of one member's secret."""

    member: Number
    share: Share


class Reveal(Message, frozen=True, tag="reveal"):
    """Client to server: shares of the survivors' seeds and of the dropped clients' keys."""

    round: Hash
    seeds: list[Opened]
    keys: list[Opened]


M = TypeVar("M", bound=Part)


def encode(message: Part) -> bytes:
    """A message as bytes; a document in its one form."""
    return msgspec.msgpack.encode(message)


def decode(data: bytes, kind: type[M], limit: int) -> M:
    """Read a message of a kind that is due.

    Args:
        data: what was received.
        kind: class of the message.
        limit: bytes it may have, as by ``largest``.

    Raises:
        LimitExceededError: it is larger.
        MalformedRequestError: it is no message of this kind.
    """
    if len(data) > limit:
        raise LimitExceededError(
            f"A message of {len(data)} bytes arrived where a {kind.__name__} of at most {limit} is due. It is not read."
        )
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise MalformedRequestError(f"These bytes are no {kind.__name__}: {error}.") from error


def largest(kind: type[Message], members: int, degree: int, length: int) -> int:
    """Bytes a message of a kind may have in a round of so many members, neighbours and coordinates."""
    bits, entry = -(-members // 8), _HEADS + HASH_BYTES
    sizes = {
        Opening: DOCUMENT_BYTES + SIGNATURE_BYTES,
        Keys: degree * (entry + 2 * KEY_BYTES + HASH_BYTES + SIGNATURE_BYTES),
        Shares: degree * (entry + BOX_BYTES),
        Deliveries: degree * (entry + BOX_BYTES),
        Masked: length * WORD_BYTES + bits + SIGNATURE_BYTES,
        Survivors: bits + degree * (entry + bits + SIGNATURE_BYTES),
        Unmask: degree * (2 * entry + SIGNATURE_BYTES),
        Reveal: 2 * degree * (entry + SHARE_BYTES),
    }
    return _HEADS + HASH_BYTES + sizes.get(kind, 2 * KEY_BYTES + HASH_BYTES + SIGNATURE_BYTES)


def payload(part: object) -> int:
    """Bytes a message holds, without MessagePack's heads."""
    if isinstance(part, bytes):
        return len(part)
    if isinstance(part, int):
        return NUMBER_BYTES
    if isinstance(part, list):
        return sum(payload(each) for each in part)
    if isinstance(part, Part):
        return sum(payload(getattr(part, name)) for name in part.__struct_fields__)
    raise MalformedRequestError(f"A {type(part).__name__} is no part of a message.")


def packed(flags: list[bool]) -> bytes:
    """Bits as bytes, the first bit lowest."""
    number = sum(1 << place for place, flag in enumerate(flags) if flag)
    return number.to_bytes((len(flags) + 7) // 8, "little")


def unpacked(data: bytes, count: int) -> list[bool]:
    """``count`` bits.

    Raises:
        MalformedRequestError: there are more or fewer.
    """
    number = int.from_bytes(data, "little")
    if len(data) != (count + 7) // 8 or number >> count:
        raise MalformedRequestError(f"{len(data)} bytes are not {count} bits, or have others set beyond them.")
    return [bool(number >> place & 1) for place in range(count)]
