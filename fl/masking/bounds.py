"""How many neighbours, and how many shares, a round needs.

Of n clients at most C = floor(gamma n) share what they know with the server, and D = floor(delta n) drop out. Who is
corrupt does not depend on the graph, so numbers of corrupt clients are hypergeometric (Bell et al. 2020): of k
neighbours Hyp(n - 1, C, k), of h = k / 2 successive places of the circle Hyp(n, C, h). c is the least number with
n Pr[Hyp(n - 1, C, k) > c] <= 2^-(sigma + 1), c' the same for windows.

- t > c: corrupt neighbours alone cannot give a secret back.
- w > c': every window of h places has an honest survivor, so the honest survivors' graph is connected, whichever
  clients the server lets drop out once it knows the graph.
- 3 t > 2 k + 2 c + 1, for an active server: no two lists of survivors are answered near each other.
- n Pr[Hyp(n - 1, D, k) > k - t] <= 2^-(eta + 1), and n Pr[Hyp(n, D, h) > h - w] likewise: the round succeeds.

In the complete graph C and D are certain: t > C, for an active server 2 t + 2 > n + C, and n - D > t.
``docs/protocols/masking.md`` proves these.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sharetorch.mpc.errors import ConfigurationError

FEW = 64
"""Up to so many members the complete graph costs little, and its numbers are certain."""


@dataclass(frozen=True)
class Trust:
    """What is assumed of the others.

    Attributes:
        dropout: share of the clients that may drop out.
        corrupt: share of the clients that may work with the server.
        sigma: a sum shows more than it should with probability 2^-sigma at most.
        eta: with no more dropouts than ``dropout``, a round fails with probability 2^-eta at most.
        server: "active" may say anything to anybody; "curious" follows the protocol.
        fewest: members a round has at least. Shares of fewer clients than 1 / ``corrupt`` are rounded down to none.
    """

    dropout: float = 0.1
    corrupt: float = 0.1
    sigma: int = 40
    eta: int = 30
    server: Literal["active", "curious"] = "active"
    fewest: int = 2

    def __post_init__(self) -> None:
        if not (0 <= self.dropout < 1 and 0 <= self.corrupt < 1 and self.sigma > 0 and self.eta > 0):
            raise ConfigurationError(f"{self} is no assumption about a round: shares lie in [0, 1), bits are positive.")
        if self.server not in ("active", "curious"):
            raise ConfigurationError(f"A server is 'active' or 'curious', not {self.server!r}.")


class Parameters(NamedTuple):
    """Size of a graph and of the sharing among neighbours.

    Attributes:
        degree: neighbours of each client.
        threshold: shares that give a secret back.
        window: survivors among ``degree`` / 2 successive places; 0 for the complete graph.
    """

    degree: int
    threshold: int
    window: int


def choose(members: int, trust: Trust | None = None) -> Parameters:
    """The sparsest graph that is safe and succeeds; the complete one for few members, or where it saves less than half.

    Raises:
        ConfigurationError: no graph serves these assumptions.
    """
    trust = Trust() if trust is None else trust
    gone = math.floor(trust.dropout * members)
    for degree in range(4, members // 2 + 1, 2) if members > FEW else ():
        least = required(members, degree, trust)
        spare = degree - most(members - 1, gone, degree, trust.eta + 1, members)
        windows = degree // 2 - most(members, gone, degree // 2, trust.eta + 1, members)
        if least.threshold <= spare and least.window <= windows:
            return least._replace(threshold=max(least.threshold, min(degree // 2 + 1, spare)))
    least = required(members, members - 1, trust)
    if members - gone <= least.threshold:
        raise ConfigurationError(
            f"With {members} clients, {gone} of them dropping out and a share of {trust.corrupt:g} corrupt, "
            f"{least.threshold + 1} must survive for the sum to be safe. Invite more clients, or assume less."
        )
    return least


def required(members: int, degree: int, trust: Trust) -> Parameters:
    """The least threshold and window that are safe with so many neighbours."""
    corrupt = math.floor(trust.corrupt * members)
    active = trust.server == "active"
    if degree == members - 1:
        return Parameters(degree, max(corrupt + 1, (members + corrupt) // 2 if active else 1), 0)
    near = most(members - 1, corrupt, degree, trust.sigma + 1, members)
    window = most(members, corrupt, degree // 2, trust.sigma + 1, members) + 1
    return Parameters(degree, max(near + 1, (2 * degree + 2 * near + 1) // 3 + 1 if active else 1), window)


def most(population: int, marked: int, drawn: int, bits: int, places: int) -> int:
    """The least c with places * Pr[Hyp(population, marked, drawn) > c] <= 2^-bits."""
    bound = 2.0**-bits / places
    beyond = 0.0
    for count in range(min(marked, drawn), max(0, marked + drawn - population), -1):
        beyond += _probability(population, marked, drawn, count)
        if beyond > bound:
            return count
    return max(0, marked + drawn - population)


def _probability(population: int, marked: int, drawn: int, count: int) -> float:
    """Pr[Hyp(population, marked, drawn) = count]."""
    ways = _log_ways(marked, count) + _log_ways(population - marked, drawn - count) - _log_ways(population, drawn)
    return math.exp(ways) * (1 + 1e-6)


def _log_ways(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
