"""Comparison of public with secret numbers on bit planes: one word holds the same bit of 64 elements.

Elements come in blocks of 512. Bit i of word j of a block's plane belongs to element 8 i + j of the block, so that a
block of eight-word rows becomes planes by one transposition of 64 x 64 bits in every lane. A vector of planes is
uint64, block after block, within a block plane after plane of eight words. The last block is filled up.

On the wire the places that fill up are left out: full blocks as they are, then of each plane of the last block the bits
of each word that belong to elements, one after the other.

*Cases* are comparisons with the same secret number; the planes of a block are ordered by case.
Secret bits are shared by XOR; ``lead`` is true at the one party that adds public ones.

Notation of a node with k inputs (g_i, p_i), the highest last: with input bits b opened as E_b = b ^ m_b,
    g = g_{k-1} ^ p_{k-1} (g_{k-2} ^ p_{k-2} (... g_0)),    p = p_{k-1} ... p_0.
Of the sets T of p_{k-1} ... p_1 (bit t of T stands for p_{k-1-t}) the shares of m_T, the product of their masks, are
dealt, and of m_T m_b for b = g_i, T among p_j, j > i, and for b = p_0. Masks are ordered p_{k-1} ... p_1, g_0 ...
g_{k-2}, p_0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sharetorch.mpc.errors import ShapeError
from sharetorch.mpc.kernels._lanes import LANES, Value, load, shift_left, shift_right, spread, store
from sharetorch.mpc.kernels._numba import INT, inline, kernel, read_only, writable
from sharetorch.mpc.kernels._threads import in_parts

Planes = NDArray[np.uint64]
Words = NDArray[np.int64]
Numbers = NDArray[np.int64]

BLOCK = 64 * LANES
"""Elements of a block."""
PART = 32
"""Blocks worth a thread of their own."""
UNUSED = -(1 << 20)
"""Slot of an output that nobody needs."""
NOTHING = np.empty(0, np.uint64)
"""No planes."""

_PLANES_IN, _PLANES_OUT = read_only("uint64"), writable("uint64")
_WORDS_IN, _WORDS_OUT = read_only("int64"), writable("int64")
_NUMBERS, _TABLE = read_only("int64"), read_only("int64", 2)


class Outputs(NamedTuple):
    """Where digits or nodes put their outputs.

    Attributes:
        opened: planes to be opened.
        opened_planes: of them, for each case.
        kept: planes that stay with the party.
        kept_planes: of them, for each case.
    """

    opened: Planes
    opened_planes: int
    kept: Planes
    kept_planes: int


def outputs(count: int, cases: int, opened_planes: int, kept_planes: int) -> Outputs:
    """Room for outputs of so many elements and cases."""
    opened = np.empty(plane_words(count, cases * opened_planes), np.uint64)
    kept = np.empty(plane_words(count, cases * kept_planes), np.uint64)
    return Outputs(opened, opened_planes, kept, kept_planes)


def block_count(count: int) -> int:
    """Blocks of so many elements."""
    return -(-count // BLOCK)


def plane_words(count: int, planes: int) -> int:
    """Length of a vector of planes for so many elements."""
    return block_count(count) * planes * LANES


# ------------------------------------------------------------------------------------------------------------- the wire


@kernel(_PLANES_OUT, INT)
def _pack_tail(words: Planes, rest: int) -> None:
    """Move the bits of ``rest`` elements of one block to the front, in place."""
    one, at, filled, gathered = np.uint64(1), 0, 0, np.uint64(0)
    for i in range(words.size):
        width = (rest - i % LANES + LANES - 1) // LANES
        if width <= 0:
            continue
        bits = words[i]
        if width < 64:
            bits &= (one << np.uint64(width)) - one
        gathered |= bits << np.uint64(filled)
        filled += width
        if filled >= 64:
            words[at] = gathered
            at += 1
            filled -= 64
            gathered = bits >> np.uint64(width - filled) if filled > 0 else np.uint64(0)
    if filled > 0:
        words[at] = gathered


@kernel(_PLANES_IN, INT, _PLANES_OUT)
def _unpack_tail(packed: Planes, rest: int, words: Planes) -> None:
    """Undo ``_pack_tail``; ``packed`` has a word of zeros at its end."""
    one, place = np.uint64(1), 0
    for i in range(words.size):
        width = (rest - i % LANES + LANES - 1) // LANES
        words[i] = 0
        if width > 0:
            at, shift = place // 64, np.uint64(place % 64)
            bits = packed[at] >> shift
            if shift > 0:
                bits |= packed[at + 1] << (np.uint64(64) - shift)
            if width < 64:
                bits &= (one << np.uint64(width)) - one
            words[i] = bits
            place += width


def packed_bytes(count: int, planes: int) -> int:
    """Bytes on the wire: one bit for each plane of each element, to whole bytes."""
    return (count * planes + 7) // 8


def pack_planes(words: Planes, count: int, planes: int) -> NDArray[np.uint8]:
    """Give planes as they go over the wire; works in the memory of ``words``, which the caller gives up.

    Args:
        words: uint64, shape (plane_words(count, planes),).
        count: number of elements.
        planes: number of planes.

    Returns:
        uint8, shape (packed_bytes(count, planes),).

    Raises:
        ShapeError: words do not hold exactly these planes.
    """
    _check_planes(count, planes, words=words)
    if count % BLOCK:
        _pack_tail(words[count // BLOCK * planes * LANES :], count % BLOCK)
    return words.view(np.uint8)[: packed_bytes(count, planes)]


def unpack_planes(words: Planes, count: int, planes: int) -> None:
    """Undo ``pack_planes`` in the memory of the planes, whose first bytes hold what came over the wire.

    Raises:
        ShapeError: words do not hold exactly these planes.
    """
    _check_planes(count, planes, words=words)
    if count % BLOCK:
        tail = words[count // BLOCK * planes * LANES :]
        packed = (count % BLOCK * planes + 63) // 64
        padded = np.zeros(packed + 1, np.uint64)
        padded[:packed] = tail[:packed]
        _unpack_tail(padded, count % BLOCK, tail)


def split_planes(packed: NDArray[np.uint8], count: int, planes: int) -> tuple[Planes, Planes]:
    """Give what came over the wire as planes: those of full blocks, without a copy, and those of the last one, if any.

    Raises:
        ShapeError: packed does not hold exactly so many bits.
    """
    if packed.shape != (packed_bytes(count, planes),):
        size = packed_bytes(count, planes)
        raise ShapeError(f"{planes} planes of {count} bits fill {size} bytes; got shape {packed.shape}.")
    body = count // BLOCK * planes * LANES
    tail = np.empty(planes * LANES if count % BLOCK else 0, np.uint64)
    if tail.size:
        rest = packed[8 * body :]
        padded = np.zeros(rest.size // 8 + 2, np.uint64)
        padded.view(np.uint8)[: rest.size] = rest
        _unpack_tail(padded, count % BLOCK, tail)
    return packed[: 8 * body].view(np.uint64), tail


def _check_planes(count: int, planes: int, **vectors: Planes) -> None:
    size = plane_words(count, planes)
    for name, vector in vectors.items():
        if vector.shape != (size,) or vector.dtype != np.uint64 or not vector.flags.c_contiguous:
            raise ShapeError(
                f"{name} has shape {vector.shape} and dtype {vector.dtype}; {planes} planes of {count} elements are a "
                f"contiguous vector of {size} uint64."
            )


# --------------------------------------------------------------------------------------------- between words and planes


@inline
def _transpose(rows: Planes) -> None:
    """Exchange bit b of row a with bit a of row b, for 64 rows of eight words, in place."""
    distance, mask = 32, np.uint64(0xFFFFFFFF)
    while distance:
        low, shift = spread(mask), np.uint64(distance)
        for start in range(0, 64, 2 * distance):
            for i in range(start, start + distance):
                x, y = load(rows, LANES * i), load(rows, LANES * (i + distance))
                moved = (shift_right(x, shift) ^ y) & low
                store(rows, LANES * i, x ^ shift_left(moved, shift))
                store(rows, LANES * (i + distance), y ^ moved)
        distance >>= 1
        mask ^= mask << np.uint64(distance)


@inline
def _planes_of(words: Words, first: int, start: int, count: int, offset: int, sign: int, rows: Planes) -> None:
    """Set rows to the planes of offset + sign * words[first + start ...], of a vector that ends at first + count."""
    valid = min(BLOCK, count - start)
    for i in range(valid):
        rows[i] = np.uint64(offset + sign * words[first + start + i])
    for i in range(valid, BLOCK):
        rows[i] = np.uint64(0)
    _transpose(rows)


@inline
def _words_of(planes: Planes, at: int, bits: Planes) -> None:
    """Set bits to the 512 bits of a plane, as words 0 and 1."""
    plane, one = load(planes, at), spread(np.uint64(1))
    for i in range(64):
        store(bits, LANES * i, shift_right(plane, np.uint64(i)) & one)


# ------------------------------------------------------------------------------------------------ what a party computes


@inline
def _place(slot: int, value: Value, masks: Planes, mask_at: int, opened: Planes, opened_at: int, kept: Planes,
           kept_at: int) -> None:  # fmt: skip
    """Put an output where the next level wants it: masked among what is opened, or among what is kept."""
    if slot >= 0:
        store(opened, opened_at + LANES * slot, value ^ load(masks, mask_at + LANES * slot))
    elif slot > UNUSED:
        store(kept, kept_at - LANES * (slot + 1), value)


@inline
def _look_up(table: Planes, base: int, digit: Planes, shift: int, width: int, lead: np.uint64, p: Planes, g: Planes,
             t: Planes) -> None:  # fmt: skip
    """Set the first plane of p to row v and that of g to the XOR of the rows above v, v being the public digit.

    Rows are folded by pairs, a bit of v each time; t is the XOR of all rows of a part.
    """
    rows, last = 1 << width, spread(lead)
    for row in range(rows - 1):
        dealt = load(table, base + LANES * row)
        store(t, LANES * row, dealt)
        last = last ^ dealt
    store(t, LANES * (rows - 1), last)
    half, bit = rows >> 1, load(digit, LANES * shift)
    for q in range(half):
        low, high = load(t, 2 * LANES * q), load(t, 2 * LANES * q + LANES)
        both = low ^ high
        store(p, LANES * q, low ^ (bit & both))
        store(g, LANES * q, high ^ (bit & high))
        store(t, LANES * q, both)
    for place in range(1, width):
        half >>= 1
        bit = load(digit, LANES * (shift + place))
        for q in range(half):
            at, next_at = 2 * LANES * q, 2 * LANES * q + LANES
            p_low, p_high, t_high = load(p, at), load(p, next_at), load(t, next_at)
            g_low, g_high = load(g, at) ^ t_high, load(g, next_at)
            store(p, LANES * q, p_low ^ (bit & (p_low ^ p_high)))
            store(g, LANES * q, g_low ^ (bit & (g_low ^ g_high)))
            store(t, LANES * q, load(t, at) ^ t_high)


@kernel(_WORDS_IN, INT, INT, INT, _NUMBERS, INT, _TABLE, _TABLE, _PLANES_IN, _PLANES_IN, INT, _PLANES_IN, INT, INT,
        _PLANES_OUT, INT, _PLANES_OUT, INT, INT, INT, INT)  # fmt: skip
def _leaves_part(
    words: Words, count: int, row_step: int, sign: int, offsets: Numbers, top: int, digits: Numbers, slots: Numbers,
    table: Planes, tail: Planes, table_planes: int, masks: Planes, mask_planes: int, lead: int, opened: Planes,
    opened_planes: int, kept: Planes, kept_planes: int, origin: int, begin: int, end: int,
) -> None:  # fmt: skip
    widest = 1 << int(digits[:, 1].max())
    rows, t = np.empty(BLOCK, np.uint64), np.empty(LANES * widest, np.uint64)
    p, g = np.empty(LANES * widest, np.uint64), np.empty(LANES * widest, np.uint64)
    ones = np.uint64(0) - np.uint64(lead)
    cases, size, last = offsets.size, LANES * table_planes, digits.shape[0] - 1
    for block in range(begin, end):
        base = (block - origin) * size
        dealt = table[base : base + size] if base + size <= table.size else tail
        for case in range(cases):
            _planes_of(words, case * row_step, block * BLOCK, count, offsets[case], sign, rows)
            at, base = block * cases + case, 0
            for d in range(last + 1):
                _look_up(dealt, base, rows, digits[d, 0], digits[d, 1], ones, p, g, t)
                base += LANES * ((1 << digits[d, 1]) - 1)
                if d == last and top >= 0:
                    store(g, 0, load(g, 0) ^ (spread(ones) & load(rows, LANES * top)))
                for output in range(2):
                    value = load(g, 0) if output == 0 else load(p, 0)
                    _place(slots[d, output], value, masks, LANES * at * mask_planes, opened,
                           LANES * at * opened_planes, kept, LANES * at * kept_planes)  # fmt: skip


def leaves(
    words: Words,
    offsets: Numbers,
    sign: int,
    top: int,
    digits: Numbers,
    slots: Numbers,
    table: tuple[Planes, Planes],
    table_planes: int,
    masks: Planes,
    out: Outputs,
    start: int,
    stop: int,
    *,
    lead: bool,
) -> None:
    """Look the digits of public numbers c up in the one-hot tables of a secret r: p = [equal], g = [r's is larger].

    Args:
        words: public w, int64, shape (n,), or one row for each case, shape (cases, n).
        offsets: c = offset + sign * w, int64, shape (cases,).
        sign: 1 or -1.
        top: bit of c that is added to the g of the highest digit, at the leader; -1 for none.
        digits: lowest bit and width of each digit, lowest digit first, int64, shape (digits, 2).
        slots: where g and p of each digit go, int64, shape (digits, 2): place among the opened planes and their masks,
            -1 - place among the kept planes, or UNUSED.
        table: shares of one-hot vectors without their last rows, for elements start .. stop: of full blocks and of the
            last block.
        table_planes: number of rows.
        masks: shares of all masks, those of the opened planes first; in a block equally many for each case.
        out: of all elements.
        start: first element, a multiple of BLOCK.
        stop: end of the elements.
        lead: exactly one party's tables have the ones.
    """
    count, cases = words.shape[-1], offsets.size
    flat, row_step = words.reshape(-1), count if words.ndim == 2 else 0
    mask_planes = masks.size // max(1, block_count(count) * cases * LANES)
    origin = start // BLOCK
    in_parts(
        lambda begin, end: _leaves_part(
            flat, count, row_step, sign, offsets, top, digits, slots, *table, table_planes, masks, mask_planes,
            int(lead), *out, origin, origin + begin, origin + end,
        ),
        block_count(stop - start),
        PART,
    )  # fmt: skip


@inline
def _load_subsets(masks: Planes, mask_at: int, products: Planes, at: int, k: int, lead: np.uint64,
                  subsets: Planes) -> int:  # fmt: skip
    """Set subsets to the shares of m_T for all T of the node; gives the place of the first product after them."""
    store(subsets, 0, spread(lead))
    for chosen in range(1, 1 << (k - 1)):
        if chosen & (chosen - 1) == 0:
            store(subsets, LANES * chosen, load(masks, mask_at))
            mask_at += LANES
        else:
            store(subsets, LANES * chosen, load(products, at))
            at += LANES
    return at


@inline
def _begin_tail(e: Value, mask: Value, products: Planes, at: int, size: int, subsets: Planes, h: Planes) -> int:
    """Set h[T] to the share of m_T b for the lowest input b, T among ``size`` sets."""
    store(h, 0, (e & load(subsets, 0)) ^ mask)
    for chosen in range(1, size):
        store(h, LANES * chosen, (e & load(subsets, LANES * chosen)) ^ load(products, at))
        at += LANES
    return at


@inline
def _generate(opened: Planes, e_at: int, masks: Planes, m_at: int, products: Planes, at: int, k: int, highest: Value,
              subsets: Planes, h: Planes) -> int:  # fmt: skip
    """Set the first plane of h to the share of g; h[T] holds m_T (g_i ^ p_i (g_{i-1} ^ ...)) for rising i."""
    place = LANES * (k - 1)
    at = _begin_tail(load(opened, e_at + place), load(masks, m_at + place), products, at, 1 << (k - 1), subsets, h)
    for i in range(1, k - 1):
        half, place = 1 << (k - 1 - i), LANES * (k - 1 + i)
        e_g, e_p = load(opened, e_at + place), load(opened, e_at + LANES * (k - 1 - i))
        own = load(masks, m_at + place)
        for chosen in range(half):
            if chosen > 0:
                own = load(products, at)
                at += LANES
            below = (e_p & load(h, LANES * chosen)) ^ load(h, LANES * (chosen + half))
            store(h, LANES * chosen, (e_g & load(subsets, LANES * chosen)) ^ own ^ below)
    store(h, 0, highest ^ (load(opened, e_at) & load(h, 0)) ^ load(h, LANES))
    return at


@inline
def _propagate(opened: Planes, e_at: int, masks: Planes, m_at: int, products: Planes, at: int, k: int, lowest: int,
               subsets: Planes, h: Planes) -> None:  # fmt: skip
    """Set the first plane of h to the share of p; the mask of p_0 has the place ``lowest``."""
    place = LANES * lowest
    _begin_tail(load(opened, e_at + place), load(masks, m_at + place), products, at, 1 << (k - 1), subsets, h)
    for i in range(1, k):
        half, e_p = 1 << (k - 1 - i), load(opened, e_at + LANES * (k - 1 - i))
        for chosen in range(half):
            store(h, LANES * chosen, (e_p & load(h, LANES * chosen)) ^ load(h, LANES * (chosen + half)))


@kernel(_TABLE, _TABLE, _PLANES_IN, INT, _PLANES_IN, INT, INT, INT, _PLANES_IN, _PLANES_IN, INT, _PLANES_IN,
        INT, INT, INT, _PLANES_OUT, INT, _PLANES_OUT, INT, INT, INT, INT)  # fmt: skip
def _nodes_part(
    nodes: Numbers, slots: Numbers, public: Planes, public_planes: int, masks: Planes, mask_planes: int,
    first_mask: int, next_mask: int, products: Planes, tail: Planes, case_products: int, held: Planes,
    held_planes: int, cases: int, lead: int, opened: Planes, opened_planes: int, kept: Planes, kept_planes: int,
    origin: int, begin: int, end: int,
) -> None:  # fmt: skip
    most = 1 << (int(nodes[:, 0].max()) - 1)
    subsets, h = np.empty(LANES * most, np.uint64), np.empty(LANES * most, np.uint64)
    ones, size = np.uint64(0) - np.uint64(lead), LANES * cases * case_products
    for block in range(begin, end):
        base = (block - origin) * size
        dealt = products[base : base + size] if base + size <= products.size else tail
        for case in range(cases):
            row = block * cases + case
            for node in range(nodes.shape[0]):
                k, with_g = nodes[node, 0], nodes[node, 1]
                e_at = LANES * (row * public_planes + nodes[node, 3])
                m_at = LANES * (row * mask_planes + first_mask + nodes[node, 3])
                at = LANES * (case * case_products + nodes[node, 4])
                at = _load_subsets(masks, m_at, dealt, at, k, ones, subsets)
                next_at = LANES * (row * mask_planes + next_mask)
                if with_g:
                    highest = load(held, LANES * (row * held_planes + node))
                    at = _generate(public, e_at, masks, m_at, dealt, at, k, highest, subsets, h)
                    _place(slots[node, 0], load(h, 0), masks, next_at, opened, LANES * row * opened_planes, kept,
                           LANES * row * kept_planes)  # fmt: skip
                if nodes[node, 2]:
                    lowest = 2 * k - 2 if with_g else k - 1
                    _propagate(public, e_at, masks, m_at, dealt, at, k, lowest, subsets, h)
                    _place(slots[node, 1], load(h, 0), masks, next_at, opened, LANES * row * opened_planes, kept,
                           LANES * row * kept_planes)  # fmt: skip


def nodes(
    count: int,
    cases: int,
    level: Numbers,
    slots: Numbers,
    public: Planes,
    masks: Planes,
    first_mask: int,
    next_mask: int,
    products: tuple[Planes, Planes],
    case_products: int,
    held: Planes,
    out: Outputs,
    start: int,
    stop: int,
    *,
    lead: bool,
) -> None:
    """Evaluate the nodes of one level after their masked inputs were opened.

    Args:
        count: number of elements.
        cases: comparisons of each element.
        level: for each node k, whether it gives g, whether it gives p, its first place among the level's masks, and its
            first place among the products of a case; int64, shape (nodes, 5).
        slots: where g and p of each node go, as for ``leaves``; int64, shape (nodes, 2).
        public: the level's opened planes.
        masks: shares of all masks, as for ``leaves``.
        first_mask: place of this level's masks among those of a case.
        next_mask: place of the next level's.
        products: shares of products of masks for elements start .. stop: of full blocks and of the last block.
        case_products: planes of them, for each case.
        held: the highest g of each node, as kept by the level before.
        out: of all elements.
        start: first element, a multiple of BLOCK.
        stop: end of the elements.
        lead: exactly one party adds public products.
    """
    rows, origin = max(1, block_count(count) * cases * LANES), start // BLOCK
    in_parts(
        lambda begin, end: _nodes_part(
            level, slots, public, public.size // rows, masks, masks.size // rows, first_mask, next_mask, *products,
            case_products, held, held.size // rows, cases, int(lead), *out, origin,
            origin + begin, origin + end,
        ),
        block_count(stop - start),
        PART,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------- what the provider computes


@inline
def _correct(rest: Planes, at: int, value: Value) -> None:
    store(rest, at, load(rest, at) ^ value)


@kernel(_WORDS_IN, INT, _TABLE, _PLANES_OUT, INT, INT, INT)
def _deal_tables_part(
    r: Words, count: int, digits: Numbers, rest: Planes, planes: int, begin: int, end: int
) -> None:
    rows = np.empty(BLOCK, np.uint64)
    hot = np.empty(LANES << int(digits[:, 1].max()), np.uint64)
    for block in range(begin, end):
        _planes_of(r, 0, block * BLOCK, count, 0, 1, rows)
        at = LANES * block * planes
        for d in range(digits.shape[0]):
            store(hot, 0, spread(~np.uint64(0)))
            for place in range(digits[d, 1]):
                bit, half = load(rows, LANES * (digits[d, 0] + place)), 1 << place
                for q in range(half):
                    below = load(hot, LANES * q)
                    store(hot, LANES * (q + half), below & bit)
                    store(hot, LANES * q, below ^ (below & bit))
            for row in range((1 << digits[d, 1]) - 1):
                _correct(rest, at, load(hot, LANES * row))
                at += LANES


def deal_tables(r: Words, digits: Numbers, rest: Planes, planes: int) -> None:
    """Add the one-hot vectors of the digits of r, without their last rows, to rest.

    Args:
        r: int64, shape (n,).
        digits: as for ``leaves``.
        rest: the XOR of all shares but the last party's; becomes that party's, in place.
        planes: number of rows.
    """
    blocks = block_count(r.size)
    in_parts(lambda begin, end: _deal_tables_part(r, r.size, digits, rest, planes, begin, end), blocks, PART)


@kernel(_TABLE, _PLANES_IN, INT, INT, _PLANES_OUT, INT, INT, INT)
def _deal_products_part(
    nodes: Numbers, masks: Planes, mask_planes: int, cases: int, rest: Planes, case_products: int, begin: int, end: int,
) -> None:  # fmt: skip
    subsets = np.empty(LANES << (int(nodes[:, 0].max()) - 1), np.uint64)
    for block in range(begin, end):
        for case in range(cases):
            for node in range(nodes.shape[0]):
                k = nodes[node, 0]
                at = LANES * ((block * cases + case) * case_products + nodes[node, 4])
                m_at = LANES * ((block * cases + case) * mask_planes + nodes[node, 3])
                store(subsets, 0, spread(~np.uint64(0)))
                for place in range(k - 1):
                    mask, half = load(masks, m_at + LANES * place), 1 << place
                    for q in range(half):
                        product = load(subsets, LANES * q) & mask
                        store(subsets, LANES * (q + half), product)
                        if q > 0:
                            _correct(rest, at, product)
                            at += LANES
                m_at += LANES * (k - 1)
                factors = (k - 1 if nodes[node, 1] else 0) + nodes[node, 2]
                for factor in range(factors):
                    mask, size = load(masks, m_at + LANES * factor), 1 << (k - 1)
                    if nodes[node, 1] and factor < k - 1:
                        size = 1 << (k - 1 - factor)
                    for chosen in range(1, size):
                        _correct(rest, at, load(subsets, LANES * chosen) & mask)
                        at += LANES


def deal_products(
    nodes: Numbers, masks: Planes, count: int, cases: int, rest: Planes, case_products: int
) -> None:
    """Add the products of masks that nodes need to rest.

    Args:
        nodes: of all levels, as for ``nodes``; places of masks count from the first mask of a case.
        masks: the masks themselves.
        count: number of elements.
        cases: comparisons of each element.
        rest: the XOR of all shares but the last party's; becomes that party's, in place.
        case_products: planes of a case.
    """
    blocks = block_count(count)
    mask_planes = masks.size // max(1, blocks * cases * LANES)
    in_parts(
        lambda begin, end: _deal_products_part(nodes, masks, mask_planes, cases, rest, case_products, begin, end),
        blocks,
        PART,
    )


@kernel(_PLANES_IN, INT, INT, INT, INT, _WORDS_IN, INT, _WORDS_OUT, INT, INT)
def _bits_part(
    planes: Planes, per_case: int, place: int, cases: int, count: int, r: Words, top: int, out: Words, begin: int,
    end: int,
) -> None:  # fmt: skip
    bits = np.empty(BLOCK, np.uint64)
    for block in range(begin, end):
        start = block * BLOCK
        stop = min(start + BLOCK, count)
        for case in range(cases):
            _words_of(planes, LANES * ((block * cases + case) * per_case + place), bits)
            for i in range(stop - start):
                bit = np.int64(bits[i])
                if top >= 0:
                    bit ^= (r[start + i] >> top) & 1
                out[case * count + start + i] = bit


def bits_of_planes(planes: Planes, place: int, cases: int, count: int, r: Words, top: int) -> Words:
    """Give one plane of each case as words.

    Args:
        planes: a vector with equally many planes for each case.
        place: of the plane among those of a case.
        cases: comparisons of each element.
        count: number of elements.
        r: int64, shape (n,).
        top: bit of r that is added by XOR; -1 for none.

    Returns:
        0 and 1, int64, shape (cases, n).
    """
    out, blocks = np.empty((cases, count), np.int64), block_count(count)
    per_case = planes.size // max(1, blocks * cases * LANES)
    flat = out.reshape(-1)
    in_parts(
        lambda begin, end: _bits_part(planes, per_case, place, cases, count, r, top, flat, begin, end), blocks, PART
    )
    return out


# ----------------------------------------------------------------------------------------------------- back to the ring


@kernel(_PLANES_IN, INT, INT, _WORDS_IN, INT, INT, _WORDS_OUT, INT, INT)
def _convert_part(
    opened: Planes, cases: int, count: int, a: Words, lead: int, unused: int, out: Words, begin: int, end: int
) -> None:
    bits = np.empty(BLOCK, np.uint64)
    for block in range(begin, end):
        start = block * BLOCK
        stop = min(start + BLOCK, count)
        for case in range(cases):
            _words_of(opened, LANES * (block * cases + case), bits)
            own, result = a[case * count + start : case * count + stop], out[case * count + start : case * count + stop]
            for i in range(result.size):
                e = np.int64(bits[i])
                result[i] = ((lead * e + (1 - 2 * e) * own[i]) << unused) >> unused


def convert_bits(opened: Planes, a: Words, ring_bits: int, *, lead: bool) -> Words:
    """Give this party's share of b after e = b XOR a was opened.

    Args:
        opened: one plane of each case.
        a: this party's share of the dealt bit in the ring, int64, shape (cases, n).
        ring_bits: between 2 and 64.
        lead: exactly one party adds e.

    Returns:
        e + (1 - 2e) a, int64, shape (cases, n).
    """
    out, (cases, count) = np.empty(a.shape, np.int64), a.shape
    blocks, own, result = block_count(count), a.reshape(-1), out.reshape(-1)
    _check_planes(count, cases, opened=opened)
    in_parts(
        lambda begin, end: _convert_part(opened, cases, count, own, int(lead), 64 - ring_bits, result, begin, end),
        blocks,
        PART,
    )
    return out


@kernel(_PLANES_IN, _WORDS_IN, _WORDS_IN, _WORDS_IN, _WORDS_IN, INT, INT, _WORDS_OUT, INT, INT)
def _choose_part(
    opened: Planes, d: Words, m: Words, a: Words, am: Words, lead: int, unused: int, out: Words, begin: int, end: int
) -> None:
    bits = np.empty(BLOCK, np.uint64)
    for block in range(begin, end):
        start = block * BLOCK
        stop = min(start + BLOCK, out.size)
        _words_of(opened, LANES * block, bits)
        d_, m_, a_, am_, out_ = d[start:stop], m[start:stop], a[start:stop], am[start:stop], out[start:stop]
        for i in range(out_.size):
            e = np.int64(bits[i])
            product = e * (lead * d_[i] + m_[i]) + (1 - 2 * e) * (d_[i] * a_[i] + am_[i])
            out_[i] = (product << unused) >> unused


def choose_words(opened: Planes, d: Words, m: Words, a: Words, am: Words, ring_bits: int, *, lead: bool) -> Words:
    """Give this party's share of b y after e = b XOR a and d = y - m were opened.

    Args:
        opened: the plane of e.
        d: opened, int64, shape (n,).
        m: this party's share of the mask, int64, shape (n,).
        a: this party's share of the dealt bit in the ring, int64, shape (n,).
        am: this party's share of a m, int64, shape (n,).
        ring_bits: between 2 and 64.
        lead: exactly one party adds the public terms.

    Returns:
        e (d + m) + (1 - 2e) (d a + a m), int64, shape (n,).
    """
    out = np.empty(d.shape, np.int64)
    _check_planes(d.size, 1, opened=opened)
    in_parts(
        lambda begin, end: _choose_part(opened, d, m, a, am, int(lead), 64 - ring_bits, out, begin, end),
        block_count(d.size),
        PART,
    )
    return out


@kernel(_PLANES_IN, _WORDS_IN, _WORDS_IN, INT, INT, INT, _WORDS_OUT, _WORDS_OUT, INT, INT)
def _truncate_and_choose_part(
    opened: Planes, d: Words, dealt: Words, fraction_bits: int, ring_bits: int, lead: int, truncated: Words,
    chosen: Words, begin: int, end: int,
) -> None:  # fmt: skip
    bits, count = np.empty(BLOCK, np.uint64), d.size
    top, unused = ring_bits - 1, 64 - ring_bits
    low, half, step = (1 << top) - 1, 1 << (top - 1), 1 << (top - fraction_bits)
    for block in range(begin, end):
        start, stop = block * BLOCK, min(block * BLOCK + BLOCK, count)
        _words_of(opened, LANES * block, bits)
        d_, t_, c_ = d[start:stop], truncated[start:stop], chosen[start:stop]
        a, m, t = dealt[start:stop], dealt[count + start : count + stop], dealt[2 * count + start : 2 * count + stop]
        am, at = dealt[3 * count + start : 3 * count + stop], dealt[4 * count + start : 4 * count + stop]
        for i in range(d_.size):
            c, e = half - d_[i], np.int64(bits[i])
            c_top = (c >> top) & 1
            public = ((c & low) >> fraction_bits) - (half >> fraction_bits) + c_top * step
            signed = (1 - 2 * c_top) * step
            y = m[i] - signed * t[i] - lead * public
            t_[i] = (y << unused) >> unused
            product = e * y + (1 - 2 * e) * (am[i] - signed * at[i] - public * a[i])
            c_[i] = (product << unused) >> unused


def truncate_and_choose(
    opened: Planes, d: Words, dealt: Words, fraction_bits: int, ring_bits: int, *, lead: bool
) -> tuple[Words, Words]:
    """Give this party's shares of y = x / 2^fraction_bits and of b y, after e = b XOR a and d = x - r were opened.

    With l = ring_bits: -x = (2^(l-2) - d) - 2^(l-2) - r is truncated as ``truncation_combine`` does, and negated.

    Args:
        opened: the plane of e.
        d: opened, int64, shape (n,).
        dealt: this party's shares of a, m = floor((r mod 2^(l-1)) / 2^f), t = top bit of r, a m and a t, one after the
            other: int64, shape (5 n,).
        fraction_bits: f, between 0 and l - 2.
        ring_bits: l, between 2 and 64.
        lead: exactly one party adds the public terms.

    Returns:
        y and b y, int64, shape (n,).
    """
    truncated, chosen = np.empty(d.shape, np.int64), np.empty(d.shape, np.int64)
    _check_planes(d.size, 1, opened=opened)
    in_parts(
        lambda begin, end: _truncate_and_choose_part(
            opened, d, dealt, fraction_bits, ring_bits, int(lead), truncated, chosen, begin, end
        ),
        block_count(d.size),
        PART,
    )
    return truncated, chosen
