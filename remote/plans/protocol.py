"""``Protocol``: plans that run one after the other, each at its worker.

    protocol = st.Protocol([("first", plan_a), ("second", plan_b)])
    protocol.deploy(alice, bob)
    protocol.run(x).get()

Values go straight from worker to worker. A protocol can itself be sent to a worker, which then conducts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from torch import Tensor

from sharetorch.mpc.errors import GetNotPermittedError, MalformedRequestError, PlanError
from sharetorch.mpc.session import new_id
from sharetorch.remote import execution, wire
from sharetorch.remote.access import may_read
from sharetorch.remote.audit import Call
from sharetorch.remote.found import POINTERS
from sharetorch.remote.messages import Call as CallRequest
from sharetorch.remote.messages import Made, Meta, Store
from sharetorch.remote.node import Link, Node
from sharetorch.remote.objects import KINDS, Readers, Record
from sharetorch.remote.plans import forms
from sharetorch.remote.plans.checking import check
from sharetorch.remote.plans.graph import Graph
from sharetorch.remote.plans.plan import Plan
from sharetorch.remote.plans.pointer import CallOperands, ObjectPointer, PointerPlan
from sharetorch.remote.plans.serving import RUNNERS
from sharetorch.remote.pointer import PointerTensor, pointer_to
from sharetorch.remote.requests import Handle
from sharetorch.remote.wire import Ref
from sharetorch.remote.worker import local


class Step(NamedTuple):
    """One plan of a protocol.

    Attributes:
        name: of the worker, or a word that stands for one.
        plan: a ``Plan``, or a ``PointerPlan`` once it is deployed.
    """

    name: str
    plan: Any


class Protocol:
    """Plans in order, each with the name of the worker it is for.

    Args:
        plans: pairs of a name and a built plan. Plans with the same name run at the same worker.

    Raises:
        PlanError: something else than pairs of a name and a plan.
    """

    def __init__(self, plans: Sequence[Any]) -> None:
        self.id = new_id()
        self._steps = [_step(entry) for entry in plans]
        self._pointer: PointerProtocol | None = None
        self._labels: list[str] = []
        self.description: str | None = None

    @property
    def plans(self) -> list[tuple[str, Any]]:
        """Pairs of a name and a plan or pointer to one."""
        return [(step.name, step.plan) for step in self._steps]

    @property
    def workers_resolved(self) -> bool:
        """Whether the plans are at workers."""
        return bool(self._steps) and all(isinstance(step.plan, PointerPlan) for step in self._steps)

    is_resolved = workers_resolved

    @property
    def location(self) -> Any:
        """The worker that conducts the protocol, if it was sent to one."""
        return None if self._pointer is None else self._pointer.location

    @property
    def owner(self) -> Any:
        """The worker that holds the protocol."""
        return self.location or local()

    def deploy(self, *workers: Any) -> Protocol:
        """Send each plan to its worker: the first name stands for the first worker, and so on.

        Returns:
            The protocol itself.

        Raises:
            PlanError: another number of workers than of names; a plan that is not built; the protocol is elsewhere.
        """
        self._require_here("deploy()")
        names = list(dict.fromkeys(step.name for step in self._steps))
        if self.workers_resolved:
            raise PlanError(
                "The plans of this protocol are at workers already; make a new Protocol to deploy them elsewhere."
            )
        if len(workers) != len(names):
            raise PlanError(
                f"{len(workers)} workers for {len(names)} names ({', '.join(names)}); give one worker for each name."
            )
        places = dict(zip(names, workers, strict=True))
        self._steps = [Step(places[step.name].id, step.plan.send(places[step.name])) for step in self._steps]
        return self

    def run(self, *args: Any) -> Any:
        """Run the plans, the results of each being the arguments of the next.

        Args:
            args: tensors, or pointers to them; of a protocol that was sent, pointers to its worker.

        Returns:
            Pointers to the results at the last worker; of a protocol that was sent, pointers to such pointers.

        Raises:
            PlanError: it is not deployed, or was sent and the data is not where it is.
        """
        if self._pointer is not None:
            return self._pointer.run(*args)
        return conduct(self, args, local())

    __call__ = run

    def send(self, worker: Any) -> Protocol:
        """Let a worker conduct the protocol from now on. Returns the protocol itself, which is then elsewhere."""
        self._require_here("send()")
        link = local().link(worker if isinstance(worker, str) else worker.id)
        (meta,) = link.request(Store([self], [], list(self._labels), self.description)).results
        self._pointer = PointerProtocol(Handle(link, meta))
        return self

    def get(self, user: str | None = None, reason: str | None = None) -> Protocol:
        """Fetch the protocol back, in place."""
        if self._pointer is not None:
            self._steps = self._pointer.get(user, reason)._steps
            self._pointer = None
        return self

    def _require_here(self, what: str) -> None:
        if self._pointer is not None:
            raise PlanError(f"This protocol is at {self._pointer.location.id}; get() it before {what}.")

    @property
    def tags(self) -> set[str]:
        """By which the protocol is found once it is sent."""
        return set(self._labels)

    def tag(self, *tags: str) -> Protocol:
        """Let the protocol be found by these tags."""
        self._labels = list(dict.fromkeys([*self._labels, *tags]))
        if self._pointer is not None:
            self._pointer.tag(*tags)
        return self

    def describe(self, text: str) -> Protocol:
        """Say what the protocol is."""
        self.description = text
        if self._pointer is not None:
            self._pointer.describe(text)
        return self

    def __repr__(self) -> str:
        lines = [f"<Protocol id:{self.id} owner:{self.owner.id}{' resolved' if self.workers_resolved else ''}>"]
        return "\n".join([*lines, *(f" - {step.name}: {_told(step.plan)}" for step in self._steps)])


def _step(entry: Any) -> Step:
    name, plan = entry if isinstance(entry, (list, tuple)) and len(entry) == 2 else (None, None)
    name = getattr(name, "id", name)
    if not isinstance(name, str) or not isinstance(plan, (Plan, PointerPlan)):
        raise PlanError(f'A protocol is made of pairs ("name", plan); {type(entry).__name__} is none.')
    return Step(name, plan)


def _told(plan: Any) -> str:
    return repr(plan) if isinstance(plan, PointerPlan) else repr(plan).splitlines()[0]


def conduct(protocol: Protocol, args: tuple[Any, ...], node: Node) -> Any:
    """Run the plans from a node that holds the protocol and tensors or pointers.

    Raises:
        PlanError: the protocol is not deployed.
    """
    if not protocol.workers_resolved:
        raise PlanError("The plans of this protocol are at no workers yet; deploy(alice, bob, ...) it first.")
    values: Any = args
    for place, step in enumerate(protocol._steps):
        brought = [_brought(value, step.plan.location, node, place > 0) for value in values]
        result = step.plan(*brought)
        values = result if isinstance(result, (tuple, list)) else (result,)
    return result


def _brought(value: Any, worker: Any, node: Node, passing: bool) -> Any:
    """A value at a worker; results on their way are not left behind, and arguments stay where they are."""
    if not isinstance(value, Tensor):
        return value
    if not isinstance(value, PointerTensor):
        return value.send(worker, owner=node)  # type: ignore[attr-defined]
    if value.location is worker:
        return value
    return value.forwarded(worker, remove=passing)


class PointerProtocol(ObjectPointer):
    """A protocol at a worker, which conducts it."""

    def run(self, *args: Any) -> Any:
        """Let the worker run the protocol on tensors it holds.

        Returns:
            Pointers to the worker's pointers to the results.

        Raises:
            PlanError: an argument is not at the protocol's worker.
        """
        for arg in args:
            if isinstance(arg, Tensor) and getattr(arg, "location", None) is not self.location:
                raise PlanError(
                    f"The protocol is at {self.location.id}, and an argument is not; send it there: x.send(worker)."
                )
        operands = CallOperands(f"protocol at {self.location.id}", self.handle.link)
        reply: Made = self.handle.link.request(CallRequest(self.handle.number, operands.pack(args), {}))
        return operands.results(reply)

    __call__ = run


def _run_protocol(node: Node, record: Record, request: CallRequest, call: Call) -> Made:
    """Serve ``Call`` of a protocol."""
    if request.kwargs:
        raise MalformedRequestError("A protocol takes no keyword arguments.")
    operands = execution.Operands(node, call)
    protocol: Protocol = record.value
    if not protocol.workers_resolved:
        raise PlanError(
            "The plans of this protocol are at no workers yet; get() it, and deploy(alice, bob, ...) it first."
        )
    args = [_sent(node, operands, arg, protocol._steps[0].plan.location) for arg in request.args]
    restriction = operands.restriction()
    metas: list[Meta | None] = []

    def leaf(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        kept = node.keep(value, call.sender, None if restriction is None else Readers(restriction))
        metas.append(kept.meta())
        return Ref(len(metas) - 1)

    form = forms.pack(conduct(protocol, tuple(args), node), leaf)
    return Made(metas, form)


def _sent(node: Node, operands: execution.Operands, arg: Any, worker: Any) -> Any:
    """An argument on its way to the first worker, as secret there as here."""
    if not isinstance(arg, Ref):
        return arg
    value = operands.tensor(arg)
    if isinstance(value, PointerTensor):
        return value
    record = operands.records[-1]
    if not may_read(record, worker.id):
        raise GetNotPermittedError(
            f"{worker.id} may not have object {record.number} of {node.id}, on which the protocol would run."
        )
    names = record.readers.names
    link = node.link(worker.id)
    (meta,) = link.request(
        Store([value], [], [], None, None if names is None else sorted(names | record.released))
    ).results
    return pointer_to(meta, link)


# ---------------------------------------------------------------------------------------------------- on the wire


class StepFields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One plan of a protocol on the wire.

    Attributes:
        name: of the worker, or a word that stands for one.
        plan: the plan itself, before it is deployed.
        number: of the plan at its worker, afterwards.
        graph: of the deployed plan, if known.
        owned: whether the claim on the deployed plan goes along.
    """

    name: str
    plan: Any = None
    number: int | None = None
    graph: Graph | None = None
    owned: bool = False


