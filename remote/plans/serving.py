"""How a node keeps plans and runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import torch
from torch import Tensor

from sharetorch.mpc.errors import LimitExceededError, MalformedRequestError, OperationNotAllowedError
from sharetorch.remote import execution, limits, wire
from sharetorch.remote.access import delete, reader, usable
from sharetorch.remote.audit import Call
from sharetorch.remote.messages import Call as CallRequest
from sharetorch.remote.messages import Made, Meta
from sharetorch.remote.methods import method
from sharetorch.remote.node import Node, handles
from sharetorch.remote.objects import KINDS, Readers, Record, dtype_name, memory_of, storage_of
from sharetorch.remote.operators import Operator
from sharetorch.remote.plans import forms
from sharetorch.remote.plans.checking import check
from sharetorch.remote.plans.graph import Graph
from sharetorch.remote.plans.plan import Plan
from sharetorch.remote.plans.recording import Recording
from sharetorch.remote.plans.running import require_fit, run
from sharetorch.remote.wire import Ref

Runner = Callable[[Node, Record, CallRequest, Call], Made]

_OFTEN = 16
"""Memory inside a plan is counted when a 16th of what the node has left may have been added."""

RUNNERS: dict[str, Runner] = {}
"""What ``Call`` does with an object, by its kind."""


@handles(CallRequest)
def call_object(node: Node, request: CallRequest, call: Call) -> Made:
    """Serve ``Call``."""
    if request.forget:
        delete(node, request.forget, call)
    record = usable(node, request.number, call)
    kind = record.meta().kind
    runner = RUNNERS.get(kind)
    if runner is None:
        raise OperationNotAllowedError(
            f"Object {request.number} of {node.id} is a {kind}; plans and protocols can be called."
        )
    call.request = f"call {kind}"
    return runner(node, record, request, call)


class PlanCall:
    """One call of a plan at a node, by the rules of ``execution``: a result is as secret as all inputs and the state.

    Args:
        node: who runs it.
        record: of the plan.
        call: the request.
    """

    def __init__(self, node: Node, record: Record, call: Call) -> None:
        self._node = node
        self._record = record
        self._call = call
        self._plan: Plan = record.value
        self._operands = execution.Operands(node, call)
        self._written: set[Any] = set()
        self._fresh: dict[Any, Readers] = {}
        self._hidden = False
        self._uncounted = 0
        self._restriction: frozenset[str] | None = None

    def serve(self, request: CallRequest) -> Made:
        """Check the arguments, run the graph, keep the results."""
        program = self._plan.program
        args, kwargs = self._resolved(request.args), self._resolved(request.kwargs)
        inputs = list(forms.leaves(program.graph.arguments, (args, kwargs), program.graph.name))
        require_fit(program, inputs)
        self._operands.records.append(self._record)
        self._restriction = self._operands.restriction()
        self._hidden = self._restriction is not None and reader(self._node, self._call) not in self._restriction
        try:
            with torch.no_grad():
                values = run(program, inputs, self._plan.state.tensors(), self._compute, self._watch)
        finally:
            self._narrow()
        return self._keep_all(program.graph, values)

    def _resolved(self, value: Any) -> Any:
        if isinstance(value, Ref):
            return self._operands.tensor(value)
        if isinstance(value, dict):
            return {key: self._resolved(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self._resolved(part) for part in value]
        if isinstance(value, forms.PLAIN):
            return value
        raise MalformedRequestError(f"A plan cannot take a {type(value).__name__}; send() tensors first and name them.")

    def _compute(self, operator: Operator, args: list[Any], kwargs: dict[str, Any]) -> Any:
        for value in operator.written(args, kwargs):
            self._written.add(_place(value))
        result = execution.perform(self._node, operator, args, kwargs, self._hidden)
        for part in _parts(result):
            memory = memory_of(part)
            self._uncounted += 0 if memory is None else memory.nbytes()
        return result

    def _watch(self, values: dict[int, Any]) -> None:
        """Count the memory of all values whenever much may have been added.

        Raises:
            LimitExceededError: intermediate values take more than the node has left.
        """
        room = self._node.limits.store_bytes - self._node.objects.bytes
        if self._uncounted * _OFTEN < room:
            return
        self._uncounted = 0
        memories = (memory_of(part) for value in values.values() for part in _parts(value))
        sizes = {memory._cdata: memory.nbytes() for memory in memories if memory is not None}
        if sum(sizes.values()) > room:
            raise LimitExceededError(
                f"Values inside plan {self._plan.name} take {sum(sizes.values())} bytes; {self._node.id} has "
                f"room for {room}."
            )

    def _narrow(self) -> None:
        """What was written may hold something of every operand."""
        for record in self._operands.records:
            tensors = self._plan.state.tensors() if record is self._record else [record.value]
            if any(_place(tensor) in self._written for tensor in tensors):
                record.readers.narrow(self._restriction)

    def _keep_all(self, graph: Graph, values: dict[int, Any]) -> Made:
        """Hold each tensor of the output once, and tell the form of the whole; or hold nothing."""
        metas: list[Meta | None] = []
        places: dict[int, int] = {}

        def leaf(ref: Ref) -> Any:
            value = values[ref.number]
            if not isinstance(value, Tensor):
                return value
            if id(value) not in places:
                places[id(value)] = len(metas)
                metas.append(self._keep(value))
            return Ref(places[id(value)])

        try:
            return Made(metas, forms.mapped(graph.output, leaf))
        except Exception:
            for number in self._call.made:
                self._node.objects.pop(number, None)
            raise

    def _keep(self, value: Tensor) -> Meta:
        held = self._operands.holder_of(value)
        if held is not None:
            return held.meta()
        limits.require_fit(self._node, value)
        base = self._base_of(value)
        if base is None:
            value = _alone(value)
            readers = self._fresh.get(_place(value)) or self._readers()
            record = self._node.keep(value, self._call.sender, readers)
            self._fresh[_place(value)] = record.readers
        else:
            base.readers.narrow(self._restriction)
            record = self._node.keep(value, self._call.sender, base.readers)
        self._call.made.append(record.number)
        return record.meta()

    def _readers(self) -> Readers | None:
        return None if self._restriction is None else Readers(self._restriction)

    def _base_of(self, value: Tensor) -> Record | None:
        """The input whose memory a result shares, or the plan itself if it is memory of the state."""
        place = _place(value)
        if any(_place(tensor) == place for tensor in self._plan.state.tensors()):
            return self._record
        return self._operands.base_of(memory_of(value))


def _parts(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple)) else (value,)


def _alone(value: Tensor) -> Tensor:
    """A result whose memory nothing else uses, neither other results nor what kernels left there."""
    memory = memory_of(value)
    if memory is None or memory.nbytes() <= value.numel() * value.element_size():
        return value
    return value.clone()


def _place(value: Any) -> Any:
    """The same for tensors that are views of one memory."""
    storage = storage_of(value)
    return id(value) if storage is None else ("storage", storage)


def _run_plan(node: Node, record: Record, request: CallRequest, call: Call) -> Made:
    return PlanCall(node, record, call).serve(request)


@method("copy_plan")
def _copy_plan(node: Node, record: Record, call: Call) -> Plan:
    if not isinstance(record.value, Plan):
        raise MalformedRequestError(f"Object {record.number} of {node.id} is no plan.")
    return record.value.copy()


# ---------------------------------------------------------------------------------------------------- on the wire


class PlanFields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A plan on the wire: its graph, and the tensors of its state."""

    graph: Graph
    state: list[Any]
    tags: list[str]
    description: str | None


