"""Values as they cross a wire: MessagePack with a fixed set of extension types, never code.

None, booleans, integers of 64 bits, floats, texts, bytes, lists and dictionaries are MessagePack's own. Everything else
is an extension: a number, and bytes that a decoder registered for that number checks before it makes anything of them.

number  type                       contents
1       ``Ref``                    8 bytes, the number of an object at the receiver
2       ``torch.Tensor``           [dtype, shape], then the elements, little-endian, in row-major order
3       ``torch.dtype``            its name
4       ``torch.memory_format``    its name
5       ``torch.layout``           its name (strided is the only one)
6       ``torch.device``           its kind (cpu is the only one)
7       ``complex``                two doubles
8       ``Seen``                   [number, form, sizes]: a view of an object at the receiver

Modules that define further types register them: pointers (16), fixed-precision tensors (17), handles of shared tensors
(18), plans and protocols (19, 20), models (21), training settings (22).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy
import torch
from torch import Tensor

from sharetorch.mpc.errors import MalformedRequestError, ShareTorchError, UnsupportedDtypeError

Ext = msgspec.msgpack.Ext

_REF, _TENSOR, _SEEN = 1, 2, 8


class Ref:
    """An object of the receiver, by number."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def __repr__(self) -> str:
        return f"Ref({self.number})"


class Seen(Ref):
    """A view of an object of the receiver, made when it is used: saves a request for every transposed weight.

    Attributes:
        form: "t" or "view".
        sizes: of the view.
    """

    __slots__ = ("form", "sizes")

    def __init__(self, number: int, form: str, sizes: list[int]) -> None:
        super().__init__(number)
        self.form = form
        self.sizes = sizes

    def __repr__(self) -> str:
        return f"Seen({self.number}, {self.form}, {self.sizes})"


def written(number: int) -> msgspec.msgpack.Ext:
    """What ``Ref(number)`` is on the wire."""
    return Ext(_REF, number.to_bytes(8, "big"))


def written_view(number: int, form: str, sizes: list[int]) -> msgspec.msgpack.Ext:
    """What ``Seen(number, form, sizes)`` is on the wire."""
    return Ext(_SEEN, _view_bytes(number, form, sizes))


def _view_bytes(number: int, form: str, sizes: list[int]) -> bytes:
    return _encoder.encode([number, form, sizes])


def form_written(extension: msgspec.msgpack.Ext) -> str:
    """What ``written`` and ``written_view`` were given, but for the number and the sizes: "object", "t" or "view"."""
    return "object" if extension.code == _REF else str(msgspec.msgpack.decode(extension.data)[1])


class _SeenFields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    number: Annotated[int, msgspec.Meta(ge=0)]
    form: Literal["t", "view"]
    sizes: list[int]


class Codec(NamedTuple):
    """How one type crosses a wire.

    Attributes:
        number: of the extension, 1 to 127.
        pack: from a value to bytes.
        unpack: from bytes to a value, for the node that received them; raises ``MalformedRequestError``.
    """

    number: int
    pack: Callable[[Any], bytes]
    unpack: Callable[[bytes, Any], Any]


_by_type: dict[type, Codec] = {}
_by_number: dict[int, Codec] = {}


def register(number: int, kind: type, pack: Callable[[Any], bytes], unpack: Callable[[bytes, Any], Any]) -> None:
    """Let values of a type, and of its subclasses that have no codec of their own, cross wires.

    Raises:
        ValueError: the number is taken.
    """
    if number in _by_number:
        raise ValueError(f"Extension {number} is taken; choose another number.")
    _by_type[kind] = _by_number[number] = Codec(number, pack, unpack)


def _codec(kind: type) -> Codec | None:
    return next((_by_type[base] for base in kind.__mro__ if base in _by_type), None)


def _pack_other(value: Any) -> Any:
    codec = _by_type.get(type(value)) or _codec(type(value))
    if codec is None:
        raise UnsupportedDtypeError(
            f"A value of type {type(value).__name__} cannot be sent to a worker. Tensors, numbers, texts and lists of "
            "them can, and models with send()."
        )
    return Ext(codec.number, codec.pack(value))


def _unpack_other(node: Any, number: int, data: memoryview) -> Any:
    if number == _REF and len(data) == 8:  # most of all extensions
        return Ref(int.from_bytes(data, "big"))
    codec = _by_number.get(number)
    if codec is None:
        raise MalformedRequestError(f"Extension {number} is none of the documented ones.")
    try:
        return _unpack_tensor(data, node) if number == _TENSOR else codec.unpack(bytes(data), node)
    except ShareTorchError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, RuntimeError, struct.error) as error:
        raise MalformedRequestError(f"Extension {number} has wrong contents ({type(error).__name__}).") from error


_encoder = msgspec.msgpack.Encoder(enc_hook=_pack_other)


def encode(value: Any) -> bytes:
    """A value or message as bytes.

    Raises:
        UnsupportedDtypeError: it holds something that cannot cross a wire.
        MalformedRequestError: it holds an integer beyond 64 bits.
    """
    try:
        return _encoder.encode(value)
    except OverflowError as error:
        raise MalformedRequestError(f"An integer beyond 64 bits cannot be sent ({error}).") from error


