"""Finding objects of a worker, and taking objects in."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sharetorch.mpc.errors import ObjectNotFoundError
from sharetorch.remote import labels
from sharetorch.remote.messages import Fetch, Meta, Search
from sharetorch.remote.node import Link, Node
from sharetorch.remote.objects import Readers, Record
from sharetorch.remote.pointer import pointer_to

POINTERS: dict[str, Any] = {}
"""How to point to objects that are no tensors, by kind: ``make(meta, link)``."""


def search(link: Link, query: Any) -> list[Any]:
    """Pointers to what a worker finds, without garbage collection.

    Args:
        link: the way to the worker.
        query: a tag, several tags an object must all have, or one number; empty finds everything tagged.
    """
    if isinstance(query, int):
        message = Search([], query)
    else:
        message = Search([query] if isinstance(query, str) else [str(tag) for tag in query])
    return [point(meta, link) for meta in link.request(message).objects]


def point(meta: Meta, link: Link) -> Any:
    """A pointer to an object that stays when the pointer goes."""
    make = POINTERS.get(meta.kind)
    return make(meta, link) if make is not None else pointer_to(meta, link, owned=False)


def fetch(link: Link, number: int, user: str | None = None, reason: str | None = None) -> Any:
    """A value by number; the worker keeps it."""
    return link.request(Fetch([number], False, user, reason)).values[0]


def take_in(node: Node, value: Any, number: int | None = None) -> Record:
    """Hold an object of the node's own, with what is said of it."""
    label = labels.of(value) if isinstance(value, Tensor) else labels.Label()
    record = node.load(value, number=number, tags=label.tags, description=label.description)
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
