"""Programs that are repeated from their commands: the same results, costs and secrecy as when their Python runs."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as strategies
from torch import Tensor, nn

import sharetorch as st
from sharetorch.mpc import testing
from sharetorch.mpc.cost import DRIVER
from sharetorch.mpc.errors import ObjectGoneError, RangeCheckError
from sharetorch.mpc.randomness import PairSecret, Stream
from sharetorch.mpc.tape import ARGUMENT, OUTSIDE, RESULT, Ref, Tape, recorders, same
from sharetorch.mpc.tensor import traced as tracing
from tests.mpc import test_preparing as preparing
from tests.mpc.test_preparing import close, numbers

UNIT = 2.0**-16
PROTOCOLS = ["tables", "tables-wan", "fss", "securenn", "securenn-paper"]


class Group(preparing.Group):
    """Members of a session of their own."""

    @property
    def held(self) -> list[int]:
        return [len(member.store) for member in self.members]


@pytest.fixture
def group() -> Group:
    return Group()


@pytest.fixture(autouse=True)
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert recorders.tapes == ()
    gc.collect()
    assert not recorders.watched, "tapes go with their programs"


class Training:
    """A network and an optimizer, and a step of them."""

    def __init__(self, share: Callable[[Any], Any], **options: Any) -> None:
        torch.manual_seed(3)
        self.model = share(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
        self.optimizer = torch.optim.SGD(self.model.parameters(), **{"lr": 0.125, "momentum": 0.5, **options})

    def step(self, x: Any, y: Any) -> Any:
        self.optimizer.zero_grad()
        loss = ((self.model(x) - y) ** 2).mean()
        loss.backward()
        self.optimizer.step()
        return loss.detach()


# ------------------------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize(
    ("protocol", "parties"), [*((protocol, 2) for protocol in PROTOCOLS), ("tables", 3), ("tables", 4)]
)
def test_training_goes_on_as_in_the_clear(protocol: str, parties: int) -> None:
    group = Group(protocol, parties)
    ours, plain = Training(group.share), Training(lambda model: model)
    step = st.traced(ours.step)
    for seed in range(8):
        x, y = numbers(4, 6, seed=seed), numbers(4, 3, seed=100 + seed)
        assert close(step(group.share(x), group.share(y)), plain.step(x, y))
    assert step.repeats >= 4 and step.reason == ""
    for own, right in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        assert close(own, right.detach())


@pytest.mark.parametrize("options", [{"momentum": 0.0}, {"weight_decay": 0.01}, {"nesterov": True}, {"foreach": False}])
def test_other_optimizers(group: Group, options: dict[str, Any]) -> None:
    ours, plain = Training(group.share, **options), Training(lambda model: model, **options)
    step = st.traced(ours.step)
    for seed in range(6):
        x, y = numbers(4, 6, seed=seed), numbers(4, 3, seed=100 + seed)
        assert close(step(group.share(x), group.share(y)), plain.step(x, y))
    assert step.repeats >= 2


def test_a_repeat_costs_what_a_run_costs_and_leaves_nothing_behind(group: Group) -> None:
    training = Training(group.share)
    step = st.traced(training.step)
    x, y = group.share(numbers(4, 6)), group.share(numbers(4, 3))
    held, costs = [], []
    for _ in range(6):
        with x.session.costs.listen() as heard:
            step(x * 1, y * 1)
        total = heard.total()
        costs.append((total.rounds, total.operations, dict(total.online), dict(total.offline)))
        held.append(group.held)
    assert step.repeats >= 3
    assert costs[-1] == costs[-2] == costs[1]
    assert held[-1] == held[-2] == held[-3]


def test_batches_of_other_sizes_are_other_courses(group: Group) -> None:
    ours, plain = Training(group.share), Training(lambda model: model)
    step = st.traced(ours.step)
    for seed, rows in enumerate([4, 4, 4, 4, 2, 4, 2, 4, 2, 2, 4]):  # noted: 4, 4, 4 and 2, 2
        x, y = numbers(rows, 6, seed=seed), numbers(rows, 3, seed=100 + seed)
        assert close(step(group.share(x), group.share(y)), plain.step(x, y))
    assert step.repeats == 6


def test_what_a_step_depends_on_beside_its_arguments_is_watched(group: Group) -> None:
    ours, plain = Training(group.share), Training(lambda model: model)
    step = st.traced(ours.step)
    seeds = iter(range(100))

    def steps(count: int) -> int:
        before = step.repeats
        for _ in range(count):
            seed = next(seeds)
            x, y = numbers(4, 6, seed=seed), numbers(4, 3, seed=100 + seed)
            assert close(step(group.share(x), group.share(y)), plain.step(x, y))
        return step.repeats - before

    assert steps(4) == 1
    for training in (ours, plain):
        training.optimizer.param_groups[0]["lr"] = 0.03125
    assert steps(4) == 2, "two runs were noted with the new rate"
    for training in (ours, plain):
        training.model[0].weight.requires_grad_(False)
    assert steps(5) >= 2
    for training in (ours, plain):
        training.model[0].weight.requires_grad_(True)
    assert steps(4) >= 1
    with torch.no_grad():
        x = group.share(numbers(4, 6))
        assert close(ours.model(x), plain.model(numbers(4, 6)))


def test_modes_of_modules(group: Group) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    torch.manual_seed(0)
    model = group.share(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    forward = st.traced(lambda x: model(x).detach())
    for seed in range(4):
        assert close(forward(group.share(numbers(8, 3, seed=seed))), plain(numbers(8, 3, seed=seed)).detach(), 2.0**-6)
    assert forward.repeats == 2
    assert close(model[1].running_mean, plain[1].running_mean, 2.0**-8), "statistics follow"
    model.eval(), plain.eval()
    for seed in range(4):
        assert close(forward(group.share(numbers(8, 3, seed=seed))), plain(numbers(8, 3, seed=seed)).detach(), 2.0**-6)
    assert forward.repeats == 4


def test_gradients_that_a_step_leaves_behind_are_gone(group: Group) -> None:
    training = Training(group.share, momentum=0.0)
    step = st.traced(training.step)
    for _ in range(4):
        step(group.share(numbers(4, 6)), group.share(numbers(4, 3)))
    assert step.repeats == 2
    assert all(p.grad is None for p in training.model.parameters())


def test_gradients_that_are_added_up_are_followed(group: Group) -> None:
    w, plain = group.share(numbers(3)).requires_grad_(), numbers(3).requires_grad_()
    w.grad = group.share(torch.zeros(3))
    plain.grad = torch.zeros(3)

    @st.traced
    def add(x: Any) -> None:
        (x * w * w).sum().backward()

    for seed in range(5):
        add(group.share(numbers(3, seed=seed)))
        (numbers(3, seed=seed) * plain * plain).sum().backward()
    assert add.repeats == 3
    assert close(w.grad, plain.grad)


# --------------------------------------------------------------------------------------------- arguments and results


def test_everything_a_program_may_return(group: Group) -> None:
    w = group.share(numbers(2, 3, seed=9))

    @st.traced
    def program(pair: Any, more: Any, scale: float = 2.0) -> Any:
        x, y = pair
        z = x * scale + more["y"]
        return {"z": z, "again": [z, z.t()], "bits": x > 0, "none": None, "given": y, "found": w, "n": (x > 0).sum()}

    for seed in range(4):
        x, y = numbers(2, 3, seed=seed), numbers(2, 3, seed=50 + seed)
        shared = group.share(y)
        found = program((group.share(x), shared), {"y": shared})
        assert close(found["z"], 2 * x + y) and close(found["again"][0], 2 * x + y)
        assert found["again"][1].shape == (3, 2) and close(found["again"][1], (2 * x + y).t())
        assert torch.equal(found["bits"].get(), x > 0) and found["bits"].bits
        assert int(found["n"].get()) == int((x > 0).sum())
        assert found["given"] is shared and found["found"] is w and found["none"] is None
        assert close(found["z"] * 1, 2 * x + y), "results are used as all others"
    assert program.repeats == 2


def test_numbers_and_objects_among_the_arguments_are_part_of_the_course(group: Group) -> None:
    class Scale:
        by = 3.0

        @st.traced
        def times(self, x: Any, more: int) -> Any:
            """Scale it."""
            return x * self.by * more

    first, second = Scale(), Scale()
    second.by = 5.0
    x = numbers(4)
    for _ in range(4):
        for scale, more in [(first, 1), (second, 1), (first, 2)]:
            assert close(scale.times(group.share(x), more), x * scale.by * more)
    assert Scale.times.repeats == 6 and Scale.times.__doc__ == "Scale it."


def test_the_same_tensor_twice_is_another_course(group: Group) -> None:
    product = st.traced(lambda x, y: x * y)
    x, y = numbers(4), numbers(4, seed=1)
    for _ in range(4):
        shared = group.share(x)
        assert close(product(shared, shared), x * x)
        assert close(product(group.share(x), group.share(y)), x * y)
    assert product.repeats == 4


def test_known_bits_are_another_course(group: Group) -> None:
    choose = st.traced(lambda c, x: torch.where(c != 0, x, -x))
    bits, x = torch.tensor([1, 0, 1]), numbers(3)
    for _ in range(3):
        shared = group.share(bits)
        assert close(choose(shared, group.share(x)), torch.where(bits != 0, x, -x))
        assert close(choose(shared > 0, group.share(x)), torch.where(bits != 0, x, -x))
    assert choose.repeats == 2


def test_autograd_hears_of_what_is_written(group: Group) -> None:
    w = group.share(numbers(3)).requires_grad_()

    @st.traced
    def shrink(x: Any) -> None:
        with torch.no_grad():
            w.mul_(0.5)
            x.add_(1.0)

    for _ in range(4):
        x = group.share(numbers(3))
        versions = w._version, x._version
        shrink(x)
        assert (w._version, x._version) == (versions[0] + 1, versions[1] + 1)
    assert shrink.repeats == 2
    y = (w * w).sum()
    shrink(group.share(numbers(3)))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_arguments_are_written_in_place(group: Group) -> None:
    halve = st.traced(lambda x: x.mul_(0.5))
    for seed in range(4):
        x = group.share(numbers(5, seed=seed))
        with torch.no_grad():
            halve(x)
        assert close(x, numbers(5, seed=seed) / 2)
    assert halve.repeats == 2


def test_programs_without_shared_tensors_just_run() -> None:
    called: list[int] = []
    program = st.traced(lambda x: (called.append(1), x + 1)[1])
    assert [program(n) for n in range(5)] == [1, 2, 3, 4, 5] and len(called) == 5
    assert program.repeats == 0 and "0 repeats" in repr(program)


def test_what_is_no_program() -> None:
    with pytest.raises(TypeError, match="A Tensor cannot be traced; give a function"):
        st.traced(torch.ones(2))  # type: ignore[arg-type]


def test_views_of_one_storage(group: Group) -> None:
    program = st.traced(lambda a, b: (a.add_(1.0), a + b)[1])
    for seed in range(4):
        x = numbers(2, 3, seed=seed)
        shared = group.share(x)
        with torch.no_grad():
            assert close(program(shared[0], shared[1]), x[0] + 1 + x[1])
            assert close(program(shared[0], shared[0]), 2 * x[0] + 4)
        assert close(shared[0], x[0] + 2)
    assert program.repeats == 4


# ------------------------------------------------------------------------------------------- what cannot be repeated


class Counting:
    """A program that counts its runs."""

    def __init__(self, program: Callable[..., Any]) -> None:
        self.runs = 0
        self._program = program

    def __call__(self, *args: Any) -> Any:
        self.runs += 1
        return self._program(self, *args)


OTHER = Group()

REFUSED: dict[str, tuple[Callable[[Counting, Any], Any], str]] = {
    "opens": (lambda self, x: x * float((x.sum() > 1000).get()), "it opens a tensor"),
    "shares": (lambda self, x: x + x.session and x, "it returns"),
    "returns a number": (lambda self, x: (x * 2, self.runs), "it returns a int"),
    "returns a plain tensor": (lambda self, x: (x * 2, torch.zeros(1)), "it returns a Tensor"),
    "counts": (lambda self, x: x * self.runs, "had other public arguments"),
    "takes turns": (lambda self, x: x * x if self.runs % 2 else x + x, "in the next one"),
    "repeats itself": (lambda self, x: sum((x * 2 for _ in range(self.runs)), x), "gave"),
}
REFUSED.pop("shares")


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_repeated_runs_as_it_is(group: Group, name: str) -> None:
    function, reason = REFUSED[name]
    counting = Counting(function)
    program = st.traced(counting)
    x = numbers(3)
    right = Counting(function)
    with pytest.warns(st.NotTracedWarning, match="runs as if it were not traced") as warned:
        for _ in range(7):
            found, wanted = program(group.share(x)), right(Plain(x))
            found, wanted = (made[0] if isinstance(made, tuple) else made for made in (found, wanted))
            assert close(found, torch.Tensor(wanted))
    assert counting.runs == 7 and program.repeats == 0
    assert reason in program.reason and len(warned) == 1 and reason in str(warned[0].message)


class Plain(torch.Tensor):
    """A plain tensor with ``get``."""

    def get(self) -> Tensor:
        return torch.Tensor(self)


def test_dropout(group: Group) -> None:
    drop = nn.Dropout(0.5)
    program = st.traced(lambda x: drop(x))
    with pytest.warns(st.NotTracedWarning, match="other public arguments"):
        patterns = {tuple((program(group.share(torch.ones(40))).get() > 1).tolist()) for _ in range(6)}
    assert len(patterns) == 6
    drop.eval()
    for _ in range(4):
        assert close(program(group.share(numbers(5))), numbers(5))


def test_data_shared_inside(group: Group) -> None:
    program = st.traced(lambda x: x + group.share(torch.ones(3)))
    with pytest.warns(st.NotTracedWarning, match="shares data inside"):
        for seed in range(5):
            assert close(program(group.share(numbers(3, seed=seed))), numbers(3, seed=seed) + 1)
    assert program.repeats == 0


def test_two_sessions(group: Group) -> None:
    other = Group()
    y = other.share(numbers(2))
    program = st.traced(lambda x: (x * 2, y * 2)[0])
    with pytest.warns(st.NotTracedWarning, match="more than one session"):
        for seed in range(5):
            assert close(program(group.share(numbers(3, seed=seed))), 2 * numbers(3, seed=seed))


def test_plain_tensors_among_the_arguments(group: Group) -> None:
    program = st.traced(lambda x, index: x[index])
    x = numbers(5)
    for index in ([1, 2], [0, 4], [3, 3]):
        assert close(program(group.share(x), torch.tensor(index)), x[index])
    assert program.repeats == 0 and "plain tensor" in program.reason


def test_a_plain_tensor_that_the_program_changes(group: Group) -> None:
    factors = torch.ones(3)

    def program(x: Any) -> Any:
        factors.add_(1.0)
        return x * factors

    scaled = st.traced(program)
    with pytest.warns(st.NotTracedWarning, match="other public arguments"):
        for turn in range(6):
            assert close(scaled(group.share(numbers(3))), numbers(3) * (turn + 2))


def test_an_index_that_is_written_to_outside(group: Group) -> None:
    index = torch.tensor([0, 1])
    program = st.traced(lambda x: x[index] * 2)
    with pytest.warns(st.NotTracedWarning, match="other public arguments"):
        for turn in range(6):
            index.copy_(torch.tensor([turn % 3, turn % 2]))
            assert close(program(group.share(numbers(3))), 2 * numbers(3)[index])


def test_results_with_gradients(group: Group) -> None:
    w = group.share(numbers(3)).requires_grad_()
    program = st.traced(lambda x: x * w)
    with pytest.warns(st.NotTracedWarning, match="return x.detach"):
        program(group.share(numbers(3)))
    made = program(group.share(numbers(3)))
    made.sum().backward()
    assert close(w.grad, numbers(3))


def test_gradients_used_outside(group: Group) -> None:
    """An optimizer's step that is not part of the program: each step must see the gradients of its own backward."""
    training, plain = Training(group.share), Training(lambda model: model)

    def halves(training: Training) -> Callable[[Any, Any], None]:
        def backward(x: Any, y: Any) -> None:
            training.optimizer.zero_grad()
            ((training.model(x) - y) ** 2).mean().backward()

        return backward

    ours, theirs = st.traced(halves(training)), halves(plain)
    with pytest.warns(st.NotTracedWarning, match="used outside"):
        for seed in range(6):
            x, y = numbers(4, 6, seed=seed), numbers(4, 3, seed=100 + seed)
            ours(group.share(x), group.share(y)), theirs(x, y)
            training.optimizer.step(), plain.optimizer.step()
    for own, right in zip(training.model.parameters(), plain.model.parameters(), strict=True):
        assert close(own, right.detach())


