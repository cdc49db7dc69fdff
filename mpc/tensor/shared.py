"""``SharedTensor``: what the user holds of a secret tensor.

It is a ``torch.Tensor`` without data: shape, strides and a logical dtype (float for fixed point, int64 for integers),
plus a ``Handle`` on an object that the members of a session hold in shares. PyTorch hands every operation on it to
``__torch_function__`` (rules of our own, mostly derivatives) and then to ``__torch_dispatch__`` (the secure operation).
What neither knows raises; nothing is ever computed in the clear by the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import ProtocolError, RevealError, ShareTorchError, UnsupportedOperationError
from sharetorch.mpc.fixedpoint import Encoding, decode
from sharetorch.mpc.session import Session
from sharetorch.mpc.tensor.location import user_line

Handler = Callable[..., Any]

ATEN: dict[Any, Handler] = {}
"""Secure operations by the aten operation they stand for: ``handler(func, *args, **kwargs)``."""

RULES: dict[Any, Handler] = {}
"""Functions of the torch API that are ours before autograd sees them, with the same arguments."""


class Additions:
    """What modules further down add to shared tensors when they are imported.

    Attributes:
        explicit: makes the local fixed-precision tensor that ``get()`` gives for data of explicit precision.
        local: the class of local fixed-precision tensors.
        refresh: fresh shares, read in an encoding of the same scale, with their derivative.
        families: find handlers for whole families of aten operations (local ones, in-place forms), or None.
    """

    explicit: Callable[[Tensor, Encoding], Any]
    local: type[SharedTensor]
    refresh: Callable[[SharedTensor, Encoding], SharedTensor]

    def __init__(self) -> None:
        self.families: list[Callable[[Any], Handler | None]] = []

    def handler(self, func: Any) -> Handler:
        """The handler of an operation that has none of its own."""
        found = (family(func) for family in self.families)
        return next((handler for handler in found if handler is not None), decomposed)


additions = Additions()
"""Filled once, while the package is imported."""


def aten(*operations: Any) -> Callable[[Handler], Handler]:
    """Register a handler for aten operations."""

    def register(handler: Handler) -> Handler:
        ATEN.update(dict.fromkeys(operations, handler))
        return handler

    return register


def rule(*functions: Any) -> Callable[[Handler], Handler]:
    """Register a rule for functions and methods of the torch API."""

    def register(handler: Handler) -> Handler:
        RULES.update(dict.fromkeys(functions, handler))
        return handler

    return register


class Handle:
    """A claim on one object of a session, given up when the last tensor that uses it is gone."""

    __slots__ = ("encoding", "number", "session")

    def __init__(self, session: Session, number: int, encoding: Encoding) -> None:
        self.session = session
        self.number = number
        self.encoding = encoding

    def __del__(self) -> None:
        session = getattr(self, "session", None)
        if session is not None:
            session.free(self.number)

    def __repr__(self) -> str:
        return f"Handle({self.number}, {self.encoding.name})"


class LateHandle(Handle):
    """A claim on an object that is made when its number is first asked for."""

    __slots__ = ("_number",)

    def __init__(self, session: Session, encoding: Encoding) -> None:
        self.session, self.encoding = session, encoding
        self._number: int | None = None

    @property
    def number(self) -> int:  # type: ignore[override]
        """The object's number; makes the object."""
        if self._number is None:
            self._make()
        assert self._number is not None
        return self._number

    def _make(self) -> None:
        """Make the object and set its number."""
        raise ProtocolError("A handle that cannot make its object.")

    def __del__(self) -> None:
        if self._number is not None:
            self.session.free(self._number)


class Mark:
    """Whether a storage holds bits only."""

    __slots__ = ("bits",)

    def __init__(self, bits: bool) -> None:
        self.bits = bits


