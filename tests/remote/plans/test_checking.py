"""Graphs of strangers: every node is checked, and a worker survives whatever comes."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as some
import msgspec
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import HealthCheck, given, settings
from torch import nn

import sharetorch as st
from sharetorch.exceptions import (
    LimitExceededError,
    MalformedRequestError,
    OperationNotAllowedError,
    PlanError,
    UnsupportedDtypeError,
)
from sharetorch.remote import wire
from sharetorch.remote.messages import Call, Store
from sharetorch.remote.plans import Plan, serving
from sharetorch.remote.plans.checking import check
from sharetorch.remote.plans.graph import VERSION, Graph, Node, Spec
from sharetorch.remote.plans.recording import Recording
from sharetorch.remote.plans.serving import PlanFields
from sharetorch.remote.wire import Ref

REFUSALS = (MalformedRequestError, OperationNotAllowedError, PlanError, LimitExceededError, UnsupportedDtypeError)
ONE = {"tuple": [{"tuple": [Ref(0)]}, {"dict": []}]}


X = Ref(0)
SCALAR = Node("scalar", [X])


def _graph(*nodes: Node, output: Any = X, **changes: Any) -> Graph:
    graph = Graph(VERSION, "f", [Spec("x", "float32", [2])], ONE, [], list(nodes), output)
    return msgspec.structs.replace(graph, **changes)


def test_a_good_graph_passes() -> None:
    program = check(_graph(Node("aten.add.Tensor", [Ref(0), 1], {"alpha": 2}), output=Ref(1)))
    assert len(program.steps) == 1 and not program.writes and not program.tells


@pytest.mark.parametrize(
    ("graph", "error", "text"),
    [
        (_graph(version=2), PlanError, "version 2"),
        (_graph(Node("aten.save.default", [])), OperationNotAllowedError, "not on the list"),
        (_graph(Node("aten.set_.source_Tensor", [Ref(0), Ref(0)])), OperationNotAllowedError, "part of a plan"),
        (_graph(Node("prims.add.default", [Ref(0), Ref(0)])), OperationNotAllowedError, "no operation of plans"),
        (_graph(Node("os.system", ["ls"])), OperationNotAllowedError, "no operation of plans"),
        (_graph(Node("builtins.eval", ["1"])), OperationNotAllowedError, "no operation of plans"),
        (_graph(Node("aten.add.Nothing", [Ref(0), 1])), OperationNotAllowedError, "no form"),
        (_graph(Node("aten.relu.default", [Ref(1)])), MalformedRequestError, "only 1 are made before"),
        (_graph(Node("aten.relu.default", [Ref(2)])), MalformedRequestError, "only 1 are made before"),
        (_graph(Node("aten.relu.default", [])), MalformedRequestError, "self is missing"),
        (_graph(Node("aten.relu.default", [Ref(0), Ref(0)])), MalformedRequestError, "1 positional"),
        (_graph(Node("aten.relu.default", ["x"])), MalformedRequestError, "argument self is a Tensor"),
        (_graph(Node("aten.relu.default", [Ref(0)], {"more": 1})), MalformedRequestError, "no argument 'more'"),
        (_graph(Node("aten.relu.default", [], {"self": Ref(0), "self2": 0})), MalformedRequestError, "self2"),
        (_graph(Node("aten.view.default", [Ref(0), Ref(0)])), MalformedRequestError, "argument size"),
        (_graph(Node("aten.view.default", [Ref(0), [Ref(0)]])), MalformedRequestError, "argument size"),
        (_graph(Node("aten.sum.dim_IntList", [Ref(0), [True]])), MalformedRequestError, "argument dim"),
        (_graph(Node("aten.cat.default", [[[Ref(0)]]])), MalformedRequestError, "argument tensors"),
        (_graph(Node("item", [Ref(0), 0])), MalformedRequestError, "item"),
        (_graph(Node("item", [Ref(0), -1])), MalformedRequestError, "item"),
        (_graph(Node("size.secret", [Ref(0)])), MalformedRequestError, "size"),
        (_graph(Node("number.exec", [1])), MalformedRequestError, "no operation on numbers"),
        (_graph(Node("number.add", [1])), MalformedRequestError, "takes 2"),
        (_graph(Node("number.add", [Ref(0), 1])), MalformedRequestError, "works on numbers"),
        (_graph(Node("scalar", [1])), MalformedRequestError, "takes a tensor"),
        (_graph(Node("scalar", [Ref(0)]), output=Ref(1)), MalformedRequestError, "a hidden number"),
        (_graph(SCALAR, Node("aten.zeros.default", [[Ref(1)]])), MalformedRequestError, "argument size"),
        (_graph(SCALAR, Node("aten.arange.default", [Ref(1)])), MalformedRequestError, "argument end"),
        (_graph(output=Ref(9)), MalformedRequestError, "value 9 is missing"),
        (_graph(output={"set": []}), MalformedRequestError, "no kind of nest"),
        (_graph(output=[Ref(0)]), MalformedRequestError, "no form"),
        (_graph(inputs=[Spec("x", "float31", [2])]), MalformedRequestError, "no dtype"),
        (_graph(inputs=[]), MalformedRequestError, "name every input once"),
        (_graph(arguments=Ref(0)), MalformedRequestError, "A tuple is needed"),
        (_graph(state=[Spec("s", "float32", [-1])], output=Ref(0)), MalformedRequestError, "fixed sizes"),
        (_graph(inputs=[Spec("x", "float32", [1] * 65)]), MalformedRequestError, "65 dimensions"),
    ],
)  # fmt: skip
def test_bad_graphs_are_refused(graph: Graph, error: Any, text: str, bob: st.VirtualWorker) -> None:
    with pytest.raises(error, match=text):
        check(graph)
    with pytest.raises(error, match=text):
        serving._unpack(wire.encode(PlanFields(graph, [], [], None)), bob)


def test_state_must_be_as_said(bob: st.VirtualWorker) -> None:
    graph = _graph(state=[Spec("s", "float32", [2])])
    for state in ([], [torch.ones(3)], [torch.ones(2, dtype=torch.float64)], [1], [torch.ones(2)] * 2):
        with pytest.raises(MalformedRequestError, match="state"):
            serving._unpack(wire.encode(PlanFields(graph, state, [], None)), bob)


def test_deep_forms_and_long_graphs() -> None:
    form: Any = Ref(0)
    for _ in range(100):
        form = {"list": [form]}
    with pytest.raises(MalformedRequestError, match="nested more than"):
        check(_graph(output=form))
    with pytest.raises(LimitExceededError, match="200001 nodes"):
        check(_graph(*[Node("aten.relu.default", [Ref(0)])] * 200_001))


def test_numbers_stay_small(bob: st.VirtualWorker) -> None:
    """Powers of powers would otherwise keep a worker busy for ever; here they wrap around, as in tensors."""
    nodes = [Node("size.shape", [Ref(0), 0])]
    nodes += [Node("number.pow", [Ref(1 + place), 63]) for place in range(50)]
    nodes += [Node("number.mul", [Ref(51), Ref(51)]), Node("aten.add.Tensor", [Ref(0), Ref(52)])]
    plan = Plan.of(Recording(check(_graph(*nodes, output=Ref(53))), []))
    assert plan.send(bob)(torch.ones(2).send(bob)).shape == (2,)


def _sample() -> bytes:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters())

    def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss

    plan = Plan("step", step).build(torch.ones(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), flexible=True)
    return serving._pack(plan)


SAMPLE: list[Any] = []
VALUES = some.one_of(
    some.none(), some.booleans(), some.integers(-(2**40), 2**40), some.floats(), some.text(max_size=8),
    some.builds(Ref, some.integers(0, 400)), some.sampled_from([torch.float32, torch.strided, torch.device("cpu")]),
    some.lists(some.integers(-3, 9), max_size=3),
    some.sampled_from(["aten.relu.default", "aten.view.default", "item", "scalar", "number.pow", "aten.add_.Tensor"]),
)  # fmt: skip


def _change(nest: Any, data: Any) -> Any:
    """A nest of lists and dictionaries with one part replaced, left out or doubled."""
    if isinstance(nest, dict) and nest:
        key = data.draw(some.sampled_from(sorted(nest)))
        return {**nest, key: _change(nest[key], data)}
    if isinstance(nest, list) and nest and data.draw(some.integers(0, 9)):
        place = data.draw(some.integers(0, len(nest) - 1))
        kind = data.draw(some.sampled_from(["inside", "inside", "inside", "gone", "twice"]))
        middle = {"inside": lambda: [_change(nest[place], data)], "gone": list, "twice": lambda: [nest[place]] * 2}[
            kind
        ]()
        return [*nest[:place], *middle, *nest[place + 1 :]]
    return data.draw(VALUES)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=some.data())
def test_changed_plans_are_refused_or_run_harmlessly(data: Any, bob: st.VirtualWorker) -> None:
    if not SAMPLE:
        SAMPLE.append(wire.Decoder(list[Any], bob).decode(_sample()))
    encoded = wire.encode(_change(SAMPLE[0], data))
    held = bob.audit.total
    try:
        plan = serving._unpack(encoded, bob)
        link = st.local_worker.link("bob")
        (meta,) = link.request(Store([plan])).results
        x = torch.ones(2, 1, 4, 4).send(bob)
        y = torch.zeros(2, dtype=torch.int64).send(bob)
        link.request(Call(meta.number, [Ref(x.id), Ref(y.id)], {}))
    except REFUSALS:
        pass
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError):
        assert bob.audit.total > held, "only torch, at the worker, raises errors of its own"
    assert torch.ones(1).send(bob).get().item() == 1.0


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=some.integers(0, 10**6), byte=some.integers(0, 255), cut=some.integers(0, 40))
def test_changed_bytes_are_refused(place: int, byte: int, cut: int, bob: st.VirtualWorker) -> None:
    if len(SAMPLE) < 2:
        SAMPLE[:] = [wire.Decoder(list[Any], bob).decode(_sample()), _sample()]
    data = bytearray(SAMPLE[1])
    data[place % len(data)] = byte
    try:
        serving._unpack(bytes(data[: len(data) - (cut if cut > 20 else 0)]), bob)
    except REFUSALS:
        pass
