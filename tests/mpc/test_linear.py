"""Every local operation: applied to each share by itself, it gives the same as applied to the secret."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from sharetorch.mpc import linear, testing
from sharetorch.mpc.errors import UnsupportedOperationError
from sharetorch.mpc.linear import Slot
from sharetorch.mpc.protocols.bilinear import Geometry
from sharetorch.mpc.ring import ring_of

X = Slot(0)
Y = Slot(1)
INDEX = torch.tensor([2, 0, 1, 2])
GEOMETRY = Geometry((2, 3, 5, 4), (3, 1, 2, 2), (2, 1), (1, 0), (1, 2), 3)


class Example(NamedTuple):
    """Arguments of one local operation, and the shapes of its operands."""

    args: tuple[Any, ...]
    shapes: tuple[tuple[int, ...], ...] = ((3, 4),)
    kwargs: dict[str, Any] = {}


EXAMPLES: dict[str, Example] = {
    "aten.view.default": Example((X, [2, 6])),
    "aten.t.default": Example((X,)),
    "aten.transpose.int": Example((X, 0, 1)),
    "aten.permute.default": Example((X, [2, 0, 1]), ((2, 3, 4),)),
    "aten.expand.default": Example((X, [2, 3, 4])),
    "aten.squeeze.default": Example((X,), ((1, 3, 1),)),
    "aten.squeeze.dim": Example((X, 0), ((1, 3, 1),)),
    "aten.squeeze.dims": Example((X, [0, 2]), ((1, 3, 1),)),
    "aten.unsqueeze.default": Example((X, 1)),
    "aten.slice.Tensor": Example((X, 1, 1, 4, 2)),
    "aten.select.int": Example((X, 0, -1)),
    "aten.split.Tensor": Example((X, 3, 1)),
    "aten.split_with_sizes.default": Example((X, [1, 3], 1)),
    "aten.unbind.int": Example((X, 1)),
    "aten.diagonal.default": Example((X, 1)),
    "aten.as_strided.default": Example((X, [2, 2], [4, 1], 1)),
    "aten.unfold.default": Example((X, 1, 2, 1)),
    "aten.alias.default": Example((X,)),
    "aten.detach.default": Example((X,)),
    "aten._reshape_alias.default": Example((X, [4, 3], [3, 1])),
    "aten.clone.default": Example((X,)),
    "aten._unsafe_view.default": Example((X, [12])),
    "aten.add.Tensor": Example((X, Y), ((3, 4), (4,))),
    "aten.sub.Tensor": Example((X, Y), ((3, 4), (3, 1))),
    "aten.neg.default": Example((X,)),
    "aten.sum.default": Example((X,)),
    "aten.sum.dim_IntList": Example((X, [0], True)),
    "aten.cumsum.default": Example((X, 1)),
    "aten.flip.default": Example((X, [0, 1])),
    "aten.roll.default": Example((X, [1, -2], [0, 1])),
    "aten.constant_pad_nd.default": Example((X, [1, 2, 0, 1])),
    "aten.cat.default": Example(([X, Y], 1), ((3, 4), (3, 2))),
    "aten.stack.default": Example(([X, Y], 0), ((3, 4), (3, 4))),
    "aten.index.Tensor": Example((X, [INDEX])),
    "aten.index_select.default": Example((X, 0, INDEX)),
    "aten.gather.default": Example((X, 0, torch.tensor([[2, 0, 1, 2]]))),
    "aten.index_put.default": Example((X, [INDEX[:3]], Y), ((3, 4), (3, 4))),
    "aten.index_add.default": Example((X, 0, INDEX, Y), ((3, 4), (4, 4))),
    "aten.index_copy.default": Example((X, 0, INDEX[:3], Y), ((3, 4), (3, 4))),
    "aten.scatter.src": Example((X, 0, torch.tensor([[2, 0, 1, 2]]), Y), ((3, 4), (1, 4))),
    "aten.scatter_add.default": Example((X, 0, torch.tensor([[2, 2], [2, 0]]), Y), ((3, 4), (2, 2))),
    "aten.select_scatter.default": Example((X, Y, 0, 1), ((3, 4), (4,))),
    "aten.slice_scatter.default": Example((X, Y, 1, 1, 3), ((3, 4), (3, 2))),
    "aten.diagonal_scatter.default": Example((X, Y), ((3, 4), (3,))),
    "aten.as_strided_scatter.default": Example((X, Y, [2, 2], [4, 1], 1), ((3, 4), (2, 2))),
    "aten.select_backward.default": Example((X, [3, 4], 0, 1), ((4,),)),
    "aten.slice_backward.default": Example((X, [3, 4], 1, 1, 3, 1), ((3, 2),)),
    "aten.diagonal_backward.default": Example((X, [3, 4], 0, 0, 1), ((3,),)),
    "aten.unfold_backward.default": Example((X, [3, 4], 1, 2, 1), ((3, 3, 2),)),
    "aten.tril.default": Example((X,)),
    "aten.triu.default": Example((X, 1)),
    "aten.trace.default": Example((X,)),
    "aten.repeat.default": Example((X, [2, 1, 2])),
    "aten.where.self": Example((torch.tensor([[True], [False], [True]]), X, Y), ((3, 4), (3, 4))),
    "aten.diag_embed.default": Example((X,)),
    "aten.rot90.default": Example((X, 1, [0, 1])),
    "aten.diagonal_copy.default": Example((X, 1)),
    "aten.pixel_shuffle.default": Example((X, 2), ((1, 4, 3, 2),)),
    "aten.pixel_unshuffle.default": Example((X, 2), ((1, 1, 4, 6),)),
    "gather_windows": Example((X, GEOMETRY), (GEOMETRY.image,)),
    "scatter_windows": Example((X, GEOMETRY), ((4, 2, 3, *GEOMETRY.space),)),
}
TEMPORARY = {"aten._unsafe_view.default"}
"""PyTorch calls it on results that nobody else holds, so that it may share their storage."""


def operands(example: Example, bound: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(-bound, bound, shape, generator=generator) for shape in example.shapes]


def plain(name: str, example: Example, values: list[Tensor]) -> list[Tensor]:
    bound: Callable[..., Any] = linear.bind(name, example.args, example.kwargs)
    result = bound(*values)
    return list(result) if isinstance(result, (tuple, list)) else [result]


def on_shares(name: str, example: Example, values: list[Tensor], modulus: int | None, n: int) -> list[Tensor]:
    session = testing.session(n, ring=ring_of(modulus), seed=1)
    numbers = [testing.put_value(session, value) for value in values]
    count = len(plain(name, example, values))
    found = session.command("local", *numbers, outputs=count, function=name, args=example.args, kwargs=example.kwargs)
    return [testing.value(session, number) for number in found]


def test_every_local_operation_has_an_example() -> None:
    assert sorted(linear.FUNCTIONS) == sorted(EXAMPLES)


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("name", EXAMPLES)
def test_local_operations_on_shares_act_on_the_secret(name: str, n: int) -> None:
    example = EXAMPLES[name]
    values = operands(example, 1 << 62)
    for found, expected in zip(on_shares(name, example, values, None, n), plain(name, example, values), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("modulus", [2**62, 2**127 - 1])
@pytest.mark.parametrize("name", EXAMPLES)
def test_local_operations_act_on_secrets_in_fields(name: str, modulus: int) -> None:
    example = EXAMPLES[name]
    values = operands(example, 1 << 40)
    for found, expected in zip(on_shares(name, example, values, modulus, 2), plain(name, example, values), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("name", sorted(linear.VIEWS))
def test_views_share_storage_and_others_do_not(name: str) -> None:
    session = testing.session()
    example = EXAMPLES[name]
    values = operands(example, 100)
    base = testing.put_value(session, values[0])
    count = len(plain(name, example, values))
    view = session.command("local", base, outputs=count, function=name, args=example.args, kwargs={})[0]
    zeros = testing.put_value(session, torch.zeros_like(testing.value(session, view)))
    if name not in ("aten.expand.default", "aten.unfold.default"):
        session.command("write", view, zeros)
        plain(name, example, values)[0].zero_()
    assert torch.equal(testing.value(session, base), values[0])
    assert session.parties[0].store[view].root is session.parties[0].store[base].root


@pytest.mark.parametrize("name", sorted(set(linear.FUNCTIONS) - linear.VIEWS - TEMPORARY))
def test_results_that_are_no_views_have_storage_of_their_own(name: str) -> None:
    session = testing.session()
    example = EXAMPLES[name]
    numbers = [testing.put_value(session, value) for value in operands(example, 100)]
    before = [testing.value(session, number).clone() for number in numbers]
    (result,) = session.command("local", *numbers, function=name, args=example.args, kwargs={})
    session.command("write", result, testing.put_value(session, torch.zeros_like(testing.value(session, result))))
    assert all(torch.equal(testing.value(session, x), y) for x, y in zip(numbers, before, strict=True))


def test_the_provider_follows_shapes_and_layouts() -> None:
    session = testing.session()
    for example, name in ((EXAMPLES[name], name) for name in EXAMPLES):
        numbers = [testing.put_value(session, value) for value in operands(example, 100)]
        result = session.command(
            "local", *numbers, outputs=len(plain(name, example, operands(example, 100))), function=name,
            args=example.args, kwargs={},
        )  # fmt: skip
        assert session.provider is not None
        ours, theirs = session.parties[0].store[result[0]].data, session.provider.store[result[0]].data
        assert theirs.is_meta
        assert (ours.shape, ours.stride(), ours.storage_offset()) == (
            theirs.shape, theirs.stride(), theirs.storage_offset()
        ), name  # fmt: skip


def test_a_function_that_is_not_listed_is_refused() -> None:
    with pytest.raises(UnsupportedOperationError, match="no local operation"):
        linear.bind("aten.mul.Tensor", (X, Y), {})
