"""``Plan``: a function recorded once, sent as data, and run by one message.

@st.func2plan(args_shape=[(-1, 2)])
def double(x):
    return x * 2

ptr = double.send(bob)
y = ptr(x.send(bob))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sharetorch.mpc.errors import MembersError, PlanError, UnsupportedOperationError
from sharetorch.mpc.session import new_id
from sharetorch.nn.exchange import exchange
from sharetorch.remote.messages import Store
from sharetorch.remote.node import Node
from sharetorch.remote.plans import captured, forms
from sharetorch.remote.plans.checking import Program
from sharetorch.remote.plans.examples import argument_names, examples
from sharetorch.remote.plans.listing import listing
from sharetorch.remote.plans.pointer import PlanPointers, PointerPlan
from sharetorch.remote.plans.recording import Recording, Shape
from sharetorch.remote.plans.running import locally, require_fit
from sharetorch.remote.plans.state import State
from sharetorch.remote.plans.translation import TranslationTarget
from sharetorch.remote.pointer import PointerTensor
from sharetorch.remote.wire import DTYPES, Ref
from sharetorch.remote.worker import local

Shapes = Sequence[Any]


class Plan(nn.Module):
    """A function of tensors that can be recorded and sent to workers.

    Made by ``func2plan``, by a subclass with layers and a ``forward``, or by fetching one from a worker; a fetched plan
    has no ``forward``, only the recorded graph. Being a module, a plan has parameters that optimizers take.

    Calling it runs ``forward`` until it is built, and the recorded graph from then on. A built plan takes shapes and
    dtypes as it was built for; -1 in ``args_shape`` leaves a size free, and a plan that computes each element by
    itself takes any. Recorded is what the function does with these tensors: other values it reads (numbers, lists)
    are fixed at ``build``.

    Args:
        name: of the plan; that of the function or class if not given.
        forward: the function, unless a subclass defines it.
        state: tensors the function reads by ``state.read()``.
        args_shape: shapes to build for at once.
    """

    forward: Any = None

    def __init__(
        self,
        name: str | None = None,
        forward: Callable[..., Any] | None = None,
        state: Any = (),
        args_shape: Shapes | None = None,
    ) -> None:
        super().__init__()
        self.name = str(name or (type(self).__name__ if forward is None else getattr(forward, "__name__", "plan")))
        self.id = new_id()
        self._explicit = state if isinstance(state, State) else State(state)
        self._recording: Recording | None = None
        self._sources: tuple[nn.Module, ...] = ()
        self._kept: dict[str, PointerPlan] = {}
        self._sent: dict[str, tuple[Any, Any]] = {}
        self._labels: list[str] = []
        self.description: str | None = None
        if forward is not None:
            self.forward = forward
        if args_shape is not None:
            self.build(args_shape=args_shape)

    # ------------------------------------------------------------------------------------------------------ building

    def build(
        self, *args: Any, args_shape: Shapes | None = None, dtypes: Sequence[Any] | None = None, flexible: bool = False,
        trace_autograd: bool = False, **kwargs: Any,
    ) -> Plan:  # fmt: skip
        """Record the function. Nothing is computed and no tensor changes.

        Gradients begin as None in every call of the plan; backward passes and optimizer steps inside the function are
        recorded with it. The state of optimizers (momentum) becomes state of the plan.

        Args:
            args: tensors whose shapes and dtypes the plan is for; also lists, tuples and dictionaries of them.
            args_shape: shapes instead, -1 for a size that is free; float32 unless ``dtypes`` says otherwise.
            dtypes: of ``args_shape``, in order.
            flexible: whether the first dimension of every tensor is free.
            trace_autograd: whether all real inputs need gradients while recording, so that a backward pass inside the
                function reaches them; otherwise those do whose examples do.
            kwargs: keyword arguments, as ``args``.

        Returns:
            The plan itself.

        Raises:
            PlanError: the function cannot be recorded.
            PlanShapeError: ``args_shape`` holds something that is no shape.
            OperationNotAllowedError: it uses an operation that no worker runs.
        """
        if self.forward is None:
            raise PlanError(
                f"{self.name} has no forward to build from: it is a graph that was fetched. It is built already."
            )
        from sharetorch.remote.plans import tracing

        if args_shape is not None:
            args = examples(args_shape, dtypes)
        inputs: list[tuple[str, Shape]] = []
        names = argument_names(self.forward, len(args), self._takes_state())
        positional = [self._form(part, name, inputs, flexible) for part, name in zip(args, names, strict=True)]
        named = [[name, self._form(part, name, inputs, flexible)] for name, part in kwargs.items()]
        if trace_autograd:
            inputs = [(name, replace(shape, requires_grad=shape.dtype.is_floating_point)) for name, shape in inputs]
        arguments = {"tuple": [{"tuple": positional}, {"dict": named}]}
        self._recording = tracing.record(
            self._run_forward, self.name, arguments, inputs, list(self._known()), self._named_tensors
        )
        self._sent.clear()
        return self

    def _form(self, value: Any, name: str, inputs: list[tuple[str, Shape]], flexible: bool) -> Any:
        def leaf(part: Any) -> Any:
            if isinstance(part, Tensor):
                part = Shape(tuple(part.shape), part.dtype, part.requires_grad)
            if isinstance(part, Shape):
                shape = (-1, *part.shape[1:]) if flexible and part.shape else part.shape
                label = name if not any(name == other for other, _ in inputs) else f"{name}_{len(inputs)}"
                inputs.append((label, Shape(shape, part.dtype, part.requires_grad)))
                return Ref(len(inputs) - 1)
            if isinstance(part, forms.PLAIN):
                return part
            raise PlanError(
                f"{self.name}: argument {name} holds a {type(part).__name__}; plans take tensors, numbers and "
                "nests of them."
            )

        return forms.pack(value, leaf)

    def _takes_state(self) -> bool:
        return bool(len(self._explicit)) and "state" in inspect.signature(self.forward).parameters

    def _known(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._explicit.named().items()
        yield from captured.module_tensors("", self)
        for module in self._sources:
            yield from captured.module_tensors("", module)

    def _named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from captured.tensors_of(self.forward)
        for name, value in vars(self).items():
            if not name.startswith("_"):
                yield from captured.named(name, value)

    @property
    def is_built(self) -> bool:
        """Whether the function is recorded."""
        return self._recording is not None

    @property
    def program(self) -> Program:
        """The checked graph.

        Raises:
            PlanError: the plan is not built.
        """
        return self._built().program

    def _built(self) -> Recording:
        if self._recording is None:
            raise PlanError(
                f"Plan {self.name} needs to be built before being sent: {self.name}.build(...) with tensors it is for."
            )
        return self._recording

    # ------------------------------------------------------------------------------------------------------- running

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the plan here, or, on pointers, at their worker, to which it is sent if need be.

        Raises:
            PlanShapeError: other shapes or dtypes than it was built for.
            PlanError: it is neither built nor has a function.
        """
        if self._recording is None:
            if self.forward is None:
                raise PlanError(f"Plan {self.name} has neither a graph nor a function to run.")
            return self._run_forward(*args, **kwargs)
        graph = self._recording.program.graph
        inputs = list(forms.leaves(graph.arguments, (args, kwargs), graph.name))
        there = next((given.location for given in inputs if isinstance(given, PointerTensor)), None)
        if there is not None:
            self._kept[there.id] = self._send_one(there, local())
            return self._kept[there.id](*args, **kwargs)
        if not torch._C._is_tracing():  # there sizes are no numbers
            require_fit(self._recording.program, inputs)
        return locally(self._recording.program, inputs, self._recording.state)

    def _run_forward(self, *args: Any, **kwargs: Any) -> Any:
        if self._takes_state() and "state" not in kwargs:
            kwargs["state"] = self._explicit
        return self.forward(*args, **kwargs)

    # --------------------------------------------------------------------------------------------------------- state

    @property
    def state(self) -> State:
        """What the plan keeps: parameters, buffers, captured tensors, and optimizers' own."""
        if self._recording is None:
            return self._explicit
        return State(self._recording.state, [spec.name for spec in self._recording.program.graph.state])

    @state.setter
    def state(self, given: Any) -> None:
        if not isinstance(given, State):
            raise PlanError("The state of a plan is what it has: set tensors and layers as attributes of the plan.")

    def named_state(self) -> dict[str, Tensor]:
        """The state by name, such as "fc1.weight"."""
        return self.state.named()

    def load_state(self, named: dict[str, Tensor]) -> Plan:
        """Write tensors into the state, in place: ``plan.load_state(ptr.get().named_state())``.

        Raises:
            PlanError: a name that the state does not have, or another shape.
        """
        own = self.named_state()
        for name, value in named.items():
            if name not in own or own[name].shape != value.shape:
                raise PlanError(
                    f"{self.name} has no {name!r} of shape {list(value.shape)} in its state; it has {', '.join(own)}."
                )
        with torch.no_grad():
            for name, value in named.items():
                own[name].copy_(value)
        return self

    def _exchange(self, change: Callable[[Any], Tensor]) -> Plan:
        """Let every tensor of the state that is real become ``change`` of itself, in place: all, or none."""
        exchange(self, [tensor for tensor in self.state if tensor.dtype.is_floating_point], change)
        self._sent.clear()
        return self

    def fix_precision(self, *args: Any, **kwargs: Any) -> Plan:
        """Write the state in fixed point, in place. Returns the plan."""
        return self._exchange(lambda old: old.fix_precision(*args, **kwargs))

    def float_precision(self) -> Plan:
        """Decode the state, in place. Returns the plan."""
        return self._exchange(lambda old: old.float_precision())

    def share(self, *workers: Any, **options: Any) -> Plan:
        """Share the state among workers, in place; the plan then runs on shared tensors. Options as for tensors."""
        options.pop("requires_grad", None)
        return self._exchange(lambda old: old.share(*workers, **options))

    fix_prec = fix_precision_ = fix_prec_ = fix_precision
    float_prec = float_precision_ = float_prec_ = float_precision
    share_ = share

    def get(self, *args: Any, **kwargs: Any) -> Plan:
        """Open the state if it is shared, in place. Returns the plan."""
        return self._exchange(lambda old: old.get())

    get_ = decrypt = get

    def copy(self) -> Plan:
        """A plan with the same graph and a copy of the state, and no ``forward``."""
        recording = self._built()
        with torch.no_grad():
            state = [tensor.detach().clone() for tensor in recording.state]
        made = Plan.of(Recording(recording.program, state))
        made._labels, made.description = list(self._labels), self.description
        return made

    def add_to_state(self, *names: str) -> None:
        """Accepted for the tutorials' sake: all layers and tensors a plan has are its state."""

    @classmethod
    def of(cls, recording: Recording) -> Plan:
        """A plan without a function, from a graph and its state."""
        made = Plan(recording.program.graph.name)
        made._recording = recording
        return made

    # ------------------------------------------------------------------------------------------------------- sending

    def send(self, *workers: Any, owner: Node | None = None, **_: Any) -> Any:
        """Send the plan and a copy of its state to one or several workers.

        Sending again to a worker gives the same pointer, as long as that lives and the state here has not changed.

        Returns:
            A ``PointerPlan``; ``PlanPointers`` for several workers.

        Raises:
            PlanError: the plan is not built.
            MembersError: no worker is given.
        """
        if not workers:
            raise MembersError("send() needs a worker: plan.send(bob).")
        self._built()
        pointers = [self._send_one(worker, owner or local()) for worker in workers]
        return pointers[0] if len(pointers) == 1 else PlanPointers(pointers)

    def _send_one(self, worker: Any, owner: Node) -> PointerPlan:
        name = worker if isinstance(worker, str) else getattr(worker, "id", None)
        if not isinstance(name, str):
            raise MembersError(f"{worker!r} is no worker. Make one with st.VirtualWorker(id=...).")
        state = tuple((id(tensor), tensor._version) for tensor in self.state)
        before, reference = self._sent.get(name, (None, None))
        pointer: PointerPlan | None = reference() if before == state else None
        if pointer is None or not pointer.alive:
            link = owner.link(name)
            reply = link.request(Store([self], [], list(self._labels), self.description))
            pointer = PointerPlan.to(reply.results[0], link, self.program)
            self._sent[name] = (state, pointer.reference())
        return pointer

    @property
    def owner(self) -> Any:
        """The worker that holds the plan itself."""
        return local()

    @property
    def tags(self) -> set[str]:
        """By which the plan is found once it is sent."""
        return set(self._labels)

    def tag(self, *tags: str) -> Plan:
        """Let the plan be found by these tags once it is sent."""
        self._labels = list(dict.fromkeys([*self._labels, *tags]))
        return self

    def describe(self, text: str) -> Plan:
        """Say what the plan is."""
        self.description = text
        return self

    # ------------------------------------------------------------------------------------------------------- reading

    @property
    def code(self) -> str:
        """The recorded graph as text, in the manner of Python."""
        return listing(self.program.graph)

    readable_plan = code

    @property
    def actions(self) -> list[Any]:
        """The operations, in order."""
        return list(self.program.graph.nodes)

    @property
    def torchscript(self) -> Any:
        """The plan as TorchScript, for sizes as it was built with; 2 where a size is free. Not sent anywhere."""
        graph = self.program.graph
        inputs = [
            torch.zeros([size if size >= 0 else 2 for size in spec.shape], dtype=DTYPES[spec.dtype])
            for spec in graph.inputs
        ]
        args, kwargs = forms.unpack(graph.arguments, lambda ref: inputs[ref.number])
        if kwargs:
            raise UnsupportedOperationError("TorchScript of a plan with keyword arguments is not available.")
        state = [tensor.detach() for tensor in self.state]

        def run(*given: Any) -> Any:
            return locally(self.program, list(forms.leaves(graph.arguments, (given, {}))), state)

        return torch.jit.trace(run, args)

    @property
    def base_framework(self) -> TranslationTarget:
        """The form in which the plan is; there is only one."""
        return TranslationTarget.PYTORCH

    @base_framework.setter
    def base_framework(self, target: TranslationTarget | str) -> None:
        wanted = TranslationTarget(target)
        if wanted is not TranslationTarget.PYTORCH:
            raise UnsupportedOperationError(f"A plan cannot be had as {wanted.value}; it is aten operations.")

    def __repr__(self) -> str:
        kind = type(self).__name__
        head = f"<{kind} {self.name} id:{self.id} owner:{self.owner.id}{' built' if self.is_built else ''}>"
        return f"{head}\n{self.code}" if self.is_built else head

    __str__ = __repr__


def func2plan(
    args_shape: Shapes | None = None, state: Any = (), *, dtypes: Sequence[Any] | None = None, name: str | None = None,
    trace_autograd: bool = False,
) -> Callable[[Callable[..., Any]], Plan]:  # fmt: skip
    """Make a plan of a function.

    Args:
        args_shape: shapes of the arguments, to build at once; -1 for a size that is free. Without it, ``build`` later.
        state: tensors that the function reads by ``state.read()`` from its keyword argument ``state``.
        dtypes: of ``args_shape``, in order; float32 if not given.
        name: of the plan; that of the function if not given.
        trace_autograd: see ``build``; for ``args_shape``.

    Returns:
        A decorator that gives a ``Plan``.
    """

    def decorate(function: Callable[..., Any]) -> Plan:
        if not callable(function):
            raise PlanError(f"A plan is made of a function; {type(function).__name__} is none.")
        plan = Plan(name, function, state)
        if args_shape is None:
            return plan
        return plan.build(args_shape=args_shape, dtypes=dtypes, trace_autograd=trace_autograd)

    return decorate
