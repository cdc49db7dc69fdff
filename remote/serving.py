"""How a node serves the requests that move, find and delete objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from sharetorch.mpc.errors import GetNotPermittedError, LimitExceededError
from sharetorch.remote.access import delete, may_delete, may_read, readable, usable
from sharetorch.remote.audit import Call
from sharetorch.remote.messages import (
    Clear,
    Done,
    Fetch,
    Forget,
    Forward,
    Found,
    Inspect,
    Label,
    Made,
    Release,
    Search,
    Store,
    Values,
)
from sharetorch.remote.node import Node, handles, made
from sharetorch.remote.objects import Readers, Record


@handles(Store)
def store(node: Node, request: Store, call: Call) -> Made:
    """Serve ``Store``: all values, or none."""
    numbers: Sequence[int | None] = request.numbers or [None] * len(request.values)
    owner = request.owner or call.sender
    if node.private and owner == node.id != call.sender:
        raise GetNotPermittedError(
            f"{call.sender} may not put objects among {node.id}'s own, which everybody may "
            "find."
        )
    for value in request.values:
        _require_fit(node, value)
    records: list[Record] = []
    try:
        for value, number in zip(request.values, numbers, strict=True):
            records.append(node.keep(value, owner, _readers(request), number))
    except Exception:
        for record in records:
            del node.objects[record.number]
        raise
    for record in records:
        record.tags, record.description = tuple(request.tags), request.description
    call.objects.extend(record.number for record in records)
    return made(*records)


def _readers(request: Store) -> Readers | None:
    return None if request.readers is None else Readers(frozenset(request.readers))


def _require_fit(node: Node, value: object) -> None:
    size = value.numel() * value.element_size() if isinstance(value, Tensor) else 0
    if size > node.limits.object_bytes:
        raise LimitExceededError(
            f"A tensor of {size} bytes; one object at {node.id} may have {node.limits.object_bytes}."
        )


@handles(Fetch)
def fetch(node: Node, request: Fetch, call: Call) -> Values:
    """Serve ``Fetch``: all values, or none."""
    call.user = request.user
    records = [readable(node, number, call, request.reason) for number in request.numbers]
    if request.ask:
        return Values([])
    values = [record.value for record in records]
    if request.remove:
        delete(node, request.numbers, call)
    return Values(values)


@handles(Forget)
def forget(node: Node, request: Forget, call: Call) -> Done:
    """Serve ``Forget``: deletes what is the caller's; passes over the rest."""
    delete(node, request.numbers, call)
    return Done()


@handles(Clear)
def clear(node: Node, request: Clear, call: Call) -> Done:
    """Serve ``Clear``."""
    delete(node, list(node.objects), call)
    return Done()


@handles(Forward)
def forward(node: Node, request: Forward, call: Call) -> Made:
    """Serve ``Forward``: the receiver must be allowed to read what it gets."""
    call.user = request.user
    records = [usable(node, number, call) for number in request.numbers]
    for record in records:
        if not may_read(record, request.worker):
            raise GetNotPermittedError(
                f"{request.worker} may not have object {record.number} of {node.id}. Its owner can allow it with "
                f"private_tensor(allowed_users=[{request.worker!r}, ...])."
            )
    link = node.link(request.worker)
    metas = [meta for record in records for meta in link.request(parcel(record)).results]
    if request.remove:
        delete(node, request.numbers, call)
    return Made(metas, "one" if len(metas) == 1 else "several")


def parcel(record: Record, numbered: bool = True) -> Store:
    """An object as it goes to another node, with all that is known of it; under the same number if ``numbered``."""
    names = record.readers.names
    return Store(
        [record.value],
        [record.number] if numbered else [],
        list(record.tags),
        record.description,
        None if names is None else sorted(names | record.released),
        record.owner,
    )


@handles(Search)
def search(node: Node, request: Search, call: Call) -> Found:
    """Serve ``Search``: objects that have every tag."""
    wanted = set(request.query)
    if request.number is not None:
        return Found([usable(node, request.number, call).meta()])
    return Found([record.meta() for record in _visible(node, call) if record.tags and wanted <= set(record.tags)])


def _visible(node: Node, call: Call) -> Iterable[Record]:
    for record in list(node.objects.values()):
        if not node.private or record.owner in (node.id, call.sender):
            yield record


@handles(Inspect)
def inspect(node: Node, request: Inspect, call: Call) -> Found:
    """Serve ``Inspect``."""
    return Found([usable(node, request.number, call).meta()])


@handles(Label)
def label(node: Node, request: Label, call: Call) -> Done:
    """Serve ``Label``."""
    record = usable(node, request.number, call)
    if not may_delete(node, record, call):
        raise GetNotPermittedError(f"Object {request.number} of {node.id} is not {call.sender}'s to label.")
    if request.tags is not None:
        record.tags = tuple(request.tags)
    if request.description is not None:
        record.description = request.description
    return Done()


@handles(Release)
def release(node: Node, request: Release, call: Call) -> Done:
    """Serve ``Release``: only the owner may."""
    record = usable(node, request.number, call)
    if record.owner != call.sender:
        raise GetNotPermittedError(f"Only the owner of object {request.number} of {node.id} may release it.")
    record.released |= frozenset(request.users)
    return Done()
