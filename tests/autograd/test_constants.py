"""The gradient a backward pass starts with is public, and costs nothing as long as it is."""

from typing import Any

import pytest
import torch

import sharetorch as st


@pytest.fixture
def x() -> Any:
    names = ("constant alice", "constant bob", "constant provider")
    alice, bob, provider = (st.VirtualWorker(id=name) for name in names)
    return torch.tensor([[1.0, -2.0], [0.5, 3.0]]).share(alice, bob, crypto_provider=provider, requires_grad=True)


def test_squared_error_sends_nothing_on_the_way_back(x: Any) -> None:
    loss = ((x - 1) ** 2).sum() * 0.5
    with x.session.costs.listen() as heard:
        loss.backward()
    assert heard.total().rounds == 0
    assert "constant" not in heard.by_operation and "bilinear" not in heard.by_operation
    assert x.grad.get().tolist() == [[0.0, -3.0], [-0.5, 2.0]]


def test_a_mean_keeps_the_digits_of_a_small_factor(x: Any) -> None:
    many = x.reshape(1, 4).expand(250, 4)
    (many * many).mean().backward()
    expected = 2 * x.get().detach() / 4
    torch.testing.assert_close(x.grad.get(), expected, atol=2**-12, rtol=0)


@pytest.mark.parametrize(
    ("function", "gradient"),
    [
        (lambda x: x.sum(), 1.0),
        (lambda x: -x.sum(), -1.0),
        (lambda x: x.mean(), 0.25),
        (lambda x: x.reshape(4).unsqueeze(0).t().sum() * 3, 3.0),
        (lambda x: x.sum(0).sum() / 2, 0.5),
    ],
)
def test_a_constant_gradient_is_a_shared_tensor(x: Any, function: Any, gradient: float) -> None:
    function(x).backward()
    assert type(x.grad) is type(x)
    assert x.grad.get().tolist() == [[gradient] * 2] * 2
    x.grad.mul_(2)
    x.grad[0, 0] = 7.0
    assert x.grad.get().tolist() == [[7.0, 2 * gradient], [2 * gradient] * 2]


def test_gradients_add_up(x: Any) -> None:
    x.sum().backward()
    (x * 2).sum().backward()
    x.mean().backward()
    assert x.grad.get().tolist() == [[3.25] * 2] * 2


def test_a_constant_that_was_changed_is_no_longer_known(x: Any) -> None:
    seen = []
    y = x * x
    y.register_hook(lambda g: seen.append(g.clone().mul_(3)) or seen[0] * 1)
    y.sum().backward()
    assert seen[0].get().tolist() == [[3.0] * 2] * 2
    assert x.grad.get().tolist() == (6 * x.get().detach()).tolist()


def test_nothing_is_left_behind(x: Any) -> None:
    alice = x.session.parties[0]
    x.sum().backward()
    x.grad = None
    held = len(alice.store)
    for _ in range(3):
        ((x - 1) ** 2).mean().backward()
        x.grad.get()
        x.grad = None
    assert len(alice.store) == held
