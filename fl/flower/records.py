"""What ServerApp and client mod say to each other: one ConfigRecord in a Flower message.

It holds the name of a step and MessagePack bytes: an ``Order`` and its answer. Steps of masks are those of
``fl.masking``; their messages are read by that package's own reader, within its limits of size.

step        order          answer
hello       nothing        the node's name
advertise   ``Opening``    ``Advertise``      and so on for the steps of ``masking.rounds.Step``
upload      ``Invitation`` nothing            the vector goes to the aggregators, past Flower
pieces      ``Uploads``    ``PieceOf``        simulations only
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from flwr.app import ConfigRecord, Message, RecordDict

from sharetorch.fl.flower.errors import FlowerError
from sharetorch.mpc.errors import MalformedRequestError

RECORD = "sharetorch"
HELLO, PIECES = "hello", "pieces"


class Wanted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a client's vector holds, all of it public.

    Attributes:
        arrays: key of the model in the message; empty for figures alone.
        weight: key of the weight among the metrics; empty if all weigh the same.
        figures: largest magnitude of each figure, by name.
        clamp: whether coordinates beyond the limit are set to it.
    """

    arrays: str
    weight: str
    figures: dict[str, float]
    clamp: bool


class Order(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a client is to do.

    Attributes:
        step: see above.
        message: of the step.
        wanted: what its vector holds, in steps that train or evaluate.
    """

    step: str
    message: bytes = b""
    wanted: Wanted | None = None


class Uploads(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A round of aggregators in the ServerApp's own process.

    Attributes:
        rounds: ids of the aggregations of the update and of the figures; empty if there is none.
        aggregators: how many there are.
        limits: coordinate, clients, weight, fraction bits, least.
        weighted: whether the update has a weight.
    """

    rounds: list[bytes]
    aggregators: int
    limits: tuple[float, int, int, int, int]
    weighted: bool


class PieceOf(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A piece of an upload, see ``fl.aggregation.uploads``."""

    upload: bytes
    rank: int
    seeded: bool
    contents: bytes

    def __repr__(self) -> str:
        return f"PieceOf(aggregator {self.rank}, {len(self.contents)} bytes)"


S = TypeVar("S", bound=msgspec.Struct)


def write(part: Any) -> bytes:
    """A part as bytes."""
    return msgspec.msgpack.encode(part)


def read(data: bytes, kind: type[S]) -> S:
    """A part from bytes.

    Raises:
        MalformedRequestError: they are none.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise MalformedRequestError(f"These bytes are no {kind.__name__}: {error}.") from error


def read_pieces(data: bytes) -> list[list[PieceOf]]:
    """Pieces of all uploads of a client.

    Raises:
        MalformedRequestError: the bytes are none.
    """
    try:
        return msgspec.msgpack.decode(data, type=list[list[PieceOf]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise MalformedRequestError(f"These bytes are no pieces of uploads: {error}.") from error


def carried(data: bytes) -> ConfigRecord:
    """The record that holds an order or an answer."""
    return ConfigRecord({"data": data})


def order_in(message: Message) -> Order | None:
    """The order in a message, if there is one.

    Raises:
        MalformedRequestError: it cannot be read.
    """
    record = message.content.config_records.get(RECORD)
    return None if record is None else read(_data(record), Order)


def answer_in(message: Message) -> bytes:
    """The answer in a reply.

    Raises:
        FlowerError: the client answered without the mod, or not at all.
    """
    if message.has_error():
        raise FlowerError(message.error.reason)
    record = message.content.config_records.get(RECORD)
    if record is None:
        raise FlowerError(
            "The node replied without the answer of a protocol. Its ClientApp lacks the mod: "
            "ClientApp(mods=[sharetorch.fl.flower.secure_mod])."
        )
    return _data(record)


def reply(data: bytes, message: Message) -> Message:
    """An answer, and nothing else."""
    return Message(RecordDict({RECORD: carried(data)}), reply_to=message)


def _data(record: ConfigRecord) -> bytes:
    data = record.get("data")
    if not isinstance(data, bytes):
        raise MalformedRequestError(f"The record {RECORD!r} of a message holds no bytes under 'data'.")
    return data
