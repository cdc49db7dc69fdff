"""In-place operations and assignment, also through views, against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import sharetorch as st
from tests.tensor.tools import UNIT, assert_same, eighths, integers, objects, share

X, Y = eighths(3, 4), eighths(3, 4, seed=1)
N = integers(3, 4)
_MASK = X > 0


def _do(statement: str) -> Callable[[Any, Any], Any]:
    code = compile(statement, "statement", "exec")

    def run(x: Any, y: Any) -> Any:
        names = {"x": x, "y": y, "torch": torch, "mask": _MASK}
        exec(code, names)
        return names["x"]

    return run


STATEMENTS = [
    "x += y",
    "x -= y",
    "x *= y",
    "x += 1.5",
    "x -= 2",
    "x *= 0.5",
    "x /= 2",
    "x /= 4.0",
    "x += y[0]",
    "x **= 2",
    "x.add_(y)",
    "x.add_(y, alpha=0.5)",
    "x.sub_(y, alpha=2)",
    "x.mul_(2)",
    "x.div_(8)",
    "x.neg_()",
    "x.copy_(y)",
    "x.copy_(y[0])",
    "x.zero_()",
    "x.fill_(1.5)",
    "x.fill_(2)",
    "x.square_()",
    "x.clamp_(-1, 1)",
    "x.clamp_(min=0)",
    "x.clamp_min_(0.5)",
    "x.clamp_max_(0.5)",
    "x.clip_(-1, 1)",
    "x.relu_()",
    "torch.relu_(x)",
    "torch.nn.functional.relu(x, inplace=True)",
    "torch.nn.functional.leaky_relu(x, 0.25, inplace=True)",
    "x.abs_()",
    "x.sign_()",
    "x.addcmul_(y, y, value=0.5)",
    "x.lerp_(y, 0.5)",
    "x.masked_fill_(mask, 2.0)",
    "x.masked_scatter_(mask, y)",
    "x.index_fill_(0, torch.tensor([0, 2]), 1.0)",
    "x.index_add_(0, torch.tensor([0, 0]), y[:2])",
    "x.index_copy_(0, torch.tensor([1, 0]), y[:2])",
    "x.index_put_((torch.tensor([0]),), y[0])",
    "x.scatter_(0, torch.zeros(1, 4, dtype=torch.int64), y)",
    "x.scatter_add_(0, torch.zeros(3, 4, dtype=torch.int64), y)",
    "x.tril_()",
    "x.triu_()",
    "x.addmm_(y[:, :3], y)",
    "x.t_()",
    "x.transpose_(0, 1)",
    "x.unsqueeze_(1); x.squeeze_(1)",
    "x.unsqueeze_(0)",
    "x.swapaxes_(0, 1); x += 1",
    "x[0] = y[1]",
    "x[1, 2] = 0.5",
    "x[-1] = 7",
    "x[:, 1] = y[:, 0]",
    "x[1:] = y[:-1]",
    "x[...] = y",
    "x[:] = 2",
    "x[::2, 1::2] = 0.25",
    "x[None] = y",
    "x[torch.tensor([2, 0])] = y[:2]",
    "x[[0, 1], [2, 3]] = y[0, :2]",
    "x[mask] = 0",
    "x[mask] = 1.5",
    "x[mask] = y[mask]",
    "x[torch.tensor([True, False, True])] = y[0]",
    "x[0] += 1",
    "x[:, 0] *= y[:, 1]",
    "x[mask] += 1",
    "x[0].zero_()",
    "x[1:, 2:].copy_(y[:2, :2])",
    "x.view(-1)[3] = 9",
    "x.t()[0] = y[:, 0]",
    "x.diagonal().zero_()",
    "x.unbind(0)[1].add_(1)",
    "x.split(2, 1)[0].mul_(2)",
    "x.select(0, 1).fill_(3)",
    "x.narrow(1, 0, 2).neg_()",
    "x[0][1:][0] = 5",
    "v = x.view(4, 3); v[0] = y[0, :3]; x += v.view(3, 4)",
    "z = x.detach(); z += 1",
    "z = x.clone(); z += 1",
    "z = x.reshape(4, 3); z.zero_()",
    "z = x.t().reshape(12); z.zero_()",
    "v = x[0]; p = x @ y.t(); v += 1; x += (x @ y.t()) @ y / 64 + 0 * p.sum()",
]


@pytest.mark.parametrize("statement", STATEMENTS)
@pytest.mark.parametrize("other", ["shared", "public"])
def test_on_reals(statement, other):
    expected = _do(statement)(X.clone(), Y)
    x = share(X)
    actual = _do(statement)(x, share(Y) if other == "shared" else Y)
    assert actual is x
    assert_same(actual, expected, 4 * UNIT if "@" in statement else UNIT if "**" in statement else 0)


@pytest.mark.parametrize(
    "statement",
    [
        "x += 2",
        "x *= 3",
        "x -= y",
        "x[0] = 5",
        "x[mask] = 0",
        "x.neg_()",
        "x.zero_()",
        "x.relu_()",
        "x.t_()",
        "x[1] += y[0]",
    ],
)
def test_on_integers(statement):
    assert_same(_do(statement)(share(N), share(N * 2)), _do(statement)(N.clone(), N * 2))


def test_a_product_opened_before_is_not_reused_after_a_change():
    """The masked opening of an operand must not outlive its contents."""
    x, y = share(X), share(Y)
    assert_same(x * y, X * Y)
    x[0] += 1
    changed = X.clone()
    changed[0] += 1
    assert_same(x * y, changed * Y)
    assert_same(x * y, changed * Y)


def test_bits_that_are_overwritten_are_no_longer_taken_for_bits():
    bits = share(X) > 0
    view = bits[0]
    assert_same(~bits, (X <= 0).long())
    view.fill_(5)
    with pytest.raises(st.exceptions.UnsupportedOperationError, match="numbers"):
        torch.bitwise_not(bits)
    assert_same(torch.logical_not(bits)[0], torch.zeros(4, dtype=torch.int64))


def test_reals_into_integers_are_refused():
    x = share(N)
    with pytest.raises(st.exceptions.MismatchError, match="convert it first"):
        x[0] = share(X)[0]
    with pytest.raises(st.exceptions.MismatchError, match="convert it first"):
        x.fill_(0.5)
    assert_same(x, N)


def test_integers_into_reals():
    x = share(X)
    x[0] = share(N)[0]
    expected = X.clone()
    expected[0] = N[0].float()
    assert_same(x, expected)


def test_a_secret_into_a_plain_tensor_is_refused():
    plain = torch.zeros(3, 4)
    for statement in ("x += y", "x.copy_(y)", "x[0] = y[0]", "x.mul_(y)", "x.fill_(y[0, 0])", "x.add_(y, alpha=2)"):
        with pytest.raises(st.exceptions.MismatchError, match="plain"):
            _do(statement)(plain, share(Y))
    assert not plain.any()


def test_shapes_that_do_not_fit():
    x = share(X)
    before = objects()
    with pytest.raises(st.exceptions.ShapeError):
        x += share(eighths(2, 4))
    with pytest.raises(st.exceptions.ShapeError):
        x.copy_(eighths(5))
    with pytest.raises(st.exceptions.ShapeError):
        x[0] = share(eighths(3))
    with pytest.raises(st.exceptions.ShapeError):
        x[0].add_(x)
    assert_same(x, X)
    assert objects() == before


def test_writing_to_an_expanded_view_is_refused():
    x = share(X[:1])
    with pytest.raises((st.ShareTorchError, RuntimeError)):
        x.expand(3, 4).add_(1)
    assert_same(x, X[:1])


def test_negative_steps_raise_as_in_torch():
    with pytest.raises(ValueError, match="step must be greater than zero"):
        share(X)[::-1]


def test_index_out_of_range():
    for statement in ("x = x[5]", "x = x[torch.tensor([7])]", "x = x[:, :, 0]", "x = x.gather(0, torch.tensor([[9]]))"):
        with pytest.raises((IndexError, st.exceptions.ShapeError)):
            _do(statement)(share(X), None)
