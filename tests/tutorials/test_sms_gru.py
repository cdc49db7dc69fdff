"""Short messages: a GRU cell of linear layers over embeddings, trained on messages that stay at two workers."""

from typing import Any

import torch
from torch import Tensor, nn, optim

import sharetorch as sy

hook = sy.TorchHook(torch)

VOCABULARY, LENGTH, EMBEDDING, HIDDEN, BATCH, CLIP = 30, 6, 8, 10, 16, 5.0


class GRUCell(nn.Module):
    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.x2h = nn.ModuleList(nn.Linear(inputs, hidden) for _ in range(3))
        self.h2h = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(3))

    def forward(self, x: Any, h: Any) -> Any:
        reset = torch.sigmoid(self.x2h[0](x) + self.h2h[0](h))
        update = torch.sigmoid(self.x2h[1](x) + self.h2h[1](h))
        proposal = torch.tanh(self.x2h[2](x) + reset * self.h2h[2](h))
        return (1 - update) * proposal + update * h


class Spam(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, EMBEDDING)
        self.cell = GRUCell(EMBEDDING, HIDDEN)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(HIDDEN, 1)

    def forward(self, x: Any, h: Any) -> tuple[Any, Any]:
        h = h[: x.shape[0], :].contiguous()  # the last batch is smaller
        x = self.embedding(x)
        for place in range(x.shape[1]):
            h = self.cell(x[:, place], h)
        return torch.sigmoid(self.fc(self.dropout(h))), h


def messages(n: int) -> tuple[Tensor, Tensor]:
    """A message is spam if one of the first four words is in it."""
    words = torch.randint(0, VOCABULARY, (n, LENGTH))
    return words, (words < 4).any(dim=1).float()


def test_messages_stay_where_they_are() -> None:
    bob, alice = sy.VirtualWorker(hook, id="bob"), sy.VirtualWorker(hook, id="alice")
    (words_b, labels_b), (words_a, labels_a) = messages(72), messages(88)
    train = sy.FederatedDataset(
        [sy.BaseDataset(words_b, labels_b).send(bob), sy.BaseDataset(words_a, labels_a).send(alice)]
    )
    loader = sy.FederatedDataLoader(train, batch_size=BATCH, shuffle=True)
    assert len(loader) == 5 + 6

    torch.manual_seed(3)
    model = Spam(dropout=0.1)
    initial = torch.zeros(BATCH, HIDDEN)
    starts = {worker: initial.send(worker) for worker in (bob, alice)}
    optimizer, criterion = optim.SGD(model.parameters(), lr=0.5), nn.BCELoss()
    means = []
    for _ in range(7):
        losses, norms = [], []
        for data, labels in loader:
            worker = data.location
            model.send(worker)
            optimizer.zero_grad()
            output, _ = model(data, starts[worker])
            loss = criterion(output.squeeze(1), labels)
            loss.backward()
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), CLIP).get().item())
            optimizer.step()
            model.get()
            losses.append(loss.get().item())
        means.append(sum(losses) / len(losses))
        assert all(norm > 0 for norm in norms)
    assert means[-1] < means[0] - 0.05

    model.eval()
    with torch.no_grad():
        words, labels = messages(64)
        right = 0
        for part, wanted in zip(words.split(BATCH), labels.split(BATCH), strict=True):
            output, _ = model(part, initial)
            right += int(((output.squeeze(1) > 0.5) == wanted.bool()).sum())
    assert right > 38


def test_the_cell_gives_there_what_it_gives_here() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    model = Spam(dropout=0.0)
    words, labels = messages(10)
    h = torch.zeros(BATCH, HIDDEN)
    expected, _ = model(words, h)
    nn.BCELoss()(expected.squeeze(1), labels).backward()
    gradients = [p.grad.clone() for p in model.parameters()]
    norm = torch.stack([g.norm() for g in gradients]).norm()
    values = expected.detach()
    del expected, _
    model.zero_grad()
    model.send(bob)
    output, hidden = model(words.send(bob), h.send(bob))
    assert hidden.shape == (10, HIDDEN)
    nn.BCELoss()(output.squeeze(1), labels.send(bob)).backward()
    assert torch.equal(output.detach().get(), values)
    assert abs(nn.utils.clip_grad_norm_(model.parameters(), 1e-3).get() - norm) < 1e-6
    clipped = torch.cat([p.grad.get().reshape(-1) for p in model.parameters()])
    assert clipped.norm() < 1.001e-3
