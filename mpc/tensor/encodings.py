"""Bringing operands together: same members, same encoding, same scale.

The driver does all of this with public knowledge; the members see local commands at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import PartiesMismatchError, PrecisionMismatchError, SessionMismatchError
from sharetorch.mpc.fixedpoint import INTEGERS, Encoding, encode, encoding_for
from sharetorch.mpc.session import Session
from sharetorch.mpc.tensor.location import user_line
from sharetorch.mpc.tensor.shared import Handle, SharedTensor, fresh_shadow


def collocated(*operands: SharedTensor) -> Session:
    """The session all operands belong to.

    Raises:
        PartiesMismatchError: they are held by different members.
        SessionMismatchError: same members, but another protocol, modulus or start.
    """
    first = operands[0].session
    for other in operands[1:]:
        if other.session is first:
            continue
        ours, theirs = _members(first), _members(other.session)
        if ours != theirs:
            raise PartiesMismatchError(
                f"One operand is held by {ours}, the other by {theirs}{user_line()}; share both with the same parties "
                "and crypto provider."
            )
        raise SessionMismatchError(
            f"The operands belong to different sessions of {ours}: {first!r} over {first.ring!r}, "
            f"{other.session!r} over {other.session.ring!r}{user_line()}; share both with the same protocol and field."
        )
    return first


def _members(session: Session) -> str:
    parties = ", ".join(member.id for member in session.parties)
    return parties if session.provider is None else f"{parties} (provider {session.provider.id})"


def common(encodings: Sequence[Encoding]) -> Encoding:
    """The encoding in which all can be added, at the largest scale among them.

    Raises:
        PrecisionMismatchError: two hold reals of different base or precision.
    """
    if all(encoding is encodings[0] for encoding in encodings):
        return encodings[0]
    reals = [encoding for encoding in encodings if not encoding.integer]
    if not reals:
        return encodings[0]
    first = reals[0]
    for other in reals[1:]:
        if not first.same_numbers(other):
            raise PrecisionMismatchError(
                f"One operand has {first.name}, the other {other.name}{user_line()}; encode both with the same base "
                "and precision."
            )
    scale, explicit = max(encoding.scale for encoding in reals), any(encoding.explicit for encoding in reals)
    if (scale, explicit) == (first.scale, first.explicit):
        return first
    return replace(first, scale=scale, explicit=explicit)


def as_shared(value: Any, like: SharedTensor, encoding: Encoding | None = None) -> SharedTensor:
    """A plain tensor or number as shares of a public constant beside ``like``; shared tensors as they are."""
    if isinstance(value, SharedTensor):
        return value
    plain = value if isinstance(value, Tensor) else torch.tensor(value)
    if encoding is None:
        real = plain.dtype.is_floating_point
        encoding = like.encoding if real and not like.encoding.integer else encoding_for(plain)
    (number,) = like.session.command("constant", values=encode(plain, encoding))
    dtype = plain.dtype if plain.dtype.is_floating_point else like.dtype if not encoding.integer else torch.int64
    return SharedTensor(Handle(like.session, number, encoding), torch.empty(plain.shape, dtype=dtype, device="meta"))


def align(*operands: Any) -> tuple[SharedTensor, ...]:
    """Shared forms of all operands, in one encoding."""
    like = next(operand for operand in operands if isinstance(operand, SharedTensor))
    shared = [as_shared(operand, like) for operand in operands]
    collocated(*shared)
    encoding = common([operand.encoding for operand in shared])
    return tuple(to_encoding(operand, encoding) for operand in shared)


def to_encoding(x: SharedTensor, encoding: Encoding) -> SharedTensor:
    """Bring a tensor to an encoding of the same numbers: up by a local product, down by a truncation.

    Raises:
        PrecisionMismatchError: the encodings hold reals of different base or precision.
    """
    if x.encoding is encoding:
        return x
    if x.encoding.integer and not encoding.integer:
        return _multiply(x, encoding.unit, encoding)
    encoding = common([encoding, x.encoding]).at_scale(encoding.scale)
    if x.encoding.scale > encoding.scale:
        return truncate_to(x, encoding.scale)
    if x.encoding.scale < encoding.scale:
        return _multiply(x, encoding.base ** (encoding.scale - x.encoding.scale), encoding)
    return x


def _multiply(x: SharedTensor, factor: int, encoding: Encoding) -> SharedTensor:
    (number,) = x.session.command("scale", x.handle.number, values=torch.tensor(factor))
    dtype = x.dtype if x.dtype.is_floating_point or encoding.integer else torch.get_default_dtype()
    return SharedTensor(Handle(x.session, number, encoding), torch.empty(x.shape, dtype=dtype, device="meta"))


def truncate_to(x: SharedTensor, scale: int) -> SharedTensor:
    """Remove digits beyond ``scale``: one round (probabilistic), three (exact), none (local)."""
    if scale >= x.encoding.scale:
        return x
    divisor = x.encoding.base ** (x.encoding.scale - scale)
    (number,) = x.session.command("truncate", x.handle.number, divisor=divisor, method=x.encoding.truncation)
    return SharedTensor(Handle(x.session, number, x.encoding.at_scale(scale)), fresh_shadow(x.shadow))


def result_encoding(x: Encoding, y: Encoding) -> Encoding:
    """Encoding of a product before truncation.

    Raises:
        PrecisionMismatchError: as ``common``.
    """
    both = common([x, y])
    return INTEGERS if both.integer else both.at_scale(x.scale + y.scale)
