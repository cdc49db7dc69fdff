"""``TorchHook``: the methods that ShareTorch adds to tensors, modules and optimizers.

Importing the package adds them; no existing method of torch is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sharetorch.mpc import paillier
from sharetorch.mpc.errors import EncodingError, UnsupportedOperationError
from sharetorch.mpc.tensor import sharing
from sharetorch.mpc.tensor.fixed_precision import fix_precision
from sharetorch.mpc.tensor.shared import SharedTensor
from sharetorch.nn import sharing as model_sharing
from sharetorch.nn.exchange import become
from sharetorch.remote import labels, models, transfer
from sharetorch.remote.worker import local

local_worker = local()
"""The driver itself."""


def _provider(chosen: Any) -> Any:
    if chosen is None:
        sharing.warn_driver_provides(local_worker.id)
        return local_worker
    return chosen


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """Options of ``share`` without those of the tutorials that change nothing here."""
    options = dict(options)
    options.pop("no_wrap", None)
    dtype = options.pop("dtype", "long")
    if dtype not in ("long", "custom"):
        raise UnsupportedOperationError(
            f"dtype={dtype!r} is not available: shares have 64 bits; leave it out or use field=."
        )
    return options


def share(self: Tensor, *workers: Any, crypto_provider: Any = None, **options: Any) -> Any:
    """Split this tensor into shares, one at each worker; see ``sharetorch.mpc.tensor.sharing.share``."""
    return sharing.share(self, *workers, crypto_provider=_provider(crypto_provider), **_settings(options))


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
    """``fix_precision()`` and ``share()`` in one, for tensors and models; ``decrypt()`` is the way back."""
    if protocol == "paillier":
        return _encrypt_paillier(self, precision_fractional, inplace, bool(requires_grad), **options)
    fixed = self.fix_precision(precision_fractional) if not inplace else self.fix_precision_(precision_fractional)
    name = "share_" if inplace else "share"
    if requires_grad is not None:
        options["requires_grad"] = requires_grad
    return getattr(fixed, name)(*workers, crypto_provider=_provider(crypto_provider), protocol=protocol, **options)


def _decrypt_model(self: nn.Module) -> nn.Module:
    """Open all parameters and buffers in place, as floats."""
    return model_sharing.to_float(model_sharing.open_all(self))


def send(self: Tensor, *workers: Any, owner: Any = None, inplace: bool = False, **options: Any) -> Any:
    """Send this tensor to a worker, or copies to several; see ``sharetorch.remote.transfer.send``."""
    for name in _SEND_OPTIONS_WITHOUT_EFFECT & set(options):
        del options[name]
    return transfer.send(self, *workers, owner=owner or local_worker, inplace=inplace, **options)


_SEND_OPTIONS_WITHOUT_EFFECT = {"local_autograd", "preinitialize_grad", "no_wrap"}


def _send_model(self: nn.Module, *workers: Any, **options: Any) -> nn.Module:
    """Send all parameters and buffers in place; see ``sharetorch.remote.models.send``."""
    for name in _SEND_OPTIONS_WITHOUT_EFFECT & set(options):
        del options[name]
    return models.send(self, *workers, owner=local_worker, **options)


def _get_model(self: nn.Module, user: str | None = None, reason: str | None = None) -> nn.Module:
    """Fetch or open all parameters and buffers in place."""
    return models.get(self, user, reason) if models.elsewhere(self) else model_sharing.open_all(self)


def _wherever(method: str, here: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """A method of models that runs at the worker if the model is at one."""

    def apply(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if models.elsewhere(self):
            return models.apply(self, method, *args, **kwargs)
        return here(self, *args, **kwargs)

    apply.__doc__ = here.__doc__
    return apply


_fix_model = _wherever("fix_precision", model_sharing.fix)
_float_model = _wherever("float_precision", model_sharing.to_float)


def _move_local(self: Tensor, worker: Any, **options: Any) -> Any:
    """Send this tensor to a worker, unless that is where it is."""
    return self if worker is local_worker else send(self, worker, **options)


def _number(self: Any) -> int:
    """A number of the tensor's own, given at the first question."""
    return labels.number_of(self)


