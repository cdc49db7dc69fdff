"""Training and evaluation at a worker by ``TrainConfig``, and here by ``FederatedClient``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import sharetorch as st
from sharetorch import fl
from sharetorch.fl.structs import ModelState
from sharetorch.fl.training import OPTIMIZERS, Settings
from sharetorch.mpc.errors import (
    FederatedDataError,
    GetNotPermittedError,
    MalformedRequestError,
    ObjectNotFoundError,
    RemoteError,
    TrainingError,
)
from sharetorch.remote.messages import Forget, Store, Train
from sharetorch.remote.plans.plan import Plan

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),
]

POINTS = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
VALUES = torch.tensor([[0.0], [0.0], [1.0], [1.0]])


def mlp(outputs: int = 2) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, outputs))


def mean_squared(target: Tensor, pred: Tensor) -> Tensor:
    return ((target.view(pred.shape).float() - pred.float()) ** 2).mean()


def sent(bob: Any) -> int:
    return int(st.local_worker.link(bob.id).sent)


def toy(bob: Any, count: int = 60, **options: Any) -> None:
    fl.add_dataset(bob, fl.BaseDataset(*fl.utils.create_gaussian_mixture_toy_data(count)), "toy", **options)


# ------------------------------------------------------------------------------------------------------- TrainConfig


def test_repr_is_the_tutorials() -> None:
    config = fl.TrainConfig(model=None, loss_fn=None, id=99, epochs=1, batch_size=2, optimizer_args={"lr": 0.1})
    assert repr(config) == "<TrainConfig id:99 owner:me epochs: 1 batch_size: 2 optimizer_args: {'lr': 0.1}>"
    assert (config.optimizer, config.shuffle, config.max_nr_batches) == ("SGD", True, -1)


def test_the_tutorials_program_trains_at_alice(alice: Any) -> None:
    fl.add_dataset(alice, fl.BaseDataset(data=POINTS, targets=VALUES), key="vectors")
    model = torch.jit.trace(mlp(1), torch.zeros(1, 2))
    loss_fn = torch.jit.script(mean_squared)
    config = fl.TrainConfig(
        model=model, loss_fn=loss_fn, batch_size=2, epochs=5, shuffle=True, optimizer="SGD", optimizer_args={"lr": 0.1}
    )
    config.send(alice)
    before = mean_squared(VALUES, model(POINTS)).item()
    losses = [fl.fit(alice, dataset_key="vectors").item() for _ in range(12)]
    trained = config.model_ptr.get()
    after = mean_squared(VALUES, trained.obj(POINTS)).item()
    assert after < 0.2 * before and losses[-1] < losses[0]
    assert torch.equal(trained(POINTS), trained.obj(POINTS))
    assert mean_squared(VALUES, model(POINTS)).item() == pytest.approx(before)


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
def test_training_at_a_worker_equals_training_here(bob: Any, optimizer: str) -> None:
    """Every optimizer, with a last batch that is smaller."""
    data, target = fl.utils.create_gaussian_mixture_toy_data(25)
    fl.add_dataset(bob, fl.BaseDataset(data, target), "toy")
    model, settings = mlp(), {"batch_size": 10, "epochs": 2, "optimizer": optimizer, "shuffle": False}
    here = model.copy()
    config = fl.TrainConfig(model=model, loss_fn=F.cross_entropy, optimizer_args={"lr": 0.05}, **settings)
    config.send(bob)
    there = [fl.fit(bob, dataset_key="toy") for _ in range(2)]
    opt = OPTIMIZERS[optimizer][0](here.parameters(), lr=0.05)
    for _ in range(4):
        for start in range(0, 25, 10):
            opt.zero_grad()
            loss = F.cross_entropy(here(data[start : start + 10]), target[start : start + 10])
            loss.backward()
            opt.step()
    assert there[1].item() == pytest.approx(loss.item(), rel=1e-4)
    for mine, theirs in zip(config.model_ptr.get().obj.parameters(), here.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


class Everything(nn.Module):
    """Layers whose recording could go wrong: statistics, dropout, constants, parts without gradients, flattening."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(16, 3)
        self.fixed = nn.Linear(3, 3)
        self.fixed.requires_grad_(False)
        self.scale = torch.tensor([1.0, 2.0, 1.0])

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            still = self.conv(x).mean()
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2) + 0 * still
        return self.fixed(self.out(self.drop(x.flatten(1)))) * self.scale


