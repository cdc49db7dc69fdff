"""Methods of ShareTorch's own that a node runs on one of its objects: an explicit table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from sharetorch.mpc.errors import GetNotPermittedError, InvalidTensorForRemoteGet, OperationNotAllowedError
from sharetorch.mpc.tensor.fixed_precision import FixedPrecisionTensor, fix_precision
from sharetorch.mpc.tensor.shared import SharedTensor
from sharetorch.remote.access import may_delete, may_read, usable
from sharetorch.remote.audit import Call
from sharetorch.remote.messages import Fetch, Invoke, Made
from sharetorch.remote.node import Node, handles, made
from sharetorch.remote.objects import Readers, Record
from sharetorch.remote.pointer import PointerTensor, pointer_to
from sharetorch.remote.serving import parcel

Method = Callable[..., Any]

METHODS: dict[str, Method] = {}
"""``method(node, record, call, *args, **kwargs)`` by name; the result becomes an object as secret as its origin."""

_HANDLES: set[str] = set()
"""Methods whose result holds no value of its origin, and is the caller's to fetch."""


def method(name: str, handle: bool = False) -> Callable[[Method], Method]:
    """Register a method.

    Args:
        name: as requests name it.
        handle: whether the result is a mere handle, which tells nothing of the object's values.
    """

    def register(function: Method) -> Method:
        METHODS[name] = function
        if handle:
            _HANDLES.add(name)
        return function

    return register


@handles(Invoke)
def invoke(node: Node, request: Invoke, call: Call) -> Made:
    """Serve ``Invoke``."""
    call.request = f"invoke {request.method[:80]}"
    found = METHODS.get(request.method)
    if found is None:
        raise OperationNotAllowedError(
            f"{request.method[:80]!r} is no method of objects; there are {', '.join(METHODS)}."
        )
    record = usable(node, request.number, call)
    value = found(node, record, call, *request.args, **request.kwargs)
    names = None if request.method in _HANDLES else record.readers.names
    return made(node.keep(value, call.sender, None if names is None else Readers(names)))


@method("fix_precision")
def _fix_precision(
    node: Node, record: Record, call: Call, precision_fractional: int | None = None, base: int = 10,
    truncation: str = "probabilistic",
) -> Tensor:  # fmt: skip
    if isinstance(record.value, PointerTensor):
        return record.value.fix_precision(precision_fractional, base, truncation=truncation)
    return fix_precision(record.value, precision_fractional, base, truncation=truncation)


@method("float_precision")
def _float_precision(node: Node, record: Record, call: Call) -> Tensor:
    if isinstance(record.value, (FixedPrecisionTensor, PointerTensor)):
        return record.value.float_precision()
    raise OperationNotAllowedError(f"Object {record.number} of {node.id} is not in fixed precision.")


@method("refresh")
def _refresh(node: Node, record: Record, call: Call) -> Tensor:
    if not isinstance(record.value, (SharedTensor, PointerTensor)):
        raise OperationNotAllowedError(f"Object {record.number} of {node.id} is not shared.")
    return record.value.refresh()


@method("get")
def _get(node: Node, record: Record, call: Call) -> Tensor:
    """Fetch what a pointer of this node points to."""
    if not isinstance(record.value, PointerTensor):
        raise InvalidTensorForRemoteGet(f"Object {record.number} of {node.id} is no pointer; get() fetches it.")
    value = record.value.get(user=call.sender)
    if may_delete(node, record, call):
        del node.objects[record.number]
    return value


@method("send")
def _send(node: Node, record: Record, call: Call, worker: str) -> Tensor:
    """Send a tensor of this node on, and keep a pointer to it."""
    if not may_read(record, worker):
        raise GetNotPermittedError(f"{worker} may not have object {record.number} of {node.id}.")
    link = node.link(worker)
    (meta,) = link.request(parcel(record, numbered=False)).results
    if may_delete(node, record, call):
        del node.objects[record.number]
    return pointer_to(meta, link)


@method("share")
def _share(
    node: Node, record: Record, call: Call, parties: list[str], crypto_provider: str | None, options: dict[str, Any]
) -> Tensor:
    """Split a tensor of this node into shares that go straight to the parties; the handle stays here to be fetched."""
    user = call.user or call.sender
    if not may_read(record, user):
        raise GetNotPermittedError(
            f"{user} may not have object {record.number} of {node.id}, so it may not have it shared either: "
            "whoever holds the handle can open it."
        )
    if isinstance(record.value, PointerTensor):
        claim = record.value.handle
        claim.link.request(Fetch([claim.number], False, user, None, True))  # raises if the user may not have it there
    members = [node.link(name).worker if name != node.id else node for name in parties]
    provider = None if crypto_provider is None else node.link(crypto_provider).worker
    shared: Tensor = record.value.share(*members, crypto_provider=provider, **options)
    return shared
