"""How large the results of an operation may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharetorch.remote.node import Node
    from sharetorch.remote.operators import Operator


def check(node: Node, operator: Operator, args: list[Any], kwargs: dict[str, Any]) -> None:
    """Refuse an operation whose results would be larger than the node allows."""
