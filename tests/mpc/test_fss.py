"""Function secret sharing: results, cost, what keys and messages tell; leaks are planted to see each check fail."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import sharetorch as st
from sharetorch.mpc import testing
from sharetorch.mpc.channel import Message
from sharetorch.mpc.errors import CorrelationReusedError, MembersError, ModulusError
from sharetorch.mpc.kernels import _dcf_portable as portable
from sharetorch.mpc.kernels import dcf
from sharetorch.mpc.kernels.fixed_key import FixedKeyHash
from sharetorch.mpc.party import Party
from sharetorch.mpc.protocols import fss, opening, selection
from sharetorch.mpc.protocols.arithmetic import multiply
from sharetorch.mpc.protocols.suite import SUITES
from sharetorch.mpc.provider import OneTime
from sharetorch.mpc.ring import PowerRing, ring_of
from sharetorch.mpc.share import ArithmeticShare
from tests.mpc import mutation, views

Words = NDArray[np.uint64]
Plant = Callable[[pytest.MonkeyPatch], None]

COUNT = 1 << 14
LIMIT = 1 << 63
HASH = FixedKeyHash(bytes(range(16)))
PROTOCOLS: dict[str, tuple[Any, Callable[[Tensor], Tensor], Any]] = {
    "non_negative": (fss.non_negative, lambda x: (x >= 0).long(), fss.at_least_cost),
    "equal_zero": (fss.equal_zero, lambda x: (x == 0).long(), fss.equal_zero_cost),
}
protocols = pytest.mark.parametrize("name", PROTOCOLS)


def boundaries() -> Tensor:
    powers = [sign * (1 << i) + near for i in range(63) for sign in (1, -1) for near in (-1, 0, 1)]
    return torch.tensor([*powers, -LIMIT, -LIMIT + 1, LIMIT - 1, LIMIT - 2, 0, -1])


# Results.


@protocols
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_whole_small_rings_in_all_sharings(name: str, bits: int) -> None:
    protocol, expected, _ = PROTOCOLS[name]
    session = testing.session(ring=PowerRing(bits), seed=bits)
    splits = testing.all_splits(range(-(1 << (bits - 1)), 1 << (bits - 1)), session.ring)
    values, first = splits.values.repeat(8), splits.first.repeat(8)
    result = testing.run_value(session, protocol, testing.put_against(session, values, first))
    assert torch.equal(result, expected(values))


@protocols
def test_boundaries_of_64_bits_under_extreme_shares(name: str) -> None:
    protocol, expected, _ = PROTOCOLS[name]
    session = testing.session()
    for first in (0, 1, -1, LIMIT - 1, -LIMIT, 0x0123_4567_89AB_CDEF):
        x = testing.put_against(session, boundaries(), torch.full_like(boundaries(), first))
        assert torch.equal(testing.run_value(session, protocol, x), expected(boundaries()))


@protocols
def test_many_random_numbers_of_all_sizes(name: str) -> None:
    protocol, expected, _ = PROTOCOLS[name]
    session = testing.session()
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(-LIMIT, LIMIT - 1, (100_000,), generator=generator)
    x = x >> torch.randint(0, 64, x.shape, generator=generator)
    assert torch.equal(testing.run_value(session, protocol, testing.put_value(session, x)), expected(x))


@protocols
@pytest.mark.parametrize("shape", [(), (0,), (1,), (63,), (64,), (65,), (3, 0, 2), (7, 5, 4)])
def test_shapes_and_messages_of_several_parts(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol, expected, cost = PROTOCOLS[name]
    monkeypatch.setattr(fss, "CHUNK", 64)
    session = testing.session()
    x = torch.arange(torch.Size(shape).numel()).reshape(shape) % 3 - 1
    assert torch.equal(testing.run_value(session, protocol, testing.put_value(session, x)), expected(x))
    testing.require_cost(session, cost(x.numel()), protocol, testing.put_value(session, x))


@protocols
def test_strided_shares(name: str) -> None:
    protocol, expected, _ = PROTOCOLS[name]
    session = testing.session()
    x = (torch.arange(40) - 20).reshape(5, 8).T[::2]
    number = testing.put_against(session, x, torch.arange(160).reshape(8, 20)[:, ::4][::2])
    assert torch.equal(testing.run_value(session, protocol, number), expected(x))


@protocols
@pytest.mark.parametrize("count", [1, 7, 64, 130])
def test_cost(name: str, count: int) -> None:
    protocol, _, cost = PROTOCOLS[name]
    session = testing.session()
    number = testing.put_value(session, torch.ones(count, dtype=torch.int64))
    declared = cost(count)
    assert (declared.rounds, declared.party_bytes, declared.helper_bytes) == (1, 8 * count, 0)
    testing.require_cost(session, declared, protocol, number)


@pytest.mark.parametrize("bits", [4, 5])
def test_all_thresholds_of_small_rings_from_one_key(bits: int) -> None:
    half = 1 << (bits - 1)
    session = testing.session(ring=PowerRing(bits), seed=bits)
    splits = testing.all_splits(range(-half, half), session.ring)
    thresholds = list(range(-half + 1, half))
    x = testing.put_against(session, splits.values, splits.first)
    result = testing.run_value(session, fss.at_least, x, thresholds=thresholds)
    differences = torch.tensor(thresholds).reshape(-1, 1) - 1 - splits.values
    inside = (differences >= -half) & (differences < half)
    assert torch.equal(result[inside], (differences < 0).long()[inside])


def test_thresholds_of_64_bits() -> None:
    session = testing.session()
    x, thresholds = boundaries(), [0, 1, -1, 5, 1 << 61, -(1 << 61)]
    x = x[(x >= -(1 << 62)) & (x < 1 << 62)]
    result = testing.run_value(session, fss.at_least, testing.put_value(session, x), thresholds=thresholds)
    assert torch.equal(result, (x >= torch.tensor(thresholds).reshape(-1, 1)).long())


@pytest.mark.parametrize("thresholds", [[], [3], [0, 5, 1 << 60]])
@pytest.mark.parametrize("count", [1, 130])
def test_thresholds_cost_nothing(thresholds: list[int], count: int) -> None:
    session = testing.session()
    number = testing.put_value(session, torch.ones(count, dtype=torch.int64))
    declared = fss.at_least_cost(count, len(thresholds))
    testing.require_cost(session, declared, fss.at_least, number, thresholds=thresholds)


def test_what_is_open_already_is_compared_without_a_message() -> None:
    session = testing.session()
    x, y = (testing.put_value(session, torch.arange(10) - 5) for _ in range(2))
    testing.run(session, multiply, x, y)
    found = testing.execute(session, fss.non_negative, x).cost
    assert (found.rounds, found.party_bytes) == (0, 0)


@pytest.mark.parametrize("operands", [0, 1, 2])
@pytest.mark.parametrize("threshold", [0, 1])
def test_choose(operands: int, threshold: int) -> None:
    session = testing.session()
    x, y = torch.arange(90).reshape(9, 10) - 45, torch.arange(90).reshape(9, 10) * 1000 - 7

    async def choose(party: Party, x: Any, y: Any) -> Any:
        bit, products = await fss.choose(party, x, (x, y)[:operands], threshold)
        return bit, *products

    result = testing.run_value(session, choose, testing.put_value(session, x), testing.put_value(session, y))
    want = (x >= threshold).long()
    assert all(torch.equal(*pair) for pair in zip(result, (want, want * x, want * y)[: 1 + operands], strict=True))
    numbers = testing.put_value(session, x), testing.put_value(session, y)
    testing.require_cost(session, fss.choose_cost(90, operands), choose, *numbers)


def test_offline_bytes_of_whole_blocks() -> None:
    assert fss.at_least_cost(64).dealer_bytes == 64 * (2 * 1535.75 + 8)
    assert fss.equal_zero_cost(64).dealer_bytes == 64 * 2 * 3120


@protocols
def test_other_numbers_of_parties_and_fields_are_refused(name: str) -> None:
    protocol = PROTOCOLS[name][0]
    session = testing.session(3)
    with pytest.raises(MembersError, match='protocol="tables"'):
        testing.run(session, protocol, testing.put_value(session, [1, 2]))
    session = testing.session(ring=ring_of(2**31 - 1))
    with pytest.raises(ModulusError, match="without field="):
        testing.run(session, protocol, testing.put_value(session, [1, 2]))


def test_roots_serve_once() -> None:
    async def twice(party: Party) -> None:
        if not party.is_provider:
            roots = fss.root_seeds(party, party.provider, 3)
            roots.take()
            roots.take()

    with pytest.raises(CorrelationReusedError, match="root seeds"):
        testing.run(testing.session(), twice)


# The suite.


def test_relu_is_exact_but_for_the_smallest_number() -> None:
    session = testing.session(suite="fss")
    x = boundaries()
    x = x[x > -LIMIT]
    value, bit = testing.run_value(session, selection.relu, testing.put_value(session, x))
    assert torch.equal(value, x.clamp(min=0))
    assert torch.equal(bit, (x > 0).long())


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_maximum_and_route(n: int) -> None:
    session = testing.session(suite="fss")
    x = (torch.arange(4 * n).reshape(n, 4) * 7) % 5
    number = testing.put_value(session, x)
    found = testing.execute(session, selection.maximum_tree, number)
    assert found.cost == selection.maximum_tree_cost(n, 4, SUITES["fss"].prices(2))
    value, index, trail = (testing.put(session, *(r[i].data for r in found.results[:2])) for i in range(3))
    assert torch.equal(testing.value(session, value), x.amax(0))
    assert torch.equal(testing.value(session, index), x.argmax(0))
    gradient = testing.put_value(session, torch.arange(1, 5))
    routed = testing.run_value(session, selection.route_tree, gradient, trail, n=n)
    assert torch.equal(routed, torch.zeros(n, 4).long().scatter(0, x.argmax(0, keepdim=True), torch.arange(1, 5)[None]))


@pytest.mark.parametrize("count", [1, 64, 130])
def test_declared_prices(count: int) -> None:
    session, prices = testing.session(suite="fss"), SUITES["fss"].prices(2)
    fresh = [testing.put_value(session, torch.ones(count, dtype=torch.int64)) for _ in range(2)]
    testing.require_cost(session, prices.choose(count, 1), selection.relu, fresh[0])
    testing.require_cost(session, prices.equal_zero(count), selection.equal_zero, fresh[1])
    assert prices.choose(count, 1).party_bytes == 16 * count


def test_by_name() -> None:
    alice, bob, dealer = (st.VirtualWorker(id=name) for name in ("alice", "bob", "dealer"))
    x = torch.tensor([1.5, -2.25, 0.0, 3.0])
    shared = x.fix_precision().share(alice, bob, crypto_provider=dealer, protocol="fss")
    assert torch.equal(shared.relu().get().float_precision(), x.relu())
    assert (shared >= 0).get().tolist() == [True, False, True, True]
    assert shared.max().get().float_precision() == 3.0


# Messages.


async def choose(party: Party, x: ArithmeticShare) -> Any:
    return await fss.choose(party, x, (x,), 1)


WATCHED = {"choose": choose, **{name: entry[0] for name, entry in PROTOCOLS.items()}}
watched = pytest.mark.parametrize("name", WATCHED)


def watch(name: str, value: int, seed: int = 1) -> list[Message]:
    session = testing.session(seed=seed)
    x = views.put_equal(session, value, COUNT)
    return list(testing.execute(session, WATCHED[name], x).transcript)


def require_nothing_seen(name: str = "non_negative") -> None:
    transcript = watch(name, -5)
    assert views.receivers(transcript) == {0, 1}
    for rank in (0, 1):
        views.require_nothing_seen(transcript, rank)


@watched
def test_every_message_is_uniform_and_independent_of_its_neighbours(name: str) -> None:
    require_nothing_seen(name)


@watched
@pytest.mark.parametrize("secrets", [(0, -1), (5, -5), (-LIMIT, LIMIT - 1)])
def test_two_secrets_look_the_same(name: str, secrets: tuple[int, int]) -> None:
    first, second = (watch(name, value, seed) for seed, value in enumerate(secrets))
    for rank in (0, 1):
        views.require_same_views(first, second, rank)


def require_independent_runs() -> None:
    session = testing.session(seed=1)
    numbers = [views.put_equal(session, -5, COUNT) for _ in range(2)]
    transcripts = [testing.execute(session, fss.non_negative, number).transcript for number in numbers]
    for rank in (0, 1):
        views.require_independent_runs(*transcripts, rank)


def test_two_runs_have_nothing_in_common() -> None:
    require_independent_runs()


def test_the_provider_receives_nothing() -> None:
    assert 2 not in views.receivers(watch("non_negative", 3))


# Keys: a party's view is conditioned on what it holds, its own root, and on the secret threshold.


def words(rng: np.random.Generator, n: int) -> Words:
    return rng.integers(0, 1 << 64, n, dtype=np.uint64)


class Keys:
    """Keys for one threshold and payload, with one root of ``rank`` for all elements and fresh ones of the other."""

    def __init__(self, alpha: int, beta: int, rank: int, depth: int = 63) -> None:
        rng = np.random.default_rng(alpha % 1000 + rank)
        fixed = dcf.Seeds(*(np.full(COUNT, word, np.uint64) for word in words(rng, 2)))
        fresh = dcf.Seeds(words(rng, COUNT), words(rng, COUNT))
        self.roots = (fixed, fresh) if rank == 0 else (fresh, fixed)
        self.rank = rank
        self.alpha, self.beta = (np.full(COUNT, value % (1 << 64), np.uint64) for value in (alpha, beta))
        self.depth = depth
        self.key = dcf.generate(*self.roots, self.alpha, self.beta, depth, HASH)
        self.corrections = portable.Corrections(self.key, depth, 0, COUNT)

    def rows(self, level: int) -> dict[str, Words]:
        """Corrections of a level, an element to a word."""
        rows = {name: self.corrections.row(level, i) for i, name in enumerate(("low words", "high words", "values"))}
        return rows | {f"control bits {side}": self.corrections.bits(level, side) for side in (0, 1)}


def require_uniform_rows(keys: Keys) -> None:
    """Every correction of every level, and the last one, is uniform, although the receiver's root is known."""
    for level in (0, 1, 2, 30, keys.depth - 1):
        rows = keys.rows(level)
        for name, row in rows.items():
            if name.startswith("control"):
                views.require_uniform(row.astype(np.uint8), 2, f"level {level}, {name}")
                continue
            for byte, column, bins in views.pieces("", row):
                views.require_uniform(column, bins, f"level {level}, {name}, {byte}")
        both = (rows["control bits 0"] ^ rows["control bits 1"]).astype(np.uint8)
        views.require_uniform(both, 2, f"level {level}, both control bits")
    for byte, column, bins in views.pieces("", keys.corrections.row(keys.depth, 0)):
        views.require_uniform(column, bins, f"last correction, {byte}")


