"""Single operations on shared tensors."""

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional


def test_multiplication(bench: Any) -> None:
    n = bench.size(1_000_000)
    bench(f"multiplication, {n:,}", torch.mul, torch.mul, bench.reals(n), bench.reals(n), bound=2 * bench.unit)


def test_truncation(bench: Any) -> None:
    n = bench.size(1_000_000)
    factor = bench.reals(n)
    scale = partial(torch.mul, other=factor)
    bench(f"product with public numbers: one truncation, {n:,}", scale, scale, bench.reals(n), bound=2 * bench.unit)


@pytest.mark.parametrize("shape", [(128, 784, 128), (512, 512, 512)], ids=str)
def test_matmul(bench: Any, shape: tuple[int, int, int]) -> None:
    n, k, m = map(bench.size, shape)
    x, y = bench.reals(n, k), bench.reals(k, m)
    bench(f"matmul {n}x{k}x{m}", torch.matmul, torch.matmul, x, y, bound=4 * bench.unit)


def test_convolution(bench: Any) -> None:
    images = bench.size(64)
    x, weight = bench.reals(images, 1, 28, 28), bench.reals(20, 1, 5, 5)
    convolve = functional.conv2d
    bench(f"convolution {images}x1x28x28, 20 kernels 5x5", convolve, convolve, x, weight, bound=4 * bench.unit)


@pytest.mark.parametrize(
    ("protocol", "count"),
    [
        ("tables", 100_000),
        ("tables", 1_000_000),
        ("fss", 100_000),
        ("fss", 1_000_000),
        ("securenn", 1_000_000),
        ("securenn-paper", 100_000),
    ],
)
def test_comparison(bench: Any, protocol: str, count: int) -> None:
    n = bench.size(count)
    share = partial(bench.share, protocol=protocol)
    bench(f"x > y by {protocol}, {n:,}", torch.gt, torch.gt, bench.reals(n), bench.reals(n), share=share)


def test_relu(bench: Any) -> None:
    n = bench.size(100_000)
    bench(f"ReLU, {n:,}", torch.relu, torch.relu, bench.reals(n))


def test_argmax(bench: Any) -> None:
    rows = bench.size(128)
    argmax = partial(torch.argmax, dim=1)
    bench(f"argmax of rows, {rows}x10", argmax, argmax, bench.reals(rows, 10))


def test_max_pooling(bench: Any) -> None:
    images = bench.size(64)
    pool = partial(functional.max_pool2d, kernel_size=2)
    bench(f"max pooling 2x2, {images}x20x24x24", pool, pool, bench.reals(images, 20, 24, 24))
