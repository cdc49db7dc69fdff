"""The contract between the two runtimes: the same programs, the same results, the same rounds and bytes.

Every operation of the command table is run by virtual workers and by worker processes over TLS, with every protocol and
number of parties it takes. What is counted must be equal to the byte. Results are equal up to the rounding that the
truncation's randomness decides: a few units of the encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sharetorch as st
from sharetorch.fl.privacy import noised
from sharetorch.mpc import operations
from sharetorch.mpc.cost import Traffic
from sharetorch.mpc.protocols.suite import SUITES
from sharetorch.mpc.tensor.shared import SharedTensor
from tests.network.tools import connected_group

PARTIES = ("alice", "bob", "carol", "dave")
PROVIDER = "crypto_provider"
UNIT = 2.0**-16

Share = Callable[..., Any]


def _numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(-32, 33, shape, generator=torch.Generator().manual_seed(seed)) / 8


def _products(share: Share) -> list[Any]:
    x, y, w = share(_numbers(4, 6)), share(_numbers(4, 6, seed=1)), share(_numbers(6, 3, seed=2))
    return [x * y, x @ w, x * 3, x @ torch.ones(6, 2), (x * y) @ w, -x, x - y, x + 1.5, torch.einsum("ij,ij->i", x, y)]


def _shapes(share: Share) -> list[Any]:
    x = share(_numbers(4, 6))
    y = x.clone()
    y[1:3] = x[:2] * 2
    y += x
    return [x.t(), x[1:, ::2], torch.cat([x, y]), x.sum(0), x.mean(), y, x.view(2, 12).flip(1), x[torch.tensor([2, 0])]]


def _convolutions(share: Share) -> list[Any]:
    x, w = share(_numbers(2, 3, 8, 8)), share(_numbers(4, 3, 3, 3, seed=1))
    v, u = share(_numbers(2, 4, 9)), share(_numbers(4, 2, 3, seed=2))
    public = _numbers(4, 3, 3, 3)
    return [F.conv2d(x, w, padding=1, stride=2), F.conv1d(v, u, groups=2), F.conv2d(x, public), F.avg_pool2d(x, 2)]


def _integers(share: Share) -> list[Any]:
    x = share(torch.arange(-5, 7).reshape(3, 4))
    return [x * x, x + 2, x.sum(1), x.cumsum(0)]


def _comparisons(share: Share) -> list[Any]:
    x, y = share(_numbers(5, 4)), share(_numbers(5, 4, seed=3))
    return [x > y, x >= 0, x == y, x.relu(), x.abs(), x.clamp(-1, 1), torch.where(x > y, x, y), x.sign()]


def _extremes(share: Share) -> list[Any]:
    x = share(torch.randperm(60, generator=torch.Generator().manual_seed(1)).reshape(3, 20) / 8)
    image = share(_numbers(1, 2, 6, 6))
    return [*x.max(1), x.argmin(), x.min(), F.max_pool2d(image, 2), x.argmax(dim=0)]


def _orders(share: Share) -> list[Any]:
    x = share(torch.randperm(20, generator=torch.Generator().manual_seed(1)).reshape(5, 4) / 8).requires_grad_(True)
    first = x.topk(2, 0)
    (first.values * 2).sum().backward()
    buckets = torch.bucketize(x.detach(), torch.tensor([0.5, 1.0, 2.0]))
    return [*x.sort(1), *first, x.grad, x.argsort(dim=0, stable=True), x.kthvalue(2).values, x.median(), buckets]


def _functions(share: Share) -> list[Any]:
    x, y = share(_numbers(6).abs() + 1), share(_numbers(6, seed=1).abs() + 1)
    return [1 / x, x / y, x.sqrt(), x.rsqrt()]


def _truncations(share: Share) -> list[Any]:
    x = share(_numbers(6), truncation="exact")
    return [x * x, x / 4, x / 3]


def _layers(share: Share) -> list[Any]:
    x, w, b = share(_numbers(4, 6)), share(_numbers(3, 6, seed=2)), share(_numbers(3, seed=3))
    return [F.linear(x, w, b).relu()]


def _training(share: Share) -> list[Any]:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3))
    share(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = share(_numbers(4, 1, 8, 8)), share(_numbers(4, 3, seed=5))
    for _ in range(2):
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
    return [loss, *model.parameters()]


def _refreshed(share: Share) -> list[Any]:
    x = share(_numbers(3))
    return [x.refresh(), x.copy()]


def _noise(share: Share) -> list[Any]:
    """Of a variance so small that it is zero but once in 10^13."""
    x = share(_numbers(3))
    return [noised(x, Fraction(1, 64))]


LOCAL_OR_PRODUCTS = (_products, _shapes, _convolutions, _integers, _refreshed, _noise)
ALL = (*LOCAL_OR_PRODUCTS, _comparisons, _extremes, _orders, _functions, _truncations, _layers, _training)
CASES = [
    *((program, 2, protocol) for protocol in SUITES if protocol != "plaintext" for program in ALL),
    *((program, 3, "tables") for program in ALL),
    *((program, 4, "tables") for program in LOCAL_OR_PRODUCTS),
]
TOLERANCE = {_training: 64 * UNIT, _functions: 64 * UNIT}


@pytest.fixture(scope="module")
def networked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """Four parties and a provider, each a process, connected."""
    with connected_group(tmp_path_factory.mktemp("keys"), *PARTIES, PROVIDER) as made:
        yield made


@pytest.fixture(scope="module")
def virtual() -> list[Any]:
    return [st.VirtualWorker(id=f"contract {name}") for name in (*PARTIES, PROVIDER)]


def _run(workers: list[Any], program: Any, count: int, protocol: str) -> tuple[list[Any], dict[str, Traffic]]:
    """Results, and what each operation cost."""

    def share(x: Any, **options: Any) -> Any:
        return x.share(*workers[:count], crypto_provider=workers[-1], protocol=protocol, **options)

    session = share(torch.zeros(1)).session
    with session.costs.listen() as heard:
        opened = [part.detach().get() if isinstance(part, SharedTensor) else part for part in program(share)]
    return opened, {name: record.traffic for name, record in heard.by_operation.items()}


@pytest.mark.parametrize(
    ("program", "count", "protocol"), CASES, ids=lambda part: getattr(part, "__name__", str(part)).strip("_")
)
def test_both_runtimes_agree(
    virtual: list[Any], networked: list[Any], program: Any, count: int, protocol: str
) -> None:
    expected, declared = _run(virtual, program, count, protocol)
    found, counted = _run(networked, program, count, protocol)
    assert counted == declared
    tolerance = TOLERANCE.get(program, 8 * UNIT)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert (one - other).abs().max() <= tolerance if one.is_floating_point() else torch.equal(one, other)


def _run_prepared(workers: list[Any], program: Any) -> tuple[list[Any], dict[str, Traffic]]:
    """As ``_run`` for two parties by tables, prepared before."""

    def share(x: Any, **options: Any) -> Any:
        return x.share(*workers[:2], crypto_provider=workers[-1], protocol="tables", **options)

    session = share(torch.zeros(1)).session
    with session.costs.listen() as heard:
        prepared = session.prepare(lambda: program(share))
        with prepared:
            results = program(share)
        opened = [part.detach().get() if isinstance(part, SharedTensor) else part for part in results]
    return opened, {name: record.traffic for name, record in heard.by_operation.items()}


@pytest.mark.filterwarnings("error::sharetorch.mpc.tensor.preparing.PreparedUnusedWarning")
@pytest.mark.parametrize("program", ALL, ids=lambda part: part.__name__.strip("_"))
def test_both_runtimes_agree_on_what_is_prepared(virtual: list[Any], networked: list[Any], program: Any) -> None:
    expected, declared = _run_prepared(virtual, program)
    found, counted = _run_prepared(networked, program)
    assert counted == declared
    assert not any(traffic.offline for name, traffic in counted.items() if name != "prepare")
    tolerance = TOLERANCE.get(program, 8 * UNIT)
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        assert (one - other).abs().max() <= tolerance if one.is_floating_point() else torch.equal(one, other)


def test_every_operation_of_the_table_is_covered(virtual: list[Any]) -> None:
    names: set[str] = set()
    for program, count, protocol in CASES:
        names |= set(_run(virtual, program, count, protocol)[1])
    assert set(operations.OPERATIONS) - names == {"check_range"}  # st.debug(), which workers refuse
