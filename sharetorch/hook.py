"""``TorchHook``: the methods that ShareTorch adds to tensors, modules and optimizers.

Importing the package adds them; no existing method of torch is replaced.
"""

from __future__ import annotations

import copy as copying
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sharetorch.mpc.errors import EncodingError, UnsupportedOperationError
from sharetorch.mpc.tensor import sharing
from sharetorch.mpc.tensor.fixed_precision import fix_precision
from sharetorch.mpc.tensor.shared import SharedTensor
from sharetorch.nn import sharing as model_sharing
from sharetorch.remote.worker import VirtualWorker

local_worker = VirtualWorker(id="me")
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


def _share_model(self: nn.Module, *workers: Any, crypto_provider: Any = None, **options: Any) -> nn.Module:
    """Share all parameters and buffers in place; see ``sharetorch.nn.sharing.share``."""
    return model_sharing.share(self, *workers, crypto_provider=_provider(crypto_provider), **_settings(options))


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
    fixed = self.fix_precision(precision_fractional) if not inplace else self.fix_precision_(precision_fractional)
    name = "share_" if inplace else "share"
    if requires_grad is not None:
        options["requires_grad"] = requires_grad
    return getattr(fixed, name)(*workers, crypto_provider=_provider(crypto_provider), protocol=protocol, **options)


def _decrypt_model(self: nn.Module) -> nn.Module:
    """Open all parameters and buffers in place, as floats."""
    return model_sharing.to_float(model_sharing.open_all(self))


def _copy_model(self: nn.Module) -> nn.Module:
    """A deep copy; shared parameters become new objects with the same secrets."""
    return copying.deepcopy(self)


def _keep(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Accepted for the tutorials' sake: optimizers take their numbers as they are."""
    return self


def _writing(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The in-place form of a method that makes another kind of tensor."""

    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        made = make(self, *args, **kwargs)
        requires_grad = self.requires_grad and self.is_leaf
        torch.utils.swap_tensors(self, made)
        return self.requires_grad_(requires_grad) if self.dtype.is_floating_point else self

    method.__doc__ = f"In place: {make.__doc__}"
    return method


_TENSOR_METHODS: dict[str, Callable[..., Any]] = {
    "share": share,
    "share_": _writing(share),
    "fix_precision": _fix_precision,
    "fix_prec": _fix_precision,
    "fix_precision_": _writing(_fix_precision),
    "fix_prec_": _writing(_fix_precision),
    "float_precision": _float_precision,
    "float_prec": _float_precision,
    "float_precision_": _writing(lambda self: self.float_precision()),
    "float_prec_": _writing(lambda self: self.float_precision()),
    "encrypt": encrypt,
    "get": lambda self: self,
    "copy": lambda self: self.clone(),
}

_MODULE_METHODS: dict[str, Callable[..., Any]] = {
    "share": _share_model,
    "share_": _share_model,
    "fix_precision": model_sharing.fix,
    "fix_prec": model_sharing.fix,
    "fix_precision_": model_sharing.fix,
    "fix_prec_": model_sharing.fix,
    "float_precision": model_sharing.to_float,
    "float_prec": model_sharing.to_float,
    "float_precision_": model_sharing.to_float,
    "float_prec_": model_sharing.to_float,
    "get": model_sharing.open_all,
    "encrypt": encrypt,
    "decrypt": _decrypt_model,
    "copy": _copy_model,
}

_OPTIMIZER_METHODS: dict[str, Callable[..., Any]] = {
    "fix_precision": _keep,
    "fix_prec": _keep,
    "fix_precision_": _keep,
    "float_precision": _keep,
    "float_prec": _keep,
}


def _add(target: type, methods: dict[str, Callable[..., Any]]) -> None:
    for name, method in methods.items():
        if not hasattr(target, name):
            setattr(target, name, method)


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
