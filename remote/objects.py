"""What a worker holds: values with an owner, readers, tags and a description.

Readers belong to memory, not to numbers: all views of one storage have one ``Readers`` in common, so that a view made
before a secret was written into its base is as secret as the base.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from sharetorch.remote.messages import Meta


class Readers:
    """Who may have the values of some memory.

    Attributes:
        names: ids of users and workers; None is everybody.
        keeper: id of who put the memory there, and may change it at a private worker.
    """

    __slots__ = ("keeper", "names")

    def __init__(self, names: frozenset[str] | None = None) -> None:
        self.names = names
        self.keeper: str | None = None

    def include(self, *names: str | None) -> bool:
        """Whether one of these may read."""
        return self.names is None or any(name in self.names for name in names)

    def narrow(self, other: frozenset[str] | None) -> None:
        """Keep only those who may read the other memory too."""
        if other is not None:
            self.names = other if self.names is None else self.names & other


class Record:
    """One object.

    Attributes:
        number: its number at the worker.
        value: what it is.
        owner: id of who put it there.
        readers: who may have its value.
        released: users to whom the owner has allowed this one object besides.
        tags: by which it is found.
        description: text of its owner.
        given: whether it was sent here as it is, not computed.
        place: where its memory is, the same for views of one another; None if it has none here, or is not held.
    """

    __slots__ = ("description", "given", "number", "owner", "place", "readers", "released", "tags", "value")

    def __init__(self, number: int, value: Any, owner: str, readers: Readers) -> None:
        self.number = number
        self.value = value
        self.owner = owner
        self.readers = readers
        readers.keeper = readers.keeper or owner
        self.released: frozenset[str] = frozenset()
        self.tags: tuple[str, ...] = ()
        self.description: str | None = None
        self.given = False
        self.place: int | None = None

    def __repr__(self) -> str:
        return f"Record({self.number}, {type(self.value).__name__})"

    def meta(self) -> Meta:
        """What is public about it."""
        return describe(self.number, self.value, list(self.tags), self.description)


_DTYPE_NAMES: dict[torch.dtype, str] = {}


def dtype_name(dtype: torch.dtype) -> str:
    """Name of a dtype without "torch."."""
    name = _DTYPE_NAMES.get(dtype)
    if name is None:
        name = _DTYPE_NAMES[dtype] = str(dtype).removeprefix("torch.")
    return name


KINDS: dict[type, str] = {Tensor: "tensor", torch.nn.Parameter: "tensor"}
"""Kinds of objects by type; modules that define further types add theirs."""


def kind_of(value: Any) -> str:
    """The kind of a value, by its type or the nearest base that has one."""
    kind = KINDS.get(type(value))
    return kind or next((KINDS[base] for base in type(value).__mro__ if base in KINDS), "value")


def describe(number: int, value: Any, tags: list[str], description: str | None) -> Meta:
    """What is public about an object."""
    if isinstance(value, Tensor):
        strided = value.layout is torch.strided
        return Meta(
            number,
            KINDS.get(type(value)) or kind_of(value),
            _DTYPE_NAMES.get(value.dtype) or dtype_name(value.dtype),
            list(value.shape),
            list(value.stride()) if strided else [],
            int(value.storage_offset()) if strided else 0,
            tags,
            description,
        )
    return Meta(number, kind_of(value), tags=tags, description=description)


PLAIN = frozenset({Tensor, torch.nn.Parameter})
"""Types of tensors with memory of their own."""


def memory_of(value: Any) -> torch.UntypedStorage | None:
    """The memory of a plain tensor, or of the integers of a fixed-precision one; None for what has none here."""
    if type(value) is not Tensor and type(value) not in PLAIN:
        value = getattr(value, "integers", None)
        if type(value) is not Tensor:
            return None
    storage: torch.UntypedStorage = value.untyped_storage()
    return storage


def storage_of(value: Any) -> int | None:
    """What is the same for views of one another; None for what has no memory here."""
    memory = memory_of(value)
    return None if memory is None else memory._cdata


class Objects(dict[int, Record]):
    """Objects by number, with a running count of the memory they take; views of one another count once.

    Attributes:
        bytes: of all objects together.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._shared: dict[int, tuple[int, int]] = {}

    def __setitem__(self, number: int, record: Record) -> None:
        before = self.get(number)
        if before is not None:
            self._give_up(before)
        dict.__setitem__(self, number, record)
        value = record.value
        memory = value.untyped_storage() if type(value) is Tensor else memory_of(value)
        if memory is None:
            record.place = None
            return
        place = record.place = memory._cdata
        known = self._shared.get(place)
        if known is None:
            size = memory.nbytes()
            self.bytes += size
            self._shared[place] = 1, size
        else:
            self._shared[place] = known[0] + 1, known[1]

    def _give_up(self, record: Record) -> None:
        place, record.place = record.place, None
        if place is None:
            return
        uses, size = self._shared[place]
        if uses == 1:
            del self._shared[place]
            self.bytes -= size
        else:
            self._shared[place] = uses - 1, size

    def __delitem__(self, number: int) -> None:
        self._give_up(dict.pop(self, number))

    def pop(self, number: int, *default: Any) -> Any:
        """Take an object out."""
        if number not in self:
            return dict.pop(self, number, *default)
        record = dict.pop(self, number)
        self._give_up(record)
        return record

    def clear(self) -> None:
        """Take all objects out."""
        for record in self.values():
            record.place = None
        dict.clear(self)
        self._shared.clear()
        self.bytes = 0

    def moved(self, record: Record) -> None:
        """An object's value has other memory now, as after ``set_``."""
        if self.get(record.number) is record:
            self[record.number] = record


def common_readers(records: Iterable[Record]) -> frozenset[str] | None:
    """Who may read all of these objects."""
    shared = Readers()
    for record in records:
        shared.narrow(record.readers.names)
    return shared.names
