"""What can be wrong with the data or the design of a regression."""

from sharetorch.mpc.errors import ShareTorchError


class RegressionDataError(ShareTorchError, ValueError):
    """The data of the owners do not fit together."""


class DegreesOfFreedomError(RegressionDataError):
    """There are not more observations than coefficients."""


class SingularDesignError(ShareTorchError, ArithmeticError):
    """The columns are linearly dependent, or too close to it for the working precision."""


class NotFittedError(ShareTorchError, RuntimeError):
    """A result was asked for before ``fit``."""
