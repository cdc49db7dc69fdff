"""What members see, and statistical checks that it tells them nothing.

A view is conditioned on what its member holds anyway: inputs are given fixed shares, the same for all elements, so that
only masks vary. Then every message must be uniform, for every secret; messages must not depend on each other, nor
elements.

Each check computes chi-square statistics of up to 255 degrees of freedom and raises AssertionError beyond the quantile
of a normal deviate of 6.5: one statistic raises a false alarm with probability 4e-11, the several thousand of the suite
together with less than 1e-6. All sessions replay fixed seeds, so a check that passed once passes always.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sharetorch.mpc import odd_ring, testing
from sharetorch.mpc.channel import Message
from sharetorch.mpc.cost import DRIVER
from sharetorch.mpc.kernels import reference
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols import functions, pairs, planes, private_compare, securenn_paper, selection, truncation
from sharetorch.mpc.protocols.arithmetic import bilinear, multiply
from sharetorch.mpc.protocols.bilinear import MatrixProduct
from sharetorch.mpc.protocols.scaled_truncation import Scaling, truncate_and_scale
from sharetorch.mpc.session import Session
from sharetorch.mpc.share import ArithmeticShare

DEVIATE = 6.5
COUNT = 1 << 16
"""Elements per run: 256 expected in each of 256 bins."""
PROVIDER = 2
P = 67
SYMBOL_LABELS = frozenset({"bit shares", "masked comparison"})
ODD_LABELS = frozenset({"masked sign", "masked number"})

Array = NDArray[Any]


def limit(degrees: int) -> float:
    """Quantile of chi-square at the alarm's probability, by Wilson and Hilferty."""
    part = 2 / (9 * degrees)
    return float(degrees * (1 - part + DEVIATE * part**0.5) ** 3)


def require_uniform(values: Array, bins: int, what: str) -> None:
    """Chi-square against equal frequencies of 0 ... bins - 1."""
    counts = np.bincount(values.reshape(-1), minlength=bins)
    assert counts.size == bins, f"{what}: value {counts.size - 1} where {bins - 1} is the largest"
    expected = values.size / bins
    statistic = float(((counts - expected) ** 2 / expected).sum())
    assert statistic <= limit(bins - 1), f"{what}: not uniform, chi-square {statistic:.0f} > {limit(bins - 1):.0f}"


def require_same(first: Array, second: Array, bins: int, what: str) -> None:
    """Two-sample chi-square: both come from one distribution."""
    table = np.stack([np.bincount(sample.reshape(-1), minlength=bins) for sample in (first, second)]).astype(float)
    table = table[:, table.sum(0) > 0]
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    statistic = float(((table - expected) ** 2 / expected).sum())
    degrees = max(table.shape[1] - 1, 1)
    assert statistic <= limit(degrees), f"{what}: depends on the secret, {statistic:.0f} > {limit(degrees):.0f}"


class Field(NamedTuple):
    """One field of the messages of one label from one sender."""

    sender: int
    label: str
    place: int


def fields_of(transcript: Iterable[Message], rank: int) -> dict[Field, Array]:
    """Everything a member received, field by field, as vectors of uint64 or uint8."""
    found: defaultdict[Field, list[Array]] = defaultdict(list)
    for label, messages in testing.view_of(transcript, rank).items():
        for message in messages:
            for place, part in enumerate(message.fields):
                array = part.numpy() if isinstance(part, Tensor) else np.asarray(part)
                array = array.view(np.uint64) if array.dtype == np.int64 else array
                found[Field(message.sender, label, place)].append(array.reshape(-1))
    return {field: np.concatenate(parts) for field, parts in found.items()}


def pieces(label: str, values: Array) -> Iterator[tuple[str, Array, int]]:
    """A vector as columns of symbols that should be uniform, with the number of bins."""
    if values.dtype == np.uint64:
        for byte, column in enumerate(values.view(np.uint8).reshape(-1, 8).T):
            yield f"byte {byte}", column, 256
    elif label in SYMBOL_LABELS:
        yield "symbols", values, P
    else:
        yield "packed bits", values, 256


def differences(label: str, first: Array, second: Array) -> Array:
    """First - second in the group the label's values live in."""
    if label in SYMBOL_LABELS:
        return ((first.astype(np.int64) - second) % P).astype(np.uint8)
    return first - second


