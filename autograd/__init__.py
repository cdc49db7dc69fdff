"""Derivative rules for shared tensors, where secure computation wants other ones than PyTorch's.

PyTorch's own engine records and runs the backward pass. Most operations keep PyTorch's derivative formulas, which
arrive as aten operations on shared gradients. The rules here replace functions whose formulas would compare, divide or
index by secrets again: they reuse the bits, trails and inverses of the forward pass.

engine      ``backward``: the gradient of a loss starts as the public number 1
linear      linear layers
relu        relu, leaky_relu, abs, clamp, maximum, where, threshold
extremes    max, min, argmax, argmin
sorting     sort, argsort, topk, kthvalue, median; numbers of buckets
pooling     max, average and adaptive pooling
arithmetic  division, square roots, variance, products over a dimension
losses      squared and absolute error
dropout     dropout with a public pattern
norm        batch normalisation
tensors     refresh, padding, patches and other functions that only need composing
"""

from sharetorch.autograd import (
    arithmetic,
    dropout,
    engine,
    extremes,
    linear,
    losses,
    norm,
    pooling,
    relu,
    sorting,
    tensors,
)

__all__ = [
    "arithmetic",
    "dropout",
    "engine",
    "extremes",
    "linear",
    "losses",
    "norm",
    "pooling",
    "relu",
    "sorting",
    "tensors",
]
