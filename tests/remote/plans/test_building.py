"""Recording: what a function becomes, and what cannot be a plan."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import sharetorch as st
from sharetorch.exceptions import OperationNotAllowedError, PlanError
from sharetorch.remote.plans import Plan, PlanShapeError, State, func2plan

Worker = st.VirtualWorker


class Net(Plan):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, 3)
        self.fc2 = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.fc2(F.relu(self.fc1(x))), dim=0)


def test_a_function_is_built_from_shapes() -> None:
    @func2plan(args_shape=[(-1, 1)])
    def double(x: Tensor) -> Tensor:
        return x + x

    assert double.is_built
    assert double.code == "def double(x: float32[n, 1]):\n    add = aten.add.Tensor(x, x)\n    return add"
    assert repr(double) == f"<Plan double id:{double.id} owner:me built>\n{double.code}"
    for rows in (0, 1, 2, 5):
        x = torch.randn(rows, 1)
        assert torch.equal(double(x), x * 2)


def test_an_unbuilt_plan_runs_its_function_and_cannot_be_sent(bob: Worker) -> None:
    net = Net()
    assert not net.is_built
    assert repr(net) == f"<Net Net id:{net.id} owner:me>"
    assert net(torch.ones(2)).shape == (1,)
    with pytest.raises(RuntimeError, match="Plan Net needs to be built before being sent"):
        net.send(bob)


def test_a_network_is_built_from_tensors() -> None:
    net = Net()
    x = torch.tensor([1.0, 2.0])
    before = net(x)
    assert net.build(x) is net
    assert torch.equal(net(x), before)
    assert list(net.named_state()) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert all(mine is theirs for mine, theirs in zip(net.state.tensors(), net.parameters(), strict=True))
    assert repr(net).startswith(f"<Net Net id:{net.id} owner:me built>\ndef Net(x: float32[2]):\n")
    net(x).sum().backward()
    assert net.fc1.weight.grad is not None, "a forward plan is differentiable here"


def test_state_is_read_by_the_function() -> None:
    @func2plan(args_shape=[(1,)], state=(torch.tensor([1.0]), torch.tensor([4.2])))
    def add(x: Tensor, state: State) -> Tensor:
        bias, other = state.read()
        return x + bias * other

    assert add(torch.tensor([1.0])).tolist() == pytest.approx([5.2])
    assert add.state.names == ["state.0", "state.1"]
    assert [place.child.item() for place in add.state.state_placeholders] == pytest.approx([1.0, 4.2])


def test_an_unbuilt_function_reads_its_state_too() -> None:
    @func2plan(state=(torch.tensor([1.0]),))
    def add(x: Tensor, state: State) -> Tensor:
        return x + state.read()[0]

    assert add(torch.tensor([2.0])).tolist() == [3.0]
    add.build(torch.tensor([0.0]))
    assert add(torch.tensor([2.0])).tolist() == [3.0]


def test_captured_tensors_become_state_with_their_names() -> None:
    bias, layers = torch.ones(2), [nn.Linear(2, 2)]

    @func2plan(args_shape=[(-1, 2)])
    def apply(x: Tensor) -> Tensor:
        return layers[0](x) + bias + bias.data + torch.tensor([1.0, 2.0])

    assert apply.state.names[:3] == ["layers.0.weight", "layers.0.bias", "bias"]
    assert len(apply.state) == 4 and apply.state.names[3].startswith("constant")
    x = torch.randn(3, 2)
    assert torch.equal(apply(x), apply.forward(x))
    bias.add_(1)
    assert torch.equal(apply(x), apply.forward(x)), "the state is the user's own tensor"


def test_recording_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(3, 2)).sum().backward()
    tensors = copy.deepcopy(model.state_dict())
    gradients = [parameter.grad for parameter in model.parameters()]
    generator = torch.get_rng_state()

    @func2plan(args_shape=[(-1, 2)])
    def step(x: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    assert step.is_built
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is gradient for parameter, gradient in zip(model.parameters(), gradients, strict=True))
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(not isinstance(value, torch._subclasses.FakeTensor) for value in model.state_dict().values())


def test_models_in_helpers_are_captured_too() -> None:
    holder = type("Holder", (), {"model": nn.Linear(2, 1)})

    def loss(x: Tensor) -> Tensor:
        return holder.model(x).sum()  # type: ignore[attr-defined]

    def gradients(x: Tensor) -> Tensor:
        loss(x).backward()
        return holder.model.weight.grad  # type: ignore[attr-defined]

    plan = Plan("gradients", gradients).build(torch.ones(3, 2))
    assert holder.model.weight.grad is None  # type: ignore[attr-defined]
    assert plan(torch.ones(3, 2)).tolist() == [[3.0, 3.0]]


def test_a_model_can_be_exchanged_after_building(bob: Worker) -> None:
    """Nothing torch keeps of a recording refers to the model's tensors any more."""
    net = Net().build(torch.ones(2))
    nn.Module.send(net, bob)  # type: ignore[attr-defined]
    assert net.fc1.weight.location is bob


