"""Training at a worker: autograd, stock optimizers, models that travel, split learning. Bit for bit as here."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sharetorch as st
from sharetorch import exceptions

Worker = st.VirtualWorker

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.1),
    "SGD nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "Adamax": lambda p: torch.optim.Adamax(p),
    "NAdam": lambda p: torch.optim.NAdam(p),
    "RAdam": lambda p: torch.optim.RAdam(p),
    "ASGD": lambda p: torch.optim.ASGD(p),
    "Rprop": lambda p: torch.optim.Rprop(p),
}


def mlp() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))


def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(6)
    x = torch.randn(32, 10)
    return x, x[:, :3].argmax(1)


def train(model: nn.Module, x: Tensor, y: Tensor, optimizer: torch.optim.Optimizer, steps: int = 50) -> list[Any]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for (name, ours), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fifty_steps_are_bit_equal_to_local_training(bob: Worker, name: str) -> None:
    (x, y), here, there = data(), mlp(), mlp()
    local = train(here, x, y, OPTIMIZERS[name](here.parameters()))
    optimizer = OPTIMIZERS[name](there.parameters())
    there.send(bob)
    if name == "Adagrad":  # makes its state when it is made, so it must be made where the model is
        optimizer = OPTIMIZERS[name](there.parameters())
    remote = train(there, x.send(bob), y.send(bob), optimizer)
    assert [loss.get().item() for loss in remote] == [loss.item() for loss in local]
    assert local[-1] < local[0]
    there.get()
    assert_same(there, here)


def test_a_step_of_sgd_is_one_request_for_each_operation(bob: Worker) -> None:
    model = mlp().send(bob)
    (x, y), optimizer = data(), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = x.send(bob), y.send(bob)
    train(model, x, y, optimizer, steps=2)
    before, versions = bob.audit.total, [p._version for p in model.parameters()]
    optimizer.step()
    assert [entry.request for entry in list(bob.audit)[before - bob.audit.total :]] == [
        "aten._foreach_mul_.Scalar", "aten._foreach_add_.List", "aten._foreach_add_.List",
    ]  # fmt: skip
    assert [p._version for p in model.parameters()] == [version + 1 for version in versions]
    assert optimizer.param_groups[0]["foreach"] is None


def test_parameters_at_two_workers_are_stepped_one_by_one(bob: Worker, alice: Worker) -> None:
    (x, y), here, there = data(), mlp(), mlp()
    there[:2].send(bob), there[2:].send(alice)
    for model, move in ((here, lambda a: a), (there, lambda a: a.move(alice, requires_grad=True))):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        first, target = (x, y) if model is here else (x.send(bob), y.send(alice))
        for _ in range(3):
            optimizer.zero_grad()
            functional.cross_entropy(model[2:](move(model[:2](first))), target).backward()
            optimizer.step()
    there[:2].get(), there[2:].get()
    assert_same(there, here)


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, stride=2, groups=2)
        self.drop = nn.Dropout(0.25)
        self.last = nn.Linear(6 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.norm(self.first(x))), 2)
        x = functional.avg_pool2d(functional.gelu(self.second(x)), 1)
        return functional.log_softmax(self.last(self.drop(x.view(-1, 6 * 9))), dim=1)


def test_convolutions_batch_norm_and_dropout_are_bit_equal(bob: Worker) -> None:
    torch.manual_seed(7)
    x, y = torch.randn(12, 1, 14, 14), torch.randint(0, 5, (12,))
    models, losses = [], []
    for remote in (False, True):
        torch.manual_seed(8)
        model = Convolutional()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
        place: Callable[[Tensor], Any] = (lambda t: t.send(bob)) if remote else (lambda t: t)
        if remote:
            model.send(bob)
        torch.manual_seed(9)
        for _ in range(5):
            optimizer.zero_grad()
            loss = functional.nll_loss(model(place(x)), place(y))
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
        losses.append(loss.get().item())
        models.append(model.get())
    assert losses[0] == losses[1]
    assert_same(*models)
    assert models[1].norm.num_batches_tracked == 5


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM", "Transformer", "Embedding"])
def test_stock_modules_run_at_a_worker(bob: Worker, kind: str) -> None:
    torch.manual_seed(10)
    x = torch.randn(7, 3, 8)
    model: nn.Module
    if kind == "Transformer":
        model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0)
    elif kind == "Embedding":
        model, x = nn.Sequential(nn.Embedding(20, 8, padding_idx=0), nn.LayerNorm(8)), torch.randint(0, 20, (5, 4))
    else:
        model = getattr(nn, kind)(8, 6, num_layers=2, bidirectional=True)
    local = first(model(x))
    local.square().sum().backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.send(bob)
    remote = first(model(x.send(bob)))
    remote.square().sum().backward()
    assert torch.equal(remote.detach().get(), local)
    for p, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.allclose(p.grad.get(), gradient, rtol=1e-6, atol=1e-6)


def first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else result


def test_a_model_travels_and_keeps_its_identity(alice: Worker, bob: Worker) -> None:
    model = mlp()
    parameters, before = list(model.parameters()), [p.detach().clone() for p in model.parameters()]
    with pytest.raises(AttributeError, match="location"):
        model.location  # noqa: B018
    assert model.owner is st.local_worker
    assert model.send(bob) is model
    assert model.location is bob
    assert all(isinstance(p, nn.Parameter) and isinstance(p, st.PointerTensor) for p in model.parameters())
    assert all(p.grad.count_nonzero().get() == 0 for p in model.parameters())
    assert model.move(alice) is None
    assert model.location is alice and bob._objects == {}
    assert model.get() is model
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    assert alice._objects == {}


def test_a_copy_of_a_model_is_another_model(alice: Worker, bob: Worker) -> None:
    model = mlp()
    here, there = model.copy().send(alice), model.copy().send(bob)
    again = there.copy()
    assert here.location is alice and again.location is bob
    with torch.no_grad():
        again[0].weight.mul_(0)
    assert again[0].weight.count_nonzero().get() == 0
    assert torch.equal(there.get()[0].weight, model[0].weight)


def test_tied_parameters_stay_tied(bob: Worker) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    model.send(bob)
    assert model[1].weight is model[0].weight
    model.get()
    assert model[1].weight is model[0].weight


def test_models_are_averaged_by_a_secure_worker(alice: Worker, bob: Worker, james: Worker) -> None:
    model = nn.Linear(2, 1)
    ours, theirs = model.copy().send(alice), model.copy().send(bob)
    with torch.no_grad():
        ours.weight.add_(1)
        theirs.weight.add_(2)
    ours.move(james)
    theirs.move(james)
    with torch.no_grad():
        average = ((ours.weight.data + theirs.weight.data) / 2).get()
        expected = model.weight + 1.5
        model.weight.set_(average)
    assert torch.allclose(model.weight, expected)


def test_weights_are_written_into_a_remote_model(bob: Worker) -> None:
    model = nn.Linear(2, 1).send(bob)
    with torch.no_grad():
        model.weight.set_(torch.ones(1, 2).send(bob))
        model.bias.copy_(torch.zeros(1).send(bob))
        for parameter in model.parameters():
            parameter.data.add_(-0.5)
    model.get()
    assert model.weight.tolist() == [[0.5, 0.5]] and model.bias.tolist() == [-0.5]


def test_split_learning(alice: Worker, bob: Worker) -> None:
    torch.manual_seed(11)
    bottom, top = nn.Linear(4, 5), nn.Linear(5, 1)
    whole = nn.Sequential(bottom, nn.Tanh(), top).copy()
    x, y = torch.randn(8, 4), torch.randn(8, 1)
    ((whole(x) - y) ** 2).mean().backward()

    bottom.send(alice)
    top.send(bob)
    data, target = x.send(alice), y.send(bob)
    activation = torch.tanh(bottom(data))
    remote = activation.detach().move(bob).requires_grad_()
    loss = ((top(remote) - target) ** 2).mean()
    loss.backward()
    assert remote.grad.location is bob and data.grad is None
    gradient = remote.grad.copy().move(alice)
    activation.backward(gradient)
    assert torch.equal(bottom.weight.grad.get(), whole[0].weight.grad)
    assert torch.equal(top.weight.grad.get(), whole[2].weight.grad)


def test_the_gradient_comes_back_with_the_leaf(bob: Worker) -> None:
    x = torch.tensor([1.0, 1.0], requires_grad=True).send(bob)
    y = torch.tensor([1.0, 1.0], requires_grad=True).send(bob)
    (x + y).sum().backward()
    assert x.get().grad.tolist() == [1, 1]
    assert y.grad.get().tolist() == [1, 1]


def test_a_gradient_travels_with_its_tensor(bob: Worker) -> None:
    x = torch.tensor([2.0], requires_grad=True)
    (x * x).backward()
    p = x.send(bob)
    assert p.requires_grad and p.grad.location is bob
    (p * 3).backward()
    assert p.get().grad.item() == 7


def test_clipping_gives_a_pointer_to_the_norm(bob: Worker) -> None:
    model = nn.Linear(3, 1).send(bob)
    model(torch.ones(2, 3).send(bob)).sum().backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert isinstance(norm, st.PointerTensor)
    assert norm.get().item() == pytest.approx((3 * 4 + 4) ** 0.5)
    assert nn.utils.clip_grad_norm_(model.parameters(), 1.0).get().item() == pytest.approx(1.0, abs=1e-5)


def test_optimizers_state_is_at_the_worker(bob: Worker) -> None:
    model = nn.Linear(3, 1).send(bob)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3).send(bob)).sum().backward()
    optimizer.step()
    state = optimizer.state[model.weight]
    assert isinstance(state["exp_avg"], st.PointerTensor) and state["exp_avg"].location is bob


def test_a_remote_model_is_shared_between_parties(alice: Worker, bob: Worker, carol: Worker, james: Worker) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    x = torch.randn(5, 3)
    expected = model(x).detach()
    model.send(carol).fix_precision(precision_fractional=5).share(alice, bob, crypto_provider=james).get()
    assert all(isinstance(p, st.SharedTensor) for p in model.parameters())
    shared = x.fix_precision(precision_fractional=5).share(alice, bob, crypto_provider=james)
    assert torch.allclose(model(shared).get().float_precision(), expected, atol=1e-3)


def test_models_say_what_goes_wrong(alice: Worker, bob: Worker) -> None:
    model = nn.Linear(2, 1).send(bob)
    with pytest.raises(exceptions.TensorsNotCollocatedException, match="bob and alice|alice and bob"):
        model(torch.ones(1, 2).send(alice))
    with pytest.raises(exceptions.TensorsNotCollocatedException, match="here"):
        model(torch.ones(1, 2))