def test_state_that_is_replaced_in_every_run(group: Group) -> None:
    state = [group.share(torch.zeros(3))]

    def program(x: Any) -> Any:
        state[0] = state[0] + x
        return state[0] * 2

    follow = st.traced(program)
    total = torch.zeros(3)
    with pytest.warns(st.NotTracedWarning, match="other operands|used outside"):
        for seed in range(6):
            total = total + numbers(3, seed=seed)
            assert close(follow(group.share(numbers(3, seed=seed))), 2 * total)


def test_what_a_program_used_is_gone(group: Group) -> None:
    held = {"w": group.share(numbers(3, seed=1))}
    program = st.traced(lambda x: x * held["w"])
    for _ in range(4):
        program(group.share(numbers(3)))
    assert program.repeats == 2
    held["w"] = group.share(numbers(3, seed=2))
    gc.collect()
    assert close(program(group.share(numbers(3))), numbers(3) * numbers(3, seed=2)), "the program ran again"
    assert program.repeats == 2


def test_courses_are_limited(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "COURSES", 2)
    double = st.traced(lambda x: x * 2)
    for size in (1, 2, 1, 2, 1, 2, 3, 2, 1, 1, 1):
        assert close(double(group.share(numbers(size))), numbers(size) * 2)
    assert double.repeats == 1 + 1 + 1 + 1, "1 and 2, then 2 beside 3, then 1 in the place of 2"
    assert len(double._courses) == 2


