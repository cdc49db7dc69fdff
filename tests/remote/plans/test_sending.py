"""Plans at workers: pointers, sending again, searching, garbage, wrong places."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor

import sharetorch as st
from sharetorch.exceptions import (
    MembersError,
    ObjectNotFoundError,
    OperationNotAllowedError,
    PlanError,
    TensorsNotCollocatedException,
)
from sharetorch.remote.messages import Call
from sharetorch.remote.plans import Plan, PlanShapeError, PointerPlan, func2plan
from sharetorch.remote.wire import Ref

Worker = st.VirtualWorker


@pytest.fixture
def plan() -> Plan:
    @func2plan(args_shape=[(-1, 2)], state=(torch.tensor([1.0, 2.0]),))
    def shift(x: Tensor, state: Any) -> Tensor:
        return (x * 2 + state.read()[0]).view(x.shape[0], 2)

    return shift


def test_a_call_is_one_message(plan: Plan, bob: Worker) -> None:
    pointer = plan.send(bob)
    x = torch.ones(3, 2).send(bob)
    link = x.handle.link
    before = link.sent
    y = pointer(x)
    assert link.sent == before + 1
    assert isinstance(pointer, PointerPlan) and pointer.location is bob and y.location is bob
    assert y.get().tolist() == [[3.0, 4.0]] * 3
    assert repr(pointer) == f"[PointerPlan | me:{pointer.id} -> bob:{pointer.id_at_location}]"


def test_sending_again_gives_the_same_pointer(plan: Plan, alice: Worker, bob: Worker) -> None:
    pointer = plan.send(bob)
    assert plan.send(bob) is pointer and plan.send("bob") is pointer
    other = plan.send(alice)
    assert other is not pointer and plan.send(alice) is other
    assert len(bob) == len(alice) == 1


def test_changed_state_is_sent_anew(plan: Plan, bob: Worker) -> None:
    first = plan.send(bob)
    plan.state.read()[0].add_(1)
    second = plan.send(bob)
    assert second is not first
    x = torch.zeros(1, 2)
    assert first(x.send(bob)).get().tolist() == [[1.0, 2.0]]
    assert second(x.send(bob)).get().tolist() == [[2.0, 3.0]]


def test_a_fetched_plan_is_sent_anew(plan: Plan, bob: Worker) -> None:
    pointer = plan.send(bob)
    pointer.get()
    with pytest.raises(PlanError, match="send it again"):
        pointer(torch.ones(1, 2).send(bob))
    assert plan.send(bob) is not pointer


def test_the_plan_goes_with_its_pointer(plan: Plan, bob: Worker) -> None:
    pointer = plan.send(bob)
    assert len(bob) == 1
    del pointer
    gc.collect()
    assert len(bob) == 0
    assert plan.send(bob)(torch.ones(1, 2).send(bob)).get().tolist() == [[3.0, 4.0]]


def test_several_workers(plan: Plan, alice: Worker, bob: Worker) -> None:
    pointers = plan.send(alice, bob)
    assert pointers.location == [alice, bob]
    results = pointers(torch.ones(1, 2).send(alice, bob))
    assert [result.tolist() for result in results.get()] == [[[3.0, 4.0]]] * 2
    with pytest.raises(MembersError, match=r"x\.send\(alice, bob"):
        pointers(torch.ones(1, 2).send(bob))
    assert [fetched.forward for fetched in pointers.get()] == [None, None]


def test_data_elsewhere(plan: Plan, alice: Worker, bob: Worker) -> None:
    pointer = plan.send(bob)
    for x in (torch.ones(1, 2), torch.ones(1, 2).send(alice), torch.ones(1, 2).send(alice, bob)):
        with pytest.raises(TensorsNotCollocatedException):
            pointer(x)


def test_wrong_shapes_are_told_at_once_and_by_the_worker(plan: Plan, bob: Worker) -> None:
    pointer = plan.tag("found").send(bob)
    (found,) = bob.search("found")
    for target in (pointer, found):
        for x in (torch.ones(2), torch.ones(1, 3), torch.ones(1, 2, dtype=torch.int64)):
            with pytest.raises(ValueError, match="x is a float32 tensor of shape") as caught:
                target(x.send(bob))
            assert isinstance(caught.value, PlanShapeError)
    with pytest.raises(PlanShapeError, match="takes 1 here, and was given 0"):
        found()


def test_a_plan_is_found_described_and_fetched(plan: Plan, bob: Worker) -> None:
    pointer = plan.tag("#plan", "#shift").describe("adds").send(bob)
    (found,) = bob.search(["#plan"])
    assert isinstance(found, PointerPlan) and found.tags == {"#plan", "#shift"} and found.description == "adds"
    assert found(torch.ones(1, 2).send(bob)).get().tolist() == [[3.0, 4.0]]
    found.tag("#more")
    assert [other.id for other in bob.search("#more")] == [pointer.id]
    del found
    gc.collect()
    assert len(bob) == 1, "what a search finds stays"
    (found,) = bob.search("#more")
    fetched = found.get()
    assert isinstance(fetched, Plan) and fetched.forward is None and fetched.is_built
    assert fetched(torch.ones(1, 2)).tolist() == [[3.0, 4.0]]
    assert fetched.code == plan.code
    with pytest.raises(PlanError, match="no forward to build from"):
        fetched.build(torch.ones(1, 2))
    with pytest.raises(ObjectNotFoundError):
        pointer(torch.ones(1, 2).send(bob))


def test_copies(plan: Plan, bob: Worker) -> None:
    pointer = plan.send(bob)
    twin = pointer.copy()
    assert twin.id != pointer.id and len(bob) == 2
    assert twin(torch.ones(1, 2).send(bob)).get().tolist() == [[3.0, 4.0]]
    local = plan.copy()
    local.state.read()[0].add_(5)
    assert plan(torch.ones(1, 2)).tolist() == [[3.0, 4.0]]


def test_moving(plan: Plan, alice: Worker, bob: Worker) -> None:
    pointer = plan.send(bob)
    assert pointer.move(bob) is pointer
    pointer.move(alice)
    assert len(bob) == 0 and pointer.location is alice
    assert pointer(torch.ones(1, 2).send(alice)).get().tolist() == [[3.0, 4.0]]
    back = pointer.move(pointer.owner)
    assert isinstance(back, Plan) and len(alice) == 0


def test_nested_arguments_and_results_at_a_worker(bob: Worker) -> None:
    def function(pair: tuple[Tensor, Tensor], *, scale: dict[str, Any]) -> dict[str, Any]:
        total = pair[0] + pair[1] * scale["by"]
        return {"total": total, "again": [total, total.t()], "rows": total.shape[0], "input": pair[0]}

    plan = Plan("nest", function).build((torch.ones(2, 3), torch.ones(2, 3)), scale={"by": 2.0}, flexible=True)
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    xs, ys = x.send(bob), y.send(bob)
    result = plan.send(bob)((xs, ys), scale={"by": 2.0})
    assert result["rows"] == 4 and result["input"] is xs
    assert result["again"][0] is not result["total"] or result["again"][0].id == result["total"].id
    assert torch.equal(result["again"][1].get(), (x + y * 2).t())
    assert torch.equal(result["total"].fetched(), x + y * 2)


def test_inputs_written_in_place(bob: Worker) -> None:
    plan = Plan("write", lambda x: x.add_(1)).build(torch.ones(2))
    x = torch.ones(2).send(bob)
    assert plan.send(bob)(x) is x
    assert x.get().tolist() == [2.0, 2.0]


def test_a_plan_follows_its_data(plan: Plan, alice: Worker, bob: Worker) -> None:
    """The tutorials call the plan itself with pointers."""
    plan.send(bob)
    for worker in (bob, alice, bob):
        result = plan(torch.ones(1, 2).send(worker))
        assert result.location is worker and result.get().tolist() == [[3.0, 4.0]]
    assert len(alice) == len(bob) == 1
    with pytest.raises(TensorsNotCollocatedException):
        Plan("add", lambda x, y: x + y).build(torch.ones(2), torch.ones(2))(torch.ones(2).send(bob), torch.ones(2))


def test_only_plans_and_protocols_can_be_called(bob: Worker) -> None:
    x = torch.ones(1).send(bob)
    with pytest.raises(OperationNotAllowedError, match="is a tensor; plans and protocols can be called"):
        x.handle.link.request(Call(x.id, [Ref(x.id)], {}))


def test_no_worker(plan: Plan) -> None:
    with pytest.raises(MembersError, match="needs a worker"):
        plan.send()


def test_torchscript_and_jit_trace(plan: Plan) -> None:
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        assert "torch.add" in plan.torchscript.code
        traced = torch.jit.trace(plan, torch.ones(3, 2))
    assert torch.equal(traced(torch.ones(3, 2)), plan(torch.ones(3, 2)))
