"""Torch modules on shared data.

support          which layers run on shared tensors
exchange         what tensors are, exchanged in place
sharing          ``model.share()``, ``get()``, ``fix_precision()`` and the like: parameters swapped in place
optimizing       stock optimizers in their multi-tensor form
layers           layers composed of what shares can do
recurrent_cells  one step of a recurrent network, built of Linear
recurrent        recurrent networks of such cells
linalg           inverse, QR, regression on data of several owners
"""

from sharetorch.nn import linalg, optimizing, sharing, support
from sharetorch.nn.layers import AvgPool2d, Conv2d, Hardsigmoid
from sharetorch.nn.recurrent import GRU, LSTM, RNN
from sharetorch.nn.recurrent_cells import GRUCell, LSTMCell, RNNCell

__all__ = [
    "GRU",
    "GRUCell",
    "AvgPool2d",
    "Conv2d",
    "Hardsigmoid",
    "LSTM",
    "LSTMCell",
    "RNN",
    "RNNCell",
    "linalg",
    "optimizing",
    "sharing",
    "support",
]