def test_nobody_is_kept_alive(group: Group) -> None:
    training, other = Training(group.share), Training(group.share)
    step = st.traced(lambda x, y: training.step(x, y))
    for _ in range(4):
        step(group.share(numbers(4, 6)), group.share(numbers(4, 3)))
    assert step.repeats == 1
    gone = weakref.ref(other.model), weakref.ref(other.optimizer)
    del other
    gc.collect()
    assert [find() for find in gone] == [None, None]
    step(group.share(numbers(4, 6)), group.share(numbers(4, 3)))
    assert step.repeats == 2


def test_a_run_that_raises_is_forgotten(group: Group) -> None:
    class Once(Exception):
        pass

    fail = [False]

    @st.traced
    def program(x: Any) -> Any:
        y = x * x
        if fail[0]:
            raise Once
        return y

    program(group.share(numbers(3)))
    fail[0] = True
    with pytest.raises(Once):
        program(group.share(numbers(3)))
    fail[0] = False
    for _ in range(3):
        assert close(program(group.share(numbers(3))), numbers(3) ** 2)
    assert program.repeats == 1


def test_a_command_that_fails_while_it_is_repeated(group: Group) -> None:
    square = st.traced(lambda x: (x * x).sum() * 1)
    with st.debug():
        for _ in range(4):
            square(group.share(numbers(3)))
        assert square.repeats == 2
        held = group.held
        big = group.share(torch.full((3,), 3 * 2.0**14))
        with pytest.raises(RangeCheckError):
            square(big)
        del big
        assert group.held == held, "nothing is left behind"
        assert close(square(group.share(numbers(3))), (numbers(3) ** 2).sum())
        assert square.repeats == 3
    assert close(square(group.share(numbers(3))), (numbers(3) ** 2).sum()), "without checks it is another course"
    assert square.repeats == 3


