"""Operations sent before earlier ones are answered: same results, few round trips, and errors that are not lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sharetorch as st
from sharetorch.mpc.errors import (
    ConnectionLostError,
    GetNotPermittedError,
    MalformedRequestError,
    ObjectNotFoundError,
    ProtocolError,
)
from sharetorch.remote import forecasts, operators
from sharetorch.remote.links import _WINDOW, NetworkLink
from sharetorch.remote.messages import Execute, Made, Meta
from sharetorch.remote.network.client import NetworkedWorker, connect
from sharetorch.remote.whitelist import ALLOWED
from sharetorch.remote.wire import Ref
from tests.network.tools import Proxy, until

Worker = Any

DELAY = 0.02


def link_of(worker: Worker) -> NetworkLink:
    found: NetworkLink = worker.link_from(st.local_worker)
    return found


@pytest.fixture
def bob(workers: list[Worker]) -> Worker:
    """Bob, of whom nothing is known yet."""
    link_of(workers[1])._forecasts._known.clear()
    return workers[1]


@pytest.fixture
def far(group: Any, names: None) -> Iterator[Worker]:
    """Bob, 20 ms away."""
    proxy = Proxy(group["bob"].address, DELAY)
    worker = connect(proxy.url, id="bob", tls=group["bob"].keys)
    yield worker
    worker.close()
    proxy.close()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the worker processes have: sums come in the same order."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(count)


# ------------------------------------------------------------------------------------------------------- same results


class Net(nn.Module):
    """The tutorials' network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
        self.fc1, self.fc2 = nn.Linear(4 * 4 * 50, 500), nn.Linear(500, 10)

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2, 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2, 2).view(-1, 4 * 4 * 50)
        return F.log_softmax(self.fc2(F.relu(self.fc1(x))), dim=1)


Optimizer = Callable[[Any], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.5),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
}


def trained(
    worker: Worker, optimizer: Optimizer, steps: int, model: nn.Module, x: Tensor, y: Tensor
) -> tuple[list[Tensor], list[int], list[int]]:
    """Losses and parameters; requests and waits of each step."""
    link = link_of(worker) if isinstance(worker, NetworkedWorker) else None
    model.send(worker)
    inputs, targets = x.send(worker), y.send(worker)
    optim = optimizer(model.parameters())
    losses, sent, waits = [], [], []
    for _ in range(steps):
        before = (link.sent, link.waits) if link is not None else (0, 0)
        optim.zero_grad()
        loss = F.nll_loss(model(inputs), targets)
        loss.backward()
        optim.step()
        losses.append(loss.get())
        if link is not None:
            sent.append(link.sent - before[0])
            waits.append(link.waits - before[1])
    model.get()
    return [*losses, *(parameter.data for parameter in model.parameters())], sent, waits


