"""What a driver and the members of a session say to each other on the control channel.

All are items of kind ``SESSION``; values inside commands are written as in ``remote/wire.py``, with three extensions of
their own:

number  type                    contents
32      ``Slot``                place of an operand in the arguments of a local operation
33      bilinear map            [name, geometry or nil]
34      ``Geometry``            [image, kernel, stride, padding, dilation, groups]
"""

from __future__ import annotations

from typing import Any

import msgspec

from sharetorch.mpc.errors import MalformedRequestError
from sharetorch.mpc.linear import Slot
from sharetorch.mpc.network.handshake import SessionDocument
from sharetorch.mpc.network.member import Report
from sharetorch.mpc.protocols import bilinear
from sharetorch.mpc.protocols.bilinear import BilinearMap, Geometry
from sharetorch.remote import wire


class Item(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all."""


class Propose(Item, frozen=True, tag="propose"):
    """Ask a worker to take part in a session. Reply: ``Fresh``."""

    document: SessionDocument


class Open(Item, frozen=True, tag="open"):
    """Begin a session all members have agreed to. Reply: ``Opened``, once this member is connected to all others.

    Attributes:
        document: as proposed.
        fresh: what each member replied, in order of rank.
    """

    document: SessionDocument
    fresh: list[bytes]


class Command(Item, frozen=True, tag="command"):
    """Run an operation of the command table. No reply; ``Progress`` and ``Ended`` tell what became of it.

    Attributes:
        session: its id.
        operation: number of the operation, one more than the last.
        name: of the operation.
        inputs: numbers of the operands.
        outputs: numbers the results get.
        public: its public arguments.
        forget: numbers of objects to delete first.
    """

    session: bytes
    operation: int
    name: str
    inputs: list[int]
    outputs: list[int]
    public: dict[str, Any]
    forget: list[int] = []


class Input(Item, frozen=True, tag="input"):
    """A part of a share of data that the driver shares. No reply.

    Attributes:
        session: its id.
        operation: number of the operation, the same for all parts.
        number: the object gets.
        shape: of the whole.
        offset: of this part, in bytes.
        size: of the whole, in bytes.
        contents: of this part, little-endian; empty at the provider, which needs the shape only.
    """

    session: bytes
    operation: int
    number: int
    shape: list[int]
    offset: int
    size: int
    contents: bytes

    def __repr__(self) -> str:
        return f"Input(shape={self.shape}, {len(self.contents)} bytes)"


class Expect(Item, frozen=True, tag="expect"):
    """Wait for a share that an owner of data sends. No reply.

    Attributes:
        session: its id.
        operation: number of the operation.
        number: the object gets.
        owner: id of the worker that sends it.
        shape: of the object.
    """

    session: bytes
    operation: int
    number: int
    owner: str
    shape: list[int]


class Deposit(Item, frozen=True, tag="deposit"):
    """A part of a share of an owner's data, from the owner to a party. No reply.

    Attributes:
        session: its id.
        number: of the object.
        shape: of the whole.
        offset: of this part, in bytes.
        size: of the whole, in bytes.
        contents: of this part, little-endian.
        policy: to whom results may be released, as ``Policy.to_bytes`` writes it.
        frame: what names the rows; empty if they are not to be counted.
    """

    session: bytes
    number: int
    shape: list[int]
    offset: int
    size: int
    contents: bytes
    policy: bytes
    frame: list[str]

    def __repr__(self) -> str:
        return f"Deposit(shape={self.shape}, {len(self.contents)} bytes)"


class Output(Item, frozen=True, tag="output"):
    """Release this member's share of an object to the driver. Reply: ``Share``.

    Attributes:
        session: its id.
        number: of the object, which must have been refreshed.
    """

    session: bytes
    number: int


class Sync(Item, frozen=True, tag="sync"):
    """Reply with ``Synced`` when everything before is done."""

    session: bytes


class Close(Item, frozen=True, tag="close"):
    """End a session. No reply.

    Attributes:
        session: its id.
        reason: what went wrong, if something did: members then drop what they are at instead of finishing it.
    """

    session: bytes
    reason: str = ""


class Save(Item, frozen=True, tag="save"):
    """Write the shares of some objects to a checkpoint. Reply: ``Saved``.

    Attributes:
        session: its id.
        name: of the checkpoint.
        counter: grows from state to state of one name.
        checkpoint: id of this state, 16 bytes, the same at all members.
        numbers: of the objects.
        structure: what the driver needs to make use of them, given back by ``Loaded``.
    """

    session: bytes
    name: str
    counter: int
    checkpoint: bytes
    numbers: list[int]
    structure: bytes


class ListCheckpoints(Item, frozen=True, tag="list checkpoints"):
    """Tell which checkpoints of a name there are for this driver and these members. Reply: ``Checkpoints``."""

    session: bytes
    name: str


class Load(Item, frozen=True, tag="load"):
    """Hold the objects of a checkpoint again, under new numbers. Reply: ``Loaded``."""

    session: bytes
    name: str
    checkpoint: bytes
    numbers: list[int]


class Prune(Item, frozen=True, tag="prune"):
    """Delete checkpoints; those that are not there do not matter. Reply: ``Synced``."""

    session: bytes
    name: str
    checkpoints: list[bytes]


class Join(Item, frozen=True, tag="join"):
    """Join the sessions of a party's processes, so that shares may pass among them. No reply.

    Attributes:
        session: its id.
        operation: number of the operation.
        sessions: ids of the sessions of all lanes, in order.
    """

    session: bytes
    operation: int
    sessions: list[bytes]


class AllReduce(Item, frozen=True, tag="all reduce"):
    """Add up objects over all lanes; every lane takes part. No reply.

    Attributes:
        session: its id.
        operation: number of the operation.
        inputs: numbers of this lane's summands.
        outputs: numbers the sums get; empty if this lane does not want them.
        shapes: of the objects.
    """

    session: bytes
    operation: int
    inputs: list[int]
    outputs: list[int]
    shapes: list[list[int]]


class Broadcast(Item, frozen=True, tag="broadcast"):
    """Copy objects of lane 0 to all lanes; every lane takes part. No reply.

    Attributes:
        session: its id.
        operation: number of the operation.
        numbers: of the objects in lane 0, and that their copies get in the others.
        shapes: of the objects.
    """

    session: bytes
    operation: int
    numbers: list[int]
    shapes: list[list[int]]


class Pass(Item, frozen=True, tag="pass"):
    """Copy objects of one lane to another; these two take part. No reply.

    Attributes:
        session: its id.
        operation: number of the operation.
        source: lane that holds them.
        target: lane that gets copies.
        numbers: of the objects at the source, and that their copies get at the target.
        shapes: of the objects.
    """

    session: bytes
    operation: int
    source: int
    target: int
    numbers: list[int]
    shapes: list[list[int]]


class Prepare(Item, frozen=True, tag="prepare"):
    """Begin a block in which the provider works ahead of the parties. Reply: ``Synced``.

    Attributes:
        session: its id.
        block: its number, one more than the last.
        limit: bytes of corrections and masks that the provider may keep for it.
        unused: numbers of blocks that are not needed any more.
    """

    session: bytes
    block: int
    limit: int
    unused: list[int] = []


class StandIn(Item, frozen=True, tag="stand in"):
    """At the provider: begin the next run of the block, with objects like others that were never used.

    Reply: ``Synced``.

    Attributes:
        session: its id.
        run: its number, from 1 in each block.
        numbers: the new objects get.
        originals: numbers of those they are like.
    """

    session: bytes
    run: int
    numbers: list[int]
    originals: list[int]


class Placeholder(Item, frozen=True, tag="placeholder"):
    """At the provider: hold an object of a shape, for one that the driver will share. Reply: ``Synced``."""

    session: bytes
    number: int
    shape: list[int]


class Trace(Item, frozen=True, tag="trace"):
    """At the provider: do its part of an operation ahead, and keep what it sends. Reply: ``Dealt``.

    Attributes:
        session: its id.
        name: of the operation.
        inputs: numbers of the operands.
        outputs: numbers the results get in the block.
        public: its public arguments.
        forget: numbers of objects of the block to delete first.
    """

    session: bytes
    name: str
    inputs: list[int]
    outputs: list[int]
    public: dict[str, Any]
    forget: list[int] = []


class Finish(Item, frozen=True, tag="finish"):
    """At the provider: the block is made. Reply: ``Synced``.

    Attributes:
        session: its id.
        keep: whether it will be used.
    """

    session: bytes
    keep: bool


class Use(Item, frozen=True, tag="use"):
    """Take the steps of a prepared run for the commands to come. No reply.

    Attributes:
        session: its id.
        block: number of the block.
        run: number of the run, one more than the last that was used of the block.
        unused: numbers of blocks that are not needed any more.
    """

    session: bytes
    block: int
    run: int
    unused: list[int] = []


class Leave(Item, frozen=True, tag="leave"):
    """End the prepared run; what is left of it is given up. Reply: ``Used`` of the provider, ``Synced`` of others."""

    session: bytes


class SavePrepared(Item, frozen=True, tag="save prepared"):
    """At the provider: move the runs of a block that are left to an encrypted file. Reply: ``Saved``.

    Attributes:
        session: its id.
        block: number of the block.
        name: of the file.
    """

    session: bytes
    block: int
    name: str


class LoadPrepared(Item, frozen=True, tag="load prepared"):
    """At the provider: hold what a file has, once. Reply: ``Restored``."""

    session: bytes
    name: str


class Fresh(Item, frozen=True, tag="fresh"):
    """32 fresh bytes of a member, for the session id."""

    fresh: bytes


class Opened(Item, frozen=True, tag="opened"):
    """A member is connected to all others."""


class Share(Item, frozen=True, tag="share"):
    """A member's share of an object, little-endian ring elements in row-major order."""

    shape: list[int]
    contents: bytes

    def __repr__(self) -> str:
        return f"Share(shape={self.shape}, {len(self.contents)} bytes)"


class Synced(Item, frozen=True, tag="synced"):
    """Everything before is done."""


class Saved(Item, frozen=True, tag="saved"):
    """A checkpoint is on the disk, in a file of so many bytes."""

    size: int


class CheckpointEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A checkpoint that a member has.

    Attributes:
        counter: as saved.
        checkpoint: its id.
        objects: how many it holds.
    """

    counter: int
    checkpoint: bytes
    objects: int


class Checkpoints(Item, frozen=True, tag="checkpoints"):
    """Checkpoints of a name.

    Attributes:
        entries: those that can be read, the oldest first.
        problems: what is wrong with files that cannot.
    """

    entries: list[CheckpointEntry]
    problems: list[str]


class Loaded(Item, frozen=True, tag="loaded"):
    """The objects of a checkpoint are held again.

    Attributes:
        structure: as saved.
        shapes: of the objects.
    """

    structure: bytes
    shapes: list[list[int]]


class Dealt(Item, frozen=True, tag="dealt"):
    """The provider has done its part of an operation ahead.

    Attributes:
        offline: bytes of corrections that are kept, by rank of the receiver.
        seconds: it took.
    """

    offline: dict[int, int]
    seconds: float


class Used(Item, frozen=True, tag="used"):
    """A prepared run has ended.

    Attributes:
        used: steps that were taken.
        beside: commands that were dealt for anew.
        left: steps that were not taken.
        reason: why the first command did not fit; empty if all did.
    """

    used: int
    beside: int
    left: int
    reason: str


class Restored(Item, frozen=True, tag="restored"):
    """A file is loaded and deleted; it had this block."""

    block: int


class Refused(Item, frozen=True, tag="refused"):
    """It was not done.

    Attributes:
        kind: name of the error's class.
        text: its message.
    """

    kind: str
    text: str


class Progress(Item, frozen=True, tag="progress"):
    """What the operations up to now have cost at a member; unasked."""

    session: bytes
    reports: list[Report]


class Ended(Item, frozen=True, tag="ended"):
    """A session is over at a member; unasked.

    Attributes:
        session: its id.
        kind: name of the error that ended it.
        member: id of the member at fault, if known.
        operation: number of the operation that was under way.
        text: the error's message.
    """

    session: bytes
    kind: str
    member: str | None
    operation: int
    text: str


ToMember = (
    Propose | Open | Command | Input | Expect | Deposit | Output | Sync | Close | Save | ListCheckpoints | Load | Prune
    | Join | AllReduce | Broadcast | Pass | Prepare | StandIn | Placeholder | Trace | Finish | Use | Leave
    | SavePrepared | LoadPrepared
)  # fmt: skip
Answer = Fresh | Opened | Share | Synced | Saved | Checkpoints | Loaded | Dealt | Used | Restored | Refused
Notice = Progress | Ended

_MAPS: dict[str, type[BilinearMap]] = {
    "product": bilinear.Product,
    "matrix product": bilinear.MatrixProduct,
    "convolution": bilinear.Convolution,
    "input gradient": bilinear.ConvolutionInputGradient,
    "kernel gradient": bilinear.ConvolutionKernelGradient,
}
_NAMES = {kind: name for name, kind in _MAPS.items()}


class _GeometryFields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    image: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


class _MapFields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    name: str
    geometry: _GeometryFields | None


_encode = msgspec.msgpack.Encoder().encode


def _geometry_fields(g: Geometry) -> _GeometryFields:
    return _GeometryFields(g.image, g.kernel, g.stride, g.padding, g.dilation, g.groups)


def _geometry(fields: _GeometryFields) -> Geometry:
    dims = len(fields.image) - 2
    spatial = (fields.stride, fields.padding, fields.dilation)
    fits = dims in (1, 2) and len(fields.kernel) == dims + 2 and all(len(part) == dims for part in spatial)
    sizes = (*fields.image, *fields.kernel, *fields.stride, *fields.dilation, fields.groups)
    if not fits or min(sizes) < 1 or min(fields.padding) < 0 or max(sizes, default=0) >= 1 << 32:
        raise MalformedRequestError("A geometry of a convolution with wrong dimensions.")
    return Geometry(fields.image, fields.kernel, fields.stride, fields.padding, fields.dilation, fields.groups)


def _pack_map(function: BilinearMap) -> bytes:
    geometry = getattr(function, "geometry", None)
    return _encode(_MapFields(_NAMES[type(function)], None if geometry is None else _geometry_fields(geometry)))


def _unpack_map(data: bytes, node: Any) -> BilinearMap:
    fields = msgspec.msgpack.decode(data, type=_MapFields)
    kind = _MAPS[fields.name]
    return kind() if fields.geometry is None else kind(_geometry(fields.geometry))  # type: ignore[call-arg]


def _pack_slot(slot: Slot) -> bytes:
    return bytes([slot.number])


def _pack_geometry(geometry: Geometry) -> bytes:
    return _encode(_geometry_fields(geometry))


def _unpack_slot(data: bytes, node: Any) -> Slot:
    (number,) = data
    return Slot(number)


wire.register(32, Slot, _pack_slot, _unpack_slot)
wire.register(33, BilinearMap, _pack_map, _unpack_map)
wire.register(
    34, Geometry, _pack_geometry, lambda data, node: _geometry(msgspec.msgpack.decode(data, type=_GeometryFields))
)

_Ext = msgspec.msgpack.Ext


def written(value: Any) -> Any:
    """Public arguments with the types above as extensions; msgspec would write dataclasses as dictionaries."""
    kind = type(value)
    if kind is Slot:
        return _Ext(32, _pack_slot(value))
    if kind in _NAMES:
        return _Ext(33, _pack_map(value))
    if kind is Geometry:
        return _Ext(34, _pack_geometry(value))
    if kind is dict:
        return {key: written(part) for key, part in value.items()}
    return [written(part) for part in value] if kind in (list, tuple) else value
