"""Recurrent networks built of ``nn.Linear``: ``RNN``, ``GRU``, ``LSTM``, with the arguments and results of torch.nn's.

Being made of ordinary layers and operations they run wherever those run: on plain tensors equal to torch.nn, on remote
tensors, and on shared ones as far as their activations do. The input of all time steps is projected in one product.

    lstm = LSTM.from_torch(plain, activation=nn.Hardtanh(), gate_activation=Hardsigmoid())
    output, (h, c) = lstm.share(alice, bob, crypto_provider=cp)(x)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sharetorch.mpc.errors import ShapeError, UnsupportedOperationError
from sharetorch.nn.recurrent_cells import (
    PARAMETERS,
    Activation,
    Cell,
    GRUCell,
    LSTMCell,
    RNNCell,
    State,
    check_convertible,
    check_kind,
    check_shape,
    copy_into,
    parts_of,
)


class Recurrent(nn.Module):
    """What the three networks have in common.

    Args:
        input_size: features of the input.
        hidden_size: features of the state.
        num_layers: how many cells one above the other.
        bias: whether there are biases.
        batch_first: whether the batch is dimension 0 of input and output, and time dimension 1.
        dropout: probability with which outputs between layers are dropped in training.
        bidirectional: whether a second cell runs backwards in each layer.
        device: of the parameters.
        dtype: of the parameters.
        options: what the cell takes beside its sizes.

    Attributes:
        cells: by layers, and in a layer by directions.
        cell: the kind of cell.
        counterpart: the network of torch.nn.
    """

    cell: ClassVar[type[Cell]]
    counterpart: ClassVar[Callable[..., nn.RNNBase]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        plain = self._plain_counterpart(options, dropout, device, dtype)
        self.directions = 2 if bidirectional else 1
        self.between = nn.Dropout(dropout)
        widths = [input_size] + [self.directions * hidden_size] * (num_layers - 1)
        self.cells = nn.ModuleList(
            self.cell(width, hidden_size, bias, device=device, dtype=dtype, **options)
            for width in widths
            for _ in range(self.directions)
        )
        self.load(dict(plain.named_parameters()))

    def _plain_counterpart(self, options: dict[str, Any], dropout: float, device: Any, dtype: Any) -> nn.RNNBase:
        """torch.nn's network of the same settings, freshly drawn; it checks them too."""
        known = {"nonlinearity": options["nonlinearity"]} if "nonlinearity" in options else {}
        return self.counterpart(
            self.input_size,
            self.hidden_size,
            self.num_layers,
            bias=self.bias,
            batch_first=self.batch_first,
            dropout=dropout,
            bidirectional=self.bidirectional,
            device=device,
            dtype=dtype,
            **known,
        )

    def reset_parameters(self) -> None:
        """Draw all parameters as torch.nn does, uniform in +-1 / sqrt(hidden_size)."""
        for cell in self._cells():
            cell.reset_parameters()

    # --------------------------------------------------------------------------------------- from and to torch.nn

    def named(self) -> dict[str, Tensor]:
        """The parameters by torch.nn's names: weight_ih_l0, weight_ih_l0_reverse, ..."""
        return {
            f"{name}{self._suffix(place)}": tensor
            for place, cell in enumerate(self._cells())
            for name, tensor in cell.named().items()
        }

    def load(self, parameters: dict[str, Tensor]) -> None:
        """Copy parameters, given by torch.nn's names, into this network: a ``state_dict()`` of torch.nn will do."""
        for place, cell in enumerate(self._cells()):
            suffix = self._suffix(place)
            cell.load({name: parameters[name + suffix] for name in PARAMETERS if name + suffix in parameters})

    def _suffix(self, place: int) -> str:
        layer, direction = divmod(place, self.directions)
        return f"_l{layer}{'_reverse' if direction else ''}"

    def _cells(self) -> list[Cell]:
        return [cell for cell in self.cells if isinstance(cell, Cell)]

    @classmethod
    def from_torch(cls, module: nn.RNNBase, **activations: Activation) -> Self:
        """The same network, with a copy of the parameters.

        Args:
            module: the network of torch.nn of the same name.
            activations: ``activation=``, ``gate_activation=`` as in the constructor.

        Raises:
            MismatchError: a module of another kind.
            UnsupportedOperationError: an LSTM with projections.
        """
        check_kind(cls, cls.counterpart, module)
        if module.proj_size:
            raise UnsupportedOperationError(
                f"proj_size={module.proj_size} is not available; use an nn.Linear on the outputs."
            )
        names = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
        settings: dict[str, Any] = {name: getattr(module, name) for name in names}
        settings |= activations
        if isinstance(module, nn.RNN):
            settings["nonlinearity"] = module.nonlinearity
        weight = next(module.parameters())
        made = cls(**settings, device=weight.device, dtype=weight.dtype).train(module.training)
        made.load(dict(module.named_parameters()))
        return made

    def to_torch(self) -> nn.RNNBase:
        """torch.nn's network, with a copy of the parameters.

        Raises:
            UnsupportedOperationError: the activations are not torch's.
            RevealError: the parameters are shared.
        """
        first = self._cells()[0]
        check_convertible(self, first.own_activations)
        options = {"nonlinearity": first.nonlinearity} if isinstance(first, RNNCell) else {}
        weight = first.fc_hh.weight
        made = self._plain_counterpart(options, self.between.p, weight.device, weight.dtype).train(self.training)
        copy_into(made, self.named())
        return made

    # ---------------------------------------------------------------------------------------------------- forward

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """Run over a sequence.

        Args:
            input: shape (time, batch, input_size), (batch, time, input_size) if ``batch_first``, or (time, input_size).
            hx: states before the first step, shape (num_layers * directions, batch, hidden_size) or
                (num_layers * directions, hidden_size); for the LSTM the pair (h, c). Zeros if not given: they live
                where the input lives.

        Returns:
            The outputs of the last layer at all times, shape (time, batch, directions * hidden_size) in the order of
            the input, and the states after the last step.

        Raises:
            ShapeError: the input or the states have another shape.
            UnsupportedOperationError: a packed sequence, or an activation without a secure form on shared tensors.
        """
        sequence, batched = self._checked(input)
        states = self._initial(sequence, hx, batched)
        finals = []
        for layer in range(self.num_layers):
            places = range(layer * self.directions, (layer + 1) * self.directions)
            outputs = []
            for place in places:
                output, final = self._run(place, sequence, tuple(part[place] for part in states))
                outputs.append(output)
                finals.append(final)
            sequence = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
            if layer < self.num_layers - 1:
                sequence = self.between(sequence)
        return self._results(sequence, finals, batched)

    def _checked(self, input: Any) -> tuple[Any, bool]:
        """The input with time first and a batch, and whether it had a batch."""
        if isinstance(input, PackedSequence):
            raise UnsupportedOperationError("Packed sequences are not available; pad the sequences to one length.")
        if input.dim() not in (2, 3) or input.shape[-1] != self.input_size or 0 in input.shape[:-1]:
            shape = "(batch, time, {})" if self.batch_first else "(time, batch, {})"
            raise ShapeError(
                f"The input has shape {tuple(input.shape)}; expected {shape.format(self.input_size)} or "
                f"(time, {self.input_size}), with at least one step and one sequence."
            )
        if input.dim() == 2:
            return input.unsqueeze(1), False
        return (input.transpose(0, 1) if self.batch_first else input), True

    def _initial(self, sequence: Any, hx: Any, batched: bool) -> State:
        """States before the first step, each of shape (num_layers * directions, batch, hidden_size)."""
        count, batch, parts = len(self.cells), sequence.shape[1], self.cell.parts
        if hx is None:
            return tuple(sequence.new_zeros(count, batch, self.hidden_size) for _ in range(parts))
        states = parts_of(hx, parts)
        for state in states:
            check_shape("state", state, (count, batch, self.hidden_size) if batched else (count, self.hidden_size))
        return states if batched else tuple(state.unsqueeze(1) for state in states)

    def _run(self, place: int, sequence: Any, state: State) -> tuple[Any, State]:
        """One cell over the whole sequence: outputs in the order of time, and the last state."""
        cell = self._cells()[place]
        steps, projected = range(sequence.shape[0]), cell.fc_xh(sequence)
        backwards = place % self.directions == 1
        outputs = []
        for time in reversed(steps) if backwards else steps:
            state = cell.step(projected[time], state)
            outputs.append(state[0])
        return torch.stack(outputs[::-1] if backwards else outputs), state

    def _results(self, output: Any, finals: list[State], batched: bool) -> tuple[Any, Any]:
        """Outputs and last states in the form the user gave the input."""
        states = tuple(torch.stack(list(parts)) for parts in zip(*finals, strict=True))
        if not batched:
            output, states = output.squeeze(1), tuple(state.squeeze(1) for state in states)
        elif self.batch_first:
            output = output.transpose(0, 1)
        return output, states if len(states) > 1 else states[0]

    def extra_repr(self) -> str:
        """Sizes, as torch prints them."""
        return (
            f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, bias={self.bias}, "
            f"batch_first={self.batch_first}, bidirectional={self.bidirectional}"
        )


