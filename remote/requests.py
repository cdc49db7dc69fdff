"""From one operation on pointers to one request, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import TensorsNotCollocatedException
from sharetorch.mpc.tensor.location import user_line
from sharetorch.remote import forecasts, operators
from sharetorch.remote.messages import Execute, Meta
from sharetorch.remote.node import Link
from sharetorch.remote.wire import written, written_view


class Handle:
    """A claim on an object of a worker, given up when the last pointer that uses it is gone.

    Attributes:
        link: the way to the worker.
        number: of the object there.
        owned: whether the object is deleted with this handle.
        kind: what the object is; see ``messages.Meta``.
        tags: by which the object is found, as far as known here.
        description: of the object.
        shared: whether several tensors have this claim: a tensor and what was detached from it.
    """

    __slots__ = ("description", "kind", "link", "number", "owned", "shared", "tags")

    def __init__(self, link: Link, meta: Meta, owned: bool = True) -> None:
        self.link = link
        self.number = meta.number
        self.owned = owned
        self.kind = meta.kind
        self.tags = tuple(meta.tags) if meta.tags else ()
        self.description = meta.description
        self.shared = False

    def __del__(self) -> None:
        try:
            if self.owned:
                self.link.forget(self.number)
        except Exception:  # noqa: S110 - a worker that is gone has forgotten already; or the handle was never made
            pass

    def drop(self) -> None:
        """The object is no longer this handle's to delete."""
        self.owned = False


class View:
    """A claim on a view of an object; the worker is asked for an object of its own only when it is needed.

    Args:
        base: the object.
        form: "t" or "view".
        sizes: of the view.

    Attributes:
        base: the object.
        form: "t" or "view".
        shared: as in ``Handle``.
    """

    __slots__ = ("_made", "_sizes", "base", "form", "shared")

    def __init__(self, base: Handle, form: str, sizes: list[int]) -> None:
        self.base = base
        self.form = form
        self._sizes = sizes
        self._made: Handle | None = None
        self.shared = False
        base.shared = True

    @property
    def link(self) -> Link:
        """The way to the worker."""
        return self.base.link

    @property
    def kind(self) -> str:
        """What the object is."""
        return self.base.kind

    def seen(self) -> Any:
        """How an operation that only reads names the view."""
        if self._made is not None:
            return written(self._made.number)
        return written_view(self.base.number, self.form, self._sizes)

    def claim(self) -> Handle:
        """The claim on an object of its own."""
        if self._made is None:
            sizes = [self._sizes] if self.form == "view" else []
            request = Execute(f"aten.{self.form}.default", [written(self.base.number), *sizes], {})
            self._made = Handle(self.link, self.link.request(request).results[0])
        return self._made

    def drop(self) -> None:
        """The object is no longer this handle's to delete."""
        self.claim().drop()

    number = property(lambda self: self.claim().number)
    owned = property(lambda self: self.claim().owned, lambda self, on: setattr(self.claim(), "owned", on))
    tags = property(lambda self: self.claim().tags, lambda self, tags: setattr(self.claim(), "tags", tags))
    description = property(
        lambda self: self.claim().description, lambda self, text: setattr(self.claim(), "description", text)
    )


_TAKE_A_NUMBER = {
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten.copy_.default,
    torch.ops.aten.fill_.Tensor,
}
"""Operations in which ``x[i] = 5`` ends, where torch makes a local tensor of the 5."""


_NUMBERS = frozenset({int, float, bool, type(None)})


