"""Finding objects of a worker, and taking objects in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from sharetorch.mpc.errors import MalformedRequestError, ObjectNotFoundError
from sharetorch.mpc.session import new_id
from sharetorch.remote import labels
from sharetorch.remote.messages import Fetch, Meta, Search
from sharetorch.remote.node import Link, Node
from sharetorch.remote.objects import Readers, Record
from sharetorch.remote.pointer import PointerTensor, pointer_to

POINTERS: dict[str, Any] = {}
"""How to point to objects that are no tensors, by kind: ``make(meta, link)``."""


def search(link: Link, query: Any) -> list[Any]:
    """Pointers to what a worker finds, without garbage collection.

    Args:
        link: the way to the worker.
        query: a tag, several tags an object must all have, or one number, alone or in a list; empty finds everything
            tagged.

    Returns:
        Pointers in the order in which the worker came by the objects; none if nothing fits. What the caller may not use
        is not found.

    Raises:
        MalformedRequestError: a query that is neither tags nor a number.
    """
    try:
        return [point(meta, link) for meta in link.request(_request(query)).objects]
    except ObjectNotFoundError:
        return []


def _request(query: Any) -> Search:
    parts = list(query) if isinstance(query, Iterable) and not isinstance(query, str) else [query]
    tags = [part for part in parts if isinstance(part, str)]
    if len(tags) == len(parts):
        return Search(tags)
    if len(parts) == 1 and type(parts[0]) is int and 0 <= parts[0] < 2**63:
        return Search([], parts[0])
    raise MalformedRequestError(
        f"A search asks for tags, such as ['#boston', '#data'], or for one number of an object; {query!r} is neither."
    )


def point(meta: Meta, link: Link) -> Any:
    """A pointer to an object that stays when the pointer goes."""
    make = POINTERS.get(meta.kind)
    return make(meta, link) if make is not None else pointer_to(meta, link, owned=False)


def fetch(link: Link, number: int, user: str | None = None, reason: str | None = None) -> Any:
    """A value by number; the worker keeps it."""
    return link.request(Fetch([number], False, user, reason)).values[0]


def take_in(node: Node, value: Any, number: int | None = None) -> Record:
    """Hold an object of the node's own, with what is said of it; value and object then have the same number.

    A client worker, such as the driver, holds nothing: the record it gives stays outside its store.

    Args:
        node: who holds it.
        value: a tensor with its tags, description and readers, or another object.
        number: of the object; the tensor's own if not given; another one if that is taken.
    """
    plain = isinstance(value, Tensor) and not isinstance(value, PointerTensor)
    label = labels.of(value) if plain else labels.Label()
    if number is None:
        number = labels.number_of(value) if plain else new_id()
    if getattr(node, "is_client_worker", False):
        return Record(number, value, node.id, Readers())
    number = new_id() if number in node.objects else number
    record = node.load(value, number=number, tags=label.tags, description=label.description)
    if plain:
        labels.set_number(value, number)
        labels.set_number(record.value, number)
        labels.put(record.value, label)
    if label.readers is not None:
        record.readers = Readers(label.readers | {node.id})
    return record


def own(node: Node, number: int) -> Any:
    """A value of the node by number, for its own side.

    Raises:
        ObjectNotFoundError: there is none.
    """
    record = node.objects.get(number)
    if record is None:
        raise ObjectNotFoundError(f"{node.id} has no object {number}.")
    return record.value
