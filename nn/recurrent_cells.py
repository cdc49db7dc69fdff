"""One step of a recurrent network, built of ``nn.Linear``: ``RNNCell``, ``GRUCell``, ``LSTMCell``.

x is the input, shape (batch, input_size); h the state, shape (batch, hidden_size). ``fc_xh`` and ``fc_hh`` hold what
torch.nn's cells call weight_ih, bias_ih and weight_hh, bias_hh, with the gates in the same order:

    RNN    h' = act(W x + U h)
    GRU    r, z, n    h' = n + z (h - n)    n = act(W_n x + r (U_n h))
    LSTM   i, f, g, o    c' = f c + i g    h' = o act(c')

W and U include their biases. What can be computed together is: on shared tensors each product and each activation is a
round trip or more, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sharetorch.mpc.errors import MismatchError, RevealError, ShapeError, UnsupportedOperationError
from sharetorch.mpc.tensor.shared import SharedTensor

Activation = Callable[[Any], Any]
State = tuple[Any, ...]
PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
"""Parameters of a cell, by torch.nn's names."""


class Cell(nn.Module):
    """What the three cells have in common.

    Attributes:
        gates: how many blocks of ``hidden_size`` rows the weights have.
        parts: tensors in a state: 1, or 2 for the LSTM.
        counterpart: the cell of torch.nn.
        defaults: torch's own activations by the name of their argument.
        activation: of the state.
        gate_activation: of the gates, where there are any.
    """

    gates: ClassVar[int]
    parts: ClassVar[int] = 1
    counterpart: ClassVar[type[nn.Module]]
    defaults: ClassVar[dict[str, type[nn.Module]]]
    activation: Activation
    gate_activation: Activation

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, device: Any, dtype: Any, **activations: Activation | None
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self.own_activations = [name for name, given in activations.items() if given is not None]
        for name, given in activations.items():
            setattr(self, name, self.defaults[name]() if given is None else given)
        rows = self.gates * hidden_size
        self.fc_xh = nn.Linear(input_size, rows, bias, device, dtype)
        self.fc_hh = nn.Linear(hidden_size, rows, bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters as torch.nn's cell does, uniform in +-1 / sqrt(hidden_size)."""
        self.load(dict(self._plain_counterpart().named_parameters()))

    def _plain_counterpart(self) -> nn.Module:
        weight = self.fc_hh.weight
        return self.counterpart(self.input_size, self.hidden_size, self.bias, device=weight.device, dtype=weight.dtype)

    def named(self) -> dict[str, Tensor]:
        """The parameters by torch.nn's names."""
        found = (self.fc_xh.weight, self.fc_hh.weight, self.fc_xh.bias, self.fc_hh.bias)
        return dict(zip(PARAMETERS, found if self.bias else found[:2], strict=False))

    @torch.no_grad()
    def load(self, parameters: dict[str, Tensor]) -> None:
        """Copy parameters, given by torch.nn's names, into this cell."""
        for name, target in self.named().items():
            target.copy_(parameters[name])

    @classmethod
    def from_torch(cls, cell: nn.Module, **activations: Any) -> Self:
        """The same cell, with a copy of the parameters.

        Args:
            cell: the cell of torch.nn of the same name.
            activations: ``activation=``, ``gate_activation=`` as in the constructor.

        Raises:
            MismatchError: a module of another kind.
        """
        check_kind(cls, cls.counterpart, cell)
        made = cls(**settings_of(cell), **activations).train(cell.training)
        made.load(dict(cell.named_parameters()))
        return made

    def to_torch(self) -> nn.Module:
        """torch.nn's cell, with a copy of the parameters.

        Raises:
            UnsupportedOperationError: the activations are not torch's.
            RevealError: the parameters are shared.
        """
        check_convertible(self, self.own_activations)
        made = self._plain_counterpart().train(self.training)
        copy_into(made, self.named())
        return made

    def zeros(self, input: Any, batch: int) -> State:
        """A state of zeros that lives where the input lives."""
        return tuple(input.new_zeros(batch, self.hidden_size) for _ in range(self.parts))

    def step(self, projected: Any, state: State) -> State:
        """The next state.

        Args:
            projected: ``fc_xh(x)``, shape (batch, gates * hidden_size).
            state: h, or h and c, each of shape (batch, hidden_size).
        """
        raise NotImplementedError

    def forward(self, input: Any, hx: Any = None) -> Any:
        """One step.

        Args:
            input: shape (batch, input_size) or (input_size,).
            hx: state before the step, for the LSTM the pair (h, c); shape (batch, hidden_size) or (hidden_size,).
                Zeros if not given.

        Returns:
            The state after the step, in the same form.

        Raises:
            ShapeError: the input or the state has another shape.
        """
        batched = input.dim() == 2
        check_shape("input", input, (input.shape[0], self.input_size) if batched else (self.input_size,))
        x = input if batched else input.unsqueeze(0)
        state = self.zeros(x, x.shape[0]) if hx is None else parts_of(hx, self.parts)
        if hx is not None:
            expected = (*input.shape[:-1], self.hidden_size)
            for part in state:
                check_shape("state", part, expected)
            state = state if batched else tuple(part.unsqueeze(0) for part in state)
        state = self.step(self.fc_xh(x), state)
        state = state if batched else tuple(part.squeeze(0) for part in state)
        return state if self.parts > 1 else state[0]

    def extra_repr(self) -> str:
        """Sizes, as torch prints them."""
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias}"