THRESHOLDS = [0, LIMIT - 1, 0x2AAA_AAAA_AAAA_AAAA, 12345]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("alpha", THRESHOLDS)
def test_corrections_are_uniform_for_every_threshold(alpha: int, rank: int) -> None:
    require_uniform_rows(Keys(alpha, 1, rank))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("alpha", THRESHOLDS)
def test_a_share_tells_nothing_of_the_comparison(alpha: int, rank: int) -> None:
    """One party's shares at points on both sides of the threshold, at it, and far away; roots of both are fresh."""
    rng = np.random.default_rng(rank)
    roots = [dcf.Seeds(words(rng, COUNT), words(rng, COUNT)) for _ in range(2)]
    thresholds, payload = np.full(COUNT, alpha, np.uint64), np.ones(COUNT, np.uint64)
    key = dcf.generate(roots[0], roots[1], thresholds, payload, 63, HASH)
    for x in {alpha, max(alpha - 1, 0), min(alpha + 1, LIMIT - 1), alpha ^ (LIMIT >> 1)}:
        share = dcf.evaluate(key, roots[rank], np.full(COUNT, x, np.uint64), 63, rank, HASH)
        for byte, column, bins in views.pieces("", share):
            views.require_uniform(column, bins, f"share of P{rank} at {x}, {byte}")


