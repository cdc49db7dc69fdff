"""Operations are put down to the module, the pass and the line that ask for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sharetorch as st
from tests.tensor.tools import ALICE, BOB, PROVIDER, eighths, share


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x: Any) -> Any:
        return self.inner(x) * x


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = Block(3)
        self.second = Block(3)
        self.gate = nn.ReLU()

    def forward(self, x: Any) -> Any:
        return self.gate(self.second(self.first(x) * 0.5))


def shared(model: nn.Module) -> Any:
    return model.share(ALICE, BOB, crypto_provider=PROVIDER)


def calls(p: st.Profile, **options: Any) -> dict[str, int]:
    return {row.name: row.totals.calls for row in p.rows("module", **options)}


def test_forward_passes_by_module() -> None:
    model, x = shared(Net()), share(eighths(2, 3))
    with st.profile() as p, torch.no_grad():
        y = model(x)
        y + y
    assert list(calls(p)) == [
        "Net.first.inner (Linear)", "Net.first (Block)", "Net", "Net.second.inner (Linear)", "Net.second (Block)",
        "Net.gate (ReLU)", "(no module)",
    ]  # fmt: skip
    assert set(calls(p, depth=2)) == {"Net.first", "Net", "Net.second", "Net.gate", "(no module)"}
    assert set(calls(p, depth=1)) == {"Net", "(no module)"}


def test_backward_passes_by_the_module_that_made_the_node() -> None:
    model, x = shared(Net()), share(eighths(2, 3))
    loss = (model(x) ** 2).sum()
    with st.profile() as p:
        loss.backward()
    assert "(no module) backward" in calls(p)
    assert all(name.startswith("(no module)") for name in calls(p)), "the forward pass was not followed"
    with st.profile() as p:
        for _ in range(2):
            (model(x) ** 2).sum().backward()
    found = calls(p)
    for name in ("Net.first.inner (Linear)", "Net.first (Block)", "Net", "Net.second (Block)", "Net.gate (ReLU)"):
        assert f"{name} backward" in found
    assert found["Net.gate (ReLU) backward"] == 2, "one product for each step"
    assert {"(no module)", "(no module) backward"} <= set(found), "the square"


def test_adding_up_gradients_belongs_to_the_module_that_owns_the_parameter() -> None:
    model, x = shared(nn.Sequential(nn.Linear(3, 2))), share(eighths(2, 3))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with st.profile() as p:
        model(x).sum().backward()
    added = [row.totals.calls for row in p.rows() if row.name == "write"]
    assert added == [2]
    rows = {key.place.name() for ear in p._ears for key in ear.groups if key.operation == "write"}
    assert rows == {"Sequential.0 (Linear)"}


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_steps_of_optimizers(kind: Any) -> None:
    model, x = shared(nn.Linear(3, 2)), share(eighths(2, 3))
    optimizer = kind(model.parameters(), lr=0.125)
    with st.profile() as p:
        model(x).sum().backward()
        optimizer.step()
    assert f"{kind.__name__}.step" in calls(p)


def test_a_step_that_fails_is_over() -> None:
    class Failing(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            x + x
            raise ZeroDivisionError

    x = share(torch.ones(2))
    optimizer = Failing([torch.zeros(1, requires_grad=True)], lr=0.1)
    with st.profile() as p:
        with pytest.raises(ZeroDivisionError):
            optimizer.step()
        x + x
    assert calls(p) == {"Failing.step": 1, "(no module)": 1}


def test_a_closure_is_inside_of_its_step() -> None:
    x = share(torch.ones(2))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    layer = nn.Identity()
    with st.profile() as p:

        def closure() -> float:
            layer(x) + x
            return 0.0

        optimizer.step(closure)
    assert calls(p) == {"SGD.step": 1}


def test_a_module_that_fails_is_over() -> None:
    class Failing(nn.Module):
        def forward(self, x: Any) -> Any:
            x + x
            raise ZeroDivisionError

    x = share(torch.ones(2))
    with st.profile() as p:
        with pytest.raises(ZeroDivisionError):
            Failing()(x)
        x + x
    assert calls(p) == {"Failing": 1, "(no module)": 1}


def test_modules_that_are_not_below_the_one_called_get_its_name_too() -> None:
    class Caller(nn.Module):
        def forward(self, x: Any) -> Any:
            return nn.ReLU()(x)

    with st.profile() as p:
        y = Caller()(share(torch.ones(2)))
    assert y.get().tolist() == [1.0, 1.0]
    assert "Caller.ReLU" in calls(p)


def test_two_models_of_one_class_are_told_apart() -> None:
    x, models = share(eighths(2, 3)), [shared(nn.Linear(3, 2)) for _ in range(2)]
    with st.profile() as p, torch.no_grad():
        for _ in range(2):
            for model in models:
                model(x)
    found = calls(p)
    assert set(found) == {"Linear", "Linear#2"}
    assert found["Linear"] == found["Linear#2"]


def test_checkpoints_run_modules_under_their_own_names() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            return checkpoint(self.block, x, use_reentrant=False)

    model, x = shared(Checkpointed()), share(eighths(2, 3)).requires_grad_()
    with st.profile() as p:
        model(x).sum().backward()
    assert {"Checkpointed.block (Linear)", "Checkpointed.block (Linear) backward"} <= set(calls(p))
    assert not any(name.startswith("Linear") for name in calls(p))


def test_a_profile_that_begins_inside_of_a_module() -> None:
    class Profiling(nn.Module):
        def forward(self, x: Any) -> Any:
            with st.profile() as self.p:
                return nn.Identity()(x) + x

    model = Profiling()
    model(share(torch.ones(2)))
    assert calls(model.p) == {"(no module)": 1}


def test_lines_of_the_program() -> None:
    x = share(torch.ones(2))
    with st.profile() as p:
        x + x
        _add(x)
        _add(x)
    names = [(row.name.partition(":")[0], row.name.rpartition(" ")[2], row.totals.calls) for row in p.rows("line")]
    here = "test_profile_places.py"
    assert names == [(here, "(test_lines_of_the_program)", 1), (here, "(_add)", 2)]


def _add(x: Any) -> Any:
    return x + x