class Decoder:
    """Reads bytes that a node received.

    Args:
        kind: the types that are accepted; see ``msgspec``.
        node: who received them, for types such as pointers that belong to somebody.
    """

    def __init__(self, kind: Any, node: Any) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind, ext_hook=partial(_unpack_other, node))

    def decode(self, data: bytes) -> Any:
        """The value.

        Raises:
            MalformedRequestError: the bytes are not of the documented form.
        """
        try:
            return self._decoder.decode(data)
        except ShareTorchError:
            raise
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError, TypeError) as error:
            raise MalformedRequestError(f"These bytes are no message of the documented set: {error}") from error


def _names(*values: Any) -> dict[str, Any]:
    return {str(value).removeprefix("torch."): value for value in values}


DTYPES = _names(
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32,
    torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128,
)  # fmt: skip
"""Element types that can be sent, by name."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MEMORY_FORMATS = _names(
    torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d
)  # fmt: skip
_LAYOUTS = _names(torch.strided)
_MAX_DIMENSIONS = 64


def _pack_tensor(x: Tensor) -> bytes:
    if type(x) not in (Tensor, torch.nn.Parameter):
        raise UnsupportedDtypeError(
            f"A {type(x).__name__} cannot be sent to a worker: its type has no form on the wire."
        )
    if x.layout is not torch.strided or x.dtype not in _NAMES or x.is_meta:
        raise UnsupportedDtypeError(
            f"A tensor of dtype {x.dtype}, layout {x.layout} on {x.device} cannot be sent; use a dense one of dtype "
            f"{', '.join(DTYPES)}."
        )
    head = _encoder.encode([_NAMES[x.dtype], list(x.shape)])
    plain = x.detach().cpu().resolve_conj().resolve_neg().contiguous()
    flat = plain.as_strided((plain.numel(),), (1,))  # the stride of a size of 1 is anything
    body = flat.view(torch.uint8).numpy().data if x.numel() else b""
    return b"".join((len(head).to_bytes(2, "big"), head, body))


def _unpack_tensor(data: bytes | memoryview, node: Any) -> Tensor:
    """A tensor with memory of its own; what was received is read where it is, once."""
    length = int.from_bytes(data[:2], "big")
    name, shape = msgspec.msgpack.decode(data[2 : 2 + length], type=tuple[str, list[int]])
    if len(shape) > _MAX_DIMENSIONS or any(size < 0 for size in shape):
        raise MalformedRequestError(f"{shape} is no shape.")
    if name not in DTYPES:
        raise MalformedRequestError(f"{name!r} is no dtype that can be sent.")
    dtype = DTYPES[name]
    body = data[2 + length :]
    if len(body) != math.prod(shape) * dtype.itemsize:
        raise MalformedRequestError(f"{len(body)} bytes are not the elements of a tensor of shape {shape}, {name}.")
    if not body:
        return torch.empty(shape, dtype=dtype)
    raw = torch.empty(len(body), dtype=torch.uint8)  # torch's own memory: aligned as its kernels like it
    raw.numpy()[:] = numpy.frombuffer(body, dtype=numpy.uint8)
    return (raw != 0).reshape(shape) if dtype is torch.bool else raw.view(dtype).reshape(shape)


def _register_names(number: int, kind: type, names: dict[str, Any]) -> None:
    texts = {value: name.encode() for name, value in names.items()}

    def pack(value: Any) -> bytes:
        if value not in texts:
            raise UnsupportedDtypeError(f"{value} has no form on the wire; there are {', '.join(names)}.")
        return texts[value]

    register(number, kind, pack, lambda data, node: names[data.decode()])


def _pack_device(device: torch.device) -> bytes:
    if device.type != "cpu":
        raise UnsupportedDtypeError(f"Workers compute on cpu; {device} was asked for. Leave the device out.")
    return b"cpu"


register(_REF, Ref, lambda ref: ref.number.to_bytes(8, "big"), lambda data, node: Ref(struct.unpack(">Q", data)[0]))
register(_TENSOR, Tensor, _pack_tensor, _unpack_tensor)
_register_names(3, torch.dtype, DTYPES)
_register_names(4, torch.memory_format, _MEMORY_FORMATS)
_register_names(5, torch.layout, _LAYOUTS)
register(6, torch.device, _pack_device, lambda data, node: {b"cpu": torch.device("cpu")}[data])
register(
    7,
    complex,
    lambda value: struct.pack("<dd", value.real, value.imag),
    lambda data, node: complex(*struct.unpack("<dd", data)),
)


_seen_decoder = msgspec.msgpack.Decoder(_SeenFields)


def _unpack_seen(data: bytes, node: Any) -> Seen:
    fields = _seen_decoder.decode(data)
    return Seen(fields.number, fields.form, fields.sizes)


register(_SEEN, Seen, lambda seen: _view_bytes(seen.number, seen.form, seen.sizes), _unpack_seen)
