"""Arguments of the added methods: what stands for what is left out, and what changes nothing here."""

from __future__ import annotations

from typing import Any

from sharetorch.mpc.errors import UnsupportedOperationError
from sharetorch.mpc.tensor import sharing
from sharetorch.remote.worker import local

local_worker = local()
"""The driver itself."""

_SEND_WITHOUT_EFFECT = ("local_autograd", "preinitialize_grad", "no_wrap")


def provider(chosen: Any) -> Any:
    """The crypto provider; the driver, with a warning, if none was named."""
    if chosen is None:
        sharing.warn_driver_provides(local_worker.id)
        return local_worker
    return chosen


def for_share(options: dict[str, Any]) -> dict[str, Any]:
    """Options of ``share`` without those of the tutorials that change nothing here.

    Raises:
        UnsupportedOperationError: shares of another size.
    """
    options = {name: value for name, value in options.items() if name != "no_wrap"}
    dtype = options.pop("dtype", "long")
    if dtype not in ("long", "custom"):
        raise UnsupportedOperationError(
            f"dtype={dtype!r} is not available: shares have 64 bits; leave it out or use field=."
        )
    return options


def for_send(options: dict[str, Any]) -> dict[str, Any]:
    """Options of ``send`` without those of the tutorials that change nothing here."""
    return {name: value for name, value in options.items() if name not in _SEND_WITHOUT_EFFECT}