def require_nothing_seen(transcript: list[Message], rank: int) -> None:
    """Every field a member received is uniform; neighbours, fields, and sums with what it knows are independent."""
    received = fields_of(transcript, rank)
    assert received, f"member {rank} received nothing"
    for field, values in received.items():
        for name, column, bins in pieces(field.label, values):
            require_uniform(column, bins, f"{field} {name}")
        even = values[: values.size // 2 * 2]
        for name, column, bins in pieces(field.label, differences(field.label, even[::2], even[1::2])):
            require_uniform(column, bins, f"{field} differences of neighbours, {name}")
    _require_independent_fields(received)
    _require_uniform_sums(transcript, rank, received)


def _require_independent_fields(received: dict[Field, Array]) -> None:
    words = {field: values for field, values in received.items() if values.dtype == np.uint64}
    for (one, first), (other, second) in combinations(words.items(), 2):
        if first.size == second.size:
            for name, column, bins in pieces("", first - second):
                require_uniform(column, bins, f"{one} - {other}, {name}")
    packed = {field: v for field, v in received.items() if v.dtype == np.uint8 and field.label not in SYMBOL_LABELS}
    for (one, first), (other, second) in combinations(packed.items(), 2):
        size = min(first.size, second.size)
        if size > 1 << 12:
            require_uniform(first[:size] ^ second[:size], 256, f"{one} ^ {other}")


def _as_tuple(m: Message) -> tuple[Any, ...]:
    return (m.sender, m.receiver, m.operation, m.label, m.fields, m.round, m.size)


def _require_uniform_sums(transcript: list[Message], rank: int, received: dict[Field, Array]) -> None:
    """What the shares of all senders add up to, the member's own included, must be uniform as well."""
    peer = 1 if rank == 0 else 0
    sent = [Message(rank, rank, *m[2:]) for m in map(_as_tuple, transcript) if m[:2] == (rank, peer)]
    groups: defaultdict[tuple[str, int], list[Array]] = defaultdict(list)
    for field, values in [*received.items(), *fields_of(sent, rank).items()]:
        if field.label not in SYMBOL_LABELS:
            groups[field.label, field.place].append(values)
    for (label, place), parts in groups.items():
        if len(parts) > 1:
            total = parts[0]
            for part in parts[1:]:
                total = _sum(label, total, part)
            for name, column, bins in pieces(label, total):
                require_uniform(column, bins, f"sum of {label!r} {place}, {name}")


def _sum(label: str, first: Array, second: Array) -> Array:
    """First + second in the group the label's values live in."""
    if first.dtype == np.uint8:
        return first ^ second
    return odd_ring.add(first, second) if label in ODD_LABELS else first + second


def require_same_views(first: list[Message], second: list[Message], rank: int) -> None:
    """Two runs on different secrets cannot be told apart by what a member received."""
    views = fields_of(first, rank), fields_of(second, rank)
    assert views[0].keys() == views[1].keys()
    for field in views[0]:
        assert views[0][field].size == views[1][field].size
        columns = zip(pieces(field.label, views[0][field]), pieces(field.label, views[1][field]), strict=True)
        for (name, one, bins), (_, other, _) in columns:
            require_same(one, other, bins, f"{field} {name}")


def require_independent_runs(first: list[Message], second: list[Message], rank: int) -> None:
    """Two runs on the same secrets under the same shares give messages that have nothing to do with each other."""
    views = fields_of(first, rank), fields_of(second, rank)
    for field in views[0]:
        gap = differences(field.label, views[0][field], views[1][field])
        gap = gap if gap.dtype == np.uint64 or field.label in SYMBOL_LABELS else views[0][field] ^ views[1][field]
        for name, column, bins in pieces(field.label, gap):
            require_uniform(column, bins, f"{field} between runs, {name}")


# Comparisons by tables: single bits of different messages may depend on each other although each message is uniform.

OPENED_BITS = frozenset({"node inputs", "masked result"})
DEALT_BITS = "digit tables"
BIT_DEVIATE = 7.5
"""For the hundred thousand pairs of bits of one view."""


def natural_order(packed: Array, count: int) -> Array:
    """Planes of a multiple of 512 elements as rows of bits in the order of elements, shape (planes, count)."""
    words = np.unpackbits(packed, bitorder="little").reshape(count // 512, -1, 8, 64)
    return np.ascontiguousarray(words.transpose(1, 0, 3, 2)).reshape(-1, count)


def bits_seen(transcript: list[Message], rank: int, count: int) -> dict[str, Array]:
    """Every bit that a member sees of the first chunk's elements, as rows by name: what was opened, and corrections."""
    size = min(count, planes.CHUNK)
    seen: defaultdict[tuple[str, int], list[Array]] = defaultdict(list)
    for sender in {m.sender for m in transcript}:
        peer = next(m.receiver for m in transcript if m.sender == sender) if sender == rank else rank
        place: defaultdict[str, int] = defaultdict(int)
        for message in transcript:
            if (message.sender, message.receiver) == (sender, peer):
                for part in message.fields:
                    seen[message.label, place[message.label]].append(np.asarray(part))
                    place[message.label] += 1
    found: dict[str, Array] = {}
    for (label, place_), parts in seen.items():
        rows = _rows_of_bits(label, place_, parts, count, size)
        found.update({f"{label} {place_}, bit {i}": row for i, row in enumerate(rows)})
    return found


def _rows_of_bits(label: str, place: int, parts: list[Array], count: int, size: int) -> Array:
    if parts[0].dtype == np.uint8:
        if label == DEALT_BITS:
            return natural_order(parts[0], size) if place < 2 else np.empty((0, size), np.uint8)
        return natural_order(np.bitwise_xor.reduce(parts), count)[:, :size]
    words = sum(part.reshape(-1, count) for part in parts)[:, :size].view(np.uint64)
    return np.concatenate([(row >> np.arange(64, dtype=np.uint64)[:, None]) & np.uint64(1) for row in words])


def require_independent_bits(transcript: list[Message], rank: int, count: int = COUNT) -> None:
    """No two bits that a member sees agree more or less often than every second time."""
    found = bits_seen(transcript, rank, count)
    signs = 1 - 2 * np.stack(list(found.values())).astype(np.float32)
    size = signs.shape[1]
    agreement = np.abs(signs @ signs.T) / size**0.5
    np.fill_diagonal(agreement, np.abs(signs.sum(1)) / size**0.5)
    first, second = np.unravel_index(int(agreement.argmax()), agreement.shape)
    names, worst = list(found), float(agreement.max())
    assert worst <= BIT_DEVIATE, f"{names[first]} with {names[second]}: not uniform, deviate {worst:.0f}"


# Comparisons as the helper sees them: pairs of symbols, of which one at most adds up to zero.


class HelperView(NamedTuple):
    """The symbols d_i of P0 and of P1, shape (n, bits)."""

    d0: Tensor
    d1: Tensor

    @property
    def sums(self) -> Tensor:
        """d_i, which the helper computes."""
        return (self.d0 + self.d1) % P


def helper_view(transcript: Iterable[Message]) -> HelperView:
    """The helper's view of all comparisons of a run."""
    messages = testing.view_of(transcript, PROVIDER)["masked comparison"]
    both = [
        torch.cat(
            [reference.unpack_blocks(torch.from_numpy(m.fields[0]), 64).long() for m in messages if m.sender == rank]
        )
        for rank in (0, 1)
    ]
    return HelperView(*both)


def require_blind_helper(view: HelperView) -> None:
    """The bit found is fair, its place uniform, every other symbol uniform without zero, ratios uniform."""
    zero = view.sums == 0
    assert int(zero.sum(1).max()) <= 1
    found = zero.any(1)
    require_uniform(found.long().numpy(), 2, "direction: the bit the helper finds")
    require_uniform(zero[found].long().argmax(1).numpy(), 64, "rotation: the place of the zero")
    require_uniform(view.sums[~zero].numpy() - 1, P - 1, "scale: symbols other than zero")
    inverse = torch.tensor([0, *(pow(i, P - 2, P) for i in range(1, P))])
    usable = ~zero & (view.d0 != 0)
    quotients = view.sums[usable] * inverse[view.d0[usable]] % P
    require_uniform(quotients.numpy() - 1, P - 1, "refresh: ratios of the two shares")


def compare_fixed(session: Session, x: int, t: int, count: int) -> list[Message]:
    """``count`` comparisons of one x with one t under one sharing of its bits: conditioned on what P2 dealt."""
    bits = reference.bits_of(torch.tensor([x]), 64)
    share0 = torch.randint(0, P, (1, 64), generator=torch.Generator().manual_seed(x & 0xFFFF))
    shares = [share0, (bits - share0) % P]

    async def run(party: Party) -> Any:
        if party.is_provider:
            return await private_compare.private_compare(party, None, None, None, count, 64)
        symbols = reference.pack_blocks(shares[party.rank].to(torch.uint8).repeat(count, 1)).numpy()
        beta = party.stream(1 - party.rank, "beta").bits(count)
        comparands = np.uint64(t) + beta.astype(np.uint64)
        return await private_compare.private_compare(party, symbols, comparands, beta, count, 64)

    return testing.execute(session, run).transcript


# Every protocol, run on equal elements under equal shares.

Run = Callable[[Session, int], Any]


def put_equal(session: Session, value: int, *shape: int) -> int:
    """A tensor of equal elements under equal shares; all parties but the last hold fixed words."""
    return put_under_equal_shares(session, torch.full(shape, value))


def put_under_equal_shares(session: Session, x: Tensor) -> int:
    """A tensor of which all parties but the last hold fixed words."""
    parts = [torch.full(x.shape, 0x0123_4567_89AB_CDEF * (rank + 1)) for rank in range(len(session.parties) - 1)]
    return testing.put(session, *parts, x - sum(parts))


async def _matmul(party: Party, x: ArithmeticShare, y: ArithmeticShare) -> ArithmeticShare:
    return await bilinear(party, MatrixProduct(), x, y)


async def _non_negative(party: Party, x: ArithmeticShare) -> Any:
    return await party.suite.non_negative(party, x)


async def _at_least(party: Party, x: ArithmeticShare) -> Any:
    return await party.suite.at_least(party, x, (0, 1, -5, 1 << 40))


async def _truncated_relu(party: Party, x: ArithmeticShare) -> Any:
    return await party.suite.truncated_relu(party, x, 1 << 16)


def unary(protocol: Any, *shape: int, **public: Any) -> Run:
    return lambda session, value: testing.run(session, protocol, put_equal(session, value, *shape), **public)


def _multiply(session: Session, value: int) -> None:
    testing.run(session, multiply, put_equal(session, value, COUNT), put_equal(session, value, COUNT))


def _matrix_product(session: Session, value: int) -> None:
    testing.run(session, _matmul, put_equal(session, value, 256, 256), put_equal(session, value, 256, 256))


def _descend(inner: int) -> Run:
    """With a product of ``inner`` columns and rows; of none, nothing but the mask hides the other summand."""

    def run(session: Session, value: int) -> None:
        shapes = [(256, 256)] * 3 + [(256, inner), (inner, 256)]
        numbers = [put_equal(session, value, *shape) for shape in shapes]
        steps, products = ((0, (1,), (3,), 2),), ((0, MatrixProduct(), 3, 4),)
        session.command("descend", *numbers, outputs=2, steps=steps, scaling=(16, -13107, 24), products=products)

    return run


def _select(session: Session, value: int) -> None:
    operands = [put_equal(session, part, COUNT) for part in (int(value < 0), value, 1)]
    testing.run(session, securenn_paper.select_shares, *operands)


def _maximum_and_route(session: Session, value: int) -> None:
    x = torch.tensor([3, value, 3, value - 1]).repeat_interleave(COUNT // 4).reshape(4, -1)
    _, _, trail = session.command("maximum", put_under_equal_shares(session, x), outputs=3)
    session.command("route", put_equal(session, value, COUNT // 4), trail, n=4)


def _maximum_by_pairs(session: Session, value: int) -> None:
    x = torch.tensor([3, value, 3, value - 1]).repeat_interleave(COUNT // 4).reshape(4, -1)
    testing.run(session, pairs.maximum_by_pairs, put_under_equal_shares(session, x))


def _sort_and_unsort(stop: int = 4, *, ordered: bool = True, stable: bool = False) -> Run:
    def run(session: Session, value: int) -> None:
        x = torch.tensor([3, value, 3, value - 1]).repeat_interleave(COUNT // 4).reshape(4, -1)
        number, ranks = put_under_equal_shares(session, x), {"start": 0, "ordered": ordered}
        _, _, trail = session.command("sort", number, outputs=3, stop=stop, stable=stable, **ranks)
        session.command("unsort", put_equal(session, value, stop, COUNT // 4), trail, n=4, **ranks)

    return run


def _buckets(session: Session, value: int) -> None:
    session.command("bucketize", put_equal(session, value, COUNT), thresholds=torch.tensor([-5, 0, 1, 1 << 40]))


def _derivative_of_max_pool(session: Session, value: int) -> None:
    index = put_equal(session, 0 if value < 0 else 3, COUNT)
    testing.run(session, securenn_paper.derivative_of_max_pool, index, n=4)


class Case(NamedTuple):
    """A protocol with the suite and number of parties it is watched with."""

    run: Run
    suite: str = "securenn"
    parties: int = 2


CASES = {
    "multiply": Case(_multiply),
    "multiply, 3 parties": Case(_multiply, parties=3),
    "matrix product": Case(_matrix_product),
    "truncate": Case(unary(truncation.truncate, COUNT, divisor=1 << 16)),
    "truncate and scale": Case(unary(truncate_and_scale, COUNT, by=Scaling(15, -13107, 24))),
    "truncate and scale, 3 parties": Case(unary(truncate_and_scale, COUNT, by=Scaling(15, -13107, 24)), parties=3),
    "descend": Case(_descend(256)),
    "descend, 3 parties": Case(_descend(256), "tables", 3),
    "descend, without terms": Case(_descend(0)),
    "truncate by 1000, 3 parties": Case(unary(truncation.truncate, COUNT, divisor=1000), parties=3),
    "truncate exactly": Case(unary(truncation.truncate_exact, COUNT, divisor=1 << 8)),
    "truncate exactly by 1000": Case(unary(truncation.truncate_exact, COUNT, divisor=1000)),
    "truncate exactly by 10, 3 parties": Case(unary(truncation.truncate_exact, COUNT, divisor=10), parties=3),
    "non_negative": Case(unary(_non_negative, COUNT)),
    "non_negative as published": Case(unary(_non_negative, COUNT), "securenn-paper"),
    "equal_zero": Case(unary(selection.equal_zero, COUNT)),
    "relu": Case(unary(selection.relu, COUNT)),
    "relu as published": Case(unary(securenn_paper.relu, COUNT), "securenn-paper"),
    "select_shares": Case(_select, "securenn-paper"),
    "maximum and route": Case(_maximum_and_route),
    "maximum and route as published": Case(_maximum_and_route, "securenn-paper"),
    "derivative_of_max_pool": Case(_derivative_of_max_pool, "securenn-paper"),
    "non_negative by tables": Case(unary(_non_negative, COUNT), "tables"),
    "non_negative by tables, 3 parties": Case(unary(_non_negative, COUNT), "tables", 3),
    "non_negative by long tables": Case(unary(_non_negative, COUNT), "tables-wan"),
    "relu by tables": Case(unary(selection.relu, COUNT), "tables"),
    "relu by tables, 3 parties": Case(unary(selection.relu, COUNT), "tables", 3),
    "equality by tables": Case(unary(selection.equal_zero, COUNT), "tables"),
    "equality by tables, 3 parties": Case(unary(selection.equal_zero, COUNT), "tables", 3),
    "thresholds by tables": Case(unary(_at_least, COUNT), "tables"),
    "truncated relu by tables": Case(unary(_truncated_relu, COUNT), "tables"),
    "truncated relu by tables, 3 parties": Case(unary(_truncated_relu, COUNT), "tables", 3),
    "maximum and route by tables": Case(_maximum_and_route, "tables"),
    "maximum and route by tables, 3 parties": Case(_maximum_and_route, "tables", 3),
    "maximum by pairs": Case(_maximum_by_pairs, "tables"),
    "maximum by pairs, 3 parties": Case(_maximum_by_pairs, "tables", 3),
    "sort and unsort": Case(_sort_and_unsort()),
    "sort and unsort as published": Case(_sort_and_unsort(), "securenn-paper"),
    "sort and unsort by tables": Case(_sort_and_unsort(), "tables"),
    "sort and unsort by tables, 3 parties": Case(_sort_and_unsort(), "tables", 3),
    "sort by keys by tables": Case(_sort_and_unsort(stable=True), "tables"),
    "sort the first by tables": Case(_sort_and_unsort(2, ordered=False), "tables"),
    "buckets by tables": Case(_buckets, "tables"),
    "reciprocal by tables, 3 parties": Case(unary(functions.reciprocal, 1 << 11, unit=1 << 8), "tables", 3),
    "reciprocal": Case(unary(functions.reciprocal, 1 << 11, unit=1 << 8)),
    "square root": Case(unary(functions.square_root, 1 << 11, unit=1 << 8)),
}


def watch(name: str, value: int, seed: int = 1) -> list[Message]:
    """The messages of one case on one secret."""
    case = CASES[name]
    return watch_in(testing.session(case.parties, case.suite, seed=seed), case.run, value)


def watch_in(session: Session, run: Run, value: int) -> list[Message]:
    """The messages of members to one another, but for those of no elements."""
    with session.record() as transcript:
        run(session, value)
    return [message for message in transcript if message.size and DRIVER not in (message.sender, message.receiver)]


def receivers(transcript: Iterable[Message]) -> set[int]:
    """Ranks of those who received anything."""
    return {message.receiver for message in transcript}
