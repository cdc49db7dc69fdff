"""Training with gradients clipped record by record, and noise: sizes, distribution, accounts, and that it learns."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from opacus.accountants import RDPAccountant
from opacus.grad_sample import GradSampleModule
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from sharetorch import fl
from sharetorch.fl.privacy import (
    Budget,
    BudgetExceededError,
    DPClient,
    MissingExtraError,
    NoiseError,
    PrivateModelError,
    RecordPrivacy,
    epsilon,
)
from sharetorch.fl.privacy.accounting import WHOLE_ORDERS
from sharetorch.fl.privacy.records import PrivateOptimizer, record_sensitivity
from sharetorch.fl.rounds import Federation, FedProx, RoundSettings, Task, accuracy_on
from sharetorch.fl.structs import tensors_of
from sharetorch.mpc.errors import FederatedDataError
from tests.fl.privacy.tools import plant_method, require_discrete_gaussian

DELTA = 1e-5
D = 5


class Recorded(nn.Module):
    """A linear function of one number for each parameter: the gradient of a record is the record."""

    def __init__(self, d: int = D) -> None:
        super().__init__()
        self.layer = nn.Linear(d, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


def total(output: Tensor, targets: Tensor) -> Tensor:
    """A loss with gradient 1 of each record's output, as a mean."""
    return output.mean() + 0 * targets.sum()


def summed(records: Tensor, clip: float, multiplier: float = 1e-9) -> tuple[Tensor, PrivateOptimizer]:
    """The gradient after clipping and noise, times the number of records, and the optimizer."""
    model = GradSampleModule(Recorded(records.shape[1]), loss_reduction="mean")
    optimizer = PrivateOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), multiplier, clip, len(records))
    data = records.clone().requires_grad_()
    total(model(data), torch.zeros(len(records))).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    (gradient,) = (p.grad * len(records) for p in model.parameters())
    return gradient.view(-1), optimizer


def test_the_gradient_of_every_record_is_clipped() -> None:
    records = torch.randn(40, D, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 3, 40).unsqueeze(1)
    found, _ = summed(records, clip=0.5)
    factors = (0.5 / records.norm(dim=1)).clamp(max=1)
    assert (found - (records * factors.unsqueeze(1)).sum(0)).abs().max() < 1e-4


@pytest.mark.parametrize("record", [1e30, 3.0, 1e-30, 0.0])
@pytest.mark.parametrize("d", [1, D, 300])
def test_no_record_is_longer_than_the_sensitivity(record: float, d: int) -> None:
    _, optimizer = summed(torch.full((1, d), record), clip=0.7)
    units = optimizer.params[0].summed_grad
    assert float(units.double().norm()) <= record_sensitivity(d)
    assert units.dtype == torch.int64


def test_records_that_are_no_numbers_count_as_nothing() -> None:
    found, _ = summed(torch.tensor([[math.nan] * D, [math.inf] * D, [0.25] * D]), clip=10.0)
    assert (found - 0.25).abs().max() < 1e-4


def test_the_noise_has_the_declared_deviation_and_distribution() -> None:
    d = 1 << 17
    found, optimizer = summed(torch.zeros(1, d), clip=3.0, multiplier=1.3)
    assert optimizer.deviation == pytest.approx(1.3 * 3.0, rel=1e-3)
    assert float(found.std()) == pytest.approx(optimizer.deviation, rel=0.015)
    units = found.double() / (3.0 / 2**20)
    assert float((units - units.round()).abs().max()) < 0.5
    require_discrete_gaussian(units.round().long().numpy(), optimizer._distribution.parameter)


def test_two_optimizers_draw_other_noise_whatever_torch_was_seeded_with() -> None:
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(summed(torch.zeros(1, 100), 1.0, 1.0)[0])
    assert not torch.equal(*found)


@pytest.mark.parametrize("fault", ["no noise", "no clipping", "half the noise", "torch's noise"])
def test_planted_faults_are_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = "self._distribution.draw(self._stream, shape.numel())"
    faults = {
        "no noise": ("_drawn", own, own + " * 0"),
        "half the noise": ("_drawn", own, own + " // 2"),
        "torch's noise": ("_drawn", f"torch.from_numpy({own})", "torch.randn(shape.numel()).long()"),
        "no clipping": ("clip_and_accumulate", ".clamp(max=1.0)", ".clamp(min=1.0, max=1.0)"),
    }
    plant_method(monkeypatch, PrivateOptimizer, *faults[fault])
    with pytest.raises(AssertionError):
        test_the_gradient_of_every_record_is_clipped()
        test_the_noise_has_the_declared_deviation_and_distribution()
        test_two_optimizers_draw_other_noise_whatever_torch_was_seeded_with()


# Clients.


def digits() -> tuple[Tensor, Tensor]:
    data, labels = load_digits(return_X_y=True)
    return torch.tensor(data / 16, dtype=torch.float32), torch.tensor(labels)


