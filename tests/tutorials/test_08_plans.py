"""Plans: functions that are sent once and run by one message."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import sharetorch as sy

hook = sy.TorchHook(torch)


@pytest.fixture(autouse=True)
def the_local_worker_holds_objects() -> Iterator[None]:
    """The tutorial's second line, taken back afterwards."""
    hook.local_worker.is_client_worker = False
    yield
    hook.local_worker.is_client_worker = True


def devices() -> tuple[Any, Any]:
    """Two workers, each with its own data."""
    x11: Any = torch.tensor([-1.0, 2.0]).tag("input_data")
    x12: Any = torch.tensor([1.0, -2.0]).tag("input_data2")
    x21: Any = torch.tensor([-3.0, 4.0]).tag("input_data")
    x22: Any = torch.tensor([3.0, -4.0]).tag("input_data2")
    return (
        sy.VirtualWorker(hook, id="device_1", data=(x11, x12)),
        sy.VirtualWorker(hook, id="device_2", data=(x21, x22)),
    )


class Net(sy.Plan):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(2, 3)
        self.fc2 = nn.Linear(3, 1)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.fc1(x))
        x = self.fc2(x)
        return F.log_softmax(x, dim=0)


def test_a_function_becomes_a_plan() -> None:
    @sy.func2plan(args_shape=[(-1, 1)])
    def plan_double_abs(x: Any) -> Any:
        x = x + x
        return torch.abs(x)

    assert isinstance(plan_double_abs, sy.Plan) and plan_double_abs.is_built
    text = repr(plan_double_abs)
    assert text.startswith(f"<Plan plan_double_abs id:{plan_double_abs.id} owner:me built>")
    assert "def plan_double_abs(" in text and "abs" in text and "return" in text
    assert plan_double_abs.code in text and len(plan_double_abs.actions) == 2
    assert plan_double_abs(torch.tensor([[1.0], [-2.0]])).tolist() == [[2.0], [4.0]]


def test_an_unbuilt_plan_is_not_sent() -> None:
    device_1, _ = devices()

    @sy.func2plan()
    def plan_double_abs(x: Any) -> Any:
        return torch.abs(x + x)

    assert not plan_double_abs.is_built
    with pytest.raises(RuntimeError) as error:
        plan_double_abs.send(device_1)
    assert "needs to be built" in str(error.value)
    assert plan_double_abs(torch.tensor([-2.0])).tolist() == [4.0], "here it runs all the same"
    plan_double_abs.build(torch.tensor([1.0, -2.0]))
    assert plan_double_abs.is_built


def test_one_plan_at_several_workers() -> None:
    device_1, device_2 = devices()

    @sy.func2plan(args_shape=[(-1, 1)])
    def plan_double_abs(x: Any) -> Any:
        x = x + x
        return torch.abs(x)

    pointer_plan = plan_double_abs.send(device_1)
    assert isinstance(pointer_plan, sy.PointerPlan) and pointer_plan.location is device_1
    pointer_to_data = device_1.search("input_data")[0]
    for _ in range(3):
        pointer_to_result = pointer_plan(pointer_to_data)
        assert isinstance(pointer_to_result, sy.PointerTensor) and pointer_to_result.location is device_1
        assert pointer_to_result.get().tolist() == [2.0, 4.0]
    assert pointer_plan(device_1.search("input_data2")[0]).get().tolist() == [2.0, 4.0]

    there = plan_double_abs.send(device_2)
    assert there(device_2.search("input_data")[0]).get().tolist() == [6.0, 8.0]
    assert plan_double_abs.send(device_1) is pointer_plan, "it is there already"


def test_a_call_is_one_message() -> None:
    device_1, _ = devices()

    @sy.func2plan(args_shape=[(2,)])
    def many_steps(x: Any) -> Any:
        for _ in range(10):
            x = torch.tanh(x * 2 + 1)
        return x

    pointer_plan, data = many_steps.send(device_1), device_1.search("input_data")[0]
    before = len(list(device_1.audit))
    result = pointer_plan(data)
    assert len(list(device_1.audit)) == before + 1
    assert torch.equal(result.get(), many_steps(torch.tensor([-1.0, 2.0])))


