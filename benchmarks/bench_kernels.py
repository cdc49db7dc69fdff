"""Local work in the ring: compiled kernels beside the same integers in plain torch; the results are equal."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sharetorch.mpc import kernels
from sharetorch.mpc.kernels import backends, convolution, limbs, reference
from sharetorch.mpc.kernels.convolution import Windows

PRIME = 67


def on_tensors(kernel: Callable[..., Any], *settings: Any, **options: Any) -> Callable[..., Tensor]:
    return lambda *operands: torch.from_numpy(kernel(*(x.numpy() for x in operands), *settings, **options))


def as_it_is(x: Tensor) -> Tensor:
    return x


def record_speed(benchmark: Any, products: int) -> None:
    if benchmark.stats is not None:
        benchmark.extra_info["gmac_per_s"] = products / benchmark.stats.stats.median / 1e9


SHAPES = [
    (128, 784, 128), (784, 128, 128), (128, 128, 64), (128, 64, 128), (128, 128, 10), (1, 784, 128),
    (512, 512, 512), (1024, 1024, 1024),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ring_matmul(bench: Any, benchmark: Any, shape: tuple[int, int, int]) -> None:
    n, k, m = map(bench.size, shape)
    a, b = bench.words(n, k), bench.words(k, m)
    bench(f"ring matmul {n}x{k}x{m}", on_tensors(kernels.matmul), torch.matmul, a, b, share=as_it_is)
    record_speed(benchmark, n * k * m)


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[4], *SHAPES[-2:]], ids=str)
@pytest.mark.parametrize("name", [backend.name for backend in backends.BACKENDS if backend.available()])
def test_ring_matmul_by_each_kernel(
    bench: Any, benchmark: Any, name: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "choose", backends.make_choice(name))
    n, k, m = map(bench.size, shape)
    a, b = bench.words(n, k), bench.words(k, m)
    bench(f"ring matmul {n}x{k}x{m}, {name} alone", on_tensors(kernels.matmul), torch.matmul, a, b, share=as_it_is)
    record_speed(benchmark, n * k * m)


def test_transposed_ring_matmul(bench: Any, benchmark: Any) -> None:
    n, k, m = map(bench.size, (784, 128, 128))
    a, b = bench.words(k, n), bench.words(k, m)

    def gradient(x: Tensor, y: Tensor) -> Tensor:
        return torch.from_numpy(kernels.matmul(x.numpy().T, y.numpy()))

    bench(f"ring matmul {n}x{k}x{m}, transposed", gradient, lambda x, y: x.T @ y, a, b, share=as_it_is)
    record_speed(benchmark, n * k * m)


def test_ring_matmul_by_digits_in_float64(bench: Any, benchmark: Any) -> None:
    n = bench.size(512)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    a, b = bench.words(n, n), bench.words(n, n)

    def by_digits(x: Tensor, y: Tensor) -> Tensor:
        return limbs.matmul(x.to(device), y.to(device)).cpu()

    bench(f"ring matmul {n}x{n}x{n}, float64 digits, {device}", by_digits, torch.matmul, a, b, share=as_it_is)
    record_speed(benchmark, n**3)


@pytest.mark.parametrize(("image", "outputs"), [((1, 28, 28), 20), ((20, 12, 12), 50)], ids=str)
def test_ring_convolution(bench: Any, benchmark: Any, image: tuple[int, int, int], outputs: int) -> None:
    batch, channels = bench.size(64), image[0]
    space = (image[1] - 4, image[2] - 4)
    windows = Windows(image, (5, 5), (1, 1), (0, 0), (1, 1), space, 1, outputs)
    x, w = bench.words(batch, *image), bench.words(outputs, channels, 5, 5)

    def compiled(x: Tensor, w: Tensor) -> Tensor:
        return torch.from_numpy(convolution.convolve([(x.numpy(), w.numpy())], windows))

    def plain(x: Tensor, w: Tensor) -> Tensor:
        columns = x.unfold(2, 5, 1).unfold(3, 5, 1).permute(1, 4, 5, 0, 2, 3).reshape(channels * 25, -1)
        return (w.reshape(outputs, -1) @ columns).reshape(outputs, batch, -1).transpose(0, 1)

    bench(f"ring convolution {batch}x{channels}x{image[1]}x{image[2]}, {outputs} kernels 5x5", compiled, plain, x, w,
          share=as_it_is)  # fmt: skip
    record_speed(benchmark, batch * windows.products)


def test_beaver_combine(bench: Any) -> None:
    n = bench.size(1_000_000)
    vectors = [bench.words(n) for _ in range(5)]
    compiled = on_tensors(kernels.beaver_combine)
    bench(
        f"Beaver combination, {n:,}",
        compiled,
        reference.beaver_combine,
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
