"""How a node serves the requests that move, find and delete objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor

from sharetorch.mpc.errors import GetNotPermittedError, LimitExceededError
from sharetorch.remote.access import delete, may_delete, may_read, readable, usable, visible
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
    Lend,
    Listing,
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
    if owner != call.sender and node.couriers is not None and call.sender not in node.couriers:
        raise GetNotPermittedError(f"{call.sender} may not put objects of {owner}'s at {node.id}; leave the owner out.")
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
        record.tags, record.description, record.given = tuple(request.tags), request.description, True
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
        if not may_read(record, request.worker) and not _passes_on(node, record, call):
            raise GetNotPermittedError(
                f"{request.worker} may not have object {record.number} of {node.id}. Its owner can allow it with "
                f"private_tensor(allowed_users=[{request.worker!r}, ...])."
            )
    link = node.link(request.worker)
    metas = [meta for record in records for meta in link.request(parcel(record)).results]
    if request.remove:
        delete(node, request.numbers, call)
    return Made(metas, "one" if len(metas) == 1 else "several")


def _passes_on(node: Node, record: Record, call: Call) -> bool:
    """Whether the caller's own object goes: whoever may have the values may send them anywhere."""
    return node.private and record.owner == call.sender and call.user is None and record.readers.include(call.sender)


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
        if visible(node, record, call):
            yield record


@handles(Inspect)
def inspect(node: Node, request: Inspect, call: Call) -> Found:
    """Serve ``Inspect``."""
    return Found([usable(node, request.number, call).meta()])


@handles(Listing)
def listing(node: Node, request: Listing, call: Call) -> Found:
    """Serve ``Listing``."""
    return Found([record.meta() for record in list(node.objects.values()) if record.owner == call.sender])


@handles(Lend)
def lend(node: Node, request: Lend, call: Call) -> Found:
    """Serve ``Lend``: whoever may have the values may let others have them; what all may use needs no other name."""
    record = usable(node, request.number, call)
    names = record.readers.names
    if record.owner == node.id or not node.private:
        return Found([record.meta()])
    if request.to == node.id:
        raise GetNotPermittedError(
            f"A pointer to an object of {node.id} cannot be sent to {node.id}: what is its own, everybody may use."
        )
    if record.owner != call.sender or not record.readers.include(call.sender):
        raise GetNotPermittedError(
            f"A pointer to object {request.number} of {node.id} cannot be handed to {request.to}: {call.sender} may "
            "not have its values, so it may not pass them on."
        )
    record.readers.names = None if names is None else names | {request.to}
    return Found([node.keep(record.value, request.to, record.readers).meta()])


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
    """Serve ``Release``: only the owner may, and of what was computed from others' objects only who may read it."""
    record = usable(node, request.number, call)
    if record.owner != call.sender or not (record.given or may_read(record, call.sender)):
        raise GetNotPermittedError(
            f"Only its owner may release object {request.number} of {node.id}, and what was computed from somebody "
            "else's objects only who may have its value. Ask the owner of the data: get(user=..., reason=...)."
        )
    record.released |= frozenset(request.users)
    return Done()