def _pack(plan: Plan) -> bytes:
    recording = plan._built()
    return wire.encode(
        PlanFields(
            recording.program.graph, [_plain(tensor) for tensor in recording.state], sorted(plan.tags), plan.description
        )
    )


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach() if isinstance(tensor, Tensor) else tensor


def _unpack(data: bytes, node: Any) -> Plan:
    """A plan that came by wire, every node of it checked."""
    fields = wire.Decoder(PlanFields, node).decode(data)
    program = check(fields.graph)
    if len(fields.state) != len(fields.graph.state):
        raise MalformedRequestError(
            f"{len(fields.graph.state)} tensors of state are named, and {len(fields.state)} came."
        )
    for spec, tensor in zip(fields.graph.state, fields.state, strict=True):
        if not isinstance(tensor, Tensor) or list(tensor.shape) != spec.shape or dtype_name(tensor.dtype) != spec.dtype:
            raise MalformedRequestError(
                f"The state {spec.name[:80]!r} is no {spec.dtype} tensor of shape {spec.shape}."
            )
    plan = Plan.of(Recording(program, list(fields.state)))
    plan.tag(*fields.tags)
    plan.description = fields.description
    return plan


RUNNERS["plan"] = _run_plan
KINDS[Plan] = "plan"
wire.register(19, Plan, _pack, _unpack)
