"""Stock optimizers and schedulers on shared models follow the plaintext model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import sharetorch as st
from tests.tensor.tools import HOLDERS, PROVIDER, UNIT, assert_same, objects, share

torch.manual_seed(3)
DATA = torch.randn(4, 8, 6)
TARGETS = (DATA @ torch.randn(6, 2)).tanh()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        return self.second(self.first(x).relu())


def shared_copy(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).share(*HOLDERS, crypto_provider=PROVIDER)


def steps(model: nn.Module, optimizer: Any, wrap: Any, scheduler: Any = None) -> list[Any]:
    losses = []
    for x, y in zip(DATA, TARGETS, strict=True):
        optimizer.zero_grad()
        loss = ((model(wrap(x)) - wrap(y)) ** 2).mean()
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        losses.append(loss)
    return losses


def compare(
    model: nn.Module, ours: nn.Module, expected: list[Any], actual: list[Any], bound: float = 40 * UNIT
) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert_same(one, other, bound)
    for one, other in zip(ours.parameters(), model.parameters(), strict=True):
        assert isinstance(one, st.SharedTensor)
        assert isinstance(one, nn.Parameter)
        assert_same(one, other, bound)


SETTINGS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True},
    {"momentum": 0.9, "dampening": 0.3},
    {"weight_decay": 0.05},
    {"momentum": 0.5, "weight_decay": 0.01, "nesterov": True},
    {"maximize": True},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_sgd(settings):
    model = Net()
    ours = shared_copy(model)
    expected = steps(model, torch.optim.SGD(model.parameters(), lr=0.1, **settings), lambda t: t)
    actual = steps(ours, torch.optim.SGD(ours.parameters(), lr=0.1, **settings), share)
    compare(model, ours, expected, actual)


def test_an_optimizer_made_before_sharing():
    model = Net()
    ours = copy.deepcopy(model)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    first = next(iter(ours.parameters()))
    ours.share(*HOLDERS, crypto_provider=PROVIDER)
    assert next(iter(ours.parameters())) is first
    assert optimizer.param_groups[0]["params"][0] is first
    actual = steps(ours, optimizer, share)
    expected = steps(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), lambda t: t)
    compare(model, ours, expected, actual)


def test_momentum_from_plain_steps_is_refused_clearly():
    """State made before sharing stays plain; the first step says so instead of mixing."""
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    steps(model, optimizer, lambda t: t)
    model.share(*HOLDERS, crypto_provider=PROVIDER)
    with pytest.raises(st.exceptions.MismatchError, match="plain tensor"):
        steps(model, optimizer, share)


def test_fixed_precision_optimizers_are_accepted():
    model = Net()
    ours = shared_copy(model)
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1).fix_precision()
    compare(
        model,
        ours,
        steps(model, torch.optim.SGD(model.parameters(), lr=0.1), lambda t: t),
        steps(ours, optimizer, share),
    )


def test_learning_rate_schedulers():
    model = Net()
    ours = shared_copy(model)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.2, momentum=0.9) for m in (model, ours)]
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 1, gamma=0.5) for o in optimizers]
    expected = steps(model, optimizers[0], lambda t: t, schedulers[0])
    compare(model, ours, expected, steps(ours, optimizers[1], share, schedulers[1]))


def test_parameter_groups():
    model = Net()
    ours = shared_copy(model)

    def optimizer(m: Any) -> Any:
        return torch.optim.SGD(
            [{"params": m.first.parameters()}, {"params": m.second.parameters(), "lr": 0.01}], lr=0.1
        )

    expected = steps(model, optimizer(model), lambda t: t)
    compare(model, ours, expected, steps(ours, optimizer(ours), share))


def test_zero_grad_to_zeros():
    ours = shared_copy(Net())
    ours(share(DATA[0])).sum().backward()
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    optimizer.zero_grad(set_to_none=False)
    assert_same(ours.first.weight.grad, torch.zeros(8, 6))
    optimizer.zero_grad()
    assert ours.first.weight.grad is None


def test_frozen_parameters_stay():
    model = Net()
    model.first.requires_grad_(False)
    ours = shared_copy(model)
    assert not ours.first.weight.requires_grad
    expected = steps(model, torch.optim.SGD(model.parameters(), lr=0.1), lambda t: t)
    compare(model, ours, expected, steps(ours, torch.optim.SGD(ours.parameters(), lr=0.1), share))


def test_clipping_the_norm_of_gradients():
    model = Net()
    ours = shared_copy(model)
    for m, wrap in ((model, lambda t: t), (ours, share)):
        ((m(wrap(DATA[0])) - wrap(TARGETS[0])) ** 2).sum().backward()
    expected = nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    actual = nn.utils.clip_grad_norm_(ours.parameters(), 0.5)
    assert_same(actual, expected, 2**-8)
    for one, other in zip(ours.parameters(), model.parameters(), strict=True):
        assert_same(one.grad, other.grad, 2**-10)


def test_clipping_values_of_gradients():
    model = Net()
    ours = shared_copy(model)
    for m, wrap in ((model, lambda t: t), (ours, share)):
        m(wrap(DATA[0])).sum().backward()
        nn.utils.clip_grad_value_(m.parameters(), 0.25)
    for one, other in zip(ours.parameters(), model.parameters(), strict=True):
        assert_same(one.grad, other.grad, 20 * UNIT)


def test_public_data_for_a_shared_model():
    model = Net()
    ours = shared_copy(model)
    expected = steps(model, torch.optim.SGD(model.parameters(), lr=0.1), lambda t: t)
    compare(model, ours, expected, steps(ours, torch.optim.SGD(ours.parameters(), lr=0.1), lambda t: t))


def test_training_frees_its_objects():
    ours = shared_copy(Net())
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1, momentum=0.9)
    steps(ours, optimizer, share)
    before = objects()
    for _ in range(3):
        steps(ours, optimizer, share)
    assert objects() == before
    with pytest.raises(st.exceptions.ShapeError):
        ours(share(torch.ones(3, 5)))
    assert objects() == before
    del ours, optimizer
    assert sum(objects()) < sum(before)


class SmallConvNet(nn.Module):
    """Two convolutions, two max pools, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3)
        self.hidden, self.out = nn.Linear(6, 12), nn.Linear(12, 5)

    def forward(self, x: Any) -> Any:
        x = torch.relu(nn.functional.max_pool2d(self.first(x), 2))
        x = torch.relu(nn.functional.max_pool2d(self.second(x), 2))
        return self.out(torch.relu(self.hidden(x.flatten(1))))


def test_the_loss_of_a_convolutional_net_follows_the_plaintext_loss_at_the_same_weights() -> None:
    torch.manual_seed(5)
    images, labels = torch.rand(6, 16, 1, 10, 10), torch.eye(5)[torch.randint(0, 5, (6, 16))]
    model = shared_copy(SmallConvNet())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    seen = []
    for x, y in zip(images, labels, strict=True):
        twin = copy.deepcopy(model).get()
        with torch.no_grad():
            expected = float(((twin(x) - y) ** 2).sum() / len(x))
        optimizer.zero_grad()
        loss = ((model(share(x)) - share(y)) ** 2).sum() / len(x)
        loss.backward()
        optimizer.step()
        seen.append(expected)
        assert abs(float(loss.get()) - expected) < 0.01 * expected
    assert seen[-1] < seen[0]
