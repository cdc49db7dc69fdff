"""What the commands print: for people, or one JSON object for programs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, TypeAlias

from sharetorch.mpc.errors import ShareTorchError

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


class Raw(argparse.RawDescriptionHelpFormatter):
    """Help whose examples keep their lines."""


def command(commands: Commands, name: str, summary: str, description: str, examples: str) -> argparse.ArgumentParser:
    """Add a command, with ``--json``."""
    found = commands.add_parser(
        name, help=summary, description=description, epilog=f"examples:\n{examples}", formatter_class=Raw
    )
    found.add_argument("--json", action="store_true", help="print JSON for programs")
    return found


def show(text: str, content: dict[str, Any], as_json: bool) -> None:
    """Print a result, in one form or the other."""
    print((json.dumps(content) if as_json else text) + "\n", end="", flush=True)  # one write: ranks share a terminal


def fail(error: ShareTorchError, as_json: bool) -> int:
    """Print an error.

    Returns:
        The exit code.
    """
    if as_json:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}), flush=True)
    else:
        print(f"sharetorch: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return 1
