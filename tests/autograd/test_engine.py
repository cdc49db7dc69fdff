"""PyTorch's engine over shared tensors: flags, accumulation, hooks, graphs, and gradients of public leaves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sharetorch as st
from tests.tensor.tools import UNIT, assert_same, eighths, objects, share

X, W = eighths(3, 4), eighths(4, 2, seed=1)


def leaf(x: torch.Tensor) -> st.SharedTensor:
    return share(x).requires_grad_(True)


def test_flags():
    x, w = share(X), leaf(W)
    assert not x.requires_grad
    assert x.is_leaf
    assert w.requires_grad
    assert w.is_leaf
    y = x @ w
    assert y.requires_grad
    assert not y.is_leaf
    assert y.grad_fn is not None
    assert not y.detach().requires_grad
    assert share(X, requires_grad=True).requires_grad
    assert share(X.clone().requires_grad_(True)).requires_grad
    assert not share(X.clone().requires_grad_(True), requires_grad=False).requires_grad


def test_integers_require_no_gradient():
    with pytest.raises(RuntimeError, match="floating point"):
        share(torch.tensor([1, 2])).requires_grad_(True)


def test_gradients_accumulate_and_are_cleared():
    w = leaf(W)
    (share(X) @ w).sum().backward()
    once = w.grad.get()
    (share(X) @ w).sum().backward()
    assert_same(w.grad, 2 * once)
    w.grad.zero_()
    assert_same(w.grad, torch.zeros_like(W))
    w.grad = None
    (share(X) @ w).sum().backward()
    assert_same(w.grad, once)


def test_backward_of_many_elements_means_ones():
    x = leaf(X)
    (x * 3).backward()
    assert_same(x.grad, torch.full((3, 4), 3.0))


@pytest.mark.parametrize("shared", [True, False])
def test_backward_from_a_given_gradient(shared):
    x, g = leaf(X), eighths(3, 4, seed=7)
    (x * x).backward(share(g) if shared else g)
    assert_same(x.grad, 2 * X * g)


def test_retain_graph():
    x = leaf(X)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert_same(x.grad, 4 * X)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_torch_autograd_grad():
    x, w = leaf(X), leaf(W)
    for_x, for_w = torch.autograd.grad((x @ w).sum(), (x, w))
    assert_same(for_x, torch.ones(3, 2) @ W.t())
    assert_same(for_w, X.t() @ torch.ones(3, 2))
    assert x.grad is None


def test_torch_autograd_backward():
    x = leaf(X)
    torch.autograd.backward([(x * 2).sum(), (x * x).sum()])
    assert_same(x.grad, 2 + 2 * X)


def test_second_derivatives_of_polynomials():
    x = leaf(X)
    (first,) = torch.autograd.grad((x * x * x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert_same(second, 6 * X, 4 * UNIT)


def test_unused_inputs():
    x, w = leaf(X), leaf(W)
    assert torch.autograd.grad(x.sum(), (x, w), allow_unused=True)[1] is None


def test_backward_into_chosen_inputs():
    x, w = leaf(X), leaf(W)
    (x @ w).sum().backward(inputs=[w])
    assert x.grad is None
    assert w.grad is not None


def test_no_grad_detach_and_data():
    x = leaf(X)
    with torch.no_grad():
        assert not (x * 2).requires_grad
    with torch.inference_mode():
        assert_same(share(X) * 2, X * 2)
    (x.detach() * x).sum().backward()
    assert_same(x.grad, X)
    x.data.mul_(2)
    assert_same(x, 2 * X)


def test_in_place_on_a_leaf_is_refused_as_in_torch():
    with pytest.raises(RuntimeError, match="leaf"):
        leaf(X).add_(1)
    w = leaf(X)
    with torch.no_grad():
        w += 1
    assert_same(w, X + 1)
    assert w.requires_grad


def test_a_saved_tensor_that_changes_is_noticed():
    x = leaf(X)
    y = x * 2
    z = y * y
    y += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


def test_gradients_pass_float_precision():
    x = share(X.fix_precision()).requires_grad_(True)
    (x * x).float_precision().sum().backward()
    assert_same(x.grad.get().float_precision(), 2 * X, 2e-3)


def test_hooks():
    seen = []
    x = leaf(X)
    y = x * 2
    y.register_hook(lambda g: seen.append(g))
    x.register_hook(lambda g: g * 10)
    y.retain_grad()
    y.sum().backward()
    assert isinstance(seen[0], st.SharedTensor)
    assert_same(x.grad, torch.full((3, 4), 20.0))
    assert_same(y.grad, torch.ones(3, 4))


def test_modules_hooks_see_shared_tensors():
    kinds = []
    layer = nn.Linear(4, 2)
    layer.register_forward_hook(lambda module, inputs, output: kinds.append((type(inputs[0]), type(output))))
    layer.register_full_backward_hook(lambda module, into, out: kinds.append(type(out[0])))
    layer(leaf(X)).sum().backward()
    assert kinds == [(st.SharedTensor, st.SharedTensor), st.SharedTensor]


def test_the_gradient_of_a_public_leaf_is_shared_and_stays_so():
    """A plain model on shared data: the gradient is a secret, and no optimizer may write it into the plain weights."""
    layer = nn.Linear(4, 2)
    before = layer.weight.detach().clone()
    layer(share(X)).sum().backward()
    assert isinstance(layer.weight.grad, st.SharedTensor)
    assert isinstance(layer.bias.grad, st.SharedTensor)
    assert_same(layer.weight.grad, torch.ones(2, 3) @ X, UNIT)
    with pytest.raises(st.exceptions.MismatchError, match="share the target first"):
        torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert torch.equal(layer.weight, before)
    layer.weight.grad = layer.weight.grad.get()
    layer.bias.grad = layer.bias.grad.get()
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    assert not torch.equal(layer.weight, before)


def test_custom_functions_and_checkpointing():
    x = leaf(X)
    y = torch.utils.checkpoint.checkpoint(lambda t: t * t, x, use_reentrant=False)
    y.sum().backward()
    assert_same(x.grad, 2 * X)


def test_numerical_derivative_of_a_composition():
    """One derivative checked against differences, independently of torch's formulas."""
    x = leaf(X)
    ((x * x).relu() - x.abs()).mean().backward()
    step = 2.0**-6
    for place in ((0, 0), (1, 2), (2, 3)):
        up, down = X.clone(), X.clone()
        up[place] += step
        down[place] -= step
        values = [float(((share(v) ** 2).relu() - share(v).abs()).sum().get()) for v in (up, down)]
        assert abs((values[0] - values[1]) / (2 * step) / 12 - float(x.grad.get()[place])) < 2**-10


def test_graphs_are_freed():
    before = objects()
    x, w = leaf(X), leaf(W)
    loss = ((x @ w).relu() ** 2).mean() + (x / 3).max() + w.abs().sum()
    loss.backward()
    del loss, x, w
    assert objects() == before


def test_graphs_are_freed_after_an_error_in_backward():
    before = objects()
    x = leaf(X)
    y = x * 2
    y.register_hook(lambda g: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        y.sum().backward()
    del x, y
    assert objects() == before
