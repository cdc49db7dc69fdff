"""Every kernel once more in plain torch: short, slow, and for any number of bits.

The tests compare the kernels with these, and small numbers of bits let tests visit all inputs. Words are int64 tensors,
read as unsigned where they are compared. Bits and their shares have shape (n, bits), the most significant bit first;
symbols are uint8.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MODULUS = 67
BLOCK = 128
WORD_VALUES = 1 << 16
LESS, ALWAYS = 1, 2


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply int64 matrices modulo 2^64, shapes (..., m, k) and (..., k, n)."""
    return a @ b


def matmul_add(a: Tensor, b: Tensor, c: Tensor, d: Tensor, start: Tensor) -> Tensor:
    """Give start + a @ b + c @ d modulo 2^64."""
    return start + a @ b + c @ d


def beaver_combine(e: Tensor, f: Tensor, x: Tensor, v: Tensor, z: Tensor) -> Tensor:
    """Give z + e v + x f modulo 2^64."""
    return z + e * v + x * f


def add_weighted(x: Tensor, y: Tensor, a: int, b: int, start: Tensor) -> Tensor:
    """Give start + a x + b y modulo 2^64."""
    return start + a * x + b * y


def truncation_combine(
    own: Tensor, others: Tensor, m: Tensor, t: Tensor, fraction_bits: int, ring_bits: int = 64, *, leader: bool
) -> Tensor:
    """Give this party's share of x / 2^fraction_bits as a signed number of ring_bits bits; see ``combine``."""
    top = ring_bits - 1
    c = own + others + (1 << (top - 1))
    top_bit = (c >> top) & 1
    carry = (1 - 2 * top_bit) * t
    share = -m
    if leader:
        carry = carry + top_bit
        share = share + ((c & ((1 << top) - 1)) >> fraction_bits) - (1 << (top - 1 - fraction_bits))
    share = share + carry * (1 << (top - fraction_bits))
    return (share << (64 - ring_bits)) >> (64 - ring_bits)


def truncation_mask(r: Tensor, fraction_bits: int, ring_bits: int = 64) -> Tensor:
    """Give m = floor((r mod 2^(l-1)) / 2^f) and t, the top bit of r, for f = fraction_bits and l = ring_bits."""
    low = (1 << (ring_bits - 1)) - 1
    return torch.stack([(r & low) >> fraction_bits, (r >> (ring_bits - 1)) & 1])


def scaled_truncation_mask(r: Tensor, fraction_bits: int, factor: int, digits: int, ring_bits: int = 64) -> Tensor:
    """Give m and t as ``truncation_mask``, and floor(m factor / 2^digits); shape (3, n)."""
    m, t = truncation_mask(r, fraction_bits, ring_bits)
    return torch.stack([m, t, _scaled(m, factor, digits)])


def scaled_truncation(
    own: Tensor, others: Tensor, dealt: Tensor, fraction_bits: int, factor: int, digits: int, ring_bits: int = 64, *,
    leader: bool,
) -> Tensor:  # fmt: skip
    """Give this party's shares of y = x / 2^fraction_bits and of y factor / 2^digits; shape (2, n)."""
    m, t, scaled = dealt
    y = truncation_combine(own, others, m, t, fraction_bits, ring_bits, leader=leader)
    top = ring_bits - 1
    c = own + others + (1 << (top - 1))
    top_bit = (c >> top) & 1
    step = _word(factor << (top - fraction_bits - digits))
    z = (1 - 2 * top_bit) * t * step - scaled
    if leader:
        public = ((c & ((1 << top) - 1)) >> fraction_bits) - (1 << (top - 1 - fraction_bits))
        z = z + top_bit * step + _scaled(public, factor, digits)
    return torch.stack([y, (z << (64 - ring_bits)) >> (64 - ring_bits)])


def _scaled(x: Tensor, factor: int, digits: int) -> Tensor:
    """floor(x factor / 2^digits) modulo 2^64, by integers of any size."""
    return torch.tensor([_word((value * factor) >> digits) for value in x.tolist()], dtype=torch.int64).reshape(x.shape)


