"""Running one operation on objects of a node.

Results are as secret as what they were made from: their readers are those who may read every operand. An operation
that would tell something of a value by other ways (the number of results, the text of an error) is refused, or stays
silent, when the caller may not read its operands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import (
    GetNotPermittedError,
    MalformedRequestError,
    RemoteOperationError,
    ShareTorchError,
    UnsupportedDtypeError,
)
from sharetorch.remote import limits, operators
from sharetorch.remote.access import delete, reader, require_writable, usable
from sharetorch.remote.audit import Call
from sharetorch.remote.messages import Execute, Made, Meta
from sharetorch.remote.node import Node, handles
from sharetorch.remote.objects import Readers, Record, common_readers, describe, memory_of
from sharetorch.remote.operators import Operator
from sharetorch.remote.wire import DTYPES, Ref, Seen

_t, _as_view = torch.ops.aten.t.default, torch.ops.aten.view.default
_LITERALS = frozenset({int, float, bool, str, complex, type(None)})


class Operands:
    """The objects one operation works on.

    Args:
        node: who holds them.
        call: the request.
        results: numbers for what comes to be; none lets the node choose.

    Attributes:
        records: each object once for every time it was named.
    """

    __slots__ = ("_call", "_chosen", "_node", "_results", "records")

    def __init__(self, node: Node, call: Call, results: Sequence[int] = ()) -> None:
        self._node = node
        self._call = call
        self._chosen = bool(results)
        self._results = list(results)
        self.records: list[Record] = []

    def number(self) -> int | None:
        """The number of the next result; None lets the node choose.

        Raises:
            MalformedRequestError: there are more results than numbers.
        """
        if not self._chosen:
            return None
        if not self._results:
            raise MalformedRequestError("The operation gives more results than the request has numbers for them.")
        return self._results.pop(0)

    def require_all_used(self) -> None:
        """Refuse numbers for results that there are not.

        Raises:
            MalformedRequestError: some are left.
        """
        if self._results:
            raise MalformedRequestError(f"The request has {len(self._results)} numbers too many for its results.")

    def tensor(self, ref: Ref) -> Tensor:
        """The tensor a ``Ref`` names.

        Raises:
            ObjectNotFoundError: there is no such object for this caller.
            MalformedRequestError: an object that is no tensor.
        """
        number, node = ref.number, self._node
        record = node.objects.get(number)
        if record is None or node.private:
            record = usable(node, number, self._call)
        else:
            self._call.objects.append(number)
        value = record.value
        if type(value) is not Tensor and not isinstance(value, Tensor):
            raise MalformedRequestError(f"Object {number} is no tensor; an operation needs tensors.")
        self.records.append(record)
        return value

    def resolve(self, value: Any, operator: Operator, place: int | str) -> Any:
        """An argument with every ``Ref`` replaced by the tensor it names.

        Raises:
            ObjectNotFoundError: there is no such object for this caller.
            MalformedRequestError: an object that is no tensor, or a tensor where none belongs.
        """
        kind = type(value)
        if kind is Ref:
            if place not in operator.tensors:
                operator.require_place(place)
            return self.tensor(value)
        if kind is list:
            return [part if type(part) in _NUMBERS else self.resolve(part, operator, place) for part in value]
        if kind is Seen:
            return self._view(value, operator, place)
        if value is None:
            operator.require_given(place)
        if kind in _LITERALS or isinstance(value, (torch.dtype, torch.memory_format, torch.layout, torch.device)):
            return value
        if kind is Tensor and not value.dim():  # the 5 of x[i] = 5, of which torch makes a tensor
            operator.require_place(place)
            return value
        raise MalformedRequestError(
            f"{operator.name} cannot take a {kind.__name__}; send() tensors first and name them."
        )

    def _view(self, seen: Seen, operator: Operator, place: int | str) -> Tensor:
        """A view of an object, for an operation that reads it: what is written must be an object of its own."""
        operator.require_place(place)
        if any(place in write for write in operator.writes):
            raise MalformedRequestError(f"{operator.name} writes argument {place}; name an object, not a view of one.")
        base = self.tensor(seen)
        view: Tensor = _t(base) if seen.form == "t" else _as_view(base, seen.sizes)
        return view

    def restriction(self) -> frozenset[str] | None:
        """Who may read all operands; None is everybody."""
        for record in self.records:
            if record.readers.names is not None:
                return common_readers(self.records)
        return None

    def holder_of(self, value: Tensor) -> Record | None:
        """The object whose value this very tensor is."""
        for record in self.records:
            if record.value is value:
                return record
        return None

    def base_of(self, memory: torch.UntypedStorage | None) -> Record | None:
        """The operand that has this memory."""
        if memory is None:
            return None
        place = memory._cdata
        for record in self.records:
            if record.place == place:
                return record
        return None


_NUMBERS = frozenset({int, float, bool})
_HELD = frozenset(DTYPES.values())
_WRITTEN = Made([], "written")


@handles(Execute)
def execute(node: Node, request: Execute, call: Call) -> Made:
    """Serve ``Execute``."""
    call.request = request.operator
    if request.forget:
        delete(node, request.forget, call)
    operator = operators.find(request.operator)
    operands = Operands(node, call, request.results)
    tensors, args = operator.tensors, []
    for place, value in enumerate(request.args):
        kind = type(value)
        if kind is Ref and place in tensors:
            value = operands.tensor(value)
        elif kind not in _NUMBERS:
            value = operands.resolve(value, operator, place)
        args.append(value)
    kwargs = request.kwargs
    if kwargs:
        kwargs = {name: operands.resolve(value, operator, name) for name, value in kwargs.items()}
    return run(node, operator, args, kwargs, operands, call)


def run(
    node: Node, operator: Operator, args: list[Any], kwargs: dict[str, Any], operands: Operands, call: Call
) -> Made:
    """Check, run and keep the results of an operation."""
    restriction = operands.restriction()
    hidden = restriction is not None and reader(node, call) not in restriction
    if node.private and operator.writes:
        for value in operator.written(args, kwargs):
            record = operands.holder_of(value)
            if record is not None:
                require_writable(node, record, call)
    result = perform(node, operator, args, kwargs, hidden)
    if operator.writes and (restriction is not None or operator.base == "set_"):
        _note_writes(node, operator, args, kwargs, operands, restriction)
    if operator.in_place and args and result is args[0]:
        operands.require_all_used()
        return _WRITTEN
    if type(result) is Tensor or not isinstance(result, (list, tuple)):
        return Made(_keep_all(node, [result], operands, restriction, call), "one")
    return Made(_keep_all(node, result, operands, restriction, call), "several")


def perform(node: Node, operator: Operator, args: list[Any], kwargs: dict[str, Any], hidden: bool) -> Any:
    """Run an operation on values with every check, without keeping anything.

    Args:
        node: whose limits hold.
        operator: of the list.
        args: tensors and numbers.
        kwargs: likewise.
        hidden: whether the caller may not read some operand.

    Raises:
        GetNotPermittedError: the shape of a result would tell of hidden values.
        LimitExceededError: the results would be too large.
        MalformedRequestError: arguments that torch's kernel would trust, wrongly.
        RemoteOperationError: it failed and the reason might tell something of hidden values.
        Exception: what torch raises, if nothing is hidden.
    """
    if hidden and operator.reveals(args, kwargs):
        raise GetNotPermittedError(
            f"{operator.name} tells a number that depends on values you may not read. Use a mask or "
            "torch.where instead."
        )
    if operator.named:
        operator.require_names(args, kwargs)
    try:
        if operator.measured:
            limits.check(node, operator, args, kwargs)
        if operator.checks is not None or "out" in kwargs:
            operator.validate(args, kwargs)
        result = operator.run(*args, **kwargs)  # objects require no gradients, whatever the mode of the caller's thread
        if operator.learns is not None and not kwargs:
            operator.learns(args, result)
    except ShareTorchError:
        raise
    except Exception as error:
        if not hidden:
            raise
        raise RemoteOperationError(
            f"{operator.name} failed at {node.id} with a {type(error).__name__}; its text stays there, "
            "for it may quote "
            "values you may not read. Check shapes and indices."
        ) from None
    if operator.uninitialised:
        memory = memory_of(result)
        if memory is not None:
            memory.fill_(0)  # type: ignore[attr-defined]  # also what lies between the elements of a strided tensor
    return result


def _note_writes(
    node: Node, operator: Operator, args: list[Any], kwargs: dict[str, Any], operands: Operands,
    restriction: frozenset[str] | None,
) -> None:  # fmt: skip
    """What was written is as secret as what was written into it."""
    for value in operator.written(args, kwargs):
        record = operands.holder_of(value)
        if record is None:
            continue
        record.readers.narrow(restriction)
        if operator.base == "set_":
            base = next((other for other in operands.records if other is not record), None)
            record.readers = Readers(restriction) if base is None else base.readers
            record.readers.narrow(restriction)
            node.objects.moved(record)


def _keep_all(
    node: Node, results: Any, operands: Operands, restriction: frozenset[str] | None, call: Call
) -> list[Meta | None]:
    """Hold all results, or none."""
    metas: list[Meta | None] = []
    before = len(call.made)
    try:
        for value in results:
            metas.append(_keep(node, value, operands, restriction, call))
        operands.require_all_used()
        return metas
    except Exception:
        for number in call.made[before:]:
            node.objects.pop(number, None)
        raise


def _keep(node: Node, value: Any, operands: Operands, restriction: frozenset[str] | None, call: Call) -> Meta | None:
    """Hold one result; what was written in place is held already."""
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise GetNotPermittedError(
            f"The operation gives a {type(value).__name__}, not a tensor; fetch the tensor with get() "
            "and ask it locally."
        )
    for held in operands.records:
        if held.value is value:
            return held.meta()
    if value.layout is not torch.strided or value.dtype not in _HELD:
        raise UnsupportedDtypeError(
            f"The operation gives a tensor of dtype {value.dtype}, {value.layout}; workers hold dense ones."
        )
    size = value.numel() * value.element_size()
    if size > node.limits.object_bytes:
        limits.require_fit(node, value)
    memory = value.untyped_storage() if type(value) is Tensor else memory_of(value)
    base = operands.base_of(memory)
    if base is not None:
        base.readers.narrow(restriction)
        readers: Readers | None = base.readers
    else:
        readers = None if restriction is None else Readers(restriction)
        # Kernels give parts of larger memory at times, with what others left there: a result has memory of its own.
        if memory is not None and memory.nbytes() > size:
            value = value.clone()
    record = node.keep(value, call.sender, readers, operands.number())
    call.made.append(record.number)
    return describe(record.number, value, [], None)
