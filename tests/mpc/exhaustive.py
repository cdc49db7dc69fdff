"""Whole small rings: every value, every sharing by two parties, many draws of the masks.

Each check raises AssertionError at the first formula that is off, so that mutants of the formulas can be shown to fail.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.mpc import testing
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols import private_compare, securenn_paper, truncation
from sharetorch.mpc.protocols.private_compare import ABOVE, ALWAYS, BELOW
from sharetorch.mpc.ring import PowerRing
from sharetorch.mpc.session import Session
from sharetorch.mpc.share import ArithmeticShare

U64 = NDArray[np.uint64]


def truncation_domain(bits: int, divisor: int) -> range:
    """-B <= x < 2^(l-1) - B with B = d floor(2^(l-2) / d)."""
    offset = divisor * ((1 << (bits - 2)) // divisor)
    return range(-offset, (1 << (bits - 1)) - offset)


def truncate_all(method: Any, bits: int, divisor: int, repeats: int) -> tuple[Tensor, Tensor]:
    """x and the method's x / d, for all x of the domain in all sharings, ``repeats`` times."""
    session = testing.session(ring=PowerRing(bits), seed=bits * 1000 + divisor)
    splits = testing.all_splits(truncation_domain(bits, divisor), session.ring)
    values, first = splits.values.repeat(repeats), splits.first.repeat(repeats)
    return values, testing.run_value(session, method, testing.put_against(session, values, first), divisor=divisor)


def check_truncate(bits: int, divisor: int) -> None:
    """Rounded down or up, both where there is a remainder, and never anything else."""
    values, result = truncate_all(truncation.truncate, bits, divisor, repeats=16)
    errors = result - torch.div(values, divisor, rounding_mode="floor")
    for x in truncation_domain(bits, divisor):
        found = set(errors[values == x].tolist())
        assert found == ({0} if x % divisor == 0 else {0, 1}), f"l={bits}, d={divisor}, x={x}: errors {found}"


def check_truncate_exact(bits: int, divisor: int) -> None:
    """Always the floor."""
    values, result = truncate_all(truncation.truncate_exact, bits, divisor, repeats=4)
    wrong = values[result != torch.div(values, divisor, rounding_mode="floor")]
    assert not len(wrong), f"l={bits}, d={divisor}: wrong for x in {sorted(set(wrong.tolist()))}"


def check_non_negative(protocol: Any, bits: int, repeats: int = 8) -> None:
    """[a >= 0] for all |a| < 2^(l-2) in all sharings."""
    session = testing.session(ring=PowerRing(bits), seed=bits)
    limit = 1 << (bits - 2)
    splits = testing.all_splits(range(-limit + 1, limit), session.ring)
    values, first = splits.values.repeat(repeats), splits.first.repeat(repeats)
    result = testing.run_value(session, protocol, testing.put_against(session, values, first))
    wrong = values[result != (values >= 0)]
    assert not len(wrong), f"l={bits}: {len(wrong)} of {len(values)} wrong, a in {sorted(set(wrong.tolist()))}"


def put_all_sharings(session: Session, repeats: int) -> tuple[Tensor, int]:
    """Every value of the ring in every sharing by the parties, ``repeats`` times: the values, and the object."""
    ring = session.ring
    assert isinstance(ring, PowerRing)
    size, parties = 1 << ring.bits, len(session.parties)
    parts = torch.cartesian_prod(*[torch.arange(size)] * parties).repeat(repeats, 1).T
    shares = [ring.from_integers(part.contiguous()) for part in parts]
    return ring.reduce(sum(shares[1:], start=shares[0])), testing.put(session, *shares)


