"""Correlated randomness made ahead: the same results, nothing offline in the run, and every piece used once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sharetorch as st
from sharetorch.mpc import testing
from sharetorch.mpc.cost import DRIVER
from sharetorch.mpc.errors import (
    CorrelationReusedError,
    MembersError,
    ObjectGoneError,
    PreparationError,
    UnsupportedOperationError,
)
from sharetorch.mpc.preparing import Block
from sharetorch.mpc.protocols.bilinear import Product
from sharetorch.mpc.randomness import SECRET_BYTES, PairSecret, Stream
from sharetorch.mpc.session import Session
from sharetorch.mpc.tensor.preparing import Prepared, PreparedUnusedWarning
from tests.mpc import views

CASES = [("tables", 2), ("tables", 3), ("tables-wan", 2), ("tables-wan", 3), ("fss", 2)]
cases = pytest.mark.parametrize(("protocol", "parties"), CASES)


class Group:
    """Members of a session of their own, so that nothing of other tests is in it."""

    def __init__(self, protocol: str = "tables", parties: int = 2) -> None:
        self.members = [st.VirtualWorker(id=f"{protocol} {os.urandom(4).hex()} {rank}") for rank in range(parties + 1)]
        self.protocol = protocol

    def share(self, x: Any, **more: Any) -> Any:
        *parties, provider = self.members
        return x.share(*parties, crypto_provider=provider, protocol=self.protocol, **more)


@pytest.fixture
def group() -> Group:
    return Group()


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def close(x: Any, y: Tensor, bound: float = 2.0**-10) -> bool:
    return bool(((x.get() if hasattr(x, "get") else x) - y).abs().max() <= bound)


def offline(heard: Any) -> int:
    return sum(heard.total().offline.values())


class Training:
    """An encrypted network, its optimizer and a step, and the same in the clear."""

    def __init__(self, group: Group, optimizer: Callable[..., Any] | None = None) -> None:
        make = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.125, momentum=0.5))
        torch.manual_seed(3)
        self.plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
        self.plain_optimizer = make(self.plain.parameters())
        torch.manual_seed(3)
        self.model = group.share(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
        self.optimizer = make(self.model.parameters())
        self.session = next(self.model.parameters()).session

    def step(self, x: Any, y: Any) -> Any:
        return self._step(self.model, self.optimizer, x, y)

    def plain_step(self, x: Tensor, y: Tensor) -> Any:
        return self._step(self.plain, self.plain_optimizer, x, y)

    def _step(self, model: Any, optimizer: Any, x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    def agrees(self, bound: float = 2.0**-9) -> bool:
        pairs = zip(self.model.parameters(), self.plain.parameters(), strict=True)
        return all(close(ours.detach(), theirs.detach(), bound) for ours, theirs in pairs)


def program(x: Any, w: Any) -> Any:
    """Products that share operands, comparisons, a maximum, and a view of an operand that is open already."""
    hidden = (x @ w).relu()
    return (hidden * hidden + x[:, :3] @ w[:3]).max() + (x @ w)[0].sum()


@cases
def test_a_prepared_run_gives_the_same_and_needs_no_provider(protocol: str, parties: int) -> None:
    group = Group(protocol, parties)
    x, w = numbers(4, 5), numbers(5, 5, seed=1)
    held = [(group.share(x), group.share(w)) for _ in range(2)]
    session = held[0][0].session
    with session.costs.listen() as heard:
        program(*held[0]).get()
    unprepared = heard.total()
    with session.costs.listen() as heard:
        prepared = session.prepare(program, *held[1])
    ahead = heard.total()
    assert ahead.offline == unprepared.offline and not ahead.online and ahead.rounds == 0
    assert prepared.bytes == offline(heard)
    with session.costs.listen() as heard, prepared:
        result = program(*held[1])
        opened = result.get()
    assert not heard.total().offline
    assert heard.total().online == unprepared.online and heard.total().rounds == unprepared.rounds
    assert close(opened, program(x, w), 2.0**-8)
    assert prepared.runs == 0 and prepared.bytes == 0


@cases
def test_a_training_step_with_momentum_is_prepared_for_several_batches(protocol: str, parties: int) -> None:
    group = Group(protocol, parties)
    training = Training(group)
    batches = [(numbers(4, 6, seed=i), numbers(4, 3, seed=i + 9)) for i in range(4)]
    shared = [(group.share(x), group.share(y)) for x, y in batches]
    prepared = training.session.prepare(training.step, *shared[0], count=4)
    with training.session.costs.listen() as heard:
        for (x, y), held in zip(batches, shared, strict=True):
            with prepared:
                loss = training.step(*held)
            assert close(loss, training.plain_step(x, y).detach(), 2.0**-8)
    assert training.agrees()
    assert offline(heard) == 0 and heard.total().rounds > 0
    training.plain_step(*batches[0])
    training.step(group.share(batches[0][0]), group.share(batches[0][1]))
    assert training.agrees(), "a step without preparation goes on from there"


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.Adam(parameters, lr=0.01, eps=0.125),
        lambda parameters: torch.optim.SGD(parameters, lr=0.125),
    ],
)
def test_steps_of_other_optimizers(group: Group, optimizer: Callable[..., Any]) -> None:
    training = Training(group, optimizer)
    x, y = numbers(4, 6), numbers(4, 3, seed=1)
    prepared = training.session.prepare(training.step, group.share(x), group.share(y), count=2)
    for _ in range(2):
        training.plain_step(x, y)
        with training.session.costs.listen() as heard, prepared:
            training.step(group.share(x), group.share(y))
        assert offline(heard) == 0
    assert training.agrees(2.0**-6)


def test_preparing_leaves_python_as_it_was(group: Group) -> None:
    training = Training(group)
    x, y = group.share(numbers(4, 6)), group.share(numbers(4, 3, seed=1))
    training.step(x, y)
    parameters = list(training.model.parameters())
    grads = [parameter.grad for parameter in parameters]
    values = [grad.get() for grad in grads]
    momenta = [training.optimizer.state[parameter]["momentum_buffer"] for parameter in parameters]
    weights = [parameter.detach().get() for parameter in parameters]
    random = torch.get_rng_state()
    training.session.prepare(training.step, x, y, count=2)
    assert all(parameter.grad is grad for parameter, grad in zip(parameters, grads, strict=True))
    assert all(torch.equal(grad.get(), value) for grad, value in zip(grads, values, strict=True))
    found = [training.optimizer.state[parameter]["momentum_buffer"] for parameter in parameters]
    assert all(one is other for one, other in zip(found, momenta, strict=True))
    assert all(torch.equal(p.detach().get(), w) for p, w in zip(parameters, weights, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert x.grad is None


def test_buffers_and_patterns_of_dropout_are_as_without_preparing(group: Group) -> None:
    model = group.share(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)))
    x = numbers(6, 4)
    session = next(model.parameters()).session
    before = [buffer.get() if hasattr(buffer, "handle") else buffer.clone() for buffer in model.buffers()]
    torch.manual_seed(5)
    prepared = session.prepare(model, group.share(x))
    after = [buffer.get() if hasattr(buffer, "handle") else buffer for buffer in model.buffers()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    with session.costs.listen() as heard, prepared:
        y = model(group.share(x)).detach().get()
    assert offline(heard) == 0
    torch.manual_seed(5)
    again = model(group.share(x)).detach().get()
    assert torch.equal(y != 0, again != 0)


def test_views_and_writes_are_followed(group: Group) -> None:
    base, x = group.share(numbers(4, 4)), group.share(numbers(4, 4, seed=1))
    plain = numbers(4, 4)

    def change(base: Any, x: Any) -> Any:
        first = base * x
        base[1:3] += 1
        base.t()[0].mul_(0.5)
        return first + base * x + base.t() @ x

    expected = change(plain.clone(), numbers(4, 4, seed=1))
    prepared = base.session.prepare(change, base, x)
    with base.session.costs.listen() as heard, prepared:
        result = change(base, x)
    assert offline(heard) == 0
    assert close(result, expected) and close(base * x, (base.get() * x.get()))


# What may be different, and what may not


def test_arguments_may_be_any_new_tensors_of_the_same_layout(group: Group) -> None:
    w = group.share(numbers(5, 5, seed=1))
    prepared = w.session.prepare(lambda x: program(x, w), group.share(numbers(4, 5)), count=2)
    for seed in (7, 8):
        with w.session.costs.listen() as heard, prepared:
            result = program(group.share(numbers(4, 5, seed=seed)), w)
        assert offline(heard) == 0
        assert close(result, program(numbers(4, 5, seed=seed), numbers(5, 5, seed=1)), 2.0**-8)


def test_public_tensors_may_hold_other_values(group: Group) -> None:
    x = group.share(numbers(3, 4))
    prepared = x.session.prepare(lambda x, c: (x * c).relu() + c, x, numbers(3, 4, seed=1))
    with x.session.costs.listen() as heard, prepared:
        result = (x * numbers(3, 4, seed=2)).relu() + numbers(3, 4, seed=2)
    assert offline(heard) == 0
    assert close(result, (numbers(3, 4) * numbers(3, 4, seed=2)).relu() + numbers(3, 4, seed=2))


def test_a_learning_rate_is_part_of_the_program(group: Group) -> None:
    training = Training(group, lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    x, y = numbers(4, 6), numbers(4, 3, seed=1)
    prepared = training.session.prepare(training.step, group.share(x), group.share(y))
    for optimizer in (training.optimizer, training.plain_optimizer):
        optimizer.param_groups[0]["lr"] = 0.07
    training.plain_step(x, y)
    with pytest.warns(PreparedUnusedWarning, match="1 of .* descend came with other public arguments"), prepared:
        training.step(group.share(x), group.share(y))
    assert training.agrees()


DIFFERENT: dict[str, Callable[[Any, Any], Any]] = {
    "another operation first": lambda x, y: ((x + y).relu(), x * y),
    "another operand": lambda x, y: x * x,
    "another shape": lambda x, y: x[:2] * y[:2],
    "another layout": lambda x, y: x.t() * y.t(),
    "more of it": lambda x, y: (x * y, x * y + x * x * y),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_another_course_is_dealt_for_anew(group: Group, name: str) -> None:
    x, y = numbers(4, 4), numbers(4, 4, seed=1)
    held = group.share(x), group.share(y)
    prepared = held[0].session.prepare(lambda x, y: (x * y).sum() * y.max(), *held)
    with held[0].session.costs.listen() as heard, pytest.warns(PreparedUnusedWarning, match="dealt for anew"), prepared:
        found = DIFFERENT[name](*held)
        parts = found if isinstance(found, tuple) else (found,)
        opened = [part.get() for part in parts]
    assert offline(heard) > 0
    expected = DIFFERENT[name](x, y)
    due = expected if isinstance(expected, tuple) else (expected,)
    assert all(close(one, other) for one, other in zip(opened, due, strict=True))
    assert prepared.runs == 0
    assert close(held[0] * held[1], x * y)


def test_an_operand_that_was_used_before_does_not_fit(group: Group) -> None:
    x, y = group.share(numbers(4)), group.share(numbers(4, seed=1))
    prepared = x.session.prepare(lambda x, y: x * y, x, y)
    used = (x * x).get()
    with pytest.warns(PreparedUnusedWarning, match="used before, or was not"), prepared:
        result = (x * y).get()
    assert close(used, numbers(4) ** 2) and close(result, numbers(4) * numbers(4, seed=1))


def test_looking_at_values_on_the_way_changes_nothing(group: Group) -> None:
    x = group.share(numbers(4))
    prepared = x.session.prepare(lambda x: (x * x).relu() * x, x)
    with x.session.costs.listen() as heard, prepared:
        square = x * x
        assert close(square, numbers(4) ** 2)
        result = square.relu() * x
    assert offline(heard) == 0 and close(result, numbers(4) ** 3)


def test_an_error_in_a_run_gives_up_the_rest_of_it(group: Group) -> None:
    x = group.share(numbers(4))
    prepared = x.session.prepare(lambda x: (x * x) * x, x, count=2)
    with pytest.raises(ZeroDivisionError), prepared:
        (x * x).get()
        raise ZeroDivisionError
    assert prepared.runs == 1
    z = group.share(numbers(4, seed=2))
    with x.session.costs.listen() as heard, prepared:
        result = (z * z) * z
    assert offline(heard) == 0 and close(result, numbers(4, seed=2) ** 3)


# Once


def test_what_was_used_is_gone(group: Group) -> None:
    x = group.share(numbers(4))
    prepared = x.session.prepare(lambda x: x * x, x, count=2)
    for left in (1, 0):
        with prepared:
            group.share(numbers(4)) ** 2
        assert prepared.runs == left
    with pytest.raises(CorrelationReusedError, match="A second use would reveal"), prepared:
        raise AssertionError("nothing is left")
    with x.session.costs.listen() as heard:
        (group.share(numbers(4)) ** 2).get()
    assert offline(heard) > 0


def test_steps_planted_a_second_time_are_caught(group: Group) -> None:
    x = group.share(numbers(4))
    prepared = x.session.prepare(lambda x: x * x, x, count=2)
    block: Block = prepared._block
    first, messages = list(block._runs[0]), [list(step.messages) for step in block._runs[0]]
    with prepared:
        (x * x).get()
    for step, kept in zip(first, messages, strict=True):
        step.messages = kept
    block._runs[1] = first
    again = group.share(numbers(4, seed=1))
    with pytest.raises(CorrelationReusedError, match="already used"), prepared:
        (again * again).get()


def test_a_block_has_its_secret_once() -> None:
    secret = PairSecret(bytes(range(SECRET_BYTES)))
    other = PairSecret(bytes(range(SECRET_BYTES)))
    one, two = secret.block(1), secret.block(2)
    with pytest.raises(CorrelationReusedError, match="already derived"):
        secret.block(2)
    with pytest.raises(CorrelationReusedError, match="already derived"):
        secret.block(1)
    draws = [made.stream(5).words((8,)) for made in (one, two, secret, other.block(1))]
    assert torch.equal(draws[0], draws[3])
    assert not any(torch.equal(draws[i], draws[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_a_run_does_not_begin_inside_another(group: Group) -> None:
    x = group.share(numbers(4))
    prepared = x.session.prepare(lambda x: x * x, x, count=2)
    with prepared:
        with pytest.raises(PreparationError, match="End that run first"), prepared:
            raise AssertionError("no second run")
        with pytest.raises(PreparationError, match="End that run first"):
            x.session.prepare(lambda x: x * x, x)
        (x * x).get()
    assert prepared.runs == 1


# What cannot be prepared


def test_a_program_that_opens_something_is_refused(group: Group) -> None:
    x = group.share(numbers(4))
    with pytest.raises(PreparationError, match="it cannot open a tensor"):
        x.session.prepare(lambda x: (x * x).get(), x)
    assert close(x * x, numbers(4) ** 2)


@pytest.mark.parametrize("protocol", ["securenn", "securenn-paper"])
def test_a_provider_who_takes_part_online_is_refused(protocol: str) -> None:
    group = Group(protocol)
    x = group.share(numbers(4))
    with pytest.raises(UnsupportedOperationError, match='protocol="tables"'):
        x.session.prepare(lambda x: x.relu(), x)
    assert close(x.relu(), numbers(4).relu())
    y = group.share(numbers(4, seed=1))
    prepared = x.session.prepare(lambda y: y * y, y)
    with x.session.costs.listen() as heard, prepared:
        result = y * y
    assert offline(heard) == 0 and close(result, numbers(4, seed=1) ** 2)


def test_there_is_a_limit(group: Group) -> None:
    x = group.share(numbers(100))
    with pytest.raises(PreparationError, match="More than 4000 bytes were prepared, in run 2"):
        x.session.prepare(lambda x: x * x, x, count=5, max_bytes=4000)
    with pytest.raises(PreparationError, match="at least one run"):
        x.session.prepare(lambda x: x * x, x, count=0)
    assert close(x * x, numbers(100) ** 2)


def test_a_session_without_a_provider_cannot() -> None:
    session = testing.plaintext()
    with pytest.raises(MembersError, match="no crypto provider"):
        session.prepare(lambda: None)


def test_after_a_refusal_nothing_of_the_program_waits(group: Group) -> None:
    x = group.share(numbers(4, 4))
    held: list[Any] = []

    def opening(x: Any) -> Any:
        held.append(x @ x)
        held.append(held[0].relu())
        return x.get()

    with pytest.raises(PreparationError):
        x.session.prepare(opening, x)
    assert close(x @ x, numbers(4, 4) @ numbers(4, 4))
    with pytest.raises(ObjectGoneError):
        held[1].get()


def test_a_constant_that_a_program_reaches_stays_one(group: Group) -> None:
    x = group.share(numbers(4)).requires_grad_()
    found: list[Any] = []
    (x * 2.0).sum().backward()
    found.append(x.grad)
    prepared = x.session.prepare(lambda x: (x * found[0], found[0] @ x), group.share(numbers(4)))
    y = group.share(numbers(4))
    with x.session.costs.listen() as heard, prepared:
        result = y * found[0], found[0] @ y
    assert offline(heard) == 0
    assert close(result[0], 2 * numbers(4)) and close(result[1], 2 * numbers(4).sum())
    assert close(found[0], torch.full((4,), 2.0))


def test_a_relu_that_was_passed_over_is_computed_before(group: Group) -> None:
    x = group.share(numbers(1, 1, 4, 4))
    hidden = x.relu()
    pooled = nn.functional.max_pool2d(hidden, 2)
    w = group.share(numbers(3))
    prepared = x.session.prepare(lambda: w.mul_(0.5))
    with x.session.costs.listen() as heard, prepared:
        w.mul_(0.5)
    assert offline(heard) == 0
    assert close(hidden, numbers(1, 1, 4, 4).relu()) and close(w, numbers(3) / 2)
    assert close(pooled, nn.functional.max_pool2d(numbers(1, 1, 4, 4).relu(), 2))


class Elsewhere(Session):
    """A session whose members are on other machines."""

    def _command(self, name: str, inputs: Any, outputs: int, public: Any) -> Any:
        raise AssertionError("no command is given")

    def distribute(self, values: Tensor) -> int:
        raise AssertionError("nothing is shared")

    def reveal_elements(self, number: int) -> Any:
        raise AssertionError("nothing is opened")

    def free(self, number: int) -> None:
        raise AssertionError("nothing is freed")


def test_members_on_other_machines_are_refused() -> None:
    here = testing.session(suite="tables")
    session = Elsewhere(here.parties, here.provider, here.ring, here.suite)
    with pytest.raises(UnsupportedOperationError, match="has its members on other machines. Prepare in a session of"):
        session.prepare(lambda: None)
    with pytest.raises(PreparationError, match="cannot be read"):
        session.load_prepared("no such file")


def test_what_a_traced_program_made_is_gone(group: Group) -> None:
    x = group.share(numbers(4))
    made: list[Any] = []
    x.session.prepare(lambda x: made.append(x * x), x)
    with pytest.raises(ObjectGoneError):
        made[0].get()


def test_shape_changes_in_place_are_refused(group: Group) -> None:
    x, y = group.share(numbers(2, 3)), group.share(numbers(1))
    with pytest.raises(PreparationError, match="change the shape of a tensor in place"):
        x.session.prepare(lambda: x.t_() * y)


# Files


def square(x: Any) -> Any:
    return (x * x).relu()


def test_what_is_saved_is_loaded_and_used(group: Group, tmp_path: Path) -> None:
    x = group.share(numbers(4))
    prepared = x.session.prepare(square, x, count=3)
    with prepared:
        square(x).get()
    size = prepared.bytes
    prepared.save(tmp_path / "material")
    assert prepared.runs == 0 and prepared.bytes == 0
    with pytest.raises(CorrelationReusedError), prepared:
        raise AssertionError("nothing is left")
    loaded = x.session.load_prepared(tmp_path / "material")
    assert isinstance(loaded, Prepared) and (loaded.runs, loaded.bytes) == (2, size)
    assert not (tmp_path / "material").exists()
    for seed in (4, 5):
        with x.session.costs.listen() as heard, loaded:
            result = square(group.share(numbers(4, seed=seed)))
        assert offline(heard) == 0 and close(result, numbers(4, seed=seed) ** 2)


def test_weights_that_were_opened_in_a_run_before_saving_stay_open(group: Group, tmp_path: Path) -> None:
    w = group.share(numbers(4, 4))
    x = [numbers(2, 4, seed=seed) for seed in range(3)]
    prepared = w.session.prepare(lambda x: x @ w, group.share(x[0]), count=3)
    with prepared:
        assert close(group.share(x[0]) @ w, x[0] @ numbers(4, 4))
    prepared.save(tmp_path / "material")
    loaded = w.session.load_prepared(tmp_path / "material")
    for one in x[1:]:
        with w.session.costs.listen() as heard, loaded:
            result = group.share(one) @ w
        assert offline(heard) == 0 and close(result, one @ numbers(4, 4))


@pytest.mark.parametrize(("protocol", "parties"), [("tables", 3), ("fss", 2)])
def test_a_training_run_from_a_file(protocol: str, parties: int, tmp_path: Path) -> None:
    group = Group(protocol, parties)
    training = Training(group)
    x, y = numbers(4, 6), numbers(4, 3, seed=1)
    training.session.prepare(training.step, group.share(x), group.share(y), count=2).save(tmp_path / "two steps")
    loaded = training.session.load_prepared(tmp_path / "two steps")
    for _ in range(2):
        training.plain_step(x, y)
        with training.session.costs.listen() as heard, loaded:
            training.step(group.share(x), group.share(y))
        assert offline(heard) == 0
    assert training.agrees()


def test_a_copy_of_a_file_cannot_be_loaded_again(group: Group, tmp_path: Path) -> None:
    x = group.share(numbers(4))
    x.session.prepare(square, x).save(tmp_path / "one")
    (tmp_path / "copy").write_bytes((tmp_path / "one").read_bytes())
    x.session.load_prepared(tmp_path / "one")
    with pytest.raises(CorrelationReusedError, match="was loaded before"):
        x.session.load_prepared(tmp_path / "copy")
    with pytest.raises(PreparationError, match="cannot be read"):
        x.session.load_prepared(tmp_path / "one")


def test_a_file_is_of_one_session(group: Group, tmp_path: Path) -> None:
    x, other = group.share(numbers(4)), Group().share(numbers(4))
    x.session.prepare(square, x).save(tmp_path / "one")
    with pytest.raises(PreparationError, match="prepared by another session"):
        other.session.load_prepared(tmp_path / "one")
    assert (tmp_path / "one").exists()
    assert x.session.load_prepared(tmp_path / "one").runs == 1


def test_every_change_of_a_file_is_noticed(group: Group, tmp_path: Path) -> None:
    x = group.share(numbers(4))
    path = tmp_path / "one"
    x.session.prepare(square, x).save(path)
    whole = path.read_bytes()
    for place in (80, len(whole) // 2, len(whole) - 1):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(PreparationError, match="damaged"):
            x.session.load_prepared(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(PreparationError, match="damaged"):
        x.session.load_prepared(path)
    path.write_bytes(whole)
    with x.session.load_prepared(path):
        assert close(square(x), numbers(4) ** 2)


def test_a_file_that_cannot_be_written_loses_nothing(group: Group, tmp_path: Path) -> None:
    x = group.share(numbers(4))
    prepared = x.session.prepare(square, x)
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(PreparationError, match="there is such a file"):
        prepared.save(tmp_path / "taken")
    with prepared, pytest.raises(PreparationError, match="has not ended"):
        prepared.save(tmp_path / "new")
    with pytest.raises(CorrelationReusedError):
        prepared.save(tmp_path / "new")


def test_corrections_do_not_show_in_a_file(group: Group, tmp_path: Path) -> None:
    x = group.share(numbers(1000))
    with x.session.record() as transcript:
        prepared = x.session.prepare(square, x)
    prepared.save(tmp_path / "one")
    contents = (tmp_path / "one").read_bytes()
    for message in transcript:
        for part in message.fields:
            raw = part.numpy().tobytes() if isinstance(part, Tensor) else part.tobytes()
            assert raw[:16] not in contents


# Reports


def test_online_and_offline_are_told_apart(group: Group) -> None:
    x = group.share(numbers(8, 8))
    model = group.share(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
    with st.profile() as unprepared:
        model(x).detach().get()
    y = group.share(numbers(8, 8))
    with st.profile() as ahead:
        prepared = x.session.prepare(model, y)
    with st.profile() as run, prepared:
        result = model(y).detach()
    assert close(result, torch.relu(result.get()))
    assert ahead.totals.offline > 0 and ahead.totals.online == 0 and ahead.rounds == 0
    assert {row.name for row in ahead.rows()} == {"prepare"}
    assert "Sequential" in {row.name for row in ahead.rows("module", depth=1)}
    assert run.provider_bytes == 0 and run.totals.offline == 0 and run.totals.online > 0
    assert ahead.provider_bytes > 0
    dealt = {f"prepared {kind}": amount for kind, amount in ahead.totals.correlations.items()}
    assert run.totals.correlations == dealt and dealt
    assert set(unprepared.totals.correlations) == set(ahead.totals.correlations)


# Views

COUNT = 1 << 15
PROGRAMS: dict[str, Callable[[Any, list[int]], Any]] = {
    "product": lambda s, held: s.command("bilinear", *held, function=Product(), divisor=1 << 16),
    "relu": lambda s, held: s.command("relu", held[0], outputs=2),
}


def prepared_transcript(name: str, protocol: str, parties: int, value: int, seed: int) -> tuple[list[Any], list[Any]]:
    """What is sent while preparing, and in the run on equal elements under equal shares."""
    session = testing.session(parties, protocol, seed=seed)
    held = [views.put_equal(session, value, COUNT) for _ in range(2)]
    with session.record() as ahead:
        prepared = session.prepare(lambda: PROGRAMS[name](session, held))
    with session.record() as transcript, prepared:
        PROGRAMS[name](session, held)
    return ahead, [message for message in transcript if DRIVER not in (message.sender, message.receiver)]


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize(("protocol", "parties"), [("tables", 2), ("tables", 3), ("fss", 2)])
def test_a_prepared_run_sends_online_messages_only_and_they_tell_nothing(
    name: str, protocol: str, parties: int
) -> None:
    ahead, transcript = prepared_transcript(name, protocol, parties, -5, 1)
    assert {message.round for message in ahead} == {0} and {message.sender for message in ahead} == {parties}
    assert all(message.round > 0 and message.sender < parties for message in transcript)
    for rank in range(parties):
        views.require_nothing_seen([*ahead, *transcript] if protocol == "tables" else transcript, rank)
    other = prepared_transcript(name, protocol, parties, 7, 2)[1]
    for rank in range(parties):
        views.require_same_views(transcript, other, rank)
        views.require_independent_runs(transcript, other, rank)


def test_blocks_that_draw_the_same_streams_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: every step of every block begins at the same place of the pair's stream."""
    monkeypatch.setattr(PairSecret, "block", lambda secret, number: PairSecret(secret._secret))
    monkeypatch.setattr(PairSecret, "stream", lambda secret, operation: Stream(secret._secret[:16]))
    session = testing.session(seed=1, suite="tables")
    transcripts = []
    for _ in range(2):
        held = [views.put_equal(session, -5, COUNT) for _ in range(2)]
        prepared = session.prepare(lambda held=held: PROGRAMS["product"](session, held))
        with session.record() as transcript, prepared:
            PROGRAMS["product"](session, held)
        transcripts.append([message for message in transcript if message.label == "masked operand"])
    with pytest.raises(AssertionError, match="between runs"):
        views.require_independent_runs(*transcripts, 1)
