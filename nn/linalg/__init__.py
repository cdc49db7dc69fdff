"""Linear algebra and linear regression on shared tensors.

working       the working precision, and the way into and out of it
vectors       unit vectors, Gram-Schmidt, triangular inverses
inverse, qr   ``inv_sym`` and ``qr``
floating      secret exponents, and releasing numbers of any magnitude
owners        what each owner of data computes in the clear, and shares
pooling       the owners' contributions in common units
statistics    the distribution of Student's t
results       digits, and tables of results
solving       least squares on a pool
regression    ``EncryptedLinearRegression``
dash          ``DASH``, the association scan
"""

from sharetorch.mpc.errors import DegreesOfFreedomError, NotFittedError, RegressionDataError, SingularDesignError
from sharetorch.nn.linalg.dash import DASH
from sharetorch.nn.linalg.inverse import inv_sym
from sharetorch.nn.linalg.qr import qr
from sharetorch.nn.linalg.regression import EncryptedLinearRegression

__all__ = [
    "DASH",
    "DegreesOfFreedomError",
    "EncryptedLinearRegression",
    "NotFittedError",
    "RegressionDataError",
    "SingularDesignError",
    "inv_sym",
    "qr",
]