def hits_of_value_attack(keys: Keys) -> int:
    """Elements for which a party can tell the top bit of the threshold from the first level.

    It guesses the child that the path leaves, computes the other party's seed there from the correction, and sees
    whether the correction of values is the difference of their seeds, with or without the payload.
    """
    root, rows = keys.roots[keys.rank], keys.rows(0)
    found = np.zeros(COUNT, bool)
    for side in (0, 1):
        own = HASH(root.low ^ np.uint64(side), root.high)[0]
        other = own ^ rows["low words"]
        gap = other - own if keys.rank == 0 else own - other
        for payload in (np.uint64(0), keys.beta):
            found |= rows["values"] == np.uint64(0) - (gap + payload)
    return int(found.sum())


def require_value_attack_to_fail() -> None:
    for rank in (0, 1):
        hits = hits_of_value_attack(Keys(LIMIT >> 1, 1, rank))
        assert hits == 0, f"values not uniform given seeds: the top bit of {hits} of {COUNT} thresholds is read"


def test_values_are_independent_of_seeds() -> None:
    require_value_attack_to_fail()


ROOTS = 1 << 18


def require_full_roots() -> None:
    """As many roots as meet a second time with probability 1 - e^-8 among 2^32; all bytes and their sums uniform."""
    roots: list[dcf.Seeds] = []

    async def draw(party: Party) -> None:
        if party.rank == 0:
            roots.append(fss.root_seeds(party, party.provider, ROOTS).take())

    testing.run(testing.session(seed=1), draw)
    low, high = roots[0]
    assert len(np.unique(np.stack([low, high]), axis=1).T) == ROOTS, "roots not uniform: two are equal"
    for words_of in (low, high, low - high, low[::2] - low[1::2]):
        for byte, column, bins in views.pieces("", words_of):
            views.require_uniform(column, bins, f"roots, {byte}")


