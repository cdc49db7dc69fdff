"""Inference and training steps of whole models.

Inference gets new images at every call; the model stays shared, so its weights were masked and opened before, as in a
service that answers many requests. A training step takes a batch out of shared images and labels, and runs forward,
loss, backward and stock SGD; its weights are new every time.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import sharetorch as st

ITEMS = 1024
LOSS_BOUND = 0.01


class Case(NamedTuple):
    """A model and the batch it gets."""

    name: str
    batch: int
    layers: tuple[nn.Module, ...]

    def make(self) -> nn.Sequential:
        """A copy with first weights of its own."""
        model = nn.Sequential(*copy.deepcopy(self.layers))
        for layer in model:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        return model


MLP = Case(
    "MLP 784-128-64-10",
    128,
    (nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)),
)
LENET = Case(
    "LeNet (20, 50, 500)",
    64,
    (
        *(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    ),
)
MODELS = pytest.mark.parametrize("case", [MLP, LENET], ids=["mlp", "lenet"])


def images(bench: Any, count: int) -> Tensor:
    """Random images, a fifth of the pixels bright, like handwriting."""
    return bench.reals(count, 1, 28, 28).abs() * (torch.rand(count, 1, 28, 28) < 0.2)


def _as_it_is(step: Any) -> Any:
    return step


def steps(
    model: nn.Module, inputs: Tensor, targets: Tensor, batch: int, form: Callable[[Any], Any] = _as_it_is
) -> Iterator[Tensor]:
    """Train on random batches without end; plain and shared runs see the same ones. ``form`` may trace the step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(0)

    @form
    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).sum() * (2 / batch)
        loss.backward()
        optimizer.step()
        return loss.detach()

    while True:
        chosen = torch.randperm(len(inputs), generator=generator)[:batch]
        yield step(inputs[chosen], targets[chosen])


@MODELS
def test_inference(bench: Any, case: Case) -> None:
    batch = bench.size(case.batch)
    model = case.make().eval()
    shared = bench.share(copy.deepcopy(model))
    with torch.no_grad():
        bench(f"{case.name}: inference, batch {batch}", shared, model, images(bench, batch), bound=2**-10)


@pytest.mark.parametrize("traced", [False, True], ids=["", "traced"])
@MODELS
def test_training_step(bench: Any, case: Case, traced: bool) -> None:
    batch = bench.size(case.batch)
    inputs = images(bench, bench.size(ITEMS))
    targets = torch.eye(10)[bench.words(len(inputs), low=0, high=10)]
    model = case.make()
    shared = bench.share(copy.deepcopy(model))
    encrypted = steps(shared, bench.share(inputs), bench.share(targets), batch, st.traced if traced else _as_it_is)
    plain = steps(model, inputs, targets, batch)
    losses: list[Tensor] = []
    bench(
        f"{case.name}: training step{', traced' * traced}, batch {batch}",
        lambda: next(encrypted),
        lambda: losses.append(next(plain)),
        bound=LOSS_BOUND,
        expected=losses.__getitem__,
    )
