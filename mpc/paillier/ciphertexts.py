"""Arithmetic on lists of ciphertexts, integers modulo n^2 under one key.

    Enc(a) Enc(b) = Enc(a + b)      Enc(a)^k = Enc(k a)      Enc(a)^(-1) = Enc(-a)

An operation is deterministic: its result carries the noise of its inputs and nothing else. 1 is an encryption of 0
with noise 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gmpy2

from sharetorch.mpc.kernels._threads import in_parts
from sharetorch.mpc.paillier import draws
from sharetorch.mpc.paillier.keys import Half, PrivateKey, PublicKey

Cell = Any
"""A ciphertext, an integer of gmpy2 in [1, n^2)."""

ZERO: Cell = gmpy2.mpz(1)
"""0 encrypted without noise."""

_GRAIN = 4
_WIDEST = 6


def _in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """``function`` of every item. The powers inside it run on several threads at once."""
    results: list[Any] = [None] * len(items)

    def work(begin: int, end: int) -> None:
        with gmpy2.context(gmpy2.get_context(), allow_release_gil=True):
            for i in range(begin, end):
                results[i] = function(items[i])

    in_parts(work, len(items), _GRAIN)
    return results


def noise(key: PublicKey | PrivateKey, count: int) -> list[Cell]:
    """Fresh uniform n-th powers modulo n^2, each for one ciphertext.

    With the private key: s^p mod p^2 and t^q mod q^2 for uniform s and t, joined. As gcd(n, (p-1)(q-1)) = 1, the n-th
    powers mod p^2 are the p - 1 numbers of the form s^p, each equally often. So the distribution is the same and takes
    a quarter of the time.
    """
    if isinstance(key, PublicKey):
        roots = [draws.unit(key.n) for _ in range(count)]
        return _in_threads(lambda root: gmpy2.powmod(root, key.modulus, key.square), roots)
    first, second = key.halves
    pairs = [(draws.unit(key.p), draws.unit(key.q)) for _ in range(count)]

    def power(pair: tuple[int, int]) -> Cell:
        a = gmpy2.powmod_sec(pair[0], first.prime, first.square)
        b = gmpy2.powmod_sec(pair[1], second.prime, second.square)
        return a + first.square * ((b - a) * key.square_lift % second.square)

    return _in_threads(power, pairs)


def public_part(key: PublicKey | PrivateKey) -> PublicKey:
    """The public key of either kind of key."""
    return key if isinstance(key, PublicKey) else key.public_key


def refreshed(cells: Sequence[Cell], key: PublicKey | PrivateKey) -> list[Cell]:
    """The same plaintexts as uniform ciphertexts, independent of the old ones."""
    square = public_part(key).square
    return [cell * random % square for cell, random in zip(cells, noise(key, len(cells)), strict=True)]


def encrypted(integers: Sequence[int], key: PublicKey | PrivateKey) -> list[Cell]:
    """Fresh ciphertexts of integers."""
    return refreshed(without_noise(integers, public_part(key)), key)


def without_noise(integers: Sequence[int], key: PublicKey) -> list[Cell]:
    """1 + m n mod n^2: an encryption that everybody can read, to be combined with others."""
    return [1 + integer % key.modulus * key.modulus for integer in integers]


def decrypted(cells: Sequence[Cell], key: PrivateKey) -> list[int]:
    """Plaintexts in [-capacity, capacity]. The powers take a time that does not depend on their secret exponents."""
    first, second = key.halves
    modulus, capacity = key.public_key.modulus, key.public_key.capacity

    def plaintext(cell: Cell) -> int:
        a, b = _residue(cell, first), _residue(cell, second)
        value = a + first.prime * ((b - a) * key.lift % second.prime)
        return int(value - modulus if value > capacity else value)

    return _in_threads(plaintext, cells)


def _residue(cell: Cell, half: Half) -> Any:
    power = gmpy2.powmod_sec(cell % half.square, half.prime - 1, half.square)
    return (power - 1) // half.prime * half.factor % half.prime


def added(first: Sequence[Cell], second: Sequence[Cell], key: PublicKey) -> list[Cell]:
    """Sums, element by element."""
    return [a * b % key.square for a, b in zip(first, second, strict=True)]


def total(cells: Sequence[Cell], key: PublicKey) -> Cell:
    """The sum of all."""
    product = ZERO
    for cell in cells:
        product = product * cell % key.square
    return product


def negated(cells: Sequence[Cell], key: PublicKey) -> list[Cell]:
    """Opposites."""
    return [gmpy2.invert(cell, key.square) for cell in cells]


def scaled(cells: Sequence[Cell], factors: Sequence[int], key: PublicKey) -> list[Cell]:
    """Products with public integers, element by element."""

    def power(pair: tuple[Cell, int]) -> Cell:
        cell, factor = pair
        if factor < 0:
            cell = gmpy2.invert(cell, key.square)
        return gmpy2.powmod(cell, abs(factor), key.square)

    return _in_threads(power, list(zip(cells, factors, strict=True)))


class Digit(NamedTuple):
    """One nonzero digit of a public factor: the term it belongs to, and its value."""

    term: int
    value: int


Digits = list[list[Digit]]
"""The digits of one column of factors by place, highest place first."""


class Combination:
    """Linear combinations with the same public factors, for many rows of ciphertexts.

    Straus' method [Str64]: all powers of one product are taken in the same run of squarings, ``width`` bits of every
    factor at a time, with tables of small powers that the columns share. Negative factors are collected apart, so that
    a product takes one inversion.

    Args:
        columns: factors; each column makes one combination, and has a factor for every ciphertext of a row.
    """

    def __init__(self, columns: Sequence[Sequence[int]]) -> None:
        length = max((abs(factor).bit_length() for column in columns for factor in column), default=0)
        self._terms = max(map(len, columns), default=0)
        self._width = _best_width(length, self._terms, len(columns))
        self._places = -(-length // self._width)
        self._columns = [(self._digits(column, 1), self._digits(column, -1)) for column in columns]
        self._largest = self._largest_digits()

    def _digits(self, column: Sequence[int], sign: int) -> Digits:
        mask = (1 << self._width) - 1
        chosen = [(index, abs(factor)) for index, factor in enumerate(column) if factor * sign > 0]
        return [
            [Digit(index, digit) for index, factor in chosen if (digit := factor >> self._width * place & mask)]
            for place in reversed(range(self._places))
        ]

    def _largest_digits(self) -> list[int]:
        largest = [0] * self._terms
        for digit in (digit for halves in self._columns for digits in halves for row in digits for digit in row):
            largest[digit.term] = max(largest[digit.term], digit.value)
        return largest

    def __call__(self, row: Sequence[Cell], key: PublicKey) -> list[Cell]:
        """The combination of one row of ciphertexts with every column."""
        tables = [_powers(cell, count, key.square) for cell, count in zip(row, self._largest, strict=True)]
        made = []
        for positive, negative in self._columns:
            result = self._product(positive, tables, key)
            if any(negative):
                result = result * gmpy2.invert(self._product(negative, tables, key), key.square) % key.square
            made.append(result)
        return made

    def _product(self, digits: Digits, tables: list[list[Cell]], key: PublicKey) -> Cell:
        square, shift = key.square, 1 << self._width
        product = ZERO
        for place in digits:
            if product != ZERO:
                product = gmpy2.powmod(product, shift, square)
            for term, value in place:
                product = product * tables[term][value] % square
        return product


def _best_width(length: int, terms: int, columns: int) -> int:
    """The number of bits for which tables and products together take the fewest multiplications."""

    def multiplications(width: int) -> int:
        return terms * ((1 << width) - 2) + terms * columns * -(-length // width)

    return min(range(1, _WIDEST + 1), key=multiplications)


def _powers(cell: Cell, count: int, square: Any) -> list[Cell]:
    """cell^0 ... cell^count."""
    powers = [ZERO, cell]
    for _ in range(count - 1):
        powers.append(powers[-1] * cell % square)
    return powers
