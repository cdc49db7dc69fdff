"""Secure aggregation by pairwise masks, for a single aggregator that sees nothing but the sum.

Client and server are state machines that take and give typed messages: any transport can carry them. Modules, each
using only earlier ones:

    errors       what can go wrong in a round
    messages     everything that crosses a wire
    bounds       how many neighbours and shares are enough
    graph        who has a mask in common with whom
    encoding     updates as integers, and back
    sharing      Shamir's sharing of 32 bytes
    keys         key agreement, encryption, masks
    enrolment    whose signatures hold
    ledger       rounds a client has taken part in
    rounds       what all members of a round agree on
    client       one client's part in one round
    server       the aggregator's part in one round
    cost         bytes of a round
    simulation   a round in one process
"""

from sharetorch.fl.masking.bounds import Parameters, Trust, choose
from sharetorch.fl.masking.client import Client
from sharetorch.fl.masking.encoding import Aggregate, Limits
from sharetorch.fl.masking.enrolment import Enrolment
from sharetorch.fl.masking.errors import (
    ForgedMessageError,
    MaskingError,
    OutOfTurnError,
    RequestRefusedError,
    RoundReusedError,
    TooFewSurvivorsError,
)
from sharetorch.fl.masking.ledger import FileLedger, MemoryLedger
from sharetorch.fl.masking.rounds import convene
from sharetorch.fl.masking.server import Server

__all__ = [
    "Aggregate",
    "Client",
    "Enrolment",
    "FileLedger",
    "ForgedMessageError",
    "Limits",
    "MaskingError",
    "MemoryLedger",
    "OutOfTurnError",
    "Parameters",
    "RequestRefusedError",
    "RoundReusedError",
    "Server",
    "TooFewSurvivorsError",
    "Trust",
    "choose",
    "convene",
]
