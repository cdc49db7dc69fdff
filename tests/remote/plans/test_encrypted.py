"""Plans with shared state on shared data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import sharetorch as st
from sharetorch.remote.plans import Plan, func2plan

Worker = st.VirtualWorker


class Net(Plan):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(4, 3)
        self.fc2 = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)))


@pytest.fixture
def parties(alice: Worker, bob: Worker, carol: Worker) -> dict[str, Any]:
    return {"workers": (alice, bob), "crypto_provider": carol}


def _share(x: Any, parties: dict[str, Any]) -> Any:
    return x.share(*parties["workers"], crypto_provider=parties["crypto_provider"])


def test_fixed_precision_and_shares(parties: dict[str, Any]) -> None:
    net = Net().build(args_shape=[(-1, 4)])
    x = torch.randn(3, 4)
    expected = net(x).detach()
    parameters = list(net.parameters())
    assert _share(net.fix_precision(), parties) is net
    assert all(mine is theirs for mine, theirs in zip(net.parameters(), parameters, strict=True))
    result = net(_share(x.fix_precision(), parties))  # type: ignore[attr-defined]
    assert isinstance(result, st.AdditiveSharingTensor)
    assert torch.allclose(result.get().float_precision(), expected, atol=0.02)
    del result  # its graph holds the parameters
    net.get().float_precision()
    assert torch.allclose(net(x), expected, atol=0.01)


def test_an_encrypted_plan_is_fetched_and_run(parties: dict[str, Any], james: Worker) -> None:
    @func2plan(args_shape=[(-1, 2)], state=(torch.tensor([1.0, -2.0]),))
    def multiply(x: Tensor, state: Any) -> Tensor:
        return (x * state.read()[0]).relu()

    _share(multiply.fix_precision(), parties)
    pointer = multiply.send(james)
    del multiply
    fetched = pointer.get()
    x = _share(torch.tensor([[2.0, -3.0], [-4.0, 5.0]]).fix_precision(), parties)  # type: ignore[attr-defined]
    expected = torch.tensor([[2.0, 6.0], [0.0, 0.0]])
    assert torch.allclose(fetched(x).get().float_precision(), expected, atol=0.01)


def test_a_worker_runs_an_encrypted_plan(parties: dict[str, Any], james: Worker) -> None:
    plan = _share(
        Plan("scale", lambda x, state: x * state.read()[0], state=[torch.tensor([3.0])]).build(torch.ones(2)), parties
    )
    pointer = plan.send(james)
    shared = (
        torch.tensor([1.0, -2.0]).send(james).share(*parties["workers"], crypto_provider=parties["crypto_provider"])
    )  # type: ignore[attr-defined]
    assert torch.allclose(pointer(shared).get().get(), torch.tensor([3.0, -6.0]), atol=0.01)


class Images(Plan):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2).eval()
        self.full = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        return self.full(F.adaptive_avg_pool2d(x, 1).flatten(1)).argmax(1)


def test_networks_for_images(parties: dict[str, Any]) -> None:
    net = Images().build(args_shape=[(-1, 1, 6, 6)])
    x = torch.randn(2, 1, 6, 6)
    expected = net(x)
    _share(net, parties)
    assert torch.equal(net(_share(x, parties)).get(), expected)


def test_public_plans_on_shared_data(parties: dict[str, Any]) -> None:
    plan = Plan("line", lambda x: x * torch.tensor([2.0, 3.0]) + 1).build(torch.ones(2))
    assert torch.allclose(plan(_share(torch.tensor([1.0, -1.0]), parties)).get(), torch.tensor([3.0, -2.0]), atol=1e-3)
