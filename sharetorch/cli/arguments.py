"""Numbers and files on the command line: from text to a value, or an error that says what is wanted."""

from __future__ import annotations

import argparse
import math
from pathlib import Path


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) < 2**40:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def several(text: str) -> int:
    """A whole number of at least 2."""
    if not text.isascii() or not text.isdigit() or not 2 <= int(text) < 2**40:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no whole number of at least 2; a sum of one client would be its update"
        )
    return int(text)


def seed(text: str) -> int:
    """A whole number below 2^63."""
    if not text.isascii() or not text.isdigit() or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 to 2**63 - 1")
    return int(text)


def number(text: str) -> float:
    """A finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return value


def positive(text: str) -> float:
    """A number above 0."""
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def not_negative(text: str) -> float:
    """A number of at least 0."""
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def part(text: str) -> float:
    """A number from 0 to 1, 1 excluded."""
    value = number(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no part of the clients: at least 0 and below 1, such as 0.3")
    return value


def output(text: str) -> Path:
    """A file that may be written."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text} cannot be written: name a file in a folder that is there")
    return path


def model_file(text: str) -> Path:
    """A file for a model."""
    if not text.endswith(".safetensors"):
        raise argparse.ArgumentTypeError(f"{text} does not end in .safetensors, the form in which models are written")
    return output(text)
