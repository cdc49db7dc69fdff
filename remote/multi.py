"""``MultiPointerTensor``: one tensor for each of several workers, worked on alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from sharetorch.mpc.errors import MembersError, RemoteOperationError, TensorsNotCollocatedException
from sharetorch.mpc.tensor.location import user_line
from sharetorch.remote.pointer import PointerTensor, _item


class MultiPointerTensor(torch.Tensor):
    """Pointers of the same shape and dtype to several workers; operations run at every one of them.

    Made by ``x.send(alice, bob)`` and ``combine_pointers``. Operands are other multi-pointers to the same workers.

    Attributes:
        pointers: one for each worker, in order.
    """

    pointers: tuple[PointerTensor, ...]

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls: Any, pointers: Sequence[PointerTensor], requires_grad: bool = False) -> MultiPointerTensor:
        """Pointers as one tensor."""
        first = pointers[0]
        made: MultiPointerTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            first.shape,
            strides=first.stride(),
            storage_offset=first.storage_offset(),
            dtype=first.dtype,
            requires_grad=requires_grad,
        )
        made.pointers = tuple(pointers)
        return made

    def __init__(self, pointers: Sequence[PointerTensor], requires_grad: bool = False) -> None:
        """Everything is set by ``__new__``."""

    @classmethod
    def of(cls, pointers: Sequence[PointerTensor]) -> MultiPointerTensor:
        """Pointers as one tensor.

        Raises:
            MembersError: fewer than one, a worker twice, or different shapes or dtypes.
        """
        if not pointers:
            raise MembersError("A multi-pointer needs at least one pointer.")
        names = [pointer.location.id for pointer in pointers]
        if len(set(names)) < len(names):
            raise MembersError(f"One pointer for each worker; the locations are {', '.join(names)}.")
        kinds = {(tuple(pointer.shape), pointer.dtype) for pointer in pointers}
        if len(kinds) > 1:
            raise MembersError(
                f"Pointers of one multi-pointer have the same shape and dtype; these have {sorted(map(str, kinds))}."
            )
        needs_grad = any(pointer.requires_grad for pointer in pointers)
        return cls([pointer.detach() if pointer.requires_grad else pointer for pointer in pointers], needs_grad)  # type: ignore[misc]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation at every worker."""
        if func is _item:
            raise RemoteOperationError(
                f"The value of a pointer is needed here{user_line()}. Fetch it with .get() first."
            )
        kwargs = kwargs or {}
        like = next(_multis([*args, *kwargs.values()]))
        results = []
        for place in range(len(like.pointers)):
            parts = [_part(arg, place, like) for arg in args]
            results.append(func(*parts, **{name: _part(value, place, like) for name, value in kwargs.items()}))
        joined = _joined(results, args, kwargs)
        if torch.Tag.inplace_view in func.tags:
            with torch.utils._mode_utils.no_dispatch():
                func(*args, **kwargs)
        return joined

    @property
    def child(self) -> dict[str, PointerTensor]:
        """The pointers by worker id."""
        return {pointer.location.id: pointer for pointer in self.pointers}

    @property
    def location(self) -> list[Any]:
        """The workers, in order."""
        return [pointer.location for pointer in self.pointers]

    def get(self, sum_results: bool = False, user: str | None = None, reason: str | None = None) -> Any:
        """Fetch all tensors: a list, or their sum."""
        values = [pointer.get(user, reason) for pointer in self.pointers]
        return sum(values[1:], values[0]) if sum_results else values

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return "[MultiPointerTensor]" + "".join(f"\n\t-> {pointer!r}" for pointer in self.pointers)


def combine_pointers(*pointers: PointerTensor) -> MultiPointerTensor:
    """Pointers to several workers as one tensor.

    Raises:
        MembersError: a worker twice, or different shapes or dtypes.
    """
    return MultiPointerTensor.of(pointers)


def _multis(values: Any) -> Iterator[MultiPointerTensor]:
    for value in values:
        if isinstance(value, MultiPointerTensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _multis(value)


def _part(value: Any, place: int, like: MultiPointerTensor) -> Any:
    """What one worker works on."""
    if isinstance(value, MultiPointerTensor):
        ours = [worker.id for worker in like.location]
        theirs = [worker.id for worker in value.location]
        if ours != theirs:
            raise TensorsNotCollocatedException(
                f"One operand is at {', '.join(ours)}, the other at {', '.join(theirs)}{user_line()}; send both to "
                "the same workers in the same order."
            )
        return value.pointers[place]
    if isinstance(value, Tensor):
        raise TensorsNotCollocatedException(
            f"One operand is at {', '.join(worker.id for worker in like.location)}, the other is a "
            f"{type(value).__name__}{user_line()}; send it to the same workers first."
        )
    if isinstance(value, (list, tuple)):
        return [_part(part, place, like) for part in value]
    return value


def _joined(results: list[Any], args: Any, kwargs: dict[str, Any]) -> Any:
    first = results[0]
    if isinstance(first, (list, tuple)):
        return [_joined(list(parts), args, kwargs) for parts in zip(*results, strict=True)]
    if not isinstance(first, PointerTensor):
        return first
    for operand in _multis([*args, *kwargs.values()]):
        if operand.pointers[0] is first:
            return operand
    return MultiPointerTensor(results)
