"""Exact convolutions modulo 2^64, and their gradients, as matrix products over gathered windows.

Images are taken a few at a time, about ``POSITIONS`` outputs: their windows are gathered into memory that stays in the
cache, (channels * taps, images * positions), multiplied there, and never held for a whole batch. Several images are one
product so that no product is small. Work is split over threads by images.

Every function takes one or two pairs of operands and gives the sum of both results, which is Beaver's last step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels import backends
from sharetorch.mpc.kernels._numba import INT, inline, kernel, read_only, writable
from sharetorch.mpc.kernels._threads import in_parts, thread_count
from sharetorch.mpc.kernels._vectors import add_words, copy_words

Words = NDArray[np.int64]
Pairs = Sequence[tuple[Words, Words]]

POSITIONS = 256
"""Outputs of one product, at least, if the batch has so many."""
PART_PRODUCTS = 2_000_000
"""Multiplications worth a thread of their own."""

_INPUT = read_only("int64")
_LARGEST = 1 << 30


class Windows(NamedTuple):
    """Public parameters of a convolution in two dimensions; pairs are (vertical, horizontal).

    Attributes:
        image: channels, height, width.
        window: size of the kernel.
        stride: step of the window.
        padding: zeros added on both sides.
        dilation: distance between the window's taps.
        space: size of the output.
        groups: number of independent groups of channels.
        outputs: channels of the output.
    """

    image: tuple[int, int, int]
    window: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    space: tuple[int, int]
    groups: int
    outputs: int

    @property
    def pixels(self) -> int:
        """Words of an image."""
        return self.image[0] * self.image[1] * self.image[2]

    @property
    def taps(self) -> int:
        """Inputs that meet in one output, per group."""
        return self.image[0] // self.groups * self.window[0] * self.window[1]

    @property
    def positions(self) -> int:
        """Outputs per channel."""
        return self.space[0] * self.space[1]

    @property
    def products(self) -> int:
        """Multiplications per image."""
        return self.outputs * self.taps * self.positions

    @property
    def settings(self) -> tuple[int, ...]:
        """All sizes that the kernels need."""
        return (*self.image, *self.window, *self.stride, *self.padding, *self.dilation, *self.space)


_SETTINGS = (INT,) * 13


@inline
def _span(offset: int, stride: int, size: int, outputs: int) -> tuple[int, int]:
    """The outputs first..last whose input offset + output * stride lies within 0..size."""
    first = min(outputs, max(0, (-offset + stride - 1) // stride))
    return first, max(first, min(outputs, (size - offset + stride - 1) // stride))


@kernel(_INPUT, writable("int64"), INT, *_SETTINGS)
def _gather(
    image: Words, columns: Words, row_step: int,
    channels: int, height: int, width: int, window_y: int, window_x: int, stride_y: int, stride_x: int,
    pad_y: int, pad_x: int, dilation_y: int, dilation_x: int, space_y: int, space_x: int,
) -> None:  # fmt: skip
    """Copy the windows of one image: row (channel, tap), column (position)."""
    source, target = image.ctypes.data, columns.ctypes.data
    for row in range(channels * window_y * window_x):
        tap = row % (window_y * window_x)
        plane = row // (window_y * window_x) * height * width
        top, left = tap // window_x * dilation_y - pad_y, tap % window_x * dilation_x - pad_x
        top_y, end_y = _span(top, stride_y, height, space_y)
        first, last = _span(left, stride_x, width, space_x)
        if first > 0 or last < space_x or top_y > 0 or end_y < space_y:
            columns[row * row_step : row * row_step + space_y * space_x] = 0
        for y in range(top_y, end_y):
            into = row * row_step + y * space_x
            start = plane + (top + y * stride_y) * width + left
            if stride_x == 1:
                for x in range(first, last, 8):
                    copy_words(source + 8 * (start + x), target + 8 * (into + x), last - x)
            else:
                for x in range(first, last):
                    columns[into + x] = image[start + x * stride_x]


@kernel(_INPUT, writable("int64"), INT, *_SETTINGS)
def _scatter(
    columns: Words, image: Words, row_step: int,
    channels: int, height: int, width: int, window_y: int, window_x: int, stride_y: int, stride_x: int,
    pad_y: int, pad_x: int, dilation_y: int, dilation_x: int, space_y: int, space_x: int,
) -> None:  # fmt: skip
    """Add windows to one image, the transpose of ``_gather``."""
    source, target = columns.ctypes.data, image.ctypes.data
    for row in range(channels * window_y * window_x):
        tap = row % (window_y * window_x)
        plane = row // (window_y * window_x) * height * width
        top, left = tap // window_x * dilation_y - pad_y, tap % window_x * dilation_x - pad_x
        top_y, end_y = _span(top, stride_y, height, space_y)
        first, last = _span(left, stride_x, width, space_x)
        for y in range(top_y, end_y):
            begin = row * row_step + y * space_x
            start = plane + (top + y * stride_y) * width + left
            if stride_x == 1:
                for x in range(first, last, 8):
                    add_words(source + 8 * (begin + x), target + 8 * (start + x), last - x)
            else:
                for x in range(first, last):
                    image[start + x * stride_x] += columns[begin + x]


def _gathered(images: Words, windows: Windows) -> Words:
    """The windows of some images: (groups, taps, images * positions)."""
    count = len(images)
    columns = np.empty((windows.groups, windows.taps, count * windows.positions), np.int64)
    flat = columns.reshape(-1)
    for n in range(count):
        _gather(images[n].reshape(-1), flat[n * windows.positions :], count * windows.positions, *windows.settings)
    return columns


def _rows(kernels: Words, windows: Windows) -> Words:
    return kernels.reshape(windows.groups, windows.outputs // windows.groups, windows.taps)


def _joined(outputs: Words, windows: Windows) -> Words:
    """Outputs of some images (images, channels, positions) as (groups, channels / groups, images * positions)."""
    channels = windows.outputs // windows.groups
    parts = outputs.reshape(len(outputs), windows.groups, channels, windows.positions)
    return parts.transpose(1, 2, 0, 3).reshape(windows.groups, channels, -1)


def _add_products(out: Words, factors: Pairs, keep: bool) -> None:
    """Put the sums of products, group by group, into (groups, m, n) by the backend for that shape."""
    for g in range(len(out)):
        pairs = [(left[g], right[g]) for left, right in factors]
        terms = sum(left.shape[1] for left, _ in pairs)
        backends.choose(out.shape[1], terms, out.shape[2]).add_products(out[g], pairs, keep)


def _by_images(work: Callable[[int, int], None], count: int, windows: Windows, pairs: int) -> None:
    """Call ``work(begin, end)`` for a few images at a time, in several threads where it pays."""
    step = max(1, POSITIONS // max(1, windows.positions))

    def part(begin: int, end: int) -> None:
        for first in range(begin, end, step):
            work(first, min(first + step, end))

    in_parts(part, count, PART_PRODUCTS // max(1, pairs * windows.products), step)


def _extent(windows: Windows, axis: int) -> int:
    """The size of the output along an axis that the other sizes make."""
    reach = windows.dilation[axis] * (windows.window[axis] - 1)
    return (windows.image[1 + axis] + 2 * windows.padding[axis] - reach - 1) // windows.stride[axis] + 1


def _check_windows(windows: Windows) -> None:
    """Check that sizes fit together, since the kernels rely on it."""
    positive = (*windows.image, *windows.window, *windows.stride, *windows.dilation, *windows.space)
    if not all(0 < size < _LARGEST for size in (*positive, windows.groups, windows.outputs)):
        raise ShapeError(f"A convolution's sizes, strides and dilations are at least 1; got {windows}.")
    if not all(0 <= size < _LARGEST for size in windows.padding):
        raise ShapeError(f"Padding cannot be negative; got {windows.padding}.")
    if windows.space != (_extent(windows, 0), _extent(windows, 1)):
        raise ShapeError(f"These sizes do not give an output of {windows.space}: {windows}.")
    if windows.image[0] % windows.groups or windows.outputs % windows.groups:
        raise ShapeError(f"Channels cannot be split into {windows.groups} groups: {windows}.")


def _checked(pairs: Pairs, windows: Windows, left: int, right: int, per_right: bool) -> list[tuple[Words, Words]]:
    """Operands without gaps; the left ones have so many words per image, the right ones too if ``per_right``."""
    batch = len(pairs[0][0])
    for x, y in pairs:
        if x.dtype != np.int64 or y.dtype != np.int64:
            raise TypeError(f"Ring elements are int64; got {x.dtype} and {y.dtype}. Encode them first.")
        if x.size != batch * left or len(x) != batch or y.size != (batch * right if per_right else right):
            raise ShapeError(f"Operands of shapes {x.shape} and {y.shape} do not fit a convolution of {windows}.")
        if per_right and len(y) != batch:
            raise ShapeError(f"Operands of shapes {x.shape} and {y.shape} have different batch sizes.")
    return [(np.ascontiguousarray(x), np.ascontiguousarray(y)) for x, y in pairs]


def _started(start: Words, shape: tuple[int, ...]) -> Words:
    """A copy to add to, in this shape."""
    if start.dtype != np.int64:
        raise TypeError(f"Ring elements are int64; got {start.dtype} to start with.")
    if start.size != math.prod(shape):
        raise ShapeError(f"Cannot add a result of shape {shape} to {start.shape}.")
    return np.array(start, order="C").reshape(shape)


def convolve(pairs: Pairs, windows: Windows, start: Words | None = None) -> Words:
    """Convolve images with kernels modulo 2^64.

    Args:
        pairs: one or two of (images, kernels), int64, shapes (batch, channels, height, width) and
            (channels out, channels / groups, *window), or any other of as many words in the same order.
        windows: sizes.
        start: int64, shape (batch, channels out, positions), added to the result; not modified.

    Returns:
        The sum, int64, shape (batch, channels out, positions).

    Raises:
        ShapeError: sizes do not fit.
        TypeError: an operand is not int64.
    """
    _check_windows(windows)
    pairs = _checked(pairs, windows, windows.pixels, windows.outputs * windows.taps, False)
    batch = len(pairs[0][0])
    shape = (batch, windows.outputs, windows.positions)
    out = np.empty(shape, np.int64) if start is None else _started(start, shape)
    grouped = (windows.groups, windows.outputs // windows.groups, windows.positions)

    def work(begin: int, end: int) -> None:
        factors = [(_rows(kernels, windows), _gathered(images[begin:end], windows)) for images, kernels in pairs]
        if end - begin == 1:
            _add_products(out[begin].reshape(grouped), factors, start is not None)
            return
        sums = _joined(out[begin:end], windows)
        _add_products(sums, factors, start is not None)
        parts = sums.reshape(windows.outputs, end - begin, windows.positions)
        out[begin:end] = parts.transpose(1, 0, 2)

    _by_images(work, batch, windows, len(pairs))
    return out


def image_gradient(pairs: Pairs, windows: Windows, start: Words | None = None) -> Words:
    """Distribute gradients of outputs over the windows they came from, modulo 2^64.

    Args:
        pairs: one or two of (gradients of outputs, kernels), int64, as many words as ``convolve`` gives and takes.
        windows: sizes.
        start: int64, one word per pixel, shape (batch, ...), added to the result; not modified.

    Returns:
        The sum, int64, shape (batch, pixels).

    Raises:
        ShapeError: sizes do not fit.
        TypeError: an operand is not int64.
    """
    _check_windows(windows)
    pairs = _checked(pairs, windows, windows.outputs * windows.positions, windows.outputs * windows.taps, False)
    batch = len(pairs[0][0])
    shape = (batch, windows.pixels)
    out = np.zeros(shape, np.int64) if start is None else _started(start, shape)

    def work(begin: int, end: int) -> None:
        count = end - begin
        factors = [
            (_rows(kernels, windows).transpose(0, 2, 1), _joined(gradients[begin:end], windows))
            for gradients, kernels in pairs
        ]
        columns = np.empty((windows.groups, windows.taps, count * windows.positions), np.int64)
        _add_products(columns, factors, False)
        flat = columns.reshape(-1)
        for n in range(count):
            _scatter(flat[n * windows.positions :], out[begin + n], count * windows.positions, *windows.settings)

    _by_images(work, batch, windows, len(pairs))
    return out


def kernel_gradient(pairs: Pairs, windows: Windows, start: Words | None = None) -> Words:
    """Correlate gradients of outputs with the windows of images, modulo 2^64.

    Args:
        pairs: one or two of (gradients of outputs, images), int64, as many words as ``convolve`` gives and takes.
        windows: sizes.
        start: int64, one word per weight, added to the result; not modified.

    Returns:
        The sum, int64, shape (channels out, taps).

    Raises:
        ShapeError: sizes do not fit.
        TypeError: an operand is not int64.
    """
    _check_windows(windows)
    pairs = _checked(pairs, windows, windows.outputs * windows.positions, windows.pixels, True)
    batch = len(pairs[0][0])
    shape = (windows.groups, windows.outputs // windows.groups, windows.taps)
    totals: list[Words] = [] if start is None else [_started(start, shape)]

    def part(begin: int, end: int) -> None:
        total = np.zeros(shape, np.int64)
        step = max(1, POSITIONS // max(1, windows.positions))
        for first in range(begin, end, step):
            last = min(first + step, end)
            factors = [
                (_joined(gradients[first:last], windows), _gathered(images[first:last], windows).transpose(0, 2, 1))
                for gradients, images in pairs
            ]
            _add_products(total, factors, True)
        totals.append(total)

    grain = max(PART_PRODUCTS // max(1, len(pairs) * windows.products), -(-batch // thread_count()))
    in_parts(part, batch, grain)
    total = totals[0]
    for other in totals[1:]:
        total += other
    return total.reshape(windows.outputs, windows.taps)
