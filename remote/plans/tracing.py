"""Recording a function as a graph, by PyTorch's own ``make_fx`` on tensors without data.

Nothing is computed while recording, and no tensor of the user changes. Backward passes and optimizer steps inside the
function are recorded with it, for ``make_fx`` sees the aten operations below autograd. Sizes that are free are symbols
to torch; where the function (or a kernel) chooses by such a size, the function is recorded again with another size, and
refused if the two differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    GuardOnDataDependentSymNode,
    ShapeEnv,
    StatelessSymbolicContext,
)

from sharetorch.mpc.errors import OperationNotAllowedError, PlanError, ShareTorchError, UnsupportedDtypeError
from sharetorch.remote import wire
from sharetorch.remote.objects import dtype_name
from sharetorch.remote.plans import forms, numbers, optimizers
from sharetorch.remote.plans.checking import Program, check, used
from sharetorch.remote.plans.graph import VERSION, Graph, Node, Spec
from sharetorch.remote.wire import DTYPES, Ref

_HINTS = (6, 37)
"""Stand for a free size while recording; no constant of a program is likely to be either."""

_DROPPED = {
    "aten._assert_async.msg", "aten._assert_tensor_metadata.default", "aten._assert_scalar.default",
    "aten.sym_constrain_range_for_size.default", "aten.sym_constrain_range.default",
}  # fmt: skip
"""What recorded programs check on their way; a plan checks its inputs itself."""


class Shape(NamedTuple):
    """An input before recording: shape with negative sizes for free ones, and dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Recording(NamedTuple):
    """What recording gives.

    Attributes:
        program: the checked graph.
        state: the tensors of its state, the user's own.
    """

    program: Program
    state: list[Tensor]


def record(
    function: Callable[..., Any], name: str, arguments: Any, shapes: list[tuple[str, Shape]], known: list[tuple[str, Tensor]],
    named: Callable[[], Iterator[tuple[str, Tensor]]],
) -> Recording:  # fmt: skip
    """Record a function.

    Args:
        function: what to record.
        name: for the listing.
        arguments: form of its positional and keyword arguments.
        shapes: name and shape of each input.
        known: state in any case, with names.
        named: gives names of further tensors the function may use; asked after recording.

    Raises:
        PlanError: it cannot be recorded; the message tells why.
        OperationNotAllowedError: it uses an operation no worker runs.
    """
    for label, tensor in known:
        _require_plain(label, tensor)
    first = _Tracer(function, name, arguments, shapes, known, named, _HINTS[0])
    recording = first.record()
    if first.chose_by_size():
        second = _Tracer(function, name, arguments, shapes, known, named, _HINTS[1]).record()
        if wire.encode(recording.program.graph) != wire.encode(second.program.graph):
            raise PlanError(
                f"{name} takes another way for another size of a dimension given as -1 ({first.choices()}). Build it for "
                "fixed sizes, one plan for each."
            )
    return recording


def _require_plain(label: str, tensor: Tensor) -> None:
    if type(tensor) not in (Tensor, nn.Parameter):
        raise PlanError(f"{label} is a {type(tensor).__name__}; build the plan while its tensors are plain and here.")


