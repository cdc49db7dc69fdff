"""Errors of aggregation in a Flower federation.

    FlowerError                  a federation cannot be run as asked
    ├── PlainRequestError        a client was asked for an update in the clear
    └── LostRoundError           too few clients delivered, with what they said

Errors of a round of masks are those of ``fl.masking``, errors of rules those of ``fl.aggregation``.
"""

from sharetorch.mpc.errors import ShareTorchError


class FlowerError(ShareTorchError, RuntimeError):
    """A Flower federation cannot be run as asked."""


class PlainRequestError(FlowerError):
    """A client was asked to train without a protocol that hides its update."""


class LostRoundError(FlowerError):
    """Too few clients delivered an update."""
