"""Sharing a whole model: parameters and buffers are exchanged in place and keep their identity.

``torch.utils.swap_tensors`` exchanges what a parameter is without making a new one, so an optimizer made before sharing
goes on working. Integer buffers (BatchNorm's count of batches) are public and stay plain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sharetorch.mpc.errors import ShareTorchError
from sharetorch.mpc.fixedpoint import Encoding, encode, fixed
from sharetorch.mpc.session import Member
from sharetorch.mpc.tensor import sharing
from sharetorch.mpc.tensor.fixed_precision import FixedPrecisionTensor, fix_precision
from sharetorch.mpc.tensor.shared import SharedTensor
from sharetorch.nn import support


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Parameters and floating-point buffers, each once."""
    yield from model.parameters()
    for buffer in model.buffers():
        if buffer.dtype.is_floating_point:
            yield buffer


def _exchange(old: Tensor, new: Tensor) -> None:
    """Let ``old`` become ``new``, and drop a gradient of its former kind."""
    old.grad = None
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new.detach(), requires_grad=old.requires_grad)
    try:
        torch.utils.swap_tensors(old, new)
    except RuntimeError as error:
        raise ShareTorchError(
            f"A parameter of shape {tuple(old.shape)} is still part of a graph or weakly referenced ({error}); "
            "finish the backward pass or delete the loss before sharing."
        ) from error


def _exchange_all(model: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """Make all new tensors first, so that an error leaves the model as it was; then exchange."""
    olds = list(_tensors(model))
    with torch.no_grad():
        news = [change(old) for old in olds]
    for old, new in zip(olds, news, strict=True):
        _exchange(old, new)
    return model


def share(model: nn.Module, *parties: Member, crypto_provider: Member, **options: Any) -> nn.Module:
    """Share all parameters and buffers in place; options as for tensors. Returns the model.

    Raises:
        UnsupportedLayersError: layers that cannot run on shared tensors, all of them, before anything is shared.
        EncodingError: a parameter that cannot be encoded; nothing is shared then.
    """
    support.check(model)
    options.pop("requires_grad", None)
    for tensor in _tensors(model):
        if not isinstance(tensor, SharedTensor):
            encode(tensor, fixed(options.get("precision")))
    return _exchange_all(
        model, lambda old: sharing.share(old, *parties, crypto_provider=crypto_provider, **options, requires_grad=False)
    )


def fix(model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """Write all parameters and buffers in fixed point, in place. Returns the model."""
    return _exchange_all(model, lambda old: fix_precision(old, *args, **kwargs))


def open_all(model: nn.Module) -> nn.Module:
    """Open all parameters and buffers in place. Returns the model."""
    return _exchange_all(model, lambda old: old.get() if isinstance(old, SharedTensor) else old)


def to_float(model: nn.Module) -> nn.Module:
    """Decode fixed-precision parameters and buffers in place. Returns the model."""
    return _exchange_all(model, lambda old: old.float_precision() if isinstance(old, SharedTensor) else old)


def explicit_encoding(model: nn.Module) -> Encoding | None:
    """Encoding of a model in fixed precision, if it is."""
    for tensor in _tensors(model):
        if isinstance(tensor, FixedPrecisionTensor):
            return tensor.encoding
    return None
