"""docs/reference/errors.md lists every error, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from sharetorch.mpc import errors

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "errors.md"


def test_every_error_is_in_the_catalogue() -> None:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    kinds -= {"ShareTorchError"}
    cells = "".join(line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("|"))
    assert set(re.findall(r"`(\w+)`", cells)) == kinds


def test_bases_are_as_said() -> None:
    lines = PAGE.read_text().splitlines()
    rows = [line.split("|") for line in lines if line.startswith("| `") and line.count("|") == 5]
    assert len(rows) >= 15
    for _, name, base, *_ in rows:
        for other in re.findall(r"`(\w+)`", base):
            kind = vars(errors).get(other) or getattr(__builtins__, other, None) or __builtins__[other]
            assert issubclass(vars(errors)[name.strip(" `")], kind)
