"""Events of a worker on standard error: a line each, for people or as JSON.

An event is a name and a few public facts: ids, addresses, names of errors. Values, shares and keys are none of them.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

_LOGGER = logging.getLogger("sharetorch")
"""The modules of the package log below it."""


class _Form(logging.Formatter):
    def __init__(self, worker: str, as_json: bool) -> None:
        super().__init__()
        self._worker = worker
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        facts: dict[str, Any] = getattr(record, "facts", {})
        if self._as_json:
            head = {
                "time": when,
                "level": record.levelname.lower(),
                "worker": self._worker,
                "event": record.getMessage(),
            }
            return json.dumps(head | facts, default=str)
        rest = "".join(f" {key}={_word(value)}" for key, value in facts.items())
        return f"{when} {record.levelname.lower():7} {self._worker} {_line(record.getMessage())}{rest}"


def _line(text: str) -> str:
    """A text without line ends and control characters: others must not be able to write lines into the log."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def _word(value: Any) -> str:
    """A value in one piece."""
    text = str(value)
    return text if text.isprintable() and text and not any(sign in text for sign in ' "=') else json.dumps(text)


def start(worker: str, level: str, as_json: bool) -> None:
    """Write events of this process from now on.

    Args:
        worker: id that every line bears.
        level: the least severe that are written: "debug", "info", "warning" or "error".
        as_json: one JSON object per line.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Form(worker, as_json))
    _LOGGER.handlers[:] = [handler]
    _LOGGER.setLevel(level.upper())
    _LOGGER.propagate = False


def log(level: str, event: str, **facts: Any) -> None:
    """Write an event with public facts about it."""
    _LOGGER.log(logging.getLevelNamesMapping()[level.upper()], event, extra={"facts": facts})