def _word(number: int) -> int:
    """The same number modulo 2^64, as a signed word."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


def reduce_words(words: Tensor, modulus: int, offset: int, more: Callable[[int], Tensor]) -> Tensor:
    """Turn uniform integers below 2^16 into uniform residues, asking for replacements of rejected ones; shape (n,)."""
    limit = WORD_VALUES // modulus * modulus
    words = words.to(torch.int64).clone()
    places = torch.nonzero(words >= limit).reshape(-1)
    while len(places):
        words[places] = more(len(places)).to(torch.int64)
        places = places[words[places] >= limit]
    return (words % modulus + offset).to(torch.uint8)


def bits_of(x: Tensor, bits: int) -> Tensor:
    """Give the bits of unsigned words, shape (n,), as (n, bits), the most significant first."""
    return (x.unsqueeze(-1) >> torch.arange(bits - 1, -1, -1)) & 1


def share_bits(x: Tensor, share0: Tensor, bits: int) -> Tensor:
    """Give (bit_i(x) - share0_i) mod 67 for x of shape (n,) and share0 of shape (n, bits)."""
    return ((bits_of(x, bits) - share0.to(torch.int64)) % MODULUS).to(torch.uint8)


def mask_symbols(
    x: Tensor, t: Tensor, direction: Tensor, s: Tensor, z: Tensor, rotation: Tensor, rank: int, bits: int
) -> Tensor:
    """Compute what P0 or P1 sends to P2; the steps are those of ``private_compare.mask_symbols``.

    Args:
        x: this party's share of the bits, shape (n, bits).
        t: public comparand, shape (n,).
        direction: 0 (x > t), 1 (x < t) or 2 (true), shape (n,).
        s: common factors in [1, 67), shape (n, bits).
        z: common refreshment in [0, 67), shape (n, bits).
        rotation: common, in [0, bits), shape (n,).
        rank: 0 or 1; rank 1 carries the public constants.
        bits: at most 64.

    Returns:
        shape (n, bits), in [0, 67).
    """
    x, s, z = (value.to(torch.int64) for value in (x, s, z))
    direction = direction.unsqueeze(-1)
    comparand = bits_of(t, bits)
    different = x + rank * comparand - 2 * comparand * x
    higher_differences = different.cumsum(dim=-1) - different
    sign = 1 - 2 * (direction == LESS).to(torch.int64)
    c = sign * (rank * comparand - x) + rank + higher_differences
    certain = torch.full_like(x, rank)
    certain[:, :1] = 0
    c = torch.where(direction == ALWAYS, certain, c)
    d = (s * c + (z if rank == 0 else -z)) % MODULUS
    places = (torch.arange(bits) + rotation.to(torch.int64).unsqueeze(-1)) % bits
    return d.gather(-1, places).to(torch.uint8)


def find_zero(d0: Tensor, d1: Tensor) -> Tensor:
    """Tell which rows of shape (n, bits) have a symbol with d0 + d1 = 0 mod 67; uint8, shape (n,)."""
    return ((d0.to(torch.int64) + d1) % MODULUS == 0).any(dim=-1).to(torch.uint8)


def pack_blocks(symbols: Tensor) -> Tensor:
    """Bring symbols of shape (n, bits) into the block layout of ``private_compare``, shape (bits n,)."""
    blocks = [block.T.reshape(-1) for block in torch.split(symbols, BLOCK)]
    return torch.cat(blocks) if len(symbols) else symbols.reshape(-1)


def unpack_blocks(packed: Tensor, bits: int = 64) -> Tensor:
    """Undo ``pack_blocks``: shape (bits n,) becomes (n, bits)."""
    blocks = [block.reshape(bits, -1).T for block in torch.split(packed, BLOCK * bits)]
    return torch.cat(blocks) if len(packed) else packed.reshape(0, bits)
