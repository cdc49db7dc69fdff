"""Errors of federated data and training."""

from __future__ import annotations

from sharetorch.mpc.errors import ShareTorchError
from sharetorch.remote.node import PLAIN_ERRORS


class FederatedDataError(ShareTorchError, ValueError):
    """A data set that cannot be made, split or found as asked."""


class TrainingError(ShareTorchError, ValueError):
    """Training settings that are wrong or incomplete."""


PLAIN_ERRORS |= {kind.__name__: kind for kind in (FederatedDataError, TrainingError)}
