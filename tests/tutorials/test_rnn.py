"""The recurrent network over names: data at two workers, a cell of linear layers, copies trained there and averaged."""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

import sharetorch as sy
from sharetorch.frameworks.torch.fl import utils

hook = sy.TorchHook(torch)

LETTERS = "abcdefgh"
HIDDEN, LENGTH, KINDS, RATE = 12, 5, 2, 0.05


class Words(torch.utils.data.Dataset[Any]):
    """Words of one kind end in vowels, words of the other do not; one number for each letter."""

    def __init__(self, n: int) -> None:
        generator = torch.Generator().manual_seed(4)
        self.letters = torch.randint(0, len(LETTERS), (n, LENGTH), generator=generator)
        self.kinds = torch.isin(self.letters[:, -1], torch.tensor([0, 4])).long()

    def __len__(self) -> int:
        return len(self.letters)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return nn.functional.one_hot(self.letters[index], len(LETTERS)).float(), self.kinds[index]


class RNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i2h = nn.Linear(len(LETTERS) + HIDDEN, HIDDEN)
        self.i2o = nn.Linear(len(LETTERS) + HIDDEN, KINDS)

    def forward(self, letter: Any, hidden: Any) -> tuple[Any, Any]:
        combined = torch.cat((letter, hidden), 1)
        return torch.log_softmax(self.i2o(combined), dim=1), torch.tanh(self.i2h(combined))

    def initHidden(self) -> Tensor:  # noqa: N802  (the tutorial's name)
        return torch.zeros(1, HIDDEN)


def train_at_worker(model: RNN, line: Any, kind: Any) -> tuple[Any, Any]:
    """One word, one step, by hand, as the tutorial does it."""
    hidden = model.initHidden().send(model.location)
    model.zero_grad()
    for place in range(line.shape[1]):
        output, hidden = model(line[:, place].reshape(1, -1), hidden)
    loss = nn.functional.nll_loss(output, kind)
    loss.backward()
    for param in model.parameters():
        param.data.add_(param.grad.data, alpha=-RATE)
    return output, loss


def test_words_at_two_workers() -> None:
    alice, bob = sy.VirtualWorker(hook, id="alice"), sy.VirtualWorker(hook, id="bob")
    words = Words(60)
    loader = sy.FederatedDataLoader(words.federate([alice, bob]), batch_size=1, shuffle=False)  # type: ignore[attr-defined]
    batches = list(loader)
    assert len(batches) == 60
    assert [data.location.id for data, _ in batches] == ["alice"] * 30 + ["bob"] * 30

    model, means = RNN(), []
    for _ in range(4):
        copies = {worker: model.copy() for worker in ("alice", "bob")}
        for worker, held in copies.items():
            held.send(worker)
        losses = []
        for data, kind in batches:
            output, loss = train_at_worker(copies[data.location.id], data, kind)  # type: ignore[arg-type]
            losses.append(loss.get().item())
        assert output.get().shape == (1, KINDS)
        means.append(sum(losses) / len(losses))
        for held in copies.values():
            held.get()
        model = utils.federated_avg(copies)
    assert means[-1] < means[0] - 0.1


def test_training_there_is_training_here() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    words, model = Words(6), RNN()
    plain = copy.deepcopy(model)
    model.send("bob")
    assert model.location is bob
    for place in range(6):
        line, kind = words[place]
        train_at_worker(model, line.unsqueeze(0).send(bob), kind.reshape(1).send(bob))
        hidden = plain.initHidden()
        plain.zero_grad()
        for letter in line:
            output, hidden = plain(letter.reshape(1, -1), hidden)
        nn.functional.nll_loss(output, kind.reshape(1)).backward()
        with torch.no_grad():
            for param in plain.parameters():
                param.add_(param.grad, alpha=-RATE)
    for one, other in zip(model.get().parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_older_form_of_adding_a_multiple() -> None:
    """``param.data.add_(-lr, param.grad.data)``: torch itself still takes it, with a warning of its own."""
    bob = sy.VirtualWorker(hook, id="bob")
    model = nn.Linear(2, 1).send(bob)
    before = model.weight.detach().copy().get()
    model(torch.ones(1, 2).send(bob)).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns once in a process
        model.weight.data.add_(-0.5, model.weight.grad.data)
    assert torch.equal(model.get().weight.detach(), before - 0.5)