def client(
    path: Path,
    data: Tensor,
    labels: Tensor,
    id: str = "clinic",
    allowed: float = 8.0,
    multiplier: float = 1.0,
    **settings: Any,
) -> DPClient:
    config = fl.TrainConfig(
        nn.Linear(data.shape[1], 10), F.cross_entropy, **{"batch_size": 60, "optimizer_args": {"lr": 1.0}, **settings}
    )
    budget = Budget(path / f"budget of {id}", id, allowed, DELTA)
    return DPClient(id, fl.BaseDataset(data, labels), config, RecordPrivacy(1.0, multiplier), budget)


def task_of(made: DPClient, round: int = 1, proximal: float = 0.0) -> Task:
    return Task(round, [x.detach().clone() for x in tensors_of(made._config.model)], 0, proximal)


def test_private_training_learns_the_digits(tmp_path: Path) -> None:
    data, labels = digits()
    torch.manual_seed(1)
    model = nn.Linear(64, 10)
    config = fl.TrainConfig(model, F.cross_entropy, batch_size=60, epochs=2, optimizer_args={"lr": 1.0})
    clients = [
        DPClient(name, fl.BaseDataset(data[place:1500:2], labels[place:1500:2]), config, RecordPrivacy(1.0, 1.0),
                 Budget(tmp_path / name, name, 8.0, DELTA))
        for place, name in enumerate(("clinic", "office"))
    ]  # fmt: skip
    made = Federation(model, clients, RoundSettings(6), evaluate=accuracy_on(data[1500:], labels[1500:]))
    reports = made.fit()
    assert reports[-1].metrics["accuracy"] > 0.75
    assert reports[-1].delivered == ["clinic", "office"]
    assert math.isnan(float(reports[-1].loss or 0))
    for each in clients:
        assert 0 < each._budget.spent < 8.0
        each._budget.close()


def test_epsilon_equals_opacus(tmp_path: Path) -> None:
    data, labels = digits()
    made = client(tmp_path, data[:600], labels[:600], epochs=3)
    accountant = RDPAccountant()
    for round in (1, 2):
        made.train(task_of(made, round))
        for _ in range(30):
            accountant.step(noise_multiplier=1.0, sample_rate=0.1)
    assert made._budget.spent == accountant.get_epsilon(DELTA, alphas=list(WHOLE_ORDERS))


def test_the_noise_of_a_round_is_that_of_its_steps(tmp_path: Path) -> None:
    """Records without gradient: what is left is noise of multiplier, clip, steps and learning rate."""
    config = fl.TrainConfig(Recorded(4000), total, batch_size=4, epochs=3, optimizer_args={"lr": 0.5})
    dataset = fl.BaseDataset(torch.zeros(16, 4000), torch.zeros(16))
    with Budget(tmp_path / "budget", "zeros", 1e3, DELTA) as budget:
        made = DPClient("zeros", dataset, config, RecordPrivacy(2.0, 0.8), budget)
        update = made.train(task_of(made))
        assert made.step.times == 12
        assert made.step.sampling == 0.25
    deviation = 0.5 * 0.8 * 2.0 * math.sqrt(12) / 4
    assert float(update.vector.std()) == pytest.approx(deviation, rel=0.065)
    assert update.weight == 16
    assert math.isnan(update.loss)


def test_batches_are_drawn_by_secret_coins(tmp_path: Path) -> None:
    data, labels = digits()
    made = client(tmp_path, data[:1000], labels[:1000], batch_size=100)
    stream = importlib.import_module("sharetorch.mpc.randomness").fresh_stream()
    chosen = [made._chosen(stream) for _ in range(200)]
    sizes = torch.tensor([float(len(one)) for one in chosen])
    assert abs(float(sizes.mean()) - 100) < 5.5 * 9.5 / math.sqrt(200)
    assert 6 < float(sizes.std()) < 14
    taken = torch.zeros(1000)
    for one in chosen:
        taken[one] += 1
    assert 0 < float(taken.min()) and float(taken.max()) < 50
    other = made._chosen(importlib.import_module("sharetorch.mpc.randomness").fresh_stream())
    assert not torch.equal(other, chosen[0])


def test_steps_without_any_record_are_steps(tmp_path: Path) -> None:
    data, labels = digits()
    made = client(tmp_path, data[:50], labels[:50], batch_size=1, allowed=1e6)
    update = made.train(task_of(made))
    assert made.step.times == 50
    assert bool(update.vector.isfinite().all())


def test_a_round_beyond_the_budget_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, labels = digits()
    made = client(tmp_path, data[:100], labels[:100], allowed=0.5)
    monkeypatch.setattr(DPClient, "_trained", lambda *arguments: pytest.fail("it has begun"))
    with pytest.raises(BudgetExceededError):
        made.train(task_of(made))


def test_the_federation_goes_on_without_who_has_spent_all(tmp_path: Path) -> None:
    data, labels = digits()
    data, labels = data[:80], labels[:80]
    clients = [client(tmp_path, data, labels, name, allowed, 4.0) for name, allowed in (("a", 9.0), ("b", 0.1))]
    reports = Federation(nn.Linear(64, 10), clients, RoundSettings(1)).fit()
    assert reports[0].delivered == ["a"]
    assert "BudgetExceededError" in reports[0].left_out["b"]


