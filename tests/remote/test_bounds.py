"""Bounds that spare a trial of the operation are never below what the operation takes."""

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from sharetorch.remote import limits

aten = torch.ops.aten
BYTES = 16
"""Of the largest element, and of a value and its place together."""


def numbers(low: int, high: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(low, high), min_size=2, max_size=2)


@given(
    batch=st.integers(1, 3), groups=st.integers(1, 2), channels=st.integers(1, 2), features=st.integers(1, 3),
    sizes=numbers(1, 7), windows=numbers(1, 4), stride=numbers(1, 3), padding=numbers(0, 4), dilation=numbers(1, 3),
)  # fmt: skip
def test_convolutions(batch, groups, channels, features, sizes, windows, stride, padding, dilation):
    x = torch.ones(batch, channels * groups, *sizes)
    weight = torch.ones(groups * features, channels, *windows)
    rest = [stride, padding, dilation, False, [0, 0], groups]
    y = run(aten.convolution.default, x, weight, None, *rest)
    assert elements(y) * BYTES <= limits._convolved(x, weight, None, *rest)
    backward = [y, x, weight, [len(weight)], *rest, [True] * 3]
    assert elements(*aten.convolution_backward.default(*backward)) * BYTES <= limits._convolved_backward(*backward)


@given(
    sizes=numbers(1, 6), windows=numbers(1, 4), stride=numbers(1, 3), padding=numbers(0, 2), dilation=numbers(1, 2),
    ceil=st.booleans(),
)  # fmt: skip
def test_pools(sizes, windows, stride, padding, dilation, ceil):
    args = [torch.ones(2, 1, *sizes), windows, stride, padding, dilation, ceil]
    values, _ = run(aten.max_pool2d_with_indices.default, *args)
    assert elements(values) * BYTES <= limits._elements(args, False) * limits._ELEMENT


def run(operation, *args):
    try:
        return operation(*args)
    except RuntimeError:
        assume(False)


def elements(*tensors: Tensor) -> int:
    return sum(x.numel() for x in tensors)
