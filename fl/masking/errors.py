"""Errors of a round of masked aggregation.

    MaskingError                 a round cannot go on
    ├── TooFewSurvivorsError     so many clients are gone that the sum cannot be unmasked, or would hide too little
    ├── RequestRefusedError      a client was asked for what it does not give
    ├── ForgedMessageError       a signature, ciphertext, key or share does not hold
    ├── OutOfTurnError           a message of a step that is over, or not due yet
    └── RoundReusedError         a round of this id has begun here before (also a CorrelationReusedError)

After any of these a client has forgotten its keys and shares, and takes no further part in the round.
"""

from sharetorch.mpc.errors import CorrelationReusedError, ShareTorchError


class MaskingError(ShareTorchError, RuntimeError):
    """A round of masked aggregation cannot go on."""


class TooFewSurvivorsError(MaskingError):
    """Too few clients are left for the sum to be unmasked, or for it to hide its terms."""


class RequestRefusedError(MaskingError):
    """A client was asked for what could show more than the sum."""


class ForgedMessageError(MaskingError):
    """A signature, ciphertext, key or share does not hold."""


class OutOfTurnError(MaskingError):
    """A message belongs to a step that is over, not due yet, or done already."""


class RoundReusedError(MaskingError, CorrelationReusedError):
    """A round of this id has begun before."""
