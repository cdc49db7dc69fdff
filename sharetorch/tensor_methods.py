"""Methods added to ``torch.Tensor``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sharetorch.attributes import Attribute
from sharetorch.mpc import paillier
from sharetorch.mpc.errors import EncodingError, MembersError, UnsupportedOperationError
from sharetorch.mpc.tensor import sharing
from sharetorch.mpc.tensor.fixed_precision import fix_precision
from sharetorch.mpc.tensor.shared import SharedTensor
from sharetorch.nn.exchange import become
from sharetorch.options import for_send, for_share, local_worker, provider
from sharetorch.remote import labels, transfer
from sharetorch.remote.multi import combine_pointers
from sharetorch.remote.pointer import PointerTensor, pointer_to


def share(self: Tensor, *workers: Any, crypto_provider: Any = None, **options: Any) -> Any:
    """Split this tensor into shares, one at each worker; see ``sharetorch.mpc.tensor.sharing.share``."""
    return sharing.share(self, *workers, crypto_provider=provider(crypto_provider), **for_share(options))


def _fix_precision(
    self: Tensor,
    precision_fractional: int | None = None,
    base: int = 10,
    *,
    truncation: str = "probabilistic",
    **_: Any,
) -> Any:
    """Write this tensor in fixed point: base 10 with 3 digits, or as asked."""
    if isinstance(self, SharedTensor):
        raise EncodingError("This tensor has an encoding already; open it with x.get() to choose another.")
    return fix_precision(self, precision_fractional, base, truncation=truncation)


def _float_precision(self: Tensor) -> Tensor:
    """A plain tensor as floats."""
    return self if self.dtype.is_floating_point else self.to(torch.get_default_dtype())


def _encrypt_paillier(
    x: Tensor, digits: int | None, inplace: bool, requires_grad: bool, public_key: Any = None, **_: Any
) -> Any:
    if requires_grad:
        raise UnsupportedOperationError("Paillier tensors have no gradients; encrypt with shares to train.")
    made = paillier.encrypt(x, public_key, digits)
    return become(x, made) if inplace else made


def encrypt(
    self: Any,
    protocol: str = "mpc",
    workers: Any = (),
    crypto_provider: Any = None,
    precision_fractional: int | None = None,
    requires_grad: bool | None = None,
    inplace: bool = False,
    **options: Any,
) -> Any:
    """Encrypt a tensor or a model; ``decrypt()`` is the way back.

    Args:
        self: what to encrypt.
        protocol: "paillier", with ``public_key=``; else one of sharing: ``fix_precision()``, ``share()``.
        workers: the parties.
        crypto_provider: who deals.
        precision_fractional: digits after the point.
        requires_grad: whether gradients are recorded.
        inplace: whether the tensor itself becomes the encrypted one.
        options: of ``share``.
    """
    if protocol == "paillier":
        return _encrypt_paillier(self, precision_fractional, inplace, bool(requires_grad), **options)
    fixed = self.fix_precision(precision_fractional) if not inplace else self.fix_precision_(precision_fractional)
    name = "share_" if inplace else "share"
    if requires_grad is not None:
        options["requires_grad"] = requires_grad
    return getattr(fixed, name)(*workers, crypto_provider=provider(crypto_provider), protocol=protocol, **options)


def send(self: Tensor, *workers: Any, owner: Any = None, inplace: bool = False, **options: Any) -> Any:
    """Send this tensor to a worker, or copies to several; see ``sharetorch.remote.transfer.send``."""
    return transfer.send(self, *workers, owner=owner or local_worker, inplace=inplace, **for_send(options))


def _send_(self: Tensor, *workers: Any, **options: Any) -> Any:
    """Send this tensor in place: it becomes the pointer."""
    return send(self, *workers, inplace=True, **options)


def _move(self: Tensor, worker: Any, **options: Any) -> Any:
    """Send this tensor to a worker, unless that is where it is."""
    return self if worker is local_worker else send(self, worker, **options)


def _move_(self: Tensor, worker: Any, **options: Any) -> Any:
    """Send this tensor to a worker, in place, unless that is where it is."""
    return self if worker is local_worker else send(self, worker, inplace=True, **options)


def _here(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """This tensor: it is here, and in the clear."""
    return self


def _decrypt(self: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The tensor in the clear, fetched if it is elsewhere."""
    value: Any = self.get()  # type: ignore[attr-defined]
    return value if value is self else value.decrypt(*args, **kwargs)


def _combine(self: Tensor, *pointers: Any) -> Any:
    """This pointer and others to further workers as one tensor.

    Raises:
        MembersError: this tensor is here.
    """
    if isinstance(self, PointerTensor):
        return combine_pointers(self, *pointers)
    raise MembersError("combine() makes one tensor of pointers to several workers; this tensor is here. Send it first.")


def _create_pointer(self: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A pointer to this tensor, held by the local worker."""
    record = local_worker.keep(self.detach(), local_worker.id)
    return pointer_to(record.meta(), local_worker.link(local_worker.id))


_ATTRIBUTES = ("data", "grad", "shape", "dtype", "T", "is_leaf", "requires_grad")


def _attr(self: Tensor, name: str) -> Any:
    """One of a tensor's own attributes by name."""
    if name not in _ATTRIBUTES:
        raise AttributeError(f"attr() gives {', '.join(_ATTRIBUTES)}; not {name!r}.")
    return getattr(self, name)


def _writing(name: str) -> Callable[..., Tensor]:
    """The in-place form of a method that makes another kind of tensor."""

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        requires_grad = self.requires_grad and self.is_leaf
        with torch.no_grad():
            become(self, getattr(self.detach(), name)(*args, **kwargs))
        return self.requires_grad_(requires_grad) if self.dtype.is_floating_point else self

    method.__name__ = f"{name}_"
    method.__doc__ = f"``{name}()``, in place."
    return method


TENSOR_METHODS: dict[str, Any] = {
    "share": share,
    "share_": _writing("share"),
    "fix_precision": _fix_precision,
    "fix_prec": _fix_precision,
    "fix_precision_": _writing("fix_precision"),
    "fix_prec_": _writing("fix_precision"),
    "float_precision": _float_precision,
    "float_prec": _float_precision,
    "float_precision_": _writing("float_precision"),
    "float_prec_": _writing("float_precision"),
    "encrypt": encrypt,
    "decrypt": _decrypt,
    "refresh": _here,
    "send": send,
    "send_": _send_,
    "get": _here,
    "get_": _here,
    "move": _move,
    "move_": _move_,
    "copy": lambda self: self.clone(),
    "combine": _combine,
    "create_pointer": _create_pointer,
    "attr": _attr,
    "tag": labels.tag,
    "describe": labels.describe,
    "private_tensor": labels.restrict,
    "allow": labels.allows,
    "tags": property(labels.tags, labels.set_tags),
    "description": property(labels.description, labels.set_description),
    "id": property(labels.number_of, labels.set_number),
    "owner": Attribute(lambda self: local_worker),
    "gc": Attribute(lambda self: True),
    "garbage_collection": Attribute(lambda self: True),
    "disable_gc": Attribute(lambda self: self),
    "has_child": lambda self: hasattr(self, "child"),
    "is_wrapper": Attribute(lambda self: hasattr(self, "child")),
    "wrap": _here,
}
"""Methods and attributes of tensors by name."""
