"""Errors of aggregation: ``AggregationError`` and below it, with what else they are.

=====================  ====================================================================================
DeclaredLimitsError    with the declared limits a result could leave the ring (an EncodingRangeError)
UploadError            a piece of an upload is refused
DuplicateUploadError   an aggregator has this piece already (an UploadError and an IdNotUniqueError)
UploadSetError         the aggregators do not agree on what they received (a ProtocolError)
TooFewClientsError     the rule has no meaning for so few updates
RuleError              an unknown rule, or wrong parameters
=====================  ====================================================================================
"""

from __future__ import annotations

from sharetorch.mpc.errors import EncodingRangeError, IdNotUniqueError, ProtocolError, ShareTorchError


class AggregationError(ShareTorchError, ValueError):
    """Updates cannot be aggregated as asked."""


class DeclaredLimitsError(AggregationError, EncodingRangeError):
    """Numbers within the declared limits could add up to more than the ring holds."""


class UploadError(AggregationError):
    """An aggregator refuses a piece of an upload."""


class DuplicateUploadError(UploadError, IdNotUniqueError):
    """An upload of this id is there already."""


class UploadSetError(AggregationError, ProtocolError):
    """Aggregators do not agree on the set of received uploads."""


class TooFewClientsError(AggregationError):
    """Fewer updates arrived than the rule needs."""


class RuleError(AggregationError):
    """There is no such rule, or its parameters are wrong."""
