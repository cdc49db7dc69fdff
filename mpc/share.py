"""Additive shares: splitting, reconstructing, and what one member holds of a secret tensor.

An ``ArithmeticShare`` is a view into the storage of its ``Root``: transposing or slicing costs nothing, and writing
through a view changes its base, as in PyTorch. The root also keeps the operand's one masked opening
(``MaskedOperand``), so that every view of a tensor that was used in a product before is ready for the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sharetorch.mpc.randomness import Stream
from sharetorch.mpc.ring import Elements, Ring


@dataclass
class MaskedOperand:
    """A secret x after its one opening under the mask a, in the layout of what was masked.

    Attributes:
        version: version of the root's contents that was masked.
        opened: e = x - a, which all parties know; None at the provider.
        mask: this party's share of a; all of a at the provider.
    """

    version: int
    opened: Elements | None
    mask: Elements

    def __repr__(self) -> str:
        return f"MaskedOperand(version={self.version})"


class Root:
    """The storage that views of one tensor have in common."""

    __slots__ = ("data", "masked", "version")

    def __init__(self, data: Elements) -> None:
        self.data = data
        self.version = 0
        self.masked: MaskedOperand | None = None

    def touch(self) -> None:
        """Note that the contents change: what was opened no longer fits them."""
        self.version += 1
        self.masked = None


class ArithmeticShare:
    """One party's additive share of a tensor; at the provider a tensor of the same shape on ``meta``."""

    __slots__ = ("data", "masked", "root")

    def __init__(self, data: Elements, root: Root | None = None) -> None:
        if root is None:
            data = _own_storage(data)
            root = Root(data)
        self.data = data
        self.root = root
        self.masked: MaskedOperand | None = None

    def view(self, data: Elements) -> ArithmeticShare:
        """A share of a view of this tensor; ``data`` shares storage with this one's."""
        return ArithmeticShare(data, self.root)

    def write(self, data: Elements) -> None:
        """Replace the contents in place, seen by all views."""
        if not isinstance(self.data, Tensor):
            self.data.array[...] = data.array
        elif not self.data.is_meta:
            np.copyto(self.data.numpy(), data.numpy())
        self.root.touch()

    def add(self, data: Tensor) -> None:
        """Add words to the contents in place, modulo 2^64, seen by all views."""
        if not self.data.is_meta:
            held = self.data.numpy()
            np.add(held, data.numpy(), out=held)
        self.root.touch()

    def forget_opening(self) -> None:
        """Drop the masked opening: after a failed operation some members may have it and others not."""
        self.masked = self.root.masked = None

    def __repr__(self) -> str:
        return f"ArithmeticShare(shape={tuple(self.data.shape)})"


def _own_storage(data: Elements) -> Elements:
    if not isinstance(data, Tensor):
        return data
    data = data.contiguous()
    return data if data.storage_offset() == 0 else data.clone()


def split(x: Elements, count: int, ring: Ring, stream: Stream) -> list[Elements]:
    """Split elements into ``count`` shares of the same shape; any ``count - 1`` of them are uniform."""
    shares = [stream.uniform(x.shape, ring) for _ in range(count - 1)]
    rest = x.clone() if count == 1 else x
    for share in shares:
        rest = ring.subtract(rest, share)
    return [*shares, rest]


def reconstruct(shares: Sequence[Elements], ring: Ring) -> Elements:
    """Add shares up."""
    total = shares[0]
    for share in shares[1:]:
        total = ring.add(total, share)
    return total
