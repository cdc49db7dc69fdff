"""Errors of differential privacy: ``PrivacyError`` and below it, with what else they are.

====================  =====================================================================================
NoiseError            a clip, a multiplier or a number of curious aggregators that cannot be
AccountingError       steps the accountant has no bound for
BudgetExceededError   a step would spend more than is allowed; nothing of it was done
LedgerError           the file of a budget cannot be read or written
LedgerDamagedError    its contents are not what was written (a LedgerError)
LedgerRewoundError    it holds less than was spent: an old copy (a LedgerError)
LedgerInUseError      it is open already, or another federation's (a LedgerError)
PrivateModelError     a model whose gradients mix records (a TrainingError)
MissingExtraError     opacus is not installed (an ImportError)
====================  =====================================================================================
"""

from __future__ import annotations

from sharetorch.mpc.errors import ShareTorchError, TrainingError


class PrivacyError(ShareTorchError, ValueError):
    """Privacy cannot be had as asked."""


class NoiseError(PrivacyError):
    """Noise of a size that has no meaning, or that the ring does not hold."""


class AccountingError(PrivacyError):
    """There is no bound for these steps."""


class BudgetExceededError(PrivacyError):
    """A step would spend more than is allowed.

    Attributes:
        spent: epsilon before the step.
        asked: epsilon after it.
        allowed: the budget.
    """

    def __init__(self, message: str, spent: float, asked: float, allowed: float) -> None:
        super().__init__(message)
        self.spent, self.asked, self.allowed = spent, asked, allowed


class LedgerError(PrivacyError):
    """The file of a budget cannot be used."""


class LedgerDamagedError(LedgerError):
    """The file of a budget is not what was written."""


class LedgerRewoundError(LedgerError):
    """The file of a budget holds less than was spent."""


class LedgerInUseError(LedgerError):
    """The file of a budget belongs to somebody else."""


class PrivateModelError(PrivacyError, TrainingError):
    """The gradient of a record cannot be told from that of others."""


class MissingExtraError(PrivacyError, ImportError):
    """A package is missing that is not installed with ShareTorch itself."""
