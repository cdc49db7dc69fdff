"""Who has a mask in common with whom.

The members stand on a circle in an order drawn from public randomness: by the SHA-256 of the seed and their number.
Neighbours are the k / 2 before and the k / 2 behind (a Harary graph), or all others if k = n - 1. Everybody computes
the graph from the round's document, so nobody is told neighbours.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import lru_cache

from sharetorch.fl.masking.bounds import Parameters
from sharetorch.mpc.errors import ConfigurationError


class Graph:
    """The neighbours of every member.

    Args:
        members: how many there are.
        seed: public randomness.
        parameters: degree, threshold and window.

    Raises:
        ConfigurationError: there is no such graph.
    """

    def __init__(self, members: int, seed: bytes, parameters: Parameters) -> None:
        degree, threshold, window = parameters
        self.members = members
        self.parameters = parameters
        self.complete = degree == members - 1
        if not self.complete and (degree % 2 or not 2 <= degree < members - 1):
            raise ConfigurationError(
                f"{members} members cannot have {degree} neighbours each. Take an even number of them, or "
                f"{members - 1} for the complete graph."
            )
        if not 1 <= threshold <= degree or (window != 0 if self.complete else not 1 <= window <= degree // 2):
            raise ConfigurationError(
                f"A threshold of {threshold} and a window of {window} do not fit {degree} neighbours; `choose` gives "
                "values that do."
            )
        self.order = tuple(
            sorted(range(members), key=lambda member: hashlib.sha256(seed + member.to_bytes(4, "big")).digest())
        )
        self._places = {member: place for place, member in enumerate(self.order)}
        self._found: dict[int, tuple[int, ...]] = {}

    def neighbours(self, member: int) -> tuple[int, ...]:
        """Neighbours of a member, by number."""
        if member not in self._found:
            self._found[member] = self._neighbours(member)
        return self._found[member]

    def _neighbours(self, member: int) -> tuple[int, ...]:
        if self.complete:
            return tuple(other for other in range(self.members) if other != member)
        place, half = self._places[member], self.parameters.degree // 2
        around = (place + step for step in range(-half, half + 1) if step)
        return tuple(sorted(self.order[each % self.members] for each in around))

    def enough(self, member: int, present: Collection[int]) -> bool:
        """Whether at least as many neighbours as the threshold are present."""
        found = sum(other in present for other in self.neighbours(member))
        return found >= self.parameters.threshold

    def sound(self, present: Collection[int]) -> bool:
        """Whether all who are present have neighbours enough, and no window of the circle too few present."""
        there = frozenset(present)
        if len(there) < 2 or not self._windows(there):
            return False
        if self.complete:
            return len(there) > self.parameters.threshold
        return all(self.enough(member, there) for member in there)

    def _windows(self, present: frozenset[int]) -> bool:
        if self.complete:
            return True
        size, flags = self.parameters.degree // 2, [member in present for member in self.order]
        inside = sum(flags[:size])
        least = inside
        for place in range(self.members):
            inside += flags[(place + size) % self.members] - flags[place]
            least = min(least, inside)
        return least >= self.parameters.window


@lru_cache(maxsize=8)
def graph_of(members: int, seed: bytes, parameters: Parameters) -> Graph:
    """The graph of a round; members of one process have it in common."""
    return Graph(members, seed, parameters)
