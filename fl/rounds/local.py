"""What a client does in a round: from the parameters it was sent, some epochs on its own data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sharetorch.fl import training
from sharetorch.fl.datasets import BaseDataset
from sharetorch.fl.rounds.chance import Chance
from sharetorch.fl.training import Settings, Step, batch_of


def train(
    step: Step, trained: Sequence[Tensor], dataset: BaseDataset, settings: Settings, chance: Chance, proximal: float
) -> float:
    """Train in place, with an optimizer of this round's own.

    Args:
        step: model and loss on one batch.
        trained: parameters to be trained, leaves that require gradients.
        dataset: the client's.
        settings: how to train.
        chance: draws the order of items.
        proximal: mu of FedProx (Li et al. 2020): mu / 2 times the squared distance from the parameters the round began
            with is added to the loss; 0 adds nothing.

    Returns:
        The mean loss over all items seen, without that term.
    """
    start = [x.detach().clone() for x in trained] if proximal else []
    optimizer = settings.make_optimizer(list(trained))
    total, seen = 0.0, 0
    for _ in range(settings.epochs):
        for indices in _batches(len(dataset), settings, chance):
            optimizer.zero_grad()
            with torch.enable_grad():
                loss, _ = step(*batch_of(dataset, indices))
                whole = loss
                for x, origin in zip(trained, start, strict=False):
                    whole = whole + proximal / 2 * (x - origin).square().sum()
                whole.backward()
            optimizer.step()
            total += float(loss.detach()) * len(indices)
            seen += len(indices)
    return total / max(1, seen)


def _batches(items: int, settings: training.Settings, chance: Chance) -> Iterator[Tensor]:
    """Indices of the batches of one epoch; a batch of all items keeps their order."""
    shuffled = settings.shuffle and settings.batch_size < items
    order = torch.from_numpy(chance.permutation(items)) if shuffled else torch.arange(items)
    for number, indices in enumerate(order.split(settings.batch_size)):
        if 0 < settings.max_nr_batches <= number:
            return
        yield indices
