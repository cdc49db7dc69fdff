"""The recurrent layer torch runs through oneDNN, for operands that come from a stranger.

Its backward kernel takes on trust a workspace, which its forward kernel fills: bytes whose meaning only oneDNN
knows, part of
them memory as it was left by others. A worker does not hand the workspace out. It runs the forward kernel again for the
backward one, on operands whose shapes it has checked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import MalformedRequestError

_LSTM = 2
_GATES = 4

_layer = torch.ops.aten.mkldnn_rnn_layer.default
_backward = torch.ops.aten.mkldnn_rnn_layer_backward.default


def layer(
    x: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    b_input: Tensor,
    b_hidden: Tensor,
    h: Tensor,
    c: Tensor,
    reverse: bool,
    batch_sizes: list[int],
    mode: int,
    hidden: int,
    layers: int,
    biases: bool,
    bidirectional: bool,
    batch_first: bool,
    train: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One direction of one layer of an LSTM.

    Args:
        x: shape (steps, batch, features), float32, as are all tensors.
        w_input: shape (4 hidden, features).
        w_hidden: shape (4 hidden, hidden).
        b_input: shape (4 hidden,) with biases; else not used.
        b_hidden: likewise.
        h: first state, shape (batch, hidden).
        c: likewise.
        reverse: whether it runs from the last step to the first.
        batch_sizes: of packed sequences, which are not supported here.
        mode: 2, an LSTM.
        hidden: size of the state.
        layers: of the whole LSTM; this is one of them.
        biases: whether there are biases.
        bidirectional: whether the whole LSTM runs both ways.
        batch_first: accepted and not used, as in torch: ``x`` was transposed before.
        train: whether a backward pass may follow.

    Returns:
        All states, the last two, and an empty tensor for the workspace.

    Raises:
        MalformedRequestError: other shapes or dtypes.
    """
    weights = [w_input, w_hidden, b_input, b_hidden]
    _require_layer(x, weights, h, c, batch_sizes, mode, hidden, biases)
    given = _layer(
        *_dense(x, *weights, h, c),
        reverse,
        batch_sizes,
        mode,
        hidden,
        layers,
        biases,
        bidirectional,
        batch_first,
        train,
    )
    return given[0], given[1], given[2], torch.empty(0, dtype=torch.uint8)


def layer_backward(
    x: Tensor,
    w_input: Tensor,
    w_hidden: Tensor,
    b_input: Tensor,
    b_hidden: Tensor,
    h: Tensor,
    c: Tensor,
    output: Tensor,
    last_h: Tensor,
    last_c: Tensor,
    grad_output: Tensor | None,
    grad_h: Tensor | None,
    grad_c: Tensor | None,
    reverse: bool,
    mode: int,
    hidden: int,
    layers: int,
    biases: bool,
    train: bool,
    bidirectional: bool,
    batch_sizes: list[int],
    batch_first: bool,
    workspace: Tensor,
) -> Any:
    """Gradients of ``layer``; its results and workspace are computed again.

    Raises:
        MalformedRequestError: shapes or dtypes ``layer`` does not take, or gradients of other shapes than its results.
    """
    weights = [w_input, w_hidden, b_input, b_hidden]
    _require_layer(x, weights, h, c, batch_sizes, mode, hidden, biases)
    states = [*x.shape[:2], hidden]
    for grad, shape in ((grad_output, states), (grad_h, states[1:]), (grad_c, states[1:])):
        if grad is not None:
            _require(
                list(grad.shape) == shape and grad.dtype == torch.float32,
                "gradients of another form than the results",
            )
    given_to = _dense(x, *weights, h, c)
    with torch.enable_grad():  # torch makes a workspace only then
        given = _layer(
            *given_to, reverse, batch_sizes, mode, hidden, layers, biases, bidirectional, batch_first, True
        )
    return _backward(
        *given_to,
        *given[:3],
        *_dense(grad_output, grad_h, grad_c),
        reverse,
        mode,
        hidden,
        layers,
        biases,
        True,
        bidirectional,
        batch_sizes,
        batch_first,
        given[3],
    )


def _dense(*tensors: Tensor | None) -> list[Tensor | None]:
    """The kernels walk through memory without looking at strides."""
    return [None if x is None else x.contiguous() for x in tensors]


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise MalformedRequestError(f"A recurrent layer cannot be given {what}.")


def _require_layer(
    x: Tensor,
    weights: list[Tensor],
    h: Tensor,
    c: Tensor,
    batch_sizes: list[int],
    mode: int,
    hidden: int,
    biases: bool,
) -> None:
    _require(mode == _LSTM and not batch_sizes, "packed sequences, or another mode than 2 (LSTM)")
    _require(x.dim() == 3 and x.numel() > 0 and hidden > 0, "an input that is not (steps, batch, features)")
    _require(
        all(type(y) in (Tensor, torch.nn.Parameter) and y.dtype == torch.float32 for y in [x, *weights, h, c]),
        "tensors that are not plain float32 ones",
    )
    rows = _GATES * hidden
    _require(
        list(weights[0].shape) == [rows, x.shape[2]] and list(weights[1].shape) == [rows, hidden],
        "weights of these shapes",
    )
    if biases:
        _require(all(list(bias.shape) == [rows] for bias in weights[2:]), "biases of these shapes")
    else:
        _require(all(bias.dim() in (1, 2) for bias in weights[2:]), "biases of these shapes")
    _require(list(h.shape) == list(c.shape) == [x.shape[1], hidden], "states of these shapes")
