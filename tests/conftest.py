"""Settings of all tests."""

from __future__ import annotations

import pytest
import torch

WHOLE_RUNS = ("network/test_frontend.py", "tensor/test_more_parties.py")
"""Tests of minutes, begun first: other workers do the rest meanwhile."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Names of tests must be the same in every process: an address in one of them stops parallel runs."""
    wrong = [item.nodeid for item in items if " at 0x" in item.nodeid]
    if wrong:
        raise pytest.UsageError(f"These tests have an address in their names; give them ids: {wrong[:3]}")
    items.sort(key=lambda item: not any(name in item.nodeid for name in WHOLE_RUNS))


@pytest.fixture(autouse=True)
def same_public_numbers() -> None:
    """Models and data drawn from torch's generator are the same in any order of tests; shares never are."""
    torch.manual_seed(20)