class ProtocolFields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A protocol on the wire."""

    steps: list[StepFields]
    tags: list[str]
    description: str | None


def _pack(protocol: Protocol) -> bytes:
    steps = [_step_fields(step) for step in protocol._steps]
    return wire.encode(ProtocolFields(steps, sorted(protocol.tags), protocol.description))


def _step_fields(step: Step) -> StepFields:
    if isinstance(step.plan, Plan):
        return StepFields(step.name, step.plan)
    handle, program = step.plan.handle, step.plan._program
    owned = handle.owned
    handle.drop()
    return StepFields(step.name, None, handle.number, program.graph if program else None, owned)


def _unpack(data: bytes, node: Any) -> Protocol:
    fields = wire.Decoder(ProtocolFields, node).decode(data)
    protocol = Protocol([(step.name, _plan(step, node)) for step in fields.steps])
    protocol.tag(*fields.tags)
    protocol.description = fields.description
    return protocol


def _plan(step: StepFields, node: Any) -> Plan | PointerPlan:
    if isinstance(step.plan, Plan):
        return step.plan
    if step.number is None or step.plan is not None:
        raise MalformedRequestError("A step of a protocol has a plan, or the number of one at its worker.")
    return PointerPlan(
        Handle(node.link(step.name), Meta(step.number, "plan"), step.owned), check(step.graph) if step.graph else None
    )


def _point(meta: Meta, link: Link) -> PointerProtocol:
    return PointerProtocol(Handle(link, meta, False))


POINTERS["protocol"] = _point
RUNNERS["protocol"] = _run_protocol
KINDS[Protocol] = "protocol"
wire.register(20, Protocol, _pack, _unpack)
