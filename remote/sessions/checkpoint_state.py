"""Nested states of models and optimizers as bytes beside shared tensors.

Members keep these bytes, so no private number may be in them: shared tensors become their place in a list, numbers and
texts stay as they are, and plain tensors of more than one element are refused.

A value is MessagePack's own None, boolean, integer, float or text, or a list that begins with what it is:

    ["l", [values]]     list
    ["t", [values]]     tuple
    ["d", [[key, value]]]   dictionary, in its order
    ["x", dtype, shape, [number]]     plain tensor of at most one element
    ["s", place, [encoding], dtype, shape, bits, requires_grad]   shared tensor
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import astuple
from typing import Annotated, Any, NamedTuple

import msgspec
import torch
from msgspec import Meta
from torch import Tensor

from sharetorch.mpc.errors import CheckpointError
from sharetorch.mpc.fixedpoint import Encoding
from sharetorch.mpc.tensor.fixed_precision import FixedPrecisionTensor
from sharetorch.mpc.tensor.shared import SharedTensor
from sharetorch.remote.wire import DTYPES

MAX_DEPTH = 32

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_REMEDY = "Share it with .share(...), or keep it in a file of your own with torch.save."


class Entry(NamedTuple):
    """A shared tensor among saved values.

    Attributes:
        place: of its object in the list of objects.
        encoding: how its integers stand for numbers.
        dtype: logical one.
        shape: of the tensor.
        bits: whether all elements are known to be bits.
        requires_grad: whether it is a leaf that gathers a gradient.
    """

    place: int
    encoding: Encoding
    dtype: torch.dtype
    shape: tuple[int, ...]
    bits: bool
    requires_grad: bool


class _EncodingFields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    base: int
    precision: Annotated[int, Meta(ge=0, le=62)]
    scale: Annotated[int, Meta(ge=0, le=62)]
    integer: bool
    explicit: bool
    truncation: str


class _Shared(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    tag: str
    place: Annotated[int, Meta(ge=0)]
    encoding: _EncodingFields
    dtype: str
    shape: list[Annotated[int, Meta(ge=0)]]
    bits: bool
    requires_grad: bool


class _Plain(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    tag: str
    dtype: str
    shape: list[Annotated[int, Meta(ge=0, le=1)]]
    values: list[bool | int | float]


class Packer:
    """Writes values, and gathers the shared tensors in them.

    Attributes:
        tensors: one for each object.
    """

    def __init__(self) -> None:
        self.tensors: list[SharedTensor] = []
        self._places: dict[tuple[int, Encoding], int] = {}

    def pack(self, value: Any) -> bytes:
        """A value as bytes.

        Raises:
            CheckpointError: it holds something that cannot be kept; the message says where.
        """
        return msgspec.msgpack.encode(self._node(value, "", 0))

    def _node(self, value: Any, where: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise CheckpointError(f"{where} lies deeper than {MAX_DEPTH} levels. Save a flatter dictionary.")
        if isinstance(value, Tensor):
            return self._tensor(value, where)
        if isinstance(value, Mapping):
            parts = [(key, self._node(part, _at(where, key), depth + 1)) for key, part in value.items()]
            return ["d", [[_key(key, where), part] for key, part in parts]]
        if type(value) in (list, tuple):
            tag = "l" if type(value) is list else "t"
            return [tag, [self._node(part, _at(where, n), depth + 1) for n, part in enumerate(value)]]
        return _scalar(value, where)

    def _tensor(self, x: Tensor, where: str) -> list[Any]:
        if isinstance(x, SharedTensor) and not isinstance(x, FixedPrecisionTensor):
            return self._shared(x)
        if type(x) not in (Tensor, torch.nn.Parameter) or x.dtype not in _NAMES or x.dtype.is_complex:
            raise CheckpointError(f"{where} is a {type(x).__name__} of {x.dtype}, which no checkpoint holds. {_REMEDY}")
        if x.numel() > 1:
            raise CheckpointError(
                f"{where} is a plain tensor of shape {tuple(x.shape)}. What is not shared would be stored with every "
                f"member, for it to read. {_REMEDY}"
            )
        return ["x", _NAMES[x.dtype], list(x.shape), [x.item()] if x.numel() else []]

    def _shared(self, x: SharedTensor) -> list[Any]:
        key = x.handle.number, x.encoding
        place = self._places.setdefault(key, len(self.tensors))
        if place == len(self.tensors):
            self.tensors.append(x)
        leaf = x.requires_grad and x.is_leaf
        return ["s", place, list(astuple(x.encoding)), _NAMES[x.dtype], list(x.shape), x.bits, leaf]


def _at(where: str, key: Any) -> str:
    return f"{where}[{key!r}]" if where else str(key)


def _key(key: Any, where: str) -> Any:
    if type(key) not in (str, int):
        raise CheckpointError(f"{where} has a key of type {type(key).__name__}; use texts or integers.")
    return _scalar(key, where)


def _scalar(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        return int(value)
    if isinstance(value, float):
        return float(value)
    raise CheckpointError(
        f"{where} is a {type(value).__name__}, which no checkpoint holds: only shared tensors, numbers, texts, and "
        "lists and dictionaries of them. Keep it in a file of your own."
    )


def unpack(data: bytes, make: Callable[[Entry], SharedTensor]) -> Any:
    """The value behind bytes of ``Packer.pack``.

    Args:
        data: as members gave it back.
        make: gives the shared tensor of an entry.

    Raises:
        CheckpointError: the bytes are of another form.
    """
    try:
        return _value(msgspec.msgpack.decode(data), make, 0)
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise CheckpointError(
            "The members gave back a checkpoint of another form than this version of sharetorch writes. Load it with "
            "the version that saved it."
        ) from error


def _value(node: Any, make: Callable[[Entry], SharedTensor], depth: int) -> Any:
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if not isinstance(node, list) or depth > MAX_DEPTH:
        raise ValueError("no value")
    match node[0]:
        case "l":
            return [_value(part, make, depth + 1) for part in node[1]]
        case "t":
            return tuple(_value(part, make, depth + 1) for part in node[1])
        case "d":
            return {_scalar(key, "a key"): _value(part, make, depth + 1) for key, part in node[1]}
        case "x":
            return _plain(msgspec.convert(node, _Plain))
        case "s":
            return make(_entry(msgspec.convert(node, _Shared)))
    raise ValueError("no value")


def _plain(fields: _Plain) -> Tensor:
    if len(fields.values) != math.prod(fields.shape):
        raise ValueError("a wrong number of elements")
    return torch.tensor(fields.values, dtype=DTYPES[fields.dtype]).reshape(fields.shape)


def _entry(fields: _Shared) -> Entry:
    encoding = Encoding(*msgspec.structs.astuple(fields.encoding))
    return Entry(
        fields.place, encoding, DTYPES[fields.dtype], tuple(fields.shape), fields.bits, fields.requires_grad
    )  # fmt: skip