def test_a_network_is_a_plan() -> None:
    device_1, device_2 = devices()
    net: Any = Net()
    expected = net(torch.tensor([-1.0, 2.0]))
    net.build(torch.tensor([1.0, 2.0]))
    text = repr(net)
    assert text.startswith(f"<Net Net id:{net.id} owner:me built>") and "def " in text
    pointer_to_net = net.send(device_1)
    pointer_to_result = pointer_to_net(device_1.search("input_data")[0])
    assert torch.equal(pointer_to_result.get(), expected)
    there = net.send(device_2)
    assert there(device_2.search("input_data")[0]).get().shape == (1,)
    assert len(list(net.parameters())) == 4 and type(net.fc1.weight.data) is torch.Tensor, "the plan is still here"


def test_state_goes_with_the_plan() -> None:
    device_1, _ = devices()

    @sy.func2plan(args_shape=[(1,)], state=(torch.tensor([1.0]),))
    def plan_add(x: Any, state: Any) -> Any:
        (bias,) = state.read()
        return x + bias

    assert plan_add(torch.tensor([1.0])).tolist() == [2.0]
    there = plan_add.send(device_1)
    x: Any = torch.tensor([4.0]).send(device_1)
    assert there(x).get().tolist() == [5.0]


def test_state_of_integers() -> None:
    device_1, _ = devices()

    @sy.func2plan(args_shape=[(1,)], state=(torch.tensor([1]),))
    def plan_add(x: Any, state: Any) -> Any:
        (bias,) = state.read()
        return x + bias

    x: Any = torch.tensor([4.0]).send(device_1)
    for _ in range(2):
        assert plan_add.send(device_1)(x).get().tolist() == [5.0]


def test_two_values_of_state() -> None:
    device_1, _ = devices()

    @sy.func2plan(args_shape=[(2,)], state=(torch.tensor([2.0, 3.0]), torch.tensor([10.0])))
    def scale(x: Any, state: Any) -> Any:
        factor, offset = state.read()
        return x * factor + offset

    there = scale.send(device_1)
    assert there(device_1.search("input_data")[0]).get().tolist() == [8.0, 16.0]


def test_a_plan_inside_a_plan() -> None:
    device_1, _ = devices()

    @sy.func2plan(args_shape=[(2,)])
    def double(x: Any) -> Any:
        return x * 2

    @sy.func2plan(args_shape=[(2,)])
    def outer(x: Any) -> Any:
        return double(x) + 1

    there = outer.send(device_1)
    assert there(device_1.search("input_data")[0]).get().tolist() == [-1.0, 5.0]


def test_a_worker_fetches_a_plan_from_another() -> None:
    device_1, device_2 = devices()

    @sy.func2plan(args_shape=[(2,)], state=(torch.tensor([1.0]),))
    def plan_add(x: Any, state: Any) -> Any:
        (bias,) = state.read()
        return x * bias

    there = plan_add.send(device_1)
    fetched = device_2.fetch_plan(there.id, device_1)
    assert fetched.forward is None and fetched.is_built
    assert fetched.code == plan_add.code and len(fetched.actions) == 1
    assert sy.local_worker.fetch_plan(there.id, device_1, copy=True)(torch.ones(2)).tolist() == [1.0, 1.0]
    assert fetched(torch.tensor([3.0, 4.0])).tolist() == [3.0, 4.0]
    assert there(device_1.search("input_data")[0]).get().tolist() == [-1.0, 2.0], "it is still there"


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (3,), ()])
def test_a_bad_shape_is_a_value_error(shape: tuple[int, ...]) -> None:
    device_1, _ = devices()

    @sy.func2plan(args_shape=[(-1, 2)])
    def project(x: Any) -> Any:
        return x @ torch.tensor([[1.0], [2.0]])

    there = project.send(device_1)
    with pytest.raises(ValueError, match="project"):
        project(torch.ones(shape))
    x: Any = torch.ones(shape).send(device_1)
    with pytest.raises(ValueError, match="project"):
        there(x)
    rows: Any = torch.ones(4, 2).send(device_1)
    assert there(rows).get().tolist() == [[3.0]] * 4


def test_wrong_forms_of_args_shape_are_value_errors() -> None:
    for shapes in ([("a", 1)], [(-2, 1)], "no", 7):
        with pytest.raises(ValueError, match="args_shape|shape"):
            sy.Plan("f", lambda x: x + x, args_shape=shapes)


def test_a_trained_network_is_built_and_sent() -> None:
    device_1, _ = devices()
    torch.manual_seed(4)
    net: Any = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        net.fc2(F.relu(net.fc1(torch.tensor([1.0, 2.0])))).sum().backward()
        optimizer.step()
    net.build(torch.zeros(2))
    there = net.send(device_1)
    assert torch.equal(there(device_1.search("input_data")[0]).get(), net(torch.tensor([-1.0, 2.0])))