def test_results_of_noted_runs_that_python_kept_are_gone(group: Group) -> None:
    kept: list[Any] = []
    program = st.traced(lambda x: (kept.append(x * 3), x * 2)[1])
    for seed in range(4):
        assert close(program(group.share(numbers(3, seed=seed))), 2 * numbers(3, seed=seed))
    assert program.repeats == 2 and len(kept) == 2
    with pytest.raises(ObjectGoneError):
        kept[-1].get()


# --------------------------------------------------------------------------------------------------------- together


def test_a_prepared_run_of_a_traced_program(group: Group) -> None:
    ours, plain = Training(group.share), Training(lambda model: model)
    step = st.traced(ours.step)
    for seed in range(4):
        x, y = numbers(4, 6, seed=seed), numbers(4, 3, seed=100 + seed)
        assert close(step(group.share(x), group.share(y)), plain.step(x, y))
    session = next(ours.model.parameters()).session
    prepared = session.prepare(step, group.share(numbers(4, 6)), group.share(numbers(4, 3)), count=3)
    for seed in range(3):
        x, y = numbers(4, 6, seed=20 + seed), numbers(4, 3, seed=200 + seed)
        shared = group.share(x), group.share(y)
        with session.costs.listen() as heard, prepared:
            loss = step(*shared)
        assert sum(heard.total().offline.values()) == 0
        assert close(loss, plain.step(x, y))


