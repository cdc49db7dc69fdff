"""Aggregation of clients' updates inside MPC: nobody sees an update, and any clients may vanish.

Modules, each using only earlier ones:

errors       what goes wrong, in one tree
limits       what clients declare, checked against the ring
uploads      an update as a share and seeds, at the client
inbox        what one aggregator received, and the agreement on the set
words        arithmetic on the integers behind shared numbers
bounding     coordinates into their range, lengths below a bound
rules        what a rule is; sum, mean, weighted mean
ranks        median, trimmed mean
krum         Krum, Multi-Krum
signs        sign vote
trust        cosine scores against a trusted update
registry     rules by name
treatment    range, length and rule on shared updates of any session
aggregation  one round, from uploads to the result
invitations  what aggregators and clients on other machines are told of a round
collecting   an aggregator on a machine of its own
hidden       one round after the other, for ``fl.rounds``
"""

from sharetorch.fl.aggregation.aggregation import Aggregation
from sharetorch.fl.aggregation.errors import (
    AggregationError,
    DeclaredLimitsError,
    DuplicateUploadError,
    RuleError,
    TooFewClientsError,
    UploadError,
    UploadSetError,
)
from sharetorch.fl.aggregation.hidden import HiddenAggregator
from sharetorch.fl.aggregation.inbox import Inbox
from sharetorch.fl.aggregation.krum import Krum, MultiKrum
from sharetorch.fl.aggregation.limits import Limits
from sharetorch.fl.aggregation.ranks import Median, TrimmedMean
from sharetorch.fl.aggregation.registry import RULES, rule
from sharetorch.fl.aggregation.rules import Mean, Rule, Sum, WeightedMean
from sharetorch.fl.aggregation.signs import SignVote
from sharetorch.fl.aggregation.treatment import Treatment
from sharetorch.fl.aggregation.trust import Trust
from sharetorch.fl.aggregation.uploads import Piece, Terms

__all__ = [
    "Aggregation",
    "AggregationError",
    "DeclaredLimitsError",
    "DuplicateUploadError",
    "HiddenAggregator",
    "Inbox",
    "Krum",
    "Limits",
    "Mean",
    "Median",
    "MultiKrum",
    "Piece",
    "RULES",
    "Rule",
    "RuleError",
    "SignVote",
    "Sum",
    "Terms",
    "TooFewClientsError",
    "Treatment",
    "TrimmedMean",
    "Trust",
    "UploadError",
    "UploadSetError",
    "WeightedMean",
    "rule",
]
