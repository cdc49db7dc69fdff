"""Secret numbers for Paillier: uniform below a bound, units modulo n, primes.

They come from the operating system's generator directly, through ``sharetorch.mpc.randomness``: keys of 2048 bits and
more are not stretched from a seed of 128 bits.
"""

from __future__ import annotations

import gmpy2

from sharetorch.mpc.randomness import system_entropy

_PRIME_TESTS = 64
"""GMP runs a Baillie-PSW test, then Miller-Rabin tests for what is above 24 of these."""


def bits(count: int) -> int:
    """A uniform integer of at most ``count`` bits."""
    raw = int.from_bytes(system_entropy((count + 7) // 8), "big")
    return raw >> (-count % 8)


def below(bound: int) -> int:
    """A uniform integer in [0, bound), by rejection."""
    while True:
        drawn = bits(bound.bit_length())
        if drawn < bound:
            return drawn


def unit(modulus: int) -> int:
    """A uniform integer in [1, modulus) without a factor in common with the modulus."""
    while True:
        drawn = below(modulus)
        if gmpy2.gcd(drawn, modulus) == 1:
            return drawn


def prime(length: int) -> int:
    """A uniform prime among those of ``length`` bits whose two highest bits are set.

    So the product of two of them has exactly twice as many bits.
    """
    while True:
        drawn = bits(length) | (3 << (length - 2)) | 1
        if gmpy2.is_prime(drawn, _PRIME_TESTS):
            return drawn