class _Tracer:
    """One recording."""

    def __init__(
        self, function: Callable[..., Any], name: str, arguments: Any, shapes: list[tuple[str, Shape]],
        known: list[tuple[str, Tensor]], named: Callable[[], Iterator[tuple[str, Tensor]]], hint: int,
    ) -> None:  # fmt: skip
        self._function = function
        self._name = name
        self._arguments = arguments
        self._shapes = shapes
        self._named = named
        self._hint = hint
        self._env = ShapeEnv()
        self._mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=self._env)
        self._output: Any = None
        self._state: list[tuple[str, Tensor]] = list(known)
        self._places = {id(tensor): place for place, (_, tensor) in enumerate(known)}
        self._numbers: dict[fx.Node, int] = {}

    def record(self) -> Recording:
        """The checked graph, and its state."""
        inputs = [self._fake(name, shape) for name, shape in self._shapes]
        module = self._trace(inputs)
        specs = self._specs(inputs)
        self._find_state(module)
        graph = self._graph(module, specs)
        try:
            program = check(_without_dead(graph))
            wire.encode(program.graph)
        except OperationNotAllowedError as error:
            raise OperationNotAllowedError(f"{self._name} cannot be a plan: {error}") from error
        except UnsupportedDtypeError as error:
            raise PlanError(f"{self._name} cannot be a plan: {error}") from error
        return Recording(program, [tensor for _, tensor in self._state])

    def _fake(self, name: str, shape: Shape) -> Tensor:
        sizes = [self._hint if size < 0 else size for size in shape.shape]
        dynamic = [DimDynamic.DYNAMIC if size < 0 else DimDynamic.STATIC for size in shape.shape]
        return self._mode.from_tensor(
            torch.empty(sizes, dtype=shape.dtype),
            symbolic_context=StatelessSymbolicContext(dynamic_sizes=dynamic),  # type: ignore[arg-type]
            source=ConstantSource(name),
        )

    def _trace(self, inputs: list[Tensor]) -> fx.GraphModule:
        before = {id(tensor): (tensor, tensor.grad) for _, tensor in [*self._state, *self._named()] if tensor.is_leaf}
        for tensor, _ in before.values():
            tensor.grad = None
        try:
            with optimizers.prepared(), _readable(self._name):
                return make_fx(self._called, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs)
        finally:
            for tensor, gradient in before.values():
                tensor.grad = gradient

    def _called(self, *inputs: Tensor) -> list[Any]:
        """The function on flat inputs; its flat results."""
        args, kwargs = forms.unpack(self._arguments, lambda ref: inputs[ref.number])
        results: list[Any] = []
        self._output = forms.pack(self._function(*args, **kwargs), lambda leaf: self._leaf(leaf, results))
        return results

    def _leaf(self, value: Any, results: list[Any]) -> Any:
        if isinstance(value, (Tensor, torch.SymInt)):
            results.append(value)
            return Ref(len(results) - 1)
        if isinstance(value, (torch.SymFloat, torch.SymBool)) or not isinstance(value, forms.PLAIN):
            raise PlanError(
                f"{self._name} gives a {type(value).__name__}; a plan gives tensors, sizes, and lists, tuples and dictionaries of them."
            )
        return value

    def _specs(self, inputs: list[Tensor]) -> list[Spec]:
        groups: dict[Any, int] = {}
        return [
            Spec(name, dtype_name(shape.dtype), [
                wanted if wanted >= 0 else self._group(name, size, groups)
                for wanted, size in zip(shape.shape, fake.shape, strict=True)
            ])
            for (name, shape), fake in zip(self._shapes, inputs, strict=True)
        ]  # fmt: skip

    def _group(self, name: str, size: Any, groups: dict[Any, int]) -> int:
        expression = self._env.replace(size.node.expr) if isinstance(size, torch.SymInt) else None
        if expression is None or not expression.free_symbols:
            raise PlanError(
                f"{self._name} works for one size only of a dimension of {name} given as -1; give that size instead."
            )
        return groups.setdefault(expression, -1 - len(groups))

    def chose_by_size(self) -> bool:
        """Whether torch had to know a free size, other than that two are equal."""
        return bool(self.choices())

    def choices(self) -> str:
        """What torch had to know."""
        return ", ".join(
            str(guard.expr)
            for guard in self._env.guards
            if not (guard.expr.func.__name__ == "Equality" and all(side.is_Symbol for side in guard.expr.args))
        )

    def _find_state(self, module: fx.GraphModule) -> None:
        """Give every captured tensor a place and a name."""
        names: dict[int, str] = {}
        for name, tensor in self._named():
            names.setdefault(id(tensor), name)
        for node in module.graph.nodes:
            if node.op == "get_attr":
                tensor = getattr(module, node.target)
                if id(tensor) not in self._places:
                    name = names.get(id(tensor), f"constant.{len(self._state)}")
                    _require_plain(name, tensor)
                    self._places[id(tensor)] = len(self._state)
                    self._state.append((name, tensor))

    def _graph(self, module: fx.GraphModule, specs: list[Spec]) -> Graph:
        nodes: list[Node] = []
        first = len(specs) + len(self._state)
        placeholders = 0
        results: list[Any] = []
        for node in module.graph.nodes:
            if node.op == "placeholder":
                self._numbers[node], placeholders = placeholders, placeholders + 1
            elif node.op == "get_attr":
                self._numbers[node] = len(specs) + self._places[id(getattr(module, node.target))]
            elif node.op == "output":
                results = list(node.args[0])
            elif not _left_out(node):
                self._numbers[node] = first + len(nodes)
                nodes.append(self._node(node))
        output = _replaced(self._output, [self._argument(result) for result in results])
        state = [Spec(name, dtype_name(tensor.dtype), list(tensor.shape)) for name, tensor in self._state]
        return Graph(VERSION, self._name, specs, self._arguments, state, nodes, output)

    def _node(self, node: fx.Node) -> Node:
        target = node.target
        args = [self._argument(arg) for arg in node.args]
        kwargs = {name: self._argument(value) for name, value in node.kwargs.items()}
        name = str(target)
        if name in numbers.SIZE_OPERATORS:
            return Node(f"size.{numbers.SIZE_OPERATORS[name]}", args)
        if name == "aten._local_scalar_dense.default":
            return Node("scalar", args)
        if isinstance(target, torch._ops.OpOverload):
            return Node(name, args, _without_none(kwargs))
        if target in numbers.NAMES:
            return Node(f"number.{numbers.NAMES[target]}", args)
        if getattr(target, "__name__", "") == "getitem":
            return Node("item", args)
        raise OperationNotAllowedError(f"{self._name} cannot be a plan: it uses {name}, which no worker runs.")

    def _argument(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            return Ref(self._numbers[value])
        if isinstance(value, (list, tuple)):
            return [self._argument(part) for part in value]
        return value


def _left_out(node: fx.Node) -> bool:
    return str(node.target) in _DROPPED or getattr(node.target, "namespace", "") == "profiler"


def _without_none(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments that are set; workers know neither pinned memory nor devices but cpu."""
    return {
        name: value
        for name, value in kwargs.items()
        if value is not None and name not in ("pin_memory", "device") and not (name == "layout" and value is torch.strided)
    }


def _replaced(form: Any, results: Sequence[Any]) -> Any:
    """A form whose leaves count the results, with the results themselves."""
    if isinstance(form, Ref):
        return results[form.number]
    if not isinstance(form, dict):
        return form
    ((kind, parts),) = form.items()
    if kind == "dict":
        return {kind: [[key, _replaced(part, results)] for key, part in parts]}
    return {kind: [_replaced(part, results) for part in parts]}


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Errors of recording, in terms of the user's function."""
    try:
        yield
    except ShareTorchError:
        raise
    except GuardOnDataDependentSymNode as error:
        raise PlanError(
            f"{name} takes its way by the values of a tensor (if, while, bool(x), or a size); a plan is the same for all "
            "values. Use torch.where or a mask."
        ) from error
    except Exception as error:
        raise PlanError(f"{name} cannot be recorded: {type(error).__name__}: {str(error).splitlines()[0]}") from error


def _without_dead(graph: Graph) -> Graph:
    """The graph without nodes whose results nobody uses, and which change nothing."""
    kept = {ref.number for ref in forms.refs(graph.output)}
    alive: list[int] = []
    for place in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[place]
        if graph.first + place in kept or _writes(node):
            alive.append(place)
            kept.update(used(node))
    return _renumbered(graph, alive[::-1])


def _writes(node: Node) -> bool:
    overload = node.operator.split(".")[1:]
    return node.operator.startswith("aten.") and (overload[0].endswith("_") or _schema_writes(node.operator))


def _schema_writes(name: str) -> bool:
    _, base, overload = name.split(".")
    schema = getattr(getattr(torch.ops.aten, base), overload)._schema
    return bool(schema.is_mutable) or base in ("native_batch_norm", "_batch_norm_impl_index")


def _renumbered(graph: Graph, alive: list[int]) -> Graph:
    numbers_ = {place: place for place in range(graph.first)}
    numbers_.update({graph.first + old: graph.first + new for new, old in enumerate(alive)})

    def moved(value: Any) -> Any:
        if isinstance(value, Ref):
            return Ref(numbers_[value.number])
        return [moved(part) for part in value] if isinstance(value, list) else value

    nodes = [
        Node(node.operator, moved(node.args), {name: moved(value) for name, value in node.kwargs.items()})
        for node in (graph.nodes[place] for place in alive)
    ]
    output = _replaced(graph.output, _Lookup(numbers_))  # type: ignore[arg-type]
    return Graph(graph.version, graph.name, graph.inputs, graph.arguments, graph.state, nodes, output)


class _Lookup:
    """Values by their former number."""

    def __init__(self, numbers_: dict[int, int]) -> None:
        self._numbers = numbers_

    def __getitem__(self, number: int) -> Ref:
        return Ref(self._numbers[number])


def dtype_named(dtype: Any) -> torch.dtype:
    """A dtype, or that of a name.

    Raises:
        PlanError: there is none of that name.
    """
    found = dtype if isinstance(dtype, torch.dtype) else DTYPES.get(str(dtype))
    if found is None:
        raise PlanError(f"{dtype!r} is no dtype.")
    return found


def is_recording(x: Any) -> bool:
    """Whether a tensor stands for one that is being recorded."""
    return isinstance(x, FakeTensor)
