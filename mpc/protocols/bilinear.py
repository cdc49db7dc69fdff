"""The bilinear maps that Beaver's protocol evaluates: products, matrix products, convolutions and their gradients.

A map knows nothing of shares: it takes ring elements and is linear in each of its two arguments. Convolutions gather
patches (``im2col``) locally, inside a kernel where one applies; masks and messages have the size of image and kernel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sharetorch.mpc import kernels
from sharetorch.mpc.kernels import convolution
from sharetorch.mpc.kernels.convolution import Pairs, Windows, Words
from sharetorch.mpc.ring import Elements, PowerRing, Ring

_PATCH_ELEMENTS = 1 << 23


class BilinearMap(ABC):
    """A map f(x, y) linear in x and in y over the integers."""

    @abstractmethod
    def __call__(self, ring: Ring, x: Elements, y: Elements) -> Elements:
        """Evaluate f on ring elements."""

    @abstractmethod
    def shape(self, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of f(x, y)."""

    def combine(self, ring: Ring, e: Elements, f: Elements, x: Elements, b: Elements, c: Elements) -> Elements:
        """Beaver's last step: c + f(e, b) + f(x, f), with shares of x, b and c. The caller gives c up."""
        return ring.add(ring.add(c, self(ring, e, b)), self(ring, x, f))