@pytest.mark.parametrize(
    ("form", "shapes"),
    [
        (lambda x: x.view(x.shape[0], -1) * x.shape[0] / x.shape[1] + x.size(0) ** 0.5, [(-1, 4, 2)]),
        (lambda x: x.t() @ x, [(-1, -1)]),
        (lambda x: torch.cat([x, x * 2]).chunk(2)[1], [(-1, 4)]),
        (lambda x: x.std() + torch.arange(x.shape[0]).sum() + torch.ones(x.shape[0], 2).sum(), [(-1, 4)]),
        (lambda x, y: F.mse_loss(x, y), [(-1, 4), (-1, 4)]),
        (lambda x: x[:, None].expand(-1, 3, -1).reshape(-1, 4)[1:], [(-1, 4)]),
    ],
)
def test_free_sizes(form: Any, shapes: list[Any]) -> None:
    plan = Plan("sizes", form).build(args_shape=shapes)
    for size in (1, 2, 3, 8):
        args = [torch.randn([size if n < 0 else n for n in shape]) for shape in shapes]
        assert torch.equal(plan(*args).nan_to_num(), form(*args).nan_to_num()), size


MODELS = {
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 3)
        ),
        (-1, 1, 10, 10),
    ),
    "attention": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), (-1, 5, 8)),
    "norms": (lambda: nn.Sequential(nn.LayerNorm(6), nn.GELU(), nn.GroupNorm(2, 6), nn.Softmax(1)), (-1, 6)),
    "recurrent": (lambda: nn.GRU(4, 3, batch_first=True), (-1, 3, 4)),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_with_a_free_batch(name: str, bob: Worker) -> None:
    make, shape = MODELS[name]
    model = make()
    plan = Plan(name, lambda x: model(x)).build(args_shape=[shape])
    pointer = plan.send(bob)
    for batch in (1, 2, 7):
        x = torch.randn(batch, *shape[1:])
        expected, here, there = model(x), plan(x), pointer(x.send(bob))
        if isinstance(expected, tuple):
            expected, here, there = expected[0], here[0], there[0]
        assert torch.allclose(here, expected, atol=1e-6)
        assert torch.equal(there.get(), here)


def test_elementwise_plans_take_any_shape_and_dtype(bob: Worker) -> None:
    """A tutorial builds for shape (1,) and runs on two integers."""

    @func2plan(args_shape=[(1,)], state={"bias": torch.tensor([1])})
    def plan_abs(x: Tensor, state: State) -> Tensor:
        return x.abs() + state.read("bias")

    x = torch.tensor([-1, 0])
    assert plan_abs(x).tolist() == plan_abs.send(bob)(x.send(bob)).get().tolist() == [2, 1]
    with pytest.raises(PlanShapeError, match="is a tensor"):
        plan_abs(1.0)


