"""Methods added to ``torch.nn.Module`` and ``torch.optim.Optimizer``: on shares here, on pointers at the worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from sharetorch.attributes import Attribute
from sharetorch.nn import sharing
from sharetorch.options import for_send, for_share, local_worker, provider
from sharetorch.remote import models
from sharetorch.tensor_methods import encrypt

Change = Callable[..., nn.Module]


def _wherever(method: str, here: Change) -> Change:
    """A method of models that runs at the worker if the model is at one."""

    def apply(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        if models.elsewhere(self):
            return models.apply(self, method, *args, **kwargs)
        return here(self, *args, **kwargs)

    apply.__name__ = method
    apply.__doc__ = here.__doc__
    return apply


def _share_here(self: nn.Module, *workers: Any, crypto_provider: Any = None, **options: Any) -> nn.Module:
    """Share all parameters and buffers in place; see ``sharetorch.nn.sharing.share``."""
    return sharing.share(self, *workers, crypto_provider=provider(crypto_provider), **for_share(options))


_share = _wherever("share", _share_here)
_fix = _wherever("fix_precision", sharing.fix)
_float = _wherever("float_precision", sharing.to_float)


def _send(self: nn.Module, *workers: Any, **options: Any) -> nn.Module:
    """Send all parameters and buffers in place; see ``sharetorch.remote.models.send``."""
    return models.send(self, *workers, owner=local_worker, **for_send(options))


def _get(self: nn.Module, user: str | None = None, reason: str | None = None) -> nn.Module:
    """Fetch or open all parameters and buffers in place."""
    return models.get(self, user, reason) if models.elsewhere(self) else sharing.open_all(self)


def _decrypt(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Open all parameters and buffers in place, as floats."""
    return sharing.to_float(sharing.open_all(self))


def _keep(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Accepted for the tutorials' sake: optimizers take their numbers as they are."""
    return self


MODULE_METHODS: dict[str, Any] = {
    "share": _share,
    "share_": _share,
    **dict.fromkeys(("fix_precision", "fix_prec", "fix_precision_", "fix_prec_"), _fix),
    **dict.fromkeys(("float_precision", "float_prec", "float_precision_", "float_prec_"), _float),
    "send": _send,
    "get": _get,
    "move": models.move,
    "location": Attribute(models.location),
    "owner": Attribute(lambda self: models.owner(self, local_worker)),
    "encrypt": encrypt,
    "decrypt": _decrypt,
    "copy": models.copy,
}
"""Methods and attributes of modules by name."""

OPTIMIZER_METHODS: dict[str, Any] = dict.fromkeys(
    ("fix_precision", "fix_prec", "fix_precision_", "float_precision", "float_prec"), _keep
)
"""Methods of optimizers by name."""
