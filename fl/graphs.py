"""A model and its loss as one graph of aten operations, recorded here and run at a worker.

There PyTorch differentiates it. The data form is that of plans (``remote/plans/graph.py``). Recording runs the model
once on made-up values of the right shapes. It writes down each operation that reaches PyTorch's dispatcher, so modules,
functions, TorchScript and plans are recorded alike; what was computed under ``no_grad`` is detached in the graph too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sharetorch.fl.structs import RecordedStep, StepForm, set_mode, tensors_of
from sharetorch.fl.training import call_loss
from sharetorch.mpc.errors import MalformedRequestError, ShareTorchError, TrainingError
from sharetorch.remote import limits, operators
from sharetorch.remote.objects import dtype_name
from sharetorch.remote.operators import Operator
from sharetorch.remote.plans import forms
from sharetorch.remote.plans.checking import check
from sharetorch.remote.plans.graph import VERSION, Graph, Node, Spec
from sharetorch.remote.plans.running import run
from sharetorch.remote.wire import DTYPES, Ref

_DETACH = "aten.detach.default"
_CONVOLUTION = torch.ops.aten.convolution.default
_TRACED_CONVOLUTION = torch.ops.aten._convolution.default
"""What ``torch.jit.trace`` makes of a convolution: the same arguments, and then some for cuDNN."""

_ITEM = "item"


class Recorded(NamedTuple):
    """A graph, and the tensors it needs besides inputs and state.

    Attributes:
        graph: its state is the model's, followed by the constants.
        constants: tensors the function used that are neither inputs nor state.
    """

    graph: Graph
    constants: list[Tensor]


def record(function: Callable[..., Any], inputs: Sequence[Tensor], state: Sequence[Tensor], name: str) -> Recorded:
    """Record a function of tensors.

    Args:
        function: of the inputs; gives a tuple of tensors. It may change the state.
        inputs: examples; sizes in the graph are theirs.
        state: tensors the function reads by itself, such as parameters.
        name: of the graph.

    Raises:
        TrainingError: the function's course depends on values, or a result was not computed from tensors.
        OperationNotAllowedError: it uses an operation workers do not run for others.
    """
    recorder = _Recorder(list(inputs), list(state))
    # Optimised TorchScript works on copies of the parameters, which would be taken for constants.
    with torch.enable_grad(), _as_written(), recorder:
        try:
            results = function(*inputs)
        except RuntimeError:
            # TorchScript gives an error of its own in place of ours.
            if recorder.refusal is not None:
                raise recorder.refusal from None
            raise
    return recorder.finished(results, name)


def _as_written() -> Any:
    optimized: Any = vars(torch.jit)["optimized_execution"]
    return optimized(False)


class _Recorder(TorchDispatchMode):
    """Writes down operations. Until the end a value is an object; numbers are given when the constants are known.

    Attributes:
        refusal: why an operation was not written down.
    """

    def __init__(self, inputs: list[Tensor], state: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inputs, self._state = inputs, state
        self._constants: list[Tensor] = []
        self._values: dict[int, _Value] = {}
        self._kept: list[Tensor] = []
        self._nodes: list[tuple[str, list[Any], dict[str, Any]]] = []
        self.refusal: ShareTorchError | None = None
        for kind, tensors in (("input", inputs), ("state", state)):
            for place, tensor in enumerate(tensors):
                self._name(tensor, _Value(kind, place))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and write it down."""
        if func is _TRACED_CONVOLUTION:
            func, args = _CONVOLUTION, args[: len(_CONVOLUTION._schema.arguments)]
        try:
            return self._written(func, args, kwargs or {})
        except ShareTorchError as error:
            self.refusal = error
            raise

    def _written(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise TrainingError(
                "The model or loss asks for the value of a tensor (item(), bool() or a number made of it), so its "
                "course would depend on data. Use torch.where or keep the value a tensor."
            )
        operators.find(operators.known_as(func)[0])
        packed = self._arguments(func, args), {name: self._packed(value) for name, value in kwargs.items()}
        result = func(*args, **kwargs)
        self._nodes.append((operators.known_as(func)[0], *packed))
        self._results(result, _Value("node", len(self._nodes) - 1))
        return result

    def _arguments(self, func: Any, args: Sequence[Any]) -> list[Any]:
        """Positional arguments; a number that stands for a tensor becomes one."""
        floats = [x.dtype for x in args if isinstance(x, Tensor) and x.dtype.is_floating_point]
        packed = []
        for value, argument in zip(args, func._schema.arguments, strict=False):
            if isinstance(value, (bool, int, float)) and argument.type.kind() == "TensorType":
                dtype = floats[0] if floats else torch.tensor(value).dtype
                self._nodes.append(("aten.scalar_tensor.default", [value], {"dtype": dtype}))
                packed.append(_Value("node", len(self._nodes) - 1))
            else:
                packed.append(self._packed(value))
        return packed

    def _results(self, result: Any, value: _Value) -> None:
        if isinstance(result, Tensor):
            self._name(result, self._without_grad(result, value))
        elif isinstance(result, (list, tuple)):
            for place, part in enumerate(result):
                if isinstance(part, Tensor):
                    self._nodes.append((_ITEM, [value, place], {}))
                    self._name(part, self._without_grad(part, _Value("node", len(self._nodes) - 1)))

    def _without_grad(self, result: Tensor, value: _Value) -> _Value:
        """Without a gradient, here and there, if made under ``no_grad``; what is changed in place keeps its name."""
        known = self._values.get(id(result))
        if known is not None or torch.is_grad_enabled() or not result.dtype.is_floating_point:
            return known or value
        self._nodes.append((_DETACH, [value], {}))
        return _Value("node", len(self._nodes) - 1)

    def _name(self, tensor: Tensor, value: _Value) -> None:
        self._values[id(tensor)] = value
        self._kept.append(tensor)

    def _packed(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._value(value)
        return [self._packed(part) for part in value] if isinstance(value, (list, tuple)) else value

    def _value(self, tensor: Tensor) -> _Value:
        known = self._values.get(id(tensor))
        if known is None:
            if type(tensor) not in (Tensor, torch.nn.Parameter):
                raise TrainingError(
                    f"The model or loss uses a {type(tensor).__name__}; only plain tensors can be recorded."
                )
            known = _Value("constant", len(self._constants))
            self._constants.append(tensor.detach().clone())
            self._name(tensor, known)
        return known

    def finished(self, results: tuple[Any, ...], name: str) -> Recorded:
        """The graph."""
        output = [self._values.get(id(result)) for result in results]
        if None in output:
            raise TrainingError("A result of the model or loss is no tensor computed in it.")
        offsets = {"input": 0, "state": len(self._inputs)}
        offsets["constant"] = offsets["state"] + len(self._state)
        offsets["node"] = offsets["constant"] + len(self._constants)
        nodes = [
            Node(operator, _numbered(args, offsets), {key: _numbered(value, offsets) for key, value in kwargs.items()})
            for operator, args, kwargs in self._nodes
        ]
        inputs = [_spec(f"input_{place}", x) for place, x in enumerate(self._inputs)]
        state = [_spec(f"state_{place}", x) for place, x in enumerate([*self._state, *self._constants])]
        arguments = {"tuple": [{"tuple": [Ref(place) for place in range(len(inputs))]}, {"dict": []}]}
        graph = Graph(VERSION, name, inputs, arguments, state, nodes, {"tuple": _numbered(output, offsets)})
        return Recorded(graph, self._constants)


class _Value(NamedTuple):
    """A value while recording."""

    kind: str
    place: int


def _numbered(value: Any, offsets: dict[str, int]) -> Any:
    if type(value) is _Value:
        return Ref(offsets[value.kind] + value.place)
    return [_numbered(part, offsets) for part in value] if isinstance(value, list) else value


def _spec(name: str, x: Tensor) -> Spec:
    return Spec(name, dtype_name(x.dtype), list(x.shape))


class StepSource:
    """A model and a loss, from which steps are recorded as they are needed.

    Args:
        model: whose parameters are here.
        loss_fn: see ``TrainConfig``.
    """

    def __init__(self, model: Any, loss_fn: Any) -> None:
        self._model = model
        self._loss_fn = loss_fn

    def step(self, form: StepForm) -> RecordedStep:
        """Model and loss on batches of one form, recorded; the model stays as it is.

        Raises:
            TrainingError: they cannot be recorded, or the loss is no single number.
        """
        model = copy.deepcopy(self._model)
        set_mode(model, form.training)
        inputs = [_example(shape, dtype) for shape, dtype in (form.data, form.targets)]
        state = torch.get_rng_state()
        try:
            graph, constants = record(partial(self._run, model), inputs, tensors_of(model), type(self._model).__name__)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            error.add_note(
                f"raised while recording model and loss for a batch of shape {form.data[0]}, {form.data[1]}, and "
                f"targets of shape {form.targets[0]}, {form.targets[1]}"
            )
            raise
        finally:
            torch.set_rng_state(state)
        return RecordedStep(form, graph, constants)

    def _run(self, model: Any, data: Tensor, targets: Tensor) -> tuple[Any, Any]:
        output = model(data)
        loss = call_loss(self._loss_fn, output, targets)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise TrainingError(f"loss_fn gives {_told(loss)}; it must give a tensor of one element.")
        return loss, output


def _example(shape: list[int], dtype: str) -> Tensor:
    """Made-up values: between 0 and 1, or zeros for integers, which are valid classes and indices."""
    kind = DTYPES[dtype]
    return torch.full(shape, 0.5, dtype=kind) if kind.is_floating_point else torch.zeros(shape, dtype=kind)


def _told(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


class Step:
    """A graph that came by wire, checked once and run often.

    Args:
        graph: of operations of the worker's list; gives a tuple of tensors.
        constants: the last tensors of its state.
        node: the worker whose limits hold.

    Raises:
        RemoteError: the graph is not as documented, or holds an operation that is not on the list.
    """

    def __init__(self, graph: Graph, constants: Sequence[Tensor], node: Any) -> None:
        self._program = check(graph)
        self._constants = list(constants)
        self._node = node

    def run(self, inputs: Sequence[Tensor], state: Sequence[Tensor]) -> Any:
        """The results; PyTorch records gradients if it is asked to.

        Raises:
            MalformedRequestError: tensors of other shapes or dtypes than the graph was recorded for.
        """
        tensors = [*state, *self._constants]
        graph = self._program.graph
        if not (_fit(graph.inputs, inputs) and _fit(graph.state, tensors)):
            raise MalformedRequestError("The graph was recorded for tensors of other shapes or dtypes.")
        values = run(self._program, inputs, tensors, self._compute)
        return forms.unpack(graph.output, lambda ref: values[ref.number])

    def _compute(self, operator: Operator, args: list[Any], kwargs: dict[str, Any]) -> Any:
        limits.check(self._node, operator, args, kwargs)
        operator.validate(args, kwargs)
        result = operator.overload(*args, **kwargs)
        return result.zero_() if operator.uninitialised else result


def _fit(specs: Sequence[Spec], tensors: Sequence[Tensor]) -> bool:
    return len(specs) == len(tensors) and all(
        spec.shape == list(x.shape) and spec.dtype == dtype_name(x.dtype)
        for spec, x in zip(specs, tensors, strict=True)
    )