class Product(BilinearMap):
    """x * y elementwise, with broadcasting."""

    def __call__(self, ring: Ring, x: Elements, y: Elements) -> Elements:
        """Multiply elementwise."""
        return ring.mul(x, y)

    def shape(self, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
        """The broadcast shape."""
        return x if x == y else np.broadcast_shapes(x, y)

    def combine(self, ring: Ring, e: Elements, f: Elements, x: Elements, b: Elements, c: Elements) -> Elements:
        """One pass over memory where the kernel applies."""
        if not (isinstance(ring, PowerRing) and e.shape == f.shape):
            return super().combine(ring, e, f, x, b, c)
        flat = [part.contiguous().numpy().reshape(-1) for part in (e, f, x, b, c)]
        return ring.reduce(torch.from_numpy(kernels.beaver_combine(*flat)).reshape(c.shape))


class MatrixProduct(BilinearMap):
    """x @ y for matrices, or batches of equally many matrices."""

    def __call__(self, ring: Ring, x: Elements, y: Elements) -> Elements:
        """Multiply matrices."""
        return ring.matmul(x, y)

    def shape(self, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
        """Rows of x, columns of y."""
        return (*x[:-1], y[-1])

    def combine(self, ring: Ring, e: Elements, f: Elements, x: Elements, b: Elements, c: Elements) -> Elements:
        """Both products into one accumulator where the ring can."""
        return ring.matmul_add(e, b, x, f, c)


@dataclass(frozen=True)
class Geometry:
    """Public parameters of a convolution in 1 or 2 spatial dimensions.

    Attributes:
        image: shape (batch, channels in, *space).
        kernel: shape (channels out, channels in / groups, *window).
        stride: step of the window, per spatial dimension.
        padding: zeros added on both sides, per spatial dimension.
        dilation: distance between the window's taps, per spatial dimension.
        groups: number of independent groups of channels.
    """

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def window(self) -> tuple[int, ...]:
        """Spatial size of the kernel."""
        return self.kernel[2:]

    @property
    def padded(self) -> tuple[int, ...]:
        """Spatial size of the image with its padding."""
        return tuple(size + 2 * pad for size, pad in zip(self.image[2:], self.padding, strict=True))

    @property
    def space(self) -> tuple[int, ...]:
        """Spatial size of the output."""
        reach = (dilation * (size - 1) for dilation, size in zip(self.dilation, self.window, strict=True))
        return tuple((p - r - 1) // s + 1 for p, r, s in zip(self.padded, reach, self.stride, strict=True))

    @property
    def output(self) -> tuple[int, ...]:
        """Shape (batch, channels out, *space)."""
        return (self.image[0], self.kernel[0], *self.space)

    @property
    def taps(self) -> int:
        """Inputs that meet in one output, per group."""
        return self.kernel[1] * prod(self.window)

    @property
    def windows(self) -> Windows:
        """The same for the kernels: one spatial dimension becomes two, of which the first has size 1."""
        return Windows(
            image=(self.image[1], *_two(1, self.image[2:])),
            window=_two(1, self.window),
            stride=_two(1, self.stride),
            padding=_two(0, self.padding),
            dilation=_two(1, self.dilation),
            space=_two(1, self.space),
            groups=self.groups,
            outputs=self.kernel[0],
        )


def _two(first: int, sizes: tuple[int, ...]) -> tuple[int, int]:
    """The last two of a number and some sizes."""
    return (first, *sizes)[-2], sizes[-1]


def patches(x: Tensor, g: Geometry) -> Tensor:
    """Gather the windows of an image: (batch, channels, *space) -> (groups, taps, batch * positions)."""
    x = F.pad(x, [pad for size in reversed(g.padding) for pad in (size, size)]) if any(g.padding) else x
    x = x.contiguous()
    batch, channels = x.shape[:2]
    steps = x.stride()
    shape = (batch, channels, *g.window, *g.space)
    strides = (
        steps[0],
        steps[1],
        *(step * d for step, d in zip(steps[2:], g.dilation, strict=True)),
        *(step * s for step, s in zip(steps[2:], g.stride, strict=True)),
    )
    windows = torch.as_strided(x, shape, strides)
    dims = len(g.window)
    order = (1, *range(2, 2 + dims), 0, *range(2 + dims, 2 + 2 * dims))
    return windows.permute(order).reshape(g.groups, g.taps, batch * prod(g.space))


def scatter_patches(columns: Tensor, g: Geometry, batch: int) -> Tensor:
    """Add windows back into an image: the transpose of ``patches``."""
    dims = len(g.window)
    channels = g.kernel[1] * g.groups
    columns = columns.reshape(channels, prod(g.window), batch, *g.space)
    padded = torch.zeros((batch, channels, *g.padded), dtype=columns.dtype, device=columns.device)
    for tap, offsets in enumerate(torch.cartesian_prod(*(torch.arange(size) for size in g.window)).reshape(-1, dims)):
        place = tuple(
            slice(int(o) * d, int(o) * d + s * (n - 1) + 1, s)
            for o, d, s, n in zip(offsets, g.dilation, g.stride, g.space, strict=True)
        )
        padded[(slice(None), slice(None), *place)] += columns[:, tap].transpose(0, 1)
    inner = tuple(slice(pad, pad + size) for pad, size in zip(g.padding, g.image[2:], strict=True))
    return padded[(slice(None), slice(None), *inner)].contiguous()


def _grouped(ring: Ring, left: Elements, right: Elements) -> Elements:
    """Multiply (groups, m, k) by (groups, k, n), as plain matrices if there is one group."""
    if left.shape[0] == 1:
        product = ring.matmul(ring.linear(_first, left), ring.linear(_first, right))
        return ring.linear(_as_one_group, product)
    return ring.matmul(left, right)


def _first(x: Tensor) -> Tensor:
    return x[0]


def _as_one_group(x: Tensor) -> Tensor:
    return x.unsqueeze(0)


def _kernel_rows(w: Tensor, g: Geometry) -> Tensor:
    return w.reshape(g.groups, g.kernel[0] // g.groups, g.taps)


def _output_rows(y: Tensor, g: Geometry) -> Tensor:
    """(batch, channels out, *space) -> (groups, channels out / groups, batch * positions)."""
    return y.transpose(0, 1).reshape(g.groups, g.kernel[0] // g.groups, -1)


def _output_image(rows: Tensor, g: Geometry, batch: int) -> Tensor:
    return rows.reshape(g.kernel[0], batch, *g.space).transpose(0, 1).contiguous()


def _chunks(g: Geometry) -> int:
    """Images per step, so that gathered patches stay within a bound."""
    each = max(1, g.groups * g.taps * prod(g.space))
    return max(1, _PATCH_ELEMENTS // each)


def _by_images(x: Elements, count: int, ring: Ring) -> list[Elements]:
    if x.shape[0] <= count:
        return [x]
    return list(ring.linear(lambda t: torch.split(t, count), x))


@dataclass(frozen=True)
class _WindowedMap(BilinearMap):
    """A convolution or one of its gradients: compiled where the kernels apply, else by gathered patches."""

    geometry: Geometry

    @abstractmethod
    def _compiled(self, pairs: Pairs, windows: Windows, start: Words | None) -> Words:
        """Evaluate the map on one pair of operands, or on two, and add the results to ``start``."""

    @abstractmethod
    def _plain(self, ring: Ring, x: Elements, y: Elements) -> Elements:
        """Evaluate the map on elements of any ring."""

    def _is_compiled(self, ring: Ring, *operands: Elements) -> bool:
        tensors = isinstance(ring, PowerRing) and all(x.device.type == "cpu" for x in operands)
        return tensors and len(self.geometry.window) <= 2

    def _run(self, ring: Ring, pairs: list[tuple[Tensor, Tensor]], start: Tensor | None) -> Tensor:
        words = [(x.numpy(), y.numpy()) for x, y in pairs]
        found = self._compiled(words, self.geometry.windows, None if start is None else start.numpy())
        (x, y), *_ = pairs
        shape = self.shape(tuple(x.shape), tuple(y.shape))
        return cast(Tensor, ring.reduce(torch.from_numpy(found).reshape(shape)))

    def __call__(self, ring: Ring, x: Elements, y: Elements) -> Elements:
        """Evaluate the map."""
        return self._run(ring, [(x, y)], None) if self._is_compiled(ring, x, y) else self._plain(ring, x, y)

    def combine(self, ring: Ring, e: Elements, f: Elements, x: Elements, b: Elements, c: Elements) -> Elements:
        """Both products into one accumulator where the kernels apply."""
        if not self._is_compiled(ring, e, f, x, b, c):
            return super().combine(ring, e, f, x, b, c)
        return self._run(ring, [(e, b), (x, f)], c)


@dataclass(frozen=True)
class Convolution(_WindowedMap):
    """image (*) kernel."""

    def shape(self, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the output."""
        return self.geometry.output

    def _compiled(self, pairs: Pairs, windows: Windows, start: Words | None) -> Words:
        return convolution.convolve(pairs, windows, start)

    def _plain(self, ring: Ring, x: Elements, y: Elements) -> Elements:
        """Convolve: (batch, in, *space), (out, in / groups, *window) -> (batch, out, *space)."""
        g = self.geometry
        rows = ring.linear(lambda w: _kernel_rows(w, g), y)
        parts = []
        for part in _by_images(x, _chunks(g), ring):
            columns = ring.linear(lambda t: patches(t, g), part)
            out = _grouped(ring, rows, columns)
            parts.append(ring.linear(lambda t, n=part.shape[0]: _output_image(t, g, n), out))
        return parts[0] if len(parts) == 1 else ring.linear(lambda *t: torch.cat(t), *parts)


@dataclass(frozen=True)
class ConvolutionInputGradient(_WindowedMap):
    """Gradient of a convolution for its image: (gradient of the output, kernel) -> image."""

    def shape(self, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the image."""
        return self.geometry.image

    def _compiled(self, pairs: Pairs, windows: Windows, start: Words | None) -> Words:
        return convolution.image_gradient(pairs, windows, start)

    def _plain(self, ring: Ring, x: Elements, y: Elements) -> Elements:
        """Distribute each output's gradient over its window."""
        g = self.geometry
        columns = ring.linear(lambda w: _kernel_rows(w, g).transpose(1, 2).contiguous(), y)
        parts = []
        for part in _by_images(x, _chunks(g), ring):
            spread = _grouped(ring, columns, ring.linear(lambda t: _output_rows(t, g), part))
            parts.append(ring.linear(lambda t, n=part.shape[0]: scatter_patches(t, g, n), spread))
        return parts[0] if len(parts) == 1 else ring.linear(lambda *t: torch.cat(t), *parts)


@dataclass(frozen=True)
class ConvolutionKernelGradient(_WindowedMap):
    """Gradient of a convolution for its kernel: (gradient of the output, image) -> kernel."""

    def shape(self, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the kernel."""
        return self.geometry.kernel

    def _compiled(self, pairs: Pairs, windows: Windows, start: Words | None) -> Words:
        return convolution.kernel_gradient(pairs, windows, start)

    def _plain(self, ring: Ring, x: Elements, y: Elements) -> Elements:
        """Correlate the output's gradient with the image's windows."""
        g = self.geometry
        total: Elements = None
        count = _chunks(g)
        for grad, image in zip(_by_images(x, count, ring), _by_images(y, count, ring), strict=True):
            columns = ring.linear(lambda t: patches(t, g).transpose(1, 2), image)
            part = _grouped(ring, ring.linear(lambda t: _output_rows(t, g), grad), columns)
            total = part if total is None else ring.add(total, part)
        return ring.linear(lambda t: t.reshape(g.kernel), total)
