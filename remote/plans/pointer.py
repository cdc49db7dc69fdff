"""``PointerPlan``: a plan that is at a worker."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor

from sharetorch.mpc.errors import MembersError, PlanError, TensorsNotCollocatedException
from sharetorch.mpc.tensor.location import user_line
from sharetorch.remote.claimed import Claimed
from sharetorch.remote.found import POINTERS
from sharetorch.remote.messages import Call, Fetch, Forward, Invoke, Made, Meta
from sharetorch.remote.multi import MultiPointerTensor
from sharetorch.remote.node import Link
from sharetorch.remote.plans import forms
from sharetorch.remote.plans.checking import Program
from sharetorch.remote.plans.running import require_fit
from sharetorch.remote.pointer import PointerTensor, pointer_to
from sharetorch.remote.requests import Handle
from sharetorch.remote.wire import Ref


class ObjectPointer(Claimed):
    """A pointer to an object that is no tensor; deletes it when it goes, unless it was found by a search.

    Attributes:
        handle: the claim on the object.
        alive: whether the object is still there, as far as known here.
    """

    _word = "object"

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.alive = True

    def get(self, user: str | None = None, reason: str | None = None) -> Any:
        """Fetch the object; the worker forgets it.

        Raises:
            GetNotPermittedError: the policy does not allow it.
            ObjectNotFoundError: the worker no longer has it.
        """
        value = self._value(True, user, reason)
        self.handle.drop()
        self.alive = False
        return value

    def fetched(self, user: str | None = None, reason: str | None = None) -> Any:
        """A copy of the object; the worker keeps it."""
        return self._value(False, user, reason)

    def _value(self, remove: bool, user: str | None, reason: str | None) -> Any:
        return self.handle.link.request(Fetch([self.handle.number], remove, user, reason)).values[0]

    def __repr__(self) -> str:
        lines = [f"[{type(self).__name__} | {self.owner.id}:{self.id} -> {self.location.id}:{self.id}]"]
        lines += ["\tTags: " + "".join(f"{tag} " for tag in self.handle.tags)] if self.handle.tags else []
        return "\n".join(lines)


class CallOperands:
    """Arguments of one call of a plan or protocol, all at its worker.

    Args:
        what: is called, for error messages.
        link: the way to its worker.
    """

    def __init__(self, what: str, link: Link) -> None:
        self._what = what
        self._link = link
        self._pointers: dict[int, PointerTensor] = {}

    def pack(self, value: Any) -> Any:
        """A nest of arguments with pointers replaced by numbers.

        Raises:
            TensorsNotCollocatedException: a tensor that is not at the worker.
        """
        if isinstance(value, dict):
            return {key: self.pack(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.pack(part) for part in value]
        if not isinstance(value, Tensor):
            return value
        if not isinstance(value, PointerTensor) or value.handle.link.worker is not self._link.worker:
            raise TensorsNotCollocatedException(
                f"The {self._what} is called{user_line()} with a tensor that is {_place(value)}; bring it there with "
                "x.send(worker) or x.move(worker)."
            )
        self._pointers[value.handle.number] = value
        return Ref(value.handle.number)

    def results(self, reply: Made) -> Any:
        """Pointers to the results, nested as the worker says; an argument that comes back is the same pointer."""
        made = [
            None
            if meta is None
            else self._pointers[meta.number]
            if meta.number in self._pointers
            else pointer_to(meta, self._link)
            for meta in reply.results
        ]
        return forms.unpack(reply.form, lambda ref: made[ref.number])


def _place(x: Tensor) -> str:
    location = getattr(x, "location", None)
    if isinstance(location, list):
        return "at several workers"
    return "here" if location is None else f"at {location.id}"


class PointerPlan(ObjectPointer):
    """A plan at a worker. Calling it with pointers to that worker runs it there, by one message.

    The state is the worker's: what the plan changes in place is changed for the next call. Autograd does not record
    through the call; a plan has its backward pass inside.
    """

    def __init__(self, handle: Handle, program: Program | None = None) -> None:
        super().__init__(handle)
        self._program = program

    @classmethod
    def to(cls, meta: Meta, link: Link, program: Program | None = None, owned: bool = True) -> PointerPlan:
        """A pointer to what ``meta`` describes."""
        return cls(Handle(link, meta, owned), program)

    def reference(self) -> Any:
        """A weak reference to this pointer."""
        return weakref.ref(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the plan at its worker.

        Returns:
            Pointers, nested as the function's results.

        Raises:
            TensorsNotCollocatedException: an argument is not at the plan's worker.
            PlanShapeError: other shapes or dtypes than the plan was built for.
        """
        self._require_alive()
        if self._program is not None:
            graph = self._program.graph
            require_fit(self._program, list(forms.leaves(graph.arguments, (args, kwargs), graph.name)))
        operands = CallOperands(f"plan at {self.location.id}", self.handle.link)
        link = self.handle.link
        packed = operands.pack(args), operands.pack(kwargs)
        reply: Made = link.request(Call(self.handle.number, *packed, link.pending()))
        return operands.results(reply)

    def _require_alive(self) -> None:
        if not self.alive:
            raise PlanError("The plan of this pointer was fetched and is no longer at the worker; send it again.")

    def copy(self) -> PointerPlan:
        """A second plan with a copy of the state, at the same worker."""
        self._require_alive()
        link = self.handle.link
        (meta,) = link.request(Invoke("copy_plan", self.handle.number, [], {})).results
        return PointerPlan.to(meta, link, self._program)

    def move(self, worker: Any, user: str | None = None) -> Any:
        """Let the plan go straight to another worker; this pointer follows. The local worker gives the plan itself."""
        self._require_alive()
        if worker is self.location:
            return self
        if worker is self.owner:
            return self.get(user)
        link = self.owner.link(worker.id)
        (meta,) = self.handle.link.request(Forward([self.handle.number], worker.id, True, user)).results
        self.handle.drop()
        self.handle = Handle(link, meta)
        return self


class PlanPointers(list[PointerPlan]):
    """Pointers to the same plan at several workers; calling it runs the plan at each of them.

    Arguments are multi-pointers to the same workers in the same order.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the plan everywhere; a single tensor comes as a multi-pointer, other results as a list."""
        results = [
            pointer(*(self._part(arg, place) for arg in args), **{k: self._part(v, place) for k, v in kwargs.items()})
            for place, pointer in enumerate(self)
        ]
        return (
            MultiPointerTensor.of(results) if all(isinstance(result, PointerTensor) for result in results) else results
        )

    def _part(self, value: Any, place: int) -> Any:
        if not isinstance(value, Tensor):
            return value
        if not isinstance(value, MultiPointerTensor) or len(value.pointers) != len(self):
            raise MembersError(
                f"A plan at {len(self)} workers takes tensors at the same workers: x.send(alice, bob, ...)."
            )
        return value.pointers[place]

    @property
    def location(self) -> list[Any]:
        """The workers, in order."""
        return [pointer.location for pointer in self]

    def get(self, user: str | None = None, reason: str | None = None) -> list[Any]:
        """Fetch all plans."""
        return [pointer.get(user, reason) for pointer in self]


POINTERS["plan"] = lambda meta, link: PointerPlan.to(meta, link, owned=False)