def cnn(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    return Net(), torch.randn(8, 1, 28, 28), torch.randint(10, (8,))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_by_pointers_is_the_same_bit_for_bit(
    bob: Worker, name: str, one_thread: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead, sent, waits = trained(bob, OPTIMIZERS[name], 20, *cnn(1))
    with monkeypatch.context() as patch:
        patch.setattr(NetworkedWorker, "ahead", False)
        behind, _, one_by_one = trained(bob, OPTIMIZERS[name], 20, *cnn(1))
    here, _, _ = trained(st.VirtualWorker(id=f"pipelining {name}"), OPTIMIZERS[name], 20, *cnn(1))
    assert all(torch.equal(*pair) for pair in zip(ahead, behind, strict=True))
    assert all(torch.equal(*pair) for pair in zip(ahead, here, strict=True))
    assert min(sent[3:]) >= 25 and set(waits[3:]) == {1}  # the loss
    assert min(one_by_one[3:]) >= 25


def test_a_step_far_away_takes_few_round_trips(far: Worker) -> None:
    torch.manual_seed(4)
    sizes = (6, 8, 8, 8, 8, 3)
    layers = [nn.Sequential(nn.Linear(*pair), nn.Tanh()) for pair in zip(sizes, sizes[1:], strict=False)]
    model = nn.Sequential(*layers, nn.LogSoftmax(1)).send(far)
    x, y = torch.randn(16, 6).send(far), torch.randint(3, (16,)).send(far)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    link, times, counts, waits, losses = link_of(far), [], [], [], []
    for _ in range(6):
        start, before, waited = perf_counter(), link.sent, link.waits
        optimizer.zero_grad()
        loss = F.nll_loss(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.get().item())
        times.append(perf_counter() - start)
        counts.append(link.sent - before)
        waits.append(link.waits - waited)
    print(f"requests {counts}, waits {waits}, seconds {[round(seconds, 3) for seconds in times]}")
    assert losses[-1] < losses[0]
    assert min(counts) >= 90 and waits[-1] == 1
    assert min(times[2:]) < 6 * 2 * DELAY < counts[-1] * 2 * DELAY
    assert times[0] > 40 * 2 * DELAY  # the first step is asked one by one


def test_random_numbers_are_those_of_the_worker(bob: Worker) -> None:
    x = torch.zeros(1000).send(bob)
    drawn = [F.dropout(x + 1, 0.5) for _ in range(3)]
    one, other, third = (value.get() for value in drawn)
    assert not torch.equal(one, other) and not torch.equal(other, third)


def test_kinds_of_numbers_are_told_apart(bob: Worker) -> None:
    x = torch.tensor([3, 4]).send(bob)
    for _ in range(3):
        assert [(x * factor).get().dtype for factor in (2, 2.0, True)] == [torch.int64, torch.float32, torch.int64]
        assert (x / 2).get().tolist() == [1.5, 2] and (x // 2).get().tolist() == [1, 2]
        assert x.view(2, 1).sum(0).get().tolist() == [7] and x.view(2, 1).sum(1).get().tolist() == [3, 4]


def test_forms_of_operands_are_told_apart(bob: Worker) -> None:
    x = torch.arange(12.0).reshape(3, 4).send(bob)
    for _ in range(3):
        for form in (x, x.t(), x[1:], x[:, 1], x.reshape(2, 6), x.double(), x.expand(2, 3, 4)):
            doubled = form * 2
            fetched = form.fetched()
            assert torch.equal(doubled.get(), fetched * 2)
            assert (form.shape, form.dtype) == (fetched.shape, fetched.dtype)


def test_memory_is_shared_as_it_is_there(bob: Worker) -> None:
    x, y = torch.zeros(4).send(bob), torch.zeros(4).send(bob)
    for target in (x, y, x):
        view = target[1:3]
        view += 1
        target.mul_(2)
    assert x.get().tolist() == [0, 6, 6, 0] and y.get().tolist() == [0, 2, 2, 0]


def test_shapes_changed_in_place(bob: Worker) -> None:
    for _ in range(3):
        x = torch.arange(6.0).reshape(2, 3).send(bob)
        x.t_()
        y = x * 2
        x.unsqueeze_(0)
        assert (y.get().shape, (x + 1).get().shape) == ((3, 2), (1, 3, 2))


# --------------------------------------------------------------------------------------- results that values decide on


def test_what_values_decide_is_waited_for(bob: Worker) -> None:
    link = link_of(bob)
    for values in ([1.0, 0, 2], [0.0, 0, 3], [1.0, 1, 1]):
        x = torch.tensor(values).send(bob)
        mask = x > 0
        before = link.waits
        found = [x[mask], x.masked_select(mask), x.nonzero(), x.unique(), torch.bincount(x.long())]
        repeated = torch.repeat_interleave(torch.ones(3).send(bob), x.long())
        assert link.waits - before >= 6
        local = torch.tensor(values)
        due = [local[local > 0], local[local > 0], local.nonzero(), local.unique(), torch.bincount(local.long())]
        assert all(torch.equal(one.get(), other) for one, other in zip(found, due, strict=True))
        assert len(repeated) == sum(values)
    for places in ([0, 1], [2, 2]):
        assert x[torch.tensor(places).send(bob)].get().shape == (2,)


def test_the_table_has_all_that_torch_marks() -> None:
    marks = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
    forms = (
        (base, getattr(getattr(torch.ops.aten, base), form))
        for base in ALLOWED
        for form in getattr(torch.ops.aten, base).overloads()
    )
    assert {base for base, form in forms if marks & set(form.tags)} <= forecasts.UNFORESEEN | {"index"}
    others = {"index_put", "index_put_", "masked_scatter", "masked_scatter_"}  # results have the form of an operand
    assert operators.TELLING_AT_TIMES.keys() - {"index"} == others


# ------------------------------------------------------------------------------------------------------------- errors


def gathered(x: Any, worker: Worker, place: int) -> Any:
    """An operation that fails for places that are not there; its form does not tell."""
    return x.gather(0, torch.tensor([place]).send(worker))


def test_an_error_surfaces_where_something_is_waited_for(bob: Worker) -> None:
    x = torch.arange(3.0).send(bob)
    found = gathered(x, bob, 1) + 1
    assert (x * 4).get().tolist() == [0, 4, 8] and found.get().item() == 2
    index = torch.tensor([7]).send(bob)
    bad = x.gather(0, index)  # here
    other = x * 5
    follows = bad + 1
    with pytest.raises(RuntimeError, match="out of bounds") as caught:
        other.get()
    notes = "\n".join(caught.value.__notes__)
    assert "raised at worker bob" in notes and "aten.gather.default" in notes
    assert "test_pipelining.py, line" in notes and "bad = x.gather(0, index)  # here" in notes
    assert other.get().tolist() == [0, 5, 10]  # nothing was lost
    for lost in (bad, follows):
        with pytest.raises(ObjectNotFoundError):
            lost.get()
    assert x.get().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "act",
    [
        lambda worker, x: worker.sync(),
        lambda worker, x: x.fetched(),
        lambda worker, x: worker.search("#none"),
        lambda worker, x: worker.inspect(x.id),
        lambda worker, x: torch.ones(1).send(worker),
        lambda worker, x: worker.objects_count_remote(),
        lambda worker, x: x.nonzero(),
        lambda worker, x: x.fix_precision(),
    ],
    ids=["sync", "get", "search", "inspect", "send", "list", "operation", "invoke"],
)
def test_every_request_that_waits_tells(bob: Worker, act: Callable[[Worker, Any], Any]) -> None:
    x = torch.arange(3.0).send(bob)
    gathered(x, bob, 1)
    index = torch.tensor([-9]).send(bob)
    x.gather(0, index)
    with pytest.raises(RuntimeError, match="out of bounds"):
        act(bob, x)
    act(bob, x)  # it is told once
    assert bob.sync() is bob


def test_refusals_are_told_later_too(bob: Worker) -> None:
    own, mine = bob.search("#own")[0], torch.zeros(2).send(bob)
    mine.add_(1)
    own.add_(1)
    with pytest.raises(GetNotPermittedError, match="is not me's to change"):
        bob.sync()
    assert mine.get().tolist() == [1, 1]


def test_the_first_of_several_errors_is_told(bob: Worker) -> None:
    x = torch.arange(3.0).send(bob)
    (gathered(x, bob, 1) + gathered(x, bob, 2)).log()
    places = [torch.tensor([place]).send(bob) for place in (50, 60)]
    bad = [x.gather(0, place) for place in places]
    (bad[0] + bad[1]).log()
    with pytest.raises(RuntimeError, match="index 50 is out of bounds"):
        bob.sync()
    bob.sync()


def test_more_than_the_window(bob: Worker) -> None:
    x = torch.zeros(3).send(bob)
    link, most = link_of(bob), 0
    for _ in range(4 * _WINDOW):
        x = x + 1
        most = max(most, len(link._under_way))
    assert most <= _WINDOW
    assert x.get().tolist() == [4 * _WINDOW] * 3
    assert until(lambda: bob.objects_count_remote() == 0)


def test_dropped_results_are_freed(bob: Worker) -> None:
    x = torch.zeros(3).send(bob)
    for _ in range(100):
        (x + 1) * 2
    bob.sync()
    assert bob.objects_count_remote() == 1


def test_a_connection_that_breaks(far: Worker) -> None:
    x = torch.zeros(2).send(far)
    for _ in range(3):
        x = x + 1
    far.control._websocket.stop()
    with pytest.raises(ConnectionLostError):
        for _ in range(1000):
            x = x + 1
        x.get()
    far.connect()
    assert torch.ones(2).send(far).get().tolist() == [1, 1]
    far.clear_objects()


def test_a_worker_whose_answers_change_is_noticed(bob: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(2).send(bob)
    x + 1
    link = link_of(bob)
    (known,) = [key for key in link._forecasts._known if "add" in str(key[0])]
    form, [fields] = link._forecasts._known[known]
    link._forecasts._known[known] = form, [(fields[0], "float64", *fields[2:])]
    y = x + 1
    assert y.dtype == torch.float64
    with pytest.raises(ProtocolError, match="other results than it did"):
        y.get()


# -------------------------------------------------------------------------------------- numbers that the driver chooses


def asked(worker: Worker, *results: int, name: str = "aten.neg.default", args: Any = ()) -> Any:
    return link_of(worker).request(Execute(name, list(args) or [Ref(5)], {}, [], list(results)))


def test_numbers_of_results(bob: Worker) -> None:
    x = torch.arange(4.0).send(bob)
    made: Made = asked(bob, 77, args=[Ref(x.id)])
    assert made.results == [Meta(77, "tensor", "float32", [4], [1])]
    split = {"name": "aten.split.Tensor", "args": [Ref(x.id), 2]}
    assert [meta.number for meta in asked(bob, 78, 79, **split).results] == [78, 79]
    count = bob.objects_count_remote()
    for numbers, error in (
        ((77,), ObjectNotFoundError), ((80, 80), ObjectNotFoundError), ((80,), MalformedRequestError),
        ((80, 81, 82), MalformedRequestError), ((80, -1), MalformedRequestError),
        ((80, 1 << 63), MalformedRequestError),
    ):  # fmt: skip
        with pytest.raises(error):
            asked(bob, *numbers, **split)
    with pytest.raises(MalformedRequestError, match="1 numbers too many"):
        asked(bob, 90, name="aten.neg_.default", args=[Ref(x.id)])
    assert bob.objects_count_remote() == count
    bob.clear_objects()
