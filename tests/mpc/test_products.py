"""Beaver products: elementwise, matrices, convolutions and their gradients, for every number of parties and modulus."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from sharetorch.mpc import testing
from sharetorch.mpc.protocols.arithmetic import bilinear, multiply
from sharetorch.mpc.protocols.bilinear import (
    BilinearMap,
    Convolution,
    ConvolutionInputGradient,
    ConvolutionKernelGradient,
    Geometry,
    MatrixProduct,
    Product,
)
from sharetorch.mpc.ring import PowerRing, ring_of
from tests.strategies import FIELDS, broadcastable, party_counts, words

PARTIES = [2, 3, 4, 5]
MODULI = [None, *FIELDS]


def secret(*shape: int, seed: int = 0, bound: int = 1 << 12) -> Tensor:
    """Integers of both signs."""
    return torch.randint(-bound, bound, shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def shared_bilinear(function: BilinearMap, x: Tensor, y: Tensor, n: int = 2, modulus: int | None = None) -> Tensor:
    """f(x, y) by the protocol."""

    async def evaluate(party: Any, a: Any, b: Any) -> Any:
        return await bilinear(party, function, a, b)

    session = testing.session(n, ring=ring_of(modulus), seed=17)
    result = testing.run_value(session, evaluate, testing.put_value(session, x), testing.put_value(session, y))
    return torch.as_tensor(result)


@given(broadcastable(words), party_counts)
def test_products_are_exact_with_broadcasting(pair: tuple[Tensor, Tensor], n: int) -> None:
    x, y = pair
    session = testing.session(n)
    result = testing.run_value(session, multiply, testing.put_value(session, x), testing.put_value(session, y))
    assert torch.equal(result, x * y)


@given(broadcastable(st.integers(-(2**14), 2**14)), st.sampled_from(FIELDS), party_counts)
def test_products_are_exact_in_fields(pair: tuple[Tensor, Tensor], modulus: int, n: int) -> None:
    x, y = pair
    assert torch.equal(shared_bilinear(Product(), x, y, n, modulus), x * y)


@pytest.mark.parametrize("modulus", FIELDS)
def test_products_wrap_at_the_modulus(modulus: int) -> None:
    x, y = secret(9, bound=modulus.bit_length() and min(modulus // 2, 1 << 61)), secret(9, seed=1, bound=1 << 30)
    session = testing.session(3, ring=ring_of(modulus))
    results = testing.run(session, multiply, testing.put_value(session, x), testing.put_value(session, y))[:3]
    parts = [getattr(share.data, "array", share.data) for share in results]
    found = [sum(int(part[i]) for part in parts) % modulus for i in range(9)]
    assert found == [a * b % modulus for a, b in zip(x.tolist(), y.tolist(), strict=True)]


@pytest.mark.parametrize("bits", [4, 5])
def test_products_are_exact_over_whole_small_rings(bits: int) -> None:
    ring = PowerRing(bits)
    values = ring.from_integers(torch.arange(ring.modulus))
    x, y = values.repeat_interleave(len(values)).repeat(8), values.repeat(len(values)).repeat(8)
    session = testing.session(ring=ring, seed=2)
    result = testing.run_value(session, multiply, testing.put_value(session, x), testing.put_value(session, y))
    assert torch.equal(result, ring.reduce(x * y))


@pytest.mark.parametrize("n", PARTIES)
def test_a_share_may_be_multiplied_by_itself(n: int) -> None:
    x = secret(7)
    session = testing.session(n)
    number = testing.put_value(session, x)
    assert torch.equal(testing.run_value(session, multiply, number, number), x * x)


@pytest.mark.parametrize(("n", "modulus"), list(product(PARTIES, MODULI)))
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 1, 1), (2, 0, 3), (0, 2, 2)])
def test_matrix_products_are_exact(shape: tuple[int, int, int], n: int, modulus: int | None) -> None:
    rows, inner, columns = shape
    x, y = secret(rows, inner), secret(inner, columns, seed=1)
    assert torch.equal(shared_bilinear(MatrixProduct(), x, y, n, modulus), x @ y)


@pytest.mark.parametrize("modulus", MODULI)
def test_batched_matrix_products_are_exact(modulus: int | None) -> None:
    x, y = secret(3, 2, 4), secret(3, 4, 5, seed=1)
    assert torch.equal(shared_bilinear(MatrixProduct(), x, y, 3, modulus), x @ y)


def test_matrix_products_wrap_around() -> None:
    x, y = secret(5, 6, bound=1 << 62), secret(6, 4, seed=1, bound=1 << 62)
    expected = (x.numpy().astype(object) @ y.numpy().astype(object)) % (1 << 64)
    assert np.array_equal(shared_bilinear(MatrixProduct(), x, y).numpy().astype(object) % (1 << 64), expected)


GEOMETRIES = [
    pytest.param(Geometry((2, 3, 9), (4, 3, 3), (1,), (0,), (1,), 1), id="1d"),
    pytest.param(Geometry((1, 4, 11), (6, 2, 3), (2,), (2,), (2,), 2), id="1d with everything"),
    pytest.param(Geometry((2, 3, 6, 5), (4, 3, 3, 2), (1, 1), (0, 0), (1, 1), 1), id="2d"),
    pytest.param(Geometry((2, 3, 7, 6), (2, 3, 3, 3), (2, 3), (0, 0), (1, 1), 1), id="stride"),
    pytest.param(Geometry((2, 3, 4, 5), (2, 3, 3, 3), (1, 1), (1, 2), (1, 1), 1), id="padding"),
    pytest.param(Geometry((2, 2, 7, 8), (2, 2, 2, 3), (1, 1), (0, 0), (3, 2), 1), id="dilation"),
    pytest.param(Geometry((2, 6, 5, 5), (4, 3, 3, 3), (1, 1), (0, 0), (1, 1), 2), id="groups"),
    pytest.param(Geometry((1, 4, 6, 6), (4, 1, 3, 3), (1, 1), (1, 1), (1, 1), 4), id="depthwise"),
    pytest.param(Geometry((2, 4, 9, 8), (6, 2, 2, 3), (2, 1), (1, 2), (2, 1), 2), id="2d with everything"),
]


def convolve(x: Tensor, w: Tensor, g: Geometry) -> Tensor:
    """PyTorch's convolution in float64, where small integers are exact."""
    function = F.conv1d if len(g.window) == 1 else F.conv2d
    return function(x, w, None, g.stride, g.padding, g.dilation, g.groups)


