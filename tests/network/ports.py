"""Ports for servers that tests start, which nothing else takes between the choice and the start."""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import ExitStack, suppress

FIRST, LAST = 20_500, 32_500
"""Below the ports that Linux gives to outgoing connections, above those of well-known services."""
RUNS = 16
"""Parts of the range: pytest's workers choose from parts of their own."""

_EACH = (LAST - FIRST) // RUNS
_part = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % RUNS
_offsets = itertools.count(os.getpid() * 7)


def free_port() -> int:
    """A port nobody has, which no other call of this process gives soon."""
    return free_ports(1)


def free_ports(count: int) -> int:
    """The first of ``count`` ports in a row that nobody has."""
    for _ in range(_EACH):
        offset = next(_offsets) % _EACH
        for _ in range(count - 1):
            next(_offsets)
        start = FIRST + _part * _EACH + offset
        with ExitStack() as stack, suppress(OSError):
            for port in range(start, start + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return start
    raise OSError(f"None of the ports {FIRST + _part * _EACH} to {FIRST + (_part + 1) * _EACH} is free.")