def test_modules_with_buffers_dropout_and_fixed_parts(bob: Any) -> None:
    images, kinds = torch.randn(30, 1, 4, 4), torch.arange(30) % 3
    images += kinds.view(-1, 1, 1, 1)
    fl.add_dataset(bob, TensorDataset(images, kinds), "images")
    model = Everything()
    config = fl.TrainConfig(
        model, F.cross_entropy, batch_size=16, epochs=20, optimizer="Adam", optimizer_args={"lr": 0.02}
    )
    config.send(bob)
    first = fl.evaluate(bob, "images")
    fl.fit(bob, "images")
    last = fl.evaluate(bob, "images")
    assert last["loss"] < 0.5 * first["loss"] and last["nr_correct_predictions"] > first["nr_correct_predictions"]
    trained = config.model_ptr.fetched().obj
    assert trained.norm.num_batches_tracked == 40 and model.norm.num_batches_tracked == 0
    assert torch.equal(trained.fixed.weight, model.fixed.weight)
    trained.eval()
    assert F.cross_entropy(trained(images), kinds).item() == pytest.approx(last["loss"], rel=1e-4)


def test_what_is_computed_without_gradients_has_none_at_the_worker(bob: Any) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                x = torch.tanh(self.a(x))
            return self.b(x)

    toy(bob)
    model = Half()
    config = fl.TrainConfig(model, F.cross_entropy, optimizer_args={"lr": 0.5})
    config.send(bob)
    fl.fit(bob, "toy")
    trained = config.model_ptr.get().obj
    assert torch.equal(trained.a.weight, model.a.weight) and not torch.equal(trained.b.weight, model.b.weight)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.gru, self.out = nn.Embedding(12, 5), nn.GRU(5, 6, batch_first=True), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.out(self.gru(self.embedding(x))[0][:, -1]))


class Planned(Plan):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(2, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(torch.tanh(self.fc1(x)))


MODELS: dict[str, Callable[[], Any]] = {
    "module": mlp,
    "traced": lambda: torch.jit.trace(mlp(), torch.zeros(3, 2)),
    "scripted": lambda: torch.jit.script(mlp()),
    "exported": lambda: torch.export.export(mlp(), (torch.zeros(20, 2),)).module(),
    "plan": Planned,
    "built plan": lambda: Planned().build(args_shape=[(-1, 2)]),
}


@pytest.mark.parametrize("kind", MODELS)
def test_models_of_every_kind_can_be_trained(bob: Any, kind: str) -> None:
    toy(bob)
    config = fl.TrainConfig(
        model=MODELS[kind](), loss_fn=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])), batch_size=20, epochs=10,
        optimizer="Adam", optimizer_args={"lr": 0.05},
    )  # fmt: skip
    config.send(bob)
    first, last = fl.fit(bob, "toy"), fl.fit(bob, "toy")
    assert last < 0.5 * first or last < 0.05
    assert type(config.model_ptr.get().obj)


def test_recurrent_models_on_integers(bob: Any) -> None:
    words, spam = torch.randint(1, 12, (40, 5)), torch.zeros(40, 1)
    spam[::2], words[::2, -1] = 1.0, 0
    fl.add_dataset(bob, TensorDataset(words, spam), "sms")
    config = fl.TrainConfig(
        Words(), nn.BCELoss(), batch_size=15, epochs=30, optimizer="Adam", optimizer_args={"lr": 0.03}
    )
    config.send(bob)
    first = fl.evaluate(bob, "sms", return_raw_accuracy=False)["loss"]
    fl.fit(bob, "sms")
    assert fl.evaluate(bob, "sms", return_raw_accuracy=False)["loss"] < 0.5 * first


