"""Server optimizers against formulas written out by hand."""

import math

import pytest
import torch
from torch import Tensor

from sharetorch.fl.rounds import STRATEGIES, FedAdam, FedAvg, FedProx, FedYogi, Strategy
from sharetorch.mpc.errors import TrainingError

UPDATES = [[1.0, -2.0, 0.0], [0.5, 3.0, 0.0], [-4.0, 0.25, 1e-9], [0.0, 0.0, 1.0]]


def steps(strategy: Strategy, start: float = 1.0) -> list[list[float]]:
    x = torch.full((3,), start, dtype=torch.float64)
    found = []
    for update in UPDATES:
        x = strategy.step(x, torch.tensor(update, dtype=torch.float64))
        found.append(x.tolist())
    return found


def close(found: list[list[float]], expected: list[list[float]]) -> None:
    assert torch.allclose(torch.tensor(found), torch.tensor(expected), rtol=1e-12, atol=0)


def test_fedavg_adds_updates_exactly() -> None:
    x, expected = [1.0, 1.0, 1.0], []
    for update in UPDATES:
        x = [a + b for a, b in zip(x, update, strict=True)]
        expected.append(x)
    assert steps(FedAvg()) == expected == steps(FedProx(0.5))


def test_fedavg_with_a_rate_and_momentum() -> None:
    x, m, expected = [1.0] * 3, [0.0] * 3, []
    for update in UPDATES:
        m = [0.9 * a + b for a, b in zip(m, update, strict=True)]
        x = [a + 0.5 * b for a, b in zip(x, m, strict=True)]
        expected.append(x)
    close(steps(FedAvg(0.5, momentum=0.9)), expected)


@pytest.mark.parametrize("kind", [FedAdam, FedYogi])
def test_adaptive_strategies(kind: type[FedAdam] | type[FedYogi]) -> None:
    """Algorithm 2 of Reddi et al. 2021, coordinate by coordinate."""
    lr, b1, b2, tau = 0.1, 0.8, 0.95, 0.01
    x, m, v, expected = [1.0] * 3, [0.0] * 3, [tau**2] * 3, []
    for update in UPDATES:
        for i, d in enumerate(update):
            m[i] = b1 * m[i] + (1 - b1) * d
            if kind is FedAdam:
                v[i] = b2 * v[i] + (1 - b2) * d * d
            else:
                v[i] = v[i] - (1 - b2) * d * d * ((v[i] > d * d) - (v[i] < d * d))
            x[i] = x[i] + lr * m[i] / (math.sqrt(v[i]) + tau)
        expected.append(list(x))
    close(steps(kind(lr, (b1, b2), tau)), expected)


@pytest.mark.parametrize("make", [lambda: FedAvg(0.5, 0.9), FedProx, FedAdam, FedYogi])
def test_a_strategy_goes_on_from_its_state(make: type[FedAdam]) -> None:
    whole, first, second = make(), make(), make()
    x = y = torch.zeros(3, dtype=torch.float64)
    for number, update in enumerate(UPDATES):
        given = torch.tensor(update, dtype=torch.float64)
        x = whole.step(x, given)
        if number == 2:
            second.load_state({name: kept.clone() for name, kept in first.state().items()})
        y = (first if number < 2 else second).step(y, given)
        assert torch.equal(x, y)


def test_arguments_stay_as_they_are() -> None:
    for make in STRATEGIES.values():
        x, update = torch.ones(2, dtype=torch.float64), torch.full((2,), 3.0, dtype=torch.float64)
        made: Tensor = make(None, 0.1).step(x, update)
        assert x.tolist() == [1, 1] and update.tolist() == [3, 3] and not made.requires_grad


def test_settings_tell_strategies_apart() -> None:
    made = [make(lr, mu) for make in STRATEGIES.values() for lr in (None, 0.5) for mu in (0.01, 0.2)]
    assert len({tuple(each.settings.items()) for each in made}) == 10
    assert FedProx(0.3).proximal == 0.3 and FedAvg().proximal == FedAdam().proximal == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FedAvg(0), "lr of the server is 0; it must be above 0"),
        (lambda: FedAvg(momentum=1), "momentum of the server is 1"),
        (lambda: FedProx(-1), "mu of the server is -1"),
        (lambda: FedAdam(betas=(0.9, 1.0)), "beta2 of the server is 1.0"),
        (lambda: FedYogi(tau=0), "tau of the server is 0"),
        (lambda: FedYogi(lr=math.inf), "lr of the server is inf"),
    ],
)
def test_numbers_outside_their_range(make: type[FedAvg], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        make()
