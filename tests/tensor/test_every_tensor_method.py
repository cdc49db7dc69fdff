"""Every method of ``torch.Tensor``, with many arguments: the right result or a typed error, never plaintext."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import sharetorch as st
from tests.tensor.tools import eighths, has_shared, integers, opened, share

# Bookkeeping of Python and torch, methods of ours, and what makes plain tensors or iterators by design.
_NO_FUNCTIONS_OF_THE_VALUE = {
    "as_subclass",
    "backward",
    "const_data_ptr",
    "attr",
    "copy",
    "create_pointer",
    "decrypt",
    "get",
    "has_child",
    "map_",
    "map2_",
    "new",
    "new_tensor",
    "module_load",
    "register_hook",
    "register_post_accumulate_grad_hook",
    "requires_grad_",
    "retain_grad",
    "share",
    "share_",
    "storage",
    "untyped_storage",
}
_UNINITIALISED = {"new_empty", "new_empty_strided", "resize", "resize_", "resize_as", "resize_as_"}
_DOMAIN_IS_POSITIVE = {
    "__pow__",
    "__ipow__",
    "pow",
    "pow_",
    "float_power",
    "float_power_",
    "sqrt",
    "sqrt_",
    "rsqrt",
    "rsqrt_",
    "std",
    "corrcoef",
}
_ANY_OF_EQUALS = {"sort", "argsort", "topk", "kthvalue", "median", "nanmedian"}
"""Whose indices torch promises for different elements only."""
_TYPED = (st.ShareTorchError, TypeError, NotImplementedError)
_DUNDERS = (
    "abs add and contains eq floordiv ge getitem gt iadd iand idiv imod imul invert ior ipow isub iter itruediv ixor "
    "le len lt matmul mod mul ne neg or pos pow radd rdiv rmatmul rmul rpow rsub rtruediv setitem sub truediv xor"
)
NAMES = [name for name in dir(torch.Tensor) if not name.startswith("_")] + [f"__{name}__" for name in _DUNDERS.split()]


def _arguments(y: Any, places: torch.Tensor, mask: torch.Tensor) -> list[tuple[Any, ...]]:
    rows = torch.tensor([0, 2])
    return [
        (),
        (y,),
        (2,),
        (0.5,),
        (0,),
        (1, 0),
        (0, 1),
        (0, 1, 2),
        ((0, 1),),
        (rows,),
        (0, rows),
        (0, places),
        (mask,),
        (mask, 1.5),
        ((2, 6),),
        (2, 6),
        (0, rows, y[:2]),
        (y, y),
        (torch.float64,),
        ("cpu",),
        (0, places, y),
        (y[0],),
    ]


def _differs(actual: Any, expected: Any) -> str:
    actual, expected = opened(actual), opened(expected)
    if isinstance(expected, torch.Size) or not isinstance(expected, (torch.Tensor, list, tuple)):
        return "" if actual == expected else f"{actual!r} instead of {expected!r}"
    if not isinstance(expected, torch.Tensor):
        if len(actual) != len(expected):
            return "another number of results"
        return "".join(_differs(one, other) for one, other in zip(actual, expected, strict=True))
    if not isinstance(actual, torch.Tensor) or actual.shape != expected.shape:
        return f"{actual!r} instead of shape {tuple(expected.shape)}"
    error = (actual.double() - expected.double()).abs()
    return "" if not error.numel() or float(error.max()) < 1e-3 else f"off by {float(error.max())}"


def _try(name: str, x: torch.Tensor, y: torch.Tensor, place: int, y_shared: bool) -> str:
    """What is wrong with one call, or nothing. Calls that torch itself refuses are not judged."""
    mask, places = x > 0, torch.tensor([[0, 1, 0, 1]])
    plain = x.clone()
    try:
        expected = getattr(plain, name)(*_arguments(y, places, mask)[place])
    except Exception:  # noqa: BLE001 - whatever torch refuses
        return ""
    shared = share(x.clone())
    try:
        actual = getattr(shared, name)(*_arguments(share(y) if y_shared else y, places, mask)[place])
    except _TYPED:
        return ""
    except RuntimeError as error:
        return "" if "not allocated" in str(error) else str(error)  # torch wants to look at shared numbers of pieces
    if isinstance(actual, torch.Tensor) and not has_shared(actual):
        return "a plain tensor"
    if name == "__iter__":
        actual, expected = list(actual), list(expected)
    elif name in _UNINITIALISED:
        return "" if tuple(actual.shape) == tuple(expected.shape) else "another shape"
    wrong = _differs(actual, expected)
    if not wrong and name.endswith("_") and not name.endswith("__"):
        wrong = _differs(shared, plain)
    return wrong


@pytest.mark.parametrize("name", [name for name in NAMES if name not in _NO_FUNCTIONS_OF_THE_VALUE])
def test_right_or_refused(name):
    if not callable(getattr(torch.Tensor, name)):
        return
    positive = name in _DOMAIN_IS_POSITIVE or "div" in name or name.startswith("reciprocal") or "rdiv" in name
    x, y = eighths(3, 4), eighths(3, 4, seed=1)
    kinds = [(x.abs() + 0.5, y.abs() + 0.5)] if positive else [(x, y), (integers(3, 4), integers(3, 4, seed=1))]
    if name in _ANY_OF_EQUALS:
        x = torch.randperm(12, generator=torch.Generator().manual_seed(1)).reshape(3, 4) - 6
        kinds = [(x / 8, y), (x, integers(3, 4, seed=1))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for x, y in kinds:
            for place in range(len(_arguments(y, y, y))):
                for y_shared in (False, True):
                    wrong = _try(name, x, y, place, y_shared)
                    assert not wrong, (name, place, y_shared, x.dtype, wrong)


ATTRIBUTES = [
    name
    for name in dir(torch.Tensor)
    if not name.startswith("_")
    and not callable(getattr(torch.Tensor, name))
    and name not in ("child", "session", "encoding", "id", "is_wrapper")
]


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes(name):
    x = eighths(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = getattr(x, name)
        except Exception:  # noqa: BLE001 - whatever torch refuses
            return
        try:
            actual = getattr(share(x), name)
        except (*_TYPED, AttributeError):
            return
    assert not _differs(actual, expected)
