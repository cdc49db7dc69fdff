"""Comparison on bit planes, against the same on one number at a time."""

import numpy as np
import pytest
from numpy.typing import NDArray

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels import bit_planes, set_thread_count, thread_count
from sharetorch.mpc.kernels.bit_planes import BLOCK, UNUSED, Planes
from sharetorch.mpc.protocols.radix_tree import Tree, tree

Bits = NDArray[np.uint8]
SIZES = [0, 1, 7, 8, 9, 63, 64, 65, 511, 512, 513, 1500]
CUTS = [(63, 4, 4), (63, 7, 9), (16, 4, 4), (5, 2, 3), (3, 3, 4)]


def planes_of(bits: Bits) -> Planes:
    """A vector of planes from rows of bits, shape (planes, n)."""
    planes, count = bits.shape
    blocks = bit_planes.block_count(count)
    padded = np.zeros((planes, blocks * BLOCK), np.uint8)
    padded[:, :count] = bits
    words = padded.reshape(planes, blocks, 64, 8).transpose(1, 0, 3, 2)
    return np.packbits(np.ascontiguousarray(words), axis=-1, bitorder="little").view(np.uint64).reshape(-1)


def bits_of(planes: Planes, count: int) -> Bits:
    """Rows of bits from a vector of planes."""
    blocks = bit_planes.block_count(count)
    if blocks == 0:
        return np.empty((0, 0), np.uint8)
    words = np.unpackbits(planes.view(np.uint8), bitorder="little").reshape(blocks, -1, 8, 64)
    return np.ascontiguousarray(words.transpose(1, 0, 3, 2)).reshape(words.shape[1], -1)[:, :count]


def random_bits(rng: np.random.Generator, *shape: int) -> Bits:
    return rng.integers(0, 2, shape, dtype=np.uint8)


