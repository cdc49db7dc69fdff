"""Clients that misbehave, to try out what a rule withstands; none of this is of use against anybody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sharetorch.fl.rounds.chance import Chance
from sharetorch.fl.rounds.clients import Client, Task, Update
from sharetorch.mpc.errors import TrainingError

Attack = Callable[[Tensor, float, Chance], Tensor]
"""From an honest update, a strength and random numbers to what is sent."""


def _random(update: Tensor, strength: float, chance: Chance) -> Tensor:
    return strength * torch.from_numpy(chance.normal(len(update)))


ATTACKS: Mapping[str, Attack] = {
    "sign-flip": lambda update, strength, chance: -strength * update,
    "scale": lambda update, strength, chance: strength * update,
    "label-flip": lambda update, strength, chance: update,
    "random": _random,
}
"""By name: ``strength`` times the update against its direction, or along it; an honest update on wrong labels, see
``flipped``; or normal numbers with the standard deviation ``strength``, whatever the update is.
"""


def flipped(labels: Tensor, classes: int) -> Tensor:
    """Each label replaced by the one as far from the other end: 0 by the last, 1 by the last but one."""
    return classes - 1 - labels


class Byzantine:
    """A client that trains honestly and sends something else.

    Args:
        client: who trains.
        attack: a name of ``ATTACKS``.
        strength: see there.

    Raises:
        TrainingError: there is no such attack.
    """

    def __init__(self, client: Client, attack: str, strength: float) -> None:
        if attack not in ATTACKS:
            raise TrainingError(f"{attack!r} is no attack; there are {', '.join(ATTACKS)}.")
        self.id = client.id
        self._client, self._attack, self._strength = client, ATTACKS[attack], strength

    def train(self, task: Task) -> Update:
        """See ``Client``."""
        update = self._client.train(task)
        if not isinstance(update, Update):
            raise TrainingError(f"The update of {self.id} is with the aggregators; attack where it is made.")
        chance = Chance(task.seed, "attack", task.round, self.id)
        return update._replace(vector=self._attack(update.vector, self._strength, chance))