class Modulus(int):
    """A modulus by which sums of raw shares can be reduced, ``sum % modulus``, also the 2^64 that is beyond int64."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """int64 arithmetic is arithmetic mod 2^64 already; smaller moduli go to torch as plain numbers."""
        if func in _REMAINDERS and len(args) == 2 and int(args[1]) == 1 << 64:
            return args[0]
        return func(*(int(arg) if isinstance(arg, Modulus) else arg for arg in args), **(kwargs or {}))


_REMAINDERS = (torch.remainder, torch.Tensor.remainder, torch.Tensor.__mod__)


class SharedTensor(torch.Tensor):
    """A tensor whose values nobody holds: additive shares at the parties of a session.

    Made by ``tensor.share(...)``; ``get()`` opens it to the caller.

    Attributes:
        handle: the object, its session and its encoding.
        shadow: a tensor on ``meta`` of the same shape, strides and dtype.
        mark: whether the elements are known to be bits; views of one storage have it in common.
    """

    handle: Handle
    shadow: Tensor
    mark: Mark | None = None

    @staticmethod
    def __new__(cls: Any, handle: Handle, shadow: Tensor, requires_grad: bool = False) -> SharedTensor:
        """Wrap an object of a session; local ones become fixed-precision tensors."""
        if not handle.session.provider and len(handle.session.parties) == 1:
            cls = additions.local
        made: SharedTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            shadow.shape,
            strides=shadow.stride(),
            storage_offset=shadow.storage_offset(),
            dtype=shadow.dtype,
            requires_grad=requires_grad,
        )
        made.handle = handle
        made.shadow = shadow
        return made

    def __init__(self, handle: Handle, shadow: Tensor, requires_grad: bool = False) -> None:
        """Everything is set by ``__new__``."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Our own rule if there is one, else PyTorch's way down to ``__torch_dispatch__``.

        Tensor types of users that wrap shared tensors go first.
        """
        if len(types) > 1 and any(getattr(kind, "layer", False) for kind in types):
            return NotImplemented
        found = RULES.get(func)
        if found is not None:
            return found(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The secure operation that stands for an aten operation."""
        if len(types) > 1 and additions.local in types:
            args = _lift_local(args)
        return dispatch(func, args, kwargs or {})

    @property
    def session(self) -> Session:
        """Who holds the shares and how they compute."""
        return self.handle.session

    @property
    def encoding(self) -> Encoding:
        """How integers in the ring stand for the values."""
        return self.handle.encoding

    @property
    def bits(self) -> bool:
        """Whether every element is known to be 0 or 1, as comparisons make them."""
        return self.mark is not None and self.mark.bits

    @bits.setter
    def bits(self, known: bool) -> None:
        self.mark = Mark(known) if known else None

    @property
    def child(self) -> Any:
        """The tensor itself: there are no layers of wrappers, but the tutorials look below them."""
        return self

    @property
    def field(self) -> Modulus:
        """Number of elements of the ring in which the shares are."""
        return Modulus(self.session.ring.modulus)

    @property
    def locations(self) -> list[Any]:
        """Who holds the shares, in order of rank."""
        return list(self.session.parties)

    @property
    def crypto_provider(self) -> Any:
        """Who deals the correlated randomness."""
        return self.session.provider

    def get(self) -> Any:
        """Open the tensor to the caller.

        Returns:
            A plain tensor of the logical dtype; a fixed-precision tensor if ``fix_precision()`` encoded the data.

        Raises:
            ObjectGoneError: the object no longer exists.
        """
        integers = self.session.reveal(self.handle.number)
        if integers.shape != self.shape:
            raise ProtocolError(f"The parties released shape {tuple(integers.shape)} for {tuple(self.shape)}.")
        if self.encoding.explicit and not self.encoding.integer:
            return additions.explicit(integers, self.encoding)
        return decode(integers, self.encoding, self.dtype).requires_grad_(self.requires_grad and self.is_leaf)

    def decrypt(self) -> Any:
        """Open the tensor to the caller, as floats or integers."""
        opened = self.get()
        return opened.float_precision() if isinstance(opened, SharedTensor) else opened

    def copy(self) -> SharedTensor:
        """A second object with the same secret; gradients flow through, as with ``clone()``."""
        return self.clone()  # type: ignore[return-value]

    def refresh(self) -> SharedTensor:
        """The same secret in fresh shares. No messages."""
        return additions.refresh(self, self.encoding)

    def float_precision(self) -> SharedTensor:
        """Mark a shared fixed-precision tensor so that ``get()`` gives floats."""
        return additions.refresh(self, replace(self.encoding, explicit=False))

    float_prec = float_precision

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return describe(self)

    def __bool__(self) -> bool:
        return bool(refuse("bool(x)", "compare and keep the result shared, or open it with x.get()"))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return refuse("pickling", "open the tensor with x.get() and save that")

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied: Any = self.detach().clone().requires_grad_(self.requires_grad and self.is_leaf)
        if isinstance(self, torch.nn.Parameter):
            copied = torch.nn.Parameter(copied.detach(), self.requires_grad)
        memo[id(self)] = copied
        return copied