def test_a_traced_program_in_another(group: Group) -> None:
    square = st.traced(lambda x: x * x)
    outer = st.traced(lambda x: square(x) + square(x + 1))
    for seed in range(8):
        x = numbers(3, seed=seed)
        assert close(outer(group.share(x)), x * x + (x + 1) ** 2)
    assert outer.repeats >= 4


STEPS: dict[str, Callable[[Any, Any], Any]] = {
    "product": lambda x, y: x * y / 4,
    "sum": lambda x, y: x + y,
    "relu": lambda x, y: x.relu() - y,
    "matrix": lambda x, y: x @ y.t() @ x / 16,
    "larger": lambda x, y: torch.maximum(x, y),
    "view": lambda x, y: x.t().reshape(3, 3) + y[0],
    "choose": lambda x, y: torch.where(x > y, x, -y),
    "write": lambda x, y: (x.clone().mul_(0.5).add_(y)),
}


@settings(max_examples=12, deadline=None)
@given(strategies.lists(strategies.sampled_from(sorted(STEPS)), min_size=1, max_size=5), strategies.integers(0, 1000))
def test_programs_at_random(names: list[str], seed: int) -> None:
    def program(x: Any, y: Any) -> Any:
        for name in names:
            x, y = STEPS[name](x, y), x
        return x

    group, repeated = Group(), st.traced(program)
    for turn in range(4):
        x, y = (torch.rand(3, 3, generator=torch.Generator().manual_seed(seed + 7 * turn + k)) - 0.5 for k in (0, 3))
        assert close(repeated(group.share(x), group.share(y)), program(x, y), 2.0**-8)
    assert repeated.repeats == 2


