"""Labels and the policy of release: who may have what, and that rows are never over-counted."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sharetorch as sh
from sharetorch.mpc import following, linear, operations
from sharetorch.mpc.errors import ConfigurationError, MalformedRequestError, ReleaseRefusedError
from sharetorch.mpc.labels import Label, Move
from sharetorch.mpc.linear import Slot
from sharetorch.mpc.policy import MAKERS, UNCOUNTED
from sharetorch.mpc.protocols.bilinear import (
    BilinearMap,
    Convolution,
    ConvolutionInputGradient,
    ConvolutionKernelGradient,
    Geometry,
    MatrixProduct,
    Product,
)
from sharetorch.mpc.release import OPEN, PRIVATE, Book, Policies, Policy, after, check, policy_of, source
from sharetorch.mpc.ring import PowerRing
from sharetorch.mpc.virtual import VirtualSession

TEN = Policy(frozenset({"me"}), None, 10)
aten = torch.ops.aten

# ------------------------------------------------------------------------------------------------------------- policies

names = st.none() | st.frozensets(st.sampled_from(["alice", "bob", "carol"]))
policies = st.builds(
    Policy,
    names,
    st.none() | st.frozensets(st.sampled_from(sorted(MAKERS))),
    st.integers(1, 100),
    st.none() | st.integers(1, 100),
)


@given(policies, policies, policies)
def test_joining_is_a_lattice(a: Policy, b: Policy, c: Policy) -> None:
    assert a.join(a) == a
    assert a.join(b) == b.join(a)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.join(OPEN) == OPEN.join(a) == a
    assert a.join(b).join(a) == a.join(b)


@given(policies, policies, st.sampled_from(sorted(MAKERS)), st.integers(1, 100), st.integers(1, 100))
def test_what_a_join_releases_each_of_both_does(a: Policy, b: Policy, made_by: str, rows: int, elements: int) -> None:
    def allowed(policy: Policy, who: str) -> bool:
        try:
            check(Label(policy, None, rows, made_by), who, (elements,))
        except ReleaseRefusedError:
            return False
        return True

    for who in ("alice", "bob", "dave"):
        assert allowed(a.join(b), who) <= (allowed(a, who) and allowed(b, who))


@given(policies)
def test_a_policy_crosses_the_wire(policy: Policy) -> None:
    data = policy.to_bytes()
    assert len(data) <= 1024
    assert Policy.from_bytes(data) == policy


def test_a_policy_too_large_for_the_wire_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="limit is 1024"):
        Policy(frozenset(f"worker-{n:03}" for n in range(200))).to_bytes()
    with pytest.raises(MalformedRequestError, match="1025 bytes"):
        Policy.from_bytes(bytes(1025))


@pytest.mark.parametrize(
    "content",
    [
        None, [], [None, None, 0, None], [None, None, -1, None], [None, ["?"], 1, None], [None, None, 1.5, None],
        ["me", None, 1, None], [None, None, 1, None, 0], [None, None, 1 << 63, None], [None, None, 1, 0],
    ],
)  # fmt: skip
def test_bytes_that_are_no_policy_are_malformed(content: Any) -> None:
    with pytest.raises(MalformedRequestError):
        Policy.from_bytes(msgspec.msgpack.encode(content))


def test_nobody_has_anything_unless_configuration_says_so() -> None:
    found = Policies.from_settings({"clinic": {"release_to": ["me"], "min_rows": 10}, "loose": {"min_rows": 3}})
    assert found.of("clinic") == Policy(frozenset({"me"}), None, 10)
    assert found.of("loose") == Policy(frozenset(), None, 3)
    assert found.of("other") == found.of(None) == PRIVATE
    assert Policies.from_settings({}, {"release_to": ["*"]}).of("other") == OPEN


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"min_row": 3}, "'min_row'; there are release_to"),
        ({"min_rows": "3"}, "min_rows in the policy of data set 'x' is '3'"),
        ({"min_rows": -3}, "is -3"),
        ({"max_elements": 0}, "max_elements = 0"),
        ({"release_to": "me"}, "write a list"),
        ({"outputs": ["argmaxx"]}, "output argmaxx, which no operation makes"),
        ("me", "is a str"),
    ],
)
def test_a_wrong_policy_is_explained(table: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        policy_of(table, "data set 'x'")


# -------------------------------------------------------------------------------------------------------------- release


@pytest.mark.parametrize(
    ("label", "who", "shape", "message"),
    [
        (Label(PRIVATE), "me", (), "results to nobody"),
        (Label(TEN, None, 10), "eve", (), "eve may not have .* results to me"),
        (Label(TEN, None, 9, "sum"), "me", (3,), "aggregate 9 row.*10 are demanded.*lower min_rows"),
        (Label(TEN, 0, 1, "sum"), "me", (50,), "aggregate 1 row"),
        (Label(TEN, 0, 20, "sum", floor=5), "me", (50,), "aggregate 5 row"),
        (Label(Policy(outputs=frozenset({"argmax"})), None, 9, "matmul"), "me", (), "made by matmul, .* argmax"),
        (Label(Policy(max_elements=5)), "me", (2, 3), "6 elements, and 5 are allowed"),
    ],
)
def test_a_refusal_says_who_why_and_what_to_do(label: Label, who: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ReleaseRefusedError, match=message):
        check(label, who, shape)


def test_what_policies_allow_is_released() -> None:
    check(None, "anybody", (9,))
    check(Label(OPEN), "anybody", (9,))
    check(Label(TEN, None, 10, "sum"), "me", (9,))
    check(Label(Policy(outputs=frozenset({"mean"}), max_elements=9), None, 1, "sum"), "me", (9,))


def test_data_nobody_restricts_has_no_label() -> None:
    assert source(OPEN, (3,), ("bob", "x")) is None
    assert source(TEN, (), ("bob", "x")) == Label(TEN, None, 1, frame=("bob", "x", 1))
    assert source(TEN, (3, 2), ("bob", "x")) == Label(TEN, 0, 1, frame=("bob", "x", 3))


# ---------------------------------------------------------------------------------------------------------------- rules


def test_every_command_has_a_rule() -> None:
    assert following.RULES.keys() == operations.OPERATIONS.keys()
    assert following.MOVES.keys() <= linear.FUNCTIONS.keys() | {name.removeprefix("aten.") for name in linear.FUNCTIONS}


ROWS: Any = source(TEN, (20, 3), ("bob", "x"))


def local(name: str, args: Sequence[Any], labels: Sequence[Label | None], shapes: Sequence[tuple[int, ...]]) -> Any:
    outs = linear.bind(name, args, {})(*(torch.zeros(shape) for shape in shapes))
    several = isinstance(outs, (list, tuple))
    public = {"function": name, "args": tuple(args), "kwargs": {}}
    found = after("local", labels, shapes, [tuple(out.shape) for out in (outs if several else [outs])], public)
    return found if several else found[0]


def bilinear(function: BilinearMap, x: Any, y: Any, xs: tuple[int, ...], ys: tuple[int, ...]) -> Any:
    return after("bilinear", [x, y], [xs, ys], [function.shape(xs, ys)], {"function": function, "divisor": 1})[0]


def rows_of(label: Any) -> tuple[int | None, int]:
    return label.row_axis, label.least


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("aten.sum.default", (Slot(0),), (None, 20)),
        ("aten.sum.dim_IntList", (Slot(0), [0]), (None, 20)),
        ("aten.sum.dim_IntList", (Slot(0), [-2], True), (None, 20)),
        ("aten.sum.dim_IntList", (Slot(0), []), (None, 20)),
        ("aten.sum.dim_IntList", (Slot(0), [1]), (0, 1)),
        ("aten.sum.dim_IntList", (Slot(0), [1], True), (0, 1)),
        ("aten.t.default", (Slot(0),), (1, 1)),
        ("aten.transpose.int", (Slot(0), 0, -1), (1, 1)),
        ("aten.permute.default", (Slot(0), [1, 0]), (1, 1)),
        ("aten.unsqueeze.default", (Slot(0), 0), (1, 1)),
        ("aten.unsqueeze.default", (Slot(0), -1), (0, 1)),
        ("aten.expand.default", (Slot(0), [4, 20, 3]), (1, 1)),
        ("aten.view.default", (Slot(0), [20, 1, 3]), (0, 1)),
        ("aten.view.default", (Slot(0), [1, 20, 3]), (1, 1)),
        ("aten.view.default", (Slot(0), [60]), (None, 1)),
        ("aten.view.default", (Slot(0), [3, 20]), (None, 1)),
        ("aten.view.default", (Slot(0), [4, 5, 3]), (None, 1)),
        ("aten.slice.Tensor", (Slot(0), 0, 2, 9), (0, 1)),
        ("aten.select.int", (Slot(0), 0, 2), (None, 1)),
        ("aten.select.int", (Slot(0), 1, 2), (0, 1)),
        ("aten.cumsum.default", (Slot(0), 0), (None, 1)),
        ("aten.cumsum.default", (Slot(0), 1), (0, 1)),
        ("aten.flip.default", (Slot(0), [0]), (0, 1)),
        ("aten.roll.default", (Slot(0), [3], [0]), (0, 1)),
        ("aten.roll.default", (Slot(0), [3]), (None, 1)),
        ("aten.index_select.default", (Slot(0), 0, torch.tensor([3, 1, 2])), (0, 1)),
        ("aten.index_select.default", (Slot(0), 0, torch.tensor([3, 1, 3])), (None, 1)),
        ("aten.index.Tensor", (Slot(0), [torch.tensor([-1, 19])]), (None, 1)),
        ("aten.index.Tensor", (Slot(0), [None, torch.tensor([[0, 0], [1, 1]])]), (0, 1)),
        ("aten.repeat.default", (Slot(0), [2, 1]), (None, 1)),
        ("aten.repeat.default", (Slot(0), [1, 2]), (0, 1)),
        ("aten.constant_pad_nd.default", (Slot(0), [1, 1]), (0, 1)),
        ("aten.constant_pad_nd.default", (Slot(0), [0, 0, 1, -1]), (None, 1)),
        ("aten.cat.default", ([Slot(0), Slot(0)], 0), (None, 1)),
        ("aten.cat.default", ([Slot(0), Slot(0)], 1), (0, 1)),
        ("aten.stack.default", ([Slot(0), Slot(0)], 0), (1, 1)),
        ("aten.trace.default", (Slot(0),), (None, 1)),
        ("aten.diagonal.default", (Slot(0),), (None, 1)),
    ],
)
def test_local_operations_keep_drop_or_count_rows(name: str, args: Any, expected: tuple[int | None, int]) -> None:
    count = 2 if isinstance(args[0], list) else 1
    assert rows_of(local(name, args, [ROWS] * count, [(20, 3)] * count)) == expected


def test_a_sum_counts_the_rows_that_were_sliced() -> None:
    part = local("aten.slice.Tensor", (Slot(0), 0, 2, 9), [ROWS], [(20, 3)])
    assert rows_of(local("aten.sum.default", (Slot(0),), [part], [(7, 3)])) == (None, 7)
    _, middle, _ = local("aten.split_with_sizes.default", (Slot(0), [2, 6, 12]), [ROWS], [(20, 3)])
    assert rows_of(local("aten.sum.default", (Slot(0),), [middle], [(6, 3)])) == (None, 6)


def test_one_row_expanded_is_one_row() -> None:
    one = local("aten.slice.Tensor", (Slot(0), 0, 2, 3), [ROWS], [(20, 3)])
    wide = local("aten.expand.default", (Slot(0), [20, 3]), [one], [(1, 3)])
    assert rows_of(local("aten.sum.default", (Slot(0),), [wide], [(20, 3)])) == (None, 1)


def test_rows_in_another_order_are_other_rows() -> None:
    turned = local("aten.roll.default", (Slot(0), [1], [0]), [ROWS], [(20, 3)])
    difference = after("combine", [ROWS, turned], [(20, 3)] * 2, [(20, 3)], {"a": 1, "b": -1})[0]
    assert rows_of(difference) == (None, 1)
    twice = after("combine", [turned, turned], [(20, 3)] * 2, [(20, 3)], {"a": 1, "b": 1})[0]
    assert rows_of(twice) == (0, 1)


def test_rows_times_rows_count_neither() -> None:
    gram = bilinear(MatrixProduct(), ROWS, Label(TEN, 1, 1, frame=ROWS.frame), (20, 3), (3, 20))
    for axis in (0, 1):
        total = local("aten.sum.dim_IntList", (Slot(0), [axis]), [gram], [(20, 20)])
        assert total.least == 1


@pytest.mark.parametrize(
    ("x", "y", "xs", "ys", "expected"),
    [
        (ROWS, None, (20, 3), (3, 4), (0, 1)),
        (None, ROWS, (4, 20), (20, 3), (None, 1)),
        (Label(OPEN, even=frozenset({1})), ROWS, (4, 20), (20, 3), (None, 20)),
        (Label(TEN, 1, 1, frame=ROWS.frame), ROWS, (4, 20), (20, 3), (None, 20)),
        (Label(TEN, 1, 1, frame=("carol",)), ROWS, (4, 20), (20, 3), (None, 1)),
        (ROWS, Label(TEN, 1, 1, frame=ROWS.frame), (20, 3), (3, 20), (0, 1)),
        (ROWS, Label(TEN, None, 50), (20, 3), (3, 4), (0, 1)),
    ],
)
def test_a_matrix_product_counts_rows_only_with_their_own_or_equal_weights(
    x: Any, y: Any, xs: tuple[int, ...], ys: tuple[int, ...], expected: tuple[int | None, int]
) -> None:
    found = bilinear(MatrixProduct(), x, y, xs, ys)
    assert rows_of(found) == expected
    assert found.made_by == "matmul"


@pytest.mark.parametrize(
    ("values", "expected"),
    [(torch.ones(4, 20), (None, 20)), (torch.eye(20)[:4], (None, 1)), (torch.arange(80).reshape(4, 20), (None, 1))],
)
def test_public_weights_are_looked_at(values: Tensor, expected: tuple[int | None, int]) -> None:
    public = {"function": MatrixProduct(), "values": values.long(), "public_first": True}
    assert rows_of(after("public_bilinear", [ROWS], [(20, 3)], [(4, 3)], public)[0]) == expected


@pytest.mark.parametrize("operation", ["scale", "add_public"])
@pytest.mark.parametrize(
    ("values", "axis"),
    [(torch.tensor(3), 0), (torch.arange(3), 0), (torch.full((20, 1), 2), 0), (torch.eye(20)[:, :1], None)],
)
def test_public_numbers_that_differ_from_row_to_row_end_counting(operation: str, values: Tensor, axis: Any) -> None:
    found = after(operation, [ROWS], [(20, 3)], [(20, 3)], {"values": values.long()})[0]
    assert rows_of(found) == (axis, 1)


GEOMETRY = Geometry((20, 1, 6, 6), (2, 1, 3, 3), (1, 1), (0, 0), (1, 1), 1)
IMAGES = Label(TEN, 0, 1, frame=ROWS.frame)


@pytest.mark.parametrize(
    ("function", "x", "y", "xs", "ys", "expected"),
    [
        (Convolution, IMAGES, None, (20, 1, 6, 6), (2, 1, 3, 3), (0, 1)),
        (Convolution, None, IMAGES, (20, 1, 6, 6), (2, 1, 3, 3), (None, 1)),
        (ConvolutionInputGradient, IMAGES, None, (20, 2, 4, 4), (2, 1, 3, 3), (0, 1)),
        (ConvolutionKernelGradient, IMAGES, IMAGES, (20, 2, 4, 4), (20, 1, 6, 6), (None, 20)),
        (ConvolutionKernelGradient, None, IMAGES, (20, 2, 4, 4), (20, 1, 6, 6), (None, 1)),
        (ConvolutionKernelGradient, Label(OPEN, even=frozenset({0})), IMAGES, (20, 2, 4, 4), (20, 1, 6, 6), (None, 20)),
    ],
)
def test_convolutions(function: Any, x: Any, y: Any, xs: Any, ys: Any, expected: Any) -> None:
    assert rows_of(bilinear(function(GEOMETRY), x, y, xs, ys)) == expected


def test_the_largest_of_several_rows_is_one_row() -> None:
    over_rows = after("maximum", [ROWS], [(20, 3)], [(3,), (3,), (19, 3)], {})
    assert [rows_of(label) for label in over_rows] == [(None, 1)] * 3
    turned = local("aten.t.default", (Slot(0),), [ROWS], [(20, 3)])
    found: Any = after("maximum", [turned], [(3, 20)], [(20,), (20,), (2, 20)], {})
    value, index, trail = found
    assert [rows_of(label) for label in (value, index, trail)] == [(0, 1), (0, 1), (1, 1)]
    assert (value.made_by, index.made_by) == ("max", "argmax")
    (back,) = after("route", [value, trail], [(20,), (2, 20)], [(3, 20)], {"n": 3})
    assert rows_of(back) == (1, 1)


def test_sorted_rows_are_rows_of_nobody_knows_whom() -> None:
    over_rows = after("sort", [ROWS], [(20, 3)], [(20, 3), (20, 3), (9, 3)], {"start": 0, "stop": 20})
    assert [rows_of(label) for label in over_rows] == [(None, 1)] * 3
    turned = local("aten.t.default", (Slot(0),), [ROWS], [(20, 3)])
    found: Any = after("sort", [turned], [(3, 20)], [(2, 20), (2, 20), (3, 20)], {"start": 1, "stop": 3})
    assert [rows_of(label) for label in found] == [(1, 1)] * 3
    assert [label.made_by for label in found] == ["sort", "argsort", "comparison"]
    (back,) = after("unsort", [found[0], found[2]], [(2, 20), (3, 20)], [(3, 20)], {"n": 3, "start": 1})
    assert rows_of(back) == (1, 1)
    bucket: Any = after("bucketize", [ROWS], [(20, 3)], [(20, 3)], {"thresholds": torch.arange(4)})[0]
    assert (rows_of(bucket), bucket.made_by) == ((0, 1), "comparison")


def test_what_a_result_keeps_of_its_maker() -> None:
    total = local("aten.sum.dim_IntList", (Slot(0), [0]), [ROWS], [(20, 3)])
    mean: Any = after("scale", [total], [(3,)], [(3,)], {"values": torch.tensor(4)})[0]
    mean = after("refresh", after("truncate", [mean], [(3,)], [(3,)], {}), [(3,)], [(3,)], {})[0]
    check(Label(Policy(outputs=frozenset({"mean"})), None, 1, mean.made_by), "me", (3,))
    assert mean.made_by == "sum"
    sign: Any = after("non_negative", [mean], [(3,)], [(3,)], {})[0]
    assert sign.made_by == "comparison"


def test_owners_without_a_count_do_not_lower_the_count_of_others() -> None:
    weights = source(Policy(frozenset({"me", "bob"})), (3, 4), ("carol", "w"))
    products = bilinear(MatrixProduct(), ROWS, weights, (20, 3), (3, 4))
    assert rows_of(products) == (None, 1) or rows_of(products) == (0, 1)
    total = local("aten.sum.dim_IntList", (Slot(0), [0]), [ROWS], [(20, 3)])
    both = bilinear(MatrixProduct(), total, weights, (1, 3), (3, 4))
    assert rows_of(both) == (None, 20)
    assert both.policy == Policy(frozenset({"me"}), None, 10)


def test_two_aggregates_keep_the_smaller_count() -> None:
    few, many = Label(TEN, None, 12), Label(TEN, None, 30)
    assert rows_of(after("combine", [few, many], [(3,)] * 2, [(3,)], {"a": 1, "b": 1})[0]) == (None, 12)
    centred = after("combine", [ROWS, few], [(20, 3), (3,)], [(20, 3)], {"a": 1, "b": -1})[0]
    assert rows_of(local("aten.sum.default", (Slot(0),), [centred], [(20, 3)])) == (None, 12)


def test_an_operation_without_a_rule_counts_nothing() -> None:
    assert rows_of(after("new", [ROWS, None], [(20, 3), ()], [(20, 3)], {})[0]) == (None, 1)


# ------------------------------------------------------------------------- never over-counted: against every dependency


class Traced(NamedTuple):
    """A tensor with its label, and its derivative by every entry of the data: (rows * columns, *shape).

    All numbers are at least 0, so that nothing cancels: an element depends on a row exactly if a derivative is not 0.
    ``plain`` ones were made of one tensor alone: in their aggregates all rows have the same weight.
    """

    label: Label | None
    value: Tensor
    slope: Tensor
    plain: bool = True


N, F = 4, 2


def entries() -> list[Traced]:
    """Two tensors with columns of the same rows."""
    basis = torch.eye(N * F, dtype=torch.int64).reshape(N * F, N, F)
    value = torch.arange(1, N * F + 1).reshape(N, F)
    frame = ("bob", "x")
    x = Traced(source(TEN, (N, F), frame), value, basis)
    return [x, Traced(source(TEN, (N,), frame), value[:, 0], basis[:, :, 0])]


def foreign(value: Tensor) -> Traced:
    return Traced(None, value, torch.zeros(N * F, *value.shape, dtype=torch.int64))


def apply_local(name: str, args: Sequence[Any], *operands: Traced) -> list[Traced]:
    bound = linear.bind(name, args, {})
    values = bound(*(operand.value for operand in operands))
    several = isinstance(values, (list, tuple))
    values = list(values) if several else [values]
    each = [bound(*(operand.slope[k] for operand in operands)) for k in range(N * F)]
    slopes = [torch.stack([(part[i] if several else part) for part in each]) for i in range(len(values))]
    labels = after(
        "local",
        [operand.label for operand in operands],
        [tuple(operand.value.shape) for operand in operands],
        [tuple(value.shape) for value in values],
        {"function": name, "args": tuple(args), "kwargs": {}},
    )
    return [Traced(*parts) for parts in zip(labels, values, slopes, strict=True)]


def apply_bilinear(f: BilinearMap, x: Traced, y: Traced, public: int | None = None) -> list[Traced]:
    ring = PowerRing()
    value = f(ring, x.value, y.value)
    slope = torch.stack([f(ring, x.slope[k], y.value) + f(ring, x.value, y.slope[k]) for k in range(N * F)])
    pair, out = (x, y), [tuple(value.shape)]
    if public is None:
        labels = [x.label, y.label]
        (label,) = after("bilinear", labels, [x.value.shape, y.value.shape], out, {"function": f, "divisor": 1})
    else:
        secret = pair[1 - public]
        arguments = {"function": f, "values": pair[public].value, "public_first": public == 0}
        (label,) = after("public_bilinear", [secret.label], [secret.value.shape], out, arguments)
    return [Traced(label, value, slope)]


def weights(draw: Any, shape: Sequence[int]) -> Tensor:
    """Numbers from elsewhere: all equal, or such that select."""
    size = torch.Size(shape).numel()
    if draw(st.booleans()):
        return torch.full(tuple(shape), draw(st.integers(0, 2)))
    return torch.tensor(draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))).long().reshape(tuple(shape))


def dims(draw: Any, x: Traced) -> int:
    return draw(st.integers(-x.value.dim(), x.value.dim() - 1))  # type: ignore[no-any-return]


Step = Callable[[Any, Traced, list[Traced]], list[Traced] | None]


def unary(name: str, make: Callable[[Any, Traced], Sequence[Any] | None]) -> Step:
    def step(draw: Any, x: Traced, pool: list[Traced]) -> list[Traced] | None:
        rest = make(draw, x) if x.value.dim() else None
        try:
            return None if rest is None else apply_local(name, (Slot(0), *rest), x)
        except RuntimeError:  # arguments the operation does not take, such as a view of what is not contiguous
            return None

    return step


def numbers(draw: Any, n: int, most: int = 5) -> Tensor:
    return torch.tensor(draw(st.lists(st.integers(-n, n - 1), min_size=1, max_size=most)))


def _view(draw: Any, x: Traced) -> Sequence[Any] | None:
    size = x.value.numel()
    sizes = [d for d in range(1, size + 1) if size % d == 0] or [0]
    a = draw(st.sampled_from(sizes))
    rest = size // a if a else 0
    return ([a, rest],) if draw(st.booleans()) else ([*x.value.shape[:1], 1, -1] if x.value.numel() else [size],)


def _together(draw: Any, x: Traced, pool: list[Traced]) -> list[Traced] | None:
    name, dim = draw(st.sampled_from(["aten.cat.default", "aten.stack.default"])), draw(st.integers(0, 2))
    others = [y for y in [*pool, foreign(weights(draw, x.value.shape))] if y.value.shape == x.value.shape]
    y = draw(st.sampled_from(others))
    if dim >= x.value.dim() + (name == "aten.stack.default"):
        return None
    return apply_local(name, ([Slot(0), Slot(1)], dim), x, y)


def _added(draw: Any, x: Traced, pool: list[Traced]) -> list[Traced] | None:
    y = draw(st.sampled_from([*pool, foreign(weights(draw, x.value.shape[-1:]))]))
    try:
        torch.broadcast_shapes(x.value.shape, y.value.shape)
    except RuntimeError:
        return None
    if draw(st.booleans()):
        return apply_local("aten.add.Tensor", (Slot(0), Slot(1)), x, y)
    return apply_bilinear(Product(), x, y)


def _weighted(draw: Any, x: Traced, pool: list[Traced]) -> list[Traced] | None:
    w = foreign(weights(draw, x.value.shape))
    how = draw(st.sampled_from(["shared", "public", "where"]))
    if how == "where":
        return apply_local("aten.where.self", (w.value > 0, Slot(0), Slot(1)), x, foreign(w.value * 0))
    return apply_bilinear(Product(), x, w, None if how == "shared" else 1)


def _matrices(draw: Any, x: Traced, pool: list[Traced]) -> list[Traced] | None:
    if x.value.dim() != 2:
        return None
    m, k = x.value.shape
    how = draw(st.sampled_from(["shared", "public", "pool"]))
    if how == "pool":
        partners = [y for y in pool if y.value.dim() == 2 and y.value.shape[0] == k]
        return apply_bilinear(MatrixProduct(), x, draw(st.sampled_from(partners))) if partners else None
    w = foreign(weights(draw, (2, m)))
    return apply_bilinear(MatrixProduct(), w, x, None if how == "shared" else 0)


STEPS: list[Step] = [
    unary("aten.transpose.int", lambda draw, x: (dims(draw, x), dims(draw, x))),
    unary("aten.unsqueeze.default", lambda draw, x: (dims(draw, x),)),
    unary("aten.squeeze.default", lambda draw, x: ()),
    unary("aten.flip.default", lambda draw, x: ([dims(draw, x)],)),
    unary("aten.roll.default", lambda draw, x: ([draw(st.integers(-2, 2))], [dims(draw, x)])),
    unary("aten.cumsum.default", lambda draw, x: (dims(draw, x),)),
    unary("aten.sum.dim_IntList", lambda draw, x: ([dims(draw, x)], draw(st.booleans()))),
    unary("aten.view.default", _view),
    unary("aten.slice.Tensor", lambda draw, x: (dims(draw, x), draw(st.integers(-2, 2)), 9, draw(st.integers(1, 2)))),
    unary("aten.split.Tensor", lambda draw, x: (draw(st.integers(1, 3)), dims(draw, x))),
    unary("aten.unbind.int", lambda draw, x: (dims(draw, x),)),
    unary("aten.repeat.default", lambda draw, x: ([draw(st.integers(1, 2)) for _ in range(x.value.dim() + 1)],)),
    unary("aten.expand.default", lambda draw, x: ([2, *(s if s > 1 else 3 for s in x.value.shape)],)),
    unary("aten.constant_pad_nd.default", lambda draw, x: ([draw(st.integers(-1, 1)), draw(st.integers(0, 1))],)),
    unary("aten.tril.default", lambda draw, x: () if x.value.dim() > 1 else None),
    unary("aten.diagonal.default", lambda draw, x: () if x.value.dim() > 1 else None),
    unary("aten.unfold.default", lambda draw, x: (-1, 2, 1) if x.value.shape[-1] > 1 else None),
    unary(
        "aten.index_select.default",
        lambda draw, x: (0, numbers(draw, x.value.shape[0]) % x.value.shape[0]) if x.value.shape[0] else None,
    ),
    unary(
        "aten.index.Tensor",
        lambda draw, x: (
            ([None] * (x.value.dim() - 1) + [numbers(draw, x.value.shape[-1])],) if x.value.shape[-1] else None
        ),
    ),  # fmt: skip
    _together,
    _added,
    _weighted,
    _matrices,
]


def programs(draw: Any) -> Iterator[Traced]:
    """Run a random program; give every tensor that comes up."""
    pool = entries()
    yield from pool
    for _ in range(draw(st.integers(1, 6))):
        x = draw(st.sampled_from(pool))
        step = draw(st.sampled_from(STEPS))
        plain = x.plain and step not in (_together, _added, _matrices)
        made = [part._replace(plain=plain) for part in step(draw, x, pool) or [] if part.value.numel() <= 100]
        pool.extend(made[:3])
        yield from made


def over_counted(x: Traced) -> str | None:
    """What a label claims wrongly: of the elements, or of their sum along any axis."""
    sums = [x, *(apply_local("aten.sum.dim_IntList", (Slot(0), [axis]), x)[0] for axis in range(x.value.dim()))]
    for each in sums:
        slopes = each.slope.reshape(N, F, -1)
        depends = slopes.ne(0).any(1).sum(0)
        if each.label is None or not each.label.restricted:
            if depends.any():
                return f"{each.label} of an element that depends on the data"
        elif bool(((depends > 0) & (depends < min(each.label.least, UNCOUNTED))).any()):
            return f"{each.label} for {depends.tolist()}"
        elif x.plain and each.label.row_axis is None and each.label.least > 1:
            largest = slopes.amax(0)
            if bool((slopes.ne(0) & slopes.ne(largest)).any()):
                return f"{each.label} of rows with different weights"
    return None


def search(examples: int, phases: Sequence[Phase] = tuple(Phase)) -> None:
    @settings(
        max_examples=examples, deadline=None, database=None, phases=phases, suppress_health_check=list(HealthCheck)
    )
    @given(st.data())
    def claims_hold(data: st.DataObject) -> None:
        for traced in programs(data.draw):
            assert over_counted(traced) is None

    claims_hold()


def test_rows_are_never_over_counted() -> None:
    search(500)


def keep(shape: Sequence[int], out: Sequence[int], a: Any) -> Move:
    return Move(tuple(range(len(shape))))


@pytest.mark.parametrize("name", ["cumsum.default", "repeat.default", "index_select.default", "tril.default"])
def test_a_planted_slip_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = keep
    if name == "repeat.default":
        wrong = lambda shape, out, a: Move((-1, *range(len(shape))))  # noqa: E731
    monkeypatch.setitem(following.MOVES, name, wrong)
    with pytest.raises(AssertionError):
        search(2000, [Phase.generate])


# ------------------------------------------------------------------------------------------------- a session's labels


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> Book:
    """A book that follows every command of virtual sessions."""
    found = Book()
    command, free = VirtualSession.command, VirtualSession.free

    def followed(self: Any, name: str, *inputs: int, outputs: int = 1, **public: Any) -> tuple[int, ...]:
        store = self.parties[0].store
        before = [tuple(store[number].data.shape) for number in inputs]
        made = command(self, name, *inputs, outputs=outputs, **public)
        found.follow(name, inputs, lambda: (before, [tuple(store[n].data.shape) for n in made]), made, public)
        return made

    def freed(self: Any, number: int) -> None:
        free(self, number)
        found.free([number])

    monkeypatch.setattr(VirtualSession, "command", followed)
    monkeypatch.setattr(VirtualSession, "free", freed)
    return found


_ids = itertools.count()


def members() -> Any:
    run = next(_ids)
    alice, bob, cp = (sh.VirtualWorker(id=f"{name}-release-{run}") for name in ("alice", "bob", "cp"))
    return lambda x: x.share(alice, bob, crypto_provider=cp)


def labelled(book: Book, x: Any, policy: Policy, name: str = "x") -> Any:
    book.enter(x.handle.number, source(policy, tuple(x.shape), ("bob", name)))
    return x


def label_of(book: Book, x: Any) -> Any:
    return book.label(x.handle.number)


def refused(book: Book, x: Any) -> bool:
    try:
        check(label_of(book, x), "me", tuple(x.shape))
    except ReleaseRefusedError:
        return True
    return False


def test_a_model_trained_on_batches_aggregates_a_batch(book: Book) -> None:
    share = members()
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    share(model)
    x = labelled(book, share(torch.randn(20, 3)), TEN)
    y = labelled(book, share(torch.randn(20, 2)), TEN)
    for start in (0, 10):
        prediction = model(x[start : start + 10])
        loss = nn.functional.mse_loss(prediction, y[start : start + 10])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(label_of(book, parameter).rows == 10 for parameter in model.parameters())
    assert not any(refused(book, parameter) for parameter in model.parameters())
    assert not refused(book, loss)
    assert refused(book, prediction)
    optimizer.zero_grad()
    ((model(x[:5]) - y[:5]) ** 2).sum().backward()
    optimizer.step()
    assert all(refused(book, parameter) for parameter in model.parameters())


def test_a_convolutional_network_too(book: Book) -> None:
    share = members()
    model = share(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)))
    x = labelled(book, share(torch.randn(10, 1, 6, 6)), TEN)
    y = labelled(book, share(torch.randn(10, 2)), TEN)
    ((model(x) - y) ** 2).sum().backward()
    assert not any(refused(book, parameter.grad) for parameter in model.parameters())


def test_statistics(book: Book) -> None:
    share = members()
    x = labelled(book, share(torch.randn(12, 3)), Policy(frozenset({"me"}), frozenset({"mean"}), 10))
    mean, variance, part = x.mean(0), x.var(0), x[:9].mean(0)
    largest, cross = x.max(), x.t() @ x
    assert not refused(book, mean)
    assert not refused(book, variance)
    assert [refused(book, each) for each in (x, part, largest, cross)] == [True] * 4
    assert label_of(book, cross).rows == 12


def test_the_ways_to_take_one_row_by_numbers_from_elsewhere_are_refused(book: Book) -> None:
    share = members()
    x = labelled(book, share(torch.randn(12, 3)), TEN)
    one = torch.zeros(1, 12)
    one[0, 5] = 1.0
    secret = share(one)
    tries = [
        one @ x,
        secret @ x,
        (secret.t() * x).sum(0),
        (one.t() * x).sum(0),
        torch.where(one.t() > 0, x, torch.zeros(12, 3)).sum(0),
        (x + 1e3 * (one.t() - 1)).relu().sum(0),
        torch.stack([x[5]] * 12).sum(0),
        x[torch.tensor([5] * 12)].sum(0),
        x[5:6].expand(12, 3).sum(0),
        torch.cat([x, x]).sum(0)[:1],
        (x - x.roll(1, 0))[1:11].sum(0),
        x.cumsum(0)[0],
        x.max(0).values,
    ]
    assert [refused(book, each) for each in tries] == [True] * len(tries)


def test_writing_taints_all_that_shares_the_memory(book: Book) -> None:
    share = members()
    buffer = share(torch.zeros(12, 3))
    turned, row = buffer.t(), buffer[0]
    x = labelled(book, share(torch.randn(12, 3)), TEN)
    assert not refused(book, row)
    buffer.copy_(x)
    assert [refused(book, each) for each in (buffer, turned, row)] == [True] * 3
    assert refused(book, buffer.sum(0))


def test_rows_written_over_are_rows_no_more(book: Book) -> None:
    share = members()
    x = labelled(book, share(torch.randn(12, 3)), TEN)
    assert not refused(book, x.sum(0))
    x[1:].zero_()
    assert refused(book, x.sum(0))
    y = labelled(book, share(torch.randn(12, 3)), TEN)
    y.copy_(torch.eye(12)[:, :3])
    assert refused(book, (y * labelled(book, share(torch.randn(12, 3)), TEN)).sum(0))


def test_rows_changed_all_alike_stay_rows(book: Book) -> None:
    share = members()
    x = labelled(book, share(torch.randn(12, 3)), TEN)
    x.sub_(x.mean(0)).mul_(2)
    assert not refused(book, x.sum(0))


def test_a_book_forgets_what_is_freed(book: Book) -> None:
    share = members()
    x = labelled(book, share(torch.randn(12, 3)), TEN)
    y = (x @ x.t()).sum()
    del x, y
    assert not book.active
    assert not book._labels
    assert not any(len(group) for group in book._views.values())


def test_every_term_of_several_products_has_its_own_label() -> None:
    public = {"terms": [[MatrixProduct(), 0, 1, 4], [Product(), 0, 0, 4]], "method": "probabilistic"}
    weighted, squared = after("products", [ROWS, None], [(20, 3), (3, 4)], [(20, 4), (20, 3)], public)
    assert weighted == bilinear(MatrixProduct(), ROWS, None, (20, 3), (3, 4))
    assert squared == bilinear(Product(), ROWS, ROWS, (20, 3), (20, 3))


def test_a_step_takes_the_label_of_the_gradient_it_makes() -> None:
    shapes = [(3, 4), (20, 3), (20, 4)]
    terms = {"terms": [[Product(), 0, 0, 4], [MatrixProduct(), 1, 0, 4]], "method": "probabilistic"}
    _, product = after("products", [None, ROWS], shapes[:2], [(3, 4), (20, 4)], terms)
    steps = {"steps": [[-1, [], [], 2]], "products": [[0, MatrixProduct(), 1, 0]], "scaling": [16, -1, 8]}
    gradient, stepped = after("descend", [None, ROWS, None], shapes, [(20, 4)] * 2, steps)
    assert gradient == product and product is not None
    assert stepped == after("combine", [None, product], [(20, 4)] * 2, [(20, 4)], {"a": 1, "b": 1})[0]
    book = Book()
    book.enter(2, ROWS)
    book.follow("descend", (1, 2, 3), lambda: (shapes, [(20, 4)] * 2), (4, 5), steps)
    assert book.label(4) == product and book.label(1) is None
    assert book.label(3) == book.label(5) == stepped


def test_every_target_written_to_takes_the_label_of_its_own_sources() -> None:
    book = Book()
    book.enter(1, None)
    book.enter(2, None)
    book.enter(3, ROWS)
    shapes = [(20, 3), (20, 3), (20, 3)]
    public = {"writes": [[0, [2], [1]], [1, [1], [2]]], "divisor": 1}
    book.follow("write_all", (1, 2, 3), lambda: (shapes, shapes[:2]), (4, 5), public)
    assert rows_of(book.label(1)) == rows_of(book.label(4)) == rows_of(ROWS)
    assert book.label(2) is None and book.label(5) is None


def test_a_view_of_one_of_several_targets_is_not_trusted_afterwards() -> None:
    book = Book()
    book.enter(3, ROWS)
    view = {"function": "aten.t.default", "args": (), "kwargs": {}}
    book.follow("local", (1,), lambda: ([(20, 3)], [(3, 20)]), (9,), view)
    public = {"writes": [[0, [1], [1]]], "divisor": 1}
    book.follow("write_all", (1, 3), lambda: ([(20, 3), (20, 3)], [(20, 3)]), (4,), public)
    assert book.label(9) is not None and book.label(9).restricted


def test_following_costs_little_where_nobody_restricts_anything() -> None:
    book = Book()
    public = {"function": Product(), "divisor": 1}

    def once() -> float:
        start = time.perf_counter()
        for number in range(2000):
            book.follow("bilinear", (1, 2), lambda: ([], []), (number,), public)
        return (time.perf_counter() - start) / 2000

    assert min(once() for _ in range(5)) < 5e-6
