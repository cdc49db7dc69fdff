"""What a plan makes is as secret as the strictest of its inputs and its state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sharetorch as st
from sharetorch.exceptions import GetNotPermittedError, LimitExceededError, ObjectNotFoundError, RemoteOperationError
from sharetorch.remote.node import Limits
from sharetorch.remote.plans import Plan

Worker = st.VirtualWorker


def _secret(worker: Worker, values: list[float]) -> Any:
    """A pointer to a tensor that only its owner may have."""
    return torch.tensor(values).private_tensor(allowed_users=["owner"]).send(worker)  # type: ignore[attr-defined]


def test_results_are_as_secret_as_inputs(bob: Worker) -> None:
    plan = Plan("add", lambda x, y: (x + y, y * 2)).build(torch.ones(2), torch.ones(2)).send(bob)
    results = plan(_secret(bob, [1.0, 2.0]), torch.ones(2).send(bob))
    for result in results:
        with pytest.raises(GetNotPermittedError):
            result.get()
    assert results[0].get(user="owner").tolist() == [2.0, 3.0]
    assert plan(torch.ones(2).send(bob), torch.ones(2).send(bob))[0].get().tolist() == [2.0, 2.0]


def test_state_that_learned_a_secret_is_secret(bob: Worker) -> None:
    total = torch.zeros(2)

    def add(x: Tensor) -> Tensor:
        total.add_(x)
        return total

    plan = Plan("add", add).build(torch.ones(2)).send(bob)
    before = plan(torch.ones(2).send(bob))
    plan(_secret(bob, [1.0, 2.0]))
    for pointer in (plan, before, plan(torch.ones(2).send(bob))):
        with pytest.raises(GetNotPermittedError):
            pointer.get()
    assert plan.get(user="owner").named_state()["total"].tolist() == [3.0, 4.0]


def test_what_is_written_into_is_secret_even_if_the_plan_fails_later(bob: Worker) -> None:
    def write(x: Tensor, y: Tensor, i: Tensor) -> Tensor:
        y.copy_(x)
        return x[i]

    plan = Plan("write", write).build(torch.ones(2), torch.ones(2), torch.tensor([0])).send(bob)
    x, y = _secret(bob, [1.0, 2.0]), torch.zeros(2).send(bob)
    with pytest.raises(RemoteOperationError, match="its text stays there"):
        plan(x, y, torch.tensor([77]).send(bob))
    with pytest.raises(GetNotPermittedError):
        y.get()


def test_two_results_of_one_memory_are_equally_secret(bob: Worker) -> None:
    plan = Plan("views", lambda x: (x * 2, (x * 2).t())).build(torch.ones(2, 2)).send(bob)
    view = Plan("view", lambda x: (x, x.t())).build(torch.ones(2, 2)).send(bob)
    x = torch.ones(2, 2).send(bob)
    _, transposed = view(x)
    x.copy_(_secret(bob, [1.0, 2.0]).repeat(2, 1))
    for pointer in (x, transposed, *plan(x)):
        with pytest.raises(GetNotPermittedError):
            pointer.get()


def test_results_that_share_fresh_memory_stay_equally_secret(bob: Worker) -> None:
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        return y, y.t()

    y, transposed = Plan("both", both).build(torch.ones(2, 2)).send(bob)(torch.ones(2, 2).send(bob))
    y.copy_(_secret(bob, [1.0, 2.0]).repeat(2, 1))
    for pointer in (y, transposed):
        with pytest.raises(GetNotPermittedError):
            pointer.get()


def test_sizes_that_tell_of_values_are_refused_for_secrets(bob: Worker) -> None:
    plan = Plan("choose", lambda x: x[x > 1]).build(torch.ones(2)).send(bob)
    assert plan(torch.tensor([1.0, 2.0]).send(bob)).get().tolist() == [2.0]
    with pytest.raises(GetNotPermittedError, match="depends on values"):
        plan(_secret(bob, [1.0, 2.0]))


def test_numbers_from_values_stay_at_the_worker(bob: Worker) -> None:
    """A plan may compute with x.item(); no size and no result can be made of it."""
    plan = Plan("scale", lambda x: x / x.sum().item()).build(torch.ones(2)).send(bob)
    assert plan(torch.tensor([1.0, 3.0]).send(bob)).get().tolist() == [0.25, 0.75]
    result = plan(_secret(bob, [1.0, 3.0]))
    with pytest.raises(GetNotPermittedError):
        result.get()
    assert plan(_secret(bob, [0.0, 0.0])).get(user="owner").isnan().all(), "nor does an error tell that the sum is 0"


def test_private_workers_run_plans_of_their_owner_only(workers: list[Worker]) -> None:
    bob, alice = workers[1], workers[0]
    bob.private = True
    plan = Plan("double", lambda x: x * 2).build(torch.ones(2))
    pointer = plan.send(bob)
    assert pointer(torch.ones(2).send(bob)).get().tolist() == [2.0, 2.0]
    other = alice.link("bob")
    with pytest.raises(ObjectNotFoundError):
        other.request(st.remote.messages.Call(pointer.id, [], {}))


def test_limits_hold_inside_plans(bob: Worker) -> None:
    bob.limits = Limits(object_bytes=1 << 16)
    plan = Plan("large", lambda x: (x.expand(1 << 10, 1 << 10) * 2).sum()).build(torch.ones(1)).send(bob)
    with pytest.raises(LimitExceededError):
        plan(torch.ones(1).send(bob))


def test_intermediate_values_count_too(bob: Worker) -> None:
    def many(x: Tensor) -> Tensor:
        return torch.stack([x + float(i) for i in range(100)]).sum()

    plan = Plan("many", many).build(torch.ones(1 << 12)).send(bob)
    x = torch.ones(1 << 12).send(bob)
    assert plan(x).get().item() > 0
    bob.limits = Limits(store_bytes=1 << 20)
    with pytest.raises(LimitExceededError, match="Values inside plan many take"):
        plan(x)


def test_the_audit_names_calls_and_objects(bob: Worker) -> None:
    pointer = Plan("double", lambda x: x * 2).build(torch.ones(2)).send(bob)
    x = torch.ones(2).send(bob)
    pointer(x)
    entry = list(bob.audit)[-1]
    assert entry.request == "call plan" and set(entry.objects) >= {pointer.id, x.id} and entry.outcome == "done"
