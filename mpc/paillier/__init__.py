"""Tensors encrypted with Paillier's additively homomorphic cryptosystem.

One party holds the private key; everybody can encrypt under the public key, add encrypted tensors, and multiply them
by public ones. Each module imports only earlier ones:

draws        secret numbers: units, primes
keys         public and private keys, ``keygen``
encoding     real numbers as plaintext integers
ciphertexts  arithmetic on lists of ciphertexts
wire         encrypted tensors as bytes
tensor       ``PaillierTensor`` and its table of operations
arithmetic   sums and products element by element
structure    operations that move elements
products     sums over dimensions, matrix products, convolutions
encryption   ``encrypt``
"""

from sharetorch.mpc.errors import (
    CiphertextError,
    CiphertextProductError,
    KeySizeError,
    PlaintextRangeError,
    WrongKeyError,
)
from sharetorch.mpc.paillier.encryption import encrypt
from sharetorch.mpc.paillier.keys import KeyPair, PrivateKey, PublicKey, keygen
from sharetorch.mpc.paillier.tensor import PaillierTensor

__all__ = [
    "CiphertextError",
    "CiphertextProductError",
    "KeyPair",
    "KeySizeError",
    "PaillierTensor",
    "PlaintextRangeError",
    "PrivateKey",
    "PublicKey",
    "WrongKeyError",
    "encrypt",
    "keygen",
]
