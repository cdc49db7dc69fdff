"""Federations that tests run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fl.deployment.federations import Place


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., Place]:
    """A place for clients of these names."""
    return lambda *ids: Place.made(tmp_path, *(ids or ("dep_a", "dep_b", "dep_c")))
