"""Random programs: every suite gives what the plaintext suite gives behind the same interface."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sharetorch.mpc import testing
from sharetorch.mpc.linear import Slot
from sharetorch.mpc.protocols.bilinear import MatrixProduct, Product
from sharetorch.mpc.session import Session
from tests.strategies import integer_tensors

SHAPE = (3, 3)
BOUND = 1 << 20


class Step(NamedTuple):
    """One operation of a program on numbered intermediate results."""

    name: str
    left: int
    right: int


BINARY = ["add", "subtract", "product", "matrix product"]
UNARY = ["negate", "transpose", "relu", "non_negative", "equal_zero", "maximum", "sort", "refresh", "truncate"]
LINEAR = ["add", "subtract", "product", "matrix product", "negate", "transpose", "refresh", "truncate"]


def programs(names: list[str]) -> st.SearchStrategy[list[Step]]:
    return st.lists(st.builds(Step, st.sampled_from(names), st.integers(0, 7), st.integers(0, 7)), max_size=5)


def apply(session: Session, step: Step, x: int, y: int) -> int:
    """Run one step; results that could grow out of the domain of comparisons are brought back by a shift of bits."""
    match step.name:
        case "product":
            return session.command("bilinear", x, y, function=Product())[0]
        case "matrix product":
            return session.command("bilinear", x, y, function=MatrixProduct())[0]
        case "transpose":
            return session.command("local", x, function="aten.t.default", args=(Slot(0),), kwargs={})[0]
        case "relu":
            return session.command("relu", x, outputs=2)[0]
        case "maximum":
            value = session.command("maximum", x, outputs=3)[0]
            expand = {"function": "aten.expand.default", "args": (Slot(0), list(SHAPE)), "kwargs": {}}
            return session.command("local", value, **expand)[0]
        case "sort":
            return session.command("sort", x, outputs=3, start=0, stop=SHAPE[0])[0]
        case "truncate":
            return session.command("truncate", x, divisor=1 << 10, method="exact")[0]
        case "add" | "subtract":
            return session.command("combine", x, y, b=1 if step.name == "add" else -1)[0]
        case name:
            return session.command(name, x)[0]


def run_program(session: Session, program: list[Step], inputs: list[Tensor], *, rescale: bool) -> list[Tensor]:
    numbers = [session.distribute(x) for x in inputs]
    for step in program:
        result = apply(session, step, numbers[step.left % len(numbers)], numbers[step.right % len(numbers)])
        if rescale:
            result = session.distribute(testing.value(session, result) % BOUND - BOUND // 2)
        numbers.append(result)
    return [testing.value(session, number) for number in numbers]


def expected(program: list[Step], inputs: list[Tensor], *, rescale: bool) -> list[Tensor]:
    """The plaintext suite rounds to nearest where the exact truncation takes the floor: shift by half a unit first."""
    session = testing.plaintext()
    numbers = [session.distribute(x) for x in inputs]
    for step in program:
        x, y = numbers[step.left % len(numbers)], numbers[step.right % len(numbers)]
        if step.name == "truncate":
            (x,) = session.command("add_public", x, values=torch.full(SHAPE, -(1 << 9)))
        result = apply(session, step, x, y)
        if rescale:
            result = session.distribute(testing.value(session, result) % BOUND - BOUND // 2)
        numbers.append(result)
    return [testing.value(session, number) for number in numbers]


tensors = st.lists(integer_tensors(SHAPE, st.integers(-BOUND, BOUND)), min_size=2, max_size=3)


@pytest.mark.parametrize("suite", ["securenn", "securenn-paper"])
@given(programs(BINARY + UNARY), tensors)
@settings(max_examples=60)
def test_programs_agree_with_the_plaintext_suite(suite: str, program: list[Step], inputs: list[Tensor]) -> None:
    found = run_program(testing.session(suite=suite), program, inputs, rescale=True)
    for ours, theirs in zip(found, expected(program, inputs, rescale=True), strict=True):
        assert torch.equal(ours, theirs)


@given(programs(LINEAR), tensors, st.integers(3, 5))
@settings(max_examples=40)
def test_linear_programs_agree_for_any_number_of_parties(program: list[Step], inputs: list[Tensor], n: int) -> None:
    found = run_program(testing.session(n), program, inputs, rescale=True)
    for ours, theirs in zip(found, expected(program, inputs, rescale=True), strict=True):
        assert torch.equal(ours, theirs)


@given(programs(["add", "subtract", "product", "matrix product", "negate", "transpose"]), tensors)
@settings(max_examples=40)
def test_arithmetic_wraps_around_as_in_the_plaintext_suite(program: list[Step], inputs: list[Tensor]) -> None:
    found = run_program(testing.session(), program, inputs, rescale=False)
    for ours, theirs in zip(found, expected(program, inputs, rescale=False), strict=True):
        assert torch.equal(ours, theirs)
