"""Local work in the ring: compiled kernels beside the same integers in plain torch; the results are equal."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sharetorch.mpc import kernels
from sharetorch.mpc.kernels import reference

PRIME = 67


def on_tensors(kernel: Callable[..., Any], *settings: Any, **options: Any) -> Callable[..., Tensor]:
    return lambda *operands: torch.from_numpy(kernel(*(x.numpy() for x in operands), *settings, **options))


def as_it_is(x: Tensor) -> Tensor:
    return x


@pytest.mark.parametrize("shape", [(128, 784, 128), (512, 512, 512), (1024, 1024, 1024)], ids=str)
def test_ring_matmul(bench: Any, shape: tuple[int, int, int]) -> None:
    n, k, m = map(bench.size, shape)
    a, b = bench.words(n, k), bench.words(k, m)
    bench(f"ring matmul {n}x{k}x{m}", on_tensors(kernels.matmul), torch.matmul, a, b, share=as_it_is)


def test_beaver_combine(bench: Any) -> None:
    n = bench.size(1_000_000)
    vectors = [bench.words(n) for _ in range(5)]
    compiled = on_tensors(kernels.beaver_combine, leader=True)
    bench(
        f"Beaver combination, {n:,}",
        compiled,
        lambda *x: reference.beaver_combine(*x, leader=True),
        *vectors,
        share=as_it_is,
    )


def test_mask_symbols(bench: Any) -> None:
    n = bench.size(100_000)
    comparand, direction, rotation = bench.words(n), bench.words(n, low=0, high=3), bench.words(n, low=0, high=64)
    direction, rotation = direction.to(torch.uint8), rotation.to(torch.uint8)
    x, s, z = (bench.words(n, 64, low=low, high=PRIME).to(torch.uint8) for low in (0, 1, 0))
    packed = [reference.pack_blocks(rows) for rows in (x, s, z)]
    masks = [comparand.numpy().view("uint64"), direction.numpy(), packed[1].numpy(), packed[2].numpy()]

    def compiled() -> Tensor:
        return torch.from_numpy(kernels.mask_symbols(packed[0].numpy(), *masks, rotation.numpy(), 1))

    def plain() -> Tensor:
        return reference.mask_symbols(x, comparand, direction, s, z, rotation, 1, 64)

    expected = reference.pack_blocks(plain())
    bench(f"private compare, mask symbols, {n:,}", compiled, plain, expected=lambda _: expected)
