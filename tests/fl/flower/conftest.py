"""Flower is optional, and imports what warns of itself."""

import os
import warnings

import pytest

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"

pytest.importorskip("flwr")
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # of click, in typer
    import flwr.serverapp  # noqa: F401
    import flwr.simulation  # noqa: F401
