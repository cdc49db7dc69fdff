"""Computed attributes for classes of torch, which instances may replace by ones of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Attribute:
    """A computed attribute that an instance may replace by one of its own.

    Args:
        compute: from the instance to the value.
    """

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def named(self, name: str) -> Attribute:
        """This attribute, which now knows under which name instances have their own."""
        self._name = name
        return self

    def __get__(self, instance: Any, kind: type | None = None) -> Any:
        if instance is None:
            return self
        own = instance.__dict__
        for place in (own, *(own.get(store) or {} for store in ("_parameters", "_buffers", "_modules"))):
            if self._name in place:
                return place[self._name]
        return self._compute(instance)

    def __set__(self, instance: Any, value: Any) -> None:
        instance.__dict__[self._name] = value

    def __delete__(self, instance: Any) -> None:
        del instance.__dict__[self._name]