class RNNCell(Cell):
    """h' = act(W x + U h).

    Args:
        input_size: features of the input.
        hidden_size: features of the state.
        bias: whether there are biases.
        nonlinearity: ``"tanh"`` or ``"relu"``; the latter runs on shared tensors.
        activation: any function of a tensor instead.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        UnsupportedOperationError: another nonlinearity.
    """

    gates = 1
    counterpart = nn.RNNCell
    defaults = {"activation": nn.Tanh}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
        *,
        activation: Activation | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise UnsupportedOperationError(
                f"nonlinearity={nonlinearity!r} is neither 'tanh' nor 'relu'; give a function as activation= instead."
            )
        self.nonlinearity = nonlinearity
        super().__init__(input_size, hidden_size, bias, device, dtype, activation=activation)
        if activation is None and nonlinearity == "relu":
            self.activation = nn.ReLU()

    def _plain_counterpart(self) -> nn.Module:
        made: Any = super()._plain_counterpart()
        made.nonlinearity = self.nonlinearity
        return made  # type: ignore[no-any-return]

    def step(self, projected: Any, state: State) -> State:
        """The next state."""
        (h,) = state
        return (self.activation(projected + self.fc_hh(h)),)


class GRUCell(Cell):
    """Gated recurrent unit: r and z decide how much of h enters n, and how much of it stays.

    Args:
        input_size: features of the input.
        hidden_size: features of the state.
        bias: whether there are biases.
        device: of the parameters.
        dtype: of the parameters.
        activation: a function for n instead of tanh, for example ``nn.Hardtanh()``.
        gate_activation: a function for r and z instead of the sigmoid, for example
            ``sharetorch.nn.layers.Hardsigmoid()``.
    """

    gates = 3
    counterpart = nn.GRUCell
    defaults = {"activation": nn.Tanh, "gate_activation": nn.Sigmoid}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: Activation | None = None,
        gate_activation: Activation | None = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, bias, device, dtype, activation=activation, gate_activation=gate_activation
        )

    def step(self, projected: Any, state: State) -> State:
        """The next state. Both gates in one activation."""
        (h,) = state
        both, hidden = 2 * self.hidden_size, self.fc_hh(h)
        r, z = self.gate_activation(projected[:, :both] + hidden[:, :both]).chunk(2, 1)
        n = self.activation(projected[:, both:] + r * hidden[:, both:])
        return (n + z * (h - n),)


class LSTMCell(Cell):
    """Long short-term memory: gates i, f, o and candidate g; the state is the pair (h, c).

    Args:
        input_size: features of the input.
        hidden_size: features of each part of the state.
        bias: whether there are biases.
        device: of the parameters.
        dtype: of the parameters.
        activation: a function for g and c instead of tanh, for example ``nn.Hardtanh()``.
        gate_activation: a function for the gates instead of the sigmoid, for example
            ``sharetorch.nn.layers.Hardsigmoid()``.
    """

    gates = 4
    parts = 2
    counterpart = nn.LSTMCell
    defaults = {"activation": nn.Tanh, "gate_activation": nn.Sigmoid}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: Activation | None = None,
        gate_activation: Activation | None = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, bias, device, dtype, activation=activation, gate_activation=gate_activation
        )

    def step(self, projected: Any, state: State) -> State:
        """The next state. The three gates in one activation, i g and f c in one product."""
        h, c = state
        i, f, g, o = (projected + self.fc_hh(h)).chunk(4, 1)
        gates = self.gate_activation(torch.cat([i, f, o], 1))
        both = 2 * self.hidden_size
        added, kept = (gates[:, :both] * torch.cat([self.activation(g), c], 1)).chunk(2, 1)
        c = kept + added
        return gates[:, both:] * self.activation(c), c


# ------------------------------------------------------------------------------------ shared with the whole networks


def settings_of(module: nn.Module) -> dict[str, Any]:
    """Arguments that a cell of torch.nn was made with."""
    names = ("input_size", "hidden_size", "bias", *(("nonlinearity",) if isinstance(module, nn.RNNCell) else ()))
    weight: Any = module.weight_ih
    return {**{name: getattr(module, name) for name in names}, "device": weight.device, "dtype": weight.dtype}


def check_kind(ours: type, expected: Any, module: Any) -> None:
    """Raise ``MismatchError`` if a module is not of the kind it is to be made of."""
    if not isinstance(module, expected):
        raise MismatchError(
            f"{ours.__name__}.from_torch takes a torch.nn.{expected.__name__}, not a {type(module).__name__}."
        )


def check_convertible(module: nn.Module, own_activations: list[str]) -> None:
    """Raise if torch.nn has no module like this one, or its parameters are shared."""
    name = type(module).__name__
    if own_activations:
        raise UnsupportedOperationError(
            f"This {name} has a function of its own as {' and '.join(own_activations)}; torch.nn.{name} has none of "
            "that kind. Its parameters are in state_dict()."
        )
    if any(isinstance(parameter, SharedTensor) for parameter in module.parameters()):
        raise RevealError(f"The parameters of this {name} are shared. Open it with model.get() before to_torch().")


@torch.no_grad()
def copy_into(module: nn.Module, parameters: dict[str, Tensor]) -> None:
    """Copy parameters into those of the same names."""
    for name, target in module.named_parameters():
        target.copy_(parameters[name])


def check_shape(what: str, x: Any, expected: tuple[int, ...]) -> None:
    """Raise ``ShapeError`` if a tensor has another shape than expected."""
    if tuple(x.shape) != expected:
        raise ShapeError(f"The {what} has shape {tuple(x.shape)}; expected {expected}.")


def parts_of(hx: Any, parts: int) -> State:
    """A state given by the user as a tuple.

    Raises:
        ShapeError: not a tensor, or for the LSTM not a pair.
    """
    state = tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
    if len(state) != parts:
        wanted = "the pair (h, c)" if parts == 2 else "one tensor"
        raise ShapeError(f"The state consists of {len(state)} tensor(s); expected {wanted}.")
    return state
