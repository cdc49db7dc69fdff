"""Which layers run on shared tensors, and a check that reports everything else in a model at once."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from sharetorch.mpc.errors import UnsupportedLayersError

SUPPORTED: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.Hardtanh,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.ZeroPad1d,
    nn.ZeroPad2d,
    nn.ConstantPad1d,
    nn.ConstantPad2d,
    nn.MSELoss,
    nn.L1Loss,
)
"""Layers of ``torch.nn`` with a secure form."""

_REMEDIES = {
    "Sigmoid": "nn.Hardtanh or nn.ReLU",
    "Tanh": "nn.Hardtanh",
    "GELU": "nn.ReLU",
    "SiLU": "nn.ReLU",
    "ELU": "nn.LeakyReLU",
    "SELU": "nn.LeakyReLU",
    "CELU": "nn.LeakyReLU",
    "PReLU": "nn.LeakyReLU",
    "Softplus": "nn.ReLU",
    "Softmax": "argmax for classes, or no layer with squared error",
    "LogSoftmax": "argmax for classes, or no layer with squared error",
    "CrossEntropyLoss": "nn.MSELoss on one-hot labels",
    "NLLLoss": "nn.MSELoss on one-hot labels",
    "LayerNorm": "nn.BatchNorm1d",
    "GroupNorm": "nn.BatchNorm2d",
    "ConvTranspose2d": "repeat_interleave and nn.Conv2d",
}


def unsupported(model: nn.Module) -> Iterator[str]:
    """A line for every layer of the model that has no secure form."""
    for name, layer in model.named_modules():
        if _is_composition(layer) or type(layer) in SUPPORTED and not _problem(layer):
            continue
        kind = type(layer).__name__
        reason = (
            _problem(layer) or f"use {_REMEDIES[kind]}" if _problem(layer) or kind in _REMEDIES else "no secure form"
        )
        yield f"{name or 'the model itself'}: {kind} ({reason})"


def _is_composition(layer: nn.Module) -> bool:
    """Modules of the user's and containers: they are made of the layers inside and of tensor operations."""
    inside_torch = type(layer).__module__.startswith("torch.nn.modules")
    return not inside_torch or isinstance(layer, (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList))


def _problem(layer: nn.Module) -> str:
    """What is wrong with the settings of a layer of a supported kind, or nothing."""
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.padding_mode != "zeros":
        return f"padding_mode={layer.padding_mode!r}, use 'zeros'"
    if isinstance(layer, (nn.MaxPool1d, nn.MaxPool2d)) and (layer.ceil_mode or layer.return_indices):
        return "ceil_mode and return_indices are not available"
    if isinstance(layer, (nn.AvgPool1d, nn.AvgPool2d)) and layer.ceil_mode:
        return "ceil_mode is not available"
    return ""


def check(model: nn.Module) -> None:
    """Raise if any layer cannot run on shared tensors.

    Raises:
        UnsupportedLayersError: naming every such layer.
    """
    problems = list(unsupported(model))
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise UnsupportedLayersError(
            f"{len(problems)} layer(s) of {type(model).__name__} cannot run on shared tensors; "
            f"nothing was shared:\n{lines}"
        )
