"""``PaillierTensor``: a tensor of ciphertexts that computes with public tensors like any other.

It is a ``torch.Tensor`` without data: shape and logical dtype (float32 or float64 for fixed point, int64 for whole
numbers), and a list of ciphertexts. PyTorch hands every operation on it to ``__torch_dispatch__``, which looks it up
in a table. What is not in the table raises; nothing is ever decrypted by the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import (
    CiphertextError,
    EncodingError,
    PlaintextRangeError,
    RevealError,
    ShapeError,
    ShareTorchError,
    UnsupportedOperationError,
    WrongKeyError,
)
from sharetorch.mpc.paillier import ciphertexts, encoding, wire
from sharetorch.mpc.paillier.ciphertexts import Cell
from sharetorch.mpc.paillier.encoding import Scale
from sharetorch.mpc.paillier.keys import PrivateKey, PublicKey
from sharetorch.mpc.tensor.location import user_line

Handler = Callable[..., Any]

TABLE: dict[Any, Handler] = {}
"""What stands for each aten operation: ``handler(func, *args, **kwargs)``."""


def aten(*operations: Any) -> Callable[[Handler], Handler]:
    """Register a handler for aten operations."""

    def register(handler: Handler) -> Handler:
        TABLE.update(dict.fromkeys(operations, handler))
        return handler

    return register


@dataclass(frozen=True, repr=False)
class Content:
    """The ciphertexts of a tensor and how to read them.

    Attributes:
        cells: ciphertexts in row-major order.
        key: the public key they are under.
        scale: how plaintext integers stand for numbers.
        bound: no plaintext integer has a larger absolute value; public.
        fresh: every ciphertext has noise of its own that nobody else has seen used.
    """

    cells: Sequence[Cell]
    key: PublicKey
    scale: Scale
    bound: int
    fresh: bool = False

    def __post_init__(self) -> None:
        require_room(self.bound, self.key)


def require_room(bound: int, key: PublicKey) -> None:
    """Raise if integers up to ``bound`` could wrap around under a key.

    Raises:
        PlaintextRangeError: they could.
    """
    if bound > key.capacity:
        raise PlaintextRangeError(
            f"The integers behind this result may have {bound.bit_length()} bits and a sign{user_line()}; a key of "
            f"{key.bits} bits carries {key.capacity.bit_length()} at most, and beyond that they would wrap around. "
            "Decrypt and encrypt anew in between, use fewer digits (precision_fractional=), a smaller limit= or a "
            "longer key."
        )


class PaillierTensor(torch.Tensor):
    """A tensor that only the holder of the private key can read.

    Made by ``paillier.encrypt(x, public_key)``. Anybody can add encrypted tensors to each other, and add, subtract,
    multiply and combine them linearly with public tensors. Two encrypted tensors cannot be multiplied.

    Results carry the noise of their inputs: adding a public number, or multiplying by it, changes the plaintext and
    leaves the noise, so who knows the inputs could tell what was done to them. A result must be refreshed before it
    leaves whoever computed it. ``serialise()`` does so; who hands tensors on in another way calls ``refresh()`` first.

    Attributes:
        content: ciphertexts, key, scale and bound.
    """

    content: Content

    @staticmethod
    def __new__(cls: Any, content: Content, shape: Sequence[int], dtype: torch.dtype) -> PaillierTensor:
        """Wrap ciphertexts. Short floating point types become float32."""
        if dtype not in (torch.int64, torch.float64):
            dtype = torch.float32
        if dtype == torch.int64 and content.scale.unit != 1:
            raise EncodingError(f"Integers have the unit 1, not {content.scale.unit}{user_line()}.")
        made: PaillierTensor = torch.Tensor._make_wrapper_subclass(cls, torch.Size(shape), dtype=dtype)
        made.content = content
        return made

    def __init__(self, content: Content, shape: Sequence[int], dtype: torch.dtype) -> None:
        """Everything is set by ``__new__``."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """PyTorch's own way down to ``__torch_dispatch__``."""
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """What stands for an aten operation on ciphertexts."""
        for kind in types:
            if not issubclass(kind, (cls, torch.nn.Parameter)) and kind is not torch.Tensor:
                raise UnsupportedOperationError(
                    f"{func} would mix an encrypted tensor with a {kind.__name__}{user_line()}. Encrypted tensors "
                    "compute with plain tensors and with each other; bring both operands to one form first."
                )
        handler = TABLE.get(func) or decomposed
        return handler(func, *args, **(kwargs or {}))

    @property
    def public_key(self) -> PublicKey:
        """The key under which the tensor is encrypted."""
        return self.content.key

    def decrypt(self, protocol: str = "paillier", private_key: PrivateKey | None = None) -> Tensor:
        """Open the tensor.

        Args:
            protocol: ``"paillier"``, as the tutorials pass it.
            private_key: the private key that belongs to ``public_key``.

        Returns:
            A plain tensor of the logical dtype. Numbers are exact up to the rounding of operands to their digits, and
            of the result to the dtype.

        Raises:
            WrongKeyError: no private key was given, or another one.
            CiphertextError: a plaintext is larger than the tensor's bound allows: the ciphertexts were tampered with.
            EncodingRangeError: a number does not fit the dtype.
        """
        if protocol != "paillier":
            raise UnsupportedOperationError(
                f"This tensor is encrypted with Paillier; protocol={protocol!r} cannot decrypt it. Leave protocol out."
            )
        key = self._checked(private_key)
        integers = ciphertexts.decrypted(self.content.cells, key)
        if any(abs(integer) > self.content.bound for integer in integers):
            raise CiphertextError(
                "A plaintext exceeds the bound that the tensor carries, so a ciphertext was tampered with or its "
                "sender gave a wrong bound. The result was discarded."
            )
        return encoding.decode(integers, self.content.scale.unit, self.dtype, self.shape)

    def _checked(self, private_key: Any) -> PrivateKey:
        if not isinstance(private_key, PrivateKey):
            raise WrongKeyError(
                f"Decryption needs private_key=, the private key that belongs to {self.public_key}, not "
                f"{type(private_key).__name__}."
            )
        if private_key.public_key != self.public_key:
            raise WrongKeyError(f"The tensor is encrypted under {self.public_key}; this is {private_key}.")
        return private_key

    def refresh(self, private_key: PrivateKey | None = None) -> PaillierTensor:
        """The same plaintexts in fresh, uniform ciphertexts that show nothing of how they were computed.

        Args:
            private_key: makes it about four times faster, for who holds it; the distribution is the same.

        Cost: one power modulo n^2 with exponent n for each element.
        """
        key = self.public_key if private_key is None else self._checked(private_key)
        cells = ciphertexts.refreshed(self.content.cells, key)
        return PaillierTensor(replace(self.content, cells=cells, fresh=True), self.shape, self.dtype)

    def serialise(self) -> bytes:
        """The tensor as bytes for others, refreshed unless encryption or ``refresh()`` just made it; see ``wire``.

        Who receives the bytes sees shape, dtype, unit and the length of the bound in bits; with the private key also
        the numbers.
        """
        source = self if self.content.fresh else self.refresh()
        content = source.content
        record = wire.Record(
            content.key, content.scale, content.bound, self.dtype, tuple(self.shape), list(content.cells)
        )
        return wire.pack(record)

    @classmethod
    def deserialise(cls, data: bytes, public_key: PublicKey | None = None) -> PaillierTensor:
        """The tensor from the bytes of ``serialise()``, checked.

        Args:
            data: bytes from anywhere.
            public_key: the key under which the tensor must be; pass it whenever it is known.

        Raises:
            CiphertextError: the bytes are no encrypted tensor, or hold a number that is no ciphertext.
            WrongKeyError: it is under another key.
            KeySizeError: it names a key of its own that is too short.
        """
        record = wire.unpack(data, public_key)
        return cls(Content(record.cells, record.key, record.scale, record.bound), record.shape, record.dtype)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        scale, dtype = self.content.scale, str(self.dtype).removeprefix("torch.")
        digits = "" if self.dtype == torch.int64 else f", {scale.precision} digits in base {scale.base}"
        return f"PaillierTensor(shape={tuple(self.shape)}, {dtype}{digits}, {self.public_key})"

    def __format__(self, specification: str) -> str:
        return repr(self)

    def __bool__(self) -> bool:
        return bool(refuse("bool(x)"))

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RevealError("An encrypted tensor is not pickled. Use x.serialise() and PaillierTensor.deserialise(data).")

    def __deepcopy__(self, memo: dict[int, Any]) -> PaillierTensor:
        return PaillierTensor(self.content, self.shape, self.dtype)