def test_models_convolutions_and_proximal_terms(tmp_path: Path) -> None:
    data, labels = digits()
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    config = fl.TrainConfig(model, F.cross_entropy, batch_size=50, optimizer="Adam", optimizer_args={"lr": 0.01})
    dataset = fl.BaseDataset(data[:100].view(-1, 1, 8, 8), labels[:100])
    with Budget(tmp_path / "budget", "conv", 1e3, DELTA) as budget:
        made = DPClient("conv", dataset, config, RecordPrivacy(1.0, 1.0), budget)
        before = [x.detach().clone() for x in model.parameters()]
        reports = Federation(model, [made], RoundSettings(2), FedProx(0.1)).fit()
    assert len(reports) == 2
    assert any(not torch.equal(x, y) for x, y in zip(before, model.parameters(), strict=True))


def test_the_proximal_term_draws_back_and_is_not_clipped(tmp_path: Path) -> None:
    config = fl.TrainConfig(Recorded(2000), total, batch_size=8, epochs=40, optimizer_args={"lr": 0.1})
    dataset = fl.BaseDataset(torch.zeros(8, 2000), torch.zeros(8))
    with Budget(tmp_path / "budget", "zeros", 1e6, DELTA) as budget:
        made = DPClient("zeros", dataset, config, RecordPrivacy(1.0, 1.0), budget)
        free, drawn = (made.train(task_of(made, proximal=mu)).vector.std() for mu in (0.0, 5.0))
    assert float(drawn) < 0.3 * float(free)


def test_frozen_parameters_and_buffers_stay(tmp_path: Path) -> None:
    class Counting(Recorded):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
            self.register_buffer("seen", torch.zeros(2))

        def forward(self, x: Tensor) -> Tensor:
            self.seen += x.detach().sum()
            return super().forward(x)

    config = fl.TrainConfig(Counting(), total, batch_size=8)
    with Budget(tmp_path / "budget", "counting", 1e3, DELTA) as budget:
        made = DPClient("c", fl.BaseDataset(torch.ones(8, D), torch.zeros(8)), config, RecordPrivacy(1.0, 1.0), budget)
        vector = made.train(task_of(made)).vector
    moved = {name: int((vector[place:end] != 0).sum()) for name, place, end in made_places(config.model)}
    assert moved["frozen"] == moved["seen"] == 0
    assert moved["layer.weight"] == D


def made_places(model: nn.Module) -> list[tuple[str, int, int]]:
    found, place = [], 0
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        found.append((name, place, place + x.numel()))
        place += x.numel()
    return found


# Refusals.


@pytest.mark.parametrize("numbers", [(0.0, 1.0), (1.0, 0.0), (math.inf, 1.0), (1.0, math.nan), (-1.0, 1.0)])
def test_settings_that_give_no_privacy_are_refused(numbers: tuple[float, float]) -> None:
    with pytest.raises(NoiseError):
        RecordPrivacy(*numbers)


def test_models_that_mix_records_are_refused(tmp_path: Path) -> None:
    config = fl.TrainConfig(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), F.cross_entropy)
    dataset = fl.BaseDataset(torch.zeros(4, 2), torch.zeros(4))
    with Budget(tmp_path / "budget", "a", 1.0, DELTA) as budget, pytest.raises(PrivateModelError, match="BatchNorm"):
        DPClient("a", dataset, config, RecordPrivacy(1.0, 1.0), budget)


def test_other_models_and_empty_data_are_refused(tmp_path: Path) -> None:
    frozen = nn.Linear(2, 2).requires_grad_(False)
    data = fl.BaseDataset(torch.zeros(4, 2), torch.zeros(4))
    with Budget(tmp_path / "budget", "a", 1.0, DELTA) as budget:
        for model, dataset, error in (
            (frozen, data, PrivateModelError),
            (nn.Linear(2, 2), fl.BaseDataset(torch.zeros(0, 2), torch.zeros(0)), FederatedDataError),
        ):
            with pytest.raises(error):
                DPClient("a", dataset, fl.TrainConfig(model, F.cross_entropy), RecordPrivacy(1.0, 1.0), budget)


def test_more_noise_than_can_be_drawn_is_refused() -> None:
    with pytest.raises(NoiseError, match="up to 200"):
        summed(torch.zeros(1, 3), 1.0, 1000.0)


def test_without_opacus_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "opacus.validators", missing)
    data, labels = digits()
    with pytest.raises(MissingExtraError, match=r"sharetorch\[dp\]"):
        client(tmp_path, data[:10], labels[:10])


def test_the_step_of_a_client_is_what_the_accountant_is_told(tmp_path: Path) -> None:
    data, labels = digits()
    made = client(tmp_path, data[:100], labels[:100], batch_size=30, epochs=2, max_nr_batches=3)
    assert made.step == (1.0, 0.3, 6, 0.0, False)
    assert made._budget.after(made.step) == epsilon([made.step], DELTA)
