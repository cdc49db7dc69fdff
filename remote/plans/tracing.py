"""Recording a function as a graph, by PyTorch's own ``make_fx`` on tensors without data.

Nothing is computed while recording, and no tensor of the user changes. Backward passes and optimizer steps inside the
function are recorded with it, for ``make_fx`` sees the aten operations below autograd. Sizes that are free are symbols
to torch; where the function (or a kernel) chooses by such a size, the function is recorded again with another size, and
refused if the two differ.

Importing this module loads much of torch that nothing else needs, so ``plan`` does so at the first ``build``.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, get_proxy_mode, make_fx, track_tensor
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    GuardOnDataDependentSymNode,
    ShapeEnv,
    StatelessSymbolicContext,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from sharetorch.mpc.errors import OperationNotAllowedError, PlanError, ShareTorchError, UnsupportedDtypeError
from sharetorch.remote import wire
from sharetorch.remote.objects import PLAIN, dtype_name
from sharetorch.remote.plans import forms, numbers, optimizers
from sharetorch.remote.plans.checking import Program, check
from sharetorch.remote.plans.cleaning import without_dead
from sharetorch.remote.plans.graph import VERSION, Graph, Node, Spec
from sharetorch.remote.plans.recording import Recording, Shape
from sharetorch.remote.wire import Ref

_HINT = 6
"""Stands for a free size while recording."""

_OTHER_SIZES = (*range(2, 130), 257, 1031, 4099, 16411, 65537)
"""Where torch had to know something of a free size, the first of these of which it does not hold is tried too."""

_DROPPED = {
    "aten._assert_async.msg", "aten._assert_tensor_metadata.default", "aten._assert_scalar.default",
    "aten.sym_constrain_range_for_size.default", "aten.sym_constrain_range.default",
}  # fmt: skip
"""What recorded programs check on their way; a plan checks its inputs itself."""


def record(
    function: Callable[..., Any], name: str, arguments: Any, shapes: list[tuple[str, Shape]],
    known: list[tuple[str, Tensor]], named: Callable[[], Iterator[tuple[str, Tensor]]],
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

    def tracer(hint: int) -> _Tracer:
        return _Tracer(function, name, arguments, shapes, known, named, hint)

    first = tracer(_HINT)
    recording = first.record()
    for choice, other in first.choices():
        if other is None or not tracer(other).gives(recording.program.graph):
            raise PlanError(
                f"{name} takes another way for another size of a dimension given as -1 ({choice} or not). Build it for "
                "fixed sizes, one plan for each."
            )
    first.forget()
    del first
    if any(map(_is_held, recording.state)):
        gc.collect()  # what torch kept of the recording has cycles, and forbids to exchange tensors while it lives
    return recording


def _is_held(x: Any) -> bool:
    """Whether torch would refuse to exchange a tensor, which ``share`` and ``send`` of models do."""
    return bool(weakref.getweakrefcount(x)) or x._use_count() > 2


def _require_plain(label: str, tensor: Tensor) -> None:
    if type(tensor) not in PLAIN:
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
        self._places = {_memory(tensor): place for place, (_, tensor) in enumerate(known)}
        self._numbers: dict[fx.Node, int] = {}
        self._fakes: dict[Any, Tensor] = {}

    def record(self) -> Recording:
        """The checked graph with its state."""
        inputs = [self._fake(name, shape) for name, shape in self._shapes]
        module = self._trace(inputs)
        specs = self._specs(inputs)
        graph = self._graph(module, specs)
        try:
            program = check(without_dead(graph))
            wire.encode(program.graph)
        except OperationNotAllowedError as error:
            raise OperationNotAllowedError(f"{self._name} cannot be a plan: {error}") from error
        except UnsupportedDtypeError as error:
            raise PlanError(f"{self._name} cannot be a plan: {error}") from error
        state = [tensor for _, tensor in self._state]
        self._require_apart(program, state)
        return Recording(program, state)

    def forget(self) -> None:
        """Let go of the user's tensors, which torch remembers weakly."""
        converter: Any = self._mode.fake_tensor_converter.meta_converter
        described = getattr(getattr(converter, "describer", None), "lookup_tensor", None)
        if described is not None:
            described.clear()

    def gives(self, graph: Graph) -> bool:
        """Whether the graph is this one."""
        try:
            return wire.encode(self.record().program.graph) == wire.encode(graph)
        except PlanError:
            return False

    def _require_apart(self, program: Program, state: list[Tensor]) -> None:
        storages = [tensor.untyped_storage()._cdata for tensor in state if tensor.numel()]
        if program.writes and len(set(storages)) < len(storages):
            raise PlanError(
                f"{self._name} changes tensors in place, and two tensors of its state are views of one memory, which "
                "they would not be at a worker. Clone one of them, or make the view inside the function."
            )

    def _fake(self, name: str, shape: Shape) -> Tensor:
        sizes = [self._hint if size < 0 else size for size in shape.shape]
        dynamic = [DimDynamic.DYNAMIC if size < 0 else DimDynamic.STATIC for size in shape.shape]
        return self._mode.from_tensor(
            torch.empty(sizes, dtype=shape.dtype),
            symbolic_context=StatelessSymbolicContext(dynamic_sizes=dynamic),
            source=ConstantSource(name),
        )

    def _trace(self, inputs: list[Tensor]) -> fx.GraphModule:
        before = {id(tensor): (tensor, tensor.grad) for _, tensor in [*self._state, *self._named()] if tensor.is_leaf}
        for tensor, _ in before.values():
            tensor.grad = None
        try:
            with optimizers.prepared(), _readable(self._name), torch.enable_grad():
                return make_fx(self._called, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*inputs)
        finally:
            for tensor, gradient in before.values():
                tensor.grad = gradient
            for _, tensor in self._state:
                if tensor.is_leaf and isinstance(tensor.grad, FakeTensor):
                    tensor.grad = None

    def _called(self, *inputs: Tensor) -> list[Any]:
        """The function on flat inputs; its flat results."""
        for value, (_, shape) in zip(inputs, self._shapes, strict=True):
            value.requires_grad_(shape.requires_grad)
        args, kwargs = forms.unpack(self._arguments, lambda ref: inputs[ref.number])
        results: list[Any] = []
        with _Capture(self):
            self._output = forms.pack(self._function(*args, **kwargs), lambda leaf: self._leaf(leaf, results))
        return results

    def _leaf(self, value: Any, results: list[Any]) -> Any:
        if type(value) in PLAIN:
            value = self.captured(value)
        if isinstance(value, (Tensor, torch.SymInt)):
            results.append(value)
            return Ref(len(results) - 1)
        if isinstance(value, (torch.SymFloat, torch.SymBool)) or not isinstance(value, forms.PLAIN):
            raise PlanError(
                f"{self._name} gives a {type(value).__name__}; a plan gives tensors, sizes, and lists, tuples and "
                "dictionaries of them."
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

    def choices(self) -> Iterator[tuple[str, int | None]]:
        """What torch had to know of free sizes, and a size of which it does not hold; None if no single size tells."""
        for guard in self._env.guards:
            expression = guard.expr
            if expression.func.__name__ == "Equality" and all(side.is_Symbol for side in expression.args):
                continue
            if len({self._env.replace(symbol) for symbol in expression.free_symbols}) > 1:
                yield str(expression), None
                continue
            others = (size for size in _OTHER_SIZES if not self._holds(expression, size))
            other = next(others, _HINT)
            if other != _HINT:
                yield str(expression), other

    def _holds(self, expression: Any, size: int) -> bool:
        return expression.subs(dict.fromkeys(expression.free_symbols, size)) not in (False, 0)

    def captured(self, tensor: Tensor) -> Tensor:
        """What stands for a tensor of the user's while recording; the tensor becomes state at its first use."""
        memory = _memory(tensor)
        place = self._places.get(memory)
        if place is None:
            place = self._places[memory] = len(self._state)
            self._state.append(self._named_as(memory, tensor))
        if memory not in self._fakes:
            self._fakes[memory] = self._stand_in(self._state[place][1])
        return self._fakes[memory]

    def _stand_in(self, tensor: Tensor) -> Tensor:
        """A tensor without data, known to torch as the user's tensor."""
        mode = get_proxy_mode()
        assert mode is not None
        with disable_proxy_modes_tracing():
            fake = self._mode.from_tensor(tensor.detach(), static_shapes=True)
        node: Any = mode.tracer.create_arg(tensor)
        track_tensor(fake, mode.tracer.proxy(node), constant=None, tracer=mode.tracer)
        return fake

    def _named_as(self, memory: Any, tensor: Tensor) -> tuple[str, Tensor]:
        """Name of a captured tensor, and the object by which the function knows it."""
        for name, named in self._named():
            if type(named) in PLAIN and _memory(named) == memory:
                return name, named
        return f"constant.{len(self._state)}", tensor

    def _graph(self, module: fx.GraphModule, specs: list[Spec]) -> Graph:
        for node in module.graph.find_nodes(op="get_attr"):
            self._place(getattr(module, node.target))
        nodes: list[Node] = []
        first = len(specs) + len(self._state)
        placeholders = 0
        results: list[Any] = []
        for node in module.graph.nodes:
            if node.op == "placeholder":
                self._numbers[node], placeholders = placeholders, placeholders + 1
            elif node.op == "get_attr":
                self._numbers[node] = len(specs) + self._place(getattr(module, node.target))
            elif node.op == "output":
                results = list(node.args[0])
            elif not _left_out(node):
                self._numbers[node] = first + len(nodes)
                nodes.append(self._node(node))
        output = forms.mapped(self._output, lambda ref: self._argument(results[ref.number]))
        state = [Spec(name, dtype_name(tensor.dtype), list(tensor.shape)) for name, tensor in self._state]
        return Graph(VERSION, self._name, specs, self._arguments, state, nodes, output)

    def _place(self, tensor: Tensor) -> int:
        """Place of a tensor in the state; one that the function itself made, of numbers, becomes a constant there."""
        memory = _memory(tensor)
        if memory not in self._places:
            self._places[memory] = len(self._state)
            self._state.append((f"constant.{len(self._state)}", tensor))
        return self._places[memory]

    def _node(self, node: fx.Node) -> Node:
        target = node.target
        args = [self._argument(arg) for arg in node.args]
        kwargs = {name: self._argument(value) for name, value in node.kwargs.items()}
        name = str(target)
        if name in numbers.SIZE_OPERATORS:
            return Node(f"size.{numbers.SIZE_OPERATORS[name]}", args)
        if name == "aten._local_scalar_dense.default":
            return Node("scalar", args)
        if target is torch.ops.aten._convolution.default:  # of torch.jit.trace: some more arguments
            return Node("aten.convolution.default", args[:9])
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


class _Capture(TorchDispatchMode):
    """Puts stand-ins in place of the user's tensors: torch would change some, and take values of others as constant."""

    def __init__(self, tracer: _Tracer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation, on stand-ins."""
        if func not in _LIFTS:
            args, kwargs = tree_map_only(Tensor, self._known, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _known(self, x: Tensor) -> Tensor:
        return self._tracer.captured(x) if type(x) in PLAIN else x


_LIFTS = (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default)
"""What torch.tensor(...) begins with: the tensor is made of numbers, and is no state."""


def _memory(x: Tensor) -> Any:
    """The same for two tensors that are the same elements of the same memory, such as ``p`` and ``p.data``."""
    if type(x) not in PLAIN:
        return id(x)
    return (x.untyped_storage()._cdata, x.storage_offset(), x.shape, x.stride(), x.dtype)


def _left_out(node: fx.Node) -> bool:
    return str(node.target) in _DROPPED or getattr(node.target, "namespace", "") == "profiler"


def _without_none(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments that are set; workers know neither pinned memory nor devices but cpu."""
    return {
        name: value
        for name, value in kwargs.items()
        if value is not None
        and name not in ("pin_memory", "device")
        and not (name == "layout" and value is torch.strided)
    }


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Errors of recording, in terms of the user's function."""
    try:
        yield
    except ShareTorchError:
        raise
    except GuardOnDataDependentSymNode as error:
        raise PlanError(
            f"{name} takes its way by the values of a tensor (if, while, bool(x), or a size); a plan is the same for "
            "all values. Use torch.where or a mask."
        ) from error
    except Exception as error:
        raise PlanError(f"{name} cannot be recorded: {type(error).__name__}: {str(error).splitlines()[0]}") from error
