"""``PlaceHolder``: a place for a tensor, as the tutorials write the state of a plan."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sharetorch.mpc.session import new_id


class PlaceHolder:
    """A place that holds a tensor once it is instantiated.

    Args:
        id: number; one of its own if not given.
        tags: words that describe it.
        description: text that describes it.

    Attributes:
        child: the tensor, or None.
    """

    def __init__(self, id: int | None = None, tags: Any = (), description: str | None = None, **_: Any) -> None:
        self.id = new_id() if id is None else id
        self.tags = set(tags)
        self.description = description
        self.child: Tensor | None = None

    def instantiate(self, tensor: Any) -> PlaceHolder:
        """Put a tensor in; returns the place."""
        self.child = tensor.child if isinstance(tensor, PlaceHolder) else tensor
        return self

    def __repr__(self) -> str:
        return f"PlaceHolder({self.id}) > {self.child!r}"
