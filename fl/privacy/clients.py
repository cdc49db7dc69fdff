"""Clients of rounds whose training is differentially private for each record of theirs, whoever aggregates.

DP-SGD (Abadi et al. 2016), by opacus: each step takes every record by a secret coin (Poisson sampling, from a
cryptographic stream), clips the gradient of each to length C, adds noise of z C to the sum, and steps. What leaves the
client is the trained parameters' difference; its privacy is what the accountant says of the steps, for neighbours by
one record added or removed. The number of records and of steps is not hidden. No loss is told, for it would be exact.
"""

from __future__ import annotations

import copy
import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sharetorch.fl.datasets import BaseDataset
from sharetorch.fl.privacy.accounting import Step, opacus
from sharetorch.fl.privacy.errors import NoiseError, PrivateModelError
from sharetorch.fl.privacy.ledger import Budget
from sharetorch.fl.rounds.clients import Task, Update
from sharetorch.fl.rounds.vectors import Layout
from sharetorch.fl.structs import tensors_of
from sharetorch.fl.train_config import TrainConfig
from sharetorch.fl.training import batch_of, call_loss
from sharetorch.mpc.errors import FederatedDataError
from sharetorch.mpc.randomness import Stream, fresh_stream


@dataclass(frozen=True)
class RecordPrivacy:
    """How private training is for each record.

    Attributes:
        clip: largest length of a record's gradient (L2), over all parameters.
        multiplier: standard deviation of the noise over the clip.

    Raises:
        NoiseError: one is no positive number.
    """

    clip: float
    multiplier: float

    def __post_init__(self) -> None:
        """Check both."""
        if not all(math.isfinite(number) and number > 0 for number in (self.clip, self.multiplier)):
            raise NoiseError(f"{self}: both are positive numbers; the noise is multiplier times clip.")


class DPClient:
    """A client with data in this process, for ``Federation``. Its updates are private for each record.

    The order of items and the batches follow from secrets, not from the federation's seed: a round that is repeated
    gives another update, and is spent again.

    Args:
        id: its name.
        dataset: its records.
        config: model, loss and how to train. The loss is a mean over the batch, of which each term depends on one
            record. ``batch_size`` is the number of records in a step on the average.
        privacy: clip and noise.
        budget: of this data set; a round is written down before it begins.

    Attributes:
        id: as given.

    Raises:
        TrainingError: no model or no loss.
        FederatedDataError: no records.
        PrivateModelError: a model in which the gradient of a record depends on others (batch normalisation).
        MissingExtraError: opacus is not installed.
    """

    def __init__(
        self, id: str, dataset: BaseDataset, config: TrainConfig, privacy: RecordPrivacy, budget: Budget
    ) -> None:
        config.require_complete()
        if not len(dataset):
            raise FederatedDataError(f"{id} has no records to train on.")
        _require_private(config.model)
        self.id = id
        self._dataset, self._config, self._privacy, self._budget = dataset, config, privacy, budget
        self._layout = Layout(config.model)

    def __repr__(self) -> str:
        return f"<DPClient {self.id}, {len(self._dataset)} records, {self._privacy}>"

    @property
    def step(self) -> Step:
        """What one round is for the accountant."""
        settings, items = self._config.settings, len(self._dataset)
        batches = -(-items // settings.batch_size)
        if settings.max_nr_batches > 0:
            batches = min(batches, settings.max_nr_batches)
        return Step(self._privacy.multiplier, min(1.0, settings.batch_size / items), settings.epochs * batches)

    def train(self, task: Task) -> Update:
        """Train within the budget; see ``Client``.

        Raises:
            BudgetExceededError: the round would spend too much; nothing was done.
            LedgerError: the ledger cannot be written.
        """
        step = self.step
        self._budget.spend(step, task.round)
        model = copy.deepcopy(self._config.model)
        trained = self._trained(model, task, step.times)
        before, after = self._layout.vector(task.tensors), self._layout.vector(trained)
        return Update(after - before, float(len(self._dataset)), math.nan)

    def _trained(self, model: nn.Module, task: Task, steps: int) -> Sequence[Tensor]:
        """The tensors after a round; buffers as they were."""
        _load(model, task.tensors)
        module = opacus("grad_sample").GradSampleModule(model.train(), loss_reduction="mean")
        trained = [x for x in model.parameters() if x.requires_grad]
        records = importlib.import_module("sharetorch.fl.privacy.records")
        optimizer = records.PrivateOptimizer(
            self._config.settings.make_optimizer(list(trained)),
            self._privacy.multiplier,
            self._privacy.clip,
            min(self._config.settings.batch_size, len(self._dataset)),
        )
        if task.proximal:
            optimizer.attach_step_hook(_towards([x.detach().clone() for x in trained], trained, task.proximal))
        stream = fresh_stream()
        for _ in range(steps):
            self._step(module, trained, optimizer, self._chosen(stream))
        return [x.detach() for x in model.parameters()] + list(task.tensors[len(list(model.parameters())) :])

    def _chosen(self, stream: Stream) -> Tensor:
        """Indices of records, each by a coin of its own."""
        items, size = len(self._dataset), self._config.settings.batch_size
        if size >= items:
            return torch.arange(items)
        drawn = stream.bytes(8 * items).view(np.uint64)
        return torch.from_numpy(np.flatnonzero(drawn < np.uint64((size << 64) // items)))

    def _step(self, module: Any, trained: Sequence[Tensor], optimizer: Any, indices: Tensor) -> None:
        optimizer.zero_grad()
        if len(indices):
            data, targets = batch_of(self._dataset, indices)
            if data.is_floating_point():
                data = data.detach().clone().requires_grad_()  # or torch warns of opacus' hooks
            with torch.enable_grad():
                call_loss(self._config.loss_fn, module(data), targets).backward()  # type: ignore[arg-type]
        for x in trained:
            if getattr(x, "grad_sample", None) is None:
                x.grad_sample = x.new_zeros((len(indices), *x.shape))  # type: ignore[attr-defined]
        optimizer.step()


def _towards(start: Sequence[Tensor], trained: Sequence[Tensor], proximal: float) -> Any:
    """Adds the gradient of FedProx's term, which depends on no record, to the noisy gradients."""

    def hook(optimizer: Any) -> None:
        for x, origin in zip(trained, start, strict=True):
            assert x.grad is not None
            x.grad += proximal * (x.detach() - origin)

    return hook


def _load(model: nn.Module, tensors: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for mine, sent in zip(tensors_of(model), tensors, strict=True):
            mine.copy_(sent)


def _require_private(model: Any) -> None:
    """Raise unless opacus gives the gradient of each record of a model.

    Raises:
        PrivateModelError: it does not.
    """
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise PrivateModelError(f"A {type(model).__name__} has no gradients of single records; give a torch module.")
    problems = opacus("validators").ModuleValidator.validate(model, strict=False)
    if not any(x.requires_grad for x in model.parameters()):
        raise PrivateModelError("The model has no parameter that requires a gradient: nothing would be trained.")
    if problems:
        raise PrivateModelError(
            f"This model's gradients cannot be clipped record by record: {'; '.join(map(str, problems))}. Use group "
            "normalisation instead of batch normalisation, or opacus.validators.ModuleValidator.fix(model)."
        )
