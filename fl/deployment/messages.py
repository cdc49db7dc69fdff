"""The messages between server and client, besides those of a masked sum (``fl/masking/messages.py``): all there are.

A message is a MessagePack array: the name of its kind, then its fields in order. Whatever has another form is refused.

A client says ``Hello`` and gets the ``Task``; ``Ready`` says that it takes it. In a round the server sends ``Train``,
the client trains and answers ``Trained``. ``Gathering`` begins the sum among those who have: its keys, shares and
vectors follow. A client that cannot go on says ``Left``, and waits for the next ``Train``. An attempt is a round that
may have to be run again.
"""

from __future__ import annotations

from typing import Annotated, Any, Union

import msgspec

from sharetorch.fl.masking.messages import (
    Advertise,
    Agreement,
    Deliveries,
    Keys,
    Masked,
    Message,
    Opening,
    Part,
    Reveal,
    Shares,
    Survivors,
    Unmask,
)
from sharetorch.fl.training import Settings
from sharetorch.mpc.errors import MalformedRequestError

VERSION = 1
MOST_MEMBERS = 256
"""Of a sum: everybody has masks in common with everybody else."""
GRAPH_BYTES = 1 << 28
CERTIFICATE_BYTES = 1 << 13

Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 40)]
Name = Annotated[str, msgspec.Meta(max_length=200)]
Text = Annotated[str, msgspec.Meta(max_length=2000)]
Certificate = Annotated[bytes, msgspec.Meta(max_length=CERTIFICATE_BYTES)]
Real = Annotated[float, msgspec.Meta(ge=0, le=1e18)]


class Shape(Part, frozen=True):
    """One tensor of a model.

    Attributes:
        dtype: its name.
        sizes: of its dimensions.
        trained: whether it is a parameter that clients train.
    """

    dtype: Name
    sizes: Annotated[list[Count], msgspec.Meta(max_length=8)]
    trained: bool


class Hello(Message, frozen=True, tag="hello"):
    """Client to server, first.

    Attributes:
        version: of these messages.
        id: who says it, as in its certificate.
    """

    version: int
    id: Name


class Task(Message, frozen=True, tag="task"):
    """Server to client: what is learned, and how.

    Attributes:
        version: of these messages.
        model: name of a stock model; empty if the model comes as graphs.
        loss: name of a loss; empty likewise.
        graphs: ``RecordedStep`` for each size of a batch, as ``remote/wire.py`` writes them; empty for a stock model.
        shapes: of the model's tensors, parameters then buffers.
        parameters: how many of them are parameters.
        settings: how a client trains.
        seed: for the order of items.
        proximal: mu of FedProx.
        clip: length that an update is scaled down to; 0 leaves it as it is.
        largest: magnitude of a coordinate of an update, at most.
        weight: of a client, at most: who has more items counts as much.
        fraction_bits: of the encoding.
    """

    version: int
    model: Name
    loss: Name
    graphs: Annotated[bytes, msgspec.Meta(max_length=GRAPH_BYTES)]
    shapes: Annotated[list[Shape], msgspec.Meta(max_length=10_000)]
    parameters: Count
    settings: Settings
    seed: int
    proximal: Real
    clip: Real
    largest: Real
    weight: Count
    fraction_bits: Annotated[int, msgspec.Meta(ge=0, le=62)]


class Ready(Message, frozen=True, tag="ready"):
    """Client to server: it takes the task."""


class Train(Message, frozen=True, tag="train"):
    """Server to client: train from here.

    Attributes:
        round: from 1.
        attempt: at this round, from 1.
        tensors: of the model, one after the other, little-endian.
    """

    round: Count
    attempt: Count
    tensors: bytes


class Trained(Message, frozen=True, tag="trained"):
    """Client to server: an update is there to be summed."""

    round: Count
    attempt: Count


class Gathering(Message, frozen=True, tag="gathering"):
    """Server to client: a sum begins.

    Attributes:
        round: which was trained for.
        attempt: likewise.
        certificates: of its members.
        opening: its document.
    """

    round: Count
    attempt: Count
    certificates: Annotated[list[Certificate], msgspec.Meta(max_length=MOST_MEMBERS)]
    opening: Opening


class Left(Message, frozen=True, tag="left"):
    """Client to server: it takes no further part in this attempt.

    Attributes:
        round: of the attempt; 0 for all.
        attempt: likewise.
        reason: name of the error. Its text stays at the client.
    """

    round: Count
    attempt: Count
    reason: Name


class Finished(Message, frozen=True, tag="finished"):
    """Server to client: there are no more rounds.

    Attributes:
        rounds: there were.
        tensors: of the final model.
    """

    rounds: Count
    tensors: bytes


class Refused(Message, frozen=True, tag="refused"):
    """Server to client: it is turned away.

    Attributes:
        kind: name of an error of this package.
        text: why, and what to do.
    """

    kind: Name
    text: Text


FromClient = Union[Hello, Ready, Trained, Left, Advertise, Shares, Masked, Agreement, Reveal]  # noqa: UP007
FromServer = Union[Task, Train, Gathering, Keys, Deliveries, Survivors, Unmask, Finished, Refused]  # noqa: UP007

_from_client = msgspec.msgpack.Decoder(FromClient)
_from_server = msgspec.msgpack.Decoder(FromServer)


def read_from_client(data: bytes) -> FromClient:
    """What a client sent.

    Raises:
        MalformedRequestError: it is no message of a client.
    """
    return _read(_from_client, data)  # type: ignore[no-any-return]


def read_from_server(data: bytes) -> FromServer:
    """What a server sent.

    Raises:
        MalformedRequestError: it is no message of a server.
    """
    return _read(_from_server, data)  # type: ignore[no-any-return]


def _read(decoder: Any, data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise MalformedRequestError(f"{len(data)} bytes are no message that may come here: {error}.") from error