class RNN(Recurrent):
    """``torch.nn.RNN`` built of ``nn.Linear``.

    Args:
        input_size: features of the input.
        hidden_size: features of the state.
        num_layers: how many cells one above the other.
        nonlinearity: ``"tanh"`` or ``"relu"``; the latter runs on shared tensors.
        bias: whether there are biases.
        batch_first: whether the batch comes before time.
        dropout: probability with which outputs between layers are dropped in training.
        bidirectional: whether a second cell runs backwards in each layer.
        device: of the parameters.
        dtype: of the parameters.
        activation: any function of a tensor instead of the nonlinearity.
    """

    cell = RNNCell
    counterpart = nn.RNN

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: Activation | None = None,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device,
            dtype,
            nonlinearity=nonlinearity,
            activation=activation,
        )


class GRU(Recurrent):
    """``torch.nn.GRU`` built of ``nn.Linear``; arguments as for ``Recurrent``.

    Beside them ``activation=`` and ``gate_activation=``, functions instead of tanh and sigmoid, which shared tensors
    may not have: ``nn.Hardtanh()`` and ``sharetorch.nn.layers.Hardsigmoid()`` run on them.
    """

    cell = GRUCell
    counterpart = nn.GRU


class LSTM(Recurrent):
    """``torch.nn.LSTM`` built of ``nn.Linear``, without projections; arguments as for ``Recurrent``.

    Beside them ``activation=`` and ``gate_activation=``, functions instead of tanh and sigmoid, which shared tensors
    may not have: ``nn.Hardtanh()`` and ``sharetorch.nn.layers.Hardsigmoid()`` run on them.
    """

    cell = LSTMCell
    counterpart = nn.LSTM
