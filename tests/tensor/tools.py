"""Workers, exact inputs and comparisons for tests of the frontend."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

import sharetorch as st
from sharetorch.mpc.tensor import sharing


def _workers() -> list[Any]:
    """Workers of this process; or those of the group file that the environment names: tests/network runs us so."""
    group = os.environ.get("SHARETORCH_TEST_PARTIES")
    if group is None:
        return [st.VirtualWorker(id=name) for name in ("alice", "bob", "carol", "dave", "eve", "crypto_provider")]
    parties, provider = st.load_group(group).connect()
    return [*parties, provider]


WORKERS = ALICE, BOB, CAROL, DAVE, *_EVE, PROVIDER = _workers()

HOLDERS = WORKERS[: int(os.environ.get("SHARETORCH_TEST_HOLDERS", "2"))]
"""Who holds shares: two, or as many as tests/tensor/test_more_parties.py asks for."""

UNIT = 2.0**-16
"""One unit of the default encoding."""


def share(x: Tensor, **options: Any) -> Any:
    """Share with those who hold shares."""
    return x.share(*HOLDERS, crypto_provider=PROVIDER, **options)


def eighths(*shape: int, seed: int = 0, limit: int = 4) -> Tensor:
    """Multiples of 1/8 in [-limit, limit]: they and their products are exact in 16 bits."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8 * limit, 8 * limit + 1, shape, generator=generator) / 8


def integers(*shape: int, seed: int = 0, limit: int = 9) -> Tensor:
    """Integers in [-limit, limit]."""
    return torch.randint(-limit, limit + 1, shape, generator=torch.Generator().manual_seed(seed))


def opened(x: Any) -> Any:
    """Shared tensors opened, through tuples, lists and pairs of values and indices."""
    if isinstance(x, st.SharedTensor):
        return x.detach().get()
    if isinstance(x, (tuple, list)):
        return [opened(part) for part in x]
    if isinstance(x, Tensor):
        return x.detach()
    if hasattr(x, "values") and hasattr(x, "indices"):
        return [opened(x.values), opened(x.indices)]
    return x


def has_shared(x: Any) -> bool:
    """Whether any part of a result is shared."""
    if isinstance(x, (tuple, list)):
        return any(has_shared(part) for part in x)
    if hasattr(x, "values") and hasattr(x, "indices") and not isinstance(x, Tensor):
        return has_shared(x.values)
    return isinstance(x, st.SharedTensor)


def assert_same(actual: Any, expected: Any, bound: float = 0.0) -> None:
    """Equal shapes, equal kinds of number, and values within ``bound``."""
    actual, expected = opened(actual), opened(expected)
    if isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other, bound)
        return
    if not isinstance(expected, Tensor):
        assert actual == expected
        return
    assert actual.shape == expected.shape
    assert actual.dtype.is_floating_point == expected.dtype.is_floating_point
    if actual.numel():
        worst = (actual.double() - expected.double()).abs().max().item()
        assert worst <= bound, f"off by {worst}, {worst / UNIT:.2f} units"


def objects() -> list[int]:
    """How many objects each worker holds; or each session, where workers are other processes."""
    if isinstance(ALICE, st.NetworkedWorker):
        return [getattr(session, "live", 0) for session in sharing.sessions._open.values()]
    return [len(worker._objects) for worker in WORKERS]
