"""Correlated randomness: what the provider deals and what the parties make of it.

Every member expands its own part from the stream it shares with the provider; only the last party receives corrections.
Each function here is run by all members alike. Material lives inside one operation and is consumed on the spot: a
``OneTime`` hands its value out once and raises afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from sharetorch.mpc.channel import RING, Form
from sharetorch.mpc.errors import CorrelationReusedError, ShapeError
from sharetorch.mpc.party import Party
from sharetorch.mpc.ring import Elements

T = TypeVar("T")


class OneTime(Generic[T]):
    """Correlated randomness that may be used once."""

    def __init__(self, name: str, value: T | None) -> None:
        self._name = name
        self._value: T | None = value

    def take(self, shape: Any = None) -> T:
        """Hand the value out and forget it.

        Raises:
            CorrelationReusedError: it was taken before.
            ShapeError: it does not have exactly the shape of what it is to hide.
        """
        if self._value is None:
            raise CorrelationReusedError(
                f"{self._name} was already used. A second use would reveal differences of secrets; deal a new one."
            )
        value, self._value = self._value, None
        if shape is not None and tuple(value.shape) != tuple(shape):  # type: ignore[attr-defined]
            raise ShapeError(
                f"{self._name} has shape {tuple(value.shape)}, but {tuple(shape)} is to be hidden. "  # type: ignore[attr-defined]
                "A mask that is broadcast reveals differences of the elements it covers."
            )
        return value

    def __repr__(self) -> str:
        return f"OneTime({self._name}, {'used' if self._value is None else 'fresh'})"


def random_shares(party: Party, label: str, shape: Any) -> OneTime[Elements]:
    """Shares of a uniform tensor that nobody but the provider knows. At the provider: the tensor. No bytes."""
    if not party.is_provider:
        return OneTime(label, party.stream(party.provider, label).uniform(shape, party.ring))
    total = party.stream(0, label).uniform(shape, party.ring)
    for rank in range(1, party.parties):
        total = party.stream(rank, label).add_uniform(total, party.ring)
    return OneTime(label, total)


async def dealt_shares(party: Party, label: str, shape: Any, value: Callable[[], Elements]) -> OneTime[Elements]:
    """Shares of a tensor the provider computes; ``value`` is called at the provider only, and gives the tensor up.

    The provider has nothing to take afterwards.

    Cost: one element per element, offline, from the provider to the last party.
    """
    if party.is_provider:
        rest = value()
        for rank in range(party.parties - 1):
            rest = party.stream(rank, label).subtract_uniform(rest, party.ring)
        party.send(party.parties - 1, label, rest, offline=True)
        return OneTime(label, None)
    if not party.is_last:
        return OneTime(label, party.stream(party.provider, label).uniform(shape, party.ring))
    (correction,) = await party.receive(party.provider, label, Form(RING, tuple(shape)))
    return OneTime(label, correction)
