"""Who may have a tensor back: lists of users, workers that refuse by default, requests to the owner, the audit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import sharetorch as sy
from sharetorch.exceptions import GetNotPermittedError

hook = sy.TorchHook(torch)


def test_only_named_users_may_have_it() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    wages = torch.tensor([2100.0, 3300.0]).private_tensor(allowed_users=("carol",))
    assert wages.allow("carol") and not wages.allow("dan")
    pointer = wages.send(bob, user="carol")
    assert pointer.allow("carol") and not pointer.allow("dan")
    with pytest.raises(GetNotPermittedError, match="dan"):
        pointer.get(user="dan")
    with pytest.raises(GetNotPermittedError):
        pointer.get()
    assert pointer.get(user="carol").tolist() == [2100.0, 3300.0]


def test_the_form_with_a_layer() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    pointer = sy.PrivateTensor(allowed_users=("carol",)).on(torch.tensor([1.0])).send(bob)
    with pytest.raises(GetNotPermittedError):
        pointer.get(user="dan")
    assert pointer.get(user="carol").item() == 1.0


def test_what_is_computed_is_as_private_as_its_sources() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    for_both = torch.tensor([1.0, 2.0]).private_tensor(allowed_users=["carol", "dan"]).send(bob)
    for_one = torch.tensor([3.0, 4.0]).private_tensor(allowed_users=["carol"]).send(bob)
    everybodys = torch.tensor([1.0, 1.0]).send(bob)
    assert (for_both + everybodys).get(user="dan").tolist() == [2.0, 3.0]
    product = for_both * for_one
    with pytest.raises(GetNotPermittedError):
        product.get(user="dan")
    with pytest.raises(GetNotPermittedError):
        product.sum().get()
    assert product.get(user="carol").tolist() == [3.0, 8.0]


def test_nothing_gets_around_the_list() -> None:
    bob, alice, james = (sy.VirtualWorker(hook, id=name) for name in ("bob", "alice", "james"))
    secret = torch.tensor([6.0, 7.0]).private_tensor(allowed_users=["carol"]).send(bob)
    with pytest.raises(GetNotPermittedError):
        secret.copy().get()
    with pytest.raises(GetNotPermittedError):
        secret.move(sy.local_worker)
    with pytest.raises(GetNotPermittedError):
        secret.move(alice)
    with pytest.raises(GetNotPermittedError):
        secret.fix_precision().share(bob, alice, crypto_provider=james)
    with pytest.raises(GetNotPermittedError):
        bob.search(secret.id)[0].get()
    with pytest.raises(GetNotPermittedError):
        sy.local_worker.request_obj(secret.id_at_location, bob)
    with pytest.raises(GetNotPermittedError):
        secret.send(alice).remote_get()
    assert not alice._objects


def written_into(bob: sy.VirtualWorker, secret: Any) -> Any:
    return torch.zeros(2).send(bob).copy_(secret)


def seen_through_a_view(bob: sy.VirtualWorker, secret: Any) -> Any:
    open_to_all = torch.zeros(2).send(bob)
    view = open_to_all.view(2, 1)
    open_to_all.add_(secret)
    return view


def chosen_by_a_comparison(bob: sy.VirtualWorker, secret: Any) -> Any:
    return torch.where(secret > 6.5, torch.ones(2).send(bob), torch.zeros(2).send(bob))


def looked_up(bob: sy.VirtualWorker, secret: Any) -> Any:
    return torch.arange(10.0).send(bob)[secret.long()]


def a_gradient(bob: sy.VirtualWorker, secret: Any) -> Any:
    weight = torch.ones(2, requires_grad=True).send(bob)
    (weight * secret).sum().backward()
    return weight.grad


def a_trained_model(bob: sy.VirtualWorker, secret: Any) -> Any:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.send(bob)
    model(secret.view(1, 2)).sum().backward()
    optimizer.step()
    return model


def a_number_of_hits(bob: sy.VirtualWorker, secret: Any) -> Any:
    return secret[secret > 6.5]


@pytest.mark.parametrize(
    "way",
    [
        written_into,
        seen_through_a_view,
        chosen_by_a_comparison,
        looked_up,
        a_gradient,
        a_trained_model,
        a_number_of_hits,
    ],
)
def test_nothing_that_depends_on_it_comes_out(way: Callable[[sy.VirtualWorker, Any], Any]) -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    secret = torch.tensor([6.0, 7.0]).private_tensor(allowed_users=["carol"]).send(bob)
    with pytest.raises(GetNotPermittedError):
        way(bob, secret).get()


def test_a_worker_that_refuses_by_default() -> None:
    bank = sy.VirtualWorker(hook, id="bank", private=True)
    bank.load_data([torch.tensor([10.0, 30.0, 20.0]).tag("#balances").describe("three accounts")])
    (balances,) = bank.search("#balances")
    mean = balances.mean()
    with pytest.raises(GetNotPermittedError):
        mean.get()


def test_the_owner_decides_on_requests() -> None:
    bank = sy.VirtualWorker(hook, id="bank", private=True)
    bank.load_data([torch.tensor([10.0, 30.0, 20.0]).tag("#balances")])
    (balances,) = bank.search("#balances")
    mean, largest = balances.mean(), balances.max()
    with pytest.raises(GetNotPermittedError, match="waits"):
        mean.get(reason="the mean of three accounts for the report")
    with pytest.raises(GetNotPermittedError, match="waits"):
        largest.get(reason="curiosity")
    first, second = bank.requests
    assert first.reason.startswith("the mean") and "curiosity" in repr(second)
    first.approve()
    second.deny()
    assert bank.requests == []
    assert mean.get().item() == 20.0
    with pytest.raises(GetNotPermittedError, match="denied"):
        largest.get(reason="curiosity")
    with pytest.raises(GetNotPermittedError):
        balances.get()


def test_the_audit_tells_what_happened_without_values() -> None:
    bob = sy.VirtualWorker(hook, id="bob")
    secret = torch.tensor([271828.0]).private_tensor(allowed_users=["carol"]).send(bob)
    doubled = secret + secret
    with pytest.raises(GetNotPermittedError):
        doubled.get(user="dan")
    doubled.get(user="carol")
    entries = list(bob.audit)
    assert {entry.sender for entry in entries} == {"me"}
    (refused,) = bob.audit.refused()
    assert refused.user == "dan" and refused.outcome == "GetNotPermittedError"
    assert any("add" in entry.request for entry in entries)
    assert "271828" not in str(entries) and "543656" not in str(entries)