class Attribute:
    """A computed attribute that an instance may replace by one of its own.

    Args:
        compute: from the instance to the value.
    """

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def named(self, name: str) -> Attribute:
        """This attribute, which now knows under which name instances have their own."""
        self._name = name
        return self

    def __get__(self, instance: Any, kind: type | None = None) -> Any:
        if instance is None:
            return self
        own = instance.__dict__
        for place in (own, *(own.get(store) or {} for store in ("_parameters", "_buffers", "_modules"))):
            if self._name in place:
                return place[self._name]
        return self._compute(instance)

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self._name] = value

    def __delete__(self, instance: Any) -> None:
        del instance.__dict__[self._name]


def _share_here(self: nn.Module, *workers: Any, crypto_provider: Any = None, **options: Any) -> nn.Module:
    """Share all parameters and buffers in place; see ``sharetorch.nn.sharing.share``."""
    return model_sharing.share(self, *workers, crypto_provider=_provider(crypto_provider), **_settings(options))


_share_model = _wherever("share", _share_here)


def _keep(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Accepted for the tutorials' sake: optimizers take their numbers as they are."""
    return self


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


_TENSOR_METHODS: dict[str, Any] = {
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
    "send": send,
    "send_": lambda self, *workers, **options: send(self, *workers, inplace=True, **options),
    "get": lambda self, *args, **kwargs: self,
    "get_": lambda self, *args, **kwargs: self,
    "move": _move_local,
    "copy": lambda self: self.clone(),
    "tag": labels.tag,
    "describe": labels.describe,
    "private_tensor": labels.restrict,
    "allow": labels.allows,
    "id": Attribute(_number),
    "owner": Attribute(lambda self: local_worker),
    "tags": Attribute(lambda self: set(labels.of(self).tags)),
    "description": Attribute(lambda self: labels.of(self).description),
    "has_child": lambda self: hasattr(self, "child"),
    "is_wrapper": Attribute(lambda self: hasattr(self, "child")),
    "wrap": lambda self, *args, **kwargs: self,
}

_MODULE_METHODS: dict[str, Any] = {
    "share": _share_model,
    "share_": _share_model,
    "fix_precision": _fix_model,
    "fix_prec": _fix_model,
    "fix_precision_": _fix_model,
    "fix_prec_": _fix_model,
    "float_precision": _float_model,
    "float_prec": _float_model,
    "float_precision_": _float_model,
    "float_prec_": _float_model,
    "send": _send_model,
    "get": _get_model,
    "move": models.move,
    "location": Attribute(models.location),
    "owner": Attribute(lambda self: models.owner(self, local_worker)),
    "encrypt": encrypt,
    "decrypt": _decrypt_model,
    "copy": models.copy,
}

_OPTIMIZER_METHODS: dict[str, Callable[..., Any]] = {
    "fix_precision": _keep,
    "fix_prec": _keep,
    "fix_precision_": _keep,
    "float_precision": _keep,
    "float_prec": _keep,
}


def _add(target: type, methods: dict[str, Any]) -> None:
    for name, method in methods.items():
        if not hasattr(target, name):
            setattr(target, name, method.named(name) if isinstance(method, Attribute) else method)


def install() -> None:
    """Add the methods, where torch has none of that name."""
    _add(torch.Tensor, _TENSOR_METHODS)
    _add(nn.Module, _MODULE_METHODS)
    _add(torch.optim.Optimizer, _OPTIMIZER_METHODS)


class TorchHook:
    """The tutorials' first line: ``hook = sy.TorchHook(torch)``. Importing the package has done its work already.

    Attributes:
        local_worker: the driver itself, id "me".
        torch: the torch module.
    """

    def __init__(self, torch: Any = torch, *args: Any, **kwargs: Any) -> None:
        self.torch = torch
        self.local_worker = local_worker
        install()
