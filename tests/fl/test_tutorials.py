"""Programs in the manner of the tutorials on federated learning, as their readers write them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.nn import functional as F

from sharetorch import datasets, fl

DATA = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
TARGET = torch.tensor([[0.0], [0.0], [1.0], [1.0]])


def squared(output: Tensor, target: Tensor) -> Tensor:
    return ((output - target) ** 2).sum()


def test_02_a_model_learns_on_data_at_two_workers_in_turn(bob: Any, alice: Any) -> None:
    data, target = DATA.clone().requires_grad_(), TARGET.clone().requires_grad_()
    parts = [
        (data[0:2].send(bob), target[0:2].send(bob)),
        (data[2:].send(alice), target[2:].send(alice)),
    ]
    model = nn.Linear(2, 1)
    optims = fl.Optims(["bob", "alice"], optim=optim.Adam(params=model.parameters(), lr=0.1))
    losses = []
    for _ in range(20):
        for part, wanted in parts:
            opt = optims.get_optim(part.location.id)
            model.send(part.location)
            opt.zero_grad()
            loss = squared(model(part), wanted)
            loss.backward()
            opt.step()
            model.get()
            losses.append(loss.get().item())
    assert sum(losses[-2:]) < 0.2 * sum(losses[:2])
    assert type(model.weight.data) is Tensor


def test_04_models_are_averaged_by_a_secure_worker(bob: Any, alice: Any, worker: Any) -> None:
    secure = worker("secure_worker")
    bobs = DATA[0:2].send(bob), TARGET[0:2].send(bob)
    alices = DATA[2:].send(alice), TARGET[2:].send(alice)
    model = nn.Linear(2, 1)
    first = squared(model(DATA), TARGET).item()
    for _ in range(8):
        bobs_model, alices_model = model.copy().send(bob), model.copy().send(alice)
        for part, (data, target) in ((bobs_model, bobs), (alices_model, alices)):
            opt = optim.SGD(params=part.parameters(), lr=0.1)
            for _ in range(5):
                opt.zero_grad()
                loss = squared(part(data), target)
                loss.backward()
                opt.step()
        alices_model.move(secure)
        bobs_model.move(secure)
        assert alices_model.location is secure
        with torch.no_grad():
            model.weight.set_(((alices_model.weight.data + bobs_model.weight.data) / 2).get())
            model.bias.set_(((alices_model.bias.data + bobs_model.bias.data) / 2).get())
    assert squared(model(DATA), TARGET).item() < 0.5 * first


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.fc1 = nn.Linear(8 * 3 * 3, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        x = F.relu(self.fc1(x.view(-1, 8 * 3 * 3)))
        return F.log_softmax(self.fc2(x), dim=1)


def test_06_a_convolutional_network_learns_digits_at_two_workers(bob: Any, alice: Any) -> None:
    digits = datasets.load_digits()
    train = torch.utils.data.TensorDataset(digits.train_images[:800], digits.train_labels[:800])
    test = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(digits.test_images, digits.test_labels), batch_size=200
    )
    options = {"num_workers": 1, "pin_memory": True}
    loader = fl.FederatedDataLoader(fl.federate(train, (bob, alice)), batch_size=20, shuffle=True, **options)
    model, device = Convolutions().to("cpu"), torch.device("cpu")
    optimizer = optim.SGD(model.parameters(), lr=0.3)
    model.train()
    assert len(loader) == 40
    for _ in range(4):
        for number, (data, target) in enumerate(loader):
            model.send(data.location)
            data, target = data.to(device), target.to(device)
            optimizer.zero_grad()
            output = model(data)
            loss = F.nll_loss(output, target)
            loss.backward()
            optimizer.step()
            model.get()
            if number % 10 == 0:
                assert loss.get().item() > 0
    model.eval()
    correct = 0
    with torch.no_grad():
        for data, target in test:
            pred = model(data).argmax(1, keepdim=True)
            correct += pred.eq(target.view_as(pred)).sum().item()
    assert correct / len(digits.test_labels) > 0.8


def test_07_data_sets_of_pointers_with_an_optimizer_for_each_worker(bob: Any, alice: Any) -> None:
    data_bob, target_bob = DATA[0:2].clone().requires_grad_().send(bob), TARGET[0:2].send(bob)
    data_alice, target_alice = DATA[2:].clone().requires_grad_().send(alice), TARGET[2:].send(alice)
    federated = fl.FederatedDataset([fl.BaseDataset(data_bob, target_bob), fl.BaseDataset(data_alice, target_alice)])
    assert federated.workers == ["bob", "alice"]
    model = nn.Linear(2, 1)
    optimizers = {name: optim.Adam(params=model.parameters(), lr=1e-1) for name in federated.workers}
    loader = fl.FederatedDataLoader(federated, shuffle=False, batch_size=4)
    losses = []
    for _ in range(15):
        for data, target in loader:
            optimizer = optimizers[data.location.id]
            model.send(data.location)
            optimizer.zero_grad()
            loss = squared(model(data), target)
            loss.backward()
            optimizer.step()
            model.get()
            losses.append(loss.get().item())
    assert sum(losses[-2:]) < 0.2 * sum(losses[:2])


def test_10_remote_models_are_averaged_under_encryption(bob: Any, alice: Any, james: Any) -> None:
    """Two workers train; their parameters are shared there, summed under encryption, and only the mean is opened."""
    parts = {bob: (DATA[0:2].send(bob), TARGET[0:2].send(bob)), alice: (DATA[2:].send(alice), TARGET[2:].send(alice))}
    model = nn.Linear(2, 1)
    models = {place: model.copy().send(place) for place in parts}
    params = [list(each.parameters()) for each in models.values()]
    for epoch in range(3):
        before = [[param.copy().get() for param in each] for each in params]
        for place, (data, target) in parts.items():
            opt = optim.SGD(models[place].parameters(), lr=0.1)
            opt.zero_grad()
            loss = squared(models[place](data), target)
            loss.backward()
            opt.step()
        trained = [[param.copy().get() for param in each] for each in params]
        assert epoch == 2 or not torch.equal(trained[0][0], before[0][0])
        new_params = []
        for index in range(len(params[0])):
            shared = [
                each[index].detach().copy().fix_precision().share(bob, alice, crypto_provider=james).get()
                for each in params
            ]
            new_params.append((shared[0] + shared[1]).get().float_precision() / 2)
        with torch.no_grad():
            for each in params:
                for param in each:
                    param *= 0
            for place, each in zip(parts, params, strict=True):
                for param, value in zip(each, new_params, strict=True):
                    param.set_(value.send(place))
        for index, value in enumerate(new_params):
            mean = (trained[0][index] + trained[1][index]) / 2
            assert torch.allclose(value, mean, atol=1.01e-3)
            for each in params:
                assert torch.equal(each[index].copy().get(), value)
    assert all(param.location is place for place, each in zip(parts, params, strict=True) for param in each)


@pytest.mark.parametrize("write", ["copy_", "set_"])
def test_10_written_parameters_can_be_trained_on(bob: Any, write: str) -> None:
    model = nn.Linear(2, 1).send(bob)
    with torch.no_grad():
        getattr(model.weight, write)(torch.tensor([[1.0, 2.0]]).send(bob))
    opt = optim.SGD(model.parameters(), lr=0.5)
    model(torch.ones(1, 2).send(bob)).sum().backward()
    opt.step()
    assert model.get().weight.tolist() == [[0.5, 1.5]]


def test_split_network_over_three_parties_equals_the_whole(bob: Any, alice: Any, james: Any) -> None:
    """Each of three parties has layers; activations go forward and gradients back, party to party."""
    places = [alice, bob, james]
    parts = [nn.Sequential(nn.Linear(4, 6), nn.Tanh()), nn.Sequential(nn.Linear(6, 5), nn.Tanh()), nn.Linear(5, 2)]
    whole = nn.Sequential(*(part.copy() for part in parts))
    optimizers = [optim.SGD(part.parameters(), lr=0.1) for part in parts]
    reference = optim.SGD(whole.parameters(), lr=0.1)
    for part, place in zip(parts, places, strict=True):
        part.send(place)
    data, target = torch.randn(8, 4), torch.randint(0, 2, (8,))
    remote, remote_target = data.send(alice), target.send(james)
    for _ in range(3):
        for opt in [*optimizers, reference]:
            opt.zero_grad()
        activations, inputs = [], [remote]
        for number, part in enumerate(parts):
            activations.append(part(inputs[-1]))
            if number < 2:
                inputs.append(activations[-1].detach().move(places[number + 1]).requires_grad_())
        loss = F.cross_entropy(activations[-1], remote_target)
        loss.backward()
        for number in (1, 0):
            activations[number].backward(inputs[number + 1].grad.copy().move(places[number]))
        for opt in optimizers:
            opt.step()
        local = F.cross_entropy(whole(data), target)
        local.backward()
        reference.step()
        assert loss.get().item() == pytest.approx(local.item(), rel=1e-5)
    assert parts[0].location is alice
    for part, twin in zip(parts, whole, strict=True):
        for mine, theirs in zip(part.get().parameters(), twin.parameters(), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-6)


class Recurrent(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.hidden_size = hidden
        self.i2h = nn.Linear(inputs + hidden, hidden)
        self.i2o = nn.Linear(inputs + hidden, outputs)

    def forward(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat((x, hidden), 1)
        return F.log_softmax(self.i2o(both), dim=1), torch.tanh(self.i2h(both))


def test_rnn_classifies_words_that_stay_at_the_workers(bob: Any, alice: Any) -> None:
    """Words of the first half of the alphabet against words of the second; the update is written by hand."""
    letters = torch.cat([torch.randint(0, 13, (30, 4)), torch.randint(13, 26, (30, 4))])
    kinds = torch.arange(60) // 30
    order = torch.randperm(60)
    dataset = torch.utils.data.TensorDataset(F.one_hot(letters[order], 26).float(), kinds[order])
    batches = list(fl.FederatedDataLoader(fl.federate(dataset, (bob, alice)), shuffle=True, batch_size=1))
    model = Recurrent(26, 8, 2)
    losses = []
    for word, kind in batches * 2:
        place = word.location.id
        model.send(place)
        hidden = torch.zeros(1, model.hidden_size).send(place)
        model.zero_grad()
        for letter in range(word.size(1)):
            output, hidden = model(word[:, letter].reshape(1, -1), hidden)
        loss = F.nll_loss(output, kind)
        loss.backward()
        for param in model.parameters():
            if param.grad is not None:
                param.data.add_(param.grad.data, alpha=-0.2)
        del hidden
        model.get()
        losses.append(loss.get().item())
    assert sum(losses[-15:]) < 0.5 * sum(losses[:15])


class Gate(nn.Module):
    """A GRU cell of linear layers, with an embedding before and a sigmoid after it."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 6
        self.embedding = nn.Embedding(12, 5)
        self.from_x, self.from_h = nn.Linear(5, 18), nn.Linear(6, 18)
        self.dropout = nn.Dropout(0.1)
        self.out = nn.Linear(6, 1)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        h = h[: x.size(0), :].contiguous()
        embedded = self.dropout(self.embedding(x))
        for step in range(x.size(1)):
            x_r, x_i, x_n = self.from_x(embedded[:, step]).chunk(3, 1)
            h_r, h_i, h_n = self.from_h(h).chunk(3, 1)
            keep = torch.sigmoid(x_i + h_i)
            h = keep * h + (1 - keep) * torch.tanh(x_n + torch.sigmoid(x_r + h_r) * h_n)
        return torch.sigmoid(self.out(h))


