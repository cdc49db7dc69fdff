"""Running one operation on objects of a node.

Results are as secret as what they were made from: their readers are those who may read every operand. An operation
that would tell something of a value by other ways (the number of results, the text of an error) is refused, or stays
silent, when the caller may not read its operands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import GetNotPermittedError, MalformedRequestError, RemoteOperationError, ShareTorchError
from sharetorch.remote import limits, operators
from sharetorch.remote.access import usable
from sharetorch.remote.audit import Call
from sharetorch.remote.messages import Execute, Made, Meta
from sharetorch.remote.node import Node, handles
from sharetorch.remote.objects import Readers, Record, common_readers, storage_of
from sharetorch.remote.operators import Operator
from sharetorch.remote.wire import Ref


_LITERALS = frozenset({int, float, bool, str, complex, type(None)})


class Operands:
    """The objects one operation works on.

    Attributes:
        records: each object once for every time it was named.
    """

    def __init__(self, node: Node, call: Call) -> None:
        self._node = node
        self._call = call
        self.records: list[Record] = []

    def tensor(self, ref: Ref) -> Tensor:
        """The tensor a ``Ref`` names.

        Raises:
            ObjectNotFoundError: there is no such object for this caller.
            MalformedRequestError: an object that is no tensor.
        """
        record = usable(self._node, ref.number, self._call)
        value = record.value
        if not isinstance(value, Tensor):
            raise MalformedRequestError(f"Object {ref.number} is no tensor; an operation needs tensors.")
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
            operator.require_place(place)
            return self.tensor(value)
        if kind is list:
            return [self.resolve(part, operator, place) for part in value]
        if kind in _LITERALS or isinstance(value, (torch.dtype, torch.memory_format, torch.layout, torch.device)):
            return value
        if kind is Tensor and not value.dim():  # the 5 of x[i] = 5, of which torch makes a tensor
            operator.require_place(place)
            return value
        raise MalformedRequestError(f"{operator.name} cannot take a {kind.__name__}; send() tensors first and name them.")

    def restriction(self) -> frozenset[str] | None:
        """Who may read all operands; None is everybody."""
        for record in self.records:
            if record.readers.names is not None:
                return common_readers(self.records)
        return None

    def holder_of(self, value: Tensor) -> Record | None:
        """The object whose value this very tensor is."""
        return next((record for record in self.records if record.value is value), None)

    def readers_for(self, result: Tensor, restriction: frozenset[str] | None) -> Readers | None:
        """Readers of a result: those of the operand it is a view of, else who may read all operands."""
        storage = storage_of(result)
        for record in self.records:
            if storage_of(record.value) == storage:
                record.readers.narrow(restriction)
                return record.readers
        return None if restriction is None else Readers(restriction)


@handles(Execute)
def execute(node: Node, request: Execute, call: Call) -> Made:
    """Serve ``Execute``."""
    call.request = request.operator
    operator = operators.find(request.operator)
    operands = Operands(node, call)
    args = [operands.resolve(value, operator, place) for place, value in enumerate(request.args)]
    kwargs = {name: operands.resolve(value, operator, name) for name, value in request.kwargs.items()}
    return run(node, operator, args, kwargs, operands, call)


def run(
    node: Node, operator: Operator, args: list[Any], kwargs: dict[str, Any], operands: Operands, call: Call
) -> Made:
    """Check, run and keep the results of an operation."""
    restriction = operands.restriction()
    reader = call.user or call.sender
    hidden = restriction is not None and reader not in restriction
    if hidden and operator.tells:
        raise GetNotPermittedError(
            f"{operator.name} gives a number of results that depends on values {reader} may not read. Use a mask or "
            "torch.where instead."
        )
    limits.check(node, operator, args, kwargs)
    result = compute(operator, args, kwargs, hidden, node.id)
    for value in operator.written(args, kwargs):
        record = operands.holder_of(value)
        if record is not None:
            record.readers.narrow(restriction)
    several = isinstance(result, (list, tuple))
    metas = [_keep(node, value, operands, restriction, call) for value in _results(result)]
    return Made(metas, "several" if several else "one")


def compute(operator: Operator, args: list[Any], kwargs: dict[str, Any], hidden: bool, name: str) -> Any:
    """Run an operation on values.

    Raises:
        RemoteOperationError: it failed and the reason might tell something of hidden values.
        Exception: what torch raises, if nothing is hidden.
    """
    try:
        operator.validate(args, kwargs)
        # Without no_grad(): objects never require gradients, and some kernels keep what backward needs only with it off.
        result = operator.overload(*args, **kwargs)
        if operator.uninitialised:
            result.zero_()
        return result
    except ShareTorchError:
        raise
    except Exception as error:
        if not hidden:
            raise
        raise RemoteOperationError(
            f"{operator.name} failed at {name} with a {type(error).__name__}; its text stays there, for it may quote values "
            "you may not read. Check shapes and indices."
        ) from None


def _results(result: Any) -> Iterator[Any]:
    if isinstance(result, (list, tuple)):
        yield from result
    else:
        yield result


def _keep(
    node: Node, value: Any, operands: Operands, restriction: frozenset[str] | None, call: Call
) -> Meta | None:
    """Hold one result; what was written in place is held already."""
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise GetNotPermittedError(
            f"The operation gives a {type(value).__name__}, not a tensor; fetch the tensor with get() and ask it locally."
        )
    held = operands.holder_of(value)
    if held is not None:
        return held.meta()
    return node.keep(value, call.sender, operands.readers_for(value, restriction)).meta()
