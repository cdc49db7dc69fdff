"""What all pointers have in common: a claim on an object of a worker, and what is public about it."""

from __future__ import annotations

from typing import Any, Self

from sharetorch.remote.messages import Label


class Claimed:
    """Base of pointers.

    Attributes:
        handle: the claim on the object.
    """

    handle: Any

    @property
    def location(self) -> Any:
        """The worker that holds the object."""
        return self.handle.link.worker

    @property
    def owner(self) -> Any:
        """The worker that holds the pointer."""
        return self.handle.link.owner

    @property
    def id_at_location(self) -> int:
        """Number of the object at its worker."""
        number: int = self.handle.number
        return number

    @property
    def id(self) -> int:
        """Number of the object; pointer and object share it."""
        number: int = self.handle.number
        return number

    @property
    def tags(self) -> set[str]:
        """By which the object is found."""
        return set(self.handle.tags)

    @property
    def description(self) -> str | None:
        """What its owner says of it."""
        text: str | None = self.handle.description
        return text

    def tag(self, *tags: str) -> Self:
        """Let the object be found by these tags."""
        self.handle.tags = tuple(dict.fromkeys([*self.handle.tags, *tags]))
        self.handle.link.request(Label(self.handle.number, list(self.handle.tags)))
        return self

    def describe(self, text: str) -> Self:
        """Say what the object is."""
        self.handle.description = text
        self.handle.link.request(Label(self.handle.number, None, text))
        return self

    @property
    def garbage_collection(self) -> bool:
        """Whether the worker's object is deleted with the last pointer to it."""
        return bool(self.handle.owned)

    @garbage_collection.setter
    def garbage_collection(self, on: bool) -> None:
        self.handle.owned = bool(on)

    gc = garbage_collection

    @property
    def disable_gc(self) -> Self:
        """This pointer, which no longer deletes the worker's object."""
        self.handle.drop()
        return self
