"""The documentation as the tests read it: its pages, and the code blocks in them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Snippet(NamedTuple):
    """A block of Python, the line it begins at, and what it must print: None if the page does not say."""

    code: str
    line: int
    output: str | None


def pages() -> list[Path]:
    """Every page, without what was built."""
    return sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)


def snippets(text: str) -> list[Snippet]:
    """The blocks marked ``python``; a block marked ``text`` that follows one directly is its output."""
    found: list[Snippet] = []
    end = -1
    for match in _BLOCK.finditer(text):
        language, body = match.groups()
        if language == "python":
            found.append(Snippet(body, text[: match.start()].count("\n") + 2, None))
            end = match.end()
        elif language == "text" and found and not text[end : match.start()].strip():
            found[-1] = found[-1]._replace(output=body)
    return found
