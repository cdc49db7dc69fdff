"""Arrays of unsigned bytes in IDX format, as MNIST comes [LeCun98].

A file is a magic number ``0x0000TTDD`` (TT: element type, 08 = unsigned byte; DD: number of dimensions), DD sizes, then
the elements; all integers are 32 bits, most significant byte first.
"""

from __future__ import annotations

from math import prod

import numpy as np

from sharetorch.mpc.errors import DataSourceError

_UNSIGNED_BYTE = 0x08

Array = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


def parse(content: bytes, dimensions: int, source: str = "data") -> Array:
    """Read an array.

    Args:
        content: the uncompressed file.
        dimensions: number of dimensions it must have.
        source: what to call it in errors.

    Raises:
        DataSourceError: magic number, sizes and length do not fit each other.
    """
    header = 4 + 4 * dimensions
    magic = _UNSIGNED_BYTE << 8 | dimensions
    if len(content) < header:
        raise DataSourceError(f"{source} is truncated: {len(content)} bytes, its header alone has {header}.")
    found, *sizes = (int(value) for value in np.frombuffer(content, ">u4", count=1 + dimensions))
    if found != magic:
        wanted = f"an IDX file of {dimensions} dimensions starts with {magic:#010x}"
        raise DataSourceError(f"{source} starts with {found:#010x}, but {wanted}.")
    elements = prod(sizes)
    if len(content) != header + elements:
        problem = "is truncated" if len(content) < header + elements else "has bytes after its end"
        raise DataSourceError(f"{source} {problem}: {len(content)} bytes, sizes {sizes} need {header + elements}.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(sizes)