def test_fit_is_one_message_and_no_item_leaves(bob: Any) -> None:
    toy(bob, 64)
    config = fl.TrainConfig(mlp(), F.cross_entropy, batch_size=8, epochs=3)
    config.send(bob)
    fl.fit(bob, "toy")
    link = st.local_worker.link("bob")
    count, received = sent(bob), link.bytes_received
    fl.fit(bob, "toy")
    assert sent(bob) - count == 1 and link.bytes_received - received < 100


def test_max_nr_batches_limits_an_epoch(bob: Any) -> None:
    toy(bob, 50)
    data = bob.datasets["toy"]
    config = fl.TrainConfig(mlp(), F.cross_entropy, batch_size=20, epochs=1, max_nr_batches=1, shuffle=False)
    config.send(bob)
    fl.fit(bob, "toy")
    here = config.model.copy()
    opt = torch.optim.SGD(here.parameters(), lr=0.1)
    F.cross_entropy(here(data.data[:20]), data.targets[:20]).backward()
    opt.step()
    assert torch.allclose(config.model_ptr.get().obj[0].weight, here[0].weight)
    assert Settings(20, max_nr_batches=2).sizes(50) == [20] and Settings(20).sizes(50) == [20, 10]
    assert Settings(20).sizes(15) == [15] and Settings(20, max_nr_batches=3).sizes(50) == [20, 10]


def test_async_fit_trains_at_several_workers(bob: Any, alice: Any) -> None:
    model = mlp()

    async def fit_at(worker: Any) -> tuple[str, Any, Any]:
        config = fl.TrainConfig(model=model, loss_fn=F.cross_entropy, batch_size=10, epochs=5)
        config.send(worker)
        loss = await fl.async_fit(worker, dataset_key="toy", return_ids=[0])
        return worker.id, config.model_ptr.get().obj, loss

    async def rounds() -> Any:
        return await asyncio.gather(*[fit_at(worker) for worker in (bob, alice)])

    for worker in (bob, alice):
        toy(worker)
    results = asyncio.run(rounds())
    mean = fl.federated_avg({name: trained for name, trained, _ in results})
    data, target = bob.datasets["toy"].data, bob.datasets["toy"].targets
    assert F.cross_entropy(mean(data), target) < F.cross_entropy(model(data), target)


def test_evaluation_gives_what_is_asked_for(bob: Any) -> None:
    points, kinds = torch.randn(25, 3), torch.arange(25) % 3
    fl.add_dataset(bob, fl.BaseDataset(points, kinds), "test")
    model = nn.Linear(3, 3)
    fl.TrainConfig(model=model, loss_fn=F.cross_entropy, batch_size=10, optimizer_args=None)
    config = fl.TrainConfig(model=model, loss_fn=F.cross_entropy, batch_size=10)
    config.send(bob)
    figures = fl.evaluate(bob, "test", return_histograms=True, nr_bins=3)
    predictions = model(points).argmax(1)
    assert figures["loss"] == pytest.approx(F.cross_entropy(model(points), kinds).item(), rel=1e-5)
    assert figures["nr_correct_predictions"] == int((predictions == kinds).sum()) and figures["nr_predictions"] == 25
    assert figures["histogram_predictions"].tolist() == torch.bincount(predictions, minlength=3).tolist()
    assert figures["histogram_target"].tolist() == [9, 8, 8]
    assert set(fl.evaluate(bob, "test", return_loss=False)) == {"nr_correct_predictions", "nr_predictions"}
    assert set(fl.evaluate(bob, "test", return_raw_accuracy=False)) == {"loss"}