class OldNet(Plan):
    """As the first versions of the tutorial write it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, 3)
        self.add_to_state("fc1")
        self.state += ["fc1"]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc1(x)


def test_state_named_by_hand() -> None:
    assert OldNet().build(torch.ones(2)).state.names == ["fc1.weight", "fc1.bias"]
    with pytest.raises(PlanError, match="as attributes"):
        OldNet().state = 1


def test_one_size_for_several_inputs() -> None:
    @func2plan(args_shape=[(-1, 2), (-1, 2)])
    def add(x: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(x, y)

    with pytest.raises(PlanShapeError, match="y has shape .3, 2., and x has 2 where this has 3"):
        add(torch.ones(2, 2), torch.ones(3, 2))


def test_flexible_makes_the_first_dimension_free() -> None:
    net = Plan("mean", lambda x, y: (x.mean(0), y.sum())).build(torch.ones(3, 2), torch.tensor(1.0), flexible=True)
    assert net(torch.ones(8, 2), torch.tensor(2.0))[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("x", [torch.ones(3), torch.ones(2, 2), torch.ones(2, dtype=torch.float64), 1.0, "x", None])
def test_bad_arguments_are_value_errors(x: Any) -> None:
    net = Net().build(torch.ones(2))
    with pytest.raises(ValueError, match="Net"):
        net(x)
    with pytest.raises(PlanError):
        net(x)


def test_wrong_numbers_of_arguments() -> None:
    net = Net().build(torch.ones(2))
    with pytest.raises(PlanShapeError, match="takes 1 here, and was given 2"):
        net(torch.ones(2), torch.ones(2))
    with pytest.raises(PlanShapeError, match="takes 0 here, and was given 1"):
        net(torch.ones(2), y=torch.ones(2))


def test_nested_arguments_and_results() -> None:
    def function(pair: list[Tensor], *, options: dict[str, Any]) -> dict[str, Any]:
        x, y = pair
        return {"sum": (x + y, [options["z"] * options["factor"]]), "rows": x.shape[0], "none": None}

    plan = Plan("nest", function).build([torch.ones(2), torch.ones(2)], options={"z": torch.ones(1), "factor": 3})
    result = plan([torch.ones(2), torch.ones(2)], options={"z": torch.ones(1), "factor": 3})
    assert result["sum"][0].tolist() == [2.0, 2.0] and result["sum"][1][0].tolist() == [3.0]
    assert result["rows"] == 2 and result["none"] is None
    with pytest.raises(PlanShapeError, match="built with 3 here"):
        plan([torch.ones(2), torch.ones(2)], options={"z": torch.ones(1), "factor": 4})
    with pytest.raises(PlanShapeError, match="takes 'z', which is missing"):
        plan([torch.ones(2), torch.ones(2)], options={"y": torch.ones(1), "factor": 3})


def test_choices_by_size_are_refused_and_choices_of_kernels_are_not() -> None:
    with pytest.raises(PlanError, match="another way for another size"):
        Plan("choice", lambda x: x + 1 if x.shape[0] > 20 else x).build(args_shape=[(-1, 2)])
    with pytest.raises(PlanError, match="another way for another size"):
        Plan("largest", lambda x: max(x.shape[0], 4) * x).build(args_shape=[(-1, 2)])
    with pytest.raises(PlanError, match="works for one size only"):
        Plan("six", lambda x: x + torch.ones(6)).build(args_shape=[(-1,)])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + 1 if x.sum() > 0 else x,
        lambda x: [x for _ in range(int(x.sum()))],
        lambda x: torch.ones(int(x.sum())),
        lambda x: x.sum().item(),
        lambda x: object(),
        lambda x: x.numpy(),
        lambda x: x @ torch.ones(7),
    ],
)
def test_what_cannot_be_recorded_says_so(function: Any) -> None:
    with pytest.raises((PlanError, OperationNotAllowedError, st.exceptions.MalformedRequestError)) as caught:
        Plan("bad", function).build(torch.ones(2))
    assert "bad" in str(caught.value) or "aten" in str(caught.value)


def test_operations_no_worker_runs_are_refused() -> None:
    with pytest.raises(OperationNotAllowedError, match=r"bad cannot be a plan.*aten\.resize_"):
        Plan("bad", lambda x: x.clone().resize_(4)).build(torch.ones(2))


def test_views_of_one_memory_are_refused_if_written() -> None:
    base = torch.zeros(4)
    views = base[:2], base[2:]

    def write(x: Tensor) -> Tensor:
        views[0].add_(x)
        return views[1] + x

    with pytest.raises(PlanError, match="views of one memory"):
        Plan("write", write).build(torch.ones(2))


def test_nested_plans() -> None:
    inner = Plan("inner", lambda x: x * 2)
    built = Plan("built", lambda x: x + 3).build(args_shape=[(-1, 2)])
    stateful = Plan("stateful", lambda x, state: x + state.read()[0], state=[torch.tensor([1.0, 2.0])]).build(
        torch.ones(2, 2)
    )
    outer = Plan("outer", lambda x: stateful(built(inner(x)))).build(torch.zeros(2, 2))
    x = torch.randn(2, 2)
    assert torch.equal(outer(x), x * 2 + 3 + torch.tensor([1.0, 2.0]))
    inner.build(torch.ones(2, 2))
    after = Plan("after", lambda x: inner(x) + 1).build(args_shape=[(2, 2)])
    assert torch.equal(after(x), x * 2 + 1)
    assert "mul" in after.code, "the inner graph is part of the outer one"


class Nested(Plan):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Net()
        self.scale = torch.tensor([3.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.scale


def test_plans_inside_plans_share_their_state() -> None:
    net = Nested().build(torch.ones(2))
    assert net.state.names == ["inner.fc1.weight", "inner.fc1.bias", "inner.fc2.weight", "inner.fc2.bias", "scale"]


def test_a_trained_network_can_be_built_and_sent(bob: Worker) -> None:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.ones(2)).square().sum().backward()
        optimizer.step()
    pointer = net.build(torch.ones(2)).send(bob)
    assert torch.equal(pointer(torch.ones(2).send(bob)).get(), net(torch.ones(2)))


def test_random_operations_are_drawn_at_every_call() -> None:
    plan = Plan("noise", lambda x: F.dropout(x, 0.5)).build(torch.ones(100))
    assert not torch.equal(plan(torch.ones(100)), plan(torch.ones(100)))


def test_shapes_must_be_shapes() -> None:
    for shape in [(-2,), ("a",), (1.5,)]:
        with pytest.raises(ValueError, match="a shape is a tuple of sizes"):
            func2plan(args_shape=[shape])(lambda x: x)
    with pytest.raises(PlanError, match="takes 1 arguments, and 2 shapes"):
        func2plan(args_shape=[(1,), (1,)])(lambda x: x)
    with pytest.raises(PlanError, match="no dtype"):
        func2plan(args_shape=[(1,)], dtypes=["float31"])(lambda x: x)


def test_things_that_are_no_functions_shapes_or_workers() -> None:
    with pytest.raises(PlanError, match="made of a function"):
        func2plan()(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="list with one shape"):
        func2plan(args_shape=5)(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="holds a object"):
        Net().build(object())
    with pytest.raises(PlanError, match="neither a graph nor a function"):
        Plan()(torch.ones(1))
    with pytest.raises(st.exceptions.MembersError, match="3 is no worker"):
        Net().build(torch.ones(2)).send(3)
    with pytest.raises(PlanError, match="made of tensors"):
        func2plan(state=(1,))(lambda x, state: x)


def test_dtypes() -> None:
    plan = func2plan(args_shape=[(-1,), (4, 2)], dtypes=[torch.int64, "float64"])(lambda i, table: table[i])
    table = torch.arange(8, dtype=torch.float64).view(4, 2)
    assert plan(torch.tensor([3, 0, 0]), table).tolist() == [[6.0, 7.0], [0.0, 1.0], [0.0, 1.0]]
