"""Part 9: integers split into shares, arithmetic, comparisons and maxima of them."""

from typing import Any

import pytest
import torch

import sharetorch as sy

hook = sy.TorchHook(torch)


def workers(*names: str) -> list[sy.VirtualWorker]:
    return [sy.VirtualWorker(hook, id=name) for name in names]


def test_three_holders_and_no_provider() -> None:
    bob, alice, bill = workers("bob", "alice", "bill")
    salary = torch.tensor([1800])
    with pytest.warns(sy.DriverIsProviderWarning):
        salary = salary.share(bob, alice, bill)
    parts = [list(worker._objects.values())[0] for worker in (bob, alice, bill)]
    assert all(part.shape == (1,) and part.item() != 1800 for part in parts)
    field = salary.child.field
    assert ((parts[0] + parts[1] + parts[2]) % field).tolist() == [1800]  # [4]
    assert sum(list(worker._tensors.values())[0] for worker in (bob, alice, bill)).tolist() == [1800]  # [9]
    salary = salary.get()
    assert salary.tolist() == [1800]
    assert not bob._objects and not alice._objects and not bill._objects


def test_a_field_of_ones_own() -> None:
    bob, alice, bill = workers("bob", "alice", "bill")
    field = 2**62
    with pytest.warns(sy.DriverIsProviderWarning):
        x = torch.tensor([25, -7]).share(bob, alice, bill, field=field)
    assert x.child.field == field
    parts = [list(worker._objects.values())[0] for worker in (bob, alice, bill)]
    assert (sum(parts) % x.child.field).tolist() == [25, field - 7]
    assert x.get().tolist() == [25, -7]


def test_sums_and_differences() -> None:
    bob, alice, bill = workers("bob", "alice", "bill")
    with pytest.warns(sy.DriverIsProviderWarning):
        x, y = torch.tensor([25]).share(bob, alice, bill), torch.tensor([5]).share(bob, alice, bill)
    assert (x + y).get().tolist() == [30]
    assert (x - y).get().tolist() == [20]
    assert (x + 7).get().tolist() == [32]


def test_products_with_a_provider() -> None:
    bob, alice, crypto_provider = workers("bob", "alice", "crypto_provider")
    x = torch.tensor([25]).share(bob, alice, crypto_provider=crypto_provider)
    y = torch.tensor([5]).share(bob, alice, crypto_provider=crypto_provider)
    z = x * y
    assert z.get().tolist() == [125]
    left = torch.tensor([[1, 2], [3, 4]]).share(bob, alice, crypto_provider=crypto_provider)
    right = torch.tensor([[2, 0], [0, 2]]).share(bob, alice, crypto_provider=crypto_provider)
    assert left.mm(right).get().tolist() == [[2, 4], [6, 8]]


def test_products_of_three_holders() -> None:
    bob, alice, bill, crypto_provider = workers("bob", "alice", "bill", "crypto_provider")
    x = torch.tensor([[25, -1]]).share(bob, alice, bill, crypto_provider=crypto_provider)
    y = torch.tensor([[5], [3]]).share(bob, alice, bill, crypto_provider=crypto_provider)
    assert (x @ y).get().tolist() == [[122]]
    assert (x * y.t()).get().tolist() == [[125, -3]]


@pytest.mark.parametrize("form", ["integers", "fixed precision"])
def test_comparisons_give_zeros_and_ones(form: str) -> None:
    bob, alice, crypto_provider = workers("bob", "alice", "crypto_provider")
    fixed = form == "fixed precision"

    def secret(value: int) -> Any:
        x = torch.tensor([value])
        return (x.fix_precision() if fixed else x).share(bob, alice, crypto_provider=crypto_provider)

    def opened(x: Any) -> list[float]:
        return (x.get().float_precision() if fixed else x.get()).tolist()

    x, y = secret(25), secret(5)
    assert opened(x > y) == [1]
    assert opened(x <= y) == [0]
    assert opened(x == y + 20) == [1]
    assert opened(x == y) == [0]
    assert opened(x < y) == [0]
    assert opened(x >= y) == [1]


def test_maxima_in_both_forms() -> None:
    bob, alice, crypto_provider = workers("bob", "alice", "crypto_provider")
    x = torch.tensor([[2, 3], [4, 1]]).share(bob, alice, crypto_provider=crypto_provider)
    assert str(x.max().get()) == "tensor(4)"
    assert x.max().get().view(-1).tolist() == [4]
    values, places = x.max(dim=0)  # [4]
    assert values.get().tolist() == [4, 3]
    assert places.get().tolist() == [1, 0]
    assert x.max(dim=0).get().tolist() == [4, 3]  # [9]


def test_real_numbers_need_fixed_precision_in_the_tutorials_and_work_without_it() -> None:
    bob, alice, crypto_provider = workers("bob", "alice", "crypto_provider")
    x = torch.tensor([0.1, 0.2, 0.3]).fix_precision()
    assert x.child.tolist() == [100, 200, 300]
    assert (x + x).float_precision().tolist() == pytest.approx([0.2, 0.4, 0.6])
    shared = torch.tensor([0.1, 0.2, 0.3]).fix_precision().share(bob, alice, crypto_provider=crypto_provider)
    assert (shared + shared).get().float_precision().tolist() == pytest.approx([0.2, 0.4, 0.6])
    assert (shared * shared).get().float_precision().tolist() == pytest.approx([0.01, 0.04, 0.09], abs=0.0011)
    direct = torch.tensor([0.1, 0.2, 0.3]).share(bob, alice, crypto_provider=crypto_provider)
    assert direct.get().tolist() == pytest.approx([0.1, 0.2, 0.3], abs=2**-16)