def test_a_model_is_freed_with_its_config_and_can_be_fetched_once(bob: Any) -> None:
    toy(bob)
    config = fl.TrainConfig(mlp(), F.cross_entropy)
    pointer = config.send(bob)
    assert pointer.location is bob and len(bob._objects) == 2
    fl.fit(bob, "toy")
    config.model_ptr.fetched()
    config.model_ptr.get()
    with pytest.raises(ObjectNotFoundError):
        fl.fit(bob, "toy")
    config.send(bob)
    fl.fit(bob, "toy")
    del config, pointer
    assert len(bob._objects) == 0
    with pytest.raises(TrainingError, match="bob has no TrainConfig"):
        fl.fit(bob, "toy")


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"optimizer": "Adamw"}, "'Adamw' is no optimizer a worker runs; there are SGD"),
        ({"optimizer_args": {"learning_rate": 1}}, "SGD takes no 'learning_rate'; it takes lr"),
        ({"optimizer_args": {"lr": float("nan")}}, "lr of SGD is nan"),
        ({"optimizer_args": {"lr": "0.1"}}, "lr of SGD is '0.1'"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        fl.TrainConfig(mlp(), F.cross_entropy, **options)


def test_incomplete_or_unfit_configs_are_refused(bob: Any) -> None:
    toy(bob)
    with pytest.raises(TrainingError, match="has no model"):
        fl.TrainConfig(loss_fn=F.cross_entropy).send(bob)
    with pytest.raises(TrainingError, match="has no loss_fn"):
        fl.TrainConfig(model=mlp()).send(bob)
    with pytest.raises(TrainingError, match="needs a worker"):
        fl.TrainConfig(mlp(), F.cross_entropy).send()
    with pytest.raises(TrainingError, match="one is a PointerTensor"):
        fl.TrainConfig(mlp().send(bob), F.cross_entropy).send(bob)
    with pytest.raises(TrainingError, match="A function is no model"):
        fl.TrainConfig(lambda x: x, F.cross_entropy).send(bob)
    config = fl.TrainConfig(mlp(), lambda output, target: output)
    config.send(bob)
    with pytest.raises(TrainingError, match=r"loss_fn gives a tensor of shape \(32, 2\)"):
        fl.fit(bob, "toy")


def test_a_course_that_depends_on_values_is_refused(bob: Any) -> None:
    class Deciding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) if x.sum() > 0 else self.fc(-x)

    toy(bob)
    config = fl.TrainConfig(Deciding(), F.cross_entropy)
    config.send(bob)
    with pytest.raises(TrainingError, match="asks for the value of a tensor"):
        fl.fit(bob, "toy")


def test_data_sets_of_a_worker_are_named_by_key(bob: Any) -> None:
    toy(bob)
    config = fl.TrainConfig(mlp(), F.cross_entropy)
    config.send(bob)
    with pytest.raises(FederatedDataError, match="bob has a data set 'toy' already"):
        toy(bob)
    with pytest.raises(FederatedDataError, match="bob has no data set 'toys'; its data sets: 'toy'"):
        fl.fit(bob, "toys")
    fl.remove_dataset(bob, "toy")
    with pytest.raises(FederatedDataError, match="its data sets: none"):
        fl.remove_dataset(bob, "toy")


def test_predictions_need_classes(bob: Any) -> None:
    fl.add_dataset(bob, fl.BaseDataset(torch.randn(6, 2), torch.randn(6, 3)), "points")
    config = fl.TrainConfig(nn.Linear(2, 3), F.mse_loss)
    config.send(bob)
    with pytest.raises(TrainingError, match=r"\(6, 3\) and \(6, 3\). Evaluate with return_raw_accuracy=False"):
        fl.evaluate(bob, "points")


# ------------------------------------------------------------------------------------------------------------ policy


def test_a_private_workers_results_stay_there_until_its_owner_agrees(worker: Any) -> None:
    clinic = worker("clinic", private=True)
    toy(clinic)
    config = fl.TrainConfig(mlp(), F.cross_entropy, epochs=3)
    config.send(clinic)
    assert fl.fit(clinic, "toy") is None
    with pytest.raises(GetNotPermittedError, match="may not have figures"):
        fl.evaluate(clinic, "toy")
    with pytest.raises(GetNotPermittedError):
        config.model_ptr.get()
    with pytest.raises(GetNotPermittedError, match="waits for the owner"):
        config.model_ptr.get(reason="the study we agreed on")
    (request,) = clinic.requests
    request.approve()
    assert not torch.equal(config.model_ptr.get().obj[0].weight, config.model[0].weight)


def test_users_named_with_a_data_set_may_have_results(worker: Any) -> None:
    clinic = worker("clinic", private=True)
    toy(clinic, users=["me"])
    config = fl.TrainConfig(mlp(), F.cross_entropy)
    config.send(clinic)
    assert fl.fit(clinic, "toy") is not None and fl.evaluate(clinic, "toy")["nr_predictions"] == 60
    assert config.model_ptr.get()


