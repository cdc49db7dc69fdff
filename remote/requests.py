"""From one operation on pointers to one request, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import TensorsNotCollocatedException
from sharetorch.mpc.tensor.location import user_line
from sharetorch.remote.messages import Meta
from sharetorch.remote.node import Link
from sharetorch.remote.wire import Ref


class Handle:
    """A claim on an object of a worker, given up when the last pointer that uses it is gone.

    Attributes:
        link: the way to the worker.
        number: of the object there.
        owned: whether the object is deleted with this handle.
        kind: what the object is; see ``messages.Meta``.
        tags: by which the object is found, as far as known here.
        description: of the object.
    """

    __slots__ = ("description", "kind", "link", "number", "owned", "tags")

    def __init__(self, link: Link, meta: Meta, owned: bool = True) -> None:
        self.link = link
        self.number = meta.number
        self.owned = owned
        self.kind = meta.kind
        self.tags = tuple(meta.tags)
        self.description = meta.description

    def __del__(self) -> None:
        if getattr(self, "owned", False):
            try:
                self.link.forget(self.number)
            except Exception:  # noqa: S110 - a worker that is gone has forgotten already
                pass

    def drop(self) -> None:
        """The object is no longer this handle's to delete."""
        self.owned = False


_TAKE_A_NUMBER = {
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten.copy_.default,
    torch.ops.aten.fill_.Tensor,
}
"""Operations in which ``x[i] = 5`` ends, where torch makes a local tensor of the 5."""


class Operands:
    """Operands of one operation: all at one worker, named by number.

    Args:
        func: the operation, for error messages.
        pointer: the class of pointers.

    Attributes:
        link: the way to the worker; None until a pointer was packed.
    """

    def __init__(self, func: Any, pointer: type[Tensor]) -> None:
        self._func = func
        self._kind = pointer
        self._pointers: list[Any] = []
        self.link: Any = None

    def pack(self, value: Any) -> Any:
        """A value with pointers replaced by numbers.

        Raises:
            TensorsNotCollocatedException: tensors at several places.
        """
        if isinstance(value, Tensor):
            return self._packed(value)
        if isinstance(value, (list, tuple)):
            return [self.pack(part) for part in value]
        return value

    def _packed(self, value: Any) -> Any:
        if not isinstance(value, self._kind):
            if type(value) is Tensor and value.dim() == 0 and self._func in _TAKE_A_NUMBER:
                return value
            other = self.link.worker.id if self.link is not None else "a worker"
            raise self._elsewhere(f"{other} and here (a local {type(value).__name__})", "x.send(worker)")
        link = value.handle.link  # type: ignore[attr-defined]
        if self.link is None:
            self.link = link
        elif link is not self.link:
            raise self._elsewhere(f"{self.link.worker.id} and {link.worker.id}", "x.move(worker)")
        self._pointers.append(value)
        return Ref(value.handle.number)  # type: ignore[attr-defined]

    def _elsewhere(self, places: str, remedy: str) -> TensorsNotCollocatedException:
        return TensorsNotCollocatedException(
            f"{self._func}{user_line()} has operands at {places}; bring them to one place with {remedy}."
        )

    def result(self, meta: Meta | None, make: Callable[[Meta, Link], Any]) -> Any:
        """A pointer to a result; what was changed in place is the operand itself."""
        if meta is None:
            return None
        for pointer in self._pointers:
            if pointer.handle.number == meta.number:
                return pointer
        return make(meta, self.link)


def in_backward() -> bool:
    """Whether PyTorch's autograd engine is at work in this thread."""
    return bool(torch._C._current_graph_task_id() != -1)


def constants_sent(func: Any, args: Any, kwargs: Any, pointer: type[Tensor]) -> tuple[Any, Any]:
    """Arguments of an operation of a backward pass, with local tensors sent to where the pointers are.

    PyTorch's derivative rules make zeros, ranges and numbers as local tensors. What the operation writes is left
    alone: the
    rule would go on with the local tensor.
    """
    link = next((x.handle.link for x in _tensors([*args, *(kwargs or {}).values()]) if isinstance(x, pointer)), None)  # type: ignore[attr-defined]
    if link is None or func._schema.is_mutable:
        return args, kwargs

    def sent(value: Any) -> Any:
        if type(value) is Tensor and not value.requires_grad:
            return value.send(link.worker, owner=link.owner)  # type: ignore[attr-defined]
        return [sent(part) for part in value] if isinstance(value, (list, tuple)) else value

    return [sent(arg) for arg in args], {name: sent(value) for name, value in (kwargs or {}).items()}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)


def metadata_of(x: Any) -> Meta:
    """What a pointer knows of its object."""
    handle = x.handle
    return Meta(
        handle.number,
        handle.kind,
        str(x.dtype).removeprefix("torch."),
        list(x.shape),
        list(x.stride()),
        x.storage_offset(),
        list(handle.tags),
        handle.description,
    )