def check_comparisons(suite: str, bits: int, parties: int, repeats: int = 4) -> None:
    """[x >= 0] and x [x >= 0], [x = 0], and thresholds, for all x in all sharings."""
    session = testing.session(parties, suite, PowerRing(bits), seed=bits)
    values, number = put_all_sharings(session, repeats)
    half = 1 << (bits - 1)
    thresholds = [0, 1, -1, half // 2, 1 - half]

    async def compare(party: Party, x: ArithmeticShare) -> Any:
        chosen = await party.suite.choose(party, x, (x,))
        return chosen.bit, *chosen.products, await party.suite.equal_zero(party, x)

    async def at_least(party: Party, x: ArithmeticShare) -> Any:
        return await party.suite.at_least(party, x, thresholds)

    bit, product, zero = testing.run_value(session, compare, number)
    reached = testing.run_value(session, at_least, number)
    found = {"sign": bit != (values >= 0), "product": product != values.clamp(min=0), "zero": zero != (values == 0)}
    for threshold, one in zip(thresholds, reached, strict=True):
        inside = (threshold - 1 - values >= -half) & (threshold - 1 - values < half)
        found[f"at least {threshold}"] = inside & (one != (values >= threshold))
    for name, wrong in found.items():
        assert not bool(wrong.any()), f"l={bits}, {name}: wrong for x in {sorted(set(values[wrong].tolist()))}"


def check_truncated_relu(suite: str, bits: int, parties: int, divisor: int, repeats: int = 16) -> None:
    """x / divisor rounded down or up, [x > 0], and their product, for all x of the domain in all sharings."""
    session = testing.session(parties, suite, PowerRing(bits), seed=bits)
    values, number = put_all_sharings(session, repeats)

    async def run(party: Party, x: ArithmeticShare) -> Any:
        return await party.suite.truncated_relu(party, x, divisor)

    value, bit, truncated = testing.run_value(session, run, number)
    limit = 1 << (bits - 2)
    inside = (values > -limit) & (values <= limit)
    errors = truncated - torch.div(values, divisor, rounding_mode="floor")
    for x in range(1 - limit, limit + 1):
        found = set(errors[values == x].tolist())
        assert found == ({0} if x % divisor == 0 else {0, 1}), f"l={bits}, d={divisor}, x={x}: errors {found}"
    assert torch.equal(bit[inside], (values[inside] > 0).to(torch.int64)), f"l={bits}: a bit is wrong"
    assert torch.equal(value, truncated * bit), f"l={bits}: a product is wrong"


def check_share_convert(bits: int, repeats: int = 64) -> None:
    """The same number over Z_{L-1} for all a but L - 1 in all sharings; so many repeats that every mask r occurs."""
    session = testing.session(ring=PowerRing(bits), seed=bits)
    half = 1 << (bits - 1)
    splits = testing.all_splits([a for a in range(-half, half) if a != -1], session.ring)
    values, first = splits.values.repeat(repeats), splits.first.repeat(repeats)

    async def convert(party: Party, a: ArithmeticShare) -> U64 | None:
        return await securenn_paper.share_convert(party, a.data, bits)

    part0, part1, _ = testing.run(session, convert, testing.put_against(session, values, first))
    result = (part0 + part1) % np.uint64((1 << bits) - 1)
    wrong = values[torch.from_numpy(result.astype(np.int64)) != values % (1 << bits)]
    assert not len(wrong), f"l={bits}: {len(wrong)} of {len(values)} wrong, a in {sorted(set(wrong.tolist()))}"


def check_compute_msb(bits: int, repeats: int = 16) -> None:
    """The top bit of every element of Z_{L-1} in all sharings."""
    session = testing.session(ring=PowerRing(bits), seed=bits)
    modulus = (1 << bits) - 1
    values, first = np.divmod(np.arange(modulus * modulus).repeat(repeats), modulus)
    parts = [first.astype(np.uint64), ((values - first) % modulus).astype(np.uint64), None]

    async def msb(party: Party, y: U64 | None) -> ArithmeticShare:
        return await securenn_paper.compute_msb(party, y, len(values), bits)

    result = testing.run_value(session, msb, lambda party: parts[party.rank])
    wrong = values[result.numpy() != values >> (bits - 1)]
    assert not len(wrong), f"l={bits}: {len(wrong)} of {len(values)} wrong, y in {sorted(set(wrong.tolist()))}"


def compare(session: Session, x: U64, t: U64, direction: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """What P2 learns from PrivateCompare on bits it deals itself."""

    async def deal_and_compare(party: Party) -> Any:
        dealt = x if party.is_provider else None
        symbols = await private_compare.share_bits(party, dealt, len(x), bits, offline=True)
        if party.is_provider:
            return await private_compare.private_compare(party, None, None, None, len(x), bits)
        return await private_compare.private_compare(party, symbols, t, direction, len(x), bits)

    return np.asarray(testing.run(session, deal_and_compare)[-1])


def check_private_compare(bits: int, repeats: int = 4) -> None:
    """All x, all t, all directions, with the corners t = 0 and t = 2^l - 1."""
    size = 1 << bits
    grid = np.meshgrid(np.arange(size), np.arange(size), [ABOVE, BELOW, ALWAYS], np.arange(repeats))
    x, t, direction, _ = (axis.reshape(-1) for axis in grid)
    session = testing.session(ring=PowerRing(bits), seed=bits)
    found = compare(session, x.astype(np.uint64), t.astype(np.uint64), direction.astype(np.uint8), bits)
    wrong = np.flatnonzero(found != np.select([direction == ABOVE, direction == BELOW], [x > t, x < t], True))
    assert not len(wrong), (
        f"l={bits}: {len(wrong)} wrong, first x={x[wrong[0]]}, t={t[wrong[0]]}, {direction[wrong[0]]}"
    )
