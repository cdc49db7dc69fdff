"""Fixed-precision tensors and handles of shared tensors as they cross a wire.

A handle names a session and an object in it; no share is ever part of it. Whoever receives the handle may command the
session, so a node gives it only to those who may read the object it was made from.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import msgspec
import torch

from sharetorch.mpc.errors import MalformedRequestError, ObjectGoneError, UnsupportedOperationError
from sharetorch.mpc.fixedpoint import Encoding, fixed
from sharetorch.mpc.session import Session
from sharetorch.mpc.tensor import shared
from sharetorch.mpc.tensor.fixed_precision import FixedPrecisionTensor, from_integers
from sharetorch.mpc.tensor.shared import SharedTensor
from sharetorch.remote import wire
from sharetorch.remote.objects import KINDS, dtype_name
from sharetorch.remote.wire import DTYPES

_FIXED, _SHARED = 17, 18
_TRUNCATIONS = ("probabilistic", "exact", "local")


class EncodingFields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An ``Encoding`` on the wire."""

    base: int
    precision: int
    scale: int
    integer: bool
    explicit: bool
    truncation: str


def _fields(encoding: Encoding) -> EncodingFields:
    return EncodingFields(
        encoding.base, encoding.precision, encoding.scale, encoding.integer, encoding.explicit, encoding.truncation
    )


def _encoding(fields: EncodingFields) -> Encoding:
    if fields.truncation not in _TRUNCATIONS or not 0 <= fields.scale <= 64:
        raise MalformedRequestError("An encoding with an unknown truncation or scale.")
    if not fields.integer:
        fixed(fields.precision, fields.base)
    return Encoding(fields.base, fields.precision, fields.scale, fields.integer, fields.explicit, fields.truncation)


class FixedFields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A fixed-precision tensor on the wire: its integers and how to read them."""

    integers: Any
    encoding: EncodingFields
    dtype: str


def _pack_fixed(x: FixedPrecisionTensor) -> bytes:
    return wire.encode(FixedFields(x.integers, _fields(x.encoding), dtype_name(x.dtype)))


def _unpack_fixed(data: bytes, node: Any) -> FixedPrecisionTensor:
    fields = wire.Decoder(FixedFields, node).decode(data)
    if not isinstance(fields.integers, torch.Tensor) or fields.integers.dtype != torch.int64:
        raise MalformedRequestError("A fixed-precision tensor without int64 elements.")
    return from_integers(fields.integers, _encoding(fields.encoding), DTYPES[fields.dtype])


class HandleFields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The handle of a shared tensor on the wire."""

    claim: int
    session: bytes
    encoding: EncodingFields
    dtype: str
    shape: list[int]
    bits: bool


class Claims:
    """Handles under way: the object lives until the receiver has taken its claim over."""

    def __init__(self) -> None:
        self._held: dict[int, shared.Handle] = {}

    def put(self, handle: shared.Handle) -> int:
        """Let a handle travel; gives the number to take it by."""
        self._held[handle.number] = handle
        return handle.number

    def take(self, number: int) -> shared.Handle:
        """The handle of that number.

        Raises:
            ObjectGoneError: it was taken before, or never sent.
        """
        try:
            return self._held.pop(number)
        except KeyError:
            raise ObjectGoneError(
                f"The handle of shared object {number} was taken before. Share the data again."
            ) from None


claims = Claims()
"""All handles under way in this process."""

driven: WeakValueDictionary[bytes, Session] = WeakValueDictionary()
"""Sessions with members on other machines that this process drives, by id."""


def networked(fields: HandleFields) -> shared.Handle:
    """The handle of an object of such a session.

    Raises:
        ObjectGoneError: this process does not drive that session, or it has ended.
    """
    session = driven.get(fields.session)
    if session is None or session.ended:
        raise ObjectGoneError("The session of a shared tensor has ended, or is another driver's. Share the data again.")
    return shared.Handle(session, fields.claim, _encoding(fields.encoding))


def _pack_shared(x: SharedTensor) -> bytes:
    if not x.shadow.is_contiguous():
        raise UnsupportedOperationError("A view of a shared tensor cannot be sent; send x.contiguous().")
    session = getattr(x.session, "id", b"")
    claim = x.handle.number if session else claims.put(x.handle)
    return wire.encode(
        HandleFields(claim, session, _fields(x.encoding), dtype_name(x.dtype), list(x.shape), x.bits)
    )


def _unpack_shared(data: bytes, node: Any) -> SharedTensor:
    fields = wire.Decoder(HandleFields, node).decode(data)
    _encoding(fields.encoding)
    handle = networked(fields) if fields.session else claims.take(fields.claim)
    made = SharedTensor(handle, torch.empty(fields.shape, dtype=DTYPES[fields.dtype], device="meta"))
    made.bits = fields.bits
    return made


wire.register(_FIXED, FixedPrecisionTensor, _pack_fixed, _unpack_fixed)
wire.register(_SHARED, SharedTensor, _pack_shared, _unpack_shared)
KINDS[SharedTensor] = "shared"
KINDS[FixedPrecisionTensor] = "fixed"