def test_a_model_trained_on_hidden_data_stays_hidden_when_it_goes_on_to_open_data(bob: Any) -> None:
    data, target = fl.utils.create_gaussian_mixture_toy_data(20)
    fl.add_dataset(bob, fl.BaseDataset(data.private_tensor(allowed_users=("dora",)), target), "hidden")
    fl.add_dataset(bob, fl.BaseDataset(data, target), "open")
    config = fl.TrainConfig(mlp(), F.cross_entropy)
    config.send(bob)
    assert fl.fit(bob, "open") is not None and fl.evaluate(bob, "open")
    assert fl.fit(bob, "hidden") is None
    assert fl.fit(bob, "open") is None
    with pytest.raises(GetNotPermittedError):
        fl.evaluate(bob, "open")
    with pytest.raises(GetNotPermittedError):
        config.model_ptr.fetched()
    assert config.model_ptr.fetched(user="dora")
    assert fl.fit(bob, "hidden", user="dora") is not None


def test_to_name_a_user_gives_no_more_rights(bob: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data, target = fl.utils.create_gaussian_mixture_toy_data(20)
    fl.add_dataset(bob, fl.BaseDataset(data.private_tensor(allowed_users=("dora",)), target), "hidden")
    config = fl.TrainConfig(mlp(), F.cross_entropy)
    config.send(bob)
    assert fl.evaluate(bob, "hidden", user="dora")
    monkeypatch.setattr(bob, "spokesmen", frozenset())
    assert fl.fit(bob, "hidden", user="dora") is None
    with pytest.raises(GetNotPermittedError, match="dora may not have figures"):
        fl.evaluate(bob, "hidden", user="dora")


def test_a_graph_cannot_carry_hidden_data_over_to_another_model(bob: Any) -> None:
    """A constant of the graph is overwritten with hidden data; then the model is replaced by one that is open."""
    kept = torch.zeros(8, 2)

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            kept.add_(x.detach())
            return self.fc(x)

    data, target = fl.utils.create_gaussian_mixture_toy_data(8)
    fl.add_dataset(bob, fl.BaseDataset(data.private_tensor(allowed_users=("dora",)), target), "hidden")
    fl.add_dataset(bob, fl.BaseDataset(data, target), "open")
    config = fl.TrainConfig(Keeping(), F.cross_entropy, batch_size=8)
    config.send(bob)
    fl.fit(bob, "hidden")
    link, number = st.local_worker.link("bob"), config.model_ptr.id_at_location
    link.request(Forget([number]))
    link.request(Store([ModelState.of(config.model)], [number]))
    with pytest.raises(GetNotPermittedError):
        fl.evaluate(bob, "open")


def test_errors_quote_no_hidden_values(worker: Any) -> None:
    clinic = worker("clinic", private=True)
    fl.add_dataset(clinic, fl.BaseDataset(torch.randn(6, 2), torch.tensor([0, 1, 71, 0, 1, 0])), "odd")
    config = fl.TrainConfig(mlp(), F.cross_entropy)
    config.send(clinic)
    with pytest.raises(RemoteError) as caught:
        fl.fit(clinic, "odd")
    assert "71" not in str(caught.value) and "its text stays there" in str(caught.value)


def test_another_client_cannot_use_a_config(worker: Any) -> None:
    clinic, carol = worker("clinic", private=True), worker("carol")
    toy(clinic)
    config = fl.TrainConfig(mlp(), F.cross_entropy)
    pointer = config.send(clinic)
    with pytest.raises(ObjectNotFoundError):
        carol.link("clinic").request(Train(pointer.id_at_location, "toy"))


def test_steps_cannot_change_the_data(bob: Any) -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.mul_(0).add_(3))

    toy(bob)
    before = bob.datasets["toy"].data.clone()
    config = fl.TrainConfig(Writing(), F.cross_entropy)
    config.send(bob)
    fl.fit(bob, "toy")
    assert torch.equal(bob.datasets["toy"].data, before)


