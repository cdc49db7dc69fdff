"""What each owner of data computes in the clear, where its data lie, and shares.

An owner i has a block Z_i of n_i rows, one column for each variable. It needs nobody else for the triangular factor of
its own block: R_i with R_i^T R_i = (Z_i - m_i)^T (Z_i - m_i), where m_i are its means. So it computes in float64 and
shares at most one row for each column, whatever n_i is: the secure part does not grow with the data.

Fixed point cannot hold columns of any magnitude. So the owner divides each column by its size, a power of four 2^E, and
shares besides

    steps   [E >= k] for all k = -64, -62, ..., 62: from these the largest E of all owners is found in secret;
    table   2^(E - k), at most 1, for the same k: the one that belongs to the largest E is then picked in secret.

The size is the root mean square about the owner's mean, and at least 2^-13 of the mean, so means are below 2^13 sizes.

Every step is an ordinary operation of torch, on a plain tensor or on a pointer; then it runs at the pointer's location.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sharetorch.mpc.errors import MembersError, NotFiniteError, RegressionDataError
from sharetorch.mpc.tensor.fixed_precision import FixedPrecisionTensor
from sharetorch.mpc.tensor.shared import SharedTensor
from sharetorch.nn.linalg.floating import onehot_of
from sharetorch.nn.linalg.working import BITS, WORKING, inner, integers, relabelled, to_working

LOWEST, STEP, LEVELS = -64, 2, 64
"""Exponents are LOWEST, LOWEST + STEP, ..., LEVELS of them."""

MEAN_BITS = 13
"""Means are below 2^13 in the unit of their column."""

_SHARED_LEVELS = range(-4, 8, STEP)
"""Exponents above the lowest that are looked for in data that came shared."""


class Summary(NamedTuple):
    """Rows that stand for an owner's block, in the clear at the owner.

    Attributes:
        rows: shape (r, c), divided by the root of the number of all owners' rows.
        means: shape (c,), or None for data that are not centred.
    """

    rows: Any
    means: Any


class Contribution(NamedTuple):
    """What an owner shares; columns are in units of 2^E of their own.

    Attributes:
        rows: shape (r, c), columns of length up to about 1.
        means: shape (c,), below 2^13; None for data that are not centred.
        steps: integers 0 and 1, shape (LEVELS, c), along dimension 0: 1 up to the level of E.
        table: 2^(E - k), shape (LEVELS, c).
    """

    rows: Any
    means: Any
    steps: Any
    table: Any


class Members(NamedTuple):
    """Who holds the shares, and who deals."""

    parties: tuple[Any, ...]
    provider: Any


def location_of(x: Any) -> Any:
    """The worker a pointer points to; None for tensors."""
    return None if isinstance(x, SharedTensor) else getattr(x, "location", None)


def choose_members(
    blocks: Sequence[Sequence[Any]], honest: Any, provider: Any, parties: Sequence[Any] | None
) -> Members:
    """Who computes: the parties named, or those of data that came shared, or the first owner and the honest worker.

    Raises:
        MembersError: data that came shared are held by other members, or there is no second party.
    """
    tensors = [x for block in blocks for x in block]
    shared = next((x for x in tensors if isinstance(x, SharedTensor)), None)
    if shared is not None:
        if shared.session.provider is not provider or (parties and tuple(parties) != shared.session.parties):
            raise MembersError(
                f"The data are shared in {shared.session!r}; name the same parties and crypto provider, or share anew."
            )
        return Members(shared.session.parties, provider)
    if parties:
        return Members(tuple(parties), provider)
    for x in tensors:
        owner = location_of(x) or x.owner
        if owner.id not in (honest.id, provider.id):
            return Members((owner, honest), provider)
    raise MembersError(
        f"All data lie with {honest.id}, so no second party holds shares and nothing would be hidden from it. Name two "
        "parties: parties=(...)."
    )


def block_of(columns: Sequence[Any], names: Sequence[str], owner: int) -> list[Any]:
    """One owner's tensors, each with two dimensions; local fixed-precision tensors are decoded.

    Raises:
        RegressionDataError: no real tensors, no rows, other dimensions, or different numbers of rows.
        NotFiniteError: a plain tensor that holds NaN or infinity.
    """
    columns = [_decoded(x, name, owner) for x, name in zip(columns, names, strict=True)]
    rows = columns[0].shape[0] if columns[0].dim() else 0
    for x, name in zip(columns, names, strict=True):
        if x.dim() not in ((1, 2) if name == "y" else (2,)) or (name == "y" and x.dim() == 2 and x.shape[1] != 1):
            raise RegressionDataError(f"{name} of owner {owner} has shape {tuple(x.shape)}; give {_wanted(name)}.")
        if x.shape[0] != rows or not rows or not x.numel():
            raise RegressionDataError(
                f"Owner {owner} has {rows} rows of {names[0]} and {name} of shape {tuple(x.shape)}; give the same "
                "number of rows, at least one, and at least one column."
            )
        if location_of(x) is None and not isinstance(x, SharedTensor) and not bool(torch.isfinite(x).all()):
            raise NotFiniteError(f"{name} of owner {owner} holds NaN or infinity; leave those rows out or fill them.")
    return [x if x.dim() == 2 else x.reshape(-1, 1) for x in columns]


def _decoded(x: Any, name: str, owner: int) -> Any:
    if not isinstance(x, Tensor) or x.is_complex():
        kind = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise RegressionDataError(
            f"{name} of owner {owner} is {kind}; give a tensor of real numbers or a pointer to one."
        )
    return x.float_precision() if isinstance(x, FixedPrecisionTensor) else x


def _wanted(name: str) -> str:
    return "one dimension, or one column" if name == "y" else "rows and columns"


def joined(block: Sequence[Any]) -> Any:
    """All columns of an owner side by side: in float64, or at the working precision if they came shared."""
    if any(isinstance(x, SharedTensor) for x in block):
        if not all(isinstance(x, SharedTensor) for x in block):
            raise RegressionDataError("An owner's tensors are partly shared and partly not; share all of them or none.")
        return torch.cat([to_working(x) for x in block], dim=1)
    return torch.cat([x.double() for x in block], dim=1)


# -------------------------------------------------------------------------------------------------------- in the clear


def plain_summary(z: Any, total: int) -> Summary:
    """The triangular factor of a block as it is."""
    return Summary(torch.linalg.qr(z, mode="r").R / total**0.5, None)


def centred_summary(z: Any, total: int) -> Summary:
    """Means, and the triangular factor of the deviations from them."""
    means = z.mean(0)
    return Summary(plain_summary(z - means, total).rows, means)


def projected_summary(z: Any, total: int, permanent: int) -> Summary:
    """The first columns' triangular factor C = Q R, Q^T of the others, and what is left of each beside the last.

    With y' and x' the last and another column less their parts in Q: one row holds |y'| and x' . y' / |y'|, one more
    the length of what then remains of x'. Inner products of those rows are right but for two different columns x.
    """
    factors = torch.linalg.qr(z[:, :permanent])
    inside = factors.Q.t() @ z[:, permanent:]
    outside = z[:, permanent:] - factors.Q @ inside
    y = outside[:, -1:]
    length = (y * y).sum(0, keepdim=True).sqrt()
    along = (y.t() @ outside) / length.clamp(min=1e-300)
    rest = outside - (y / length.clamp(min=1e-300)) @ along
    remaining = (rest * rest).sum(0, keepdim=True).sqrt() * _all_but_last(along)
    zeros = factors.R[:1] * 0
    top = torch.cat([factors.R, inside], dim=1)
    rows = [top, torch.cat([zeros, along], dim=1), torch.cat([zeros, remaining], dim=1)]
    return Summary(torch.cat(rows) / total**0.5, None)


def _all_but_last(row: Any) -> Any:
    """Ones, and a zero at the end."""
    ones = torch.ones_like(row)
    return torch.cat([ones[:, :-1], ones[:, -1:] * 0], dim=1)


def contribute(summary: Summary, members: Members) -> Contribution:
    """Divide a summary by the sizes of its columns, and share it.

    Raises:
        NotFiniteError: NaN or infinity, or a column larger than 2^62.
    """
    rows, means = summary
    size = (rows * rows).sum(0).sqrt()
    if means is not None:
        size = torch.maximum(size, means.abs() * 2.0**-MEAN_BITS)
    highest = LOWEST + STEP * (LEVELS - 1)
    fits = (size <= 2.0**highest).double()
    exponent = (size.clamp(2.0**LOWEST, 2.0**highest).log2() / STEP).ceil() * STEP
    unit = torch.pow(2.0, exponent) * fits
    levels = torch.ones_like(size).unsqueeze(0).expand(LEVELS, -1).cumsum(0) * STEP + (LOWEST - STEP)
    table = torch.pow(2.0, exponent - levels).clamp(max=1.0)
    parts = [rows / unit, table] if means is None else [rows / unit, table, (means / unit).unsqueeze(0)]
    together: Any = torch.cat(parts)
    numbers = to_working(_shared(together.fix_precision(BITS, base=2), members))
    steps = _shared((exponent >= levels).long(), members)
    count = numbers.shape[0] - LEVELS - (means is not None)
    return Contribution(
        numbers[:count], None if means is None else numbers[-1], integers(steps), numbers[count : count + LEVELS]
    )


def _shared(x: Any, members: Members) -> Any:
    """Shares of a tensor, made where it is."""
    made = x.share(*members.parties, crypto_provider=members.provider)
    return made if isinstance(made, SharedTensor) else made.get()


# -------------------------------------------------------------------------------------------------------------- shared


def shared_summary(z: Any, total: int, centred: bool) -> Summary:
    """Summary of a block that came shared: all of its rows."""
    means = None
    if centred:
        first = _mean(z)
        rest = _mean(z - first)
        z, means = z - first - rest, (first + rest).reshape(-1)
    return Summary(z * torch.tensor([[total**-0.5]], dtype=torch.float64), means)


def _mean(z: Any) -> Any:
    n = z.shape[0]
    return z.sum(0, keepdim=True) * torch.tensor([[1 / n]], dtype=torch.float64)


def contribute_shared(summary: Summary) -> Contribution:
    """Find the sizes of shared columns in secret, between 2^-4 and 2^8, and divide by them."""
    rows, means = summary
    thresholds = torch.tensor([4.0**k for k in _SHARED_LEVELS], dtype=torch.float64).reshape(-1, 1)
    bits = inner(rows, rows).unsqueeze(0) > thresholds
    onehot = onehot_of(bits)
    exponents = [*_SHARED_LEVELS, _SHARED_LEVELS[-1] + STEP]
    levels = range(LOWEST, LOWEST + STEP * LEVELS, STEP)
    picks = torch.tensor([[int(e >= k) for e in exponents] for k in levels])
    powers = torch.tensor([[round(2.0**BITS * min(1.0, 2.0 ** (e - k))) for e in exponents] for k in levels])
    inverse = relabelled((onehot * torch.tensor([[2 ** (BITS - e)] for e in exponents])).sum(0), WORKING)
    scaled_means = None if means is None else means * inverse
    return Contribution(rows * inverse, scaled_means, picks @ onehot, relabelled(powers @ onehot, WORKING))


def contributions(
    blocks: Sequence[Sequence[Any]],
    members: Members,
    total: int,
    summarise: Callable[[Any, int], Summary],
    centred: bool,
) -> list[Contribution]:
    """What all owners share, one after the other."""
    made = []
    for block in blocks:
        z = joined(block)
        if isinstance(z, SharedTensor):
            made.append(contribute_shared(shared_summary(z, total, centred)))
        else:
            made.append(contribute(summarise(z, total), members))
    return made