def refuse(what: str, remedy: str) -> Any:
    """Raise: the value of a secret would be needed in the clear."""
    raise RevealError(f"{what} needs the value of a shared tensor{user_line()}. Instead, {remedy}.")


def _no_conversion(name: str) -> Callable[..., Any]:
    def raising(self: Any, *args: Any, **kwargs: Any) -> Any:
        return refuse(name, "open the tensor with x.get() first, if it may be seen")

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
    setattr(SharedTensor, _name, _no_conversion(_name))


def _lift_local(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Local fixed-precision operands beside shared ones become public constants of the others' session."""
    shared = (arg for arg in _flat(args) if isinstance(arg, SharedTensor))
    like = next((arg for arg in shared if not isinstance(arg, additions.local)), None)
    if like is None:
        return args
    return tuple(_lifted(arg, like) for arg in args)


def _lifted(arg: Any, like: SharedTensor) -> Any:
    if isinstance(arg, (list, tuple)):
        return type(arg)(_lifted(part, like) for part in arg)
    return _as_constant(arg, like) if isinstance(arg, additions.local) else arg


def _flat(args: Any) -> Iterator[Any]:
    for arg in args:
        if isinstance(arg, (list, tuple)):
            yield from _flat(arg)
        else:
            yield arg


def _as_constant(x: Any, like: SharedTensor) -> SharedTensor:
    (number,) = like.session.command("constant", values=x.integers)
    return SharedTensor(Handle(like.session, number, x.encoding), fresh_shadow(x.shadow))


def dispatch(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the secure operation for an aten operation.

    Raises:
        UnsupportedOperationError: there is none.
    """
    handler = ATEN.get(func)
    if handler is None:
        handler = ATEN[func] = additions.handler(func)
    return handler(func, *args, **kwargs)


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
        raise UnsupportedOperationError(f"{func}: {error}{user_line()}. {nearest(str(func))}") from error
    if result is NotImplemented:
        raise unsupported(func)
    return result


def unsupported(func: Any) -> UnsupportedOperationError:
    """The error for an operation without a secure form: its name, the user's line, the nearest alternative."""
    return UnsupportedOperationError(
        f"{func} has no secure form{user_line()}. {nearest(str(func))} Nothing was computed and nothing was revealed."
    )


_ALTERNATIVES = {
    "exp": "Polynomials of x are available (x * x, x ** 3).",
    "log": "Polynomials of x are available (x * x, x ** 3).",
    "sigmoid": "Use relu, or a clipped line: (0.5 + 0.25 * x).clamp(0, 1).",
    "tanh": "Use relu, or x.clamp(-1, 1).",
    "softmax": "For a class use argmax; for training use squared error.",
    "gelu": "Use relu.",
    "sort": "sort, topk, kthvalue and median are available.",
    "nonzero": "Keep the mask and multiply by it: the number of results would reveal values.",
    "masked_select": "Multiply by the mask: the number of results would reveal values.",
    "_local_scalar_dense": "Open the tensor with x.get() first, if it may be seen.",
    "norm": "Use (x * x).sum().sqrt().",
    "div": "Use x / y.",
}


def nearest(name: str) -> str:
    """What comes closest to an operation that is missing."""
    for part, advice in _ALTERNATIVES.items():
        if part in name:
            return advice
    return "Compose it of + - * / @, comparisons, relu, max and sums, or open the tensor with x.get()."


def fresh_shadow(shadow: Tensor) -> Tensor:
    """A contiguous shadow of the same shape and dtype, with storage of its own."""
    return torch.empty(shadow.shape, dtype=shadow.dtype, device="meta")


def describe(x: SharedTensor) -> str:
    """Text of a shared tensor: its kind, holders and provider, never its values."""
    chain = []
    if isinstance(x, torch.nn.Parameter):
        chain.append("Parameter")
    if x.requires_grad:
        chain.append("AutogradTensor")
    if x.encoding.explicit and not x.encoding.integer:
        chain.append("FixedPrecisionTensor")
    chain.append("[AdditiveSharingTensor]")
    lines = [">".join(chain)]
    lines += [f"\t-> [PointerTensor | me:{x.handle.number} -> {p.id}:{x.handle.number}]" for p in x.session.parties]
    if x.session.provider is not None:
        lines.append(f"\t*crypto provider: {x.session.provider.id}*")
    lines.append(f"\tShape: {tuple(x.shape)}, {x.encoding.name}, {str(x.dtype).removeprefix('torch.')}")
    return "\n".join(lines)
