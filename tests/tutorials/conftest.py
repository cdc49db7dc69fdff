"""Programs as users of the tutorials write them, one file for each row of the tutorials.

Each test makes its workers by the names the tutorials use, as a program of its own would. The fixture below gives every
test a world without workers and puts the old one back afterwards.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import sharetorch as sy
from sharetorch.remote.worker import known_workers


@pytest.fixture(autouse=True)
def world_of_its_own() -> Iterator[None]:
    """No worker but the local one; those that other tests made come back at the end."""
    before = _others()
    for worker in before:
        worker.remove_worker_from_local_worker_registry()
    yield
    for worker in _others():
        worker.remove_worker_from_local_worker_registry()
    for worker in before:
        worker.enter_local_worker_registry()


def _others() -> list[sy.VirtualWorker]:
    return [worker for worker in known_workers().values() if worker is not sy.local_worker]


@pytest.fixture
def assert_close() -> Callable[..., None]:
    """Compare two tensors of the same shape within a stated bound."""

    def compare(found: Tensor, expected: Tensor, bound: float) -> None:
        assert found.shape == expected.shape
        assert (found.detach() - expected.detach()).abs().max() <= bound

    return compare


@pytest.fixture
def assert_same_models() -> Callable[[nn.Module, nn.Module], None]:
    """Compare all parameters of two models, bit for bit."""

    def compare(one: nn.Module, other: nn.Module) -> None:
        for (name, ours), theirs in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs), name

    return compare