class Operands:
    """Operands of one operation: all at one worker, named by number.

    Args:
        known: the operation.
        pointer: the class of pointers.
        args: its arguments.
        kwargs: its keyword arguments.

    Attributes:
        link: the way to the worker; None if there is no pointer.
        packed: the arguments with pointers replaced by numbers.
        named: the keyword arguments likewise.
        forms: what is public about the objects, in this order, where the link works ahead.

    Raises:
        TensorsNotCollocatedException: tensors at several places.
    """

    __slots__ = ("_all", "_func", "_kind", "_pointers", "_writes", "forms", "link", "named", "packed")

    def __init__(
        self, known: operators.Known, pointer: type[Tensor], args: Any, kwargs: dict[str, Any] | None
    ) -> None:
        self._func = known.overload
        self._kind = pointer
        self._all = (args, kwargs)
        self._pointers: list[Any] = []
        self.forms: list[forecasts.Key] = []
        self._writes = known.writes
        self.link: Any = None
        self.packed: list[Any] = []
        for place, value in enumerate(args):
            kind = type(value)
            if kind is pointer:
                value = self._number(value, place)
            elif kind not in _NUMBERS:
                value = self._pack(value, place)
            self.packed.append(value)
        self.named = {name: self._pack(value, name) for name, value in kwargs.items()} if kwargs else {}

    def _pack(self, value: Any, place: int | str) -> Any:
        kind = type(value)
        if kind in _NUMBERS:
            return value
        if kind is self._kind:
            return self._number(value, place)
        if isinstance(value, (list, tuple)):
            return list(value) if set(map(type, value)) <= _NUMBERS else [self._pack(part, place) for part in value]
        if isinstance(value, Tensor):
            return self._number(value, place) if isinstance(value, self._kind) else self._local(value, place)
        return value

    def _number(self, pointer: Any, place: int | str) -> Any:
        handle = pointer.handle
        link = handle.link
        if link is not self.link:
            if self.link is not None:
                raise self._elsewhere(f"{self.link.worker.id} and {link.worker.id}", "x.move(worker)")
            self.link = link
        if link.ahead:
            self.forms.append(forecasts.form_of(pointer))
        if type(handle) is View and place not in self._writes:
            return handle.seen()
        self._pointers.append(pointer)
        return written(handle.number)

    def _local(self, value: Any, place: int | str) -> Any:
        """A local operand: a number to be written, or a constant of a derivative rule; others are refused."""
        if type(value) is Tensor:
            if value.dim() == 0 and self._func in _TAKE_A_NUMBER:
                return value
            home = self._home()
            if home is not None and _in_backward() and not value.requires_grad and not self._func._schema.is_mutable:
                return self._number(value.send(home.worker, owner=home.owner), place)  # type: ignore[attr-defined]
        other = self.link.worker.id if self.link is not None else "a worker"
        raise self._elsewhere(f"{other} and here (a local {type(value).__name__})", "x.send(worker)")

    def _home(self) -> Link | None:
        """The way to where the pointers are."""
        args, kwargs = self._all
        for value in _tensors([*args, *(kwargs or {}).values()]):
            if isinstance(value, self._kind):
                link: Link = value.handle.link  # type: ignore[attr-defined]
                return link
        return None

    def _elsewhere(self, places: str, remedy: str) -> TensorsNotCollocatedException:
        return TensorsNotCollocatedException(
            f"{self._func}{user_line()} has operands at {places}; bring them to one place with {remedy}."
        )

    def key(self) -> forecasts.Key | None:
        """What the form of the results follows from; None if from values."""
        return forecasts.key_of(self._func, self.packed, self.named, self.forms)

    @property
    def numbers(self) -> set[int]:
        """Of the objects that are named as they are."""
        return {pointer.handle.number for pointer in self._pointers}

    def result(self, meta: Meta | None, make: Callable[[Meta, Link], Any]) -> Any:
        """A pointer to a result; what was written is the operand itself, of several names for it that of ``out=``."""
        if meta is None:
            return None
        number = meta.number
        for pointer in reversed(self._pointers) if "out" in self.named else self._pointers:
            if pointer.handle.number == number:
                return pointer
        return make(meta, self.link)


def _in_backward() -> bool:
    """Whether PyTorch's autograd engine is at work in this thread: its rules make zeros and ranges as local tensors."""
    return bool(torch._C._current_graph_task_id() != -1)


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
