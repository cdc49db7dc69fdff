"""Differential privacy: noise nobody knows on sums of hidden updates, accounts, budgets, noisy training at clients.

Modules, each using only earlier ones:

errors      what goes wrong, in one tree
accounting  what steps cost together, by opacus' accountant
mechanism   how much noise; shared tensors with the noise of every party
rules       private sum and mean, as rules of aggregation
ledger      a budget in a file
rounds      private aggregation of one round after the other
records     an optimizer whose gradients are clipped record by record, with noise
clients     clients of rounds whose training is private
"""

from sharetorch.fl.privacy.accounting import Step, epsilon, multiplier_for
from sharetorch.fl.privacy.clients import DPClient, RecordPrivacy
from sharetorch.fl.privacy.errors import (
    AccountingError,
    BudgetExceededError,
    LedgerDamagedError,
    LedgerError,
    LedgerInUseError,
    LedgerRewoundError,
    MissingExtraError,
    NoiseError,
    PrivacyError,
    PrivateModelError,
)
from sharetorch.fl.privacy.ledger import Budget
from sharetorch.fl.privacy.mechanism import Noise, noised
from sharetorch.fl.privacy.rounds import PrivateAggregator
from sharetorch.fl.privacy.rules import PrivateMean, PrivateSum

__all__ = [
    "AccountingError",
    "Budget",
    "BudgetExceededError",
    "DPClient",
    "LedgerDamagedError",
    "LedgerError",
    "LedgerInUseError",
    "LedgerRewoundError",
    "MissingExtraError",
    "Noise",
    "NoiseError",
    "PrivacyError",
    "PrivateAggregator",
    "PrivateMean",
    "PrivateModelError",
    "PrivateSum",
    "RecordPrivacy",
    "Step",
    "epsilon",
    "multiplier_for",
    "noised",
]
