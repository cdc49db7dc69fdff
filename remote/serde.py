"""``sy.serde``: values as bytes, in the form in which they cross wires. Never pickle.

The bytes are one MessagePack array (``remote/wire.py`` says how values are written): the version of this form, the
value, and for a tensor its tags, its description and whether it requires gradients. Tuples and sets come back as
lists.

What stays elsewhere travels as a claim: the bytes of a pointer or of a shared tensor's handle hold no value, and may be
read once, in this process. Then the claim is the reader's; bytes nobody reads leave the object where it is.
"""

from __future__ import annotations

from typing import Any

import msgspec
from torch import Tensor

from sharetorch.mpc.errors import MalformedRequestError, UnsupportedOperationError
from sharetorch.remote import compression, labels, wire
from sharetorch.remote.node import Node
from sharetorch.remote.pointer import PointerTensor
from sharetorch.remote.worker import local

VERSION = 1


class Parcel(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A value on its way.

    Attributes:
        version: of this form.
        value: what is in it.
        tags: of a tensor.
        description: of a tensor.
        requires_grad: of a tensor.
    """

    version: int
    value: Any
    tags: list[str] = []
    description: str | None = None
    requires_grad: bool = False


def serialize(obj: Any, worker: Any = None, **options: Any) -> bytes:
    """A value as bytes.

    Args:
        obj: a tensor, pointer, handle of a shared tensor, plan, number, text, or list or dictionary of them.
        worker: accepted for the tutorials' sake, as are ``simplified`` and ``force_full_simplification``.
        options: see ``worker``.

    Raises:
        UnsupportedDtypeError: something that has no form on the wire.
        UnsupportedOperationError: ``compression.default_compress_scheme`` asks for compression.
    """
    if compression.default_compress_scheme != compression.NO_COMPRESSION:
        raise UnsupportedOperationError(
            f"Compression {compression.default_compress_scheme!r} is not available; set default_compress_scheme = "
            "NO_COMPRESSION, and compress the bytes yourself."
        )
    if not isinstance(obj, Tensor):
        return wire.encode(Parcel(VERSION, obj))
    label = labels.of(obj)
    needs_grad = obj.requires_grad and obj.dtype.is_floating_point
    return wire.encode(Parcel(VERSION, obj, list(label.tags), label.description, needs_grad))


def deserialize(binary: bytes, worker: Node | None = None, **options: Any) -> Any:
    """The value of bytes that ``serialize`` gave. Nothing in them is ever run.

    Args:
        binary: the bytes, from anybody.
        worker: who gets pointers and handles among the values; the driver if not given.
        options: accepted for the tutorials' sake.

    Raises:
        MalformedRequestError: bytes of another form, or of another version of it.
        ObjectGoneError: the claim in them was taken before.
    """
    parcel = wire.Decoder(Parcel, local() if worker is None else worker).decode(bytes(binary))
    if parcel.version != VERSION:
        raise MalformedRequestError(f"These bytes have version {parcel.version}; version {VERSION} is understood.")
    value = parcel.value
    if isinstance(value, Tensor):
        if parcel.requires_grad and value.dtype.is_floating_point:
            value.requires_grad_(True)
        if not isinstance(value, PointerTensor):
            labels.put(value, labels.Label(tuple(parcel.tags), parcel.description))
    return value
