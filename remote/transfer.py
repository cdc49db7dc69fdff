"""``x.send(worker)`` for tensors of every kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import MembersError
from sharetorch.nn.exchange import become
from sharetorch.remote import labels
from sharetorch.remote.messages import Made, Store
from sharetorch.remote.moving import Send
from sharetorch.remote.multi import MultiPointerTensor
from sharetorch.remote.node import Node
from sharetorch.remote.pointer import PointerTensor, pointer_to


def send(
    x: Tensor,
    *workers: Any,
    owner: Node,
    inplace: bool = False,
    user: str | None = None,
    requires_grad: bool = False,
    garbage_collect_data: bool = True,
) -> Any:
    """Send a tensor to a worker, or copies of it to several.

    Args:
        x: a tensor of any kind; of a pointer, the pointer itself is sent.
        workers: destinations.
        owner: the node that sends.
        inplace: whether ``x`` itself becomes the pointer.
        user: accepted for the tutorials' sake.
        requires_grad: whether gradients flow back from the pointer to ``x``.
        garbage_collect_data: whether the object is deleted with the last pointer to it.

    Returns:
        A ``PointerTensor``; a ``MultiPointerTensor`` for several workers.

    Raises:
        MembersError: no worker, or something that is none.
        UnsupportedDtypeError: the tensor has no form on the wire.
    """
    _check(workers)
    if requires_grad and x.requires_grad:
        made: Any = Send.apply(  # type: ignore[no-untyped-call]
            x, lambda data: _send_all(data, workers, owner, garbage_collect_data)
        )
    else:
        made = _send_all(x, workers, owner, garbage_collect_data)
    return become(x, made) if inplace else made


def _check(workers: tuple[Any, ...]) -> None:
    if not workers:
        raise MembersError("send() needs a worker: x.send(bob).")
    for worker in workers:
        if not isinstance(worker, str) and not hasattr(worker, "id"):
            raise MembersError(f"{worker!r} is no worker. Make one with st.VirtualWorker(id=...).")


def _send_all(x: Tensor, workers: tuple[Any, ...], owner: Node, collected: bool) -> Any:
    pointers = [_send_one(x, worker, owner, collected) for worker in workers]
    return pointers[0] if len(pointers) == 1 else MultiPointerTensor.of(pointers)


def _send_one(x: Tensor, worker: Any, owner: Node, collected: bool) -> PointerTensor:
    link = owner.link(worker if isinstance(worker, str) else worker.id)
    label = labels.of(x)
    readers = None if label.readers is None else sorted(label.readers)
    reply: Made = link.request(Store([x], [], list(label.tags), label.description, readers))
    (meta,) = reply.results
    assert meta is not None
    needs_grad = x.requires_grad and x.dtype.is_floating_point
    pointer = pointer_to(meta, link, collected, needs_grad)
    if x.is_leaf and x.grad is not None:
        with torch.no_grad():
            pointer.grad = _send_one(x.grad, worker, owner, True)
    return pointer
