"""Errors of Paillier tensors, below those of ``sharetorch.mpc.errors``.

EncodingRangeError
└── PlaintextRangeError      a sum or product could leave the range of the key, and wrap around
MismatchError
└── WrongKeyError            a key, or two operands, do not belong together
UnsupportedOperationError
└── CiphertextProductError   two encrypted operands would be multiplied
KeySizeError                 a key that is too short or has the wrong form
CiphertextError              bytes or numbers that are no ciphertexts
"""

from sharetorch.mpc.errors import EncodingRangeError, MismatchError, ShareTorchError, UnsupportedOperationError


class KeySizeError(ShareTorchError, ValueError):
    """A key has too few bits, too many, or not the form of a Paillier key."""


class WrongKeyError(MismatchError):
    """A key does not belong to a tensor, or two tensors are encrypted under different keys."""


class PlaintextRangeError(EncodingRangeError, OverflowError):
    """The integers behind a result might leave the range of the key and wrap around."""


class CiphertextError(ShareTorchError, ValueError):
    """Something is not a ciphertext, or not one under this key."""


class CiphertextProductError(UnsupportedOperationError):
    """Two encrypted operands would have to be multiplied."""
