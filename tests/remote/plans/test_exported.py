"""Programs of torch.export and TorchScript at workers."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sharetorch as st
from sharetorch.exceptions import PlanError
from sharetorch.remote.plans import plan_of

Worker = st.VirtualWorker


@pytest.fixture
def model() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).eval()


def _quietly(function: Any, *args: Any) -> Any:
    """What torch makes, without what it says of its own past and future."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args)


def test_exported_programs(model: nn.Module, bob: Worker) -> None:
    batch = torch.export.Dim("batch")
    program = _quietly(lambda: torch.export.export(model, (torch.randn(5, 4),), dynamic_shapes=({0: batch},)))
    plan = plan_of(program, name="net")
    assert plan.program.graph.inputs[0].shape == [-1, 4]
    assert set(plan.named_state()) == set(model.state_dict())
    pointer = plan.send(bob)
    for rows in (1, 3, 7):
        x = torch.randn(rows, 4)
        assert torch.equal(pointer(x.send(bob)).get(), model(x))


def test_exported_programs_with_keywords_and_nests(bob: Worker) -> None:
    class Both(nn.Module):
        def forward(self, pair: tuple[Tensor, Tensor], *, scale: dict[str, Tensor]) -> dict[str, Tensor]:
            return {"sum": (pair[0] + pair[1]) * scale["by"]}

    args, kwargs = ((torch.ones(2), torch.ones(2)),), {"scale": {"by": torch.tensor(2.0)}}
    plan = plan_of(_quietly(lambda: torch.export.export(Both(), args, kwargs)))
    assert plan(*args, **kwargs)["sum"].tolist() == [4.0, 4.0]


@pytest.mark.parametrize("make", ["script", "trace"])
def test_torchscript(make: str, model: nn.Module, bob: Worker) -> None:
    x = torch.randn(3, 4)
    program = _quietly(torch.jit.script, model) if make == "script" else _quietly(torch.jit.trace, model, x)
    plan = plan_of(program, x)
    assert torch.equal(plan.send(bob)(x.send(bob)).get(), model(x))
    assert set(plan.named_state()) == set(model.state_dict())


def test_plain_modules_and_functions(model: nn.Module, bob: Worker) -> None:
    plan = plan_of(model, args_shape=[(-1, 4)])
    x = torch.randn(2, 4)
    assert torch.equal(plan.send(bob)(x.send(bob)).get(), model(x))
    assert plan_of(torch.sin, x)(x).equal(torch.sin(x))


def test_what_is_no_program() -> None:
    with pytest.raises(PlanError, match="A int is no program"):
        plan_of(1)
    program = _quietly(lambda: torch.export.export(nn.Linear(1, 1), (torch.ones(1, 1),)))
    with pytest.raises(PlanError, match="has its shapes already"):
        plan_of(program, torch.ones(1, 1))
