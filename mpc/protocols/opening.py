"""Masked openings: the one message a private operand ever costs in products.

x is opened as e = x - a under a mask a of exactly its shape, known in shares to the parties and in full to the
provider. The pair (e, a) stays with the operand's root, so later products with the same operand, also through views of
it, send nothing for it. Products are Beaver's [Bea91].

Reuse is safe because the secret is the same each time: opening x - a again would repeat a message, not reveal a
difference. Writing to the operand discards the pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.party import Party
from sharetorch.mpc.provider import random_shares
from sharetorch.mpc.ring import Elements
from sharetorch.mpc.share import ArithmeticShare, MaskedOperand


class Operand(NamedTuple):
    """A masked operand in the shape of its share: e (None at the provider), this member's parts of a and of x."""

    opened: Elements | None
    mask: Elements
    share: Elements


class _Pending(NamedTuple):
    owner: ArithmeticShare
    whole_root: bool
    contents: Elements
    mask: Elements


async def masked(party: Party, *shares: ArithmeticShare) -> list[Operand]:
    """Open every operand that is not open yet, all in one round.

    Cost: 0 rounds if all were open; else 1 round, one element per element to each other party.
    """
    pending: dict[int, _Pending] = {}
    for share in shares:
        if _find(share) is None:
            whole = _covers_root(share)
            key = id(share.root) if whole else id(share)
            if key not in pending:
                pending[key] = _prepare(party, share, whole)
    await _open(party, list(pending.values()))
    found = [_find(share) for share in shares]
    return [operand for operand in found if operand is not None]


def _prepare(party: Party, share: ArithmeticShare, whole: bool) -> _Pending:
    contents = share.root.data if whole else _compact(share.data)
    mask = random_shares(party, "mask", contents.shape).take(contents.shape)
    return _Pending(share, whole, contents, mask)


async def _open(party: Party, pending: Sequence[_Pending]) -> None:
    if not pending:
        return
    opened: list[Elements | None] = [None] * len(pending)
    if not party.is_provider:
        hidden = [party.ring.subtract(item.contents, item.mask) for item in pending]
        opened = list(await party.open("masked operand", hidden))
    for item, value in zip(pending, opened, strict=True):
        record = MaskedOperand(item.owner.root.version, value, item.mask)
        if item.whole_root:
            item.owner.root.masked = record
        else:
            item.owner.masked = record


def _find(share: ArithmeticShare) -> Operand | None:
    record = share.root.masked
    if record is not None and record.version == share.root.version:
        if share.data is share.root.data:
            return Operand(record.opened, record.mask, share.data)
        return Operand(_as_view(record.opened, share.data), _as_view(record.mask, share.data), share.data)
    record = share.masked
    if record is not None and record.version == share.root.version:
        return Operand(_as_expanded(record.opened, share.data), _as_expanded(record.mask, share.data), share.data)
    return None


def _covers_root(share: ArithmeticShare) -> bool:
    """Whether the share shows every element of its root, in whatever order and however often."""
    if not isinstance(share.data, Tensor):
        return share.data is share.root.data
    return bool(_compact(share.data).numel() == share.root.data.numel())


def _compact(data: Elements) -> Elements:
    """The elements without the repetitions of expanded dimensions."""
    if not isinstance(data, Tensor):
        return data
    for dim, (size, stride) in enumerate(zip(data.shape, data.stride(), strict=True)):
        if stride == 0 and size > 1:
            data = data.narrow(dim, 0, 1)
    return data


def _as_view(whole: Elements | None, like: Elements) -> Elements | None:
    if not (isinstance(whole, Tensor) and isinstance(like, Tensor)):
        return whole
    return torch.as_strided(whole, like.shape, like.stride(), like.storage_offset())


def _as_expanded(compact: Elements | None, like: Elements) -> Elements | None:
    if not (isinstance(compact, Tensor) and isinstance(like, Tensor)):
        return compact
    return compact.expand(like.shape)