def test_roots_have_128_bits() -> None:
    require_full_roots()


# Planted leaks.


def spread_first(values: Any) -> Any:
    return values[:1].repeat(len(values))


def one_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """One mask for all elements of a tensor."""
    draw = opening.random_shares

    def drawn_once(party: Party, label: str, shape: Any) -> OneTime[Tensor]:
        return OneTime(label, spread_first(draw(party, label, shape).take()))

    monkeypatch.setattr(opening, "random_shares", drawn_once)


def weak_roots(weaken: Callable[[dcf.Seeds], dcf.Seeds]) -> Plant:
    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        draw = fss.root_seeds
        monkeypatch.setattr(
            fss, "root_seeds", lambda *arguments: OneTime("root seeds", weaken(draw(*arguments).take()))
        )

    return plant


def one_root(roots: dcf.Seeds) -> dcf.Seeds:
    """The key of one element serves the next."""
    return dcf.Seeds(spread_first(roots.low), spread_first(roots.high))


def cut_roots(roots: dcf.Seeds) -> dcf.Seeds:
    """Seeds of 32 bits."""
    return dcf.Seeds(roots.low & np.uint64(0xFFFF_FFFF), roots.high * np.uint64(0))


def stretched_roots(roots: dcf.Seeds) -> dcf.Seeds:
    """Seeds of 32 bits, hashed to 128."""
    low, high = HASH(*cut_roots(roots))
    return dcf.Seeds(low, high)