def test_sms_gru_is_trained_with_clipped_gradients(bob: Any, alice: Any) -> None:
    messages, spam = torch.randint(1, 12, (48, 5)), torch.zeros(48, 1)
    spam[::2] = 1.0
    messages[::2, 1] = 0
    half = 24
    parts = [
        fl.BaseDataset(messages[:half], spam[:half]).send(bob),
        fl.BaseDataset(messages[half:], spam[half:]).send(alice),
    ]
    loader = fl.FederatedDataLoader(fl.FederatedDataset(parts), shuffle=True, batch_size=10)
    model, criterion = Gate(), nn.BCELoss()
    losses = []
    for _ in range(6):
        for x, y in loader:
            h = torch.zeros(10, model.hidden).send(x.location)
            model.send(x.location)
            opt = optim.SGD(model.parameters(), lr=1.0)
            opt.zero_grad()
            loss = criterion(model(x, h), y)
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            assert norm.location is x.location
            opt.step()
            model.get()
            losses.append(loss.get().item())
    assert sum(losses[-6:]) < 0.7 * sum(losses[:6])


def test_rounds_with_a_batch_of_each_worker_and_averaged_models(bob: Any, alice: Any, james: Any) -> None:
    """The programs for websocket workers: every step gives {worker: (data, target)}, models are averaged after each."""
    data, target = fl.utils.create_gaussian_mixture_toy_data(120)
    federated = fl.federate(torch.utils.data.TensorDataset(data, target), (bob, alice, james))
    loader = fl.FederatedDataLoader(federated, batch_size=10, shuffle=True, iter_per_worker=True)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    places = [loader.federated_dataset.datasets[name].location for name in loader.workers]
    iter(loader)
    for _ in range(4):
        step = next(loader)
        assert list(step) == places
        models = {}
        for place, (part, wanted) in step.items():
            mine = model.copy().send(place)
            opt = optim.SGD(mine.parameters(), lr=0.5)
            for _ in range(3):
                opt.zero_grad()
                F.cross_entropy(mine(part), wanted).backward()
                opt.step()
            models[place] = mine.get()
        model = fl.federated_avg(models)
    with pytest.raises(StopIteration):
        next(loader)
    assert fl.utils.accuracy(torch.softmax(model(data), dim=1), target) > 0.9
