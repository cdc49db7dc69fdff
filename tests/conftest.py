"""Settings of all tests."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def same_public_numbers() -> None:
    """Models and data drawn from torch's generator are the same in any order of tests; shares never are."""
    torch.manual_seed(20)