@pytest.mark.parametrize(
    "steps",
    [
        [1],
        [[[True, [[8, 2], "float32"], [[8], "int64"]], [1, "f", [], {"tuple": []}, [], [], {"tuple": []}], []]],
        [[[True, [[8, 2], "float32"], [[8], "int64"]], [9, "f", [], {"tuple": [{"tuple": []}, {"dict": []}]}, [], [],
        {"tuple": []}], []]], [[
            [True, [[8, 2], "float32"], [[8], "int64"]],
            [1, "f", [], {"tuple": [{"tuple": []}, {"dict": []}]}, [], [["aten.from_file.default", ["x"], {}]],
            {"tuple": []}], [],
        ]],
    ],
)  # fmt: skip
def test_steps_that_are_not_as_documented_are_refused(bob: Any, steps: Any) -> None:
    toy(bob, 8)
    config = fl.TrainConfig(mlp(), F.cross_entropy, batch_size=8)
    pointer = config.send(bob)
    with pytest.raises((RemoteError, ValueError, RuntimeError)):
        st.local_worker.link("bob").request(Train(pointer.id_at_location, "toy", {"steps": steps}))
    assert fl.fit(bob, "toy") is not None


def test_objects_of_another_kind_are_no_config(bob: Any) -> None:
    toy(bob)
    x = torch.ones(2).send(bob)
    with pytest.raises(MalformedRequestError, match="is no training settings"):
        st.local_worker.link("bob").request(Train(x.id_at_location, "toy"))


# --------------------------------------------------------------------------------------------------- FederatedClient


def test_client_trains_on_its_own_data() -> None:
    client = fl.FederatedClient()
    client.add_dataset(fl.BaseDataset(*fl.utils.create_gaussian_mixture_toy_data(80)), key="toy")
    config = fl.TrainConfig(mlp(), F.cross_entropy, batch_size=20, epochs=5, optimizer_args={"lr": 0.3})
    client.set_obj(config)
    assert client.train_config is config
    first = client.evaluate("toy")
    client.fit(dataset_key="toy")
    last = client.evaluate("toy", return_histograms=True)
    assert last["loss"] < 0.5 * first["loss"] and last["nr_correct_predictions"] > 75
    assert last["histogram_target"].tolist() == [40, 40]
    client.set_obj(torch.ones(2))
    assert len(client._objects) == 1 and client.train_config is config


def test_clients_errors_are_value_errors() -> None:
    client = fl.FederatedClient({"toy": fl.BaseDataset(POINTS, VALUES)})
    with pytest.raises(ValueError, match="Key 'toy' already exists"):
        client.add_dataset(fl.BaseDataset(POINTS, VALUES), key="toy")
    with pytest.raises(ValueError, match="No TrainConfig is defined"):
        client.fit("toy")
    client.set_obj(fl.TrainConfig(mlp(1), F.mse_loss))
    with pytest.raises(ValueError, match="Data set 'other' is unknown; there are 'toy'"):
        client.fit("other")
    client.remove_dataset("toy")
    with pytest.raises(ValueError, match="there are none"):
        client.remove_dataset("toy")
    client.set_obj(fl.TrainConfig())
    with pytest.raises(ValueError, match="has no model"):
        client.fit("toy")


# ------------------------------------------------------------------------------------------------ Optims and helpers


def test_each_worker_has_an_optimizer_state_of_its_own() -> None:
    model = nn.Linear(2, 1)
    optims = fl.Optims(["bob", "alice"], optim=torch.optim.Adam(model.parameters(), lr=0.1, betas=(0.5, 0.9)))
    model(torch.ones(1, 2)).backward()
    optims.get_optim("bob").step()
    assert len(optims.get_optim("bob").state) == 2 and not optims.get_optim("alice").state
    assert optims.count() == 2 and optims.workers == ["bob", "alice"]
    for name in ("bob", "alice"):
        twin = optims.get_optim(name)
        assert type(twin) is torch.optim.Adam and twin.param_groups[0]["betas"] == (0.5, 0.9)
        assert twin.param_groups[0]["params"][0] is model.weight
    optims.get_optim("bob").param_groups[0]["lr"] = 7
    assert optims.get_optim("alice").param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.LBFGS])
