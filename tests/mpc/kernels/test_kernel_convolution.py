"""Convolutions modulo 2^64 and their gradients, beside torch's products of gathered windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels import convolution, set_thread_count, thread_count
from sharetorch.mpc.kernels.convolution import Windows
from sharetorch.mpc.protocols.bilinear import (
    Convolution,
    ConvolutionInputGradient,
    ConvolutionKernelGradient,
    Geometry,
)
from sharetorch.mpc.ring import PowerRing

Words = NDArray[np.int64]
MAPS = (Convolution, ConvolutionInputGradient, ConvolutionKernelGradient)
RING = PowerRing()


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    dims = draw(st.integers(1, 2))

    def sizes(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    groups = draw(st.integers(1, 2))
    channels, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    window, stride, padding, dilation = sizes(1, 3), sizes(1, 3), sizes(0, 2), sizes(1, 2)
    least = [d * (w - 1) + 1 for d, w in zip(dilation, window, strict=True)]
    space = tuple(draw(st.integers(size, size + 9)) for size in least)
    image = (draw(st.sampled_from([0, 1, 2, 5])), channels, *space)
    return Geometry(image, (outputs, channels // groups, *window), stride, padding, dilation, groups)


def words(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.integers(-(1 << 63), (1 << 63) - 1, shape, dtype=np.int64, endpoint=True))


def operands(kind: type[Any], g: Geometry, seed: int) -> list[torch.Tensor]:
    """Two pairs of operands and a start."""
    rng = np.random.default_rng(seed)
    shapes = {
        Convolution: (g.image, g.kernel, g.output),
        ConvolutionInputGradient: (g.output, g.kernel, g.image),
        ConvolutionKernelGradient: (g.output, g.image, g.kernel),
    }[kind]
    return [words(rng, *shapes[i]) for i in (0, 1, 0, 1, 2)]


@pytest.mark.parametrize("kind", MAPS)
@settings(max_examples=60, deadline=None)
@given(geometries(), st.integers(0, 2**32))
def test_equals_products_of_gathered_patches(kind: type[Any], g: Geometry, seed: int) -> None:
    x, y, u, v, start = operands(kind, g, seed)
    map_ = kind(g)
    if g.image[0]:
        first, second = map_._plain(RING, x, y), map_._plain(RING, u, v)
    else:
        first = second = torch.zeros_like(start)
    assert torch.equal(map_(RING, x, y), first)
    before = [t.clone() for t in (x, y, u, v, start)]
    found = map_.combine(RING, x, v, u, y, start)
    assert torch.equal(found, start + first + second)
    assert all(torch.equal(t, b) for t, b in zip((x, y, u, v, start), before, strict=True))


@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("image", [(13, 1, 28, 28), (13, 20, 12, 12)])
def test_several_threads(kind: type[Any], image: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    g = Geometry(image, (20, image[1], 5, 5), (1, 1), (0, 0), (1, 1), 1)
    x, y, u, v, start = operands(kind, g, 3)
    before = thread_count()
    try:
        set_thread_count(1)
        alone = kind(g).combine(RING, x, y, u, v, start)
        monkeypatch.setattr(convolution, "PART_PRODUCTS", 1)
        set_thread_count(3)
        assert torch.equal(kind(g).combine(RING, x, y, u, v, start), alone)
    finally:
        set_thread_count(before)


GOOD = Windows((2, 6, 7), (3, 2), (1, 2), (1, 0), (1, 1), (6, 3), 1, 4)


@pytest.mark.parametrize("function", [convolution.convolve, convolution.image_gradient, convolution.kernel_gradient])
@pytest.mark.parametrize(
    "change",
    [
        {"stride": (1, 0)}, {"stride": (-1, 2)}, {"dilation": (0, 1)}, {"padding": (-1, 0)}, {"window": (0, 2)},
        {"space": (6, 4)}, {"space": (7, 3)}, {"image": (2, 7, 7)}, {"image": (1 << 40, 6, 7)}, {"groups": 3},
        {"groups": 0}, {"outputs": 5}, {"image": (3, 6, 7)}, {"padding": (1 << 40, 0)},
    ],
    ids=str,
)  # fmt: skip
def test_sizes_that_do_not_fit_raise(function: Callable[..., Words], change: dict[str, Any]) -> None:
    image, kernel, output = (np.zeros(shape, np.int64) for shape in ((5, 84), (4, 12), (5, 72)))
    pair = {
        convolution.convolve: (image, kernel),
        convolution.image_gradient: (output, kernel),
        convolution.kernel_gradient: (output, image),
    }[function]
    function([pair], GOOD)
    with pytest.raises(ShapeError):
        function([pair], GOOD._replace(**change))
    with pytest.raises(ShapeError):
        function([(pair[0][:4], pair[1][:3])], GOOD)
    with pytest.raises(ShapeError):
        function([pair], GOOD, np.zeros(7, np.int64))
    with pytest.raises(TypeError):
        function([(pair[0].astype(np.int32), pair[1])], GOOD)
    with pytest.raises(TypeError):
        function([pair], GOOD, np.zeros(7))