def in_portable_form(plant: Plant) -> Plant:
    """Plant something into the portable form and use that form."""

    def both(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dcf, "vector_words", lambda: 0)
        plant(monkeypatch)

    return both


def mutate(correct: str, wrong: str) -> Plant:
    return in_portable_form(lambda monkeypatch: mutation.plant(monkeypatch, portable, "_generate", correct, wrong))


def one_hash_for_both_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "SEED_RIGHT", portable.SEED_LEFT)
    monkeypatch.setattr(portable, "VALUE_RIGHT", portable.VALUE_LEFT)


def one_hash_for_seed_and_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portable, "VALUE_LEFT", portable.SEED_LEFT)
    monkeypatch.setattr(portable, "VALUE_RIGHT", portable.SEED_RIGHT)


def check_rows() -> None:
    for rank in (0, 1):
        require_uniform_rows(Keys(12345, 1, rank))


SEEDS_WITHOUT_MASK = mutate("lost[0][:2] ^ lost[1][:2]", "lost[0][:2] & np.uint64(0)")
VALUES_WITHOUT_MASK = mutate("lost[1][2] - lost[0][2] + payload * right", "payload * right")
ONE_BIT = "(children[0][side, 3] ^ children[1][side, 3] ^ right ^ np.uint64(1 - side)) & _ONE"
LEAKS: dict[str, tuple[Plant, Callable[[], None]]] = {
    "one mask for a tensor": (one_mask, require_nothing_seen),
    "one key for a tensor": (weak_roots(one_root), require_nothing_seen),
    "seeds of 32 bits": (weak_roots(cut_roots), require_full_roots),
    "seeds of 32 bits, stretched": (weak_roots(stretched_roots), require_full_roots),
    "the lost child not corrected": (SEEDS_WITHOUT_MASK, require_nothing_seen),
    "values without their mask": (VALUES_WITHOUT_MASK, check_rows),
    "control bits without their mask": (mutate(ONE_BIT, "(right ^ np.uint64(1 - side)) & _ONE"), check_rows),
    "one hash for both children": (in_portable_form(one_hash_for_both_children), require_nothing_seen),
    "one hash for seed and value": (in_portable_form(one_hash_for_seed_and_value), require_value_attack_to_fail),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_planted_leak_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, check = LEAKS[name]
    check()
    plant(monkeypatch)
    with pytest.raises(AssertionError, match="uniform"):
        check()


@pytest.mark.parametrize(
    "name",
    [
        "one mask for a tensor",
        "one key for a tensor",
        "seeds of 32 bits, stretched",
        "one hash for both children",
        "one hash for seed and value",
    ],
)
def test_leaks_leave_results_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    LEAKS[name][0](monkeypatch)
    session = testing.session()
    x = boundaries()
    result = testing.run_value(session, fss.non_negative, testing.put_value(session, x))
    assert torch.equal(result, (x >= 0).long())


# Mistakes in formulas.

MUTANTS = [
    ("at_least", "1 - 2 * _flat(_top_bits(public, bits))", "1 + 0 * _flat(_top_bits(public, bits))"),
    ("at_least", "share *= 1 - 2 * top", "share *= 2 * top - 1"),
    ("at_least", "share += top\n", "share += 1 - top\n"),
    ("at_least", "share += dealt.take((count,)).numpy()", "dealt.take((count,))"),
    ("at_least", "(threshold - 1)", "threshold"),
    ("equal_zero", "- unequal[1]", "- 0 * unequal[1]"),
    ("equal_zero", "_both_ways(-_flat", "_both_ways(_flat"),
    ("_both_ways", "words ^ np.uint64((1 << bits) - 1)", "np.uint64(0) - words"),
    ("less_than_secret", "party.rank, h", "0, h"),
]


@pytest.mark.parametrize(("function", "correct", "wrong"), MUTANTS)
def test_a_wrong_formula_shows_in_a_small_ring(
    function: str, correct: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutation.plant(monkeypatch, fss, function, correct, wrong)
    name = "non_negative" if function in ("at_least", "less_than_secret") else "equal_zero"
    monkeypatch.setitem(PROTOCOLS, name, (getattr(fss, name), *PROTOCOLS[name][1:]))
    with pytest.raises(AssertionError):
        test_whole_small_rings_in_all_sharings(name, 4)