# ---------------------------------------------------------------------------------------------------------- secrecy


def messages(session: Any, call: Callable[[], Any]) -> list[bytes]:
    """What members sent to each other, as bytes."""
    with session.record() as sent:
        call()
    parts = [part for message in sent if message.sender != DRIVER and message.receiver != DRIVER
             for part in message.fields]  # fmt: skip
    return [bytes(memoryview(part.numpy() if isinstance(part, Tensor) else part).cast("B")) for part in parts]


def common(first: list[bytes], second: list[bytes]) -> float:
    """The share of 8-byte words that two transcripts have in common at the same places."""
    words = [torch.frombuffer(bytearray(b"".join(part)[: 8 * (len(b"".join(part)) // 8)]), dtype=torch.int64)
             for part in (first, second)]  # fmt: skip
    return float((words[0] == words[1]).double().mean())


def test_repeats_on_the_same_data_have_nothing_in_common() -> None:
    session = testing.session(suite="tables", seed=1)
    x = session_tensor(session, numbers(256))
    program = st.traced(lambda x: (x * x).relu() * 2)
    transcripts = [messages(session, lambda: program(x * 1)) for _ in range(5)]
    assert program.repeats == 3
    assert [len(part) for part in transcripts[-1]] == [len(part) for part in transcripts[0]], "the same messages"
    for first, second in ((0, -1), (-2, -1)):
        assert common(transcripts[first], transcripts[second]) < 0.01, "two runs have masks in common"


def test_a_planted_leak_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation draws from the beginning of one stream."""
    monkeypatch.setattr(PairSecret, "stream", lambda self, operation: Stream(self._secret[:16]))
    with pytest.raises(AssertionError, match="in common"):
        test_repeats_on_the_same_data_have_nothing_in_common()


def session_tensor(session: Any, values: Tensor) -> Any:
    """A tensor shared in a session of the test's."""
    from sharetorch.mpc.fixedpoint import encode
    from sharetorch.mpc.tensor.shared import Handle, SharedTensor
    from sharetorch.mpc.tensor.sharing import encoded

    encoding, integers = encoded(values, None, "probabilistic")
    assert torch.equal(integers, encode(values, encoding))
    shadow = torch.empty(values.shape, device="meta")
    return SharedTensor(Handle(session, session.distribute(integers), encoding), shadow)


# ------------------------------------------------------------------------------------------------------------ tapes


def tape(*entries: tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]], kept: tuple[int, ...] = ()) -> Tape:
    made = Tape(None, [1, 2], since=100)
    for name, inputs, results, public in entries:
        made.note(None, name, inputs, results, public)
    made.end(kept)
    return made


def test_a_tape_knows_what_objects_were_to_the_program() -> None:
    made = tape(("f", (1, 7), (100,), {}), ("g", (100, 2), (101, 102), {}), ("h", (100,), (103,), {}), kept=(102,))
    assert [entry.inputs for entry in made.entries] == [
        (Ref(ARGUMENT, 0), Ref(OUTSIDE, 7)), (Ref(RESULT, 0), Ref(ARGUMENT, 1)), (Ref(RESULT, 0),),
    ]  # fmt: skip
    assert [entry.over for entry in made.entries] == [(), (1,), (0, 3)]
    assert made.outside == [7] and made.left == [100, 101, 103] and made.reason == ""


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (tape(("f", (1,), (200,), {"a": 1}), kept=(200,)), ""),
        (tape(("f", (2,), (200,), {"a": 1}), kept=(200,)), "operands"),
        (tape(("f", (7,), (200,), {"a": 1}), kept=(200,)), "operands"),
        (tape(("g", (1,), (200,), {"a": 1}), kept=(200,)), "was f in one run and g"),
        (tape(("f", (1,), (200,), {"a": 2}), kept=(200,)), "public"),
        (tape(("f", (1,), (200,), {"a": 1}), kept=()), "returned in one run only"),
        (tape(), "1 commands and the next one 0"),
    ],
)
def test_tapes_are_compared(other: Tape, reason: str) -> None:
    mine = tape(("f", (1,), (100,), {"a": 1}), kept=(100,))
    misfit = mine.misfit(other)
    assert (misfit == "") == (reason == "") and reason in misfit


@pytest.mark.parametrize(
    ("x", "y", "equal"),
    [
        (1, 1, True), (1, 1.0, False), ((1, [2]), (1, [2]), True), ((1, [2]), (1, (2,)), False),
        (torch.ones(2), torch.ones(2), True), (torch.ones(2), torch.ones(2).double(), False),
        (torch.ones(2), torch.ones(3), False), ({"a": 1}, {"a": 1}, True), ({"a": 1}, {"b": 1}, False),
        (Group, Group, True), (torch.zeros(2).numpy(), torch.zeros(2).numpy(), True), (object(), object(), False),
        (slice(1, 2), slice(1, 2), True), (None, None, True), (torch.float32, torch.float64, False),
    ],
)  # fmt: skip
def test_public_arguments_are_compared(x: Any, y: Any, equal: bool) -> None:
    assert same(x, y) is equal
