"""``FixedPrecisionTensor``: what ``x.fix_precision()`` makes, a local tensor of integers that stand for reals.

It runs the same programs as a shared tensor, in a session of one party with the plaintext suite. Sharing it hands its
integers to the parties in the same encoding.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.fixedpoint import Encoding, decode, encode, fixed
from sharetorch.mpc.protocols.suite import SUITES, Plaintext
from sharetorch.mpc.ring import PowerRing
from sharetorch.mpc.session import Session, new_id
from sharetorch.mpc.share import ArithmeticShare
from sharetorch.mpc.tensor import shared
from sharetorch.mpc.tensor.shared import Handle, SharedTensor
from sharetorch.mpc.virtual import VirtualSession


class _Local:
    """The one member of the plaintext session."""

    id = "me"

    def __init__(self) -> None:
        self.store: dict[int, Any] = {}


@cache
def plaintext_session() -> Session:
    """The session in which local fixed-precision tensors compute."""
    return VirtualSession([_Local()], None, PowerRing(), SUITES[Plaintext.name])


class FixedPrecisionTensor(SharedTensor):
    """A plain tensor in fixed point: integers in the clear, with the arithmetic of shared tensors."""

    @property
    def integers(self) -> Any:
        """The ring elements, int64."""
        share: ArithmeticShare = self.session.parties[0].store[self.handle.number]
        return share.data.clone()

    @property
    def child(self) -> Any:
        """The ring elements, under the tutorials' name."""
        return self.integers

    def float_precision(self) -> Tensor:  # type: ignore[override]
        """Decode to a plain tensor of the logical dtype."""
        return decode(self.integers, self.encoding, self.dtype)

    float_prec = float_precision  # type: ignore[assignment]
    get = float_precision
    decrypt = float_precision

    def item(self) -> Any:
        """The one value as a Python number."""
        return self.float_precision().item()

    def tolist(self) -> Any:
        """The values as Python numbers."""
        return self.float_precision().tolist()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """The values as a numpy array."""
        return self.float_precision().numpy()

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.float_precision().numpy().astype(dtype or "float32")

    def __float__(self) -> float:
        return float(self.float_precision())

    def __int__(self) -> int:
        return int(self.float_precision())

    def __bool__(self) -> bool:
        return bool(self.float_precision())

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        prefix = "AutogradTensor>" if self.requires_grad else ""
        return f"{prefix}FixedPrecisionTensor>{self.integers!r}"


def from_integers(integers: Tensor, encoding: Encoding, dtype: torch.dtype = torch.float32) -> FixedPrecisionTensor:
    """A local fixed-precision tensor from ring elements."""
    session = plaintext_session()
    number = new_id()
    session.parties[0].store[number] = ArithmeticShare(integers.clone())
    shadow = torch.empty(integers.shape, dtype=dtype, device="meta")
    return FixedPrecisionTensor(Handle(session, number, encoding), shadow)


def fix_precision(
    x: Tensor, precision_fractional: int | None = None, base: int = 10, *, truncation: str = "probabilistic"
) -> FixedPrecisionTensor:
    """Write a plain tensor in fixed point.

    Args:
        x: reals or integers.
        precision_fractional: digits after the point in ``base``; 3 decimal digits, or 16 bits, if not given.
        base: 10, as in the tutorials, or 2.
        truncation: how products of shares of it will be truncated.

    Raises:
        EncodingError: values or settings that cannot be encoded.
    """
    encoding = fixed(precision_fractional, base, explicit=True, truncation=truncation)
    dtype = x.dtype if x.dtype.is_floating_point else torch.get_default_dtype()
    made = from_integers(encode(x, encoding), encoding, dtype)
    return made.requires_grad_(x.requires_grad and x.is_leaf)  # type: ignore[return-value]


shared.additions.explicit = from_integers
shared.additions.local = FixedPrecisionTensor