def test_optims_of_every_kind_step_as_the_original(kind: Any) -> None:
    model = nn.Linear(2, 1)
    twin = model.copy()
    optims, single = fl.Optims(["bob"], optim=kind(model.parameters(), lr=0.1)), kind(twin.parameters(), lr=0.1)
    for _ in range(3):
        for each, opt in ((model, optims.get_optim("bob")), (twin, single)):

            def closure(each: Any = each, opt: Any = opt) -> Any:
                opt.zero_grad()
                loss = ((each(POINTS) - VALUES) ** 2).mean()
                loss.backward()
                return loss

            opt.step(closure)
    assert torch.equal(model.weight, twin.weight)


def test_optims_errors(bob: Any) -> None:
    model = nn.Linear(2, 1)
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    assert fl.Optims([bob], opt).get_optim(bob)
    with pytest.raises(TrainingError, match="no optimizer for 'carol'; there are some for bob"):
        fl.Optims(["bob"], opt).get_optim("carol")
    with pytest.raises(TrainingError, match="needs the ids"):
        fl.Optims([], opt)
    model(torch.ones(1, 2)).backward()
    opt.step()
    with pytest.raises(TrainingError, match="has made steps already"):
        fl.Optims(["bob"], opt)


def test_averages_sums_and_scales_of_models(bob: Any) -> None:
    models = {name: nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for name in "abc"}
    for model in models.values():
        model(torch.randn(5, 2))
    mean = fl.federated_avg(models)
    weights = torch.stack([model[0].weight for model in models.values()])
    statistics = torch.stack([model[1].running_mean for model in models.values()])
    assert torch.allclose(mean[0].weight, weights.mean(0)) and torch.allclose(mean[1].running_mean, statistics.mean(0))
    assert mean[1].num_batches_tracked == 1 and mean is not models["a"] and mean[0].weight.requires_grad
    added = fl.utils.add_model(models["a"].copy(), models["b"])
    assert torch.allclose(added[0].weight, weights[0] + weights[1])
    assert torch.allclose(fl.utils.scale_model(added, 0.5)[0].weight, (weights[0] + weights[1]) / 2)
    remote = {name: nn.Linear(2, 1).send(bob) for name in "ab"}
    values = [model.weight.fetched() for model in remote.values()]
    assert torch.allclose(fl.federated_avg(remote).get().weight, (values[0] + values[1]) / 2)
    with pytest.raises(TrainingError, match="at least one"):
        fl.federated_avg({})
    with pytest.raises(TrainingError, match="differ in names or shapes"):
        fl.federated_avg({"a": nn.Linear(2, 2), "b": nn.Linear(2, 3)})


def test_shared_models_are_averaged_without_opening_them(bob: Any, alice: Any, james: Any) -> None:
    models = {name: nn.Linear(2, 1) for name in "ab"}
    expected = (models["a"].weight + models["b"].weight) / 2
    shared = {name: model.share(bob, alice, crypto_provider=james) for name, model in models.items()}
    mean = fl.federated_avg(shared)
    assert type(mean.weight.data) is not Tensor
    assert torch.allclose(mean.get().weight.float(), expected, atol=1e-3)


def test_accuracy_counts_rows() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    assert fl.utils.accuracy(scores, torch.tensor([0, 1, 1])).item() == pytest.approx(2 / 3)
    assert fl.utils.accuracy(scores, torch.tensor([[0], [1], [0]])).item() == 1


def test_toy_data_and_iris() -> None:
    points, clouds = fl.utils.create_gaussian_mixture_toy_data(41)
    assert points.shape == (41, 2) and clouds.dtype == torch.int64 and clouds.sum() == 20
    assert ((points.sum(1) > 0) == (clouds == 1)).float().mean() > 0.95
    measures, kinds = fl.utils.iris_data_partial()
    assert measures.shape == (30, 4) and measures.dtype == torch.float32
    assert torch.bincount(kinds).tolist() == [10, 10, 10]
    assert measures[0].tolist() == pytest.approx([5.1, 3.5, 1.4, 0.2])