def refuse(what: str) -> Any:
    """Raise: the value of a secret would be needed in the clear."""
    raise RevealError(
        f"{what} needs the value of an encrypted tensor{user_line()}. Decrypt it first, if it may be seen: "
        "x.decrypt(private_key=...)."
    )


def _no_conversion(name: str) -> Callable[..., Any]:
    def raising(self: Any, *args: Any, **kwargs: Any) -> Any:
        return refuse(name)

    return raising


for _name in (
    "item",
    "tolist",
    "numpy",
    "__int__",
    "__float__",
    "__index__",
    "__complex__",
    "__array__",
    "__dlpack__",
    "data_ptr",
    "share_memory_",
):
    setattr(PaillierTensor, _name, _no_conversion(_name))


def derived(x: PaillierTensor, like: Tensor, cells: Sequence[Cell], bound: int, scale: Scale) -> PaillierTensor:
    """A result computed from ``x``, of the shape and dtype of ``like``; not fresh."""
    return PaillierTensor(Content(cells, x.content.key, scale, bound), like.shape, like.dtype)


def on_meta(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Shape and dtype of a result, and torch's own checks.

    Raises:
        ShapeError: torch would refuse the operation.
    """
    try:
        return func(
            *map_tensors(args, _shadow), **{name: map_tensors(value, _shadow) for name, value in kwargs.items()}
        )
    except ShareTorchError:
        raise
    except (RuntimeError, IndexError, ValueError) as error:
        raise ShapeError(f"{func}: {error}{user_line()}") from error


def _shadow(x: Tensor) -> Tensor:
    if isinstance(x, PaillierTensor):
        return torch.empty(x.shape, dtype=x.dtype, device="meta")
    return x.detach().to("meta")


def map_tensors(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """The same lists and tuples with every tensor replaced."""
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(part, function) for part in value)
    return function(value) if isinstance(value, Tensor) else value


def holds_encrypted(value: Any) -> bool:
    """Whether an encrypted tensor is in there."""
    if isinstance(value, (list, tuple)):
        return any(map(holds_encrypted, value))
    return isinstance(value, PaillierTensor)


def decomposed(func: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation that PyTorch itself composes of others.

    Raises:
        UnsupportedOperationError: it is not one of those.
    """
    try:
        result = func.decompose(*args, **kwargs)
    except ShareTorchError:
        raise
    except RuntimeError as error:
        raise unsupported(func) from error
    if result is NotImplemented:
        raise unsupported(func)
    return result


def unsupported(func: Any) -> UnsupportedOperationError:
    """The error for an operation that ciphertexts do not have."""
    name = func.overloadpacket.__name__
    if name.endswith("_") and not name.endswith("__"):
        advice = f"Encrypted tensors do not change in place; write for example x = x.{name[:-1]}(...)."
    else:
        advice = (
            "Encrypted tensors have sums, products with public tensors, and everything that moves elements. For "
            "comparisons, maxima, powers and activations decrypt with the holder of the key, or share the tensor "
            "instead: x.share(alice, bob, ...)."
        )
    return UnsupportedOperationError(
        f"{func} has no form for encrypted tensors{user_line()}. {advice} Nothing was revealed."
    )
