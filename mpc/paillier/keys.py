"""Keys of the Paillier cryptosystem [Pai99] with the generator g = n + 1.

    n = p q                               the public key
    Enc(m, r) = (1 + m n) r^n mod n^2     since (1 + n)^m = 1 + m n mod n^2
    Dec(c): mod p, L_p(c^(p-1) mod p^2) h_p with L_p(x) = (x - 1) / p and h_p = -1/q mod p; the same mod q;
            then the Chinese remainder theorem [Pai99, section 7]

Why h_p: (1 + m n)^(p-1) = 1 + (p-1) m n = 1 - m n mod p^2, because p^2 divides p m n. So L_p gives -m q mod p.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import gmpy2

from sharetorch.mpc.errors import KeySizeError, RevealError
from sharetorch.mpc.paillier import draws

MINIMUM_BITS = 2048
MAXIMUM_BITS = 16384
_CLOSEST_PRIMES = 100
"""p and q of k bits differ by more than 2^(k - 100), as FIPS 186 asks of RSA primes."""


@dataclass(frozen=True)
class PublicKey:
    """The modulus under which anybody can encrypt.

    Attributes:
        n: product of two secret primes of equal length, 2048 bits or more.
        insecure_test_key: accept a shorter n, which hides nothing. For tests only.

    Raises:
        KeySizeError: n is too short or too long, even, prime, or no integer.
    """

    n: int
    insecure_test_key: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int):
            raise KeySizeError(f"A public key is an integer n, not {type(self.n).__name__}. Make one with keygen().")
        check_length(self.n.bit_length(), self.insecure_test_key)
        if self.n < 15 or self.n % 2 == 0 or gmpy2.is_prime(self.n):
            raise KeySizeError("n is not the product of two odd primes, so it hides nothing. Make keys with keygen().")

    @property
    def bits(self) -> int:
        """Length of n in bits."""
        return self.n.bit_length()

    @property
    def capacity(self) -> int:
        """The largest absolute value of a plaintext integer: they lie in [-capacity, capacity]."""
        return (self.n - 1) // 2

    @cached_property
    def modulus(self) -> Any:
        """n as a number of gmpy2."""
        return gmpy2.mpz(self.n)

    @cached_property
    def square(self) -> Any:
        """n^2, the modulus of ciphertexts, as a number of gmpy2."""
        return self.modulus * self.modulus

    @cached_property
    def fingerprint(self) -> str:
        """Eight hexadecimal digits by which people can tell keys apart."""
        return hashlib.sha256(self.serialise()).hexdigest()[:8]

    def serialise(self) -> bytes:
        """n, highest byte first; ``deserialise`` is the way back."""
        return self.n.to_bytes((self.bits + 7) // 8, "big")

    @classmethod
    def deserialise(cls, data: bytes) -> PublicKey:
        """The key from its bytes.

        Raises:
            KeySizeError: the bytes are no key of 2048 bits or more.
        """
        check_length(8 * len(data), False)
        return cls(int.from_bytes(data, "big"))

    def __repr__(self) -> str:
        return f"PublicKey({self.bits} bits, {self.fingerprint})"


@dataclass(frozen=True, repr=False, eq=False)
class Half:
    """What decryption modulo one of the two primes needs: the prime, its square, and h. Secret; prints as nothing."""

    prime: Any
    square: Any
    factor: Any


@dataclass(frozen=True, repr=False, eq=False)
class PrivateKey:
    """The two primes. Whoever holds them can decrypt everything under their product.

    It prints as the fingerprint of its public key, and cannot be pickled; to keep it, encrypt and store what
    ``serialise_secret()`` gives.

    Raises:
        KeySizeError: p and q are not two primes that make a Paillier key.
    """

    p: int
    q: int
    insecure_test_key: bool = False

    def __post_init__(self) -> None:
        check_length((self.p * self.q).bit_length(), self.insecure_test_key)
        primes = self.p != self.q and min(self.p, self.q) > 2 and gmpy2.is_prime(self.p) and gmpy2.is_prime(self.q)
        if not primes or gmpy2.gcd(self.p * self.q, (self.p - 1) * (self.q - 1)) != 1:
            raise KeySizeError(
                "These are not two different odd primes p, q with gcd(p q, (p - 1) (q - 1)) = 1, so decryption would "
                "not be unique. Make keys with keygen()."
            )

    @cached_property
    def public_key(self) -> PublicKey:
        """The key to give away."""
        return PublicKey(self.p * self.q, self.insecure_test_key)

    @cached_property
    def halves(self) -> tuple[Half, Half]:
        """What the two halves of a decryption need. Secret."""
        p, q = gmpy2.mpz(self.p), gmpy2.mpz(self.q)
        return Half(p, p * p, gmpy2.invert(-q, p)), Half(q, q * q, gmpy2.invert(-p, q))

    @cached_property
    def lift(self) -> Any:
        """1/p mod q, which joins residues mod p and mod q. Secret."""
        return gmpy2.invert(gmpy2.mpz(self.p), gmpy2.mpz(self.q))

    @cached_property
    def square_lift(self) -> Any:
        """1/p^2 mod q^2, which joins residues mod p^2 and mod q^2. Secret."""
        p, q = gmpy2.mpz(self.p), gmpy2.mpz(self.q)
        return gmpy2.invert(p * p, q * q)

    def serialise_secret(self) -> bytes:
        """p and q in the clear, equally long: encrypt this before it is stored or sent."""
        length = (max(self.p, self.q).bit_length() + 7) // 8
        return self.p.to_bytes(length, "big") + self.q.to_bytes(length, "big")

    @classmethod
    def deserialise_secret(cls, data: bytes) -> PrivateKey:
        """The key from the bytes of ``serialise_secret()``.

        Raises:
            KeySizeError: the bytes are no key of 2048 bits or more.
        """
        check_length(8 * len(data), False)
        half = len(data) // 2
        return cls(int.from_bytes(data[:half], "big"), int.from_bytes(data[half:], "big"))

    def __repr__(self) -> str:
        return f"PrivateKey({self.public_key.bits} bits, {self.public_key.fingerprint}, secret)"

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RevealError(
            "A private key is not pickled: copies would spread unnoticed with whatever refers to it. To keep it, "
            "encrypt the bytes of key.serialise_secret() and store those."
        )

    def __copy__(self) -> PrivateKey:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> PrivateKey:
        return self


class KeyPair(NamedTuple):
    """What ``keygen`` makes: ``public, private = keygen()``."""

    public_key: PublicKey
    private_key: PrivateKey


def check_length(length: int, insecure_test_key: bool) -> None:
    """Raise if n must not have that many bits.

    Raises:
        KeySizeError: fewer than 2048, unless for tests, or more than 16384.
    """
    if length < MINIMUM_BITS and not insecure_test_key:
        raise KeySizeError(
            f"A key of {length} bits can be factored, or may be soon; {MINIMUM_BITS} bits are the least (3072 for "
            "data that must stay secret beyond 2030). Tests may pass insecure_test_key=True."
        )
    if length > MAXIMUM_BITS:
        raise KeySizeError(f"A key of {length} bits is longer than the longest supported, {MAXIMUM_BITS} bits.")


def keygen(n_length: int = MINIMUM_BITS, *, insecure_test_key: bool = False) -> KeyPair:
    """Make a pair of Paillier keys.

    Args:
        n_length: bits of the public modulus, even, 2048 to 16384. 2048 bits are about as strong as a block cipher with
            112-bit keys, 3072 as one with 128.
        insecure_test_key: allow fewer bits, from 16. Such keys hide nothing; for tests only.

    Returns:
        ``(public_key, private_key)``.

    Raises:
        KeySizeError: the length is out of range, odd, or no integer.
    """
    if isinstance(n_length, bool) or not isinstance(n_length, int) or n_length % 2 or n_length < 16:
        raise KeySizeError(f"n_length is an even number of bits, {MINIMUM_BITS} or more, not {n_length!r}.")
    check_length(n_length, insecure_test_key)
    half = n_length // 2
    while True:
        p, q = draws.prime(half), draws.prime(half)
        if abs(p - q) >> max(0, half - _CLOSEST_PRIMES):
            private = PrivateKey(p, q, insecure_test_key)
            return KeyPair(private.public_key, private)
