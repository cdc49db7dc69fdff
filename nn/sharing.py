"""Sharing a whole model: parameters and buffers are exchanged in place and keep their identity.

An optimizer made before sharing goes on working. Integer buffers (BatchNorm's count of batches) are public and stay
plain.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from sharetorch.mpc.fixedpoint import Encoding, encode, fixed
from sharetorch.mpc.session import Member
from sharetorch.mpc.tensor import sharing
from sharetorch.mpc.tensor.fixed_precision import FixedPrecisionTensor, fix_precision
from sharetorch.mpc.tensor.shared import SharedTensor
from sharetorch.nn import support
from sharetorch.nn.exchange import exchange


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    """Parameters and floating-point buffers, each once."""
    yield from model.parameters()
    for buffer in model.buffers():
        if buffer.dtype.is_floating_point:
            yield buffer


def _exchange_all(model: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    return exchange(model, _tensors(model), change)


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
