"""Hypothesis strategies shared by the tests."""

from collections.abc import Sequence

import torch
from hypothesis import strategies as st
from torch import Tensor

from sharetorch.mpc.ring import Ring, ring_of

FIELDS = (2**31 - 1, 2**62, 1234567891011, 2**127 - 1)
"""A Mersenne prime, the tutorials' field, a composite, and a prime beyond a word."""

party_counts = st.sampled_from([2, 3, 4, 5])
rings: st.SearchStrategy[Ring] = st.sampled_from([None, 2, 3, 2**8, *FIELDS]).map(ring_of)
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
words = st.one_of(st.sampled_from([0, 1, -1, 2**62, -(2**62), 2**63 - 1, -(2**63)]), st.integers(-(2**63), 2**63 - 1))
seeds = st.integers(0, 2**32 - 1)


@st.composite
def integer_tensors(
    draw: st.DrawFn, shape: Sequence[int] | None = None, elements: st.SearchStrategy[int] = words
) -> Tensor:
    """int64 tensors of a given or any small shape, empty and 0-d ones included."""
    size = torch.Size(draw(shapes) if shape is None else shape)
    values = draw(st.lists(elements, min_size=size.numel(), max_size=size.numel()))
    return torch.tensor(values, dtype=torch.int64).reshape(size)


@st.composite
def broadcastable(draw: st.DrawFn, elements: st.SearchStrategy[int]) -> tuple[Tensor, Tensor]:
    """Two tensors whose shapes broadcast."""
    shape = draw(shapes)
    kept = [draw(st.booleans()) for _ in shape]
    other = tuple(size if keep else 1 for size, keep in zip(shape, kept, strict=True))[
        draw(st.integers(0, len(shape))) :
    ]
    pair = draw(integer_tensors(shape, elements)), draw(integer_tensors(other, elements))
    return pair if draw(st.booleans()) else (pair[1], pair[0])