def random_words(rng: np.random.Generator, *shape: int) -> NDArray[np.int64]:
    """Uniform words, and many that are near each other."""
    return np.where(rng.random(shape) < 0.5, rng.integers(-4, 5, shape), rng.integers(-(1 << 63), 1 << 63, shape))


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("planes", [1, 2, 7, 34])
def test_planes_are_packed_to_the_bit(count: int, planes: int) -> None:
    bits = random_bits(np.random.default_rng(count), planes, count)
    whole = planes_of(bits)
    packed = bit_planes.pack_planes(whole.copy(), count, planes)
    assert packed.shape == (-(-count * planes // 8),)
    body, tail = bit_planes.split_planes(packed, count, planes)
    assert np.array_equal(np.concatenate([body, tail]), whole)
    again = np.full_like(whole, 0xDEAD)
    again.view(np.uint8)[: packed.size] = packed
    bit_planes.unpack_planes(again, count, planes)
    assert np.array_equal(again, whole)


def test_full_blocks_are_not_copied() -> None:
    whole = planes_of(random_bits(np.random.default_rng(1), 3, 1024))
    packed = bit_planes.pack_planes(whole, 1024, 3)
    assert np.shares_memory(packed, whole)
    assert np.shares_memory(bit_planes.split_planes(packed, 1024, 3)[0], whole)


def test_what_fills_up_the_last_block_is_not_sent() -> None:
    zeros, ones = planes_of(np.zeros((5, 70), np.uint8)), np.full(bit_planes.plane_words(70, 5), ~np.uint64(0))
    assert not bit_planes.pack_planes(zeros, 70, 5).any()
    filled = planes_of(np.ones((5, 70), np.uint8))
    assert np.array_equal(bit_planes.pack_planes(ones, 70, 5), bit_planes.pack_planes(filled, 70, 5))


def test_other_sizes_are_refused() -> None:
    words = np.zeros(24, np.uint64)
    with pytest.raises(ShapeError, match="3 planes of 513 elements"):
        bit_planes.pack_planes(words, 513, 3)
    with pytest.raises(ShapeError, match="fill 193 bytes"):
        bit_planes.split_planes(np.zeros(192, np.uint8), 513, 3)
    with pytest.raises(ShapeError, match="contiguous"):
        bit_planes.unpack_planes(np.zeros(48, np.uint64)[::2], 512, 3)


def dealt_table(plan: Tree, r: NDArray[np.int64]) -> Planes:
    table = np.zeros(bit_planes.plane_words(r.size, plan.rows), np.uint64)
    bit_planes.deal_tables(r, plan.digits, table, plan.rows)
    return table


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("cut", CUTS)
def test_tables_hold_one_row_of_each_digit(count: int, cut: tuple[int, int, int]) -> None:
    plan, r = tree(*cut), random_words(np.random.default_rng(count), count)
    rows = bits_of(dealt_table(plan, r), count)
    at = 0
    for low, width in plan.digits.tolist() if count else []:
        digit = (r >> low) & ((1 << width) - 1)
        last = (1 << width) - 1
        assert np.array_equal(rows[at : at + last], digit == np.arange(last)[:, None])
        at += last


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("cases", [1, 3])
def test_digits_are_looked_up(count: int, cut: tuple[int, int, int], cases: int) -> None:
    rng, plan = np.random.default_rng(count), tree(*cut)
    r, w, offsets = random_words(rng, count), random_words(rng, count), np.array([0, -1, 5][:cases])
    digits = len(plan.digits)
    slots = np.arange(2 * digits).reshape(digits, 2)
    masks = planes_of(random_bits(rng, cases * 2 * digits, count))
    out = bit_planes.outputs(count, cases, 2 * digits, 0)
    table = (dealt_table(plan, r), bit_planes.NOTHING)
    bit_planes.leaves(w, offsets, -1, -1, plan.digits, slots, table, plan.rows, masks, out, 0, count, lead=True)
    found = bits_of(out.opened ^ masks, count)
    for case in range(cases if count else 0):
        c = offsets[case] - w
        for d, (low, width) in enumerate(plan.digits.tolist()):
            ours, theirs = ((x >> low) & ((1 << width) - 1) for x in (c, r))
            row = 2 * (case * digits + d)
            assert np.array_equal(found[row], theirs > ours)
            assert np.array_equal(found[row + 1], theirs == ours)


def evaluate(
    k: int, with_g: bool, with_p: bool, count: int, rng: np.random.Generator
) -> tuple[list[Bits], list[Bits], Bits]:
    """Inputs g and p of one node, and what it gives: rows g, p of those it has."""
    opened = (k - 1) * (2 if with_g else 1) + int(with_p)
    node = np.array([[k, int(with_g), int(with_p), 0, 0]])
    g, p = ([random_bits(rng, count) for _ in range(k)] for _ in range(2))
    inputs = [p[k - 1 - t] for t in range(k - 1)] + (g[: k - 1] if with_g else []) + ([p[0]] if with_p else [])
    masks = random_bits(rng, opened, count)
    products = (1 << (k - 1)) - k + sum((1 << (k - 1 - i)) - 1 for i in range(k - 1)) * with_g
    products += ((1 << (k - 1)) - 1) * with_p
    dealt = np.zeros(bit_planes.plane_words(count, products), np.uint64)
    if products:
        bit_planes.deal_products(node, planes_of(masks), count, 1, dealt, products)
    every = planes_of(np.concatenate([masks, np.zeros((2, count), np.uint8)]))
    out = bit_planes.outputs(count, 1, 2, 0)
    slots = np.array([[0 if with_g else UNUSED, 1 if with_p else UNUSED]])
    bit_planes.nodes(
        count, 1, node, slots, planes_of(np.stack(inputs) ^ masks), every, 0, opened, (dealt, bit_planes.NOTHING),
        products, planes_of(g[k - 1][None]), out, 0, count, lead=True,
    )  # fmt: skip
    return g, p, bits_of(out.opened, count)


@pytest.mark.parametrize("k", [2, 3, 4, 5, 9])
@pytest.mark.parametrize(("with_g", "with_p"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("count", [1, 65, 513])
def test_nodes_join_their_inputs(k: int, with_g: bool, with_p: bool, count: int) -> None:
    g, p, found = evaluate(k, with_g, with_p, count, np.random.default_rng(k))
    generated, propagated = g[0], p[0]
    for i in range(1, k):
        generated, propagated = g[i] ^ (p[i] & generated), p[i] & propagated
    if with_g:
        assert np.array_equal(found[0], generated)
    if with_p:
        assert np.array_equal(found[1], propagated)


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("lead", [False, True])
def test_bits_go_back_to_the_ring(count: int, lead: bool) -> None:
    rng = np.random.default_rng(count)
    e, a, d, m, am = random_bits(rng, 2, count), *(random_words(rng, 2, count) for _ in range(4))
    found = bit_planes.convert_bits(planes_of(e), a, 64, lead=lead)
    assert np.array_equal(found, lead * e.astype(np.int64) + (1 - 2 * e.astype(np.int64)) * a)
    bit = e[0].astype(np.int64)
    chosen = bit_planes.choose_words(planes_of(e[:1]), d[0], m[0], a[0], am[0], 64, lead=lead)
    assert np.array_equal(chosen, bit * (lead * d[0] + m[0]) + (1 - 2 * bit) * (d[0] * a[0] + am[0]))
    words = bit_planes.bits_of_planes(planes_of(e), 1, 1, count, d[0], 63)
    assert np.array_equal(words, (e[1] ^ (d[:1] < 0)).reshape(1, count))


def test_small_rings_are_wrapped() -> None:
    a = np.array([[3, 7, -8, 5]])
    found = bit_planes.convert_bits(planes_of(np.array([[1, 1, 1, 0]], np.uint8)), a, 4, lead=True)
    assert found.tolist() == [[-2, -6, -7, 5]]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_share_the_blocks(threads: int) -> None:
    before, count = thread_count(), 150 * BLOCK + 5
    set_thread_count(threads)
    try:
        rng = np.random.default_rng(1)
        g, p, found = evaluate(4, True, True, count, rng)
        assert np.array_equal(found[1], p[0] & p[1] & p[2] & p[3])
        assert np.array_equal(found[0], g[3] ^ (p[3] & (g[2] ^ (p[2] & (g[1] ^ (p[1] & g[0]))))))
    finally:
        set_thread_count(before)
