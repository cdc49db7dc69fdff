"""The user's line, for error messages: the innermost frame outside of torch and of this package."""

from __future__ import annotations

import inspect
import linecache
from pathlib import Path

_PACKAGES = ("sharetorch.", "torch.")


def user_line() -> str:
    """Text such as " (train.py, line 12: y = x.exp())", or nothing if no line of the user's is on the stack."""
    frame = inspect.currentframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        code = frame.f_code
        if not f"{module}.".startswith(_PACKAGES) and not code.co_filename.startswith("<frozen"):
            line = linecache.getline(code.co_filename, frame.f_lineno).strip()
            return f" ({Path(code.co_filename).name}, line {frame.f_lineno}: {line})"
        frame = frame.f_back
    return ""