def gradients(g: Geometry, x: Tensor, w: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """PyTorch's gradients of a convolution for image and kernel, as integers."""
    leaves = [x.double().requires_grad_(), w.double().requires_grad_()]
    image, kernel = torch.autograd.grad(convolve(*leaves, g), leaves, upstream.double())
    return image.long(), kernel.long()


@pytest.mark.parametrize("modulus", [None, FIELDS[2], FIELDS[3]])
@pytest.mark.parametrize("g", GEOMETRIES)
def test_convolutions_are_exact(g: Geometry, modulus: int | None) -> None:
    x, w = secret(*g.image), secret(*g.kernel, seed=1)
    expected = convolve(x.double(), w.double(), g).long()
    assert torch.equal(shared_bilinear(Convolution(g), x, w, 2, modulus), expected)


@pytest.mark.parametrize("modulus", [None, FIELDS[2]])
@pytest.mark.parametrize("g", GEOMETRIES)
def test_gradients_of_convolutions_are_exact(g: Geometry, modulus: int | None) -> None:
    x, w, upstream = secret(*g.image), secret(*g.kernel, seed=1), secret(*g.output, seed=2)
    image, kernel = gradients(g, x, w, upstream)
    assert torch.equal(shared_bilinear(ConvolutionInputGradient(g), upstream, w, 2, modulus), image)
    assert torch.equal(shared_bilinear(ConvolutionKernelGradient(g), upstream, x, 2, modulus), kernel)


@pytest.mark.parametrize("n", PARTIES)
def test_convolutions_work_for_any_number_of_parties(n: int) -> None:
    g = Geometry((2, 3, 6, 5), (4, 3, 3, 2), (1, 2), (1, 0), (1, 1), 1)
    x, w = secret(*g.image), secret(*g.kernel, seed=1)
    assert torch.equal(shared_bilinear(Convolution(g), x, w, n), convolve(x.double(), w.double(), g).long())


def test_large_batches_are_convolved_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sharetorch.mpc.protocols.bilinear._PATCH_ELEMENTS", 300)
    g = Geometry((5, 2, 5, 5), (3, 2, 3, 3), (1, 1), (0, 0), (1, 1), 1)
    x, w, upstream = secret(*g.image), secret(*g.kernel, seed=1), secret(*g.output, seed=2)
    image, kernel = gradients(g, x, w, upstream)
    assert torch.equal(shared_bilinear(Convolution(g), x, w), convolve(x.double(), w.double(), g).long())
    assert torch.equal(shared_bilinear(ConvolutionInputGradient(g), upstream, w), image)
    assert torch.equal(shared_bilinear(ConvolutionKernelGradient(g), upstream, x), kernel)


def test_an_empty_batch_is_convolved_to_an_empty_batch() -> None:
    g = Geometry((0, 2, 5, 5), (3, 2, 3, 3), (1, 1), (0, 0), (1, 1), 1)
    assert shared_bilinear(Convolution(g), secret(*g.image), secret(*g.kernel)).shape == (0, 3, 3, 3)
