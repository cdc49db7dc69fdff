"""The code on the pages runs as it stands, and prints what the pages say."""

import contextlib
import io
import linecache
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sharetorch.mpc.protocols.suite import SUITES
from sharetorch.mpc.tensor.shared import RULES
from tests.docs.pages import ROOT, pages, snippets

PAGES = [ROOT / "README.md", *(page for page in pages() if snippets(page.read_text(encoding="utf-8")))]


@pytest.fixture(autouse=True)
def tables() -> Iterator[None]:
    """What a page registers lives no longer than the page."""
    saved = [(table, dict(table)) for table in (RULES, SUITES)]
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)
    for table, content in saved:
        table.clear()
        table.update(content)


def run(code: str, page: Path, line: int, namespace: dict[str, Any]) -> str:
    """Execute a block as if it stood in the page; give what it prints."""
    padded = "\n" * (line - 1) + code
    name = str(page)
    linecache.cache[name] = (len(padded), None, padded.splitlines(keepends=True), name)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(padded, name, "exec"), namespace)
    return printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_snippets_run_and_print_what_the_page_says(page: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "snippet"}
    found = snippets(page.read_text(encoding="utf-8"))
    assert found
    for snippet in found:
        printed = run(snippet.code, page, snippet.line, namespace)
        if snippet.output is not None:
            lines = [line.rstrip() for line in printed.strip().splitlines()]
            assert lines == [line.rstrip() for line in snippet.output.strip().splitlines()], f"{page}:{snippet.line}"


def test_tutorials_have_snippets_with_outputs() -> None:
    tutorials = [page for page in PAGES if page.parent.name == "start"]
    assert len(tutorials) == 3
    assert all(any(snippet.output for snippet in snippets(page.read_text(encoding="utf-8"))) for page in tutorials)
